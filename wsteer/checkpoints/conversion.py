"""Which parameters in memory the tensors of a checkpoint become, as transformers' own conversion says.

The files may name, split and order tensors otherwise than the model in memory. transformers keeps the rules with which
it loads such files. They are applied here to names and shapes; nothing is read.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from wsteer.checkpoints.architecture import model_classes, read_config, skeleton
from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.errors import WsteerError

Index = tuple[int | slice, ...]  # into a parameter in memory
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """What a tensor of the files, or some of its rows, is in memory: `parameter[index]`, with two dimensions swapped.

    `rows` are (first, last + 1), or None for all; `index` is () for the whole parameter.
    """

    tensor: str
    parameter: str
    index: Index = ()
    rows: tuple[int, int] | None = None
    swapped: tuple[int, int] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether tensor and parameter are the same, under two names."""
        return self.index == () and self.rows is None and self.swapped is None

    def of_tensor(self, tensor: Tensor) -> Tensor:
        """The part of the file's tensor, as it is in memory."""
        part = tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]
        return part if self.swapped is None else part.transpose(*self.swapped)

    def of_parameter(self, parameter: Tensor) -> Tensor:
        """The part of the parameter in memory, as it is in the file."""
        part = parameter[self.index] if self.index else parameter
        return part if self.swapped is None else part.transpose(*self.swapped)


class Conversion:
    """The tensors of a checkpoint's files beside the parameters of one model class.

    `of_tensor` and `of_parameter` list the parts by the file's name and by the name in memory. `opaque` are parameters
    that transformers makes in a way that is not followed here, with the name of that way.
    """

    def __init__(self, model: nn.Module, tensors: Shapes):
        """Apply the rules of `model`, which may have no memory (the meta device), to the files' `tensors`."""
        self.model = model
        self.shapes: Shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        self.opaque: dict[str, str] = {}
        self._state = dict.fromkeys(self.shapes, True)
        self.prefix = str(getattr(model, "base_model_prefix", ""))
        rules: list[Any] = get_model_conversion_mapping(cast(PreTrainedModel, model))
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self.of_tensor: dict[str, list[Part]] = defaultdict(list)
        self.of_parameter: dict[str, list[Part]] = defaultdict(list)
        for part in self._parts(tensors):
            if part.parameter in self.shapes:
                self.of_tensor[part.tensor].append(part)
                self.of_parameter[part.parameter].append(part)

    @cached_property
    def ends(self) -> frozenset[str]:
        """The names of the weights of embedding and head."""
        model = cast(PreTrainedModel, self.model)
        modules = [each for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each is not None]
        return frozenset(
            f"{name}.weight" for name, module in model.named_modules() if any(module is m for m in modules)
        )

    @cached_property
    def shared(self) -> dict[str, str]:
        """The parameters that are another one in memory, beside a tied embedding and head; each with that one."""
        tied = cast(dict[str, str], getattr(self.model, "all_tied_weights_keys", None) or {})
        return {name: other for name, other in tied.items() if name not in self.ends}

    def renamed(self, name: str) -> tuple[str, str | None]:
        """A name in a file as transformers renames it, and the pattern of the converter that takes it, if any does."""
        found, pattern = rename_source_key(name, self._renamings, self._converters, self.prefix, self._state)
        if found not in self.shapes and name in self.shapes:  # as in transformers: it was no older name
            return name, None
        return found, pattern

    def _parts(self, tensors: Shapes) -> Iterator[Part]:
        """The parts of all tensors; those that one converter makes one parameter of are seen together."""
        together: dict[tuple[str, int], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name in sorted(tensors, key=dot_natural_key):
            parameter, pattern = self.renamed(name)
            if pattern is None:
                yield Part(name, parameter)
                continue
            number = next(i for i, each in enumerate(self._converters) if pattern in each.source_patterns)
            together[parameter, number][pattern].append(name)
        for (parameter, number), sources in together.items():
            parts = _converted(self._converters[number], parameter, sources, tensors, self.shapes)
            if parts is None:
                steps = ", ".join(type(step).__name__ for step in self._converters[number].operations)
                self.opaque[parameter] = steps
            yield from parts or ()


@dataclass(frozen=True, eq=False)
class Place:
    """Where a model in memory keeps a tensor of its checkpoint's files: parts of one parameter or of several."""

    parts: tuple[tuple[Part, Tensor], ...]  # each with the parameter's own memory

    @staticmethod
    def of(name: str, memory: Tensor) -> "Place":
        """The place of a tensor that is a parameter as it is."""
        return Place(((Part(name, name), memory),))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the file's tensor."""
        shapes = [tuple(part.of_parameter(memory).shape) for part, memory in self.parts]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:]) if len(shapes) > 1 else shapes[0]

    def view(self) -> Tensor:
        """The tensor; the model's own memory, if it is in one place there."""
        parts = [part.of_parameter(memory.detach()) for part, memory in self.parts]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`: new memory on the CPU, float32 or float64."""
        found, first = [], 0
        for part, memory in self.parts:
            values = part.of_parameter(memory.detach())
            values = values if values.dim() else values[None]
            last = first + values.shape[0]
            if first < stop and start < last:
                rows = values[max(start - first, 0) : stop - first]
                found.append(rows.to("cpu", torch.promote_types(rows.dtype, torch.float32), copy=True))
            first = last
        return torch.cat(found) if len(found) > 1 else found[0]

    def write(self, tensor: Tensor) -> None:
        """Set the model's memory to the tensor."""
        for part, memory in self.parts:
            (memory[part.index] if part.index else memory).copy_(part.of_tensor(tensor))


def places(model: nn.Module, shapes: Shapes) -> dict[str, Place]:
    """The places of tensors of the checkpoint's files, whose shapes are given; those that the model lacks are left out.

    Raises WsteerError for two tensors in one place.
    """
    state = model.state_dict(keep_vars=True)
    found = {}
    names: dict[str, str] = {}  # by place
    for name, parts in Conversion(model, shapes).of_tensor.items():
        for part in parts:
            if (other := names.setdefault(f"{part.parameter}{part.index}", name)) != name:
                raise WsteerError(f"there are two of {part.parameter}, {other} and {name}; keep one of them")
        found[name] = Place(tuple((part, state[part.parameter].detach()) for part in parts))
    return found


def _converted(
    converter: WeightConverter, parameter: str, sources: Mapping[str, list[str]], tensors: Shapes, shapes: Shapes
) -> list[Part] | None:
    """The parts of the tensors `sources` (by pattern) that a converter makes into `parameter` and perhaps others."""
    steps = [(type(step).__name__, getattr(step, "dim", None)) for step in converter.operations]
    patterns = [pattern for pattern in converter.source_patterns if pattern in sources]
    if steps in ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)]):
        return _stacked(parameter, patterns, len(converter.source_patterns), sources, tensors, shapes)
    if any(len(sources[pattern]) != 1 for pattern in patterns):
        return None
    names = [sources[pattern][0] for pattern in patterns]
    if steps == [("Concatenate", 0)] and len(names) == len(converter.source_patterns):
        return list(_in_a_row(parameter, names, tensors))
    targets = [parameter.replace(converter.target_patterns[0], each, 1) for each in converter.target_patterns]
    if steps in ([("Chunk", 0)], [("Split", 0)]) and all(target in shapes for target in targets):
        return list(_cut(names[0], targets, shapes))
    if len(steps) == 1 and steps[0][0] == "Transpose" and len(names) == 1:
        step: Any = converter.operations[0]
        swapped = (step.dim0, step.dim1)
        if step.check_dims and tensors[names[0]] == shapes.get(parameter):
            return [Part(names[0], parameter)]
        return [Part(names[0], parameter, swapped=swapped)]
    return None


def _stacked(
    parameter: str,
    patterns: Sequence[str],
    parts: int,
    sources: Mapping[str, list[str]],
    tensors: Shapes,
    shapes: Shapes,
) -> list[Part] | None:
    """Experts, one tensor each (or one for each part of it), stacked; the parts of an expert follow along its rows."""
    rows = shapes[parameter][1] // parts if parameter in shapes and len(shapes[parameter]) > 1 else 0
    found = []
    for place, pattern in enumerate(patterns):
        for name in sources[pattern]:
            expert = _expert(pattern, name)
            if expert is None or (parts > 1 and tensors[name][:1] != (rows,)):
                return None
            index: Index = (expert,) if parts == 1 else (expert, slice(place * rows, (place + 1) * rows))
            found.append(Part(name, parameter, index))
    return found


def _expert(pattern: str, name: str) -> int | None:
    """The number in `name` where the pattern has a star; the pattern's other parts may have been renamed before."""
    _, star, after = pattern.partition("*.")
    match = re.search(r"\.([0-9]{1,9})\." + after.replace(".", r"\.") + "$", name) if star else None
    return int(match[1]) if match else None


def _in_a_row(parameter: str, names: Sequence[str], tensors: Shapes) -> Iterator[Part]:
    first = 0
    for name in names:
        last = first + tensors[name][0]
        yield Part(name, parameter, (slice(first, last),))
        first = last


def _cut(name: str, targets: Sequence[str], shapes: Shapes) -> Iterator[Part]:
    first = 0
    for target in targets:
        last = first + shapes[target][0]
        yield Part(name, target, rows=(first, last))
        first = last


def conversions(checkpoint: Checkpoint) -> Iterator[Conversion]:
    """The conversion of each model class that reads the checkpoint; the models have no memory.

    First the class of AutoModelForCausalLM, then the one that the config names. Raises WsteerError if transformers does
    not know the architecture.
    """
    config = read_config(checkpoint)
    tensors = {name: entry.shape for name, entry in checkpoint.tensors.items()}
    for kind in model_classes(checkpoint, config):
        yield Conversion(skeleton(checkpoint, config, kind), tensors)


def decoder_path(model: nn.Module) -> str:
    """The path of the list of decoder blocks of the language model, as `model.language_model.layers`.

    It is the first list with `num_hidden_layers` entries inside of the decoder that transformers names: towers come
    before the language model in some models. A block may hold lists of one entry; the outermost comes first.
    """
    known = cast(PreTrainedModel, model)
    decoder = known.get_decoder()
    count = known.config.get_text_config().num_hidden_layers
    if not any(isinstance(module, nn.ModuleList) for module in decoder.modules()):
        decoder = known  # it is a layer that happens to be called so, as ModernBERT's head
    inside = {id(module) for module in decoder.modules()}
    for name, module in model.named_modules():
        if id(module) in inside and isinstance(module, nn.ModuleList) and len(module) == count:
            return name
    raise WsteerError(f"{type(model).__name__} has no list of {count} decoder blocks that wsteer could find")
