"""Deltas: changes of weights or activations as a file, and their algebra.

A delta maps each parameter to a sum of scaled terms, a term being a low-rank product or a stored tensor. Sums and
multiples only collect terms; numbers are computed when a parameter's rows are asked for, one block at a time.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from wsteer import __version__
from wsteer.checkpoint import FLOATS, Checkpoint, TensorEntry, read_header, read_rows, read_tensor, row_blocks
from wsteer.errors import WsteerError
from wsteer.gram import cosine_from_gram, gram
from wsteer.progress import Track, silent
from wsteer.saving import check_free_space, new_file
from wsteer.tensorfile import write_tensors

FORMAT = 1
KINDS = ("contrastive", "task_vector", "combination", "activation")
UNKNOWN_BASE: dict[str, str | None] = {"name": None, "revision": None, "fingerprint": None}


@dataclass(frozen=True)
class LowRank:
    """The term `lora_B @ lora_A`: lora_B [out, r], lora_A [r, in], each in memory or in a file."""

    lora_B: Tensor | TensorEntry
    lora_A: Tensor | TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the product."""
        return (self.lora_B.shape[0], self.lora_A.shape[1])


@dataclass(frozen=True)
class Dense:
    """The term that is one tensor, in memory or in a file."""

    tensor: Tensor | TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(self.tensor.shape)


Term = LowRank | Dense


@dataclass(frozen=True)
class Change:
    """The change of one parameter, ready to be computed: `lora_B @ lora_A` plus scaled dense terms."""

    shape: tuple[int, ...]
    factors: tuple[Tensor, Tensor] | None
    dense: tuple[tuple[float, Dense], ...]

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the change: float32 (float64 where a float64 tensor takes part)."""
        total = None
        if self.factors is not None:
            lora_B, lora_A = self.factors
            total = lora_B[start:stop] @ lora_A
        for scale, term in self.dense:
            rows = _dense_rows(term, start, stop)
            total = rows.mul_(scale) if total is None else total + rows.mul_(scale)
        assert total is not None  # a parameter without terms is never stored
        return total


@dataclass(frozen=True)
class Delta:
    """A change of weights (or, for kind `activation`, of the residual stream), as the delta file holds it.

    >>> import torch
    >>> from wsteer import Delta
    >>> w = Delta.of_tensors({"layer.weight": torch.tensor([[3.0, 0.0], [0.0, 4.0]])})
    >>> w.norm(), (2 * w - w).norm(), w.cosine(-1 * w)
    (5.0, 5.0, -1.0)
    """

    kind: str
    terms: Mapping[str, tuple[tuple[float, Term], ...]]
    base: Mapping[str, str | None] = field(default_factory=lambda: UNKNOWN_BASE)
    sources: tuple[Mapping[str, object], ...] = ()
    layers: object = None
    positions: object = None
    options: Mapping[str, object] = field(default_factory=dict)

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor], kind: str = "task_vector") -> "Delta":
        """A dense delta of tensors in memory."""
        return Delta(kind, {name: ((1.0, Dense(tensor)),) for name, tensor in tensors.items()})

    @staticmethod
    def of_factors(factors: Mapping[str, tuple[Tensor, Tensor]], kind: str = "task_vector") -> "Delta":
        """A low-rank delta: for each parameter (lora_B [out, r], lora_A [r, in]), scales folded in."""
        return Delta(kind, {name: ((1.0, LowRank(b, a)),) for name, (b, a) in factors.items()})

    @staticmethod
    def load(path: str | Path) -> "Delta":
        """Open a delta file: its header is read and checked, tensors are read when they are needed."""
        if Path(path).is_dir():
            raise WsteerError(
                f"{path} is a folder, not a delta file; of an adapter make one: wsteer diff {path} -o FILE"
            )
        entries, metadata = read_header(Path(path))
        info = _parse_info(Path(path), metadata)
        fields = {key: info.get(key) for key in ("kind", "layers", "positions")}
        return Delta(
            **fields,
            terms=_parse_terms(Path(path), info["kind"], entries),
            base={**UNKNOWN_BASE, **info["base"]},
            sources=tuple(info["sources"]),
            options=info["options"],
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of parameter `name`."""
        return self.terms[name][0][1].shape

    def is_low_rank(self, name: str) -> bool:
        """Whether the change of parameter `name` is stored as factors alone."""
        return all(isinstance(term, LowRank) for _, term in self.terms[name])

    def rank(self, name: str) -> int:
        """The rank of the stored factors of parameter `name`."""
        return sum(term.lora_A.shape[0] for _, term in self.terms[name])

    def change(self, name: str) -> Change:
        """The change of parameter `name` with its factors in memory (float32, concatenated along the rank)."""
        low_rank = [(scale, term) for scale, term in self.terms[name] if isinstance(term, LowRank)]
        dense = tuple((scale, term) for scale, term in self.terms[name] if isinstance(term, Dense))
        factors = None
        if low_rank:
            lora_B = torch.cat([scale * _loaded(term.lora_B) for scale, term in low_rank], dim=1)
            lora_A = torch.cat([_loaded(term.lora_A) for _, term in low_rank], dim=0)
            factors = (lora_B, lora_A)
        return Change(self.shape(name), factors, dense)

    def select_layers(self, layers: Iterable[int] | None) -> "Delta":
        """The part of the delta in the given decoder blocks (0-based); None means all of it."""
        if layers is None:
            return self
        wanted = set(layers)
        missing = wanted - {layer_of(name) for name in self.terms}
        if missing:
            raise WsteerError(f"--layers: the delta has nothing in {sorted(missing)}")
        return replace(self, terms={name: term for name, term in self.terms.items() if layer_of(name) in wanted})

    def __mul__(self, factor: float) -> "Delta":
        scaled = {name: tuple((factor * scale, term) for scale, term in terms) for name, terms in self.terms.items()}
        return replace(self, terms=scaled)

    __rmul__ = __mul__

    def __add__(self, other: "Delta") -> "Delta":
        if (self.kind == "activation") != (other.kind == "activation"):
            raise WsteerError("an activation vector and a change of weights cannot be added")
        terms = dict(self.terms)
        for name, added in other.terms.items():
            if name in terms and self.shape(name) != other.shape(name):
                raise WsteerError(
                    f"{name} has shape {self.shape(name)} on one side and {other.shape(name)} on the other; "
                    "the two come from different base models"
                )
            terms[name] = terms.get(name, ()) + added
        kind = "activation" if self.kind == "activation" else "combination"
        return replace(self, kind=kind, terms=terms, sources=self.sources + other.sources)

    def __sub__(self, other: "Delta") -> "Delta":
        return self + -1.0 * other

    def norm(self) -> float:
        """The Frobenius norm of the whole change, in float64."""
        return gram([self])[0][0] ** 0.5

    def cosine(self, other: "Delta") -> float:
        """Cosine between two deltas, each seen as one long vector; a parameter that one lacks is zero there."""
        if not self.terms.keys() & other.terms.keys():
            raise WsteerError("the two deltas have no parameter in common; compare deltas of one model")
        return cosine_from_gram(gram([self, other]), 0, 1)

    def save(self, path: str | Path, force: bool = False, track: Track = silent) -> None:
        """Write the delta file: float32, sorted names, reproducible bytes, whole or not at all."""
        shapes = dict(sorted(self._stored_shapes()))
        check_free_space(Path(path), 4 * sum(torch.Size(shape).numel() for shape in shapes.values()))
        with new_file(Path(path), force) as partial:
            write_tensors(partial, shapes, self._blocks(shapes, track), self._info())

    def _stored_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name in self.terms:
            if self.is_low_rank(name):
                yield f"{name}.lora_A", (self.rank(name), self.shape(name)[1])
                yield f"{name}.lora_B", (self.shape(name)[0], self.rank(name))
            else:
                yield name, self.shape(name)

    def _blocks(self, stored: Iterable[str], track: Track) -> Iterator[Tensor]:
        for name in track(list(stored), "write"):
            if name.endswith((".lora_A", ".lora_B")):
                lora_B, lora_A = self.change(name[: -len(".lora_A")]).factors
                yield lora_A if name.endswith("A") else lora_B
            else:
                change = self.change(name)
                yield from (change.rows(start, stop) for start, stop in row_blocks(change.shape))

    def _info(self) -> str:
        info = {
            "format": FORMAT,
            "kind": self.kind,
            "base": dict(self.base),
            "sources": [dict(source) for source in self.sources],
            "layers": self.layers,
            "positions": self.positions,
            "options": dict(self.options),
            "wsteer_version": __version__,
        }
        return json.dumps(info, sort_keys=True, ensure_ascii=False, allow_nan=False)


def folded(name: str, base: Tensor, change: Tensor) -> Tensor:
    """`base + change` in float32 (float64 for float64), rounded once, to nearest, to the base's dtype.

    Steering on disk and in memory both come through here, block by block, and so give the same bits. A result that is
    not finite is an error that names the parameter.
    """
    wide = torch.promote_types(base.dtype, change.dtype)
    written = (base.to(wide) + change).to(base.dtype)
    if not torch.isfinite(written).all():
        raise WsteerError(f"{name} becomes NaN or infinite; lower --k, or look for NaN in the delta and the base")
    return written


def check_fits(delta: Delta, checkpoint: Checkpoint) -> None:
    """Refuse a change of weights that names a parameter the checkpoint lacks, or has in another shape or dtype.

    Known from the headers alone. A head tied to the embedding is no parameter of its own: a checkpoint that stores a
    copy of it cannot be steered in the embedding without the copy going stale.
    """
    parameters = checkpoint.parameters()
    missing = [name for name in delta.terms if name not in parameters]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WsteerError(
            f"{checkpoint.name} lacks {missing[0]!r}{more}, which the delta changes; was it made on another model?"
        )
    for name in delta.terms:
        entry = parameters[name]
        if entry.shape != delta.shape(name):
            raise WsteerError(
                f"{name} is {entry.shape} in {checkpoint.name} but {delta.shape(name)} in the delta; "
                "use the model that it was made on"
            )
        if entry.dtype not in FLOATS:
            raise WsteerError(f"{name} is stored as {entry.dtype} in {checkpoint.name}; use an unquantised checkpoint")
        if name.endswith("embed_tokens.weight") and len(parameters) < len(checkpoint.tensors):
            raise WsteerError(
                f"{checkpoint.name} stores its tied embedding twice; load and save it with transformers first"
            )


def layer_of(name: str) -> int | None:
    """The decoder block that a parameter or activation name belongs to: its first number between dots, else None."""
    match = re.search(r"\.(\d+)(\.|$)", name)
    return int(match[1]) if match else None


def _loaded(tensor: Tensor | TensorEntry) -> Tensor:
    return (read_tensor(tensor) if isinstance(tensor, TensorEntry) else tensor).float()


def _dense_rows(term: Dense, start: int, stop: int) -> Tensor:
    """Rows of a dense term as new float32 (float64 for float64) memory that the caller may overwrite."""
    if isinstance(term.tensor, TensorEntry):
        rows = read_rows(term.tensor, start, stop)
    else:
        rows = (term.tensor if term.tensor.dim() else term.tensor[None])[start:stop]
    return rows.to(torch.promote_types(rows.dtype, torch.float32), copy=True)


def _parse_info(path: Path, metadata: Mapping[str, str]) -> dict:
    try:
        info = json.loads(metadata["wsteer"])
        known = info["format"] == FORMAT and info["kind"] in KINDS
    except (KeyError, TypeError, ValueError):
        raise WsteerError(
            f"{path} is not a delta file: it lacks wsteer's metadata; make one with wsteer diff"
        ) from None
    for key, kind in (("base", dict), ("sources", list), ("options", dict)):
        if not isinstance(info.setdefault(key, kind()), kind):
            raise WsteerError(f"{path}: {key} in its metadata is not a {kind.__name__}; make it again with wsteer diff")
    if not known:
        raise WsteerError(
            f"{path} has delta format {info['format']}, kind {info['kind']!r}; this wsteer reads format 1"
        )
    return info


def _parse_terms(
    path: Path, kind: str, entries: Mapping[str, TensorEntry]
) -> dict[str, tuple[tuple[float, Term], ...]]:
    terms: dict[str, tuple[tuple[float, Term], ...]] = {}
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
        elif (kind == "activation") != bool(re.fullmatch(r"blocks\.\d+", name)):
            raise WsteerError(f"{path}: the tensor {name!r} does not belong into a delta of kind {kind!r}")
        else:
            terms[name] = ((1.0, Dense(entry)),)
    if not terms:
        raise WsteerError(f"{path} is a delta that changes nothing")
    return terms


def _partner(path: Path, entries: Mapping[str, TensorEntry], stem: str, a: TensorEntry) -> TensorEntry:
    b = entries.get(f"{stem}.lora_B")
    if b is None or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise WsteerError(f"{path}: the factors of {stem!r} do not fit each other; the file is damaged")
    return b
