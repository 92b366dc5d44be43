"""What is trained: an adapter of one of peft's methods, one bias a block, or all weights; and how it becomes files."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import transformers
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from wsteer.checkpoints.checkpoint import INDEX
from wsteer.checkpoints.conversion import decoder_path
from wsteer.checkpoints.names import NUMBERED, file_names, layer_of, module_name
from wsteer.deltas.delta import DELTA, Delta
from wsteer.errors import WsteerError
from wsteer.models.loading import LoadedModel, decoder_blocks
from wsteer.training.recipe import ADAPTERS, Recipe
from wsteer.training.tuners import State, adapted, in_slice, save_adapter

BIASED = "mlp.down_proj"  # the bias method trains the bias of this module of every block


@dataclass(frozen=True)
class Reach:
    """What training can change: modules by the last part of their names, in which of the language model's `blocks`.

    `share` is that of their weights in all weights of the blocks (norms and biases aside). `blocks` is empty where the
    model has no one list of blocks.
    """

    modules: tuple[str, ...]
    blocks: tuple[int, ...]
    share: float


def prepare(loaded: LoadedModel, base: str | Path, recipe: Recipe) -> nn.Module:
    """The model with only the recipe's parameters trainable. The seed determines an adapter's initial values."""
    transformers.set_seed(recipe.seed)
    if recipe.method in ADAPTERS:
        return adapted(loaded, base, recipe)
    if recipe.method == "bias":
        return _with_biases(loaded, recipe)
    loaded.model.requires_grad_(True)
    if recipe.layer_slice is not None:
        kept = set(in_slice(loaded, recipe, [name for name, _ in loaded.model.named_parameters()]))
        for name, parameter in loaded.model.named_parameters():
            parameter.requires_grad_(name in kept)
    return loaded.model


def block_weights(loaded: LoadedModel) -> dict[str, int]:
    """The number of values of each weight in the blocks of the language model, by name; before `prepare`."""
    path = decoder_path(loaded.model) if loaded.checkpoint.towers else ""
    return {
        name: parameter.numel()
        for name, parameter in loaded.model.named_parameters()
        if parameter.ndim > 1 and name.startswith(path) and NUMBERED.match(name)
    }


def reach(model: nn.Module, loaded: LoadedModel, weights: Mapping[str, int]) -> Reach:
    """What training of the prepared model can change; `weights` are those of `block_weights`."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if isinstance(model, PeftModel):
        whole = [name for name in names if ".modules_to_save." in name]
        names = [name.removeprefix("base_model.model.").replace(".modules_to_save.default", "") for name in whole]
        tuner = cast(BaseTuner, model.base_model)
        names += [f"{module}.weight" for module in tuner.targeted_module_names]
        names += tuner.targeted_parameter_names
    try:
        path: str | None = decoder_path(loaded.model)
    except WsteerError:
        path = None
    blocks = {block for name in names if path is not None and (block := layer_of(name, path)) is not None}
    share = sum(weights.get(name, 0) for name in set(names)) / max(sum(weights.values()), 1)
    return Reach(tuple(sorted(set(map(module_name, names)))), tuple(sorted(blocks)), share)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def copied_state(model: nn.Module) -> State:
    """A copy of the trained parameters on the CPU."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in trained_parameters(model).items()}


@torch.no_grad()
def restore_state(model: nn.Module, state: State) -> None:
    """Set the trained parameters to what `copied_state` gave."""
    for name, parameter in trained_parameters(model).items():
        parameter.copy_(state[name])


def save(model: nn.Module, loaded: LoadedModel, recipe: Recipe, initial: State, state: State, folder: Path) -> None:
    """Write the trained parameters `state` as the method's files; `initial` has their initial values.

    peft's methods give a PEFT adapter, the biases a delta file, full fine-tuning a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        save_adapter(model, initial, state, folder)
    elif recipe.method == "bias":
        _save_biases(loaded, initial, state, folder)
    else:
        _save_checkpoint(loaded, state, folder)


def _with_biases(loaded: LoadedModel, recipe: Recipe) -> nn.Module:
    """The model with only the bias of each block's `BIASED` trainable; a missing bias is added with the value zero."""
    loaded.model.requires_grad_(False)
    blocks = decoder_blocks(loaded.model)
    for number in recipe.blocks(len(blocks)):
        module = dict(blocks[number].named_modules()).get(BIASED)
        if not isinstance(module, nn.Linear):
            raise WsteerError(
                f"--method bias: the blocks of {loaded.checkpoint.name} have no linear {BIASED}; use lora"
            )
        # float32 in any case: 16 bits would round small steps away
        values = torch.zeros(module.out_features) if module.bias is None else module.bias.detach()
        module.bias = nn.Parameter(values.to(module.weight.device, torch.float32))
    return loaded.model


def _save_biases(loaded: LoadedModel, initial: State, state: State, folder: Path) -> None:
    """The change of the biases as a delta file, under the names of the base's files."""
    weights = [name.removesuffix("bias") + "weight" for name in state]
    files = file_names(weights, loaded.checkpoint, "--method bias")
    renamed = {name: files[weight].removesuffix("weight") + "bias" for name, weight in zip(state, weights, strict=True)}
    delta = Delta.of_tensors({renamed[name]: tensor - initial[name] for name, tensor in state.items()})
    replace(delta, base=loaded.checkpoint.identity).save(folder / DELTA)


def _save_checkpoint(loaded: LoadedModel, state: State, folder: Path) -> None:
    """The trained weights as a checkpoint, with the weights that were not trained and the base's other files."""
    fixed = {name for name, _ in loaded.model.named_buffers()}
    fixed |= {name for name, parameter in loaded.model.named_parameters() if not parameter.requires_grad}
    kept = {name: tensor for name, tensor in loaded.model.state_dict().items() if name in fixed}
    loaded.model.save_pretrained(folder, state_dict={**kept, **state})
    written = {path.name for path in folder.iterdir()} | {INDEX}
    for path in sorted(loaded.checkpoint.folder.iterdir()):
        plain = path.is_file() and path.suffix not in (".safetensors", ".bin") and not path.name.startswith(".")
        if plain and path.name not in written - {"generation_config.json"}:
            shutil.copyfile(path, folder / path.name)
