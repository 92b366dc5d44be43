"""Contrastive data from a trait file: the same questions answered under opposite system prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wsteer.elicitation.balance import Nuisance, Side, balance, warnings_of
from wsteer.elicitation.pairs import Pair, counts, judged_pairs, warning_of
from wsteer.elicitation.trait import (
    check_assistant,
    check_judged,
    choose_questions,
    find_trait,
    read_trait,
    with_assistant,
)
from wsteer.errors import WsteerError
from wsteer.evaluation.inspection.inspection import check_judges
from wsteer.files.provenance import RECORD, key, record, source_entry
from wsteer.files.rows import Message, read_objects
from wsteer.files.saving import check_output, mark_work, new_folder
from wsteer.files.text import write_csv, write_json, write_jsonl
from wsteer.models.arguments import check_run, check_sampling
from wsteer.models.chat import ChatFormat
from wsteer.models.generation import Answer, answer
from wsteer.models.loading import LoadedModel, dtype_name
from wsteer.progress import Progress, labelled, silent
from wsteer.steering.loading import load

BATCH_SIZE = 32  # rows that run at once by default
MOST_ANSWERS = 1_000_000  # a side; all are held in memory until they are written
SIDES = ("pos", "neg")
HELPFUL = "helpful"  # the assistant of the negative side
WORK = "answers.jsonl"  # what a run whose judge died keeps
JUDGING = "judging"  # the folder of the judges' logs


@dataclass(frozen=True)
class GenerateReport:
    """What `generate` wrote: rows per side, questions asked and kept, answers dropped, answers cut short.

    Dropped are empty answers, those of which the limit of tokens left no more than a thought, and on request those that
    it cut. `pairs` counts the pairs that the judge kept, and those that it dropped by reason; None without a judge.
    `mean_tokens` and `balance` are of the sides as written.
    """

    output: str
    rows_pos: int
    rows_neg: int
    questions: int
    questions_eval: int
    dropped_empty: int
    dropped_thinking: int
    dropped_cut: int
    truncated: int
    mean_tokens_pos: float
    mean_tokens_neg: float
    pairs: Mapping[str, int] | None
    balance: tuple[Nuisance, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """What both sides are asked at one place: a question, the number of the instruction pair, and of the sample."""

    question: str
    instruction: int
    sample: int


@dataclass(frozen=True)
class Row:
    """An answer that stays, and the chat that it answers: the system prompt and the question."""

    chat: list[Message]
    answer: Answer

    def messages(self, keep_system: bool) -> dict[str, list[Message]]:
        """The row as training reads it."""
        return {"messages": [*self.chat[0 if keep_system else 1 :], {"role": "assistant", "content": self.answer.text}]}

    @property
    def compared(self) -> Side:
        """The row as the balance of the sides takes it."""
        return Side(self.answer.text, self.answer.tokens, self.chat[0]["content"])


def generate(
    base: str | Path,
    trait: str | Path,
    output: str | Path,
    *,
    samples: int = 10,
    max_new_tokens: int = 600,
    temperature: float = 1.0,
    all_questions: bool = False,
    questions_eval: str | Path | None = None,
    assistant: str | None = None,
    keep_system: bool = False,
    drop_cut: bool = False,
    judges: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    template: str | Path | None = None,
    template_args: Mapping[str, object] | None = None,
    date: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> GenerateReport:
    """Ask each question `samples` times under each positive and each negative instruction and write the answers.

    `trait` is a trait file, or the name of one of wsteer's own. The folder `output` gets `pos.jsonl` and `neg.jsonl`
    (chat rows; without the system prompt, so that training has to put the behaviour into the weights, or with it if
    `keep_system`), `balance.csv`, and `questions_eval.json`: the half of the questions that was not asked. With
    `all_questions` there are none; with a file `questions_eval` they are those of the file, and all others are asked.
    The instructions stand alone, or behind "You are a[n] `assistant` assistant." (of neg "a helpful assistant").
    `drop_cut` drops answers that the limit of tokens cut. With `judges` only pairs that pass their ratings stay;
    `judged.csv` has the ratings, and a run whose judge dies keeps its answers for `resume`.
    `template` (a jinja file), `template_args` and `date` say how chats become text.
    """
    check_sampling(samples, max_new_tokens, temperature)
    check_run(batch_size, device, dtype)
    chat_format = ChatFormat(template, template_args, date)
    output, trait = Path(output), find_trait(trait)
    others = Path(questions_eval) if questions_eval else None
    files = [trait, *([others] if others else ()), *chat_format.files]
    check_output(output, force, folder=True, inputs=[base, *files], resume=resume)
    parsed = read_trait(trait)
    asked, kept, eval_prompt = choose_questions(trait, parsed, all_questions, others, seed)
    check_assistant(assistant)
    wanted = samples * len(asked) * len(parsed.pos)
    if wanted > MOST_ANSWERS:
        raise WsteerError(f"--samples {samples} asks for {wanted} answers a side, which are too many; lower it")
    if judges:
        check_judged(trait, parsed.eval_prompt)
        check_judges(judges, base)
    loaded = load(base, device, dtype, chat_format=chat_format)
    options = {
        "samples": samples,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "all_questions": all_questions,
        "assistant": assistant,
        "drop_cut": drop_cut,
        "batch_size": batch_size,
        "seed": seed,
        "dtype": dtype_name(loaded),
        **loaded.chat.recorded,
    }
    inputs = [*loaded.entries("base"), source_entry("trait", trait), *chat_format.inputs]
    inputs += [source_entry("questions_eval", others)] if others else []
    same = key(record("generate", options, inputs))  # of the answers: another judge may go on with them
    grid = [Asked(q, i, n) for q in asked for i in range(len(parsed.pos)) for n in range(samples)]
    systems = {
        "pos": [_system(assistant, instruction) for instruction in parsed.pos],
        "neg": [_system(assistant and HELPFUL, instruction) for instruction in parsed.neg],
    }
    chats = {side: [_chat(systems[side][each.instruction], each.question) for each in grid] for side in SIDES}
    with new_folder(output, force, same, resume) as partial:
        answers = _kept_answers(partial)
        if answers is None:
            answers = _answers(loaded, chats, max_new_tokens, batch_size, temperature, seed, progress)
            if judges:
                _keep_answers(partial, answers)
        stays = {side: [_usable(each, drop_cut) for each in answers[side]] for side in SIDES}
        pairs = _judged(partial, grid, answers, stays, parsed.eval_prompt, judges, progress) if judges else None
        if pairs is not None:
            stays = {side: [pair.why == "" for pair in pairs] for side in SIDES}
        rows = {
            side: [Row(chat, a) for chat, a, stay in zip(chats[side], answers[side], stays[side], strict=True) if stay]
            for side in SIDES
        }
        for side in SIDES:
            write_jsonl(partial / f"{side}.jsonl", [row.messages(keep_system) for row in rows[side]])
        table = balance(*([row.compared for row in rows[side]] for side in SIDES))
        write_csv(partial / "balance.csv", ["name", "pos", "neg", "d", "differs"], map(asdict, table))
        if kept:
            write_json(partial / "questions_eval.json", {"questions": kept, "eval_prompt": eval_prompt})
        options |= {"keep_system": keep_system, "judge": list(judges)}
        everything = answers["pos"] + answers["neg"]
        dropped = {
            "dropped_empty": sum(not a.text and a.reached for a in everything),
            "dropped_thinking": sum(not a.reached for a in everything),
            "dropped_cut": sum(bool(a.text) and not _usable(a, drop_cut) for a in everything),
        }
        kept_pairs = None if pairs is None else counts(pairs)
        numbers = {**{f"rows_{side}": len(rows[side]) for side in SIDES}, **dropped, "pairs": kept_pairs}
        write_json(partial / RECORD, {**record("generate", options, inputs), "counts": numbers})
        (partial / WORK).unlink(missing_ok=True)
    return GenerateReport(
        output=str(output),
        rows_pos=len(rows["pos"]),
        rows_neg=len(rows["neg"]),
        questions=len(asked),
        questions_eval=len(kept),
        **dropped,
        truncated=sum(not a.finished for a in everything),
        mean_tokens_pos=_mean_tokens(rows["pos"]),
        mean_tokens_neg=_mean_tokens(rows["neg"]),
        pairs=kept_pairs,
        balance=table,
        warnings=(*(warning_of(pairs) if pairs else ()), *warnings_of(table)),
    )


def _system(assistant: str | None, instruction: str) -> str:
    return instruction if assistant is None else with_assistant(assistant, instruction)


def _chat(system: str, question: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def _answers(
    loaded: LoadedModel,
    chats: Mapping[str, Sequence[list[Message]]],
    max_new_tokens: int,
    batch_size: int,
    temperature: float,
    seed: int,
    progress: Progress,
) -> dict[str, list[Answer]]:
    found = {}
    for side, given in chats.items():
        # each side has its own seeds; with the same ones equal rows would get equal noise
        side_seed = 2 * seed + (side == "neg")
        found[side] = answer(
            loaded, given, max_new_tokens, batch_size, temperature, side_seed, labelled(progress, side)
        )
    return found


def _keep_answers(partial: Path, answers: Mapping[str, Sequence[Answer]]) -> None:
    """Keep all answers in the temporary folder: judges are others' machines, which fail."""
    write_jsonl(partial / WORK, ({"side": side, **asdict(each)} for side in SIDES for each in answers[side]))
    mark_work(partial)


def _kept_answers(partial: Path) -> dict[str, list[Answer]] | None:
    """The answers of a run that this one goes on with; None if there are none."""
    if not (partial / WORK).is_file():
        return None
    found: dict[str, list[Answer]] = {side: [] for side in SIDES}
    for _, row in read_objects(partial / WORK):
        found[row.pop("side")].append(Answer(**row))
    return found


def _usable(given: Answer, drop_cut: bool) -> bool:
    return bool(given.text) and (given.finished or not drop_cut)


def _judged(
    partial: Path,
    grid: Sequence[Asked],
    answers: Mapping[str, Sequence[Answer]],
    usable: Mapping[str, Sequence[bool]],
    eval_prompt: str,
    judges: Sequence[str],
    progress: Progress,
) -> list[Pair]:
    """The judges' ratings of all pairs, in `judged.csv` too; an answer that is not usable counts as missing."""
    pos, neg = ([a.text if use else None for a, use in zip(answers[s], usable[s], strict=True)] for s in SIDES)
    questions = [each.question for each in grid]
    pairs: list[Pair] = []
    for _ in progress([None], "judge"):
        pairs = judged_pairs(questions, pos, neg, eval_prompt, judges, partial / JUDGING)
    _write_judged(partial / "judged.csv", grid, pairs)
    return pairs


def _write_judged(path: Path, grid: Sequence[Asked], pairs: Sequence[Pair]) -> None:
    """All pairs with their ratings, and why a dropped one was."""
    ratings = [f"{rating}_{side}" for side in SIDES for rating in ("trait", "coherence")]
    lines = [
        {
            "question": each.question,
            "instruction": each.instruction + 1,
            "sample": each.sample + 1,
            **dict(zip(ratings, pair.values, strict=True)),
            "dropped": pair.why,
        }
        for each, pair in zip(grid, pairs, strict=True)
    ]
    write_csv(path, ["question", "instruction", "sample", *ratings, "dropped"], lines)


def _mean_tokens(rows: Sequence[Row]) -> float:
    """Of the rows as written; 0 without any."""
    return sum(row.answer.tokens for row in rows) / max(len(rows), 1)
