"""The engine's batches: one condition each, errors where they belong, weights restored."""

import threading
from concurrent.futures import CancelledError, Future, wait
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers.inspect_tasks import Bench, bench
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.inspection import engine as module
from wsteer.evaluation.inspection.engine import Engine
from wsteer.evaluation.subject import Subject, with_system
from wsteer.models.generation import Answer, Decoding, answer, answer_by

GREEDY = Decoding(6)


@pytest.fixture(scope="module")
def given(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tiny, tmp_path_factory.mktemp("bench"))


def chat(text: object) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Say {text}."}]


def asked(engine: Engine, conditions: list[Condition], count: int) -> list["Future[Answer]"]:
    return [engine.ask(condition, chat(i), GREEDY, 0, i) for i in range(count) for condition in conditions]


@pytest.mark.slow
def test_requests_of_all_conditions_become_one_batch_each(given: Bench) -> None:
    state = {name: each.clone() for name, each in given.subject.loaded.model.state_dict().items()}
    with Engine(given.subject) as engine:
        texts = [future.result(60).text for future in asked(engine, given.conditions, 12)]
        assert sorted(engine.rounds) == sorted((each.name, 12) for each in given.conditions)
        again = [future.result(60).text for future in asked(engine, given.conditions, 12)]
        assert engine.rounds[3][0] == engine.rounds[2][0]  # the condition that was applied goes first
    assert again == texts
    for place, condition in enumerate(given.conditions):
        with given.subject.under(condition):
            expected = answer(given.subject.loaded, [chat(i) for i in range(12)], 6)
        assert texts[place::3] == [each.text for each in expected]
    after = given.subject.loaded.model.state_dict()
    assert all(torch.equal(after[name], each) for name, each in state.items())


def test_a_condition_s_system_prompt_comes_before_the_chat(given: Bench) -> None:
    polite = Condition("system", system="Be polite.")
    with Engine(given.subject) as engine:
        found = engine.ask(polite, chat(1), GREEDY, 0, 0).result(60)
    assert [found] == answer(given.subject.loaded, [with_system(polite, chat(1))], 6)


def test_an_error_is_its_requests_own(given: Bench) -> None:
    class Failing(Subject):
        def under(self, condition):
            if condition.method == "broken":
                raise WsteerError("this delta does not fit")
            return super().under(condition)

    base, broken = given.conditions[0], Condition("broken", k=1, delta="x")
    subject = Failing(given.subject.loaded, {}, 16)
    with Engine(subject) as engine:
        failing = engine.ask(broken, chat(1), GREEDY, 0, 0)
        long = engine.ask(base, chat("x" * 3000), GREEDY, 0, 0)
        fine = engine.ask(base, chat(1), GREEDY, 0, 0)
        with pytest.raises(WsteerError, match="this delta does not fit"):
            failing.result(60)
        with pytest.raises(WsteerError, match="longer than the 2048 positions"):
            long.result(60)
        assert fine.result(60).text
        assert engine.ask(base, chat(2), GREEDY, 0, 0).result(60).text  # it goes on


def test_closing_cancels_what_waits_and_refuses_what_comes(given: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(*args):
        started.set()
        go.wait(60)
        return answer_by(*args)

    monkeypatch.setattr(module, "answer_by", slow)
    engine = Engine(given.subject)
    runs = engine.ask(given.conditions[2], chat(1), GREEDY, 0, 0)
    assert started.wait(60)
    waits = engine.ask(given.conditions[1], chat(1), GREEDY, 0, 0)
    threading.Timer(0.2, go.set).start()
    engine.close()
    with pytest.raises(WsteerError, match="the evaluation was stopped"):
        runs.result(0)
    with pytest.raises(CancelledError):
        waits.result(0)
    with pytest.raises(WsteerError, match="after the end"):
        engine.ask(given.conditions[0], chat(1), GREEDY, 0, 0)


def test_a_cancelled_request_is_not_answered(given: Bench) -> None:
    with Engine(given.subject) as engine:
        futures = asked(engine, given.conditions[:1], 4)
        assert futures[2].cancel()
        wait(futures, 60)
        assert engine.rounds == [(given.conditions[0].name, 3)]


def test_many_rows_are_answered_in_rounds(given: Bench) -> None:
    subject = replace(given.subject, batch_size=1)
    with Engine(subject) as engine:
        futures = asked(engine, given.conditions[:1], 10)
        wait(futures, 60)
        assert [count for _, count in engine.rounds] == [8, 2]


def test_progress_counts_the_answers_of_each_condition(given: Bench) -> None:
    seen: list[str] = []

    def progress(items, label, total=None):
        try:
            for item in items:
                yield item
                seen.append(label)
        finally:
            seen.append(f"{label} done")

    with Engine(given.subject, progress) as engine:
        wait(asked(engine, given.conditions[1:], 3), 60)
    one, other = (f"w k={k} answers" for k in (-1, 1))
    assert seen == [one, one, one, f"{one} done", other, other, other, f"{other} done"]
