"""GSM8K under chain of thought (paper section 4.3): the last number of the answer against the right one.

As in the paper: data, greedy decoding, a worked answer. Adapted: the paper's judge does not see the right number; here
the rule compares with it, and no judge is asked.
"""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState, generate

from wsteer.errors import WsteerError
from wsteer.evaluation.paper.data import Record, identities, read_records
from wsteer.evaluation.paper.judging import score_of
from wsteer.evaluation.paper.numbers import last_number
from wsteer.evaluation.paper.prompts import filled, prompt_of
from wsteer.evaluation.rows import ABSTAINED, CUT

EXAMPLE = '{"question": "...", "answer": "... #### 18"}'
PROMPT = """{question}

Work it out step by step, and put the result alone on the last line, as "Answer: " and a number."""
MEASURES = {
    "accuracy": {"kind": "share", "better": "higher", "role": "capability"},
}


@task
def gsm8k(data: str = "openai/gsm8k/main:test", prompt: str = "", max_tokens: int = 1024) -> Task:
    """GSM8K's problems; the share whose last number is the right one."""
    records = read_records(data, "gsm8k", EXAMPLE)
    template = prompt_of(prompt, PROMPT, ["question"], "prompt")
    named = zip(identities(records), records, strict=True)
    samples = [_sample(identity, record, template) for identity, record in named]
    return Task(
        MemoryDataset(samples),
        solver=generate(),
        scorer=right_number(),
        config=GenerateConfig(max_tokens=max_tokens, temperature=0),
        metadata={"measures": MEASURES},
    )


def _sample(identity: str, record: Record, template: str) -> Sample:
    gold = last_number(record.text("answer").rpartition("####")[2])
    if gold is None:
        raise WsteerError(f"{record.where} has an answer without a number; a row is like {EXAMPLE}")
    return Sample(id=identity, input=filled(template, {"question": record.text("question")}), target=str(gold))


@scorer(metrics={"*": [mean()]})
def right_number() -> Scorer:
    """Whether the last number of the answer is the target; an answer without a number abstains, or was cut."""

    async def score(state: TaskState, target: Target) -> Score:
        given = last_number(state.output.completion)
        if given is None:
            why = CUT if state.output.stop_reason == "max_tokens" else ABSTAINED
            return score_of({"accuracy": why}, "no number")
        return score_of({"accuracy": given == last_number(target.text)}, f"{given}, and right is {target.text}")

    return score
