"""Activation vectors from files of other tools and into them, beside what those tools' own readers make of them."""

import json
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.chain import logits
from tests.helpers.command import Cli
from tests.helpers.tiny import save_model
from tests.helpers.vectors import by_block, gguf_file, random_vectors, rows_file, steered_file
from wsteer.activations.convert import convert
from wsteer.activations.exports import Export
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError
from wsteer.models.loading import decoder_blocks, load
from wsteer.steering.memory import applied

# ---- persona-vectors


def test_rows_of_persona_vectors_become_the_blocks_at_which_it_steers(tmp_path: Path, tiny: Path) -> None:
    """Its steering: `vec[layer]` added by a hook on block layer - 1; the last row is after the final norm."""
    rows = rows_file(tmp_path / "evil_response_avg_diff.pt")
    said: list[str] = []
    report = convert(
        tmp_path / "evil_response_avg_diff.pt",
        tmp_path / "a.safetensors",
        base=tiny,
        note=said.append,
    )
    assert (report.form, report.blocks, report.hidden) == ("persona-vectors", (0, 1), 32)
    assert "row 2 -> block 1 (the paper's layer 2); left out: row 0 (embedding), row 3 (after the final norm" in said[0]
    assert report.norms == pytest.approx(rows[1:3].double().norm(dim=1).tolist())
    delta = Delta.load(tmp_path / "a.safetensors")
    assert (delta.base["fingerprint"], delta.layers) == (open_checkpoint(tiny).fingerprint, [0, 1])
    model = load(tiny, "cpu").model
    for layer in (1, 2):
        hook = model.model.layers[layer - 1].register_forward_hook(lambda m, i, output, v=1.5 * rows[layer]: output + v)
        expected = logits(model)
        hook.remove()
        with applied(model, delta.select_layers([layer - 1]), 1.5):
            assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_of_any_float_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = rows_file(tmp_path / "v.pt", dtype=dtype)
    convert(tmp_path / "v.pt", tmp_path / "a")
    assert torch.equal(by_block(tmp_path / "a")[1], rows[2].float())


def test_an_exported_pt_is_what_persona_vectors_loads(tmp_path: Path, vectors: Path) -> None:
    said: list[str] = []
    convert(vectors, export_to=Export.of(tmp_path / "v.pt"), note=said.append)
    loaded = torch.load(tmp_path / "v.pt", weights_only=False)  # as its code does
    own = random_vectors()
    assert (loaded.shape, loaded.dtype) == ((4, 32), torch.float32)
    assert not loaded[0].any() and all(torch.equal(loaded[layer], own[layer - 1]) for layer in (1, 2, 3))
    assert "row l is the output of block l - 1" in said[1] and "before the final norm" in said[2]


@pytest.mark.parametrize("layers", [None, (1,), (0, 2)])
def test_our_pt_comes_back_as_it_was(tmp_path: Path, vectors: Path, layers: tuple | None) -> None:
    convert(vectors, export_to=Export.of(tmp_path / "v.pt", layers=layers))
    convert(tmp_path / "v.pt", tmp_path / "b.safetensors")
    own = random_vectors()
    found = by_block(tmp_path / "b.safetensors")
    assert found.keys() == set(layers or (0, 1, 2)) and all(torch.equal(found[each], own[each]) for each in found)
    before, after = Delta.load(vectors), Delta.load(tmp_path / "b.safetensors")
    assert (after.base, after.positions) == (before.base, before.positions)


def test_a_pt_that_went_through_a_delta_keeps_its_number_of_rows(tmp_path: Path) -> None:
    rows = rows_file(tmp_path / "v.pt", rows=6)
    convert(tmp_path / "v.pt", tmp_path / "a.safetensors", export_to=Export.of(tmp_path / "w.pt"))
    again = torch.load(tmp_path / "w.pt", weights_only=True)
    assert torch.equal(again[1:5], rows[1:5]) and not again[[0, 5]].any() and len(again) == 6


# ---- control vectors


def test_directions_are_read_as_they_are_applied_or_as_the_generator_wrote_them(tmp_path: Path, tiny: Path) -> None:
    own = {block: each.numpy() for block, each in random_vectors().items()}
    path = gguf_file(tmp_path / "v.gguf", {"direction.1": own[1], "direction.2": own[2]})
    said: list[str] = []
    convert(path, tmp_path / "a", base=tiny, note=said.append)
    convert(path, tmp_path / "b", base=tiny, gguf_index="generator", note=said.append)
    assert said[0].endswith("direction.2 -> block 2 (the paper's layer 3); --gguf-index as-applied")
    assert said[1].endswith("direction.2 -> block 1 (the paper's layer 2); --gguf-index generator")
    for found, shift in ((by_block(tmp_path / "a"), 0), (by_block(tmp_path / "b"), 1)):
        assert found.keys() == {1 - shift, 2 - shift}
        assert all((found[block].numpy() == own[block + shift]).all() for block in found)
    assert Delta.load(tmp_path / "a").options["model_hint"] == "llama"


def test_a_file_of_llama_cpps_generator_is_pointed_out(tmp_path: Path) -> None:
    """It stores layer_count as int32, where repeng and EasySteer store uint32."""
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_int32("controlvector.layer_count", 1)
    writer.add_tensor("direction.1", random_vectors()[0].numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    said: list[str] = []
    convert(tmp_path / "v.gguf", tmp_path / "a", note=said.append)
    convert(tmp_path / "v.gguf", tmp_path / "b", gguf_index="generator", note=said.append)
    assert ["llama.cpp's own generator" in each for each in said] == [True, False]


def test_a_gguf_of_123_directions_is_one(tmp_path: Path) -> None:
    """Its ninth byte is then the one by which a safetensors file is known."""
    ones = numpy.ones(4, "float32")
    path = gguf_file(tmp_path / "v.gguf", {f"direction.{block}": ones for block in range(1, 124)})
    assert path.read_bytes()[8:9] == b"{"
    assert len(convert(path, tmp_path / "a").blocks) == 123


def test_an_exported_gguf_holds_what_its_readers_need(tmp_path: Path, vectors: Path, tiny: Path) -> None:
    said: list[str] = []
    convert(vectors, export_to=Export.of(tmp_path / "v.gguf"), base=tiny, note=said.append)
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    text = {name: field.contents() for name, field in reader.fields.items()}
    assert (text["general.architecture"], text["controlvector.model_hint"]) == ("controlvector", "llama")
    assert text["controlvector.layer_count"] == 2 and text["controlvector.wsteer.positions"] == "response"
    assert text["controlvector.wsteer.fingerprint"] == open_checkpoint(tiny).fingerprint
    assert "output of decoder block N" in text["controlvector.wsteer.index"]
    own = random_vectors()
    assert [each.name for each in reader.tensors] == ["direction.1", "direction.2"]
    for each in reader.tensors:
        assert each.tensor_type == gguf.GGMLQuantizationType.F32 and each.shape.tolist() == [32]
        assert (each.data == own[int(each.name[-1])].numpy()).all()
    assert any("block 0 is left out" in line for line in said) and any(
        "all 2 directions at once" in each for each in said
    )


def test_our_gguf_comes_back_with_its_base(tmp_path: Path, vectors: Path, tiny: Path) -> None:
    convert(vectors, export_to=Export.of(tmp_path / "v.gguf"), base=tiny)
    convert(tmp_path / "v.gguf", tmp_path / "b.safetensors")
    before, after = Delta.load(vectors), Delta.load(tmp_path / "b.safetensors")
    assert after.base == before.base and after.positions == "response"
    assert by_block(tmp_path / "b.safetensors").keys() == {1, 2}


@pytest.mark.parametrize("name", ["v.gguf", "v.pt"])
def test_the_same_vectors_give_the_same_bytes(tmp_path: Path, vectors: Path, name: str) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        convert(vectors, export_to=Export.of(tmp_path / folder / name))
    assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


# ---- lm-evaluation-harness


def test_lm_evals_coefficient_is_folded_in(tmp_path: Path, tiny: Path) -> None:
    vector = steered_file(tmp_path / "s.pt")
    report = convert(tmp_path / "s.pt", tmp_path / "a", base=tiny)
    assert (report.form, report.blocks) == ("lm-eval", (1,))
    assert torch.equal(by_block(tmp_path / "a")[1], -2.5 * vector[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_lm_evals_own_reader_steers_as_applied_does(tmp_path: Path, kind: str) -> None:
    """A batch of one: it steers padding too. GPT-2 calls its blocks h.N."""
    steered = pytest.importorskip("lm_eval.models.hf_steered")
    base = save_model(tmp_path / "base", kind)
    Delta.of_tensors({f"blocks.{b}": each for b, each in random_vectors().items()}, "activation").save(tmp_path / "a")
    export_to = Export.of(tmp_path / "s.pt", "lm-eval", layers=(1,), k=1.5)
    convert(tmp_path / "a", export_to=export_to, base=base)
    theirs = steered.SteeredModel(str(base), str(tmp_path / "s.pt"), device="cpu", dtype="float32")
    ids = torch.tensor([[256, 72, 101, 108, 108, 111]])
    model = load(base, "cpu").model
    with torch.no_grad(), applied(model, Delta.load(tmp_path / "a").select_layers([1]), 1.5):
        expected = model(ids).logits
    torch.testing.assert_close(theirs._model_call(ids), expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        assert (model(ids).logits - expected).abs().max() > 1e-3
    convert(tmp_path / "s.pt", tmp_path / "b", base=base)
    assert torch.equal(by_block(tmp_path / "b")[1], 1.5 * random_vectors()[1])


def test_several_vectors_for_lm_eval_need_a_choice(tmp_path: Path, vectors: Path) -> None:
    with pytest.raises(WsteerError, match=r"lm-eval adds all vectors of a file at once.*--layers 12"):
        convert(vectors, tmp_path / "b", export_to=Export.of(tmp_path / "s.pt", "lm-eval"))
    assert not (tmp_path / "b").exists() and not (tmp_path / "s.pt").exists()


# ---- what is imported works as any delta


@pytest.mark.slow
def test_an_imported_vector_is_baked_and_applied(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    rows = rows_file(tmp_path / "v.pt")
    a, out = tmp_path / "a.safetensors", tmp_path / "steered"
    assert cli("actvec", "--import", tmp_path / "v.pt", "--base", tiny, "-o", a, "-q").code == 0
    wsteer.steer(tiny, a, k=2.0, output=out, selection=Selection(layers=[0, 1]))
    baked = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    biases = [block.mlp.down_proj.bias for block in baked.model.layers]
    assert all(torch.equal(bias, 2 * row) for bias, row in zip(biases, (rows[1], rows[2], 0 * rows[1]), strict=True))
    model = load(tiny, "cpu").model
    with applied(model, Delta.load(a), 2.0):
        torch.testing.assert_close(logits(baked), logits(model), rtol=0, atol=1e-5)
    given = ["--delta", a, "--k", "0,2", "--layers", "1", "--task", "agreement", "--limit", 2]
    assert cli("eval", tiny, *given, "-o", tmp_path / "results", "-q").code == 0


@pytest.mark.slow
def test_actvec_exports_beside_its_delta(tmp_path: Path, tiny: Path, chats: tuple[Path, Path], cli: Cli) -> None:
    a, v = tmp_path / "a.safetensors", tmp_path / "v.pt"
    ran = cli("actvec", tiny, *chats, "-o", a, "--export", v, "--json")
    assert ran.code == 0 and (ran.json["output"], ran.json["exported"]) == (str(a), str(v))
    assert torch.equal(torch.load(v, weights_only=True)[1:], torch.stack(list(by_block(a).values())))
    s = tmp_path / "s.pt"
    lm = ["--export", s, "--export-as", "lm-eval", "--layers", "2", "--k", "-3"]
    assert cli("actvec", tiny, *chats, "-o", tmp_path / "b", *lm, "-q").out.splitlines()[-2:] == [
        str(s),
        str(tmp_path / "b"),
    ]
    stored = torch.load(s, weights_only=True)
    assert list(stored) == ["layers.2"] and stored["layers.2"]["steering_coefficient"] == -3
    assert cli("actvec", tiny, *chats, "-o", tmp_path / "c", "--export", s, "--export-as", "lm-eval").code == 1


def test_a_delta_file_gets_its_base(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    Delta.of_tensors({"blocks.1": torch.ones(32)}, "activation").save(tmp_path / "a")
    ran = cli("actvec", "--import", tmp_path / "a", "--base", tiny, "-o", tmp_path / "b", "--json")
    assert ran.json["base"] == open_checkpoint(tiny).name and ran.json["form"] == "delta" and ran.json["blocks"] == [1]
    assert Delta.load(tmp_path / "b").base == open_checkpoint(tiny).identity


def test_only_own_exports_are_replaced(tmp_path: Path, vectors: Path) -> None:
    for name in ("v.gguf", "v.pt"):
        convert(vectors, export_to=Export.of(tmp_path / name))
        convert(vectors, export_to=Export.of(tmp_path / name), force=True)
    rows_file(tmp_path / "others.pt")
    gguf_file(tmp_path / "others.gguf", {"direction.1": numpy.ones(4, "float32")})
    for name in ("others.pt", "others.gguf"):
        with pytest.raises(WsteerError, match="remove it yourself"):
            convert(vectors, export_to=Export.of(tmp_path / name), force=True)


@pytest.mark.slow
def test_blocks_of_models_of_every_kind_have_their_names(tmp_path: Path) -> None:
    from tests.helpers.architectures import save_tiny

    for kind, name in (("gpt_neox", "layers.1"), ("gpt2", "h.1")):
        base = save_tiny(tmp_path / kind, kind)
        model = load(base, "cpu").model
        size = model.config.get_text_config().hidden_size
        Delta.of_tensors({"blocks.1": torch.ones(size)}, "activation").save(tmp_path / f"{kind}.delta")
        convert(tmp_path / f"{kind}.delta", export_to=Export.of(tmp_path / f"{kind}.pt", "lm-eval"), base=base)
        (hookpoint,) = torch.load(tmp_path / f"{kind}.pt", weights_only=True)
        assert hookpoint == name and model.base_model.get_submodule(hookpoint) is decoder_blocks(model)[1]


def test_the_json_report(tmp_path: Path, vectors: Path, cli: Cli) -> None:
    ran = cli("actvec", "--import", vectors, "--export", tmp_path / "v.gguf", "--layers", "1-2", "--json")
    report = ran.json
    assert report["output"] == report["exported"] == str(tmp_path / "v.gguf") and report["exported_blocks"] == [1, 2]
    assert json.dumps(report).find("NaN") == -1 and report["kind"] == "activation"
