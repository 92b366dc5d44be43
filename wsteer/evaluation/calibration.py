"""The k at which a change moves the model as far as a budget allows, so that methods are compared at one strength.

How far: the KL divergence of the changed model's next-token distribution from the base's, in nats, at every token of
the base's own greedy answers; of these the 95th percentile (notes: activations E2).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature

import torch
from torch import Tensor

from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition, k_text
from wsteer.evaluation.subject import Subject, with_system
from wsteer.files.rows import Message
from wsteer.models.batches import batches, padded
from wsteer.models.generation import Decoding, following
from wsteer.models.loading import LoadedModel, running
from wsteer.models.rendering import prompt_text, token_ids
from wsteer.progress import Progress, labelled, silent
from wsteer.steering.loading import changed
from wsteer.steering.positions import prompt_lengths

PERCENTILE = 0.95
TOLERANCE = 0.02  # of the KL, relative to the target; KL grows with about k², so that k is twice as exact
SMALLEST, LARGEST = 2.0**-20, 64.0  # |k| beyond these is not tried
MOST = 40  # evaluations of one sign
NEW_TOKENS = 32  # of each answer
ROWS = 8  # run at once: the logits of all their tokens are in memory


@dataclass(frozen=True)
class CalibratedK:
    """What was found for one sign: `k`, None if no |k| tried reaches the target, and the KL at it.

    Without a k, `kl` is that of the last |k| tried. `evaluations` counts the values of k.
    """

    sign: int
    k: float | None
    kl: float
    evaluations: int


@dataclass(frozen=True)
class Calibration:
    """The k of both signs for a target KL in nats, over the tokens of some prompts' answers, and warnings."""

    target: float
    positive: CalibratedK
    negative: CalibratedK
    prompts: int
    tokens: int
    warnings: tuple[str, ...] = ()

    @property
    def ks(self) -> tuple[float, ...]:
        """The k that were found, the negative one first."""
        return tuple(each.k for each in (self.negative, self.positive) if each.k is not None)


def calibrate(
    subject: Subject,
    delta: Delta,
    condition: Condition,
    chats: Sequence[Sequence[Message]],
    target: float,
    max_new_tokens: int = NEW_TOKENS,
    progress: Progress = silent,
) -> Calibration:
    """The k of each sign at which the delta's 95th percentile of KL reaches `target`, within 2%.

    `condition` has the other settings: positions, system prompt, rounding, seed; its k is ignored. Each k that is tried
    costs one application and one forward pass of the answers. The base's log-probabilities stay in memory: 4 bytes for
    each token of the answers and of the vocabulary. If KL does not grow with |k| everywhere, the first of 1, 2, 4, ...
    at which it is above the target bounds k.
    """
    if not (target > 0 and math.isfinite(target)):
        raise WsteerError(f"--calibrate kl={target:g}: give a number of nats above 0, as kl=0.5")
    if not chats:
        raise WsteerError("--calibrate needs prompts, and there are none; give --data with rows")
    asked = [
        token_ids(subject.loaded.tokenizer, prompt_text(subject.loaded.chat, with_system(condition, chat)))
        for chat in chats
    ]
    stages = labelled(progress, f"calibrate {condition.method}")
    answers = following(subject.loaded, asked, Decoding(max_new_tokens), subject.batch_size, progress=stages)
    texts = _Texts(subject.loaded, asked, answers, min(subject.batch_size, ROWS))
    base = list(texts.log_probabilities(stages))

    def kl(k: float) -> float:
        named = labelled(progress, f"calibrate {condition.method} k={k_text(k)}")
        positions = condition.positions or "all"
        with changed(subject.loaded, delta, k, condition.rounding, condition.seed, positions):
            steered = texts.log_probabilities(named)
            divergences = torch.cat([_divergence(*pair) for pair in zip(steered, base, strict=True)])
        return math.inf if divergences.isnan().any() else float(divergences.quantile(PERCENTILE))

    positive, negative = (search(partial(_at, kl, sign), target, sign) for sign in (1, -1))
    warnings = tuple(_warning(condition, each, target) for each in (positive, negative) if _missed(each, target))
    return Calibration(target, positive, negative, len(chats), sum(map(len, answers)), warnings)


def _at(kl: Callable[[float], float], sign: int, size: float) -> float:
    return kl(sign * size)


def search(kl: Callable[[float], float], target: float, sign: int = 1) -> CalibratedK:
    """The size at which `kl` of it reaches the target: 1 doubled or halved, then the Illinois rule in logarithms.

    Where a KL is 0 or infinite, and has no logarithm, the bounds are halved instead. A size has four digits.
    """
    tried: dict[float, float] = {}

    def tell(size: float) -> float:
        """log(KL / target) at this size."""
        tried[size] = kl(size)
        return math.log(tried[size] / target) if tried[size] > 0 else -math.inf

    def found(size: float | None) -> CalibratedK:
        last = next(reversed(tried)) if size is None else size
        return CalibratedK(sign, None if size is None else sign * size, tried[last], len(tried))

    def reached(size: float) -> bool:
        return abs(tried[size] / target - 1) <= TOLERANCE

    before, y_before = 1.0, tell(1.0)
    factor = 0.5 if y_before > 0 else 2.0
    size, y = before, y_before
    while (y > 0) == (factor < 1) and not reached(size):
        if not SMALLEST < size < LARGEST:
            return found(None)
        before, y_before = size, y
        size = before * factor
        y = tell(size)
    (low, y_low), (high, y_high) = sorted([(before, y_before), (size, y)])
    side = 0
    while not (reached(low) or reached(high)) and len(tried) < MOST:
        share = y_low / (y_low - y_high) if math.isfinite(y_low - y_high) else 0.5
        size = float(f"{low * (high / low) ** share:.4g}")
        if not low < size < high:  # the bounds are as close as four digits can be: KL jumps between them
            break
        y = tell(size)
        # a bound that stays for a second time counts half, so that both move
        if y > 0:
            high, y_high, y_low, side = size, y, y_low / 2 if side > 0 else y_low, 1
        else:
            low, y_low, y_high, side = size, y, y_high / 2 if side < 0 else y_high, -1
    return found(min((low, high), key=lambda each: abs(tried[each] - target)))


@dataclass(frozen=True)
class _Texts:
    """Prompts with answers, as token ids, read by the model with the answers given."""

    loaded: LoadedModel
    prompts: Sequence[list[int]]
    answers: Sequence[list[int]]
    batch_size: int

    def log_probabilities(self, progress: Progress) -> Iterator[Tensor]:
        """For each text the log-probabilities of every token where one of the answer comes next [answer, vocabulary].

        The texts come in an order that depends on their lengths alone.
        """
        pairs = list(zip(self.prompts, self.answers, strict=True))
        rows = [[*prompt, *answer[:-1]] for prompt, answer in pairs]  # nothing comes after the last token
        for indices in progress(list(batches(map(len, rows), self.batch_size)), "measure"):
            batch = [pairs[index] for index in indices]
            logits = self._logits([rows[index] for index in indices], [len(prompt) for prompt, _ in batch])
            for (prompt, answer), (row, skipped) in zip(batch, logits, strict=True):
                first = len(prompt) - 1 - skipped
                yield row[first : first + len(answer)].log_softmax(dim=-1)

    def _logits(self, rows: Sequence[list[int]], prompts: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Each row's logits, float32 or wider, without those of the first tokens, and how many these are."""
        model = self.loaded.model
        ids, mask = (each.to(model.device) for each in padded(rows, self.loaded.tokenizer.pad_token_id))
        kept = ids.shape[1] - min(prompts) + 1
        fewer = {"logits_to_keep": kept} if "logits_to_keep" in signature(model.forward).parameters else {}
        with prompt_lengths(prompts), running(self.loaded):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **fewer).logits
        wide = torch.promote_types(logits.dtype, torch.float32)
        return [(row.to(wide), ids.shape[1] - logits.shape[1]) for row in logits]


def _divergence(steered: Tensor, base: Tensor) -> Tensor:
    """KL(steered || base) in nats at each token, float64, of log-probabilities [tokens, vocabulary]."""
    return (steered.exp() * (steered - base)).sum(dim=-1, dtype=torch.float64).clamp_min(0)


def _missed(found: CalibratedK, target: float) -> bool:
    return found.k is None or abs(found.kl / target - 1) > TOLERANCE


def _warning(condition: Condition, found: CalibratedK, target: float) -> str:
    sign = "positive" if found.sign > 0 else "negative"
    if found.k is not None:
        return (
            f"{condition.method}: KL jumps over {target:g} nats; the {sign} k that comes closest is {k_text(found.k)}, "
            f"with {found.kl:.3g}"
        )
    bound, side = (LARGEST, "below") if found.kl < target else (SMALLEST, "above")
    return (
        f"{condition.method}: no {sign} k reaches KL {target:g} nats; at {k_text(found.sign * bound)} it is still "
        f"{side}, {found.kl:.3g}"
    )
