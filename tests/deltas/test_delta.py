"""The delta file and its algebra, against plain float64 torch."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from wsteer.deltas.delta import Delta
from wsteer.deltas.gram import gram
from wsteer.errors import WsteerError

METADATA = {"wsteer": json.dumps({"format": 1, "kind": "task_vector"})}


def dense(delta: Delta) -> dict[str, Tensor]:
    """Every change as one float64 matrix, computed from the terms one by one."""
    out = {}
    for name, terms in delta.terms.items():
        out[name] = torch.zeros(delta.shape(name), dtype=torch.float64)
        for scale, term in terms:
            whole = term.lora_B.double() @ term.lora_A.double() if hasattr(term, "lora_B") else term.tensor.double()
            out[name] += scale * whole
    return out


def flat(delta: Delta) -> Tensor:
    return torch.cat([change.flatten() for _, change in sorted(dense(delta).items())])


@pytest.fixture
def low_rank() -> tuple[Delta, Delta]:
    torch.manual_seed(0)
    shapes = {"a.0.w": (12, 7), "a.1.w": (5, 9)}
    return tuple(
        Delta.of_factors(
            {name: (torch.randn(out, rank), torch.randn(rank, into)) for name, (out, into) in shapes.items()}
        )
        for rank in (2, 3)
    )


@pytest.fixture
def full() -> Delta:
    torch.manual_seed(1)
    return Delta.of_tensors({"a.0.w": torch.randn(12, 7), "a.1.w": torch.randn(5, 9)})


def test_algebra_equals_that_of_matrices(low_rank: tuple[Delta, Delta], full: Delta) -> None:
    a, b = low_rank
    for computed, expected in [
        (2 * a - b, 2 * flat(a) - flat(b)),
        (a + full * -0.5, flat(a) - 0.5 * flat(full)),
        (full + full * -3, -2 * flat(full)),
    ]:
        rows = {name: computed.change(name).rows(0, computed.shape(name)[0]) for name in computed.terms}
        actual = torch.cat([rows[name].double().flatten() for name in sorted(rows)])
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_what_cancels_to_the_term_is_gone(full: Delta) -> None:
    assert (full - full).terms == {}
    assert (full - full).norm() == 0


def test_norms_and_cosines_equal_float64(low_rank: tuple[Delta, Delta], full: Delta) -> None:
    a, b = low_rank
    for x, y in [(a, b), (a, full), (full, b), (a - b, b)]:
        assert x.norm() == pytest.approx(float(flat(x).norm()), rel=1e-6)
        expected = float(flat(x) @ flat(y) / (flat(x).norm() * flat(y).norm()))
        assert x.cosine(y) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_norm_stays_exact_where_terms_nearly_cancel() -> None:
    torch.manual_seed(0)
    b, a = torch.randn(40, 8), torch.randn(8, 30)
    nudge = 1e-4 * torch.randn(40, 8)
    difference = Delta.of_factors({"w": (b + nudge, a)}) - Delta.of_factors({"w": (b, a)})
    expected = float((((b + nudge).double() - b.double()) @ a.double()).norm())
    assert difference.norm() == pytest.approx(expected, rel=1e-6)


def test_gram_mixes_low_rank_and_dense_and_absent_parameters(low_rank: tuple[Delta, Delta], full: Delta) -> None:
    deltas = [*low_rank, full]
    extra = Delta.of_tensors({"a.0.w": torch.ones(12, 7), "other": torch.ones(4)})
    dots = gram([delta.terms for delta in (*deltas, extra)])
    for i, x in enumerate(deltas):
        for j, y in enumerate(deltas):
            assert dots[i][j] == pytest.approx(float(flat(x) @ flat(y)), rel=1e-5, abs=1e-6)
        assert dots[i][3] == pytest.approx(float(dense(x)["a.0.w"].sum()), rel=1e-5, abs=1e-5)
    assert dots[3][3] == pytest.approx(12 * 7 + 4)


def test_cosine_without_common_parameter_or_norm_is_an_error() -> None:
    a = Delta.of_tensors({"a": torch.ones(2)})
    with pytest.raises(WsteerError, match="no parameter in common"):
        a.cosine(Delta.of_tensors({"b": torch.ones(2)}))
    with pytest.raises(WsteerError, match="norm is 0"):
        a.cosine(Delta.of_tensors({"a": torch.zeros(2)}))


def test_different_shapes_are_an_error() -> None:
    with pytest.raises(WsteerError, match="different base models"):
        Delta.of_tensors({"a": torch.ones(2)}) + Delta.of_tensors({"a": torch.ones(3)})


def test_file_round_trip_keeps_values_kind_and_layout(
    tmp_path: Path, low_rank: tuple[Delta, Delta], full: Delta
) -> None:
    low_rank[0].save(tmp_path / "low.safetensors")
    full.save(tmp_path / "full.safetensors")
    with safe_open(tmp_path / "low.safetensors", "pt") as file:
        assert set(file.keys()) == {f"a.{i}.w.lora_{side}" for i in (0, 1) for side in "AB"}
        assert list(file.metadata()) == ["wsteer"]
        info = json.loads(file.metadata()["wsteer"])
    assert (info["format"], info["kind"]) == (1, "task_vector")
    for name, delta in (("low", low_rank[0]), ("full", full)):
        loaded = Delta.load(tmp_path / f"{name}.safetensors")
        assert (loaded - delta).norm() < 1e-12
        assert loaded.is_low_rank("a.0.w") == (name == "low")


def test_sum_of_low_rank_and_dense_is_saved_dense(tmp_path: Path, low_rank: tuple[Delta, Delta], full: Delta) -> None:
    (low_rank[0] + full).save(tmp_path / "sum.safetensors")
    loaded = Delta.load(tmp_path / "sum.safetensors")
    assert loaded.kind == "combination"
    assert not loaded.is_low_rank("a.0.w")
    assert loaded.cosine(low_rank[0] + full) == pytest.approx(1)


def test_equal_deltas_give_equal_bytes(tmp_path: Path, low_rank: tuple[Delta, Delta]) -> None:
    for name in ("x", "y"):
        low_rank[0].save(tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_float64_terms_are_subtracted_in_float64() -> None:
    a = torch.tensor([1.0 + 1e-12], dtype=torch.float64)
    b = torch.tensor([1.0], dtype=torch.float64)
    assert (Delta.of_tensors({"a": a}) - Delta.of_tensors({"a": b})).norm() == pytest.approx(1e-12, rel=1e-3)


def test_layers_are_selected_by_the_first_number(low_rank: tuple[Delta, Delta]) -> None:
    assert list(low_rank[0].select_layers([1]).terms) == ["a.1.w"]
    with pytest.raises(WsteerError, match="nothing in"):
        low_rank[0].select_layers([9])


@pytest.mark.parametrize(
    ("tensors", "metadata", "reason"),
    [
        ({"a": torch.ones(2)}, None, "lacks wsteer's metadata"),
        ({"a": torch.ones(2)}, {"wsteer": '{"format": 2, "kind": "task_vector"}'}, "format 2"),
        ({"a": torch.ones(2)}, {"wsteer": '{"format": 1, "kind": "activation"}'}, "does not belong"),
        ({"blocks.0": torch.ones(2)}, METADATA, "does not belong"),
        ({"a": torch.ones(2, dtype=torch.int8)}, METADATA, "floating-point"),
        ({"a.lora_A": torch.ones(2, 3)}, METADATA, "do not fit"),
        ({"a.lora_A": torch.ones(2, 3), "a.lora_B": torch.ones(3, 3)}, METADATA, "do not fit"),
        ({"a.lora_B": torch.ones(3, 3)}, METADATA, "no lora_A"),
        ({}, METADATA, "changes nothing"),
        ({"a": torch.ones(3, 3), "a.lora_A": torch.ones(2, 3), "a.lora_B": torch.ones(3, 2)}, METADATA, "both dense"),
        ({"a": torch.ones(2)}, {"wsteer": '{"format": 1, "kind": "task_vector", "base": [1]}'}, "base in its metadata"),
    ],
)
def test_what_is_no_delta_file_is_refused(tmp_path: Path, tensors: dict, metadata: dict | None, reason: str) -> None:
    save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(WsteerError, match=reason):
        Delta.load(tmp_path / "x.safetensors")


def of_base(fingerprint: str) -> Delta:
    base = {"name": f"model-{fingerprint}", "revision": None, "fingerprint": fingerprint}
    return replace(Delta.of_tensors({"w": torch.ones(2)}), base=base)


def test_deltas_of_different_bases_are_neither_added_nor_compared() -> None:
    a, b, unknown = of_base("1"), of_base("2"), Delta.of_tensors({"w": torch.ones(2)})
    for compute in (lambda: a + b, lambda: a - b, lambda: a.cosine(b), lambda: (unknown + a) + b):
        with pytest.raises(
            WsteerError, match=r"one delta \(of model-1\) and the other \(of model-2\) have different bases"
        ):
            compute()
    assert (a + unknown).cosine(a) == pytest.approx(1)


def test_a_change_of_weights_has_no_cosine_with_an_activation_vector() -> None:
    tensors = {"blocks.0": torch.ones(2)}
    with pytest.raises(WsteerError, match="cannot be compared"):
        Delta.of_tensors(tensors, "activation").cosine(Delta.of_tensors(tensors))


@pytest.mark.parametrize("values", [torch.tensor([1e300], dtype=torch.float64), torch.tensor([float("nan")])])
def test_what_float32_cannot_hold_is_not_written(tmp_path: Path, values: Tensor) -> None:
    with pytest.raises(WsteerError, match="the change of w becomes NaN or infinite"):
        Delta.of_tensors({"w": values}).save(tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"w": torch.ones(2, dtype=torch.complex64)}, "w is complex"),
        ({"m.lora_A": torch.ones(2, 2)}, "'m.lora_A' names a factor"),
    ],
)
def test_tensors_that_are_no_change_of_weights_are_refused(tensors: dict[str, Tensor], says: str) -> None:
    with pytest.raises(WsteerError, match=says):
        Delta.of_tensors(tensors)


def test_a_file_replaced_after_loading_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    Delta.of_tensors({"w": torch.ones(2)}).save(path)
    loaded = Delta.load(path)
    Delta.of_tensors({"w": torch.zeros(2) + 5}).save(path, force=True)
    for read in (lambda: loaded.change("w"), loaded.norm, lambda: loaded.cosine(loaded)):
        with pytest.raises(WsteerError, match="changed while it was read"):
            read()
