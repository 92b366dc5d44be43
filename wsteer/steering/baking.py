"""Steering vectors baked into weights: a vector added after a decoder block is a bias of its `mlp.down_proj`.

That is exact if the block adds the output of down_proj unchanged to the residual stream (notes: activations A4). It is
done where stock transformers can load a model with that bias: Llama, and Qwen2 saved as an equal Llama.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.deltas.biases import BIAS_PATTERN
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.steering.layout import OutputTensor


@dataclass(frozen=True)
class Baked:
    """What a checkpoint needs to hold the biases: new tensors, all zero before the delta, and config values."""

    added: dict[str, OutputTensor]
    config: dict[str, object]


def baked(delta: Delta, checkpoint: Checkpoint) -> Baked:
    """What must be added to the checkpoint for the delta's biases of down_proj; empty if it has them all.

    Raises WsteerError if the result would not compute the same function; the message names another way.
    """
    missing = [name for name in delta.terms if BIAS_PATTERN.fullmatch(name) and name not in checkpoint.tensors]
    if not missing:
        return Baked({}, {})
    config = checkpoint.config
    config_values = _llama_config(checkpoint, missing[0])
    added: dict[str, OutputTensor] = {}
    for layer in range(checkpoint.config_number("num_hidden_layers")):
        for module in _zero_biases(config):
            name = f"model.layers.{layer}.{module}.bias"
            weight = checkpoint.tensors.get(f"model.layers.{layer}.{module}.weight")
            if weight is None:
                raise WsteerError(f"{checkpoint.name} lacks model.layers.{layer}.{module}.weight; is it complete?")
            if name not in checkpoint.tensors:
                added[name] = OutputTensor(name, weight.dtype, weight.shape[:1], 0, None)
    unknown = [name for name in missing if name not in added]
    if unknown:
        raise WsteerError(f"{checkpoint.name} has no block for {unknown[0]}; was the vector made on another model?")
    return Baked(added, config_values)


def _zero_biases(config: Mapping[str, object]) -> list[str]:
    """The modules that get a bias of zero: those of Llama's mlp_bias, and for Qwen2 also o_proj, for attention_bias."""
    mlp = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    return [*mlp, "self_attn.o_proj"] if config.get("model_type") == "qwen2" else mlp


def _llama_config(checkpoint: Checkpoint, name: str) -> dict[str, object]:
    """The config values with which stock transformers loads the biases; an error if there are none."""
    config = checkpoint.config
    kind = config.get("model_type")
    if kind == "llama":
        return {"mlp_bias": True}
    if kind == "qwen2":
        layers = config.get("layer_types") or []
        if (
            config.get("use_sliding_window")
            or not isinstance(layers, list)
            or set(map(str, layers)) - {"full_attention"}
        ):
            raise WsteerError(_refusal(checkpoint, name, "its sliding window has no counterpart in Llama"))
        head = checkpoint.config_number("hidden_size") // checkpoint.config_number("num_attention_heads")
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": config.get("head_dim") or head,
            "sliding_window": None,
        }
    reasons = {
        "qwen3": "transformers' Qwen3 has no bias there, and its q and k norms no counterpart in Llama",
        "gemma": "transformers' Gemma has no bias there",
        "gemma2": "its block normalises the output of down_proj, so that a bias is not the same",
        "gemma3": "its block normalises the output of down_proj, so that a bias is not the same",
        "gemma3_text": "its block normalises the output of down_proj, so that a bias is not the same",
    }
    raise WsteerError(_refusal(checkpoint, name, reasons.get(str(kind), f"transformers' {kind} has no such bias")))


def _refusal(checkpoint: Checkpoint, name: str, reason: str) -> str:
    return f"{checkpoint.name} cannot hold {name}: {reason}; apply it while generating: wsteer eval --delta"
