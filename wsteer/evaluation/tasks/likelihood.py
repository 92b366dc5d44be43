"""Log-probabilities that a model gives to texts, in forward passes without generation."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wsteer.errors import WsteerError
from wsteer.models.batches import batches, padded, steady
from wsteer.models.loading import LoadedModel, check_rows, running
from wsteer.models.rendering import token_ids
from wsteer.progress import Progress, silent
from wsteer.steering.positions import prompt_lengths

MOST_LOGITS = 2**27  # numbers that one batch may have; half a gigabyte in float32


@dataclass(frozen=True)
class Scored:
    """Token ids of which those from `start` on are scored, each by its log-probability after all before it.

    The first `prompt` tokens are the prompt's, which says where activation vectors are added. `start` is 1 or more.
    """

    tokens: tuple[int, ...]
    start: int
    prompt: int


def continuation(loaded: LoadedModel, prompt: str, start: str, text: str) -> Scored:
    """`text` as it continues the prompt and then `start`; whole texts are tokenised, as answers are for training.

    Where a token would span the border before `text`, what is before it is tokenised alone, as generation does.
    """
    prompted = token_ids(loaded.tokenizer, prompt)
    before = token_ids(loaded.tokenizer, prompt + start) if start else prompted
    if before[: len(prompted)] != prompted:
        before = [*prompted, *_plain(loaded, start)]
    whole = token_ids(loaded.tokenizer, prompt + start + text)
    if whole[: len(before)] != before or len(whole) == len(before):
        whole = [*before, *_plain(loaded, text)]
    return Scored(tuple(whole), len(before), len(prompted))


def _plain(loaded: LoadedModel, text: str) -> list[int]:
    return loaded.tokenizer(text, add_special_tokens=False)["input_ids"]


def log_probabilities(
    loaded: LoadedModel, rows: Sequence[Scored], batch_size: int, progress: Progress = silent
) -> list[list[float]]:
    """The natural log-probability of each scored token, row by row, in float32 or the model's own if that is finer.

    The last token is never read, so rows that differ in it alone, as options of one token, share one forward pass.
    Raises WsteerError if the model cannot read a row, or computes no finite numbers.
    """
    check_rows(loaded, [row.tokens for row in rows])
    read = list(dict.fromkeys((row.tokens[:-1], row.prompt) for row in rows))
    sharing: dict[tuple[tuple[int, ...], int], list[int]] = {each: [] for each in read}
    for index, row in enumerate(rows):
        sharing[row.tokens[:-1], row.prompt].append(index)
    first = [min(rows[index].start for index in sharing[each]) - 1 for each in read]  # the first position that counts

    def results(indices: list[int], other_padding: bool) -> Tensor:
        pad = read[indices[0]][0][-1] if other_padding else None
        logits, kept = _logits(loaded, [read[i] for i in indices], min(first[i] for i in indices), pad)
        last = [len(read[i][0]) - 1 - kept for i in indices]
        return torch.stack([row[place : place + 1] for row, place in zip(logits, last, strict=True)])

    lengths = [len(tokens) for tokens, _ in read]
    widest = max(length - start for length, start in zip(lengths, first, strict=True))
    vocabulary = loaded.model.config.get_text_config().vocab_size
    size = min(batch_size, max(1, MOST_LOGITS // (vocabulary * widest)))
    size = steady(lengths, size, loaded.model.dtype, results)
    found: dict[int, list[float]] = {}
    for indices in progress(list(batches(lengths, size)), "score"):
        logits, kept = _logits(loaded, [read[i] for i in indices], min(first[i] for i in indices))
        for row_logits, i in zip(logits, indices, strict=True):
            for index in sharing[read[i]]:
                row = rows[index]
                found[index] = _of_row(row_logits[row.start - 1 - kept : len(row.tokens) - 1 - kept], row)
    return [found[index] for index in range(len(rows))]


def _of_row(logits: Tensor, row: Scored) -> list[float]:
    """The log-probabilities of the row's scored tokens by the logits [scored, vocabulary] before each."""
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    chosen = torch.tensor(row.tokens[row.start :], device=logits.device)
    values = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(dim=-1)
    if not bool(values.isfinite().all()):
        raise WsteerError(
            "the model computes NaN or infinity for the probability of a text, so that it means nothing; try --dtype "
            "float32, or with a delta a smaller --k"
        )
    return values.tolist()


def _logits(
    loaded: LoadedModel, rows: Sequence[tuple[tuple[int, ...], int]], start: int, pad: int | None = None
) -> tuple[Tensor, int]:
    """The logits [rows, positions, vocabulary] from position `start` on, or of all; and the first position there."""
    ids, mask = padded([tokens for tokens, _ in rows], loaded.tokenizer.pad_token_id if pad is None else pad)
    device, width = loaded.model.device, ids.shape[1]
    given = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
    keeps = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters
    with prompt_lengths([prompt for _, prompt in rows]), running(loaded):
        logits = loaded.model(**given, **({"logits_to_keep": width - start} if keeps else {})).logits
    return logits, width - logits.shape[1]
