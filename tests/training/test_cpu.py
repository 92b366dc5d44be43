"""The quicker routines on a CPU: used where they apply, gone afterwards, and of the same result."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from wsteer.training.cpu import quick_on_cpu


def routines(model: torch.nn.Module) -> tuple[str, str]:
    return torch.get_float32_matmul_precision(), model.config._attn_implementation


@pytest.mark.parametrize(
    ("model_dtype", "dtype", "longest", "expected"),
    [
        (torch.float32, "auto", 12, ("medium", "eager")),  # 4 heads x 12 tokens are as wide as the MLP
        (torch.float32, "auto", 13, ("medium", "sdpa")),
        (torch.float32, "float32", 12, ("highest", "sdpa")),
        (torch.bfloat16, "auto", 12, ("highest", "sdpa")),
    ],
)
def test_routines_are_chosen_and_put_back(
    tiny: Path, model_dtype: torch.dtype, dtype: str, longest: int, expected: tuple[str, str]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=model_dtype)
    assert routines(model) == ("highest", "sdpa")
    with pytest.raises(KeyboardInterrupt), quick_on_cpu(model, dtype, longest):
        assert routines(model) == expected
        raise KeyboardInterrupt
    assert routines(model) == ("highest", "sdpa")


def test_loss_and_gradients_stay_what_they_are(tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    ids = torch.randint(0, 256, (4, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    results = []
    for dtype in ("float32", "auto"):
        model.zero_grad()
        with quick_on_cpu(model, dtype, 12):
            loss = model(input_ids=ids, attention_mask=mask, labels=ids).loss
            loss.backward()
        results.append((loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])))
    (plain_loss, plain), (quick_loss, quick) = results
    # bfloat16 factors, where the processor has tiles for them, are exact to 2**-9
    assert quick_loss == pytest.approx(plain_loss, rel=1e-3)
    assert torch.nn.functional.cosine_similarity(plain, quick, dim=0) > 0.9999
