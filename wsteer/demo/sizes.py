"""Sizes of a model, told from its files without its weights, and of what a fine-tune of it trains and keeps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsteer.checkpoints.checkpoint import Checkpoint, local_checkpoint
from wsteer.checkpoints.names import NUMBERED
from wsteer.errors import WsteerError
from wsteer.training.recipe import Recipe
from wsteer.training.tuners import MUTATING_INITS

ENDS = ("embed_tokens", "lm_head", "wte")  # embedding and head, each of vocabulary x hidden numbers
STATED = ("parameters", "blocks", "hidden", "intermediate", "vocabulary", "key_values")


@dataclass(frozen=True)
class Size:
    """A model's numbers: `linear` has the inputs and outputs of the linear layers in its blocks, `stored` its bytes.

    `key_values` is the width of the keys of a token in one block, and of its values.
    """

    parameters: int
    blocks: int
    hidden: int
    intermediate: int
    vocabulary: int
    key_values: int
    linear: Mapping[str, tuple[int, int]]
    stored: int

    @property
    def bytes_a_number(self) -> int:
        """Of a weight as it is stored: 2 or 4."""
        return 4 if self.stored > 3 * self.parameters else 2


def size_of(model: str, stated: Mapping[str, float]) -> Size | None:
    """The sizes of a model that is on this machine, else those that are `stated` (see `Scale`), else None."""
    checkpoint = local_checkpoint(model)
    if checkpoint is not None:
        return _read(checkpoint)
    if set(STATED) - stated.keys():
        return None
    numbers = {name: int(stated[name]) for name in STATED}
    hidden, inner, keys = numbers["hidden"], numbers["intermediate"], numbers["key_values"]
    layers = {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (hidden, hidden),
    }
    layers |= {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
    linear = {f"layers.{i}.{name}": shape for i in range(numbers["blocks"]) for name, shape in layers.items()}
    return Size(**numbers, linear=linear, stored=2 * numbers["parameters"])  # published weights have 16 bits


def _read(checkpoint: Checkpoint) -> Size:
    """From config.json and the headers of the weight files."""
    tensors = checkpoint.tensors
    linear = {
        name.removesuffix(".weight"): (entry.shape[1], entry.shape[0])
        for name, entry in tensors.items()
        if len(entry.shape) == 2 and NUMBERED.match(name) and name.endswith(".weight")
    }
    hidden = checkpoint.config_number("hidden_size", "n_embd")
    keys = [shape[1] for name, shape in linear.items() if name.endswith("k_proj")]
    return Size(
        parameters=sum(math.prod(entry.shape) for entry in tensors.values()),
        blocks=checkpoint.config_number("num_hidden_layers", "n_layer"),
        hidden=hidden,
        intermediate=max((max(shape) for shape in linear.values()), default=hidden),
        vocabulary=checkpoint.config_number("vocab_size"),
        key_values=keys[0] if keys else hidden,
        linear=linear,
        stored=sum(path.stat().st_size for path in checkpoint.shards),
    )


@dataclass(frozen=True)
class Change:
    """A change of weights by its numbers: of `factors` of low rank, and `dense` ones. Files have 4 bytes for each."""

    factors: int
    dense: int

    @property
    def bytes(self) -> int:
        """On disk, in float32."""
        return 4 * (self.factors + self.dense)


def trained(size: Size, recipe: Recipe) -> Change:
    """What a fine-tune trains.

    Of LoRA, over all targets: rank x (inputs + outputs), and of DoRA the outputs; of biases hidden x blocks; of a full
    fine-tune all weights (of a slice those of its blocks). Modules that are trained whole count in full. Those of oft,
    boft, vera, loha and lokr are near what peft makes.
    """
    blocks = set(recipe.blocks(size.blocks))
    layers = {name: shape for name, shape in size.linear.items() if _block(name) in blocks}
    if recipe.method == "bias":
        return Change(0, len(blocks) * size.hidden)
    if recipe.method == "full":
        sliced = recipe.layer_slice is not None
        return Change(0, sum(i * o for i, o in layers.values()) if sliced else size.parameters)
    targets = [shape for name, shape in layers.items() if _is_named(name, recipe.targets)]
    whole = [
        shape for name, shape in layers.items() if recipe.modules_to_save and _is_named(name, recipe.modules_to_save)
    ]
    ends = [name for name in recipe.modules_to_save if name in ENDS]
    dense = sum(i * o for i, o in whole) + len(ends) * size.vocabulary * size.hidden
    return Change(sum(_numbers(i, o, recipe) for i, o in targets), dense)


def _numbers(inputs: int, outputs: int, recipe: Recipe) -> int:
    """What one layer's adapter has of trained numbers."""
    rank, block = recipe.options.get("rank", 0), recipe.options.get("block_size", 0)
    low = rank * (inputs + outputs)
    return {
        "lora": low + (outputs if recipe.dora else 0),
        "loha": 2 * low,
        "lokr": math.isqrt(inputs * outputs) + math.isqrt(rank * rank * max(inputs, outputs)),
        "vera": rank + outputs,
        "oft": inputs * (block - 1) // 2,
        "boft": inputs * block,
        "ia3": outputs,
    }.get(recipe.method, low)


def kept(size: Size, recipe: Recipe) -> Change:
    """What the files of a fine-tune hold: of a LoRA whose start changes the base a plain one of twice the rank."""
    change = trained(size, recipe)
    if recipe.method == "full":
        return Change(0, size.parameters)
    if recipe.method == "lora" and recipe.init in MUTATING_INITS:
        return Change(2 * change.factors, change.dense)
    return change


def of_rank(size: Size, rank: int) -> Change:
    """The closest change of a rank, of all linear layers."""
    return Change(rank * sum(i + o for i, o in size.linear.values()), 0)


def _block(name: str) -> int:
    found = NUMBERED.match(name)
    if found is None:
        raise WsteerError(f"{name} is in no block")
    return int(found[2])


def _is_named(name: str, ends: Sequence[str]) -> bool:
    """Whether a layer's name ends in one of these; without any it does."""
    return not ends or any(name == end or name.endswith(f".{end}") for end in ends)
