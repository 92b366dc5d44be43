"""scores.csv: the metrics of a training's checkpoints by step, for wsteer monitor --scores."""

from pathlib import Path

import pytest

from tests.helpers.evaluations import conditions
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.presentation.outputs import write_outputs
from wsteer.evaluation.presentation.page import Findings
from wsteer.evaluation.rows import OUTSIDE, Measure, Row
from wsteer.evaluation.summary import summarise
from wsteer.monitoring.trajectories import read_scores

MEASURES = (
    Measure("em", "coherence", "mean", "higher", "capability"),
    Measure("em", "rate", "share", "lower", "behaviour"),
    Measure("trait", "coherence", "mean"),
)
CHOSEN = [
    Condition(BASE, model="m"),
    *(Condition(run, 1.0, "m", f"{run}{step}", step=step) for run in ("a", "b") for step in (20, 10)),
    Condition("system", model="m", system="Be kind."),
    Condition("w", 1.0, "m", "w"),
]
RATES = {"base": (0, 0), "a step 20": (1, 1), "a step 10": (1, 0), "b step 20": (None, None), "b step 10": (0, 0)}


def write(folder: Path, chosen: list[Condition]) -> Path:
    found = []
    for condition in chosen:
        for number, value in enumerate(RATES.get(condition.label, (1, 1))):
            place = {"condition": condition.name, "id": str(number)}
            found.append(Row("em", "rate", value=value, why="" if value is not None else OUTSIDE, **place))
            found.append(Row("em", "coherence", value=90.0, **place))
            found.append(Row("trait", "coherence", value=80.0, **place))
    folder.mkdir()
    write_outputs(folder, Findings(found, MEASURES, chosen, summarise(found, MEASURES, chosen), {}))
    return folder / "scores.csv"


@pytest.mark.slow
def test_scores_have_a_line_for_each_step_of_each_run_and_the_behaviour_first(tmp_path: Path) -> None:
    path = write(tmp_path / "out", CHOSEN)
    assert path.read_text().splitlines() == [
        "run,step,rate,em.coherence,trait.coherence",
        ",0,0.0,90.0,80.0",
        "a,20,1.0,90.0,80.0",
        "a,10,0.5,90.0,80.0",
        "b,20,,90.0,80.0",
        "b,10,0.0,90.0,80.0",
    ]
    scores = read_scores(path)
    assert scores.label == "rate"
    assert scores.of("a") == [(0, 0.0), (10, 0.5), (20, 1.0)]
    assert scores.of("b") == [(0, 0.0), (10, 0.0)]  # a share of no rows is no score


@pytest.mark.slow
def test_without_checkpoints_there_are_no_scores(tmp_path: Path) -> None:
    assert not write(tmp_path / "out", conditions(3)).exists()


def test_scores_without_any_number_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("step,rate\n1,\n2,\n")
    with pytest.raises(WsteerError, match="no step has a number under rate"):
        read_scores(path)
