"""The keys and the config of a LoRA adapter turned into terms: which module, which variant, which rank and scale."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wsteer.checkpoints.checkpoint import Checkpoint, base_entry
from wsteer.checkpoints.names import (
    CONV1D_MODELS,
    CONV1D_NAMES,
    ExpertFiles,
    expert_files,
    file_names,
    known_names,
    scattered_names,
)
from wsteer.deltas.adapters.keys import SortedTensors, sorted_tensors
from wsteer.deltas.adapters.lora import (
    BaseRows,
    BaseWeight,
    BlockDiagonal,
    ConvProduct,
    Diagonal,
    DoraWeight,
    ExpertFactor,
    FusedExperts,
    InitialProduct,
    ReadFactors,
    TokenRows,
)
from wsteer.deltas.terms import Dense, Factor, LowRank, Terms, Transposed, rows_of_terms
from wsteer.errors import WsteerError
from wsteer.files.tensors import DTYPES, TensorEntry

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MUTATING_INITS = ("pissa", "olora")  # initialisations that subtract a product from the base; W determines it
TRANSPOSED_EXPERTS = ("gpt_oss", "aria", "aria_text", "openai_privacy_filter")
EMBEDDING_LORA = ("lora_embedding_A", "lora_embedding_B")
MOST_BLOCKS = 128  # of BD-LoRA, one for each device of a server; unfolding a factor makes it as many times larger
if TYPE_CHECKING:
    from wsteer.checkpoints.conversion import Part

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Reader(SortedTensors):
    """A LoRA adapter while its tensors are turned into terms; their names are the adapter's."""

    folder: Path
    config: dict
    base: Checkpoint | None
    read_factors: ReadFactors = field(default_factory=ReadFactors)
    # weights in memory that are made of rows of several tensors of the files, or of a part of one
    scattered: "dict[str, list[Part]]" = field(default_factory=dict)

    @staticmethod
    def of(folder: Path, config: dict, base: Checkpoint | None, entries: Mapping[str, TensorEntry]) -> "Reader":
        """The adapter in `folder`, with its stored tensors sorted by use."""
        found = sorted_tensors(folder, entries)
        return Reader(found.modules, found.replaced, found.copies, folder, config, base)

    def base_for(self, what: str) -> Checkpoint:
        """The base, which is needed to read `what`."""
        return required_base(self.folder, self.config, self.base, what)

    @cached_property
    def targets(self) -> dict[str, list[str]]:
        """The parameters adapted by name (`target_parameters`), for each module that has any.

        A target may be as short as `down_proj`, which fits every module; only parameters that the base has are taken.
        """
        found: dict[str, list[str]] = {}
        endings = {_ending(name) for name in self.base.tensors} if self.base else set()
        for module in self.modules:
            path = module.replace(".base_layer", "")
            for target in self.config.get("target_parameters") or ():
                parameter = f"{path}.{str(target).rpartition('.')[2]}"
                if parameter != target and not parameter.endswith(f".{target}"):
                    continue
                if self.base is None or _ending(parameter) in endings or expert_files(parameter, self.base):
                    found.setdefault(module, []).append(parameter)
        return found

    def resolve(self) -> None:
        """Find all names in the base's files, also those of parameters adapted by name."""
        parameters = [parameter for found in self.targets.values() for parameter in found]
        if self.names is not None and self.base is not None:
            known_names(parameters, self.base)

    @cached_property
    def names(self) -> dict[str, str]:
        """Each parameter's name in the base's files, or the adapter's own name where the base is not available."""
        plain = [module for module in self.modules if module not in self.targets]
        wanted = [f"{module}.weight" for module in plain]
        wanted += [f"{module}.bias" for module in plain if "lora_B.bias" in self.modules[module]]
        wanted += [name for name in (*self.replaced, *self.copies) if not (self.base and expert_files(name, self.base))]
        if self.base is None:
            return {name: name for name in wanted}
        try:
            return file_names(wanted, self.base, self.folder)
        except WsteerError:
            self.scattered.update(scattered_names(wanted, self.base))
            whole = [name for name in wanted if name not in self.scattered]
            return {**file_names(whole, self.base, self.folder), **{name: name for name in self.scattered}}


def _ending(parameter: str) -> str:
    """The last module and the parameter: `experts.down_proj`."""
    return ".".join(parameter.split(".")[-2:])


def required_base(folder: Path, config: dict, base: Checkpoint | None, what: str) -> Checkpoint:
    """The base, or an error that says what it is needed for."""
    if base is None:
        name = config.get("base_model_name_or_path") or "its name is not recorded"
        raise WsteerError(f"{folder}: {what}, which needs the base ({name}), unquantised, at hand; name it with --base")
    return base


def lora_init(config: dict) -> object:
    """`init_lora_weights` in lower case, since peft ignores its case."""
    init = config.get("init_lora_weights", True)
    return init.lower() if isinstance(init, str) else init


def lora_terms(reader: Reader) -> tuple[dict[str, Terms], dict[str, TensorEntry]]:
    """The adapter's change of each parameter of the base, and the stored copies of whole weights.

    Both have the names of the base's files where the base is available.
    """
    terms: dict[str, Terms] = {}
    for module, pieces in reader.modules.items():
        by_name = module in reader.targets
        for name, added in _parameter_terms(reader, module) if by_name else _module_terms(reader, module, pieces):
            terms[name] = terms.get(name, ()) + added
    for parameter, entry in reader.replaced.items():
        for name, added in _replacement_terms(reader, parameter, entry):
            terms[name] = terms.get(name, ()) + added
    for weight, parts in reader.scattered.items():
        whole = terms.pop(weight)
        for part in parts:
            height = reader.base_for(weight).tensors[part.tensor].shape[0]
            terms[part.tensor] = terms.get(part.tensor, ()) + rows_of_terms(whole, part, height, reader.folder)
    return terms, {reader.names[name]: entry for name, entry in reader.copies.items()}


def _module_terms(reader: Reader, module: str, pieces: Mapping[str, TensorEntry]) -> Iterator[tuple[str, Terms]]:
    """The change of one module's weight, and of its bias if that is adapted too."""
    weight = reader.names[f"{module}.weight"]
    if "token_adapter.trainable_tokens_delta" in pieces:
        yield weight, _token_terms(reader, module, pieces["token_adapter.trainable_tokens_delta"])
    if not any(key in pieces for key in ("lora_A", "lora_B", *EMBEDDING_LORA)):
        return
    embedding = any(key in pieces for key in EMBEDDING_LORA)
    sides = EMBEDDING_LORA if embedding else ("lora_A", "lora_B")
    if len(pieces.keys() & set(sides)) != 2:
        missing = (set(sides) - pieces.keys()).pop()
        raise WsteerError(f"{reader.folder}: {module} has no {missing}; save the adapter again")
    a, b = (pieces[side] for side in sides)
    if len(a.shape) > 2 and a.shape[0] != b.shape[1]:
        raise WsteerError(
            f"{reader.folder}: {module} is a convolution in groups, which no merge is exact for; train without it"
        )
    rank, scale = _rank_and_scale(reader, module, module, a, b)
    if "lora_B.bias" in pieces:
        yield reader.names[f"{module}.bias"], ((scale, Dense(pieces["lora_B.bias"])),)
    if len(a.shape) > 2:
        if "lora_magnitude_vector" in pieces:
            raise WsteerError(f"{reader.folder}: {module} is a convolution with DoRA; merge it in float32 first")
        if math.prod(b.shape[2:]) != 1:
            raise WsteerError(f"{reader.folder}: lora_B of {module} is {b.shape}, no 1x1 convolution; save it again")
        yield weight, ((scale, Dense(ConvProduct(b, a))),)
        return
    transposed = embedding or _is_conv1d(reader, module)
    lora_A, lora_B = _variant_factors(reader, module, pieces, a, b)
    product = LowRank(Transposed(a), Transposed(b)) if transposed else LowRank(lora_B, lora_A)
    # peft ignores init_lora_weights for embeddings
    initial = None if embedding else _initial_product(reader, weight, product.shape, rank, scale)
    if "lora_magnitude_vector" in pieces:
        _check_length(reader, module, pieces["lora_magnitude_vector"], product.shape[1 if transposed else 0])
        dora = DoraWeight(weight, product, scale, pieces["lora_magnitude_vector"], transposed, initial)
        yield weight, ((1.0, Dense(dora)), (-1.0, Dense(BaseWeight(weight, product.shape))))
    else:
        yield weight, ((scale, product), *_taken(initial))


def _check_length(reader: Reader, module: str, vector: TensorEntry, length: int) -> None:
    if math.prod(vector.shape) != length:
        raise WsteerError(
            f"{reader.folder}: {vector.name} is {vector.shape}, but {module} needs {length} values; save it again"
        )


def _rank_and_scale(
    reader: Reader, module: str, matched: str, a: TensorEntry, b: TensorEntry, experts: int = 1
) -> tuple[int, float]:
    """The rank and s of a module; its factors' shapes are checked. The patterns are matched with the name `matched`."""
    if len(a.shape) < 2 or len(a.shape) != len(b.shape) or 0 in a.shape + b.shape:
        # ZeRO-3 and FSDP leave such factors when an adapter is saved without gathering it
        raise WsteerError(
            f"{reader.folder}: the factors of {module} have shapes {a.shape} and {b.shape}; save the adapter again"
        )
    rank = _pattern_value(reader, "rank_pattern", matched, reader.config["r"])
    alpha = _pattern_value(reader, "alpha_pattern", matched, reader.config["lora_alpha"])
    block_diagonal = _block_diagonal(reader, module)
    ranks = (a.shape[0], b.shape[1] * (block_diagonal[1] if block_diagonal and block_diagonal[0] == "lora_B" else 1))
    if ranks != (rank * experts, rank * experts):
        raise WsteerError(
            f"{reader.folder}: {module} has rank {ranks[0] // experts} in its weights but {rank} in {CONFIG}"
        )
    return rank, alpha / (rank**0.5 if reader.config.get("use_rslora") else rank)


def _pattern_value(reader: Reader, key: str, module: str, default: N) -> N:
    """The value of the first regex, in dict order, that matches `module` or its end after a dot, as peft matches."""
    for pattern, value in (reader.config.get(key) or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except (re.error, OverflowError, RecursionError) as error:
            raise WsteerError(f"{reader.folder / CONFIG}: {key} {pattern!r} is no regex: {error}") from None
    return default


def _is_conv1d(reader: Reader, module: str) -> bool:
    """Whether the module stores its weight as [in, out]; the architecture decides, as square shapes do not show it."""
    if not CONV1D_NAMES.search(module):
        return False
    base = reader.base_for(f"{module} may store its weight transposed, as its architecture tells")
    return base.config.get("model_type") in CONV1D_MODELS


def _variant_factors(
    reader: Reader, module: str, pieces: Mapping[str, TensorEntry], a: TensorEntry, b: TensorEntry
) -> tuple[TensorEntry | Factor, TensorEntry | Factor]:
    lora_A: TensorEntry | Factor = a
    lora_B: TensorEntry | Factor = b
    if "lora_diag" in pieces:
        _check_length(reader, module, pieces["lora_diag"], b.shape[1])
        lora_B = Diagonal(b, pieces["lora_diag"])
    if found := _block_diagonal(reader, module):
        side, blocks = found
        rows = (a if side == "lora_A" else b).shape[0]
        if rows % blocks or blocks > MOST_BLOCKS:
            raise WsteerError(
                f"{reader.folder}: {side} of {module} has {rows} rows, not {blocks} equal blocks, {MOST_BLOCKS} at most"
            )
        lora_A = BlockDiagonal(a, blocks) if side == "lora_A" else a
        lora_B = BlockDiagonal(b, blocks) if side == "lora_B" else b
    return lora_A, lora_B


def _block_diagonal(reader: Reader, module: str) -> tuple[str, int] | None:
    """Which factor of the module BD-LoRA keeps block-diagonal, and in how many blocks."""
    settings = reader.config.get("use_bdlora") or {}
    leaf, blocks = module.rpartition(".")[2], settings.get("nblocks", 1)
    for side, key in (("lora_A", "target_modules_bd_a"), ("lora_B", "target_modules_bd_b")):
        patterns = settings.get(key) or []
        if not isinstance(patterns, list) or type(blocks) is not int or blocks < 1:
            raise WsteerError(f"{reader.folder / CONFIG}: use_bdlora needs {key}, a list, and nblocks, a whole number")
        if any(str(pattern) in leaf for pattern in patterns):
            return side, blocks
    return None


def _initial_product(
    reader: Reader, weight: str, shape: tuple[int, ...], rank: int, scale: float
) -> InitialProduct | None:
    """The product that a mutating initialisation subtracted from the base before training."""
    init = "kasa" if reader.config.get("kasa_config") else lora_init(reader.config)
    if init not in (*MUTATING_INITS, "kasa"):
        return None
    return InitialProduct(init, weight, shape, rank, scale)


def _taken(initial: InitialProduct | None) -> Terms:
    return () if initial is None else ((-1.0, Dense(initial)),)


def _token_terms(reader: Reader, module: str, values: TensorEntry) -> Terms:
    """Rows that replace the base's at the trained tokens, whose ids are only in the config."""
    listed = reader.config.get("trainable_token_indices")
    if isinstance(listed, dict):
        listed = next((tokens for key, tokens in listed.items() if f".{module}".endswith(f".{key}")), None)
    if not isinstance(listed, list) or len(values.shape) != 2 or len(listed) != values.shape[0]:
        raise WsteerError(f"{reader.folder}: trainable_token_indices do not fit {module}; save the adapter again")
    base = reader.base_for(f"{module} has trained tokens")
    parameter = reader.names[f"{module}.weight"]
    shape = base_entry(parameter, base).shape
    if not all(type(token) is int and 0 <= token < shape[0] for token in listed) or values.shape[1:] != shape[1:]:
        raise WsteerError(f"{reader.folder}: the trained tokens do not fit {parameter} {shape} of {base.name}")
    tokens = tuple(listed)
    return ((1.0, Dense(TokenRows(shape, tokens, values))), (-1.0, Dense(BaseRows(parameter, shape, tokens))))


def _replacement_terms(reader: Reader, parameter: str, entry: TensorEntry) -> Iterator[tuple[str, Terms]]:
    """The change by a stored value that replaces the base's: value minus base, for fused experts tensor by tensor."""
    files = expert_files(parameter, reader.base) if reader.base else None
    if files is None:
        name = reader.names[parameter]
        yield name, ((1.0, Dense(entry)), (-1.0, Dense(BaseWeight(name, entry.shape))))
        return
    expert_shape = (len(files.experts), sum(files.part_rows), files.columns)
    if entry.shape != expert_shape:
        raise WsteerError(f"{reader.folder}: {parameter} is {entry.shape}, the experts of its base are {expert_shape}")
    row_bytes = files.columns * DTYPES[entry.dtype].itemsize
    begin = entry.begin
    for parts in files.experts:
        for name, rows in zip(parts, files.part_rows, strict=True):
            shape = (rows, files.columns)
            value = replace(entry, shape=shape, begin=begin, end=begin + rows * row_bytes)
            yield name, ((1.0, Dense(value)), (-1.0, Dense(BaseWeight(name, shape))))
            begin = value.end


def _parameter_terms(reader: Reader, module: str) -> Iterator[tuple[str, Terms]]:
    """The change of a parameter adapted by name: a plain matrix, or the stacked experts of a block."""
    a, b = (reader.modules[module].get(side) for side in ("lora_A", "lora_B"))
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2:
        raise WsteerError(f"{reader.folder}: the factors of {module} are incomplete; save the adapter again")
    base = reader.base_for(f"{module} holds parameters adapted by name")
    fitting = [
        (parameter, layout)
        for parameter in dict.fromkeys(reader.targets[module])
        if (layout := _layout(parameter, base, a, b)) is not None
    ]
    if len(fitting) != 1:
        names = ", ".join(reader.targets[module])
        reason = "fits none" if not fitting else "fits more than one"
        raise WsteerError(f"{reader.folder}: {module} {reason} of {names} by its shape; merge it in float32 first")
    parameter, layout = fitting[0]
    rank, scale = _rank_and_scale(reader, module, parameter, a, b, layout.experts)
    if layout.files is None and layout.experts == 1:
        product = LowRank(b, a)
        initial = _initial_product(reader, layout.name, product.shape, rank, scale)
        yield layout.name, ((scale, product), *_taken(initial))
    elif layout.files is None:
        yield layout.name, ((scale, Dense(FusedExperts(b, a, layout.experts, layout.transposed, reader.read_factors))),)
    else:
        yield from _expert_terms(reader, layout.files, scale, a, b)


@dataclass(frozen=True)
class _Layout:
    """How the base's files hold a parameter: one tensor `name`, or the experts' own tensors."""

    name: str
    experts: int
    transposed: bool
    files: ExpertFiles | None


def _layout(parameter: str, base: Checkpoint, a: TensorEntry, b: TensorEntry) -> _Layout | None:
    """The layout of `parameter` in the base if the factors' outer sides fit its shape, else None."""
    sides = (b.shape[0], a.shape[1])
    if (files := expert_files(parameter, base)) is not None:
        fits = sides == (sum(files.part_rows), files.columns)
        return _Layout(parameter, len(files.experts), False, files) if fits else None
    name = file_names([parameter], base, "the adapter")[parameter]
    shape = base.tensors[name].shape
    experts = shape[0] if len(shape) == 3 else 1
    if experts == 0:
        return None
    if len(shape) == 3 and sides[0] == sides[1]:
        transposed = base.config.get("model_type") in TRANSPOSED_EXPERTS
    else:
        transposed = len(shape) == 3 and shape[1:] == sides[::-1]
    fits = shape[-2:] == (sides[::-1] if transposed else sides)
    return _Layout(name, experts, transposed, None) if fits else None


def _expert_terms(
    reader: Reader, files: ExpertFiles, scale: float, a: TensorEntry, b: TensorEntry
) -> Iterator[tuple[str, Terms]]:
    count = len(files.experts)
    for expert, parts in enumerate(files.experts):
        first = 0
        for name, rows in zip(parts, files.part_rows, strict=True):
            part = (first, first + rows)
            lora_B, lora_A = (
                ExpertFactor(entry, side, expert, count, part, reader.read_factors)
                for entry, side in ((b, "B"), (a, "A"))
            )
            yield name, ((scale, LowRank(lora_B, lora_A)),)
            first += rows
