"""The k of an equal budget: against a dense search written apart, on models steered by hand."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import wsteer
from tests.helpers.exact_fold import adapter_factors
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.evaluation.calibration import LARGEST, SMALLEST, calibrate, search
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.subject import Subject
from wsteer.models.loading import LoadedModel
from wsteer.models.rendering import prompt_text, token_ids
from wsteer.steering.positions import POSITIONS

CHATS = [[{"role": "user", "content": text}] for text in ("Tea?", "Is the sea boring, or is it not?", "A", "Why so")]
NEW = 6


@pytest.fixture
def loaded(tiny: Path) -> LoadedModel:
    """The tiny model with a larger head, so that its distributions are far from uniform."""
    loaded = wsteer.load(tiny, "cpu")
    loaded.model.lm_head.weight.data.mul_(20)
    return loaded


def by_hand(
    loaded: LoadedModel, under: Callable[[torch.nn.Module, float, int], contextlib.AbstractContextManager]
) -> Callable[[float], float]:
    """The 95th percentile of KL at a k: one row at a time, no padding, no cache; `under` steers a copy of the model."""
    model = copy.deepcopy(loaded.model)
    texts = []
    ends = loaded.model.generation_config.eos_token_id
    with torch.no_grad():
        for chat in CHATS:
            prompt = token_ids(loaded.tokenizer, prompt_text(loaded.chat, chat))
            row = list(prompt)
            while len(row) < len(prompt) + NEW and (row[-1] not in (ends if isinstance(ends, list) else [ends])):
                row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
            texts.append((len(prompt), row[:-1]))

    @torch.no_grad()
    def percentile(k: float) -> float:
        found: list[float] = []
        for length, row in texts:
            base = model(torch.tensor([row])).logits[0, length - 1 :].double()
            with under(model, k, length):
                steered = model(torch.tensor([row])).logits[0, length - 1 :].double()
            each = functional.kl_div(base.log_softmax(-1), steered.log_softmax(-1), log_target=True, reduction="none")
            found += each.sum(dim=-1).tolist()
        return float(np.percentile(found, 95))

    return percentile


def crossing(kl: Callable[[float], float], sign: int, target: float, around: float) -> float:
    """Where a fine grid of k crosses the target."""
    grid = np.geomspace(around / 1.04, around * 1.04, 9)
    values = [kl(sign * size) for size in grid]
    index = next(i for i, value in enumerate(values) if value >= target)
    assert index > 0
    return float(np.interp(target, values[index - 1 : index + 1], grid[index - 1 : index + 1]))


@pytest.mark.slow
def test_weights_reach_the_target_where_a_dense_search_does(loaded: LoadedModel, adapters: tuple[Path, Path]) -> None:
    factors = adapter_factors(adapters[0])

    @contextlib.contextmanager
    def merged(model: torch.nn.Module, k: float, _length: int) -> Iterator[None]:
        before = {name: weight.detach().clone() for name, weight in model.named_parameters() if name in factors}
        for name, weight in model.named_parameters():
            if name in factors:
                change = k * factors[name][0].double() @ factors[name][1].double()
                weight.data.copy_((weight.double() + change).float())
        yield
        for name, weight in model.named_parameters():
            if name in factors:
                weight.data.copy_(before[name])

    kl = by_hand(loaded, merged)
    before = {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}
    target = 0.05
    subject = Subject(loaded, {}, batch_size=3)
    found = calibrate(subject, Delta.of_factors(factors), Condition("w"), CHATS, target, NEW)
    for each in (found.positive, found.negative):
        assert each.k is not None and each.k * each.sign > 0
        assert kl(each.k) == pytest.approx(each.kl, rel=1e-3)
        assert each.kl == pytest.approx(target, rel=0.02)
        assert abs(each.k) == pytest.approx(crossing(kl, each.sign, target, abs(each.k)), rel=0.02)
        assert each.evaluations < 15
    assert found.prompts == 4 and 4 <= found.tokens <= 4 * NEW and found.warnings == ()
    assert found.ks == (found.negative.k, found.positive.k)
    assert all(torch.equal(weight, before[name]) for name, weight in loaded.model.named_parameters())


@pytest.mark.parametrize("positions", POSITIONS)
def test_activation_vectors_are_added_at_their_positions(loaded: LoadedModel, positions: str) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))

    @contextlib.contextmanager
    def hooked(model: torch.nn.Module, k: float, length: int) -> Iterator[None]:
        last = {"response": slice(length - 1, None), "prompt-last": slice(length - 1, length)}
        places = {**last, "prompt": slice(length), "all": slice(None)}[positions]

        def hook(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
            moved = output.clone()
            moved[:, places] += k * vector
            return moved

        handle = model.model.layers[1].register_forward_hook(hook)
        yield
        handle.remove()

    delta = Delta.of_tensors({"blocks.1": vector}, kind="activation")
    condition = Condition("a@1", positions=positions)
    found = calibrate(Subject(loaded, {}), delta, condition, CHATS, 0.05, NEW)
    kl = by_hand(loaded, hooked)
    for each in (found.positive, found.negative):
        assert each.k is not None and kl(each.k) == pytest.approx(0.05, rel=0.021)


def test_a_change_that_does_nothing_has_no_k_and_a_warning(loaded: LoadedModel) -> None:
    delta = Delta.of_tensors({"model.norm.weight": torch.full((32,), 1e-9)})
    found = calibrate(Subject(loaded, {}), delta, Condition("w"), CHATS[:1], 0.5, 2)
    assert found.positive.k is found.negative.k is None and found.ks == ()
    assert [warning[:30] for warning in found.warnings] == [
        "w: no positive k reaches KL 0.",
        "w: no negative k reaches KL 0.",
    ]
    assert "at -64 it is still below" in found.warnings[1]


def test_the_search_finds_the_root_in_few_evaluations_whatever_the_scale() -> None:
    for scale in (1e-3, 0.3, 1.0, 17.0, 4e4):
        asked: list[float] = []

        def kl(size: float, scale: float = scale, asked: list[float] = asked) -> float:
            asked.append(size)
            return scale * size**2 / (1 + 0.05 * size)

        found = search(kl, 0.5)
        assert found.k is not None and kl(found.k) == pytest.approx(0.5, rel=0.02)
        assert found.evaluations == len(asked) - 1 <= 18 and len(set(asked)) == len(asked) - 1
        assert float(f"{found.k:.4g}") == found.k


def test_the_search_says_what_it_did_not_reach() -> None:
    never = search(lambda size: 1e-6 * size**2, 0.5, -1)
    assert never.k is None and never.kl == pytest.approx(1e-6 * LARGEST**2)
    assert search(lambda size: 0.0, 0.5).k is None
    above = search(lambda size: 3.0, 0.5)
    assert above.k is None and above.kl == 3.0 and 2.0**-above.evaluations <= SMALLEST
    jump = search(lambda size: 0.1 if size < 3 else 5.0, 0.5)
    assert jump.k == pytest.approx(3, rel=1e-3) and jump.kl in (0.1, 5.0)
    broken = search(lambda size: 0.2 * size**2 if size < 1.9 else math.inf, 0.5)
    assert broken.k == pytest.approx(2.5**0.5, rel=0.02)
    assert search(lambda size: 0.5 * size, 0.5).evaluations == 1


def test_bad_targets_and_no_prompts_are_refused(loaded: LoadedModel) -> None:
    delta = Delta.of_tensors({"model.norm.weight": torch.ones(32)})
    for target in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(WsteerError, match="a number of nats above 0"):
            calibrate(Subject(loaded, {}), delta, Condition("w"), CHATS, target)
    with pytest.raises(WsteerError, match="needs prompts"):
        calibrate(Subject(loaded, {}), delta, Condition("w"), [], 0.5)
