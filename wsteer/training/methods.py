"""What is trained: LoRA factors, one bias a block, or all weights; and how the result becomes files."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from wsteer.checkpoints.checkpoint import INDEX, hub_name
from wsteer.checkpoints.conversion import decoder_path
from wsteer.checkpoints.names import file_names
from wsteer.deltas.adapters.adapter import PLAIN_INITS
from wsteer.deltas.adapters.reading import MUTATING_INITS, WEIGHTS
from wsteer.deltas.delta import DELTA, Delta
from wsteer.errors import WsteerError
from wsteer.models.loading import LoadedModel, decoder_blocks
from wsteer.training.memory import TRAINED_BYTES, free_bytes
from wsteer.training.recipe import Recipe

State = dict[str, Tensor]  # the trained parameters by name in the model, on the CPU
BIASED = "mlp.down_proj"  # the bias method trains the bias of this module of every block


def prepare(loaded: LoadedModel, base: str | Path, recipe: Recipe) -> nn.Module:
    """The model with only the recipe's parameters trainable. The seed determines LoRA's initial A."""
    transformers.set_seed(recipe.seed)
    if recipe.method == "lora":
        return _with_lora(loaded, base, recipe)
    if recipe.method == "bias":
        return _with_biases(loaded)
    loaded.model.requires_grad_(True)
    return loaded.model


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def copied_state(model: nn.Module) -> State:
    """A copy of the trained parameters on the CPU."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in trained_parameters(model).items()}


@torch.no_grad()
def restore_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set the trained parameters to what `copied_state` gave."""
    for name, parameter in trained_parameters(model).items():
        parameter.copy_(state[name])


def save(model: nn.Module, loaded: LoadedModel, recipe: Recipe, initial: State, state: State, folder: Path) -> None:
    """Write the trained parameters `state` as the method's files; `initial` has their initial values.

    LoRA gives a PEFT adapter, the biases a delta file, full fine-tuning a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        _save_adapter(model, initial, state, folder)
    elif recipe.method == "bias":
        _save_biases(loaded, initial, state, folder)
    else:
        _save_checkpoint(loaded, state, folder)


def _with_lora(loaded: LoadedModel, base: str | Path, recipe: Recipe) -> PeftModel:
    if recipe.init not in (*PLAIN_INITS, *MUTATING_INITS) or recipe.init == "eva":
        raise WsteerError(
            f"--init {recipe.init}: it needs data or does not undo itself; give gaussian, orthogonal, pissa or olora"
        )
    if recipe.init in MUTATING_INITS and recipe.dora:
        raise WsteerError(f"--init {recipe.init} changes the base, and --dora then has no plain LoRA; leave one out")
    _check_modules(loaded, recipe)
    _check_size(loaded, recipe)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=list(recipe.targets) or _default_targets(loaded),
        modules_to_save=list(recipe.modules_to_save) or None,
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=recipe.dropout,
        use_dora=recipe.dora,
        use_rslora=recipe.rslora,
        init_lora_weights=recipe.init or True,  # type: ignore[arg-type]  # checked above
        revision=loaded.checkpoint.revision,
    )
    try:
        model = get_peft_model(loaded.model, config)
    except ValueError as error:  # raised for targets that the model lacks
        raise WsteerError(f"--targets: peft refuses them: {str(error).splitlines()[0]}") from None
    # the Hub id, not the cache folder that the model was loaded from
    model.peft_config["default"].base_model_name_or_path = hub_name(base) or str(base)
    return model


def _default_targets(loaded: LoadedModel) -> str | list[str]:
    """What peft calls all-linear, without layers that it cannot adapt and without towers, which text does not train."""
    path = decoder_path(loaded.model) if loaded.checkpoint.towers else ""
    linear = [
        (name, module)
        for name, module in loaded.model.get_submodule(path).named_modules(prefix=path)
        if isinstance(module, nn.Linear | Conv1D) and module is not loaded.model.get_output_embeddings()
    ]
    # a state-space (Mamba) block reads the weights of these past the layers, so that an adapter on them would be left
    # out; peft refuses them
    mamba = any(hasattr(module, "A_log") and hasattr(module, "D") for module in loaded.model.modules())
    read_past = ("out_proj", "conv1d") if mamba else ()
    kept = [name for name, module in linear if not name.endswith(read_past) and _gives_one_tensor(module)]
    return "all-linear" if len(kept) == len(linear) and not path else kept


def _gives_one_tensor(module: nn.Module) -> bool:
    """Whether a layer gives one tensor, as peft expects: a router that is a linear layer may give more."""
    if type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    weight = module.get_parameter("weight")
    with torch.no_grad():
        return isinstance(module(torch.zeros(1, 1, weight.shape[1], device=weight.device, dtype=weight.dtype)), Tensor)


def _check_modules(loaded: LoadedModel, recipe: Recipe) -> None:
    """Refuse each name of targets or modules_to_save that matches nothing: peft is content with one that matches."""
    modules = [name for name, _ in loaded.model.named_modules()]
    # experts are parameters in memory, and modules in the files
    experts = [name for name, _ in loaded.model.named_parameters() if not name.endswith((".weight", ".bias"))]
    known = [*modules, *experts, *(name.rpartition(".")[0] for name in loaded.checkpoint.tensors)]
    for option, names, candidates in (
        ("--targets", recipe.targets, known),
        ("--modules-to-save", recipe.modules_to_save, modules),
    ):
        for name in names:
            if not any(candidate == name or candidate.endswith(f".{name}") for candidate in candidates):
                leaves = sorted({module.rpartition(".")[2] for module in modules} - {""})
                listed = ", ".join(leaf for leaf in leaves if not leaf.isdigit())
                raise WsteerError(f"{option} {name}: {loaded.checkpoint.name} has no such module; it has {listed}")


def _check_size(loaded: LoadedModel, recipe: Recipe) -> None:
    """Refuse a rank whose factors, gradients and moments need more memory than is free, before they are made."""
    ends = tuple(recipe.targets) or ("",)
    features = sum(
        getattr(module, key, 0)
        for name, module in loaded.model.named_modules()
        if name.endswith(ends)
        for key in ("in_features", "out_features", "nx", "nf")  # of a linear module, and of GPT-2's
    )
    needed, free = recipe.rank * features * (4 + TRAINED_BYTES), free_bytes(loaded.model.device)
    if needed > free:
        raise WsteerError(
            f"--rank {recipe.rank}: LoRA of that rank needs about {needed / 1e9:.3g} GB to train, and "
            f"{free / 1e9:.3g} GB are free; lower it"
        )


def _with_biases(loaded: LoadedModel) -> nn.Module:
    """The model with only the bias of each block's `BIASED` trainable; a missing bias is added with the value zero."""
    loaded.model.requires_grad_(False)
    for block in decoder_blocks(loaded.model):
        module = dict(block.named_modules()).get(BIASED)
        if not isinstance(module, nn.Linear):
            raise WsteerError(
                f"--method bias: the blocks of {loaded.checkpoint.name} have no linear {BIASED}; use lora"
            )
        # float32 in any case: 16 bits would round small steps away
        values = torch.zeros(module.out_features) if module.bias is None else module.bias.detach()
        module.bias = nn.Parameter(values.to(module.weight.device, torch.float32))
    return loaded.model


def _save_adapter(model: PeftModel, initial: State, state: State, folder: Path) -> None:
    config = model.peft_config["default"]
    if not isinstance(config, LoraConfig):
        raise AssertionError("wsteer trains no other adapter than LoRA")
    tensors = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    if config.init_lora_weights in MUTATING_INITS:
        before = get_peft_model_state_dict(model, state_dict=initial, save_embedding_layers=False)
        config, tensors = _as_plain_lora(config, before, tensors)
    else:
        config = replace(config)
    config.inference_mode = True
    for name, value in vars(config).items():
        if isinstance(value, set):  # its order differs from run to run
            setattr(config, name, sorted(value))
    config.save_pretrained(str(folder))
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / WEIGHTS, metadata={"format": "pt"})


def _as_plain_lora(config: LoraConfig, before: State, after: State) -> tuple[LoraConfig, State]:
    """The change `BA - B₀A₀`, where the start `B₀A₀` was subtracted from the base, as LoRA of twice the rank."""
    tensors = dict(after)
    for name, tensor in after.items():
        if "lora_A" in name:
            tensors[name] = torch.cat([tensor, before[name]])
        elif "lora_B" in name:
            tensors[name] = torch.cat([tensor, -before[name]], dim=1)
    grown = 2**0.5 if config.use_rslora else 2  # keeps alpha / rank, or alpha / √rank, the same
    plain = replace(config, r=2 * config.r, lora_alpha=grown * config.lora_alpha, init_lora_weights=True)  # type: ignore[arg-type]
    return plain, tensors


def _save_biases(loaded: LoadedModel, initial: State, state: State, folder: Path) -> None:
    """The change of the biases as a delta file, under the names of the base's files."""
    weights = [name.removesuffix("bias") + "weight" for name in state]
    files = file_names(weights, loaded.checkpoint, "--method bias")
    renamed = {name: files[weight].removesuffix("weight") + "bias" for name, weight in zip(state, weights, strict=True)}
    delta = Delta.of_tensors({renamed[name]: tensor - initial[name] for name, tensor in state.items()})
    replace(delta, base=loaded.checkpoint.identity).save(folder / DELTA)


def _save_checkpoint(loaded: LoadedModel, state: State, folder: Path) -> None:
    """The trained weights as a checkpoint, with the base's tokenizer and other files."""
    buffers = dict(loaded.model.named_buffers())
    kept = {name: tensor for name, tensor in loaded.model.state_dict().items() if name in buffers}
    loaded.model.save_pretrained(folder, state_dict={**kept, **state})
    written = {path.name for path in folder.iterdir()} | {INDEX}
    for path in sorted(loaded.checkpoint.folder.iterdir()):
        plain = path.is_file() and path.suffix not in (".safetensors", ".bin") and not path.name.startswith(".")
        if plain and path.name not in written - {"generation_config.json"}:
            shutil.copyfile(path, folder / path.name)
