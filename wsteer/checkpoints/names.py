"""Names of parameters: those in adapters and in models in memory, and those in a checkpoint's files."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.errors import WsteerError
from wsteer.files.limits import bounded

# parameters that hold all experts of a block in memory: the files' names of each expert's parts, in stacking order
FUSED_EXPERTS = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
# a module's path in memory: its path in the files of older models (Mixtral's)
OLDER_PATHS = {".mlp.": ".block_sparse_moe."}
# models whose linear layers store their weight as [in, out]; the config's fan_in_fan_out is not reliable
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONV1D_NAMES = re.compile(r"(^|\.)h\.\d+\.\w+\.(c_attn|c_proj|c_fc|q_attn)$")
BLOCK = re.compile(r"blocks\.(?:0|[1-9][0-9]{0,8})")  # a decoder block's activations; the number has one spelling
MOST_PREFIXES = 40  # of names; models have a handful

Index = tuple[int | slice, ...]  # into a parameter in memory


@dataclass(frozen=True)
class ExpertFiles:
    """How the files hold one fused parameter of a mixture of experts: for each expert the tensors of its parts.

    In memory the parameter is [experts, rows, columns]; the parts of one expert are stacked along the rows.
    """

    experts: tuple[tuple[str, ...], ...]
    part_rows: tuple[int, ...]
    columns: int


def file_names(names: Iterable[str], base: Checkpoint, where: object) -> dict[str, str]:
    """Each parameter's name in the base's files, which may differ by a prefix or a renamed module.

    A model's inner part lacks the prefix of the whole (`layers.0…` for `model.layers.0…`), and some checkpoints lack
    the prefix of the model (GPT-2's `h.0…` for `transformer.h.0…`). Names that match nothing are listed in an error;
    `where` is the source of the names.
    """
    known = {**base.tensors, **{name: None for name in base.tied or ()}}
    names = list(names)
    rewritten = next(
        (found for rewrite in _rewrites(known) if (found := _rewritten(names, rewrite, known)) is not None), None
    )
    if rewritten is None:
        with bounded(f"finding what {where} changes in {base.name}"):
            missing = ([name for name in names if _match(name, way, known) is None] for way in _rewrites(known))
            unmatched = min(missing, key=len)
        more = f" and {len(unmatched) - 3} more" if len(unmatched) > 3 else ""
        quantised = base.config.get("quantization_config")
        hint = "it is quantised: use the unquantised model" if quantised else "was it made on another model?"
        raise WsteerError(f"{where} changes {', '.join(unmatched[:3])}{more}, which {base.name} lacks; {hint}")
    first: dict[str, str] = {}
    for name, renamed in rewritten.items():
        if (other := first.setdefault(renamed, name)) != name:
            raise WsteerError(f"{where} has two changes of {renamed}, as {other} and as {name}; keep one of them")
    return rewritten


def known_names(names: Iterable[str], base: Checkpoint) -> dict[str, str]:
    """Each parameter's name in the base's files, as `file_names` gives it; those that the base lacks are left out."""
    known = {**base.tensors, **{name: None for name in base.tied or ()}}
    names = list(names)
    best: dict[str, str] = {}
    with bounded(f"finding what {base.name} has"):
        for way in _rewrites(known):
            found = {name: match for name in names if (match := _match(name, way, known)) is not None}
            best = max(best, found, key=len)
            if len(best) == len(names):
                break
    return best


def _rewrites(known: Mapping[str, object]) -> list[tuple[str, str]]:
    """Pairs of a prefix to drop and one to add, no change first; the files' names give the prefixes to add."""
    found = {"": None}
    for name in known:
        parts = name.split(".", 2)
        ends = [count for count in (1, 2) if count < len(parts) and not parts[count - 1].isdecimal()]
        found.update({".".join(parts[:count]) + ".": None for count in ends})
        if len(found) > MOST_PREFIXES:  # each is tried with every name
            break
    added = [("", prefix) for prefix in found]
    dropped = [(prefix, "") for prefix in ("model.", "transformer.", "gpt_neox.", "language_model.")]
    moved = [("model.language_model.", "language_model.model."), ("language_model.model.", "model.language_model.")]
    return added + dropped + moved


def _rewritten(names: list[str], rewrite: tuple[str, str], known: Mapping[str, object]) -> dict[str, str] | None:
    """The names after one rewrite, each also tried unchanged; None if a name matches nothing."""
    result = {}
    for name in names:
        if (match := _match(name, rewrite, known)) is None:
            return None
        result[name] = match
    return result


def _match(name: str, rewrite: tuple[str, str], known: Mapping[str, object]) -> str | None:
    dropped, added = rewrite
    moved = added + name[len(dropped) :] if name.startswith(dropped) else name
    return next((each for each in (name, moved, _older(name), _older(moved)) if each in known), None)


def _older(name: str) -> str:
    for path, older in OLDER_PATHS.items():
        name = name.replace(path, older)
    return name


def expert_files(parameter: str, base: Checkpoint) -> ExpertFiles | None:
    """The files' tensors of a fused parameter such as `model.layers.0.mlp.experts.gate_up_proj`, else None.

    Mixtral's, Qwen2-MoE's and Qwen3-MoE's files name the experts one by one, while the model in memory stacks them.
    """
    module, _, leaf = parameter.rpartition(".")
    for path in dict.fromkeys([module, _older(module), f"model.{module}", _older(f"model.{module}")]):
        for parts in FUSED_EXPERTS.get(leaf, ()):
            first = [base.tensors[name] for part in parts if (name := f"{path}.0.{part}.weight") in base.tensors]
            if len(first) < len(parts) or any(len(entry.shape) != 2 for entry in first):
                continue
            experts: list[tuple[str, ...]] = []
            while f"{path}.{len(experts)}.{parts[0]}.weight" in base.tensors:
                experts.append(tuple(f"{path}.{len(experts)}.{part}.weight" for part in parts))
            rows, columns = tuple(entry.shape[0] for entry in first), first[0].shape[1]
            return ExpertFiles(tuple(experts), rows, columns)
    return None


def in_memory(name: str, shapes: Mapping[str, tuple[int, ...]], prefix: str) -> tuple[str, Index]:
    """Where a model in memory keeps the tensor that the files call `name`: a parameter and an index into it.

    `shapes` are those of the model's parameters, `prefix` is its `base_model_prefix`. Raises KeyError if the model
    has no such tensor.
    """
    newer = name
    for path, older in OLDER_PATHS.items():
        newer = newer.replace(older, path)
    for candidate in (name, newer, f"{prefix}.{newer}", newer.removeprefix(f"{prefix}.")):
        if candidate in shapes:
            return candidate, ()
        module, _, leaf = candidate.removesuffix(".weight").rpartition(".")
        module, _, expert = module.rpartition(".")
        for fused, variants in FUSED_EXPERTS.items():
            for parts in variants:
                if leaf in parts and re.fullmatch("[0-9]{1,9}", expert) and f"{module}.{fused}" in shapes:
                    rows = shapes[f"{module}.{fused}"][1] // len(parts)
                    first = parts.index(leaf) * rows
                    return f"{module}.{fused}", (int(expert), slice(first, first + rows))
    raise KeyError(name)


def layer_of(name: str) -> int | None:
    """The decoder block that a parameter or activation name belongs to: its first number between dots, else None."""
    match = re.search(r"\.([0-9]{1,9})(\.|$)", name)
    return int(match[1]) if match else None


def layer_name(name: str) -> str:
    """The decoder block of a parameter, `other` outside of them."""
    layer = layer_of(name)
    return "other" if layer is None else str(layer)


def module_name(name: str) -> str:
    """The last module of a parameter's name, with `.bias` for biases: `q_proj`, `down_proj.bias`."""
    if BLOCK.fullmatch(name):
        return "residual stream"
    module, _, leaf = name.rpartition(".")
    return (module.rpartition(".")[2] or leaf) + (".bias" if leaf == "bias" else "")
