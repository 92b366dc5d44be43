"""Controls: as large as the delta in each tensor, seeded, the same on any number of threads, and no more than that."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import wsteer
from tests.helpers.tiny import save_adapter
from wsteer.deltas import controls
from wsteer.deltas.controls import control
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import open_change
from wsteer.deltas.terms import Dense, LowRank, read_factor
from wsteer.errors import WsteerError
from wsteer.files.tensors import row_blocks


def dense(delta: Delta, name: str) -> Tensor:
    """The whole change of a parameter, float64, its products formed here."""
    total = torch.zeros(delta.shape(name), dtype=torch.float64)
    for scale, term in delta.terms[name]:
        if isinstance(term, LowRank):
            pair = [read_factor(part) for part in (term.lora_B, term.lora_A)]
            total += scale * (pair[0].double() @ pair[1].double())
        else:
            rows = term.rows(0, term.shape[0] if term.shape else 1)
            total += scale * rows.double().view(total.shape)
    return total


@pytest.fixture
def mixed() -> Delta:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.01 * torch.randn(*shape, generator=generator)

    low = LowRank(draw(70, 3), draw(3, 40)), LowRank(draw(70, 2), draw(2, 40))
    return Delta(
        "contrastive",
        {
            "low.weight": ((1.0, low[0]), (-2.5, low[1])),
            "both.weight": ((1.0, low[0]), (0.5, Dense(draw(70, 40).double()))),
            "dense.weight": ((3.0, Dense(draw(501, 64))),),
            "experts.weight": ((1.0, Dense(draw(5, 6, 7))),),
            "norm.weight": ((1.0, Dense(draw(33))), (-1.0, Dense(draw(33)))),
            "scale": ((1.0, Dense(torch.tensor(0.5))),),
            "nothing.weight": ((1.0, Dense(torch.zeros(4, 4))),),
            "empty": ((1.0, Dense(torch.empty(0, 3))),),
        },
    )


@pytest.fixture(params=[1 << 24, 4096])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tensors of one block of rows, and of many."""
    monkeypatch.setattr("wsteer.files.tensors.BLOCK_BYTES", request.param)
    return request.param


@pytest.mark.parametrize("kind", controls.CONTROLS)
def test_each_tensor_keeps_its_norm_and_the_seed_tells_the_rest(mixed: Delta, kind: str, block_bytes: int) -> None:
    made, again, other = control(mixed, kind, 1), control(mixed, kind, 1), control(mixed, kind, 2)
    assert made.terms.keys() == mixed.terms.keys()
    assert len(list(row_blocks((501, 64)))) == (1 if block_bytes > 4096 else 32)
    for name in mixed.terms:
        source, found = dense(mixed, name), dense(made, name)
        assert found.shape == source.shape
        assert float(found.norm()) == pytest.approx(float(source.norm()), rel=1e-6)
        assert torch.equal(found, dense(again, name))
        if source.numel() > 1 and source.any():
            assert not torch.equal(found, dense(other, name))
            cosine = float((found * source).sum() / found.norm() / source.norm())
            assert abs(cosine) < 5 / source.numel() ** 0.5, name
    assert made.options == {"control": kind, "control_seed": 1}


@pytest.mark.parametrize("kind", controls.CONTROLS)
def test_rows_are_the_same_in_whatever_ranges_they_are_asked_for(mixed: Delta, kind: str, block_bytes: int) -> None:
    made = control(mixed, kind, 3)
    for name in ("dense.weight", "low.weight", "both.weight", "experts.weight"):
        change = made.change(name)
        whole = change.rows(0, change.shape[0])
        pieces = [change.rows(start, min(start + 7, change.shape[0])) for start in range(0, change.shape[0], 7)]
        torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-7)
    before = made.change("dense.weight").rows(0, 501)
    made.change("dense.weight").rows(0, 501).zero_()  # new memory: the caller may overwrite it
    assert torch.equal(made.change("dense.weight").rows(0, 501), before)


def test_random_factors_have_the_rank_and_gaussian_entries(mixed: Delta) -> None:
    made = control(mixed, "random", 0)
    assert made.is_low_rank("low.weight") and made.rank("low.weight") == 5
    assert int(torch.linalg.matrix_rank(dense(made, "low.weight"))) == 5
    values = dense(made, "dense.weight").flatten()
    values = values / values.std()
    assert abs(float(values.mean())) < 0.03 and abs(float((values**4).mean()) - 3) < 0.15
    assert float((values[:-1] * values[1:]).mean()) == pytest.approx(0, abs=0.03)


def test_shuffling_permutes_rows_and_columns_and_keeps_the_spectrum(mixed: Delta, block_bytes: int) -> None:
    made = control(mixed, "shuffled", 0)
    assert made.is_low_rank("low.weight")
    for name in ("low.weight", "both.weight", "dense.weight"):
        source, found = dense(mixed, name), dense(made, name)
        torch.testing.assert_close(torch.linalg.svdvals(found), torch.linalg.svdvals(source), rtol=1e-6, atol=1e-9)
        for axis in (0, 1):  # the same rows and columns, in another order
            norms = [each.norm(dim=1 - axis) for each in (source, found)]
            torch.testing.assert_close(norms[0].sort().values, norms[1].sort().values, rtol=1e-6, atol=0)
            assert not torch.equal(*norms)
    vector = dense(made, "norm.weight")
    torch.testing.assert_close(vector.sort().values, dense(mixed, "norm.weight").sort().values, rtol=0, atol=0)
    assert not torch.equal(vector, dense(mixed, "norm.weight"))


@pytest.mark.parametrize("kind", controls.CONTROLS)
def test_threads_do_not_matter(mixed: Delta, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = []
    for threads in (1, 4):
        monkeypatch.setattr("wsteer.workers.worker_count", lambda threads=threads: threads)
        control(mixed.part([name for name in mixed.terms if name != "empty"]), kind, 5).save(tmp_path / f"{threads}")
        written.append((tmp_path / f"{threads}").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("kind", controls.CONTROLS)
@pytest.mark.parametrize("config", [{}, {"use_dora": True}])
def test_an_adapter_has_a_control_that_is_applied_and_removed(
    tmp_path: Path, tiny: Path, kind: str, config: dict
) -> None:
    loaded = wsteer.load(tiny, "cpu")
    adapter = save_adapter(tmp_path / "pos", tiny, seed=1, **config)
    w = open_change(adapter, "delta", loaded.checkpoint).delta.bound(loaded.checkpoint)
    made = control(w, kind, 0)
    before = {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}
    with wsteer.applied(loaded.model, made, 1.0):
        for name, weight in loaded.model.named_parameters():
            moved = (weight.detach().double() - before[name].double()).norm()
            expected = dense(w, name).norm() if name in w.terms else 0.0
            assert float(moved) == pytest.approx(float(expected), rel=1e-3)
    assert all(torch.equal(weight, before[name]) for name, weight in loaded.model.named_parameters())


def test_activation_vectors_have_controls_after_the_variant_too() -> None:
    from wsteer.deltas.blocks import all_layers

    raw = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    delta = all_layers(Delta.of_tensors({f"blocks.{i}": row for i, row in enumerate(raw)}, kind="activation"), 4)
    for kind in controls.CONTROLS:
        made = control(delta, kind, 0)
        assert made.kind == "activation"
        for name in delta.terms:
            assert float(dense(made, name).norm()) == pytest.approx(float(dense(delta, name).norm()), rel=1e-6)


def test_another_control_is_refused(mixed: Delta) -> None:
    with pytest.raises(WsteerError, match="no control 'zero'; give one of random, shuffled"):
        control(mixed, "zero")
