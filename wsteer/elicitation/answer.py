"""A model's answers to prompts at several k of deltas: the first look at a delta, and rows for a judge of one's own."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from wsteer.deltas.model_input import open_model
from wsteer.elicitation.trait import shipped_traits
from wsteer.errors import WsteerError
from wsteer.evaluation.compared import Added, Compared
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.methods import open_methods, placed, read_system
from wsteer.evaluation.subject import Subject, common_settings, with_system
from wsteer.files.opening import is_stream
from wsteer.files.provenance import ROW_KEY, record, recordable, source_entry
from wsteer.files.rows import Message, is_hub_data_set, read_prompts
from wsteer.files.saving import check_output, new_file
from wsteer.files.shapes import Shape
from wsteer.files.text import write_jsonl
from wsteer.models.arguments import check_count, check_run, check_sampling
from wsteer.models.chat import ChatFormat
from wsteer.models.generation import Answer, Decoding, answer_by
from wsteer.models.loading import LoadedModel, check_rows, with_template_of
from wsteer.models.rendering import prompt_text, token_ids
from wsteer.progress import Progress, labelled, silent
from wsteer.steering.loading import load
from wsteer.steering.rounding import Rounding

BATCH_SIZE = 32  # rows that run at once by default
MOST_ANSWERS = 1_000_000  # all are held in memory until they are written
LOOK = 3  # prompts that the report shows


@dataclass(frozen=True)
class Given:
    """One answer: to which prompt, under which condition, the how many-th; whether it ended before the token limit."""

    index: int
    prompt: str
    condition: str
    k: float
    sample: int
    answer: str
    finished: bool


@dataclass(frozen=True)
class AnswersReport:
    """What `answer_prompts` wrote: how many answers, to how many prompts, under which conditions.

    `empty` answers are written too. `truncated` are cut at the limit of tokens, `cut_thinking` of them before they
    answered. `first` are the answers to the first prompts, one for each condition.
    """

    output: str
    prompts: int
    conditions: tuple[str, ...]
    samples: int
    rows: int
    empty: int
    truncated: int
    cut_thinking: int
    first: tuple[Given, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def answer_prompts(
    model: str | Path,
    prompts: str | Path,
    output: str | Path,
    *,
    delta: str | Path | Added | Sequence[str | Path | Added] = (),
    ks: float | Sequence[float] | None = None,
    layers: Sequence[int] | str | None = None,
    variant: str | None = None,
    positions: str = "response",
    system: str | None = None,
    columns: Shape | None = None,
    samples: int = 1,
    temperature: float | None = None,
    max_new_tokens: int = 600,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    template: str | Path | None = None,
    template_args: Mapping[str, object] | None = None,
    date: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    rounding: str = "auto",
    force: bool = False,
    progress: Progress = silent,
) -> AnswersReport:
    """Answer each prompt `samples` times as `model` plus k times each `delta`, for every k of `ks` (None: once).

    The model as it is answers if there is no delta, or if 0 is among the `ks`. With a change of weights the answers
    equal those of a checkpoint that `steer` writes with that k, rounding and seed, bit for bit. `columns` name where
    rows have a prompt. `system` is a text, or a file of one, that comes before each prompt. `temperature` is 1 for
    several samples unless it is given, else 0, which is greedy. The noise of an answer depends on `seed`, the prompt's
    number and the sample's: it is the same under all conditions, in any batch.

    `output` is a JSONL file; its rows are in the order of the prompts, under each by condition (the model as it is
    first), then by sample. The first row also has the record of the run, as JSON, under `wsteer`.
    """
    wanted = Rounding(rounding, seed)
    decoding = _decoding(samples, temperature, max_new_tokens)
    check_run(batch_size, device, dtype)
    chat_format = ChatFormat(template, template_args, date)
    compared = Compared.of(delta, ks, layers, variant, (), (), (), positions, None, None)
    said, file = (None, None) if system is None else read_system(system)[1:]
    _check_there(prompts)
    output, opened = Path(output), open_model(model)
    compared = placed(compared, opened.checkpoint)
    methods = open_methods(opened.checkpoint, compared, seed)
    inputs = [*opened.folders, *methods.paths, *([] if file is None else [file]), *chat_format.files, prompts]
    check_output(output, force, folder=False, inputs=inputs)
    places, given = zip(*read_prompts(prompts, columns), strict=True)
    chats = [with_system(Condition(BASE, system=said), chat) for chat in given]
    as_it_is = not methods.lines or 0 in (compared.ks or ())
    count = len(chats) * samples * (as_it_is + sum(len(line.ks) for line in methods.lines))
    if count > MOST_ANSWERS:
        raise WsteerError(f"{count} answers are too many; give fewer prompts, --k or --samples")
    loaded = load(opened, device, dtype, chat_format=chat_format)
    for folder in methods.folders:
        loaded = with_template_of(folder, loaded, chat_format)
    _check_lengths(loaded, places, chats, max_new_tokens)
    settings = common_settings(loaded, wanted)
    added = {
        condition: what for condition, what in methods.conditions(**settings).items() if what is not None or as_it_is
    }
    subject = Subject(loaded, {c.name: what for c, what in added.items() if what is not None}, batch_size, seed)
    subject.check_vectors(added)
    answers = {each: _answers(subject, each, chats, samples, decoding, progress) for each in added}
    options = {
        **compared.recorded,
        "system": None if system is None else recordable(system),
        "columns": columns,
        "samples": samples,
        "temperature": decoding.temperature,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        **settings,
        **loaded.chat.recorded,
    }
    sources = [*loaded.entries("model"), *chat_format.inputs, *(each.source for each in methods.inputs)]
    sources += [*([] if file is None else [source_entry("system", file)]), source_entry("prompts", prompts)]
    written = json.dumps(record("generate", options, sources), sort_keys=True)
    rows = _rows(chats, answers, samples)
    with new_file(output, force) as partial:
        write_jsonl(partial, ({**row, ROW_KEY: written} if i == 0 else row for i, row in enumerate(rows)))
    everything = [each for found in answers.values() for each in found]
    return AnswersReport(
        output=str(output),
        prompts=len(chats),
        conditions=tuple(each.label for each in added),
        samples=samples,
        rows=len(everything),
        empty=sum(not each.text for each in everything),
        truncated=sum(not each.finished for each in everything),
        cut_thinking=sum(not each.reached for each in everything),
        first=tuple(_first(chats, answers, samples)),
        warnings=methods.warnings,
        notes=methods.notes,
    )


def _check_there(prompts: str | Path) -> None:
    if not (Path(prompts).exists() or is_stream(prompts) or is_hub_data_set(prompts)):
        raise WsteerError(
            f"{prompts} does not exist; give a file of prompts, - for standard input, a Hub data set org/name:split, "
            f"or a trait: a .json file, or one of {', '.join(shipped_traits())}"
        )


def _decoding(samples: int, temperature: float | None, max_new_tokens: int) -> Decoding:
    check_count("samples", samples)
    if temperature is None:
        temperature = 1.0 if samples > 1 else 0.0
    check_sampling(samples, max_new_tokens, temperature)
    return Decoding(max_new_tokens, temperature)


def _check_lengths(
    loaded: LoadedModel, places: Sequence[str], chats: Sequence[Sequence[Message]], max_new_tokens: int
) -> None:
    """Refuse a prompt that leaves no room for its answer, by its place."""
    for where, chat in zip(places, chats, strict=True):
        try:
            check_rows(loaded, [token_ids(loaded.tokenizer, prompt_text(loaded.chat, chat))], more=max_new_tokens)
        except WsteerError as error:
            raise WsteerError(f"{where}: {error}") from error


def _answers(
    subject: Subject,
    condition: Condition,
    chats: Sequence[Sequence[Message]],
    samples: int,
    decoding: Decoding,
    progress: Progress,
) -> list[Answer]:
    """The answers under a condition, those to one prompt together."""
    asked = [chat for chat in chats for _ in range(samples)]
    # of each row and sample its own, whatever the number of samples is
    numbers = [row | sample << 32 for row, sample in product(range(len(chats)), range(samples))]
    told = labelled(progress, condition.label)
    try:
        with subject.under(condition):
            return answer_by(subject.loaded, asked, decoding, subject.batch_size, subject.seed, numbers, told)
    except WsteerError as error:
        raise WsteerError(f"{condition.label}: {error}") from error


def _rows(
    chats: Sequence[Sequence[Message]], answers: Mapping[Condition, Sequence[Answer]], samples: int
) -> Iterator[dict[str, object]]:
    for index, chat in enumerate(chats):
        for condition, sample in product(answers, range(samples)):
            given = answers[condition][index * samples + sample]
            yield {
                "index": index,
                "prompt": chat[-1]["content"],
                **({"messages": chat} if len(chat) > 1 else {}),
                "condition": condition.label,
                "delta": None if condition.is_base else condition.method,
                "k": condition.k,
                "sample": sample,
                "answer": given.text,
                "finished": given.finished,
                **({} if given.thought is None else {"thought": given.thought}),
            }


def _first(
    chats: Sequence[Sequence[Message]], answers: Mapping[Condition, Sequence[Answer]], samples: int
) -> Iterator[Given]:
    for index, chat in enumerate(chats[:LOOK]):
        for condition, found in answers.items():
            given = found[index * samples]
            yield Given(index, chat[-1]["content"], condition.label, condition.k, 0, given.text, given.finished)
