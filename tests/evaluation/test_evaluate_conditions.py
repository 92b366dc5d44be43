"""The program under all kinds of conditions: equal to checkpoints on disk, restored, gated; what the command prints."""

import json
import math
from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.command import Cli, Inputs
from tests.helpers.evaluations import values
from tests.helpers.inspect_tasks import LETTERS
from tests.helpers.tiny import save_adapter
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.evaluation.compared import Added, Compared
from wsteer.evaluation.evaluate import evaluate
from wsteer.evaluation.methods import open_methods
from wsteer.evaluation.rows import Row, read_rows
from wsteer.evaluation.subject import Subject

TASKS = ["agreement", "agreement_choices"]
QUICK = ["--task", "agreement_choices", "--limit", 2]


def texts_file(folder: Path) -> Path:
    """Three texts to read."""
    path = folder / "texts.txt"
    path.write_text("The sea was calm.\n\nNobody knew why the bells rang.\n\nSalt, and rope, and tar.\n")
    return path


def rows_of(folder: Path, label: str) -> list[dict]:
    """The rows of the condition of this label, without its name."""
    conditions = json.loads((folder / "results.json").read_text())["conditions"]
    (name,) = [each["name"] for each in conditions if each["label"] == label]
    found = read_rows(folder / "rows.jsonl")
    return [{**vars(row), "condition": ""} for row in found if row.condition == name]


def vectors(inputs: Inputs, size: float = 4.0) -> Path:
    """Activation vectors of the tiny model's three blocks, which differ."""
    path = inputs.folder / "a.safetensors"
    terms = {f"blocks.{b}": size * torch.randn(32, generator=torch.Generator().manual_seed(b)) for b in range(3)}
    Delta.of_tensors(terms, kind="activation").save(path, force=True)
    return path


@pytest.mark.slow
def test_rows_of_a_k_are_those_of_the_checkpoint_that_steer_wrote(
    tmp_path: Path, steered: tuple[Path, Path, Path]
) -> None:
    base, w, out = steered
    tasks = [*TASKS, f"perplexity:{texts_file(tmp_path)}"]
    report = evaluate(base, tmp_path / "memory", tasks, delta=w, ks=(-1, 1.5, 0), limit=4, device="cpu")
    evaluate(out, tmp_path / "disk", tasks, limit=4, device="cpu")
    evaluate(base, tmp_path / "base", tasks, limit=4, device="cpu")
    assert [each.label for each in report.findings.conditions] == ["base", "w k=-1", "w k=1.5"]
    assert rows_of(tmp_path / "memory", "w k=1.5") == rows_of(tmp_path / "disk", "base")
    assert rows_of(tmp_path / "memory", "base") == rows_of(tmp_path / "base", "base")
    assert rows_of(tmp_path / "memory", "w k=1.5") != rows_of(tmp_path / "memory", "base")
    assert {row["task"] for row in rows_of(tmp_path / "disk", "base")} == {*TASKS, "perplexity:texts.txt"}


@pytest.mark.slow
def test_weights_are_as_before_under_and_after_every_kind_of_condition(inputs: Inputs, tmp_path: Path) -> None:
    for step in (3, 7):
        save_adapter(tmp_path / "ft" / f"checkpoint-{step}", inputs.tiny, seed=step)
    loaded = wsteer.load(inputs.tiny, device="cpu")
    added = [
        Added(inputs.adapters[0]),
        Added(inputs.delta()),
        Added(vectors(inputs), layers=[1]),
        Added(vectors(inputs), "all", variant="all-layers"),
    ]
    compared = Compared(added, (-1, 0.5), [str(tmp_path / "ft")], ["Be rude."], ["random", "shuffled"])
    methods = open_methods(open_checkpoint(inputs.tiny), compared)
    conditions = methods.conditions()
    subject = Subject(loaded, {each.name: delta for each, delta in conditions.items() if delta is not None})
    ids = torch.arange(5, 25)[None]

    def state() -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}

    def logits() -> torch.Tensor:
        with torch.no_grad(), wsteer.prompt_lengths([3]):
            return loaded.model(input_ids=ids).logits

    before, plain, seen = state(), logits(), []
    for condition in conditions:
        with subject.under(condition):
            seen.append(logits())
            if condition.is_base or condition.system:
                assert torch.equal(seen[-1], plain)
            else:
                assert not torch.equal(seen[-1], plain), condition.label
        after = state()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before), condition.label
        assert torch.equal(logits(), plain), condition.label
    assert len(seen) == 1 + 4 * 3 * 2 + 2 + 1


@pytest.mark.slow
def test_a_checkpoint_of_a_run_and_a_prompt_are_evaluated_as_what_they_are(inputs: Inputs, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "ft" / "checkpoint-5", inputs.tiny, seed=5, std=0.3)
    common = {"limit": 3, "device": "cpu"}
    evaluate(inputs.tiny, tmp_path / "r", TASKS, checkpoints=tmp_path / "ft", system="Be rude.", **common)
    evaluate(adapter, tmp_path / "own", TASKS, **common)
    assert rows_of(tmp_path / "r", "ft step 5") == rows_of(tmp_path / "own", "base")
    prompted, plain = rows_of(tmp_path / "r", "system"), rows_of(tmp_path / "r", "base")
    assert prompted != plain
    assert [row["prompt"] for row in prompted] == [row["prompt"] for row in plain]  # they are paired


@pytest.mark.slow
def test_positions_are_those_of_the_response_unless_said(inputs: Inputs, tmp_path: Path) -> None:
    a, found = vectors(inputs, 20.0), {}
    for positions in (None, "response", "prompt", "prompt-last", "all"):
        given = {} if positions is None else {"positions": positions}
        evaluate(inputs.tiny, tmp_path / str(positions), TASKS, delta=a, layers=[1], limit=3, device="cpu", **given)
        found[positions] = rows_of(tmp_path / str(positions), "a@1 k=1")
    assert found[None] == found["response"]
    assert found["response"] != found["all"] != found["prompt"] != found["response"]


@pytest.mark.slow
def test_answers_do_not_depend_on_the_batch_size(inputs: Inputs, tmp_path: Path) -> None:
    for size in (1, 4):
        options = {"delta": inputs.adapters[0], "ks": 2, "limit": 5, "device": "cpu", "batch_size": size}
        evaluate(inputs.tiny, tmp_path / str(size), TASKS, **options)
    for label in ("base", "pos k=2"):
        one, four = (rows_of(tmp_path / size, label) for size in ("1", "4"))
        assert [row["answer"] for row in one] == [row["answer"] for row in four]
        for left, right in zip(one, four, strict=True):
            assert left["value"] == right["value"] or left["value"] == pytest.approx(right["value"], abs=1e-4)


@pytest.mark.slow
def test_calibrate_finds_both_k_at_which_the_kl_is_reached(inputs: Inputs, tmp_path: Path, cli: Cli) -> None:
    adapter = save_adapter(tmp_path / "pos", inputs.tiny, seed=1, std=0.3)
    arguments = ["eval", inputs.tiny, "--delta", adapter, "--control", "random", "--calibrate", "kl=0.001", *QUICK]
    ran = cli(*arguments, "--json", "-o", tmp_path / "r")
    assert ran.code == 0, ran.err
    found = [(each["method"], each["k"]) for each in ran.json["conditions"]]
    assert [method for method, _ in found] == ["base", "pos", "pos", "pos random", "pos random"]
    for first, second in ((1, 2), (3, 4)):
        assert found[first][1] < 0 < found[second][1]
        assert all(math.isfinite(found[place][1]) for place in (first, second))
    options = json.loads((tmp_path / "r" / "wsteer.json").read_text())["options"]
    assert (options["calibrate"], options["k"]) == (0.001, None)


def test_a_condition_whose_scores_overflow_is_named(inputs: Inputs, cli: Cli) -> None:
    wide = inputs.delta("w", {"model.layers.0.mlp.down_proj.weight": torch.full((32, 48), 9.0)})
    arguments = ["eval", inputs.tiny, "--delta", wide, "--k", "1e30", "--task", "agreement", "--limit", 1]
    ran = cli(*arguments, "-o", inputs.folder / "r")
    assert (ran.code, ran.out) == (1, "")
    assert ran.error.startswith("w k=1e+30: the model computes NaN, infinity or equal scores")


def test_two_tasks_of_one_name_are_refused_and_so_is_one_given_twice(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("wsteer.evaluation.evaluate.load")
    from wsteer.evaluation.tasks.task import BUILT_IN

    text = (BUILT_IN / "agreement.yaml").read_text().replace("facts.jsonl", str(BUILT_IN / "facts.jsonl"))
    (tmp_path / "own.yaml").write_text(text)
    for tasks, reason in (
        (["agreement", "agreement"], "--task agreement is given twice"),
        (["agreement", str(tmp_path / "own.yaml")], "two tasks are named 'agreement'"),
        ([], "task names no task"),
    ):
        with pytest.raises(WsteerError, match=reason):
            evaluate(inputs.tiny, tmp_path / "r", tasks)


def test_data_replaces_that_of_the_builtin_tasks(inputs: Inputs, tmp_path: Path) -> None:
    fact = {"question": "Is the harbour quiet?", "correct_answer": "Yes", "incorrect_answer": "No"}
    (tmp_path / "facts.jsonl").write_text(json.dumps(fact) + "\n")
    evaluate(inputs.tiny, tmp_path / "r", "agreement", data=tmp_path / "facts.jsonl", device="cpu")
    rows: list[Row] = read_rows(tmp_path / "r" / "rows.jsonl")
    assert rows and all("Is the harbour quiet?" in row.input for row in rows)
    with pytest.raises(WsteerError, match="--data is for built-in tasks"):
        evaluate(inputs.tiny, tmp_path / "x", f"perplexity:{texts_file(tmp_path)}", data=tmp_path / "facts.jsonl")


# ---- The command


@pytest.mark.slow
def test_the_command_prints_tables_the_blocks_and_the_folder_and_writes_notes_to_stderr(
    inputs: Inputs, tmp_path: Path, cli: Cli
) -> None:
    a = vectors(inputs)
    common = ["--task", f"perplexity:{texts_file(tmp_path)}", "--task", "agreement_choices", "--limit", 3]
    arguments = ["eval", inputs.tiny, "--delta", f"a={a}@1", "--delta", f"everywhere={a}@all-layers", *common]
    ran = cli(*arguments, "--k=-0.2:0.2:0.1", "-o", tmp_path / "r")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[-1] == str(tmp_path / "r")
    assert "a is added at block 1 (the paper's layer 2, hidden_states[2])" in lines
    for label in ("base", *(f"{name} k={k}" for name in ("a", "everywhere") for k in (-0.2, -0.1, 0.1, 0.2))):
        assert sum(line.startswith(f"{label} ") for line in lines) >= 2
    assert all(line.startswith("wsteer: ") for line in ran.err.splitlines())
    assert (tmp_path / "r" / "curves-agreement_choices.svg").is_file()
    ran = cli(*arguments, "--k", "0.1", "-q", "-o", tmp_path / "q")
    assert ran.err == "" or all(line.startswith("wsteer: warning: ") for line in ran.err.splitlines())


def test_json_is_one_object_and_k_0_is_there_once(inputs: Inputs, tmp_path: Path, cli: Cli) -> None:
    ran = cli("eval", inputs.tiny, "--delta", inputs.delta(), "--k=0,-0,0.5", *QUICK, "--json", "-o", tmp_path / "r")
    assert ran.code == 0
    found = json.loads(ran.out, parse_constant=lambda name: pytest.fail(name))
    assert [each["label"] for each in found["conditions"]] == ["base", "w k=0.5"]
    assert {*found} >= {"measures", "estimates", "choice", "warnings", "unscored", "failures", "output"}
    assert values(found, "agreement").keys() == {"base", "w k=0.5"}


def test_exit_codes_of_gates_and_usage(inputs: Inputs, tmp_path: Path, cli: Cli) -> None:
    arguments = ["eval", inputs.tiny, "--delta", inputs.delta(), "--k", "0.5", *QUICK]
    ran = cli(*arguments, "--fail-above", "agreement=2", "--fail-below", "agreement=-1", "-o", tmp_path / "kept")
    assert ran.code == 0
    ran = cli(*arguments, "--fail-below", "agreement_choices.agreement=2", "-o", tmp_path / "broken", "-q")
    assert ran.code == 3
    assert "wsteer: gate failed: w k=0.5: agreement_choices.agreement is" in ran.err
    assert (tmp_path / "broken" / "results.json").is_file()  # the result is valid
    for options, says in (
        (["--k", "2:1:1"], "is no range"),
        (["--k", "0:1"], "is no range"),
        (["--calibrate", "l2=1"], "is not kl=NATS"),
        (["--control", "noise"], "is none of random, shuffled"),
        (["--max-unscored", "150%"], "is no share"),
        (["--fail-above", "agreement"], "must be NAME=VALUE"),
        (["--limit", "0"], "--limit"),
        (["--attribute", "rows"], "--attribute"),
        (["--layers", "a"], "is no block number"),
        (["--seed", "1", "--seed", "2"], "--seed"),
    ):
        ran = cli("eval", inputs.tiny, "--delta", inputs.delta(), *QUICK, *options, "-o", tmp_path / "no")
        assert (ran.code, ran.out) == (2, ""), options
        assert says in ran.err
    assert not (tmp_path / "no").exists()


def test_plain_activation_vectors_are_an_error_that_names_the_two_choices(inputs: Inputs, cli: Cli) -> None:
    ran = cli("eval", inputs.tiny, "--delta", inputs.vectors(), *QUICK, "-o", inputs.folder / "r")
    assert (ran.code, ran.out) == (1, "")
    assert "--layers 12" in ran.error and "--variant all-layers" in ran.error


@pytest.mark.slow
def test_rows_without_a_verdict_end_with_code_1_and_name_the_file(inputs: Inputs, tmp_path: Path, cli: Cli) -> None:
    """An inspect task beside one of wsteer's own; its scorer fails for some of its seven samples."""
    pytest.importorskip("inspect_ai")
    (tmp_path / "letters.py").write_text(LETTERS)
    tasks = ["--task", f"inspect:{tmp_path / 'letters.py'}@dicts", "--task", "agreement_choices", "--limit", 7]
    arguments = ["eval", inputs.tiny, "--delta", inputs.delta(), "--k", "0.5", *tasks]
    ran = cli(*arguments, "--json", "-q", "-o", tmp_path / "r")
    assert ran.code == 1
    assert all(f"see {tmp_path / 'r' / 'rows.jsonl'}" in line for line in ran.json["unscored"])
    assert [line for line in ran.err.splitlines() if line.startswith("wsteer: error: dicts, w k=0.5: ")]
    assert {row.task for row in read_rows(tmp_path / "r" / "rows.jsonl")} == {"dicts", "agreement_choices"}
    assert len(list((tmp_path / "r" / "inspect").glob("*.eval"))) == 2
    ran = cli(*arguments, "--max-unscored", "100%", "-q", "-o", tmp_path / "lenient")
    assert ran.code == 0, ran.err


@pytest.mark.slow
def test_a_depth_gives_the_bytes_that_its_block_does(cli: Cli, inputs: Inputs, tmp_path: Path) -> None:
    a, base = vectors(inputs), inputs.tiny
    for name, layers in (("number", "1"), ("depth", "40%")):
        ran = cli("eval", base, "--delta", f"{a}@{layers}", "--k=-1,1", *QUICK, "-o", tmp_path / name)
        assert ran.code == 0, ran.err
        assert "a@1 k=-1" in ran.out and "%" not in (tmp_path / name / "wsteer.json").read_text()
    files = sorted(path.relative_to(tmp_path / "number") for path in (tmp_path / "number").rglob("*.*"))
    assert len(files) > 4
    assert all((tmp_path / "number" / f).read_bytes() == (tmp_path / "depth" / f).read_bytes() for f in files)


@pytest.mark.parametrize("layers", ["100%", "-40%"])
def test_a_depth_beyond_the_model_is_wrong_usage(cli: Cli, inputs: Inputs, layers: str) -> None:
    for given in (["--delta", f"a.safetensors@{layers}"], ["--delta", "a.safetensors", f"--layers={layers}"]):
        ran = cli("eval", inputs.tiny, *given, *QUICK, "-o", inputs.folder / "out")
        assert ran.code == 2
        assert "is no depth in a model: give one from 0% to below 100%" in " ".join(ran.err.split())
    assert not (inputs.folder / "out").exists()
