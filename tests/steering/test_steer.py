"""Steered checkpoints: exact arithmetic, the base's layout, and models that transformers loads."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.checkpoint_contents import stored_tensors
from tests.helpers.exact_fold import adapter_factors, check_bf16_fold
from tests.helpers.tiny import save_adapter, save_model
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.files.tensors import read_header, read_tensor
from wsteer.steering.export import export


def test_steered_file_and_tied_head(steered: tuple[Path, Path, Path]) -> None:
    _, _, out = steered
    names = {name for path in out.glob("*.safetensors") for name in load_file(path)}
    assert "lm_head.weight" not in names  # the base ties it, and so does what steer writes


@pytest.fixture(scope="module")
def bf16_case(tiny_bf16: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    """A bfloat16 base, two adapters on it, and their delta."""
    folder = tmp_path_factory.mktemp("case")
    pos, neg = (save_adapter(folder / side, tiny_bf16, seed, std=0.1) for seed, side in enumerate(("pos", "neg")))
    wsteer.diff(pos, neg, folder / "w.safetensors")
    return tiny_bf16, pos, neg, folder / "w.safetensors"


def test_every_bf16_tensor_is_the_float32_fold_rounded_once(tmp_path: Path, bf16_case: tuple[Path, ...]) -> None:
    base, pos, neg, w = bf16_case
    report = wsteer.steer(base, w, k=-1.5, output=tmp_path / "steered")
    check_bf16_fold(base, tmp_path / "steered", pos, neg, k=-1.5)
    after = stored_tensors(tmp_path / "steered")
    assert (report.parameters_changed, report.parameters_total) == (21, len(after))
    assert report.gain == pytest.approx(1, abs=0.01)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "steered", dtype="auto")
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(dict(model.named_parameters())[name], after[name])


def test_layout_is_the_bases(tmp_path: Path, bf16_case: tuple[Path, ...]) -> None:
    base, _, _, w = bf16_case
    base = Path(shutil.copytree(base, tmp_path / "base"))
    (base / "notes").mkdir()
    (base / "notes" / "a.txt").write_text("kept")
    wsteer.steer(base, w, k=1, output=tmp_path / "steered")
    for path in (path for path in base.rglob("*") if path.is_file()):
        twin = tmp_path / "steered" / path.relative_to(base)
        assert twin.stat().st_size == path.stat().st_size
        if path.suffix == ".safetensors":
            length = 8 + int.from_bytes(path.read_bytes()[:8], "little")
            assert twin.read_bytes()[:length] == path.read_bytes()[:length]
        else:
            assert twin.read_bytes() == path.read_bytes()
        assert twin.stat().st_mode == path.stat().st_mode or path.suffix == ".safetensors"


def test_k_0_gives_the_bases_bytes(tmp_path: Path, bf16_case: tuple[Path, ...]) -> None:
    base, _, _, w = bf16_case
    report = wsteer.steer(base, w, k=-0.0, output=tmp_path / "steered")
    assert (report.gain, str(report.k)) == (None, "(0.0,)")
    for path in base.glob("*.safetensors"):
        assert (tmp_path / "steered" / path.name).read_bytes() == path.read_bytes()


def test_several_deltas_take_one_k_each_or_one_for_all(tmp_path: Path, tiny: Path) -> None:
    name = "model.norm.weight"
    for i in (1, 2):
        Delta.of_tensors({name: torch.full((32,), float(i))}).save(tmp_path / f"d{i}.safetensors")
    paths = [tmp_path / "d1.safetensors", tmp_path / "d2.safetensors"]
    for ks, expected in (([2.0, -0.25], 2.5), ([0.5], 2.5), ([0.0, 1.0], 3.0)):
        wsteer.steer(tiny, paths, k=ks, output=tmp_path / "out", force=True)
        assert torch.equal(stored_tensors(tmp_path / "out")[name], torch.full((32,), expected))
    with pytest.raises(WsteerError, match="3 values of --k for 2 deltas"):
        wsteer.steer(tiny, paths, k=[1, 2, 3], output=tmp_path / "x")


def test_stale_weights_in_other_formats_are_left_out(tmp_path: Path, tiny: Path) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    (base / "pytorch_model.bin").write_bytes(b"old weights")
    (base / ".git").mkdir()
    (base / ".git" / "HEAD").touch()
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "d.safetensors")
    report = wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")
    assert report.left_out == ("pytorch_model.bin",)
    assert "pytorch_model.bin" in report.warnings[0]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in tiny.iterdir()} | {
        "wsteer.json"
    }


def test_a_delta_of_another_model_is_refused_before_anything_is_written(tmp_path: Path, tiny: Path) -> None:
    cases = [
        (
            {"model.layers.9.mlp.up_proj.weight": torch.ones(48, 32)},
            "changes model.layers.9",
        ),
        ({"model.layers.0.mlp.up_proj.weight": torch.ones(64, 32)}, "in the delta"),
    ]
    for changes, reason in cases:
        Delta.of_tensors(changes).save(tmp_path / "d.safetensors", force=True)
        with pytest.raises(WsteerError, match=reason):
            wsteer.steer(tiny, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"d.safetensors"}


def test_every_delta_must_fit_even_at_k_0(tmp_path: Path, tiny: Path) -> None:
    Delta.of_tensors({"gone": torch.ones(2)}).save(tmp_path / "d.safetensors")
    with pytest.raises(WsteerError, match="changes gone, which tiny-llama lacks"):
        wsteer.steer(tiny, tmp_path / "d.safetensors", k=0, output=tmp_path / "out")


def test_output_inside_the_base_is_refused(tmp_path: Path, tiny: Path) -> None:
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "d.safetensors")
    with pytest.raises(WsteerError, match="lies inside the base"):
        wsteer.steer(tiny, tmp_path / "d.safetensors", k=1, output=tiny / "out")


def test_a_change_of_a_tied_head_that_does_not_untie_it_is_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tie_word_embeddings=True)
    weights = load_file(base / "model.safetensors")
    head = weights["model.embed_tokens.weight"].clone()
    Delta.of_tensors({"lm_head.weight": torch.ones(head.shape)}).save(tmp_path / "d.safetensors")
    for stored in ({}, {"lm_head.weight": head}):
        save_file({**weights, **stored}, base / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(WsteerError, match=r"lm_head\.weight is tied to the embedding in base"):
            wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")


def test_other_safetensors_in_the_folder_are_no_shards(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(base / "w.safetensors")
    report = wsteer.steer(base, base / "w.safetensors", k=1, output=tmp_path / "out")
    assert report.parameters_total == 30
    assert report.left_out == ("w.safetensors",)


def test_integer_tensors_are_no_targets(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(32, dtype=torch.int8)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "d.safetensors")
    with pytest.raises(WsteerError, match="stored as I8"):
        wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")


@pytest.mark.parametrize(("value", "k"), [(float("nan"), 1.0), (1.0, 1e39), (2.0, 3e38), (1.0, 1e-40)])
def test_what_is_not_finite_is_never_written(tmp_path: Path, tiny: Path, value: float, k: float) -> None:
    tensors = {"model.norm.weight": torch.full((32,), value)}
    save_file(tensors, tmp_path / "d.safetensors", metadata={"wsteer": Delta.of_tensors(tensors).info()})
    with pytest.raises(WsteerError, match=r"model\.norm\.weight becomes NaN or infinite|beyond the range"):
        wsteer.steer(tiny, tmp_path / "d.safetensors", k=k, output=tmp_path / "out")
    with pytest.raises(WsteerError, match=r"change of model\.norm\.weight becomes NaN or infinite|beyond the range"):
        export(tiny, tmp_path / "d.safetensors", k=k, output=tmp_path / "e.safetensors", form="delta")
    assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors"]


def test_default_output_names_base_delta_and_k(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save("w.safetensors")
    assert wsteer.steer(tiny, "w.safetensors", k=-1.5).output == "tiny-llama-w-k-1.5"
    with safe_open("tiny-llama-w-k-1.5/model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("model.norm.weight"), torch.full((32,), -0.5))


@pytest.mark.slow
@pytest.mark.parametrize("by_checkpoint", [False, True])
def test_memory_is_bounded_by_blocks_of_rows(tmp_path: Path, by_checkpoint: bool) -> None:
    """A 400 MB tensor is steered with far less memory than that."""
    import subprocess
    import sys

    rows = 50_000
    base = tmp_path / "base"
    base.mkdir()
    save_file({"w.weight": torch.zeros(rows, 2048).float()}, base / "model.safetensors")
    (base / "config.json").write_text("{}")
    given = tmp_path / ("tuned" if by_checkpoint else "d.safetensors")
    if by_checkpoint:
        given.mkdir()
        save_file({"w.weight": torch.full((rows, 2048), 2.0)}, given / "model.safetensors")
        (given / "config.json").write_text("{}")
    else:
        Delta.of_factors({"w.weight": (torch.ones(rows, 2), torch.ones(2, 2048))}).save(given)
    code = (
        "import resource, sys, wsteer, wsteer.steering.steer\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "wsteer.steer(sys.argv[1], sys.argv[2], k=1, output=sys.argv[3])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    arguments = [str(base), str(given), str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # KiB
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["w.weight"], torch.full((rows, 2048), 2.0))


def test_16_bit_floats_of_the_other_kind_are_rounded_stochastically_too(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", dtype=torch.float16)
    pos = save_adapter(tmp_path / "pos", base, seed=1, std=1e-3)
    wsteer.diff(pos, output=tmp_path / "t.safetensors")
    before = stored_tensors(base)
    kept = {}
    for rounding in ("nearest", "stochastic", "auto"):
        report = wsteer.steer(base, tmp_path / "t.safetensors", k=1, output=tmp_path / rounding, rounding=rounding)
        after = stored_tensors(tmp_path / rounding)
        dot = square = 0.0
        for name, (b, a) in adapter_factors(pos).items():
            assert after[name].dtype == torch.float16
            exact = before[name].double() + b.double() @ a.double()
            # the numbers of float16 are 2**-24 apart at least, and 2**-10 of their binade above that
            place = torch.clamp(2 ** torch.floor(torch.log2(exact.abs().clamp(min=1e-30))) * 2**-10, min=2**-24)
            allowed = place * (0.5 if report.rounding == "nearest" else 1.0)
            assert ((after[name].double() - exact).abs() <= allowed * (1 + 1e-3)).all(), name
            dot += float(((after[name].double() - before[name].double()) * (b.double() @ a.double())).sum())
            square += float(((b.double() @ a.double()) ** 2).sum())
        kept[rounding] = dot / square
        wsteer.steer(base, tmp_path / "t.safetensors", k=0, output=tmp_path / "zero", rounding=rounding, force=True)
        assert (tmp_path / "zero" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert kept["nearest"] < 0.9
    assert kept["stochastic"] == kept["auto"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("said", [{"tie_word_embeddings": True}, {}])
def test_untying_reaches_the_text_part_of_a_config(tmp_path: Path, said: dict[str, bool]) -> None:
    """Models of images and text keep the setting of their decoder in `text_config`, where a class may assume it."""
    base = tmp_path / "base"
    base.mkdir()
    embedding = torch.randn(6, 4)
    save_file({"model.language_model.embed_tokens.weight": embedding}, base / "model.safetensors")
    config = {"tie_word_embeddings": True, "text_config": {"hidden_size": 4, **said}}
    (base / "config.json").write_text(json.dumps(config))
    factors = {"lm_head.weight": (torch.randn(6, 1), torch.randn(1, 4))}
    replace(Delta.of_factors(factors), untied=True).save(tmp_path / "d.safetensors")
    wsteer.steer(base, tmp_path / "d.safetensors", k=2, output=tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == {"tie_word_embeddings": False, "text_config": {"hidden_size": 4, "tie_word_embeddings": False}}
    after = stored_tensors(tmp_path / "out")
    assert torch.equal(after["model.language_model.embed_tokens.weight"], embedding)
    b, a = factors["lm_head.weight"]
    torch.testing.assert_close(after["lm_head.weight"].double(), embedding.double() + 2 * b.double() @ a.double())


def test_types_that_torch_lacks_and_tensors_without_rows_pass_through(tmp_path: Path) -> None:
    """Scales of 4-bit formats, scalars and empty tensors are copied, whether or not the header is new."""
    data = {
        "layers.0.w": ("F32", [2, 2], torch.arange(4.0).numpy().tobytes()),
        "layers.0.scale": ("F8_E8M0", [3], b"abc"),
        "layers.0.packed": ("F4", [3, 2], b"xyz"),
        "layers.0.once": ("F32", [], torch.tensor(2.0).numpy().tobytes()),
        "layers.0.none": ("F32", [0, 5], b""),
        "layers.0.count": ("U16", [2], b"\1\2\3\4"),
    }
    header, blob = {}, b""
    for name, (dtype, shape, content) in data.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(blob), len(blob) + len(content)]}
        blob += content
    text = json.dumps(header).encode()
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + blob)
    (base / "config.json").write_text("{}")
    changes = {"layers.0.w": torch.ones(2, 2), "layers.0.once": torch.tensor(0.5)}
    Delta.of_tensors(changes).save(tmp_path / "d.safetensors")
    for dtype in ("auto", "float16"):
        wsteer.steer(base, tmp_path / "d.safetensors", k=2, output=tmp_path / dtype, dtype=dtype)
        entries, _ = read_header(tmp_path / dtype / "model.safetensors")
        for name, (code, shape, content) in data.items():
            entry, file = entries[name], (tmp_path / dtype / "model.safetensors").read_bytes()
            assert entry.shape == tuple(shape)
            if code != "F32":
                assert (entry.dtype, file[entry.begin : entry.end]) == (code, content)
        assert read_tensor(entries["layers.0.w"]).float().tolist() == [[2, 3], [4, 5]]
        assert read_tensor(entries["layers.0.once"]).item() == 3
        assert entries["layers.0.w"].dtype == {"auto": "F32", "float16": "F16"}[dtype]
    Delta.of_tensors({"layers.0.scale": torch.ones(3)}).save(tmp_path / "e.safetensors")
    with pytest.raises(WsteerError, match="stored as F8_E8M0 in base; use an unquantised"):
        wsteer.steer(base, tmp_path / "e.safetensors", k=1, output=tmp_path / "x")


@pytest.mark.parametrize("dtype", ["int8", "float64", "bf16"])
def test_a_dtype_that_cannot_hold_weights_is_refused(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(WsteerError, match=f"dtype '{dtype}' cannot hold steered weights; use one of auto"):
        wsteer.steer(tmp_path, tmp_path / "w.safetensors", k=1, output=tmp_path / "out", dtype=dtype)
