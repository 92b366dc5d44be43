"""Two processes on a CPU, with a copy of the model each or with parts of it (FSDP): the result of one, told once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from wsteer.errors import WsteerError
from wsteer.training.finetune import finetune
from wsteer.training.recipe import Recipe
from wsteer.training.trainer import Plan, plan, training_arguments

# ten rows in steps of four: the last step of an epoch has two rows, and one process would have none in its micro-batch
RECIPE = Recipe(lr=1e-2, max_steps=7, batch_size=4, micro_batch_size=1, rank=4, eval_every=3, val_fraction=0.1)
FSDP = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "use_cpu": True,
    "num_machines": 1,
    "num_processes": 2,
    "machine_rank": 0,
    "mixed_precision": "no",
    "fsdp_config": {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_state_dict_type": "FULL_STATE_DICT",
    },
}
# accelerate spreads a model only over accelerators; told that CPU processes are such, it does so with gloo
ON_CPU = """
import sys
from accelerate import PartialState
from accelerate.utils import DistributedType
from wsteer.training.trainer import AnswerTrainer

begin, load = PartialState.__init__, AnswerTrainer.get_train_dataloader

def init(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    if self._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU

def checked(self):
    assert self.is_fsdp_enabled
    return load(self)

PartialState.__init__, AnswerTrainer.get_train_dataloader = init, checked
from wsteer.cli.main import main
main(sys.argv[1:])
"""


def arguments(base: Path, data: Path, output: Path) -> list[str]:
    numbers = ["--lr", "1e-2", "--max-steps", "7", "--batch-size", "4", "--rank", "4", "--eval-every", "3"]
    return ["finetune", str(base), str(data), "-o", str(output), *numbers, "--val-fraction", "0.1", "--save-every", "5"]


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def launched(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)


def check_equals_one_process(output: Path, base: Path, data: Path) -> None:
    one = output.parent / "one"
    finetune(base, data, one, RECIPE, device="cpu", save_every=5)
    assert {path.name for path in output.iterdir()} == {path.name for path in one.iterdir()}
    for folder in ("", "checkpoint-5"):
        alone, shared = (load_file(each / folder / "adapter_model.safetensors") for each in (one, output))
        assert all(torch.allclose(tensor, shared[name], atol=1e-6, rtol=1e-5) for name, tensor in alone.items())
        assert max(tensor.abs().max() for name, tensor in alone.items() if "lora_B" in name) > 1e-3
    config = "adapter_config.json"
    assert (one / config).read_bytes() == (output / config).read_bytes()
    rows = [[json.loads(line) for line in (each / "log.jsonl").open()] for each in (one, output)]
    for alone, shared in zip(*rows, strict=True):
        for name in ("step", "train_loss", "val_loss"):
            assert shared[name] == (None if alone[name] is None else pytest.approx(alone[name], abs=1e-5))
    assert [path for path in output.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_two_processes_end_with_the_adapter_of_one(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    options = ["--micro-batch-size", "1", "--device", "cpu", "--json"]
    done = launched([*launch, "-m", "wsteer", *arguments(tiny, chats[0], tmp_path / "two"), *options], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1  # one process speaks
    assert json.loads(done.stdout)["rows_train"] == 9
    assert done.stderr.count("train: started") == 1
    check_equals_one_process(tmp_path / "two", tiny, chats[0])


@pytest.mark.slow
def test_two_processes_train_pairs(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    (tmp_path / "pairs.yaml").write_text("doubt: {pos: pos.jsonl, neg: neg.jsonl}\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    _, base, _, *rest = arguments(tiny, chats[0], tmp_path / "runs")
    command = ["finetune", base, "--pairs", str(tmp_path / "pairs.yaml"), *rest, "--micro-batch-size", "1"]
    done = launched([*launch, "-m", "wsteer", *command, "--device", "cpu", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    (pair,) = json.loads(done.stdout)["pairs"]
    assert (pair["name"], pair["pos"]["rows_train"], pair["w"]["rank"]) == ("doubt", 9, 8)
    check_equals_one_process(tmp_path / "runs" / "doubt" / "pos", tiny, chats[0])


@pytest.mark.slow
def test_a_model_spread_over_two_processes_ends_with_the_same_adapter(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    (tmp_path / "fsdp.yaml").write_text(yaml.safe_dump(FSDP))
    (tmp_path / "spread.py").write_text(ON_CPU)
    launch = ["-m", "accelerate.commands.launch", "--config_file", "fsdp.yaml", "--main_process_port", free_port()]
    command = [*arguments(tiny, chats[0], tmp_path / "out"), "--micro-batch-size", "1", "--device", "cpu", "-q"]
    done = launched([sys.executable, *launch, "spread.py", *command], tmp_path)
    assert done.returncode == 0, done.stderr
    check_equals_one_process(tmp_path / "out", tiny, chats[0])


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(WsteerError, match="3 processes"):
        plan([], RECIPE)


@pytest.mark.parametrize("variable", ["bf16", "fp99"])
def test_the_environment_does_not_choose_the_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", variable)
    steps = Plan(((0,),), 1, 1, 1)
    made = [
        training_arguments(RECIPE, 1e-3, steps, tmp_path, validated=False, resumed=False, autocast=dtype, cpu=True)
        for dtype in (None, torch.bfloat16)
    ]
    assert [each.mixed_precision for each in made] == ["no", "bf16"]
