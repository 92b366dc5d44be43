"""What stands of an experiment: which of its steps ran in a folder, told from their outputs, and why others did not."""

from dataclasses import dataclass
from pathlib import Path

from wsteer.demo.experiment import JUDGE, Experiment
from wsteer.demo.plan import REPORT, Planned, plan

RAN, LEFT_OUT, NOT_RUN = "ran", "left out", "not run"
NO_JUDGE = "there is no judge: never graded by the model under test"


@dataclass(frozen=True)
class Standing:
    """One step in a folder: as it is planned; whether it ran, was left out or is still to be run; and why."""

    step: Planned
    state: str
    why: str = ""


def standing(experiment: Experiment, scale: str, folder: Path, model: str | None = None) -> list[Standing]:
    """The steps of an experiment at a scale, in order, as they stand in `folder`; the report is the last."""
    return [_stands(each, folder) for each in plan(experiment, scale, model)]


def _stands(step: Planned, folder: Path) -> Standing:
    if step.left_out is not None:
        return Standing(step, LEFT_OUT, NO_JUDGE if step.command.missing == JUDGE else step.left_out)
    # the report is being written, and says the same when it is written again
    if missing := [each for each in step.outputs if each != REPORT and not (folder / each).exists()]:
        return Standing(step, NOT_RUN, f"{missing[0]} is not in the folder")
    return Standing(step, RAN)
