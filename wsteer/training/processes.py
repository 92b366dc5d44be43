"""The processes of one run: one, or several started by torchrun or accelerate; and their common output folder."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import PartialState
from torch.distributed import ReduceOp

from wsteer.errors import WsteerError
from wsteer.files.provenance import key
from wsteer.files.saving import new_folder, partial_folder

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # variables that torchrun sets
LAUNCH = "start several processes by torchrun or accelerate launch, or unset"


def count() -> int:
    """How many processes train together."""
    return _variable("WORLD_SIZE", 1)


def number() -> int:
    """This process's number, counted from 0."""
    return _variable("RANK", 0)


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,6}", text):
        raise WsteerError(f"the variable {name}={text!r} is no number; {LAUNCH} it")
    return int(text)


def check() -> None:
    """Refuse variables of several processes that no launcher sets so: libraries would end in tracebacks."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing and (count() > 1 or os.environ.get("LOCAL_RANK", "-1") != "-1"):
        found = [name for name in NEEDED if os.environ.get(name)]
        raise WsteerError(f"{', '.join(found)} are set, but not {', '.join(missing)}; {LAUNCH} the former")
    wanted = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    if wanted and importlib.util.find_spec("deepspeed") is None:
        raise WsteerError("ACCELERATE_USE_DEEPSPEED is set, but deepspeed is not installed: pip install deepspeed")


def is_first() -> bool:
    """Whether this is the one process that writes files and prints."""
    return number() == 0


def is_sharded() -> bool:
    """Whether accelerate spreads the model's own weights over the processes (FSDP, DeepSpeed)."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("FSDP", "DEEPSPEED"))


def join(device: str) -> None:
    """Connect to the other processes, each on its own device if there are CUDA devices."""
    if count() > 1:
        PartialState(cpu=device == "cpu")


def wait() -> None:
    """Wait until all processes have called this; returns at once if they have not joined."""
    if count() > 1 and PartialState._shared_state:
        PartialState().wait_for_everyone()


def highest(value: int, device: torch.device) -> int:
    """The largest of the processes' values."""
    return int(_reduced(torch.tensor(value, device=device), ReduceOp.MAX)) if count() > 1 else value


def summed(values: list[float], device: torch.device) -> list[float]:
    """The sums of the processes' values, in float64 if the device has it."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    total = torch.tensor(values, device=device, dtype=dtype)
    return _reduced(total, ReduceOp.SUM).tolist() if count() > 1 else values


def _reduced(tensor: torch.Tensor, operation: ReduceOp.RedOpType) -> torch.Tensor:
    torch.distributed.all_reduce(tensor, operation)
    return tensor


@contextlib.contextmanager
def shared_folder(output: Path, force: bool, record: dict, resume: bool) -> Iterator[Path]:
    """The folder to write: the first process makes it, and moves it to `output` when all are done.

    `record` identifies the run: `resume` continues with the folder of an interrupted run of the same record.
    """
    name = key(record)
    if not is_first():
        wait()
        yield partial_folder(output, name)
        wait()
        return
    with new_folder(output, force, name, resume) as partial:
        wait()
        yield partial
        wait()
