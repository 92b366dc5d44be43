"""Tasks of inspect_ai under each condition: rows, judges, resumption."""

import contextlib
import hashlib
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import rich
import torch

from tests.helpers.inspect_tasks import Bench, bench
from tests.helpers.judge import judge
from wsteer.errors import WsteerError
from wsteer.evaluation.inspection import engine, inspection, references
from wsteer.evaluation.inspection.inspection import check_judges, run
from wsteer.evaluation.inspection.references import check_tasks
from wsteer.evaluation.rows import Outcome, Row, by_condition, prompt_digest
from wsteer.evaluation.subject import Subject
from wsteer.models.generation import answer

pytest.importorskip("inspect_ai")


@pytest.fixture(scope="module")
def tiny_bench(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tiny, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def letters(tiny_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("letters")
    return run([tiny_bench.task("letters")], tiny_bench.subject, tiny_bench.conditions, [], folder), folder


def weights(subject: Subject) -> str:
    digest = hashlib.sha256()
    for parameter in subject.loaded.model.state_dict().values():
        digest.update(parameter.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def answers(rows: tuple[Row, ...], condition: str) -> list[str]:
    return [row.answer for row in rows if row.condition == condition]


@pytest.mark.slow
def test_answers_are_those_of_wsteer_itself_under_each_condition(
    tiny_bench: Bench, letters: tuple[Outcome, Path]
) -> None:
    outcome, _ = letters
    chats = [[{"role": "user", "content": f"Say {i}. " * (1 + i % 4)}] for i in range(12)]
    before = weights(tiny_bench.subject)
    texts = set()
    for condition in tiny_bench.conditions:
        with tiny_bench.subject.under(condition):
            expected = [given.text for given in answer(tiny_bench.subject.loaded, chats, 6, batch_size=16)]
        assert answers(outcome.rows, condition.name) == expected
        texts.add(tuple(expected))
    assert len(texts) == 3
    assert weights(tiny_bench.subject) == before


@pytest.mark.slow
def test_rows_hold_ids_values_prompts_and_texts(letters: tuple[Outcome, Path]) -> None:
    outcome, folder = letters
    (measure,) = outcome.measures
    assert (measure.task, measure.metric, measure.kind, measure.better) == ("letters", "includes", "share", "higher")
    tables = by_condition(outcome.rows)
    assert [len(rows) for rows in tables.values()] == [12, 12, 12]
    assert len({tuple(rows) for rows in tables.values()}) == 1  # the same ids
    for row in outcome.rows:
        assert row.value == float("e" in row.answer.lower())
        assert row.id == f"{row.group}.1"
        assert row.prompt == prompt_digest(row.input) and row.input.startswith("Say ")
        assert not row.finished  # a tiny model of random weights goes on until the limit of six tokens
    assert len(list((folder / "inspect").glob("*.eval"))) == 3


@pytest.mark.slow
def test_nothing_is_said_and_no_key_is_kept(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with judge(monkeypatch, lambda prompt, number: (200, "GRADE: C", "stop")) as served:
        check_judges([served.name], "subject")
        given = [tiny_bench.task("graded")], tiny_bench.subject, tiny_bench.conditions[:1], [served.name]
        run(*given, tmp_path)
        assert capfd.readouterr() == ("", "")
        run(*given, tmp_path)
    assert capfd.readouterr().out == ""  # that all was done before is said on stderr
    logs = list((tmp_path / "inspect").iterdir())
    import zipfile

    for path in logs:
        parts = [path.read_bytes()]
        if path.suffix == ".eval":
            with zipfile.ZipFile(path) as archive:
                parts = [archive.read(name) for name in archive.namelist()]
        assert not any(b"very-secret" in part for part in parts), path


@pytest.mark.slow
def test_a_finished_condition_is_not_run_again(
    tiny_bench: Bench,
    letters: tuple[Outcome, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome, folder = letters
    monkeypatch.setattr("wsteer.evaluation.inspection.engine.answer_by", None)  # no answer can be made
    monkeypatch.setattr(rich.get_console(), "quiet", False)  # as in a process that has run no task yet
    again = run([tiny_bench.task("letters")], tiny_bench.subject, tiny_bench.conditions, [], folder)
    assert again == outcome
    assert capsys.readouterr() == ("", "") and not rich.get_console().quiet


@pytest.mark.slow
def test_a_delta_changed_in_place_is_run_again(tiny_bench: Bench, tmp_path: Path) -> None:
    from dataclasses import replace

    subject, base = tiny_bench.subject, tiny_bench.conditions[0]
    old = tiny_bench.conditions[2]
    new = replace(old, delta="another digest")
    first = run([tiny_bench.task("letters")], subject, [base, old], [], tmp_path)
    changed = Subject(subject.loaded, {new.name: 2 * subject.deltas[old.name]}, batch_size=16)
    second = run([tiny_bench.task("letters")], changed, [base, new], [], tmp_path)
    assert answers(second.rows, base.name) == answers(first.rows, base.name)
    assert answers(second.rows, new.name) != answers(first.rows, old.name)


@pytest.mark.slow
def test_a_task_whose_file_has_changed_is_run_again(tiny_bench: Bench, tmp_path: Path) -> None:
    other, changing = tmp_path / "other.py", tmp_path / "changing.py"
    for file, name in ((other, "other"), (changing, "changing")):
        text = Path(tiny_bench.task("letters").partition("@")[0]).read_text()
        file.write_text(text.replace("def letters()", f"def {name}()"))
    given = [f"{other}@other", f"{changing}@changing"], tiny_bench.subject, tiny_bench.conditions[:1], []
    first = run(*given, tmp_path)
    logs = set((tmp_path / "inspect").glob("*.eval"))
    changing.write_text(changing.read_text().replace("Say {i}", "Tell {i}"))
    second = run(*given, tmp_path)
    assert all(row.input.startswith("Say ") for row in first.rows)
    assert {(row.task, row.input.split()[0]) for row in second.rows} == {("other", "Say"), ("changing", "Tell")}
    assert len(logs & set((tmp_path / "inspect").glob("*.eval"))) == 1


KILLED = """
import sys
from pathlib import Path
from tests.evaluation.inspection.test_inspection import weights
from tests.helpers.inspect_tasks import bench
from wsteer.evaluation.inspection import engine
from wsteer.evaluation.inspection.inspection import run

given = bench(Path(sys.argv[1]), Path(sys.argv[2]))
made = engine.answer_by
def slow(*args):
    print("round", file=sys.__stdout__, flush=True)
    import time
    if len(calls := globals().setdefault("calls", [])) == 1:
        time.sleep(float(sys.argv[4]))
    calls.append(1)
    return made(*args)
engine.answer_by = slow
before = weights(given.subject)
try:
    run([given.task("letters")], given.subject, given.conditions, [], Path(sys.argv[3]))
except KeyboardInterrupt:
    print("interrupted", weights(given.subject) == before)
"""


@contextlib.contextmanager
def in_its_second_condition(tiny: Path, tmp_path: Path, seconds: int = 600):
    """Another process that runs the task, and has come to the second condition."""
    for name in ("tasks", "out"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", KILLED, str(tiny), str(tmp_path / "tasks"), str(tmp_path / "out"), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == process.stdout.readline() == "round\n"
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_rows(
    tiny: Path, tmp_path: Path, letters: tuple[Outcome, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_its_second_condition(tiny, tmp_path) as process:
        process.kill()
        process.wait()
    given = bench(tiny, tmp_path / "tasks")
    made, rounds = engine.answer_by, []
    monkeypatch.setattr(engine, "answer_by", lambda *args: rounds.append(len(args[1])) or made(*args))
    outcome = run([given.task("letters")], given.subject, given.conditions, [], tmp_path / "out")
    assert outcome.rows == letters[0].rows
    assert rounds == [12, 12]  # the second condition and the third


@pytest.mark.slow
def test_ctrl_c_ends_the_run_after_its_batch_and_restores_the_weights(tiny: Path, tmp_path: Path) -> None:
    with in_its_second_condition(tiny, tmp_path, seconds=5) as process:
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    assert (said, process.returncode) == ("interrupted True\n", 0), errors


@pytest.mark.slow
def test_values_of_dicts_are_metrics_and_missing_ones_say_why(tiny_bench: Bench, tmp_path: Path) -> None:
    outcome = run([tiny_bench.task("dicts")], tiny_bench.subject, tiny_bench.conditions[:1], [], tmp_path)
    kinds = {measure.metric: measure.kind for measure in outcome.measures}
    assert kinds == {
        "several.length": "mean",
        "several.even": "share",
        "several.odd": "share",
    }
    found = {(row.metric, row.group): (row.value, row.why) for row in outcome.rows}
    assert found["several.length", "s4"] == (2.0, "")
    assert found["several.even", "s4"] == (1.0, "")
    assert found["several.odd", "s5"] == (None, "unscored")
    for metric in kinds:
        assert found[metric, "s1"] == (None, "refusal")
        assert found[metric, "s2"] == (None, "unscored")
        assert found[metric, "s3"] == (None, "failed: three is too much")


@pytest.mark.slow
def test_judges_unparsed_and_filtered_answers_have_no_value(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(prompt: str, number: int) -> tuple[int, str, str]:
        if number == 3:
            return 500, "boom", ""
        if "Say 1." in prompt:
            return 200, "I would rather not say.", "stop"
        if "Say 2." in prompt:
            return 200, "", "content_filter"
        return 200, "GRADE: C" if "Say 4." in prompt else "GRADE: I", "stop"

    with judge(monkeypatch, reply) as served:
        outcome = run(
            [tiny_bench.task("graded")], tiny_bench.subject, tiny_bench.conditions[:2], [served.name], tmp_path
        )
        assert len(served.asked) == 25  # each answer once, and one again after its 500
        assert {body["temperature"] for body in served.bodies} == {0}
    for condition in tiny_bench.conditions[:2]:
        found = {row.group: (row.value, row.why) for row in outcome.rows if row.condition == condition.name}
        assert found.pop("s1") == (None, "unparsed")
        assert found.pop("s2") == (None, "filtered")
        assert found.pop("s4") == (1.0, "")
        assert set(found.values()) == {(0.0, "")} and len(found) == 9


@pytest.mark.slow
def test_several_judges_are_a_panel_with_majority(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(*right: str):
        def reply(prompt: str, number: int) -> tuple[int, str, str]:
            return 200, "GRADE: C" if any(f"Say {each}." in prompt for each in right) else "GRADE: I", "stop"

        return reply

    def mute(prompt: str, number: int) -> tuple[int, str, str]:
        return (200, "Hm.", "stop") if "Say 5." in prompt else says("4")(prompt, number)

    with (
        judge(monkeypatch, says("3", "4", "5"), "one") as first,
        judge(monkeypatch, says("4", "6"), "two") as second,
        judge(monkeypatch, mute, "three") as third,
    ):
        names = [first.name, second.name, third.name]
        outcome = run([tiny_bench.task("graded")], tiny_bench.subject, tiny_bench.conditions[:1], names, tmp_path)
        assert [len(each.asked) for each in (first, second, third)] == [12, 12, 12]
    found = {row.group: (row.value, row.why) for row in outcome.rows}
    assert found["s4"] == (1.0, "")
    assert found["s3"] == found["s6"] == (0.0, "")
    assert found["s5"] == (None, "no majority")
    assert outcome.warnings == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["graded", "lenient"])
def test_no_model_grades_itself(tiny_bench: Bench, tmp_path: Path, name: str) -> None:
    with pytest.raises(WsteerError, match=r"asks a judge to grade; name one with --judge MODEL"):
        run([tiny_bench.task(name)], tiny_bench.subject, tiny_bench.conditions[:1], [], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["graded", "lenient"])
def test_a_judge_that_dies_is_an_error_that_names_it(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(inspection, "RETRIES", 0)
    with (
        judge(monkeypatch, lambda prompt, number: (401, "this key is no good", "")) as served,
        pytest.raises(WsteerError, match=rf"the judge {served.name} does not answer: .*key is no good") as raised,
    ):
        run([tiny_bench.task(name)], tiny_bench.subject, tiny_bench.conditions[:1], [served.name], tmp_path)
    assert "\n" not in str(raised.value) and "RetryError" not in str(raised.value)


@pytest.mark.slow
def test_a_dead_judge_is_found_before_any_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with judge(monkeypatch, lambda prompt, number: (200, "", "stop")) as served:
        pass  # it is gone
    with pytest.raises(WsteerError, match=rf"the judge {served.name} does not answer: Connection error"):
        check_judges([served.name], "subject")


def test_a_judge_without_its_key_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOCK_API_KEY", raising=False)
    with pytest.raises(WsteerError, match=r"^--judge openai-api/mock/judge: .*MOCK_API_KEY"):
        check_judges(["openai-api/mock/judge"], "subject")


def test_judges_that_may_not_be_are_refused(tiny: Path) -> None:
    for judges, message in (
        ([f"hf/{tiny}"], "is the model under test"),
        ([f"wsteer/{tiny}/"], "is the model under test"),
        ([f"openai-api/local/{tiny}"], "is the model under test"),
        (["gpt-4o-mini"], "name its provider too"),
    ):
        with pytest.raises(WsteerError, match=message):
            check_judges(judges, tiny)


def test_tasks_are_checked_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("def letters(): ...\n")
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "one.py").write_text("import inspect_ai\n\n@inspect_ai.task(version=2)\ndef letters(): ...\n")
    check_tasks([str(tmp_path / "one.py"), str(tmp_path / "one.py@letters")], {})
    (tmp_path / "named.py").write_text('from inspect_ai import task\n\n@task(name="my words")\ndef letters(): ...\n')
    check_tasks([f"{tmp_path}/named.py@my words"], {})
    for reference, message in (
        (f"{tmp_path}/missing.py", "missing.py"),
        (f"{tmp_path}/none.py", r"none.py has no function with the decorator @task"),
        (f"{tmp_path}/one.py@words", r"one.py has no function words with the decorator @task; it has letters"),
        (f"{tmp_path}/named.py@letters", r"no function letters with the decorator @task; it has my words"),
        (f"{tmp_path}/broken.py", "is no Python"),
        ("nopackage_here/task", "is neither a file"),
        ("letters", "is neither a file"),
        ("../task", "is neither a file"),
        ("a..b/task", "is neither a file"),
    ):
        with pytest.raises(WsteerError, match=message):
            check_tasks([reference], {})


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WsteerError, match=r"--task inspect: needs inspect_ai: pip install 'wsteer\[inspect\]'"):
        check_tasks(["a.py"], {})
    with pytest.raises(WsteerError, match=r"--judge needs inspect_ai: pip install 'wsteer\[inspect\]'"):
        check_judges(["openai/x"], "model")


@pytest.mark.slow
def test_all_samples_are_asked_at_once_and_greedy_epochs_are_told(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rounds = engine.answer_by, []
    monkeypatch.setattr(engine, "answer_by", lambda *args: rounds.append(len(args[1])) or made(*args))
    handlers, hook = list(logging.getLogger().handlers), sys.excepthook
    outcome = run([tiny_bench.task("many")], tiny_bench.subject, tiny_bench.conditions[:1], [], tmp_path)
    assert rounds == [48]  # inspect_ai begins with 20 of its own accord
    assert outcome.warnings == (
        "many asks each sample 2 times, and all answers to one are equal: let the task set a temperature",
    )
    assert (logging.getLogger().handlers, sys.excepthook) == (handlers, hook)


@pytest.mark.slow
def test_samples_of_one_group_are_no_epochs(tiny_bench: Bench, tmp_path: Path) -> None:
    outcome = run([tiny_bench.task("pairs")], tiny_bench.subject, tiny_bench.conditions[:1], [], tmp_path)
    assert [(row.id, row.group) for row in outcome.rows] == [("a.1", "one"), ("b.1", "one"), ("c.1", "c")]
    assert outcome.rows[0].answer == outcome.rows[1].answer and not outcome.warnings


@pytest.mark.slow
def test_a_scorer_that_asks_one_judge_of_a_panel_is_told(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(prompt: str, number: int) -> tuple[int, str, str]:
        return 200, "C", "stop"

    with judge(monkeypatch, reply, "one") as first, judge(monkeypatch, reply, "two") as second:
        names, base = [first.name, second.name], tiny_bench.conditions[:1]
        outcome = run([tiny_bench.task("one_judge")], tiny_bench.subject, base, names, tmp_path)
    assert [row.value for row in outcome.rows] == [1.0, 1.0]
    (warning,) = outcome.warnings
    assert warning.startswith(f"one_judge asked {first.name} alone, and not {second.name}")


@pytest.mark.slow
def test_a_file_is_all_of_its_tasks(tiny_bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "two[1].py").write_text(tiny_bench.tasks.read_text().partition("@scorer")[0])
    outcome = run([str(tmp_path / "two[1].py")], tiny_bench.subject, tiny_bench.conditions[:1], [], tmp_path)
    assert [(measure.task, measure.metric) for measure in outcome.measures] == [
        ("letters", "includes"),
        ("many", "includes"),
    ]
    assert len(outcome.rows) == 12 + 48


@pytest.mark.slow
def test_what_a_task_raises_is_one_error(tiny_bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("from inspect_ai import task\n\n@task\ndef bad():\n    raise KeyError('my data')\n")
    with pytest.raises(WsteerError, match=r"inspect_ai cannot run .*bad.py: .*my data"):
        run([str(path)], tiny_bench.subject, tiny_bench.conditions[:1], [], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["task", "scorer"])
def test_a_task_that_ends_the_program_is_one_error(tiny_bench: Bench, tmp_path: Path, where: str) -> None:
    path = tmp_path / "ends.py"
    path.write_text(ENDS.replace(f"pass  # {where}", "sys.exit(3)"))
    with pytest.raises(WsteerError, match=r"inspect_ai cannot run .*ends.py: its code ends the program"):
        run([str(path)], tiny_bench.subject, tiny_bench.conditions[:1], [], tmp_path)


@pytest.mark.slow
def test_what_a_task_prints_is_not_on_stdout(
    tiny_bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prints.py"
    path.write_text(ENDS.replace("pass  # task", "print('a task')").replace("pass  # scorer", "print('a scorer')"))
    run([str(path)], tiny_bench.subject, tiny_bench.conditions[:1], [], tmp_path)
    out, err = capsys.readouterr()
    assert out == "" and "a task" in err and "a scorer" in err


ENDS = """
import sys
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, mean, scorer

@scorer(metrics=[mean()])
def own():
    async def score(state, target):
        pass  # scorer
        return Score(value=1)

    return score

@task
def ends():
    pass  # task
    samples = MemoryDataset([Sample(input="a", target="e")])
    return Task(samples, scorer=own(), config=GenerateConfig(max_tokens=2))
"""
