"""Recipes are checked; each method's options have its defaults; slices of depth."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from wsteer.errors import WsteerError
from wsteer.training.recipe import ADAPTERS, Recipe
from wsteer.training.tuners import CONFIGS


@pytest.mark.parametrize(("field", "value"), [("val_fraction", 1.0), ("val_fraction", float("nan")), ("epochs", 0.0)])
def test_impossible_recipes_are_refused(field: str, value: float) -> None:
    with pytest.raises(WsteerError, match=f"--{field.replace('_', '-')}"):
        Recipe(**{field: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "prefix"}, "--method prefix"),
        ({"lr": (1e-3, 1e-3)}, "twice"),
        ({"lr": -1.0}, "--lr"),
        ({"batch_size": 8, "micro_batch_size": 3}, "does not divide"),
        ({"fraction": 0.0}, "--fraction"),
        ({"dropout": 1.0}, "--dropout"),
        ({"epochs": float("inf")}, "--epochs"),
        ({"max_steps": 10**15}, "--max-steps"),
        ({"batch_size": 0}, "--batch-size"),
        ({"micro_batch_size": -1}, "--micro-batch-size"),
        ({"rank": 10**4000}, "--rank"),
        ({"alpha": float("nan")}, "--alpha"),
        ({"weight_decay": float("inf")}, "--weight-decay"),
        ({"warmup_steps": -1}, "--warmup-steps"),
        ({"eval_every": 0}, "--eval-every"),
        ({"patience": 10**10}, "--patience"),
        ({"method": "full", "rank": 4}, "--rank is no option of --method full, but of lora, delora, loha, lokr, vera;"),
        ({"method": "full", "rank": 32}, "--rank is no option of --method full"),
        ({"method": "bias", "dropout": 0.1}, "--dropout is no option of --method bias"),
        ({"method": "full", "targets": ["q_proj"]}, "--targets is no option of --method full"),
        ({"method": "ia3", "rank": 4}, "--rank is no option of --method ia3"),
        ({"method": "oft", "rank": 4}, "--rank is no option of --method oft"),
        ({"method": "loha", "dropout": 0.1}, "--dropout is no option of --method loha, but of lora, delora, oft,"),
        ({"method": "vera", "init": "pissa"}, "--init is no option of --method vera, but of lora;"),
        ({"method": "delora", "dora": True}, "--dora is no option of --method delora"),
        ({"block_size": 4}, "--block-size is no option of --method lora, but of oft, boft;"),
        ({"method": "oft", "block_size": 1}, "--block-size 1: a whole number from 2"),
        ({"layer_slice": (0.8, 0.3)}, r"--layer-slice \(0.8, 0.3\): A:B with 0 <= A < B <= 1"),
        ({"layer_slice": (0.5, 0.5)}, "--layer-slice"),
        ({"layer_slice": (-0.1, 0.5)}, "--layer-slice"),
        ({"layer_slice": (0.5, 1.1)}, "--layer-slice"),
        ({"layer_slice": (float("nan"), 1.0)}, "--layer-slice"),
    ],
)
def test_impossible_options_of_recipes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(WsteerError, match=message):
        Recipe(**options)


def test_a_name_alone_is_a_list_of_one() -> None:
    assert Recipe(targets="q_proj").targets == ("q_proj",)
    assert Recipe(method="full", targets=[]).method == "full"


def test_options_have_the_papers_defaults_for_lora_and_pefts_for_the_others() -> None:
    assert Recipe().options == {"rank": 32, "alpha": 16.0, "dropout": 0.0, "dora": False, "rslora": False, "init": None}
    for method in set(ADAPTERS) - {"lora"}:
        kind, names = CONFIGS[method]
        assert Recipe(method=method).options == {option: getattr(kind(), field) for option, field in names.items()}
    assert set(CONFIGS["lora"][1]) == set(Recipe().options) - {"init"}
    assert Recipe(method="full").options == {}
    assert Recipe(method="vera", rank=9, dropout=0.1).options == {"rank": 9, "dropout": 0.1}
    assert replace(Recipe(), method="bias", seed=1) == Recipe(method="bias", seed=1)


def test_records_have_the_defaults_of_the_method() -> None:
    assert Recipe().recorded == Recipe(rank=32, alpha=16.0, dropout=0.0).recorded
    assert {key: Recipe().recorded[key] for key in ("lr", "rank", "block_size")} == {
        "lr": [1e-5],
        "rank": 32,
        "block_size": None,
    }
    assert (Recipe(method="oft").recorded["block_size"], Recipe(method="oft").recorded["rank"]) == (32, None)


@pytest.mark.parametrize(
    ("part", "count", "blocks"),
    [
        ((0.3, 0.8), 30, range(9, 24)),
        ((0.3, 0.8), 3, [1, 2]),
        ((0.1, 0.3), 30, range(3, 9)),  # 0.1 * 30 is above 3 in floating point
        ((0.0, 1.0), 5, range(5)),
        ((0.0, 0.5), 5, [0, 1, 2]),
        ((0.5, 1.0), 5, [3, 4]),
        ((0.29, 0.31), 100, [29, 30]),
    ],
)
def test_a_slice_has_the_blocks_that_begin_in_it(part: tuple[float, float], count: int, blocks: Sequence[int]) -> None:
    assert Recipe(layer_slice=part).blocks(count) == list(blocks)


def test_slices_that_meet_share_no_block_and_a_slice_without_any_is_refused() -> None:
    for count in range(1, 40):
        parts = [(0, 0.1), (0.1, 0.3), (0.3, 0.7), (0.7, 1)]
        found = []
        for part in parts:
            with contextlib.suppress(WsteerError):
                found += Recipe(layer_slice=part).blocks(count)
        assert found == list(range(count)) == Recipe().blocks(count)
    with pytest.raises(WsteerError, match=r"--layer-slice 0.1:0.3 begins none of the model's 3 blocks"):
        Recipe(layer_slice=(0.1, 0.3)).blocks(3)
