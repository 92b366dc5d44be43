"""Whether changes and models have one base: known fingerprints that differ are an error, other names a warning.

A language model with towers beside it, and the same alone, count as one base: every change must fit by name and shape.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from wsteer.errors import WsteerError

Identity = Mapping[str, str | None]  # a base as delta files name it: name, revision, fingerprint
Named = tuple[str, Identity]  # what an error calls a change or a model, and its base


def check_bases(named: Sequence[Named], advice: str) -> None:
    """Refuse bases whose fingerprints are known and differ, as arithmetic across bases has no meaning."""
    known = [(label, base) for label, base in named if base.get("fingerprint")]
    for label, base in known[1:]:
        first_label, first = known[0]
        if base["fingerprint"] != first["fingerprint"] and not beside_towers(base, first):
            raise WsteerError(
                f"{first_label} (of {first['name']}) and {label} (of {base['name']}) have different bases; {advice}"
            )


def beside_towers(first: Identity, second: Identity) -> bool:
    """Whether one of two known bases has towers and the other has none: they may hold the same language model."""
    known = first.get("fingerprint") and second.get("fingerprint")
    return bool(known) and bool(first.get("towers")) != bool(second.get("towers"))


class Based(Protocol):
    """A change that knows its kind and its base."""

    @property
    def kind(self) -> str: ...

    @property
    def base(self) -> Identity: ...


def check_alike(first: Based, second: Based, how: str) -> None:
    """Refuse arithmetic between activations and weights, and across bases that are known to differ."""
    if (first.kind == "activation") != (second.kind == "activation"):
        raise WsteerError(f"an activation vector and a change of weights cannot be {how}; use two of one kind")
    check_bases([("one delta", first.base), ("the other", second.base)], "use deltas of one model")


def base_warnings(names: Iterable[str | None], doubt: str) -> tuple[str, ...]:
    """A warning, which ends in `doubt`, if the names differ; copies of a model may differ in folder, owner and case."""
    different = list({Path(name).name.lower(): name for name in names if name}.values())
    if len(different) < 2:
        return ()
    return (f"the named bases differ, {' and '.join(different)}: unless {doubt}",)
