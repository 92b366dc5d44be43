"""Tied heads that are stored all the same, or left to the config's class: what steer writes loads as what is meant."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import wsteer
from tests.helpers.architectures import save_tiny
from tests.helpers.checkpoint_contents import same_weights, stored_tensors
from tests.helpers.tied import TOKENS, embedding_name, ends_of, in_shards, loaded, pickled, save_tied, store_head
from wsteer.checkpoints.checkpoint import base_entry, open_checkpoint
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError
from wsteer.steering import layout
from wsteer.steering.export import export

HEAD = "lm_head.weight"
LAYOUTS = ("one file", "head in the first shard", "head in the last shard", "pickled")


def laid_out(folder: Path, how: str) -> Path:
    """The checkpoint with a stored head in one of the layouts."""
    if how == "one file":
        return folder
    if how == "pickled":
        return pickled(folder)
    first = [HEAD] if how == "head in the first shard" else [embedding_name(folder)]
    return in_shards(folder, first)


def check_readable(folder: Path) -> None:
    """safetensors opens every weight file, no tensor stands twice, and an index names each tensor's file."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  the file is no mapping
                assert name not in found
                found[name] = path.name
    index = folder / "model.safetensors.index.json"
    assert index.exists() == (set(found.values()) != {"model.safetensors"})
    if index.exists():
        assert json.loads(index.read_text())["weight_map"] == found


def factors(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """lora_B and lora_A of the embedding or the head."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(30, 2, generator=generator), torch.randn(2, 16, generator=generator)


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_an_untied_head_takes_the_place_of_the_stored_copy(tmp_path: Path, model_type: str, how: str) -> None:
    base = store_head(save_tied(tmp_path / "base", model_type), forget=model_type == "gpt2")
    before = stored_tensors(base)
    embedding = embedding_name(base)
    base = laid_out(base, how)
    b, a = factors()
    replace(Delta.of_factors({HEAD: (b, a)}), untied=True).save(tmp_path / "d.safetensors")
    wsteer.steer(base, tmp_path / "d.safetensors", sweep=[0, 2], output=tmp_path / "out", dtype="float32")
    for k in (0, 2):
        folder = tmp_path / "out" / f"k{k}"
        check_readable(folder)
        after = stored_tensors(folder)
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before if name != HEAD)
        expected = before[embedding].double() + k * b.double() @ a.double()
        torch.testing.assert_close(after[HEAD].double(), expected, rtol=1e-6, atol=1e-6)
        ends = ends_of(loaded(folder))
        torch.testing.assert_close(ends[0], before[embedding].double(), rtol=0, atol=1e-6)
        torch.testing.assert_close(ends[1], expected, rtol=1e-6, atol=1e-5)
    config = json.loads((tmp_path / "out" / "k2" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    if how != "pickled":
        assert sorted(path.name for path in base.iterdir() if path.suffix == ".safetensors") == sorted(
            path.name for path in (tmp_path / "out" / "k2").glob("*.safetensors")
        )


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("model_type", ["gemma", "gpt2"])
def test_a_stored_copy_follows_the_embedding_bit_for_bit(tmp_path: Path, model_type: str, how: str) -> None:
    """Rounded stochastically in bfloat16, under one name: else the two would differ and loading would untie them."""
    base = store_head(save_tied(tmp_path / "base", model_type, dtype=torch.bfloat16), forget=True)
    embedding = embedding_name(base)
    before = load_file(base / "model.safetensors")[embedding].double()
    base = laid_out(base, how)
    b, a = factors()
    Delta.of_factors({embedding: (b, a)}).save(tmp_path / "d.safetensors")
    wsteer.steer(base, tmp_path / "d.safetensors", sweep=[0, 1], output=tmp_path / "out", rounding="stochastic")
    check_readable(tmp_path / "out" / "k1")
    after = stored_tensors(tmp_path / "out" / "k1")
    assert torch.equal(after[HEAD], after[embedding])
    torch.testing.assert_close(after[embedding].double(), before + b.double() @ a.double(), rtol=1e-2, atol=1e-2)
    model = loaded(tmp_path / "out" / "k1")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    unchanged = stored_tensors(tmp_path / "out" / "k0")
    assert torch.equal(unchanged[HEAD].double(), before) and torch.equal(unchanged[embedding].double(), before)
    if how != "pickled":
        assert same_weights(base, tmp_path / "out" / "k0")


def test_a_weight_file_with_a_wrong_header_never_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = layout._new_file

    def wrong(shard: Path, tensors: list[layout.OutputTensor]) -> layout.OutputFile:
        made = real(shard, tensors)
        return replace(made, header=made.header.replace(b"lm_head", b"lm_hand"))

    monkeypatch.setattr(layout, "_new_file", wrong)
    base = save_tied(tmp_path / "base", "llama")
    replace(Delta.of_factors({HEAD: factors()}), untied=True).save(tmp_path / "d.safetensors")
    with pytest.raises(AssertionError, match="does not hold the tensors that were planned"):
        wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("out*/*.safetensors"))


@pytest.mark.parametrize("form", ["delta", "adapter"])
def test_other_forms_of_a_base_with_a_stored_copy(tmp_path: Path, form: str) -> None:
    from peft import PeftModel

    base = store_head(save_tied(tmp_path / "base", "llama"))
    b, a = factors()
    replace(Delta.of_factors({HEAD: (b, a)}), untied=True).save(tmp_path / "d.safetensors")
    wsteer.steer(base, tmp_path / "d.safetensors", k=2, output=tmp_path / "out")
    with torch.no_grad():
        expected = loaded(tmp_path / "out")(TOKENS).logits
    output = tmp_path / ("e.safetensors" if form == "delta" else "e")
    export(base, tmp_path / "d.safetensors", 2, output, form=form)
    if form == "delta":
        wsteer.steer(base, tmp_path / "e.safetensors", k=1, output=tmp_path / "again")
        model = loaded(tmp_path / "again")
    else:
        model = PeftModel.from_pretrained(loaded(base), tmp_path / "e").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS).logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_head_of_its_own_stays_as_it_is_whatever_the_config_says(tmp_path: Path, model_type: str) -> None:
    """transformers does not tie a head that differs from the embedding; a change of the embedding leaves it alone."""
    head = torch.randn(30, 16)
    base = store_head(save_tied(tmp_path / "base", model_type), head)
    embedding = embedding_name(base)
    before = stored_tensors(base)
    b, a = factors()
    Delta.of_factors({embedding: (b, a)}).save(tmp_path / "d.safetensors")
    wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")
    ends = ends_of(loaded(tmp_path / "out"))
    torch.testing.assert_close(ends[0], before[embedding].double() + b.double() @ a.double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ends[1], head.double(), rtol=0, atol=1e-6)


def test_a_base_in_one_indexed_shard_gets_an_index_again(tmp_path: Path) -> None:
    base = save_tied(tmp_path / "base", "llama")
    name = "model-00001-of-00001.safetensors"
    (base / "model.safetensors").rename(base / name)
    weight_map = dict.fromkeys(load_file(base / name), name)
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    replace(Delta.of_factors({HEAD: factors()}), untied=True).save(tmp_path / "d.safetensors")
    wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")
    check_readable(tmp_path / "out")
    assert HEAD in stored_tensors(tmp_path / "out")
    loaded(tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"torch_dtype": "bfloat16"}, {"torch_dtype": "float32", "dtype": "float32"}),
        ({"dtype": "bfloat16"}, {"dtype": "float32"}),
        ({}, {"dtype": "float32"}),
        (
            {
                "torch_dtype": "float16",
                "text_config": {"torch_dtype": "bfloat16", "deeper_config": {"dtype": "float16"}},
                "vision_config": {"dtype": None, "depth": 2},
                "audio_config": {"depth": 3},
                "quantization_config": {"dtype": "int8"},
            },
            {
                "torch_dtype": "float32",
                "dtype": "float32",
                "text_config": {"torch_dtype": "float32", "deeper_config": {"dtype": "float32"}},
                "vision_config": {"dtype": "float32", "depth": 2},
                "audio_config": {"depth": 3},
                "quantization_config": {"dtype": "int8"},
            },
        ),
    ],
    ids=["older key", "newer key", "no key", "parts"],
)
def test_a_dtype_reaches_every_key_of_the_config(tmp_path: Path, config: dict, expected: dict) -> None:
    base = save_tied(tmp_path / "base", "llama", dtype=torch.bfloat16)
    (base / "config.json").write_text(json.dumps(config))
    Delta.of_tensors({"model.norm.weight": torch.ones(16)}).save(tmp_path / "d.safetensors")
    for k in (0, 1):
        wsteer.steer(base, tmp_path / "d.safetensors", k=k, output=tmp_path / f"out{k}", dtype="float32")
        assert json.loads((tmp_path / f"out{k}" / "config.json").read_text()) == expected


@pytest.mark.slow
def test_a_head_is_not_untied_where_blocks_are_shared_by_the_same_setting(tmp_path: Path) -> None:
    """transformers ties Zamba's shared blocks only with tie_word_embeddings; without it copies would be random."""
    base = save_tiny(tmp_path / "base", "zamba2")
    names = ("lm_head.weight", "model.layers.0.mamba.in_proj.weight")
    tensors = {name: torch.ones(base_entry(name, open_checkpoint(base)).shape) for name in names}
    replace(Delta.of_tensors(tensors), untied=True).save(tmp_path / "d.safetensors")
    with pytest.raises(WsteerError, match=r"cannot untie its head.*layers\.3\.shared_transformer"):
        wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")
    wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out", selection=Selection(exclude="lm_head"))
    moved = stored_tensors(tmp_path / "out")[names[1]] - stored_tensors(base)[names[1]]
    torch.testing.assert_close(moved, tensors[names[1]], rtol=0, atol=1e-6)
    shared = "model.layers.3.shared_transformer.feed_forward.down_proj.weight"
    Delta.of_tensors({shared: torch.ones(64, 96)}).save(tmp_path / "s.safetensors")
    with pytest.raises(WsteerError, match=r"in the model it is model\.layers\.1\.shared_transformer.*two changes"):
        wsteer.steer(base, tmp_path / "s.safetensors", k=1, output=tmp_path / "never")
