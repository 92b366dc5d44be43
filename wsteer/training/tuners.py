"""peft's methods as a fine-tune uses them: which modules they adapt, the sizes that fit, how the adapter is written."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import (
    BOFTConfig,
    DeloraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    VeraConfig,
    get_peft_model,
)
from peft.utils import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    get_peft_model_state_dict,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from wsteer.checkpoints.checkpoint import hub_name
from wsteer.checkpoints.conversion import decoder_path
from wsteer.checkpoints.names import layer_of
from wsteer.deltas.adapters.adapter import PLAIN_INITS
from wsteer.deltas.adapters.reading import MUTATING_INITS, WEIGHTS
from wsteer.deltas.adapters.tuners import no_kernel
from wsteer.errors import WsteerError
from wsteer.models.loading import LoadedModel, decoder_blocks
from wsteer.training.memory import TRAINED_BYTES, free_bytes
from wsteer.training.recipe import Recipe

State = dict[str, Tensor]  # the trained parameters by name in the model, on the CPU
# each method's config in peft, and its fields for the options of a recipe
CONFIGS: dict[str, tuple[Callable[..., PeftConfig], dict[str, str]]] = {
    "lora": (
        LoraConfig,
        {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "dora": "use_dora", "rslora": "use_rslora"},
    ),
    "delora": (DeloraConfig, {"rank": "r", "dropout": "module_dropout"}),
    "oft": (OFTConfig, {"block_size": "oft_block_size", "dropout": "module_dropout"}),
    "boft": (BOFTConfig, {"block_size": "boft_block_size", "dropout": "boft_dropout"}),
    "ia3": (IA3Config, {}),
    "loha": (LoHaConfig, {"rank": "r", "alpha": "alpha"}),
    "lokr": (LoKrConfig, {"rank": "r", "alpha": "alpha"}),
    "vera": (VeraConfig, {"rank": "r", "dropout": "vera_dropout"}),
}


def adapted(loaded: LoadedModel, base: str | Path, recipe: Recipe) -> PeftModel:
    """The model with an adapter of the recipe's method, whose parameters alone are trainable."""
    _check_init(recipe)
    _check_modules(loaded, recipe)
    targets = _targets(loaded, recipe)
    _check_size(loaded, recipe, targets)
    kind, options = CONFIGS[recipe.method]
    settings: dict[str, Any] = {field: recipe.options[option] for option, field in options.items()}
    if recipe.method == "lora":
        settings["init_lora_weights"] = recipe.init or True
    elif recipe.method == "ia3":
        settings["feedforward_modules"] = _feedforward(loaded, targets)
    config = kind(
        task_type="CAUSAL_LM",
        target_modules=targets,
        modules_to_save=list(recipe.modules_to_save) or None,
        revision=loaded.checkpoint.revision,
        **settings,
    )
    try:
        with no_kernel(), warnings.catch_warnings():
            if recipe.method != "lora":  # what is adapted is checked and reported here
                warnings.simplefilter("ignore")
            model = get_peft_model(loaded.model, config)
    except (TypeError, ValueError) as error:  # raised for targets that the model lacks, or that it cannot adapt
        raise WsteerError(
            f"--method {recipe.method}, --targets: peft refuses them: {str(error).splitlines()[0]}"
        ) from None
    # the Hub id, not the cache folder that the model was loaded from
    model.peft_config["default"].base_model_name_or_path = hub_name(base) or str(base)
    return model


def save_adapter(model: PeftModel, initial: State, state: State, folder: Path) -> None:
    """Write the trained parameters `state` as a PEFT adapter; `initial` has the values of an init that was subtracted
    from the base, which becomes a plain LoRA of twice the rank."""
    config = model.peft_config["default"]
    tensors = get_peft_model_state_dict(
        model, state_dict={**_stored_buffers(model), **state}, save_embedding_layers=False
    )
    if isinstance(config, LoraConfig) and config.init_lora_weights in MUTATING_INITS:
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


def in_slice(loaded: LoadedModel, recipe: Recipe, names: list[str]) -> list[str]:
    """The names of modules or parameters in the blocks of the recipe's slice; all of them without a slice."""
    if recipe.layer_slice is None:
        return names
    blocks, path = recipe.blocks(len(decoder_blocks(loaded.model))), decoder_path(loaded.model)
    return [name for name in names if layer_of(name, path) in blocks]


def _targets(loaded: LoadedModel, recipe: Recipe) -> str | list[str]:
    """The modules to adapt, as peft takes them: names that end theirs, or for a slice and other methods all names."""
    if recipe.method == "lora" and recipe.layer_slice is None:
        return list(recipe.targets) or _default_targets(loaded)
    if not recipe.targets:
        default = _default_of_ia3(loaded) if recipe.method == "ia3" else _linear(loaded)
        return in_slice(loaded, recipe, _adaptable(loaded, default))
    linear = [name for name, module in loaded.model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    chosen: list[str] = []
    for target in recipe.targets:
        named = [name for name in linear if _ends(name, target)]
        if not named:
            why = "with --layer-slice" if recipe.method == "lora" else f"of --method {recipe.method}"
            raise WsteerError(f"--targets {target}: only linear layers can be targets {why}, and it is none")
        kept = in_slice(loaded, recipe, named)
        if not kept:
            raise WsteerError(f"--targets {target} has no module in the blocks of --layer-slice; leave it out")
        chosen += kept
    return list(dict.fromkeys(chosen))


def _default_targets(loaded: LoadedModel) -> str | list[str]:
    """What peft calls all-linear, or by name what of it can be adapted and is trained by text."""
    linear = _linear(loaded)
    kept = _adaptable(loaded, linear)
    return "all-linear" if len(kept) == len(linear) and not _path(loaded) else kept


def _linear(loaded: LoadedModel) -> list[str]:
    """The linear layers, without the head and without towers, which text does not train."""
    path, head = _path(loaded), loaded.model.get_output_embeddings()
    return [
        name
        for name, module in loaded.model.get_submodule(path).named_modules(prefix=path)
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]


def _adaptable(loaded: LoadedModel, linear: list[str]) -> list[str]:
    """Those of the linear layers that peft can adapt."""
    # a state-space (Mamba) block reads the weights of these past the layers, so that an adapter on them would be left
    # out; peft refuses them
    mamba = any(hasattr(module, "A_log") and hasattr(module, "D") for module in loaded.model.modules())
    read_past = ("out_proj", "conv1d") if mamba else ()
    return [
        name for name in linear if not name.endswith(read_past) and _gives_one_tensor(loaded.model.get_submodule(name))
    ]


def _path(loaded: LoadedModel) -> str:
    """The path of the modules that text trains: the decoder of a model with towers, else the whole model."""
    return decoder_path(loaded.model) if loaded.checkpoint.towers else ""


def _gives_one_tensor(module: nn.Module) -> bool:
    """Whether a layer gives one tensor, as peft expects: a router that is a linear layer may give more."""
    if type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    weight = module.get_parameter("weight")
    with torch.no_grad():
        return isinstance(module(torch.zeros(1, 1, weight.shape[1], device=weight.device, dtype=weight.dtype)), Tensor)


def _default_of_ia3(loaded: LoadedModel) -> list[str]:
    """The linear layers that peft has IA3 scale in this architecture, as keys, values and the MLP's last layer."""
    kind = _kind(loaded)
    ends = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind, [])
    found = [name for name in _linear(loaded) if any(_ends(name, end) for end in ends)]
    if not found:
        raise WsteerError(f"--method ia3: peft knows no modules to scale in a {kind} model; name them with --targets")
    return found


def _feedforward(loaded: LoadedModel, targets: str | list[str]) -> list[str]:
    """Those of the targets whose inputs IA3 scales, as peft has it for this architecture."""
    ends = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(_kind(loaded), [])
    return [name for name in targets if any(_ends(name, end) for end in ends)]


def _kind(loaded: LoadedModel) -> str:
    return loaded.model.config.get_text_config().model_type


def _ends(name: str, end: str) -> bool:
    """Whether a module's name is `end`, or ends in it as peft compares them."""
    return name == end or name.endswith(f".{end}")


def _check_init(recipe: Recipe) -> None:
    if recipe.init not in (*PLAIN_INITS, *MUTATING_INITS) or recipe.init == "eva":
        raise WsteerError(
            f"--init {recipe.init}: it needs data or does not undo itself; give gaussian, orthogonal, pissa or olora"
        )
    if recipe.init in MUTATING_INITS and recipe.dora:
        raise WsteerError(f"--init {recipe.init} changes the base, and --dora then has no plain LoRA; leave one out")


def _check_modules(loaded: LoadedModel, recipe: Recipe) -> None:
    """Refuse each name of targets or modules_to_save that matches nothing: peft is content with one that matches.

    Also a module that is trained whole in blocks outside of the slice, and what `wsteer diff` could not read.
    """
    modules = [name for name, _ in loaded.model.named_modules()]
    # experts are parameters in memory, and modules in the files
    experts = [name for name, _ in loaded.model.named_parameters() if not name.endswith((".weight", ".bias"))]
    known = [*modules, *experts, *(name.rpartition(".")[0] for name in loaded.checkpoint.tensors)]
    for option, names, candidates in (
        ("--targets", recipe.targets, known),
        ("--modules-to-save", recipe.modules_to_save, modules),
    ):
        for name in names:
            if not any(_ends(candidate, name) for candidate in candidates):
                leaves = sorted({module.rpartition(".")[2] for module in modules} - {""})
                listed = ", ".join(leaf for leaf in leaves if not leaf.isdigit())
                raise WsteerError(f"{option} {name}: {loaded.checkpoint.name} has no such module; it has {listed}")
    for name in recipe.modules_to_save if recipe.layer_slice is not None else ():
        path = decoder_path(loaded.model)
        # peft takes every module whose name ends so: norm is also input_layernorm
        matched = [module for module in modules if module.endswith(name) and layer_of(module, path) is not None]
        if in_slice(loaded, recipe, matched) != matched:
            raise WsteerError(f"--modules-to-save {name} is in blocks that --layer-slice leaves out; leave one out")
    ends = loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()
    tied = ends[1] is not None and ends[0].weight is ends[1].weight
    for name in (*recipe.targets, *recipe.modules_to_save) if tied and recipe.method != "lora" else ():
        if any(_ends(module, name) for module in modules if loaded.model.get_submodule(module) in ends):
            raise WsteerError(
                f"--method {recipe.method} and {name}, which {loaded.checkpoint.name} ties to another weight: diff "
                "could not read it; leave it out, or give --method lora"
            )


def _check_size(loaded: LoadedModel, recipe: Recipe, targets: str | list[str]) -> None:
    """Refuse a block size that does not fit the layers, and sizes that need more memory than is free."""
    ends = ("",) if isinstance(targets, str) else tuple(targets)
    sizes = {
        name: _features(module)
        for name, module in loaded.model.named_modules()
        if name.endswith(ends) and any(_features(module))
    }
    if not sizes:
        return
    size: int | None = recipe.options.get("block_size")
    inputs, outputs = ([each[side] for each in sizes.values()] for side in (0, 1))
    if size is not None and (wrong := [name for name in sizes if sizes[name][0] % size]):
        common = math.gcd(*inputs)
        fitting = [number for number in range(2, min(common, 1024) + 1) if common % number == 0]
        mend = f"{', '.join(map(str, fitting))} fit all targets" if fitting else "name fewer modules with --targets"
        raise WsteerError(
            f"--block-size {size} does not divide the {sizes[wrong[0]][0]} inputs of {wrong[0]}, as --method "
            f"{recipe.method} needs; {mend}"
        )
    trained = 4 + TRAINED_BYTES  # bytes of a trained parameter
    rank, block = recipe.options.get("rank", 0), size or 0
    needed = {
        "loha": 2 * rank * (sum(inputs) + sum(outputs)) * trained,
        "lokr": 0,  # peft takes whole matrices where the rank would need more
        "vera": rank * ((max(inputs) + max(outputs)) * 4 + len(sizes) * trained),
        "oft": sum(inputs) * (block - 1) // 2 * trained,
        "boft": sum(number * (4 * number + block * trained) for number in inputs),  # with permutations as matrices
        "ia3": 0,
    }.get(recipe.method, rank * (sum(inputs) + sum(outputs)) * trained)
    free = free_bytes(loaded.model.device)
    if needed > free:
        what = f"--block-size {block}" if size is not None else f"--rank {rank}"
        raise WsteerError(
            f"{what}: {recipe.method} of that size needs about {needed / 1e9:.3g} GB to train, and {free / 1e9:.3g} GB "
            "are free; lower it, or name fewer --targets"
        )


def _features(module: nn.Module) -> tuple[int, int]:
    """The numbers of inputs and outputs of a linear layer, also GPT-2's; zeros for others."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return getattr(module, "in_features", 0), getattr(module, "out_features", 0)


def _stored_buffers(model: nn.Module) -> State:
    """The buffers that a state dict holds, as VeRA's projections, under all their names."""
    return {
        f"{path}.{name}": buffer
        for path, module in model.named_modules(remove_duplicate=False)
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }


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
