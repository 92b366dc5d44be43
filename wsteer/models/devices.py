"""Where models run and products are taken: the device that --device names."""

import torch

from wsteer.errors import WsteerError

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(device: str) -> str:
    """The device that --device names; auto is CUDA, else Apple's MPS, else the CPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise WsteerError(f"--device {device}: this machine has no CUDA device that torch can use; use --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise WsteerError("--device mps: this machine has no MPS device that torch can use; use --device cpu")
    return device


def float64_device(device: str) -> str:
    """The same for products in float64, which MPS lacks: auto is CUDA, else the CPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in DEVICES:  # cuda:1 is one of several
        raise WsteerError(f"device is {device!r}; it must be one of {', '.join(DEVICES)}")
    if device.startswith("mps"):
        raise WsteerError("--device mps: it has no float64, in which cosines are taken; use --device cpu")
    return resolve_device(device)
