"""Names of parameters: those in adapters and deltas, and those in a checkpoint's files; decoder blocks by name."""

import functools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsteer.checkpoints.checkpoint import TOWER, Checkpoint
from wsteer.errors import WsteerError
from wsteer.files.limits import bounded

if TYPE_CHECKING:
    from wsteer.checkpoints.conversion import Conversion, Part

# models whose linear layers store their weight as [in, out]; the config's fan_in_fan_out is not reliable
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONV1D_NAMES = re.compile(r"(^|\.)h\.\d+\.\w+\.(c_attn|c_proj|c_fc|q_attn)$")
BLOCK = re.compile(r"blocks\.(?:0|[1-9][0-9]{0,8})")  # a decoder block's activations; the number has one spelling
NUMBERED = re.compile(r"(.+?)\.([0-9]{1,9})(?:\.|$)")  # the path before a name's first number, and that number
# modules that torch and peft put around others: peft loads no adapter whose keys have them
WRAPPER = re.compile(r"(?:^|\.)(?:_\w+|base_model|module)(?:\.|$)")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # as configs name the number of blocks
OTHER_MODEL = "was it made on another model?"
MOST_KEPT = 8  # checkpoints whose conversions are kept
EXPERT = re.compile(r"\.[0-9]+\..+\.[0-9]+\.")  # a name with two numbers: of a block, and of one of its experts

Way = Callable[[str], str | None]  # a name -> the name in the files, or None


def file_names(names: Iterable[str], base: Checkpoint, where: object) -> dict[str, str]:
    """Each parameter's name in the base's files.

    Names that the files have are taken as they are. Others are names in memory, or of other versions of the files:
    transformers' conversion maps them. Last, they are names of another architecture with the same language model, as of
    a text model whose adapter is used on a model of text and images. Names that match nothing are listed in an error;
    `where` is the source of the names.
    """
    names = list(dict.fromkeys(names))
    found = known_names(names, base, where)
    if unmatched := [name for name in names if name not in found]:
        raise WsteerError(_lacking(unmatched, base, where))
    return _each_once(found, where)


def known_names(names: Iterable[str], base: Checkpoint, where: object = "a change") -> dict[str, str]:
    """Each parameter's name in the base's files, as `file_names` gives it; those that the base lacks are left out."""
    names = list(dict.fromkeys(names))
    if all(name in base.tensors for name in names):
        return {name: name for name in names}  # as mostly: nothing else is asked
    known = base.known_names
    best: dict[str, str] = {}
    for way in _ways(names, base, known):
        with bounded(f"finding what {where} changes in {base.name}"):
            matches = {name: name if name in known else way(name) for name in names}
            best = max(best, {name: match for name, match in matches.items() if match is not None}, key=len)
        if len(best) == len(names):
            break
    return best


def _ways(names: Collection[str], base: Checkpoint, known: Collection[str]) -> Iterator[Way]:
    """The ways to find names in the files, the cheap and certain ones first."""
    yield lambda name: None  # as they are
    if not base.towers:  # without towers a path before the blocks can only be another prefix
        yield from _moved(names, base, known)
    for conversion in conversions_of(base):
        yield functools.partial(_converted_name, base, conversion, known)
    if base.towers:
        yield from _moved(names, base, known)


def _converted_name(base: Checkpoint, conversion: "Conversion", known: Collection[str], name: str) -> str | None:
    for each in (name, conversion.renamed(name)[0]):
        parts = conversion.of_parameter.get(each, [])
        if len(parts) == 1 and parts[0].is_whole:
            return parts[0].tensor
        if each in known:
            return each
        if base.tied is not None and not parts and each in conversion.ends:
            return base.tied[1]  # no tensor becomes it: it is the tied head
    return None


def _moved(names: Collection[str], base: Checkpoint, known: Collection[str]) -> Iterator[Way]:
    """From another path of the language model's blocks to the base's own; what is beside the blocks moves alike."""
    target = block_path(base)
    if target is None:
        return
    outer = _parent(target)
    for path in _numbered_paths(names):
        if TOWER.search(path) or WRAPPER.search(path):
            continue
        source = _parent(path)

        def way(name: str, path: str = path, source: str = source) -> str | None:
            if name.startswith(f"{path}."):
                moved = target + name[len(path) :]
            elif source and name.startswith(f"{source}."):
                moved = f"{outer}{'.' if outer else ''}{name[len(source) + 1 :]}"
            else:
                moved = f"{outer}.{name}" if outer else name
            return moved if moved in known else None

        yield way
    if not _numbered_paths(names):  # the embedding or the head alone

        def ending(name: str) -> str | None:
            last = ".".join(name.rsplit(".", 2)[-2:])
            found = [each for each in known if each == last or each.endswith(f".{last}")]
            return found[0] if len(found) == 1 else None

        yield ending


def _each_once(found: dict[str, str], where: object) -> dict[str, str]:
    first: dict[str, str] = {}
    for name, renamed in found.items():
        if (other := first.setdefault(renamed, name)) != name:
            raise WsteerError(f"{where} has two changes of {renamed}, as {other} and as {name}; keep one of them")
    return found


def _lacking(unmatched: list[str], base: Checkpoint, where: object) -> str:
    more = f" and {len(unmatched) - 3} more" if len(unmatched) > 3 else ""
    hint = OTHER_MODEL
    if base.config.get("quantization_config"):
        hint = "it is quantised: use the unquantised model"
    elif all(TOWER.search(name) for name in unmatched) and not base.towers:
        hint = "it has no tower of images or sound; leave them out with --exclude"
    elif (count := _blocks_beyond(unmatched, base)) is not None:
        hint = f"its language model has {count} blocks; was it made on another model?"
    conversions, failure = _asked(base)
    if failure is not None and hint == OTHER_MODEL:
        hint = f"its names were compared as they stand, since {failure}"
    for conversion in conversions:
        for name in unmatched[:1]:
            parameter, _ = conversion.renamed(name)
            if steps := conversion.opaque.get(parameter):
                hint = f"transformers makes it from the files by {steps}, which wsteer does not follow"
            elif conversion.of_parameter.get(parameter):
                hint = "transformers makes it of parts of other tensors; merge it with peft in float32 and diff that"
            elif other := conversion.shared.get(parameter):
                hint = (
                    f"in the model it is {other}, and one tensor cannot have two changes; leave it out with --exclude"
                )
    return f"{where} changes {', '.join(unmatched[:3])}{more}, which {base.name} lacks; {hint}"


def _blocks_beyond(names: Iterable[str], base: Checkpoint) -> int | None:
    """The number of the base's blocks, if all names are of blocks beyond them, else None."""
    count = len(_numbered_paths(base.tensors).get(block_path(base) or "", ()))
    matches = [None if TOWER.search(name) else NUMBERED.match(name) for name in names]
    return count if count and all(match and int(match[2]) >= count for match in matches) else None


# ---- The model's architecture, asked of transformers where names alone do not tell


def conversions_of(base: Checkpoint) -> tuple["Conversion", ...]:
    """The conversions of the base by the model classes that read it; none if transformers cannot build them.

    It imports transformers (2 s) and builds the model without memory (0.1 to 1 s), once for a checkpoint.
    """
    return _asked(base)[0]


_known: dict[tuple[str, str, str], tuple[tuple["Conversion", ...], str | None]] = {}


def _asked(base: Checkpoint) -> tuple[tuple["Conversion", ...], str | None]:
    """The conversions, and why transformers gives none; kept by content: an adapter opens its base each time."""
    from wsteer.checkpoints.conversion import conversions  # noqa: PLC0415  imports transformers

    config = json.dumps(base.config, sort_keys=True) if (base.folder / "config.json").exists() else ""
    key = (str(base.folder), base.fingerprint, config)
    if key not in _known:
        try:
            _known[key] = (tuple(conversions(base)), None)
        except WsteerError as error:
            _known[key] = ((), str(error))
        if len(_known) > MOST_KEPT:
            del _known[next(iter(_known))]
    return _known[key]


def parts_of(parameter: str, base: Checkpoint) -> "list[Part]":
    """The tensors of the base's files that become one parameter in memory, such as all experts of a block.

    Empty if there is none, or if the files have the name; it may be an older one, or lack the prefix of the model.
    """
    if parameter in base.known_names:
        return []
    for conversion in conversions_of(base):
        for name in (parameter, conversion.renamed(parameter)[0]):
            if found := conversion.of_parameter.get(name):
                return found
    return []


def shared_blocks(base: Checkpoint) -> str | None:
    """A parameter beside embedding and head that is another one in memory (Zamba's shared blocks); None if none is."""
    return next((name for conversion in conversions_of(base) for name in conversion.shared), None)


def scattered_names(names: Iterable[str], base: Checkpoint) -> "dict[str, list[Part]]":
    """Those of the parameters in memory that are made of rows of several tensors of the files, or of a part of one."""
    found = {name: parts_of(name, base) for name in names}
    return {
        name: parts
        for name, parts in found.items()
        if parts and not any(part.is_whole or part.swapped or len(part.index) > 1 for part in parts)
    }


@dataclass(frozen=True)
class ExpertFiles:
    """How the files hold one fused parameter of a mixture of experts: for each expert the tensors of its parts.

    In memory the parameter is [experts, rows, columns]; the parts of one expert are stacked along the rows.
    """

    experts: tuple[tuple[str, ...], ...]
    part_rows: tuple[int, ...]
    columns: int


def expert_files(parameter: str, base: Checkpoint) -> ExpertFiles | None:
    """The files' tensors of a fused parameter such as `model.layers.0.mlp.experts.gate_up_proj`, else None.

    Many models' files name the experts one by one, while the model in memory stacks them.
    """
    if parameter.endswith((".weight", ".bias")) or parameter in base.tensors:
        return None
    if not any(EXPERT.search(name) for name in base.tensors):
        return None  # spares the import of transformers
    experts: dict[int, list[str]] = defaultdict(list)
    for part in parts_of(parameter, base):
        if not part.index or not isinstance(part.index[0], int):
            return None
        experts[part.index[0]].append(part.tensor)
    if not experts or sorted(experts) != list(range(len(experts))):
        return None
    shapes = [base.tensors[name].shape for name in experts[0]]
    names = tuple(tuple(experts[number]) for number in range(len(experts)))
    return ExpertFiles(names, tuple(shape[0] for shape in shapes), shapes[0][1])


# ---- Decoder blocks


@functools.lru_cache(maxsize=8)
def block_path(base: Checkpoint) -> str | None:
    """The path of the language model's blocks in the files, as `model.language_model.layers`; None if there are none.

    The names tell it if only one path has as many numbered blocks as the config has layers; else transformers is asked.
    """
    paths = _numbered_paths(base.tensors)
    if len(paths) <= 1 and not base.towers:
        return next(iter(paths), None)
    try:
        blocks = set(range(base.config_number(*DEPTHS)))
        # beside its blocks a model of text may number others, which it predicts later tokens with
        fitting = [path for path, has in paths.items() if has == blocks or (has > blocks and not base.towers)]
    except WsteerError:
        fitting = list(paths)
    return fitting[0] if len(fitting) == 1 else _asked_path(base) or likely_path(fitting or paths)


def depth(base: Checkpoint) -> int:
    """How many decoder blocks the base has: as its config says, else as its files number them."""
    numbers = _numbered_paths(base.tensors).get(block_path(base) or "")
    if not numbers or any(key in base.text_settings for key in DEPTHS):
        return base.config_number(*DEPTHS)
    return max(numbers) + 1


def _asked_path(base: Checkpoint) -> str | None:
    from wsteer.checkpoints.conversion import decoder_path  # noqa: PLC0415  imports transformers

    for conversion in conversions_of(base):
        try:
            inside = f"{decoder_path(conversion.model)}.0."
        except WsteerError:  # blocks of two kinds, or run several times
            continue
        for parameter, parts in conversion.of_parameter.items():
            if parameter.startswith(inside) and (match := NUMBERED.match(parts[0].tensor)):
                return match[1]
    return None


def likely_path(names: Iterable[str]) -> str | None:
    """The path of the language model's blocks among these paths, or before the first numbers of these names.

    For names whose checkpoint is not at hand: towers are told by what they are commonly called.
    """
    paths = [path for path in (_numbered_paths(names) or names) if not TOWER.search(path)]
    text = [path for path in paths if "language" in path or "text" in path]
    return next(iter(text or paths), None)


def _numbered_paths(names: Iterable[str]) -> dict[str, set[int]]:
    """The paths before the names' first numbers, each with its numbers, in order."""
    found: dict[str, set[int]] = defaultdict(set)
    for name in names:
        if match := NUMBERED.match(name):
            found[match[1]].add(int(match[2]))
    return dict(found)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def layer_of(name: str, blocks: str | None) -> int | None:
    """The decoder block of a parameter, or of an activation's name; the blocks' names begin with the path `blocks`."""
    match = NUMBERED.match(name)
    return int(match[2]) if match and (match[1] == blocks or BLOCK.fullmatch(name)) else None


def layer_name(name: str, blocks: str | None) -> str:
    """The decoder block of a parameter, the path of a tower's blocks, `other` outside of both."""
    layer = layer_of(name, blocks)
    if layer is not None:
        return str(layer)
    match = NUMBERED.match(name)
    return match[1] if match and TOWER.search(match[1]) else "other"


def module_name(name: str) -> str:
    """The last module of a parameter's name, with `.bias` for biases: `q_proj`, `down_proj.bias`."""
    if BLOCK.fullmatch(name):
        return "residual stream"
    module, _, leaf = name.rpartition(".")
    return (module.rpartition(".")[2] or leaf) + (".bias" if leaf == "bias" else "")
