"""A task of inspect_ai on its own mock models, which say what a test tells them to: its rows, estimates and prompts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.rows import Measure, Row
from wsteer.evaluation.summary import Estimate, summarise

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.model import GenerateConfig, Model

Said = str | tuple[str, str]  # a text, or a text and inspect_ai's stop_reason
Reply = Callable[[str], Said]  # to a prompt
ONLY = Condition(BASE)


@dataclass(frozen=True)
class Found:
    """What a task gave: its rows and measures, the prompts that judges were asked, and how the model was to answer."""

    rows: tuple[Row, ...]
    measures: tuple[Measure, ...]
    asked: list[str]
    configs: "list[GenerateConfig]"

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """The estimates by metric, where there is no other condition."""
        return {each.metric: each for each in summarise(self.rows, self.measures, [ONLY])}

    @property
    def shares(self) -> Mapping[str, tuple[int | None, int | None]]:
        """(numerator, denominator) by metric."""
        return {name: (each.numerator, each.denominator) for name, each in self.estimates.items()}

    def whys(self, metric: str) -> dict[str, int]:
        """How many rows have no value, by reason."""
        return dict(self.estimates[metric].unscored)


def run_task(task: "Task", folder: Path, answer: Reply, *judges: Reply, condition: str = ONLY.name) -> Found:
    """Run a task: `answer` replies to the user's turn, each judge to a prompt. Its log is written into `folder`.

    `condition` is the name that the rows have for theirs.
    """
    import inspect_ai
    from inspect_ai.model import get_model

    from wsteer.evaluation.inspection import registry  # noqa: F401
    from wsteer.evaluation.inspection.logs import ROLE, measures, read_log

    asked: list[str] = []
    configs: list[GenerateConfig] = []

    def says(reply: Reply, prompts: list[str], settings: "list[GenerateConfig]") -> "Model":
        def outputs(messages: Any, tools: Any, choice: Any, config: Any) -> object:
            prompts.append(messages[-1].text)
            settings.append(config)
            return _output(reply(messages[-1].text))

        return get_model("mockllm/model", custom_outputs=outputs, memoize=False)

    # as in wsteer eval, where the role is never left to the model under test
    panel = [says(each, asked, []) for each in judges] or [get_model("wsteer-no-judge/none", memoize=False)]
    (log,) = inspect_ai.eval(
        task,
        model=says(answer, [], configs),
        model_roles={ROLE: panel[0] if len(panel) == 1 else panel},
        log_dir=str(folder / "logs"),
        display="none",
        log_level="critical",
        score_display=False,
        log_realtime=False,
        ctl_server=False,
    )
    found = read_log(log.location, lambda _: condition)
    return Found(found.rows, measures(found.rows, found.measures), asked, configs)


def _output(said: Said) -> object:
    from inspect_ai.model import ModelOutput, ModelUsage

    text, stopped = (said, "stop") if isinstance(said, str) else said
    output = ModelOutput.from_content("mockllm/model", text, stop_reason=stopped)  # type: ignore[arg-type]
    output.usage = ModelUsage(total_tokens=1)  # else they are counted by a tokenizer from the network
    return output
