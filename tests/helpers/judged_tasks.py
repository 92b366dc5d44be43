"""A task of the paper on made-up answers and verdicts, by inspect_ai's own mock models, as estimates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import inspect_ai
from inspect_ai import Task
from inspect_ai.model import ChatMessage, GenerateConfig, ModelOutput, ModelUsage, get_model

from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.inspection.logs import measures, read_log
from wsteer.evaluation.rows import Measure, Row
from wsteer.evaluation.summary import Estimate, summarise

Said = str | tuple[str, str]  # a text, or a text and why it stopped


@dataclass(frozen=True)
class Found:
    """What a task gave: its estimates by metric, its rows, the prompts that judges were asked."""

    estimates: Mapping[str, Estimate]
    rows: tuple[Row, ...]
    measures: tuple[Measure, ...]
    asked: list[str]
    configs: list[GenerateConfig]

    def share(self, metric: str) -> tuple[int | None, int | None]:
        """A share's numerator and denominator."""
        return self.estimates[metric].numerator, self.estimates[metric].denominator

    def whys(self, metric: str) -> dict[str, int]:
        """How many rows have no value, by reason."""
        return dict(self.estimates[metric].unscored)


def run_task(
    task: Task, folder: Path, answer: Callable[[str], Said], *judges: Callable[[str], Said], limit: int | None = None
) -> Found:
    """Run a task: `answer` gives the answer to the user's turn, each judge its reply to a prompt."""
    asked: list[str] = []
    configs: list[GenerateConfig] = []

    def output(said: Said) -> ModelOutput:
        text, stopped = said if isinstance(said, tuple) else (said, "stop")
        found = ModelOutput.from_content("mockllm/model", text, stop_reason=stopped)
        found.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # else it downloads a tokenizer
        return found

    def subject(given: list[ChatMessage], tools: object, choice: object, config: GenerateConfig) -> ModelOutput:
        configs.append(config)
        return output(answer(given[-1].text))

    def grader(reply: Callable[[str], Said]) -> Callable[..., ModelOutput]:
        def graded(given: list[ChatMessage], *_: object) -> ModelOutput:
            asked.append(given[-1].text)
            return output(reply(given[-1].text))

        return graded

    roles = [get_model(f"mockllm/judge{n}", custom_outputs=grader(each)) for n, each in enumerate(judges)]
    (log,) = inspect_ai.eval(
        task,
        model=get_model("mockllm/model", custom_outputs=subject),
        model_roles={"grader": roles[0] if len(roles) == 1 else roles} if roles else None,
        log_dir=str(folder / "logs"),
        limit=limit,
        display="none",
        log_level="critical",
        log_realtime=False,
        ctl_server=False,
    )
    base = Condition(BASE)
    found = read_log(log.location, lambda model: base.name)
    told = measures(found.rows, found.measures)
    estimates = {each.metric: each for each in summarise(found.rows, told, [base])}
    return Found(estimates, found.rows, told, asked, configs)
