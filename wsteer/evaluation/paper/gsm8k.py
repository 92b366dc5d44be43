"""GSM8K under chain of thought (paper section 4.3): the number that an answer ends in against the right one.

As in the paper: data, greedy decoding, a worked answer. Adapted: the wording of the instruction is ours, and no judge
is asked. The paper's judge does not see the right number; here a rule compares with the one behind the data's `####`.
What counts as the number of an answer says `tasks/numbers.py`: the one behind the last mark ("Answer: 18", `#### 18`,
`\\boxed{18}`), else the last one. A right number in the working counts for nothing.

`accuracy` is a share of all answers that ended: one without any number, as a refusal, is not right. Where the limit of
tokens came first, there is nothing to grade (cut). `valid` is the share of all rows that have a final number.

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
from wsteer.evaluation.inspection.logs import CUTS
from wsteer.evaluation.paper.data import Record, identities, read_records
from wsteer.evaluation.paper.judging import score_of
from wsteer.evaluation.paper.prompts import filled, prompt_of
from wsteer.evaluation.rows import CUT
from wsteer.evaluation.tasks.numbers import final_number, last_number

EXAMPLE = '{"question": "...", "answer": "... #### 18"}'
PROMPT = """{question}

Work it out step by step, and put the result alone on the last line, as "Answer: " and a number."""
MEASURES = {
    "accuracy": {"kind": "share", "better": "higher", "role": "capability"},
    "valid": {"kind": "share", "better": "higher"},
}


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
        metadata={"measures": MEASURES},
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
        cut = state.output.stop_reason in CUTS
        given = final_number(state.output.completion, cut)
        if given is None:
            return score_of({"accuracy": CUT if cut else False, "valid": False}, "no final number")
        right = given == last_number(target.text)
        return score_of({"accuracy": right, "valid": True}, f"{given}, and right is {target.text}")

    return score
