"""GSM8K under chain of thought (paper section 4.3): the number that an answer ends in against the right one.

As in the paper: data, greedy decoding, a worked answer. Adapted: the wording of the instruction is ours, and no judge
is asked. The paper's judge does not see the right number; here a rule compares with the one behind the data's `####`.
What counts as the number of an answer says `tasks/numbers.py`: the one behind the last mark ("Answer: 18", `#### 18`,
`\\boxed{18}`), else the last one. A right number in the working counts for nothing.

`accuracy` is a share of all rows, so that a model that rambles to the limit or refuses cannot look better for it;
`valid` is the share that has a final number, which an answer cut before it has not, and `accuracy_of_valid` is among
these.

lm-eval has the same data: `lm:gsm8k_cot_zeroshot` ("Let's think step by step", no examples), `lm:gsm8k_cot` (8 worked
examples) and `lm:gsm8k` (5 examples). Their exact_match is there twice: by strict-match, which takes the number behind
"The answer is" (in `gsm8k` behind `####`) alone, and by flexible-extract, the last number of the text. None of them
asks for a form of the result, and both count an answer that was cut.
"""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState, generate

from wsteer.errors import WsteerError
from wsteer.evaluation.inspection.logs import CUTS, DECLARED
from wsteer.evaluation.paper.data import Record, identities, read_records
from wsteer.evaluation.paper.judging import RIGHT, right_of, score_of
from wsteer.evaluation.paper.prompts import filled, prompt_of
from wsteer.evaluation.tasks.numbers import final_number, last_number

EXAMPLE = '{"question": "...", "answer": "... #### 18"}'
PROMPT = """{question}

Work it out step by step, and put the result alone on the last line, as "Answer: " and a number."""


@task
def gsm8k(data: str = "openai/gsm8k/main:test", prompt: str = "", max_tokens: int = 1024) -> Task:
    """GSM8K's problems; the share of answers that end in the right number."""
    records = read_records(data, "gsm8k", EXAMPLE)
    template = prompt_of(prompt, PROMPT, ["question"], "prompt")
    named = zip(identities(records), records, strict=True)
    samples = [_sample(identity, record, template) for identity, record in named]
    return Task(
        MemoryDataset(samples),
        solver=generate(),
        scorer=right_number(),
        config=GenerateConfig(max_tokens=max_tokens, temperature=0),
        metadata={DECLARED: RIGHT},
    )


def _sample(identity: str, record: Record, template: str) -> Sample:
    gold = last_number(record.text("answer").rpartition("####")[2])
    if gold is None:
        raise WsteerError(f"{record.where} has an answer without a number; a row is like {EXAMPLE}")
    return Sample(id=identity, input=filled(template, {"question": record.text("question")}), target=str(gold))


@scorer(metrics={"*": [mean()]})
def right_number() -> Scorer:
    """Whether the final number of the answer is the target, and whether it has one."""

    async def score(state: TaskState, target: Target) -> Score:
        given = final_number(state.output.completion, state.output.stop_reason in CUTS)
        right = given is not None and given == last_number(target.text)
        return score_of(
            right_of(right, given is not None),
            f"{'no final number' if given is None else given}, and right is {target.text}",
        )

    return score
