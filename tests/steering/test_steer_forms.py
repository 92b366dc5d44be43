"""Steered checkpoints of other forms: sweeps, other dtypes, other formats, parts of a delta."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import wsteer
from tests.helpers.checkpoint_contents import logits, same_weights, stored_tensors
from tests.helpers.command import Cli
from tests.helpers.tiny import SIZES, save_model
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "auto"])
def test_a_sweep_gives_the_bytes_of_single_runs(tmp_path: Path, small: tuple[Path, Path], rounding: str) -> None:
    base, w = small
    report = wsteer.steer(base, w, sweep=[-2, 0, 1.5], output=tmp_path / "sweep", rounding=rounding)
    assert [Path(path).name for path in report.outputs] == ["k-2", "k0", "k1.5"]
    for k in (-2, 0, 1.5):
        wsteer.steer(base, w, k=k, output=tmp_path / "one", rounding=rounding, force=True)
        assert same_weights(tmp_path / "one", tmp_path / "sweep" / f"k{k}")
    assert same_weights(base, tmp_path / "sweep" / "k0")
    assert (tmp_path / "sweep" / "k-2" / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_float32_output_of_a_bf16_base_is_the_exact_fold(tmp_path: Path, small: tuple[Path, Path]) -> None:
    base, w = small
    report = wsteer.steer(base, w, k=-2, output=tmp_path / "out", dtype="float32")
    before, after, delta = stored_tensors(base), stored_tensors(tmp_path / "out"), Delta.load(w)
    assert (report.rounding, report.gain) == ("nearest", pytest.approx(1, abs=1e-4))
    for name, tensor in after.items():
        assert tensor.dtype == torch.float32
        expected = before[name].double()
        if name in delta.terms:
            expected = expected - 2 * delta.change(name).rows(0, tensor.shape[0]).double()
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-9)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "float32"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(4 * tensor.numel() for tensor in after.values())
    assert logits(tmp_path / "out").shape == (1, 40, SIZES["vocab_size"])


def test_16_bit_output_of_a_float32_base(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> None:
    wsteer.diff(*adapters, tmp_path / "w.safetensors")
    wsteer.steer(tiny, tmp_path / "w.safetensors", k=1, output=tmp_path / "out", dtype="float16")
    wsteer.steer(tiny, tmp_path / "w.safetensors", k=1, output=tmp_path / "exact")
    for name, tensor in stored_tensors(tmp_path / "exact").items():
        assert torch.equal(stored_tensors(tmp_path / "out")[name], tensor.half())


def test_a_base_in_pytorchs_format_becomes_safetensors(tmp_path: Path, small: tuple[Path, Path]) -> None:
    base, w = small
    wsteer.steer(base, w, k=1, output=tmp_path / "expected")
    pickled = tmp_path / "pickled"
    shutil.copytree(base, pickled)
    shards = sorted(pickled.glob("*.safetensors"))
    for path in shards:
        torch.save(
            load_file(path), pickled / path.name.replace("model-", "pytorch_model-").replace("safetensors", "bin")
        )
        path.unlink()
    index = json.loads((pickled / "model.safetensors.index.json").read_text())
    (pickled / "model.safetensors.index.json").unlink()
    weight_map = {
        name: file.replace("model-", "pytorch_model-").replace("safetensors", "bin")
        for name, file in index["weight_map"].items()
    }
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    wsteer.steer(pickled, w, k=1, output=tmp_path / "out")
    expected, actual = stored_tensors(tmp_path / "expected"), stored_tensors(tmp_path / "out")
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert not list((tmp_path / "out").glob("*.bin*"))
    logits(tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_float_types_are_folded_and_integers_pass_through(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    base = tmp_path / "base"
    base.mkdir()
    stored = {
        "layers.0.w": torch.randn(20, 30).to(dtype),
        "layers.0.ids": torch.arange(7),
        "layers.0.scale": torch.randn(6).to(torch.float8_e4m3fn),
    }
    save_file(stored, base / "model.safetensors")
    (base / "config.json").write_text("{}")
    factors = (torch.randn(20, 3), torch.randn(3, 30))
    Delta.of_factors({"layers.0.w": factors}).save(tmp_path / "d.safetensors")
    wsteer.steer(base, tmp_path / "d.safetensors", k=0.5, output=tmp_path / "out")
    after = stored_tensors(tmp_path / "out")
    expected = stored["layers.0.w"].double() + 0.5 * factors[0].double() @ factors[1].double()
    bound = {"rtol": 1e-3, "atol": 1e-6} if dtype == torch.float16 else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(after["layers.0.w"].double(), expected, **bound)
    assert torch.equal(after["layers.0.ids"], stored["layers.0.ids"])
    assert torch.equal(after["layers.0.scale"].view(torch.uint8), stored["layers.0.scale"].view(torch.uint8))
    for name in ("layers.0.ids", "layers.0.scale"):
        Delta.of_tensors({name: torch.ones(stored[name].shape)}).save(tmp_path / "e.safetensors", force=True)
        with pytest.raises(WsteerError, match="use an unquantised checkpoint"):
            wsteer.steer(base, tmp_path / "e.safetensors", k=1, output=tmp_path / "x")


def test_zero_in_a_sweep_that_unties_is_the_base_itself(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tie_word_embeddings=True)
    rows = stored_tensors(base)["model.embed_tokens.weight"].shape
    factors = {"lm_head.weight": (torch.randn(rows[0], 1), torch.randn(1, rows[1]))}
    replace(Delta.of_factors(factors), untied=True).save(tmp_path / "d.safetensors")
    wsteer.steer(base, tmp_path / "d.safetensors", sweep=[0, 1], output=tmp_path / "out")
    assert same_weights(base, tmp_path / "out" / "k0")
    assert (tmp_path / "out" / "k0" / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert "lm_head.weight" in stored_tensors(tmp_path / "out" / "k1")


def test_layers_names_and_layer_scale_select_what_is_steered(tmp_path: Path, tiny: Path) -> None:
    names = [f"model.layers.{i}.{kind}.weight" for i in range(3) for kind in ("input_layernorm", "mlp.up_proj")]
    stored = stored_tensors(tiny)
    Delta.of_tensors({name: torch.ones(stored[name].shape) for name in [*names, "model.norm.weight"]}).save(
        tmp_path / "d.safetensors"
    )
    cases = [
        (Selection(layers=[1]), {names[2]: 1, names[3]: 1}),
        (Selection(include="up_proj", exclude=r"layers\.2"), {names[1]: 1, names[3]: 1}),
        (Selection(include="layernorm", layer_scale=(0, 1)), {names[2]: 0.5, names[4]: 1}),
        (
            Selection(include="layernorm|model.norm", layer_scale=(0.5, 1.5)),
            {names[0]: 0.5, names[2]: 1, names[4]: 1.5, "model.norm.weight": 0.5},
        ),
    ]
    for selection, expected in cases:
        wsteer.steer(tiny, tmp_path / "d.safetensors", k=2, output=tmp_path / "out", selection=selection, force=True)
        after = stored_tensors(tmp_path / "out")
        for name, tensor in after.items():
            torch.testing.assert_close(tensor, stored[name] + 2 * expected.get(name, 0))
    for selection, reason in [
        (Selection(layers=[7]), "has nothing in"),
        (Selection(include="nowhere"), "leave nothing"),
        (Selection(exclude="("), "no regular expression"),
        (Selection(layers=[0], layer_scale=(0, 1)), "--layer-scale 0:1 leaves nothing"),
    ]:
        with pytest.raises(WsteerError, match=reason):
            wsteer.steer(tiny, tmp_path / "d.safetensors", k=1, output=tmp_path / "x", selection=selection)


def test_a_dry_run_says_what_would_be_written(tmp_path: Path, small: tuple[Path, Path], cli: Cli) -> None:
    base, w = small
    ran = cli("steer", base, w, "--sweep=-1,1", "-o", tmp_path / "out", "--dry-run", "--json")
    assert not (tmp_path / "out").exists()
    assert ran.json["dry_run"] and ran.json["parameters_changed"] == 21
    wsteer.steer(base, w, sweep=[-1, 1], output=tmp_path / "out")
    written = {path.name: path.stat().st_size for path in (tmp_path / "out" / "k1").glob("*.safetensors")}
    assert {file["name"]: file["bytes"] for file in ran.json["files"]} == written
    assert ran.json["bytes"] == 2 * sum(written.values())
    text = cli("steer", base, w, "--k", 1, "-o", tmp_path / "other", "--dry-run")
    assert "nothing written" in text.out and "tensors touched" in text.out
