"""Whether a run's activations fit into memory, and gradient checkpointing if they do not."""

from collections.abc import Callable

import psutil
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

SHARE = 0.8  # of the free memory, which a run may use
PROBE = 32  # tokens in the measured forward pass
TRAINED_BYTES = 12  # per trained parameter: gradient and AdamW's two moments, in float32


def needs_checkpointing(model: nn.Module, tokens: int, autocast: torch.dtype | None = None) -> bool:
    """Whether a micro-batch of `tokens` (padding included) needs too much of the free memory of the model's device.

    `autocast` is the type that products are computed in, None for the model's own.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    needed = tokens * activation_bytes(model, autocast) + TRAINED_BYTES * trained
    return needed > SHARE * free_bytes(next(model.parameters()).device)


def activation_bytes(model: nn.Module, autocast: torch.dtype | None = None) -> float:
    """The bytes that the backward pass needs per token, measured on a short row; weights are not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def counted(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold the graph that holds it, for good, with all weights

    device = next(model.parameters()).device
    ids = torch.zeros(1, PROBE, dtype=torch.int64, device=device)
    hooks = torch.autograd.graph.saved_tensors_hooks(counted, lambda tensor: tensor)
    with hooks, torch.autocast(device.type, autocast, enabled=autocast is not None):
        outputs = model(input_ids=ids, labels=ids)  # kept until all is counted, so no address is used twice
    total = sum(saved.values())
    del outputs
    return total / PROBE


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Keep only each block's input for the backward pass, which computes the rest again."""
    newer: Callable | None = getattr(model, "activation_checkpointing_enable", None)
    if newer is not None:
        newer(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def free_bytes(device: torch.device) -> int:
    """The memory of a device that is free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available  # Apple's GPU shares the system's memory
