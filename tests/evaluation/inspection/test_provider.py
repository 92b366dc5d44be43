"""The model that inspect_ai talks to: settings, usage, seeds, and names that caches and logs can go by."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsteer
from tests.helpers.inspect_tasks import LETTERS, Bench, bench, check_four_prompts, random_delta
from tests.helpers.thinking import KINDS, save_thinking_model, say
from tests.helpers.tiny import save_model
from wsteer.errors import WsteerError
from wsteer.evaluation.inspection.inspection import run
from wsteer.evaluation.subject import Subject
from wsteer.models.generation import answer

inspect_ai = pytest.importorskip("inspect_ai")

from inspect_ai.log import read_eval_log  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    GenerateConfig,
    ModelOutput,
    get_model,
)
from inspect_ai.tool import tool  # noqa: E402

from wsteer.evaluation.inspection import provider, registry  # noqa: E402, F401

ROOT = Path(wsteer.__file__).parents[1]


@pytest.fixture(autouse=True)
def closed_engines() -> Iterator[None]:
    """Close the engines of models that were asked for by name, and forget them."""
    yield
    for engine, _ in provider._engines.values():
        engine.close()
    provider._engines.clear()


@pytest.fixture(scope="module")
def tiny_bench(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tiny, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def delta(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("delta") / "w.safetensors"
    random_delta(tiny).save(path)
    return path


def says(model, given="Say 1.", **config) -> ModelOutput:
    return asyncio.run(model.generate(given, config=GenerateConfig(**{"max_tokens": 8, **config})))


def steered(base: Path, **arguments):
    return get_model(f"wsteer/{base}", memoize=False, device="cpu", **arguments)


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_answers_usage_and_stop_reasons(tiny: Path, tiny_bench: Bench) -> None:
    loaded = tiny_bench.subject.loaded
    messages = [{"role": "system", "content": "Be kind."}, *chat("Hello"), {"role": "assistant", "content": "Hi."}]
    (expected,) = answer(loaded, [[*messages, *chat("Say 1.")]], 8)
    given = says(
        steered(tiny),
        [
            ChatMessageSystem(content="Be kind."),
            ChatMessageUser(content="Hello"),
            ChatMessageAssistant(content="Hi."),
            ChatMessageUser(content="Say 1."),
        ],
    )
    assert given.completion == expected.text
    assert given.stop_reason == "max_tokens"
    assert (given.usage.input_tokens, given.usage.output_tokens, given.usage.total_tokens) == (
        expected.asked,
        8,
        expected.asked + 8,
    )
    stop = next(c for i, c in enumerate(expected.text) if i > 1 and c.isascii() and c.isprintable())
    cut = says(steered(tiny), [ChatMessageUser(content="Say 1.")], stop_seqs=[stop])
    assert stop not in cut.completion


@pytest.mark.slow
def test_temperature_and_choices(tiny: Path) -> None:
    model = steered(tiny)
    greedy = says(model).completion
    assert says(model, temperature=0).completion == greedy == says(model, temperature=2, top_k=1).completion
    drawn = says(model, temperature=1, seed=5, num_choices=3)
    texts = [choice.message.text for choice in drawn.choices]
    assert len(set(texts)) == 3 and drawn.usage.output_tokens == 24
    assert [each.message.text for each in says(steered(tiny), temperature=1, seed=5, num_choices=3).choices] == texts
    again = says(model, temperature=1, seed=5).completion
    assert again not in texts  # the same call once more is another draw
    assert says(steered(tiny), temperature=1, seed=6).completion not in texts


@pytest.mark.parametrize("setting", [{"logprobs": True}, {"frequency_penalty": 0.5}, {"best_of": 2}, {"top_p": 7.0}])
def test_settings_that_would_be_without_effect_are_refused(tiny: Path, setting: dict) -> None:
    with pytest.raises(WsteerError, match=f"the task sets .*{next(iter(setting))}"):
        says(steered(tiny), temperature=1, **setting)


def test_tools_images_and_begun_answers_are_refused(tiny: Path) -> None:
    model = steered(tiny)

    @tool
    def add():
        async def execute(x: int, y: int) -> int:
            """Add two numbers.

            Args:
                x: One.
                y: The other.
            """
            return x + y

        return execute

    with pytest.raises(WsteerError, match=r"tools \(add\), and a wsteer/ model takes and gives text"):
        asyncio.run(model.generate("What is 1 + 1?", tools=[add()]))
    image = "data:image/png;base64,iVBORw0KGgo="
    with pytest.raises(WsteerError, match="a message of image"):
        says(model, [ChatMessageUser(content=[ContentImage(image=image)])])
    with pytest.raises(WsteerError, match="begins the model's answer"):
        says(model, [ChatMessageUser(content="Hi"), ChatMessageAssistant(content="Well")])


def test_thoughts_are_reasoning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = steered(save_thinking_model(tmp_path, "tags"))
    _, thought, said = KINDS["tags"]
    say(monkeypatch, thought.format("Perhaps.") + said.format("Yes."))
    given = says(model, max_tokens=99)
    assert given.completion == "Yes." and given.stop_reason == "stop"
    assert given.message.content[0].reasoning == "Perhaps."


def test_the_default_limit_leaves_room_for_prompts(tmp_path: Path) -> None:
    model = steered(save_model(tmp_path / "short", max_position_embeddings=64))
    assert asyncio.run(model.generate("Say 1.")).usage.output_tokens <= 32


@pytest.mark.slow
def test_a_base_is_loaded_once_for_all_its_conditions(
    tiny: Path, delta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wsteer.steer(tiny, delta, k=1, output=tmp_path / "out")
    loads: list[object] = []
    load = provider.load
    monkeypatch.setattr(provider, "load", lambda *args: loads.append(args) or load(*args))
    models = [steered(tiny), *(steered(tiny, delta=str(delta), k=k) for k in (1, -1, 0, 1))]
    texts = [says(model).completion for model in models]
    assert len(loads) == 1
    assert texts[1] == texts[4] == says(steered(tmp_path / "out")).completion
    assert texts[0] == texts[3] and len(set(texts)) == 3
    assert [model.name == models[0].name for model in models] == [True, False, False, True, False]
    assert models[1].name == models[4].name != models[2].name
    parts = {says(steered(tiny, delta=str(delta), layers=layers)).completion for layers in (0, "0-1", [0, "1"], "0-2")}
    assert len(parts) == 3  # the middle two are the same layers
    assert steered(tiny, delta=str(delta), layers="40%").name == steered(tiny, delta=str(delta), layers=1).name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 2}, "-M k= needs a -M delta="),
        ({"delta": "w.safetensors", "positions": "first"}, "-M positions=first: give one of response"),
        ({"delta": "w.safetensors", "k": "much"}, "-M k='much' is no number"),
        ({"dleta": "w.safetensors"}, "-M dleta=: a wsteer/ model has no such argument"),
        ({"delta": "missing.safetensors"}, "missing.safetensors does not exist"),
        ({"delta": "w.safetensors", "layers": "0-x"}, "is no block number or range"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(tiny: Path, delta: Path, arguments: dict, message: str) -> None:
    if arguments.get("delta") == "w.safetensors":
        arguments = {**arguments, "delta": str(delta)}
    with pytest.raises(WsteerError, match=message):
        steered(tiny, **arguments)


@pytest.mark.slow
def test_a_whole_name_is_the_model_that_its_arguments_give_or_an_error(tiny: Path, delta: Path, tmp_path: Path) -> None:
    path = shutil.copy(delta, tmp_path / "w.safetensors")
    tiny = Path(shutil.copytree(tiny, tmp_path / "m~1"))  # the mark between base and condition
    model = steered(tiny, delta=str(path), k=2)
    again = get_model(f"wsteer/{model.name}", memoize=False, device="cpu", delta=str(path), k=2)  # as eval-retry asks
    assert again.name == model.name and says(again).completion == says(model).completion
    (2 * random_delta(tiny)).save(path, force=True)
    with pytest.raises(WsteerError, match="is not what its arguments give now"):
        get_model(f"wsteer/{model.name}", memoize=False, device="cpu", delta=str(path), k=2)
    assert steered(tiny, delta=str(path), k=2).name != model.name


@pytest.mark.slow
def test_inspects_cache_tells_conditions_apart(
    tiny: Path, delta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    tasks = tmp_path / "tasks.py"
    tasks.write_text(LETTERS)
    path = shutil.copy(delta, tmp_path / "w.safetensors")

    def completions(**arguments) -> tuple[list[str], bool]:
        (log,) = inspect_ai.eval(
            f"{os.path.relpath(tasks)}@cached",
            model=steered(
                tiny, **arguments
            ),  # as in a process of its own: inspect_ai keeps models that it made by name
            log_dir=str(tmp_path / "logs"),
            display="none",
        )
        found = read_eval_log(log.location).samples
        read = [event.cache == "read" for sample in found for event in sample.events if event.event == "model"]
        return [sample.output.completion for sample in found], all(read)

    base, read = completions()
    assert not read and completions() == (base, True)
    one, read = completions(delta=str(path), k=1)
    assert not read and one != base
    two, read = completions(delta=str(path), k=-1)
    assert not read and two not in (base, one)
    (3 * random_delta(tiny)).save(path, force=True)
    changed, read = completions(delta=str(path), k=1)
    assert not read and changed != one


@pytest.mark.slow
def test_a_sampled_task_is_the_same_whatever_the_batches(tiny_bench: Bench, tmp_path: Path) -> None:
    def texts(name: str, batch_size: int, count: int, seed: int = 0) -> dict[tuple[str, str], str]:
        loaded, deltas = tiny_bench.subject.loaded, tiny_bench.subject.deltas
        subject = Subject(loaded, deltas, batch_size, seed)
        outcome = run([tiny_bench.task("sampled")], subject, tiny_bench.conditions[:count], [], tmp_path / name)
        return {(row.condition, row.id): row.answer for row in outcome.rows}

    first = texts("first", 16, 3)
    assert texts("second", 1, 3) == first
    alone = texts("third", 5, 1)
    assert alone.items() <= first.items()
    assert len(first) == 72 and len(set(first.values())) == 72  # the epochs differ too
    assert not set(texts("fourth", 16, 1, seed=1).values()) & set(first.values())


@pytest.mark.slow
def test_a_local_judge_is_a_model_by_this_provider(tiny_bench: Bench, tmp_path: Path) -> None:
    other = save_model(tmp_path / "judge", seed=3)
    graded, base = tiny_bench.task("graded"), tiny_bench.conditions[:1]
    outcome = run([graded], tiny_bench.subject, base, [f"wsteer/{other}"], tmp_path / "out", limit=2)
    assert len(outcome.rows) == 2
    assert {row.why for row in outcome.rows} == {"unparsed"}  # a random model has no verdict


@pytest.mark.slow
def test_the_papers_task_has_the_counts_of_the_built_in_one(tiny_bench: Bench, tmp_path: Path) -> None:
    check_four_prompts(tiny_bench.subject, tiny_bench.conditions, tmp_path, limit=6)


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which wsteer is installed, with the entry point of pyproject.toml."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / "wsteer-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wsteer\nVersion: 0\n")
    lines = [
        f"[{group}]\n{name} = {value}\n"
        for group, each in project["entry-points"].items()
        for name, value in each.items()
    ]
    (info / "entry_points.txt").write_text("".join(lines))
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}", "INSPECT_DISPLAY": "plain"}


@pytest.mark.slow
def test_inspects_own_command_runs_it(tiny: Path, delta: Path, tmp_path: Path, installed: dict[str, str]) -> None:
    (tmp_path / "tasks.py").write_text(LETTERS)
    (tmp_path / "base").symlink_to(tiny)
    shutil.copy(delta, tmp_path / "w.safetensors")
    command = [
        sys.executable,
        "-m",
        "inspect_ai",
        "eval",
        "tasks.py@letters",
        "--model",
        "wsteer/base",
        "--log-dir",
        "logs",
    ]
    command += ["-M", "delta=w.safetensors", "-M", "k=-1", "-M", "layers=0-1", "-M", "device=cpu", "--limit", "3"]
    ran = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (path,) = (tmp_path / "logs").glob("*.eval")
    log = read_eval_log(str(path))
    assert log.status == "success" and log.eval.model.startswith("wsteer/base~w_k_-1-")
    assert log.eval.model_args == {"delta": "w.safetensors", "k": -1, "layers": "0-1", "device": "cpu"}
    model = steered(tiny, delta=str(delta), k=-1, layers="0-1")
    expected = [says(model, f"Say {i}. " * (1 + i % 4), max_tokens=6).completion for i in range(3)]
    assert [sample.output.completion for sample in log.samples] == expected
