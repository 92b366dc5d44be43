"""A model's answers to chats, greedy or sampled, in batches."""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from wsteer.errors import WsteerError, one_error
from wsteer.files.rows import Message
from wsteer.models.batches import batches, padded, steady
from wsteer.models.loading import LoadedModel, check_rows, running
from wsteer.models.rendering import prompt_text, token_ids
from wsteer.models.thoughts import Marks, find_marks
from wsteer.progress import Progress, silent


@dataclass(frozen=True)
class Answer:
    """One generated answer: its text, its length in tokens, and whether it ended before the token limit.

    `thought` is what the model thought before it, by the marks of its chat template; None if it did not. `reached` is
    False if the limit came inside the thought, or after it and before any answer. `asked` is the prompt's length in
    tokens.
    """

    text: str
    tokens: int
    finished: bool
    thought: str | None = None
    reached: bool = True
    asked: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Decoding:
    """How the tokens of an answer are chosen, and where it ends: the settings that all rows of a batch share.

    At `temperature` 0 the likeliest token is taken. `top_k` and `top_p` sample among the likeliest tokens alone: so
    many, or as many as together have this probability. An answer ends before the first of the texts in `stops`.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    stops: tuple[str, ...] = ()


class SeededSampling(LogitsProcessor):
    """Turns greedy choice into sampling at a temperature, by Gumbel noise from one generator per row.

    argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T). Each row's generator is seeded by the run's
    seed and the row's own number, so an answer does not depend on the other rows in its batch. (They are numpy's:
    torch's generators on the CPU keep only 32 bits of a seed.)
    """

    def __init__(self, seed: int, numbers: Sequence[int], temperature: float):
        self.generators = [np.random.default_rng([seed, number]) for number in numbers]
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = np.stack([generator.gumbel(size=scores.shape[1]) for generator in self.generators])
        return scores.float() / self.temperature + torch.from_numpy(noise).to(scores.device, torch.float32)


class SoundScores(LogitsProcessor):
    """Notes whether every row's scores tell tokens apart; NaN, infinity or equal scores would give an empty answer.

    It keeps the note on the model's device, so that no step waits for it.
    """

    def __init__(self) -> None:
        self.sound: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        low, high = scores.aminmax(dim=-1)  # NaN if a score is; the lowest may be -inf, of a token that is ruled out
        sound = (high.isfinite() & (high > low)).all()
        self.sound = sound if self.sound is None else self.sound & sound
        return scores

    def check(self) -> None:
        """Refuse answers that were chosen from such scores."""
        if self.sound is not None and not self.sound:
            raise WsteerError(
                "the model computes NaN, infinity or equal scores for all tokens, so that its answers mean nothing; "
                "try --dtype float32, or with a delta a smaller --k"
            )


def answer(
    loaded: LoadedModel,
    chats: Sequence[Sequence[Message]],
    max_new_tokens: int,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Answer]:
    """The model's answer to each chat, in the order given; temperature 0 is greedy."""
    decoding = Decoding(max_new_tokens, temperature)
    return answer_by(loaded, chats, decoding, batch_size, seed, range(len(chats)), progress)


def answer_by(
    loaded: LoadedModel,
    chats: Sequence[Sequence[Message]],
    decoding: Decoding,
    batch_size: int,
    seed: int,
    numbers: Sequence[int],
    progress: Progress = silent,
) -> list[Answer]:
    """The model's answer to each chat, in the order given. Sampling is seeded by `seed` and each chat's own number."""
    texts = [prompt_text(loaded.chat, chat) for chat in chats]
    asked = [token_ids(loaded.tokenizer, text) for text in texts]
    marks = find_marks(loaded.chat)
    rows = following(loaded, asked, decoding, batch_size, seed, numbers, progress)
    with one_error(f"the tokenizer of {loaded.tokenizer.name_or_path} fails"):
        return [
            replace(_decoded(loaded, marks, text, row, decoding.stops), asked=len(ids))
            for text, ids, row in zip(texts, asked, rows, strict=True)
        ]


def following(
    loaded: LoadedModel,
    asked: Sequence[list[int]],
    decoding: Decoding,
    batch_size: int = 32,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    progress: Progress = silent,
) -> list[list[int]]:
    """The token ids with which the model goes on after each prompt, to the end token, which is among them.

    Sampling is seeded by `seed` and each prompt's number, by default its place.
    """
    numbers = range(len(asked)) if numbers is None else numbers
    check_rows(loaded, asked, more=decoding.max_new_tokens)
    lengths = list(map(len, asked))

    def results(indices: list[int], other_padding: bool) -> Tensor:
        return _first_logits(loaded, [asked[index] for index in indices], other_padding)

    size = steady(lengths, batch_size, loaded.model.dtype, results)
    found: dict[int, list[int]] = {}
    for indices in progress(list(batches(lengths, size)), "generate"):
        scores = SoundScores()
        processors = LogitsProcessorList([scores, *_sampling(decoding, seed, [numbers[index] for index in indices])])
        rows = [asked[index] for index in indices]
        stops: dict[str, Any] = (
            {"stop_strings": list(decoding.stops), "tokenizer": loaded.tokenizer} if decoding.stops else {}
        )
        run = _run(loaded, rows, decoding.max_new_tokens, processors, **stops)
        made = run.sequences[:, max(map(len, rows)) :].tolist()
        scores.check()
        found.update((index, row[: _length(loaded, row) + 1]) for index, row in zip(indices, made, strict=True))
    return [found[index] for index in range(len(asked))]


def _sampling(decoding: Decoding, seed: int, numbers: Sequence[int]) -> list[LogitsProcessor]:
    """What turns the greedy choice of these rows into the sampling that is asked for."""
    if not decoding.temperature:
        return []
    chosen: list[LogitsProcessor] = []
    if decoding.top_k:
        chosen.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p is not None and decoding.top_p < 1:  # it depends on the temperature
        chosen += [TemperatureLogitsWarper(decoding.temperature), TopPLogitsWarper(decoding.top_p)]
        return [*chosen, SeededSampling(seed, numbers, 1.0)]
    return [*chosen, SeededSampling(seed, numbers, decoding.temperature)]


def _run(
    loaded: LoadedModel,
    asked: list[list[int]],
    max_new_tokens: int,
    processors: LogitsProcessorList,
    pad: int | None = None,
    **more: Any,
) -> Any:
    """What transformers generates after these prompts, as one batch padded on the left."""
    ids, mask = padded(asked, loaded.tokenizer.pad_token_id if pad is None else pad, left=True)
    device = loaded.model.device
    with running(loaded):
        return cast(GenerationMixin, loaded.model).generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            logits_processor=processors,
            return_dict_in_generate=True,
            **more,
        )


class _OneToken(LogitsProcessor):
    """Makes every row go on with one token, so that the logits after it can be compared."""

    def __init__(self, token: int):
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self.token] = 0
        return forced


def _first_logits(loaded: LoadedModel, asked: list[list[int]], other_padding: bool = False) -> Tensor:
    """The logits of the first two tokens after each prompt [rows, 2, vocabulary]; the second reads the cache."""
    token = next((token for token in asked[0] if token not in _ends(loaded)), 0)
    made = _run(
        loaded,
        asked,
        2,
        LogitsProcessorList([_OneToken(token)]),
        pad=token if other_padding else None,
        output_logits=True,
    )
    return torch.stack(made.logits, dim=1)


def _ends(loaded: LoadedModel) -> list[int | None]:
    """The tokens at which `generate` ends an answer."""
    ends = loaded.model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]


def _length(loaded: LoadedModel, row: list[int]) -> int:
    """How many tokens come before the first end token."""
    ends = _ends(loaded)
    return next((i for i, token in enumerate(row) if token in ends), len(row))


def _decoded(loaded: LoadedModel, marks: Marks, prompt: str, row: list[int], stops: Sequence[str]) -> Answer:
    length = _length(loaded, row)
    finished = length < len(row)
    # with its special tokens, which may be a thought's marks
    text = str(loaded.tokenizer.decode(row[:length], skip_special_tokens=False))
    plain = str(loaded.tokenizer.decode(row[:length], skip_special_tokens=True))
    if any(stop in text for stop in stops):
        finished, text, plain = True, _before(text, stops), _before(plain, stops)
        # the row goes on with padding
        whole = range(1, length + 1)
        decode = loaded.tokenizer.decode
        length = whole[bisect(whole, False, key=lambda n: any(stop in str(decode(row[:n])) for stop in stops))]
    found = marks.split(prompt, text, finished)
    if found is not None:
        return Answer(found.answer, length, finished, found.thought, reached=finished or bool(found.answer))
    return Answer(plain.strip(), length, finished)


def _before(text: str, stops: Sequence[str]) -> str:
    """What stands before the first of the stops."""
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]
