"""Adapters of PEFT's other methods (IA3, LoHa, LoKr, OFT, …) as dense changes, computed by peft's own layers.

peft attaches the adapter to a skeleton of the base whose parameters take no memory. When rows of a layer's change are
asked for, the layer gets its weights from the base's files and is merged in float64; only one layer is in memory at a
time.
"""

import contextlib
import copy
import dataclasses
import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from wsteer.checkpoints.architecture import model_classes, read_config, skeleton
from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.checkpoints.names import file_names
from wsteer.deltas.adapters.keys import PREFIX
from wsteer.deltas.adapters.reading import CONFIG, WEIGHTS
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.errors import WsteerError, one_error
from wsteer.files.limits import MATCHING, bounded
from wsteer.files.tensors import FLOATS, TensorEntry, read_header, read_rows, read_tensor, row_blocks
from wsteer.files.text import read_json

try:
    import peft
    from peft.tuners.boft import layer as boft
    from peft.tuners.tuners_utils import BaseTunerLayer
except ImportError:
    raise WsteerError("adapters other than LoRA are read by peft, which is not installed; pip install peft") from None

MERGE = "merge it with peft and diff the merged model"
# the methods whose changes the tests compare with peft's own merge of a whole model
EXACT = (
    "ADALORA BEFT BOFT C3A DEFT DELORA FOURIERFT GLORA GRALORA HIRA HRA IA3 LN_TUNING LOHA LOKR MISS OFT PEANUT PVERA "
    "RANDLORA ROAD SHIRA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA VBLORA VERA WAVEFT"
)
PROMPTS = "ADAPTION_PROMPT CARTRIDGE CPT MULTITASK_PROMPT_TUNING PREFIX_TUNING PROMPT_TUNING P_TUNING"
REFUSED = {
    PROMPTS: "it adds learnt prompts and leaves the weights as they are; train a LoRA adapter",
    "LILY POLY SHADOW XLORA": "what it adds depends on the input; train a LoRA adapter",
    "FROD OSF PSOFT": f"its file lacks the decomposition of the base that it builds on; {MERGE}",
}
# settings under which the effect of the file's tensors depends on the base's weights, or on chance
UNTOLD = {"SUPERTUNING": ("save_precomputed_indices", False), "PVERA": ("sample_at_inference", True)}
# settings that peft takes as a regex if they are a text; those of layers and ranks end in `_pattern`
PATTERNS = ("target_modules", "exclude_modules", "feedforward_modules")
MERGED_BIAS = ("BEFT", "GLORA", "IA3", "LN_TUNING", "ROAD")  # the methods that change biases


@dataclass(frozen=True)
class Parameter:
    """A parameter by its name in memory: `base` has the base's values, `start` those that the adapter is merged into.

    The two differ where the adapter's file replaces the base's values: `modules_to_save` and trained biases.
    """

    name: str
    base: TensorEntry
    start: TensorEntry


@dataclass(frozen=True, eq=False)
class Layer:
    """One of peft's layers, the wrapped layer's parameters (attribute: name), and the names of those that change."""

    tuner: BaseTunerLayer
    owned: Mapping[str, str]
    changed: Set[str]


class Merger:
    """Merges the layers of one adapter on demand, and keeps only the changes of the last one."""

    _merging = threading.Lock()  # one layer at a time: `_library` sets values of the whole process

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = parameters
        self.layer: Layer | None = None
        self.changes: dict[str, Tensor] = {}

    def rows(self, layer: Layer, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the change of the layer's parameter `name`, new float32 memory."""
        with self._merging:
            if self.layer is not layer:
                self.layer, self.changes = None, {}  # freed before the next is computed
                self.changes = _merged_changes(layer, self._parameters)
                self.layer = layer
            return self.changes[name][start:stop].clone()


@dataclass(frozen=True, eq=False)
class LayerChange:
    """The change of one parameter of a layer; the whole layer is computed at once."""

    parameter: Parameter
    layer: Layer
    merger: Merger

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return self.parameter.base.shape

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` as new float32 memory.

        Raises WsteerError if peft cannot merge the layer, or if the change is not finite.
        """
        return self.merger.rows(self.layer, self.parameter.name, start, stop)


@dataclass(frozen=True, eq=False)
class Replacement:
    """The change of a parameter whose new values are in the adapter's file: new minus base."""

    parameter: Parameter

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return self.parameter.base.shape

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` as new float32 memory. Raises WsteerError if they are not finite."""
        return _difference(read_rows(self.parameter.start, start, stop), self.parameter, start)


def tuner_changes(
    folder: Path, base: Checkpoint, selection: Selection = EVERYTHING
) -> dict[str, LayerChange | Replacement]:
    """The change of each parameter that the adapter in `folder` changes, by its name in the model in memory.

    Tensors that the model has no place for are ignored if `selection` leaves them out. A change is computed only when
    its rows are asked for. Raises WsteerError for a method that does not change weights or is not known to be exact,
    and for an adapter that is damaged or does not fit the base.
    """
    config, method = _read_config(folder)
    if not (folder / WEIGHTS).exists():
        raise WsteerError(f"{folder} has no {WEIGHTS}; save the adapter with save_pretrained, as safetensors")
    entries, _ = read_header(folder / WEIGHTS)
    model = _skeleton(base, entries.keys())
    named = dict(model.named_parameters(remove_duplicate=False))
    names = {id(parameter): name for name, parameter in reversed(named.items())}  # a tied one has its first name
    replaced = {_base_name(key): entry for key, entry in entries.items() if _base_name(key) in named}
    tuners = _attached(folder, config, model, entries, selection)
    layers = [_layer(folder, method, tuner, names, replaced.keys()) for tuner in tuners]
    of_layers = {name: layer for layer in layers for name in layer.changed}
    changed = dict.fromkeys([*replaced, *of_layers])
    uses = Counter(map(id, named.values()))
    for name in changed:
        # peft, too, keeps only trainable tokens tied
        if uses[id(named[name])] > 1 and (name not in of_layers or method != "TRAINABLE_TOKENS"):
            raise WsteerError(f"{folder} changes {name}, which is tied in {base.name} but not in the adapter; {MERGE}")
    needed = sorted(changed.keys() | {name for layer in layers for name in layer.owned.values()})
    files = file_names(needed, base, folder)
    parameters = {name: _parameter(base, name, files[name], named[name], replaced.get(name)) for name in needed}
    merger = Merger(parameters)
    return {
        name: LayerChange(parameters[name], of_layers[name], merger)
        if name in of_layers
        else Replacement(parameters[name])
        for name in sorted(changed)
    }


def _read_config(folder: Path) -> tuple[peft.PeftConfig, str]:
    """The adapter's config as peft reads it, and the name of its method; refused if it cannot be read exactly."""
    raw, version = read_json(folder / CONFIG), peft.__version__
    method = str(raw.get("peft_type"))
    for methods, why in REFUSED.items():
        if method in methods.split():
            raise WsteerError(f"{folder} is a {method} adapter, which wsteer cannot diff: {why}")
    if method not in peft.PEFT_TYPE_TO_CONFIG_MAPPING:
        raise WsteerError(f"{folder} is a {method} adapter, which peft {version} does not know; update peft")
    if method not in EXACT.split():
        raise WsteerError(f"{folder} is a {method} adapter, which wsteer is not tested to read exactly; {MERGE}")
    with _library(f"{folder / CONFIG} is not what peft {version} reads"):
        config = peft.PeftConfig.from_pretrained(str(folder))
    # peft drops unknown settings, though they may change the meaning of the tensors
    known = {field.name for field in dataclasses.fields(config)}
    for key in sorted(key for key, value in raw.items() if value and key not in known):
        raise WsteerError(f"{folder / CONFIG} sets {key}, which peft {version} does not know; update peft")
    key, value = UNTOLD.get(method, (None, None))
    if key and getattr(config, key) == value:
        raise WsteerError(
            f"{folder} is a {method} adapter with {key}={value}: its file does not tell its change; {MERGE}"
        )
    config.inference_mode = True
    config.modules_to_save = None  # read as replacements, without peft's copies of whole modules
    return config, method


def _skeleton(base: Checkpoint, keys: Iterable[str]) -> PreTrainedModel:
    """The base's architecture; each parameter is a single float32 zero expanded to the parameter's shape.

    On the meta device, peft would drop the adapter's tensors. Of the classes that read the base it is the one that has
    most of the modules that the adapter's keys name.
    """
    config = read_config(base)
    models = [skeleton(base, config, kind) for kind in model_classes(base, config)]
    parents = [_base_name(key).rpartition(".")[0].rpartition(".")[0] for key in keys]
    model = max(models, key=lambda each: sum(name in parents for name, _ in each.named_modules()))
    empty: dict[int, nn.Parameter] = {}  # by the id of the parameter that it replaces, so tied ones stay tied
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            zeros = nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False)
            setattr(module, name, empty.setdefault(id(parameter), zeros))
    return model


def _base_name(key: str) -> str:
    """The parameter of the base that this key of the adapter's file would replace."""
    return key.removeprefix(PREFIX).replace(".base_layer.", ".")


def _attached(
    folder: Path,
    config: peft.PeftConfig,
    model: PreTrainedModel,
    entries: Mapping[str, TensorEntry],
    selection: Selection,
) -> list[BaseTunerLayer]:
    """The layers that peft puts into the model, holding the tensors of the adapter's file as float32.

    Tensors that belong to no layer are an error, unless the selection leaves them out.
    """
    bare = dict(model.named_parameters(remove_duplicate=False))
    with _library(f"peft {peft.__version__} cannot attach {folder} to its base"):
        own = {key: read_tensor(entry) for key, entry in entries.items() if _base_name(key) not in bare}
        for key, tensor in own.items():
            if not torch.isfinite(tensor).all():
                raise WsteerError(f"{folder / WEIGHTS}: {key!r} holds NaN or infinity; the training run diverged")
        _check_patterns(folder, config, [name for name, _ in model.named_modules()])
        attached = peft.PeftModel(model, config, autocast_adapter_dtype=False).eval()
        expected = peft.get_peft_model_state_dict(attached, save_embedding_layers=False).keys()
        strange = {key: _base_name(key) for key in own.keys() - expected}
        wanted = set(selection.kept(list(strange.values())))
        own = {key: tensor for key, tensor in own.items() if key not in strange or strange[key] in wanted}
        for key in sorted((expected - entries.keys()) | (own.keys() - expected)):
            wrong = "lacks" if key in expected else "should not hold"
            raise WsteerError(f"{folder / WEIGHTS} {wrong} {key!r}; was it made on another model, or by another peft?")
        floats = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in own.items()}
        peft.set_peft_model_state_dict(attached, floats)
    modules = attached.get_base_model().modules()
    return [module for module in modules if isinstance(module, BaseTunerLayer) and hasattr(module, "base_layer")]


def _check_patterns(folder: Path, config: peft.PeftConfig, modules: Sequence[str]) -> None:
    """Refuse patterns that peft would match for ever: each is matched here, in bounded time, as peft does it."""
    patterns: list[object] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name.endswith("_pattern") and isinstance(value, str | list | tuple | dict):
            patterns += [value] if isinstance(value, str) else value
        elif field.name in PATTERNS and isinstance(value, str):
            patterns.append(value)
    with bounded(f"matching the patterns of {folder / CONFIG}", MATCHING):
        for pattern in filter(None, patterns):
            for module in modules:
                for form in ("{}", r"(.*\.)?({})$", r".*\.{}$", r"(?:^|.*?\.){}\.(?P<idx>\d+)\."):
                    re.match(form.replace("{}", str(pattern)), module)
                re.fullmatch(str(pattern), module)


def _layer(folder: Path, method: str, tuner: BaseTunerLayer, names: Mapping[int, str], replaced: Set[str]) -> Layer:
    """The layer, its parameters (`names` maps their ids to names), and those that merging or replacing changes."""
    owned = {key: names[id(value)] for key, value in tuner.get_base_layer().named_parameters(recurse=False)}
    kinds = {"bias"} if method == "BEFT" else {"weight"}
    # IA3 scales the inputs of feedforward layers, which leaves the bias as it is
    if method in MERGED_BIAS and not getattr(tuner, "is_feedforward", False):
        kinds.add("bias")
    if not kinds & owned.keys():
        raise WsteerError(f"{folder} changes the bias of {owned['weight']}, which has none; train a LoRA adapter")
    return Layer(tuner, owned, {name for key, name in owned.items() if key in kinds or name in replaced})


def _parameter(
    base: Checkpoint, name: str, file_name: str, shaped: nn.Parameter, replacement: TensorEntry | None
) -> Parameter:
    if file_name not in base.tensors:
        raise WsteerError(f"{base.name} lacks {file_name}, which the adapter changes; download it again")
    entry, shape = base.tensors[file_name], tuple(shaped.shape)
    for found in (entry, replacement or entry):
        if found.shape != shape or found.dtype not in FLOATS:
            raise WsteerError(
                f"{found.file}: {found.name} is {found.dtype} {found.shape}, not floating-point {shape} as config.json "
                "says; name the unquantised base that the adapter was made on"
            )
    return Parameter(name, entry, replacement or entry)


def _merged_changes(layer: Layer, parameters: Mapping[str, Parameter]) -> dict[str, Tensor]:
    """The changes of a layer's parameters as peft merges them in float64, by name."""
    # deepcopy takes objects in its memo as already copied: the copy gets the weights, the layer stays empty
    memo: dict[int, object] = {}
    for key, parameter in layer.tuner.get_base_layer().named_parameters(recurse=False):
        weights = read_tensor(parameters[layer.owned[key]].start).double()
        memo[id(parameter)] = nn.Parameter(weights, requires_grad=False)
    what = f"peft {peft.__version__} cannot merge {layer.owned['weight']}"
    with torch.no_grad(), _library(what):
        copied = copy.deepcopy(layer.tuner, memo)
        cast(nn.Module, copied).double()
        copied.merge()
    changes = {}
    for key, merged in copied.get_base_layer().named_parameters(recurse=False):
        name = layer.owned[key]
        changes[name] = _difference(merged.detach(), parameters[name], 0)
        if name not in layer.changed and changes[name].any():
            raise WsteerError(f"{what}: it changes {name} too, which wsteer does not expect; {MERGE}")
    return changes


def _difference(values: Tensor, parameter: Parameter, first: int) -> Tensor:
    """The parameter's new values, rows from `first` on, minus the base's; float32; an error if not finite."""
    change = torch.empty(values.shape)
    for start, stop in row_blocks(tuple(values.shape)):
        change[start:stop] = values[start:stop].double() - read_rows(parameter.base, first + start, first + stop)
    if not torch.isfinite(change).all():
        raise WsteerError(f"{parameter.name} becomes NaN or infinite; look for NaN in the adapter and in the base")
    return change


@contextlib.contextmanager
def _library(what: str) -> Iterator[None]:
    """Turn what peft and transformers raise into one clear error; this file checks for what they only warn of."""
    with no_kernel(), one_error(what), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def no_kernel() -> Iterator[None]:
    """Keep peft from compiling BOFT's CUDA kernel, which cannot read the CPU's tensors.

    The only way to prevent it is to set peft's own mark of a failed attempt: False.
    """
    kept = getattr(boft, "_FBD_CUDA", None)
    boft._FBD_CUDA = False  # type: ignore[assignment]
    try:
        yield
    finally:
        boft._FBD_CUDA = kept
