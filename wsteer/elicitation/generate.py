"""Contrastive data from a trait file: the same questions answered under opposite system prompts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.elicitation.trait import read_trait, split_questions
from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD, record, source_entry
from wsteer.files.rows import Message
from wsteer.files.saving import check_output, new_folder
from wsteer.files.text import write_json, write_jsonl
from wsteer.models.arguments import check_count, check_run
from wsteer.models.chat import ChatFormat
from wsteer.models.generation import Answer, answer
from wsteer.models.loading import dtype_name
from wsteer.progress import Progress, labelled, silent
from wsteer.steering.loading import load

BATCH_SIZE = 32  # rows that run at once by default
MOST_ANSWERS = 1_000_000  # a side; all are held in memory until they are written


@dataclass(frozen=True)
class GenerateReport:
    """What `generate` wrote: rows per side, questions asked and kept, answers dropped, answers cut short.

    Dropped are empty answers, and those of which the limit of tokens left no more than a thought.
    """

    output: str
    rows_pos: int
    rows_neg: int
    questions: int
    questions_eval: int
    dropped_empty: int
    dropped_thinking: int
    truncated: int
    mean_tokens_pos: float
    mean_tokens_neg: float


def generate(
    base: str | Path,
    trait: str | Path,
    output: str | Path,
    *,
    samples: int = 10,
    max_new_tokens: int = 600,
    temperature: float = 1.0,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    template: str | Path | None = None,
    template_args: Mapping[str, object] | None = None,
    date: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    force: bool = False,
    progress: Progress = silent,
) -> GenerateReport:
    """Ask each question `samples` times under each positive and each negative instruction and write the answers.

    The folder `output` gets `pos.jsonl` and `neg.jsonl` (chat rows without the system prompt, so that training has to
    put the behaviour into the weights) and `questions_eval.json`, the half of the questions that was not asked.
    `template` (a jinja file), `template_args` and `date` say how chats become text.
    """
    for name, count in (("samples", samples), ("max_new_tokens", max_new_tokens)):
        check_count(name, count)
    check_run(batch_size, device, dtype)
    chat_format = ChatFormat(template, template_args, date)
    if not 0 <= temperature < math.inf:
        raise WsteerError(f"temperature is {temperature}; it must be a number from 0 up")
    if temperature == 0 and samples > 1:
        raise WsteerError(
            f"at temperature 0 all {samples} samples are equal; use --samples 1, or a temperature above 0"
        )
    output = Path(output)
    check_output(output, force, folder=True, inputs=[base, trait, *chat_format.files])
    parsed = read_trait(Path(trait))
    asked, kept = split_questions(parsed.questions, seed)
    for instructions in (parsed.pos, parsed.neg):
        wanted = samples * len(asked) * len(instructions)
        if wanted > MOST_ANSWERS:
            raise WsteerError(f"--samples {samples} asks for {wanted} answers a side, which are too many; lower it")
    loaded = load(base, device, dtype, chat_format=chat_format)
    rows: dict[str, list[dict]] = {}
    answers: dict[str, list[Answer]] = {}
    for side, instructions in (("pos", parsed.pos), ("neg", parsed.neg)):
        chats = [_prompt(instruction, q) for q in asked for instruction in instructions for _ in range(samples)]
        # each side has its own seeds; with the same ones equal rows would get equal noise
        side_seed = 2 * seed + (side == "neg")
        answers[side] = answer(
            loaded, chats, max_new_tokens, batch_size, temperature, side_seed, labelled(progress, side)
        )
        rows[side] = [_row(chat, a) for chat, a in zip(chats, answers[side], strict=True) if a.text]
    options = {
        "samples": samples,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "batch_size": batch_size,
        "seed": seed,
        "dtype": dtype_name(loaded),
        **loaded.chat.recorded,
    }
    inputs = [*loaded.entries("base"), source_entry("trait", trait), *chat_format.inputs]
    with new_folder(output, force) as partial:
        for side in rows:
            write_jsonl(partial / f"{side}.jsonl", rows[side])
        write_json(partial / "questions_eval.json", {"questions": kept, "eval_prompt": parsed.eval_prompt})
        write_json(partial / RECORD, record("generate", options, inputs))
    everything = answers["pos"] + answers["neg"]
    return GenerateReport(
        output=str(output),
        rows_pos=len(rows["pos"]),
        rows_neg=len(rows["neg"]),
        questions=len(asked),
        questions_eval=len(kept),
        dropped_empty=sum(not a.text and a.reached for a in everything),
        dropped_thinking=sum(not a.reached for a in everything),
        truncated=sum(not a.finished for a in everything),
        mean_tokens_pos=_mean_tokens(answers["pos"]),
        mean_tokens_neg=_mean_tokens(answers["neg"]),
    )


def _prompt(instruction: str, question: str) -> list[Message]:
    return [{"role": "system", "content": instruction}, {"role": "user", "content": question}]


def _row(chat: list[Message], given: Answer) -> dict[str, list[Message]]:
    return {"messages": [chat[1], {"role": "assistant", "content": given.text}]}


def _mean_tokens(answers: Sequence[Answer]) -> float:
    return sum(a.tokens for a in answers) / len(answers)
