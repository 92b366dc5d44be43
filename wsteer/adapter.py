"""PEFT adapter folders read as low-rank changes of weights, without loading peft or the base."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wsteer.checkpoint import FLOATS, TensorEntry, local_name, open_checkpoint, read_header, read_json, read_tensor
from wsteer.errors import WsteerError
from wsteer.saving import RECORD

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

# what a LoRA config may say beyond plain factors; each changes the formula of the merged weight (peft tuners/lora)
UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "lora_bias",
    "modules_to_save": "modules_to_save",
    "trainable_token_indices": "trainable_token_indices",
    "target_parameters": "target_parameters",
    "layer_replication": "layer_replication",
    "alora_invocation_tokens": "aLoRA",
    "arrow_config": "Arrow",
    "use_qalora": "QALoRA",
    "fan_in_fan_out": "fan_in_fan_out (Conv1D)",
    "use_bdlora": "BD-LoRA",
}
# GPT-2's layers store their weight as [in, out] and the config does not tell reliably (peft flips fan_in_fan_out)
CONV1D = re.compile(r"\bh\.\d+\.(attn|mlp)\.c_(attn|proj|fc)$")
PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")  # those that leave the base's weights as they are


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: for each parameter of the base its change `lora_B @ lora_A`, scale folded into lora_B.

    `factors[parameter]` is (lora_B [out, r], lora_A [r, in]), float32.
    """

    folder: Path
    base: dict[str, str | None]
    factors: dict[str, tuple[Tensor, Tensor]]

    @property
    def weights(self) -> Path:
        """The file that holds the factors."""
        return self.folder / WEIGHTS


def is_adapter(folder: Path) -> bool:
    """Whether `folder` is a PEFT adapter."""
    return (folder / CONFIG).exists()


def read_adapter(folder: Path) -> Adapter:
    """Read a LoRA adapter folder. Variants whose change is not plain `scale * B @ A` are refused by name."""
    config = read_json(folder / CONFIG)
    _check_config(folder, config)
    if not (folder / WEIGHTS).exists():
        raise WsteerError(f"{folder} has no {WEIGHTS}; save the adapter with save_pretrained again")
    entries, _ = read_header(folder / WEIGHTS)
    pairs: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in entries.items():
        module, kind = _split_key(folder, name)
        pairs.setdefault(module, {})[kind] = entry
    if not pairs:
        raise WsteerError(f"{folder} holds no LoRA factors; was it saved before training?")
    factors = {f"{module}.weight": _folded(folder, module, pair, config) for module, pair in pairs.items()}
    return Adapter(folder, _base(folder, config), factors)


def _check_config(folder: Path, config: dict) -> None:
    if config.get("peft_type") != "LORA":
        raise WsteerError(f"{folder} is a {config.get('peft_type')} adapter; wsteer reads LoRA adapters")
    found = [label for key, label in UNSUPPORTED.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        found.append(f"bias={config['bias']}")
    if config.get("init_lora_weights", True) not in PLAIN_INITS:
        found.append(f"init_lora_weights={config['init_lora_weights']}")
    if not all(type(config.get(key)) in (int, float) for key in ("r", "lora_alpha")):
        raise WsteerError(f"{folder / CONFIG} lacks the numbers r and lora_alpha; save the adapter again")
    if not all(isinstance(config.get(key) or {}, dict) for key in ("rank_pattern", "alpha_pattern")):
        raise WsteerError(f"{folder / CONFIG}: rank_pattern and alpha_pattern must be objects; save the adapter again")
    if found:
        raise WsteerError(
            f"{folder} uses {', '.join(found)}, which is not plain LoRA; merge it in float32 and diff that"
        )


def _split_key(folder: Path, name: str) -> tuple[str, str]:
    """The module path and `lora_A` or `lora_B` of a key like `base_model.model.M.lora_A.weight`."""
    match = re.fullmatch(re.escape(PREFIX) + r"(.+)\.(lora_[AB])\.weight", name)
    if match is None:
        raise WsteerError(
            f"{folder}: the tensor {name!r} is not a factor of plain LoRA; merge the adapter and diff that"
        )
    if CONV1D.search(match[1]):
        raise WsteerError(
            f"{folder} adapts {match[1]}, a Conv1D or not: its orientation is not known; merge it in float32"
        )
    return match[1], match[2]


def _folded(folder: Path, module: str, pair: dict[str, TensorEntry], config: dict) -> tuple[Tensor, Tensor]:
    if len(pair) != 2:
        missing = ({"lora_A", "lora_B"} - pair.keys()).pop()
        raise WsteerError(f"{folder}: {module} has no {missing} in {WEIGHTS}; save the adapter again")
    a, b = pair["lora_A"], pair["lora_B"]
    if a.dtype not in FLOATS or b.dtype not in FLOATS:
        raise WsteerError(f"{folder}: the factors of {module} are {a.dtype} and {b.dtype}, not floating-point")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or 0 in a.shape + b.shape:
        # what ZeRO-3 and FSDP leave when an adapter is saved without gathering it
        raise WsteerError(
            f"{folder}: the factors of {module} have shapes {a.shape} and {b.shape}; save the adapter again"
        )
    rank = _pattern_value(config.get("rank_pattern"), module, config["r"])
    if rank != a.shape[0]:
        raise WsteerError(f"{folder}: {module} has rank {a.shape[0]} in {WEIGHTS} but {rank} in {CONFIG}")
    alpha = _pattern_value(config.get("alpha_pattern"), module, config["lora_alpha"])
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    lora_a, lora_b = read_tensor(a).float(), read_tensor(b).float()
    if not (torch.isfinite(lora_a).all() and torch.isfinite(lora_b).all()):
        raise WsteerError(f"{folder}: the factors of {module} hold NaN or infinity; the training run diverged")
    return scale * lora_b, lora_a


def _pattern_value(pattern: dict | None, module: str, default: float) -> float:
    """The first pattern, in dict order, that ends `module` at a dot; the keys are regexes (peft `get_pattern_key`)."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _base(folder: Path, config: dict) -> dict[str, str | None]:
    """The base as the training run recorded it, else as far as adapter_config.json and the disk tell."""
    inputs = read_json(folder / RECORD).get("inputs") if (folder / RECORD).exists() else []
    for entry in inputs if isinstance(inputs, list) else []:
        if isinstance(entry, dict) and entry.get("role") == "base":
            return {key: entry.get(key) for key in ("name", "revision", "fingerprint")}
    name = config.get("base_model_name_or_path")
    if not name or not isinstance(name, str):
        return {"name": None, "revision": None, "fingerprint": None}
    if Path(name).is_dir():
        with contextlib.suppress(WsteerError):  # a base in another format: the difference does not need it
            return open_checkpoint(name).identity
    return {"name": local_name(name), "revision": config.get("revision"), "fingerprint": None}
