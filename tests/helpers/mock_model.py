"""Tasks of inspect_ai on inspect_ai's own mock model, which says what a test tells it to, and their rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.rows import Outcome
from wsteer.evaluation.summary import Estimate, summarise

Reply = Callable[[str], str | tuple[str, str]]  # of a prompt: the text, or it and inspect_ai's stop_reason
ONLY = Condition(BASE)


def answered(task: object, reply: Reply, folder: Path, judges: Sequence[Reply] = ()) -> Outcome:
    """What a task gives of a model that answers so, graded by judges that answer so."""
    from inspect_ai import eval
    from inspect_ai.model import get_model

    from wsteer.evaluation.inspection.logs import ROLE, measures, read_log

    def model(name: str, reply: Reply) -> object:
        def outputs(messages: list, tools: list, choice: object, config: object) -> object:
            return _output(reply(messages[-1].text))

        return get_model(f"mockllm/{name}", custom_outputs=outputs, memoize=False)

    panel = [model(f"judge{number}", each) for number, each in enumerate(judges)]
    # stands for no judge, as in wsteer eval, where the role is never left to the model under test
    grader = panel or [get_model("wsteer-no-judge/none", memoize=False)]
    (log,) = eval(
        task,
        model=model("subject", reply),
        model_roles={ROLE: grader if len(grader) > 1 else grader[0]},
        log_dir=str(folder),
        display="none",
        log_level="critical",
        score_display=False,
        log_realtime=False,
    )
    found = read_log(log.location, lambda name: ONLY.name)
    return Outcome(found.rows, measures(found.rows, found.measures))


def _output(said: str | tuple[str, str]) -> object:
    from inspect_ai.model import ModelOutput, ModelUsage

    text, stop_reason = (said, "stop") if isinstance(said, str) else said
    output = ModelOutput.from_content("mock", text, stop_reason=stop_reason)
    output.usage = ModelUsage(total_tokens=1)  # else they are counted by a tokenizer from the network
    return output


def by_metric(outcome: Outcome) -> Mapping[str, Estimate]:
    """The estimates by their metrics."""
    return {each.metric: each for each in summarise(outcome.rows, outcome.measures, [ONLY])}


def shares(outcome: Outcome) -> Mapping[str, tuple[int | None, int | None]]:
    """(numerator, denominator) by metric."""
    return {name: (each.numerator, each.denominator) for name, each in by_metric(outcome).items()}
