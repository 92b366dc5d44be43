"""Deltas: changes of weights or activations, stored as files, and their algebra.

A delta maps each parameter to a sum of scaled terms; a term is a low-rank product or a dense tensor. Sums and multiples
only collect terms; numbers are computed when a parameter's rows are asked for, one block at a time.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from wsteer import __version__
from wsteer.checkpoints.checkpoint import EMBEDDINGS, HEADS, UNKNOWN_BASE, Checkpoint, base_entry
from wsteer.checkpoints.names import (
    BLOCK,
    NUMBERED,
    block_path,
    file_names,
    known_names,
    layer_of,
    likely_path,
    scattered_names,
)
from wsteer.deltas.bases import check_alike
from wsteer.deltas.choosing import check_layers, in_layers
from wsteer.deltas.gram import cosine_from_gram, gram
from wsteer.deltas.terms import (
    Change,
    Dense,
    FromBase,
    LowRank,
    Term,
    Terms,
    check_sources,
    check_written,
    is_low_rank,
    rows_of_terms,
    simplified,
)
from wsteer.errors import WsteerError
from wsteer.files.saving import check_free_space, new_file
from wsteer.files.tensors import FLOATS, TensorEntry, TensorWriter, read_header, row_blocks
from wsteer.files.text import parse_json
from wsteer.progress import Progress, silent

FORMAT = 1
KINDS = ("contrastive", "task_vector", "combination", "activation")


@dataclass(frozen=True)
class Delta:
    """A change of weights (or, for kind `activation`, of the residual stream), as in a delta file.

    >>> import torch
    >>> from wsteer import Delta
    >>> w = Delta.of_tensors({"layer.weight": torch.tensor([[3.0, 0.0], [0.0, 4.0]])})
    >>> w.norm(), (2 * w - w).norm(), w.cosine(-1 * w)
    (5.0, 5.0, -1.0)
    """

    kind: str
    terms: Mapping[str, Terms]
    base: Mapping[str, str | None] = field(default_factory=lambda: UNKNOWN_BASE)
    sources: tuple[Mapping[str, object], ...] = ()
    layers: object = None
    positions: object = None
    options: Mapping[str, object] = field(default_factory=dict)
    untied: bool = False  # the head and the embedding, one tensor in the base, change separately
    blocks: str | None = None  # the path of the base's decoder blocks, as model.layers; None: told by the names

    def __post_init__(self) -> None:
        for name in self.terms:
            if name.endswith((".lora_A", ".lora_B")):  # a delta file would take it for a factor
                raise WsteerError(f"{name!r} names a factor, no parameter; give both factors to Delta.of_factors")

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor], kind: str = "task_vector") -> "Delta":
        """A dense delta from tensors in memory."""
        for name, tensor in tensors.items():
            if tensor.is_complex():
                raise WsteerError(f"{name} is complex ({tensor.dtype}); a change of weights is made of real numbers")
        return Delta(kind, {name: ((1.0, Dense(tensor)),) for name, tensor in tensors.items()})

    @staticmethod
    def of_factors(factors: Mapping[str, tuple[Tensor, Tensor]]) -> "Delta":
        """A low-rank delta from (lora_B [out, r], lora_A [r, in]) of each parameter, with scales folded in."""
        return Delta("task_vector", {name: ((1.0, LowRank(b, a)),) for name, (b, a) in factors.items()})

    @staticmethod
    def load(path: str | Path) -> "Delta":
        """Open a delta file: read and check its header; tensors are read later, when they are needed."""
        if Path(path).is_dir():
            raise WsteerError(
                f"{path} is a folder, not a delta file; of an adapter make one: wsteer diff {path} -o FILE"
            )
        entries, metadata = read_header(Path(path))
        info = _parse_info(Path(path), metadata)
        return Delta(
            info["kind"],
            _parse_terms(Path(path), info["kind"], entries),
            base={**UNKNOWN_BASE, **info["base"]},
            sources=tuple(info["sources"]),
            layers=info.get("layers"),
            positions="response" if info.get("positions") == "answer" else info.get("positions"),  # its old name
            options=info["options"],
            untied=info["untied"],
            blocks=info["blocks"],
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of parameter `name`."""
        return self.terms[name][0][1].shape

    def is_low_rank(self, name: str) -> bool:
        """Whether the change of parameter `name` consists only of products of factors."""
        return is_low_rank(self.terms[name])

    def rank(self, name: str) -> int:
        """The summed rank of the factors of parameter `name`."""
        return sum(term.lora_A.shape[0] for _, term in self.terms[name] if isinstance(term, LowRank))

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """(lora_B [out, r], lora_A [r, in]) of parameter `name`, whose change must be low-rank; float32, read here."""
        change = self.change(name)
        if change.factors is None or change.dense:
            raise AssertionError(f"the change of {name} is not low-rank")
        lora_B, lora_A = change.factors
        return lora_B, lora_A.contiguous()

    def change(self, name: str) -> Change:
        """The change of parameter `name` with its factors in memory (float32, concatenated along the rank)."""
        return Change.of(self.terms[name])

    def needing_base(self) -> list[str]:
        """The parameters whose change depends on the base's weights and is not `bound` to a base yet."""
        return [
            name
            for name, terms in self.terms.items()
            if any(isinstance(term, Dense) and isinstance(term.tensor, FromBase) for _, term in terms)
        ]

    def bound(self, base: Checkpoint) -> "Delta":
        """The delta with the terms that depend on the base's weights bound to `base`, which is read when needed."""

        def bind(term: Term) -> Term:
            return term.tensor.bound(base) if isinstance(term, Dense) and isinstance(term.tensor, FromBase) else term

        bound = {name: tuple((scale, bind(term)) for scale, term in terms) for name, terms in self.terms.items()}
        return replace(self, terms=bound)

    def select_layers(self, layers: Sequence[int] | None) -> "Delta":
        """The part of the delta in the given decoder blocks (0-based); None means all of it."""
        check_layers(self.terms, layers, self.blocks)
        return self.part(in_layers(self.terms, layers, self.blocks))

    def part(self, names: Collection[str]) -> "Delta":
        """The part of the delta in the parameters of these names."""
        kept = set(names)
        return replace(self, terms={name: terms for name, terms in self.terms.items() if name in kept})

    def scale_layers(self, first: float, last: float, depth: int) -> "Delta":
        """Each decoder block's change times a strength that is linear in depth, from `first` to `last` (LiNeS).

        Block l of `depth` is scaled by first + (last - first)·l / (depth - 1); parameters outside of the blocks by
        `first`. Changes scaled by 0 are left out.
        """
        scaled = {}
        blocks = self.blocks or likely_path(self.terms)
        for name, terms in self.terms.items():
            layer = layer_of(name, blocks)
            strength = first if layer is None else first + (last - first) * layer / max(depth - 1, 1)
            if strength != 0:
                scaled[name] = tuple((strength * scale, term) for scale, term in terms)
        if not scaled:
            raise WsteerError(f"--layer-scale {first:g}:{last:g} leaves nothing of the delta")
        return replace(self, terms=scaled)

    def __mul__(self, k: float) -> "Delta":
        scaled = {name: tuple((k * scale, term) for scale, term in terms) for name, terms in self.terms.items()}
        return replace(self, terms=scaled)

    __rmul__ = __mul__

    def __add__(self, other: "Delta") -> "Delta":
        check_alike(self, other, "added")
        terms = dict(self.terms)
        for name, added in other.terms.items():
            if name in terms and self.shape(name) != other.shape(name):
                raise WsteerError(
                    f"{name} has shape {self.shape(name)} on one side and {other.shape(name)} on the other; "
                    "the two come from different base models"
                )
            terms[name] = simplified(terms.get(name, ()) + added)
        _check_ties(self, other)
        kind = "activation" if self.kind == "activation" else "combination"
        return replace(
            self,
            kind=kind,
            terms={name: left for name, left in terms.items() if left},
            base=next((each.base for each in (self, other) if each.base.get("fingerprint")), self.base),
            sources=self.sources + other.sources,
            untied=self.untied or other.untied,
            blocks=self.blocks or other.blocks,
        )

    def __sub__(self, other: "Delta") -> "Delta":
        return self + -1.0 * other

    def norm(self) -> float:
        """The Frobenius norm of the whole change, in float64."""
        check_sources(*self.terms.values())
        return gram([self.terms])[0][0] ** 0.5

    def cosine(self, other: "Delta") -> float:
        """Cosine between two deltas, each as one long vector; a parameter that one delta lacks is zero in it."""
        check_alike(self, other, "compared")
        if not self.terms.keys() & other.terms.keys():
            raise WsteerError("the two deltas have no parameter in common; compare deltas of one model")
        check_sources(*self.terms.values(), *other.terms.values())
        return cosine_from_gram(gram([self.terms, other.terms]), 0, 1)

    def save(self, path: str | Path, force: bool = False, progress: Progress = silent) -> None:
        """Write the delta file: float32, sorted names, reproducible bytes, whole or not at all."""
        check_free_space(Path(path), self.stored_bytes)
        with new_file(Path(path), force) as partial:
            self.write(partial, progress)

    def write(self, path: Path, progress: Progress = silent) -> None:
        """Write the delta file at `path` itself, which another has made and will name."""
        shapes = dict(sorted(self.stored_shapes()))
        with TensorWriter(path, shapes, self.info()) as writer:
            for name in progress(list(shapes), "write"):
                writer.add(name, self._blocks(name))
            writer.finish(self.info())

    def stored_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The tensors that a file of this delta holds, with their shapes."""
        for name in self.terms:
            if self.is_low_rank(name):
                yield f"{name}.lora_A", (self.rank(name), self.shape(name)[1])
                yield f"{name}.lora_B", (self.shape(name)[0], self.rank(name))
            else:
                yield name, self.shape(name)

    @property
    def stored_bytes(self) -> int:
        """The bytes of these tensors, float32."""
        return 4 * sum(math.prod(shape) for _, shape in self.stored_shapes())

    def _blocks(self, stored: str) -> Iterator[Tensor]:
        if stored.endswith((".lora_A", ".lora_B")):
            lora_B, lora_A = self.factors(stored[: -len(".lora_A")])
            yield check_written(stored, lora_A if stored.endswith("A") else lora_B)
        else:
            change = self.change(stored)
            yield from (check_written(stored, change.rows(*block)) for block in row_blocks(change.shape))

    def info(self) -> str:
        """The metadata of a file of this delta."""
        info = {
            "format": FORMAT,
            "kind": self.kind,
            "base": dict(self.base),
            "sources": [dict(source) for source in self.sources],
            "layers": self.layers,
            "positions": self.positions,
            "options": dict(self.options),
            "untied": self.untied,
            "blocks": self.blocks,
            "wsteer_version": __version__,
        }
        return json.dumps(info, sort_keys=True, ensure_ascii=False, allow_nan=False)


def fitted(delta: Delta, checkpoint: Checkpoint, added: Mapping[str, tuple[int, ...]] | None = None) -> Delta:
    """The delta under the names of the checkpoint's files; refused if it does not fit. Only headers are read.

    A change needs a parameter of its shape, stored as floating-point numbers, or a tensor that steering adds to the
    checkpoint (`added`: their shapes). A head tied to the embedding counts as a parameter only if the delta unties it.
    """
    added = added or {}
    for name in delta.terms.keys() & added.keys():
        if delta.shape(name) != added[name]:
            raise WsteerError(f"{name} is {delta.shape(name)} in the delta; {checkpoint.name} needs {added[name]}")
    delta = _scattered(delta, [name for name in delta.terms if name not in added], checkpoint)
    names = file_names([name for name in delta.terms if name not in added], checkpoint, "the delta")
    for name, renamed in names.items():
        entry = base_entry(renamed, checkpoint)
        # no end of the model has a number: what the ends are called may have to be asked
        end = not NUMBERED.match(renamed) and not delta.untied and renamed in checkpoint.ends
        tied = checkpoint.tied if end else None
        if tied is not None and renamed == tied[1]:
            other = "head" if renamed == checkpoint.ends[0] else "embedding"
            raise WsteerError(
                f"{renamed} is tied to the {other} in {checkpoint.name}, and the delta does not untie it; "
                "use the model that it was made on"
            )
        if entry.dtype not in FLOATS:  # before the shape, which quantising may change
            raise WsteerError(f"{name} is stored as {entry.dtype} in {checkpoint.name}; use an unquantised checkpoint")
        if entry.shape != delta.shape(name):
            raise WsteerError(
                f"{name} is {entry.shape} in {checkpoint.name} but {delta.shape(name)} in the delta; "
                "use the model that it was made on"
            )
    moved = any(name != renamed for name, renamed in names.items())
    blocks = block_path(checkpoint) if moved else delta.blocks  # under other names they have another path
    return replace(delta, terms={names.get(name, name): terms for name, terms in delta.terms.items()}, blocks=blocks)


def _scattered(delta: Delta, names: Collection[str], checkpoint: Checkpoint) -> Delta:
    """The delta with parameters in memory, which it names, as rows of those tensors of the files that become them."""
    found = {} if known_names(names, checkpoint).keys() >= set(names) else scattered_names(names, checkpoint)
    terms = {name: whole for name, whole in delta.terms.items() if name not in found}
    for name, parts in found.items():
        for part in parts:
            rows = rows_of_terms(delta.terms[name], part, checkpoint.tensors[part.tensor].shape[0], "the delta")
            terms[part.tensor] = terms.get(part.tensor, ()) + rows
    return replace(delta, terms=terms) if found else delta


def _check_ties(first: Delta, second: Delta) -> None:
    """Refuse a sum where one side changes the tied embedding and the other unties it: the head's change is unclear."""
    if first.untied != second.untied:
        tied = second if first.untied else first
        changed = [name for name in tied.terms if name.endswith(EMBEDDINGS)]
        if changed and not any(name.endswith(HEADS) for name in tied.terms):
            raise WsteerError(f"one side changes {changed[0]} tied to the head, the other unties them; diff them apart")


def _parse_info(path: Path, metadata: Mapping[str, str]) -> dict:
    try:
        info: Any = parse_json(metadata["wsteer"])
        json.dumps(info, allow_nan=False, ensure_ascii=False).encode()  # no NaN, only text that can be stored
        version, kind = info["format"], info["kind"]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise WsteerError(
            f"{path} is not a delta file: it lacks wsteer's metadata; make one with wsteer diff"
        ) from None
    for key, expected in (("base", dict), ("sources", list), ("options", dict), ("untied", bool)):
        if not isinstance(info.setdefault(key, expected()), expected):
            raise WsteerError(
                f"{path}: {key} in its metadata is not a {expected.__name__}; make it again with wsteer diff"
            )
    if not isinstance(info.setdefault("blocks", None), str | None):
        raise WsteerError(f"{path}: blocks in its metadata is no text; make it again with wsteer diff")
    if version != FORMAT or kind not in KINDS:
        raise WsteerError(f"{path} has delta format {version!r}, kind {kind!r}; this wsteer reads format 1")
    identity = {**UNKNOWN_BASE, **info["base"]}
    if not all(value is None or isinstance(value, str) for value in identity.values()):
        raise WsteerError(f"{path}: base in its metadata holds more than texts; make it again with wsteer diff")
    if not all(isinstance(source, dict) for source in info["sources"]):
        raise WsteerError(f"{path}: sources in its metadata are no objects; make it again with wsteer diff")
    return info


def _parse_terms(path: Path, kind: str, entries: Mapping[str, TensorEntry]) -> dict[str, Terms]:
    terms: dict[str, Terms] = {}
    for name, entry in sorted(entries.items()):
        if entry.dtype not in FLOATS:
            raise WsteerError(f"{path}: {name!r} is {entry.dtype}; a delta holds floating-point tensors only")
        stem, _, part = name.rpartition(".")
        if part == "lora_A":
            terms[stem] = ((1.0, LowRank(_partner(path, entries, stem, entry), entry)),)
            if stem in entries:
                raise WsteerError(f"{path} holds {stem!r} both dense and as factors; the file is damaged")
        elif part == "lora_B":
            if f"{stem}.lora_A" not in entries:
                raise WsteerError(f"{path}: {name!r} has no lora_A beside it; the file is damaged")
        elif (kind == "activation") != bool(BLOCK.fullmatch(name)):
            raise WsteerError(f"{path}: the tensor {name!r} does not belong into a delta of kind {kind!r}")
        else:
            terms[name] = ((1.0, Dense(entry)),)
    if not terms:
        raise WsteerError(f"{path} is a delta that changes nothing")
    return terms


def _partner(path: Path, entries: Mapping[str, TensorEntry], stem: str, a: TensorEntry) -> TensorEntry:
    b = entries.get(f"{stem}.lora_B")
    if b is None or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or 0 in a.shape + b.shape:
        raise WsteerError(f"{path}: the factors of {stem!r} do not fit each other; the file is damaged")
    return b


DELTA = "delta.safetensors"  # the delta in an output folder
