"""TinyMMLU under chain of thought (paper section 4.2, Fig. 5 and 6): the option behind the last "Final Answer:".

As in the paper: 100 questions, reasoning before the option, greedy decoding, 3,000 tokens, and plain accuracy, not the
estimate by item response theory for which tinyBenchmarks chose the questions. Adapted: the wording of the instruction
is ours.

`accuracy` is the share of all rows whose letter is right, `valid` that of all rows that have one: an answer without a
marked letter is not right, whether it ended or not. `accuracy_of_valid` leaves such rows out of its denominator, which
so depends on the condition: it tells whether accuracy falls by wrong options or by lost ones. The letter stands alone
behind the last marker: "A man ... Final Answer: C" is C, and "Final Answer: A man" is none.

The data is tinyBenchmarks/tinyMMLU of the Hub: `question`, `subject`, four `choices`, and `answer`, the number of the
right one from 0, or its letter. Other questions of MMLU in that schema do as well.

lm-eval's `lm:tinyMMLU` has the same questions without chain of thought: five examples before each, the letter by its
probability, and the estimate by item response theory, so that it measures something else. `lm:mmlu_flan_cot_zeroshot`
is all of MMLU with reasoning, in prompts and with filters of its own.
"""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState, generate

from wsteer.errors import WsteerError
from wsteer.evaluation.inspection.logs import DECLARED
from wsteer.evaluation.paper.data import Record, identities, read_records
from wsteer.evaluation.paper.judging import RIGHT, right_of, score_of
from wsteer.evaluation.paper.options import final_letter
from wsteer.evaluation.paper.prompts import filled, prompt_of

EXAMPLE = '{"question": "...", "choices": ["...", "...", "...", "..."], "answer": 2}'
LETTERS = "ABCD"
PROMPT = """{question}

{options}

Reason step by step about the options, then choose one. The last line is "Final Answer: " and the letter of your \
choice, nothing else."""


@task
def tinymmlu(data: str = "tinyBenchmarks/tinyMMLU/all:test", prompt: str = "", max_tokens: int = 3000) -> Task:
    """TinyMMLU's questions; the share of all whose answer ends in the right letter."""
    records = read_records(data, "tinymmlu", EXAMPLE)
    template = prompt_of(prompt, PROMPT, ["question", "options"], "prompt")
    named = zip(identities(records, ("id", "mmlu_index")), records, strict=True)
    samples = [_sample(identity, record, template) for identity, record in named]
    return Task(
        MemoryDataset(samples),
        solver=generate(),
        scorer=right_letter(),
        config=GenerateConfig(max_tokens=max_tokens, temperature=0),
        metadata={DECLARED: RIGHT},
    )


def _sample(identity: str, record: Record, template: str) -> Sample:
    choices = record.fields.get("choices")
    if not isinstance(choices, list) or len(choices) != len(LETTERS) or not all(isinstance(c, str) for c in choices):
        raise WsteerError(f"{record.where} has no choices, a list of four texts; a row is like {EXAMPLE}")
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    given = filled(template, {"question": record.text("question").strip(), "options": options})
    return Sample(id=identity, input=given, target=_letter(record))


def _letter(record: Record) -> str:
    answer = record.fields.get("answer")
    if type(answer) is int and 0 <= answer < len(LETTERS):
        return LETTERS[answer]
    if isinstance(answer, str) and answer in tuple(LETTERS):
        return answer
    raise WsteerError(f"{record.where} has the answer {str(answer)[:40]!r}; it is a number from 0 to 3, or a letter")


@scorer(metrics={"*": [mean()]})
def right_letter() -> Scorer:
    """Whether the final letter of the answer is the target, and whether it has one."""

    async def score(state: TaskState, target: Target) -> Score:
        given = final_letter(state.output.completion, LETTERS)
        right = given == target.text
        return score_of(right_of(right, given is not None), f"{given or 'no letter'}, and right is {target.text}")

    return score
