"""Adapters that are no change of weights, or not exactly one, or damaged: refused by name with the reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.merging import adapter_on, save_architecture, train
from tests.helpers.tiny import save_adapter
from wsteer.deltas.adapters.adapter import read_adapter
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError


def test_the_base_is_asked_for_where_it_decides(tmp_path: Path, tiny: Path) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    saved = adapter_on(base, tmp_path / "saved", modules_to_save=["norm"])
    dora = adapter_on(base, tmp_path / "dora", use_dora=True)
    shutil.rmtree(base)
    for folder in (saved, dora):
        with pytest.raises(WsteerError, match="base"):
            wsteer.diff(folder, output=tmp_path / "t.safetensors")
        assert wsteer.diff(folder, output=tmp_path / "t.safetensors", base=tiny, force=True).parameters > 20


def test_an_adapter_of_another_model_lists_what_does_not_match(tmp_path: Path, tiny: Path, adapters) -> None:
    gpt2 = save_architecture(tmp_path / "gpt2", "gpt2")
    with pytest.raises(WsteerError, match=r"model\.layers\.0.* and 18 more, which gpt2 lacks"):
        wsteer.diff(adapters[0], output=tmp_path / "t.safetensors", base=gpt2)


def test_a_resized_vocabulary_is_refused_with_the_reason(tmp_path: Path, tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model.resize_token_embeddings(270)
    folder = train(model, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    with pytest.raises(WsteerError, match="the vocabulary was resized"):
        wsteer.diff(folder, output=tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"peft_type": "XLORA"}, "XLORA"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
        ({"arrow_config": {"top_k": 1}}, "Arrow"),
        ({"use_qalora": True}, "QALoRA"),
        ({"init_lora_weights": "loftq"}, "initialised by loftq"),
        ({"init_lora_weights": "corda"}, "initialised by corda"),
        ({"init_lora_weights": "lora_ga"}, "initialised by lora_ga"),
        ({"init_lora_weights": "pissa_niter_4"}, "initialised by pissa_niter_4"),
        ({"init_lora_weights": "pissa", "kasa_config": {"beta": 1e-4}}, "uses KaSA on a base that pissa had changed"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"rank_pattern": {"(": 4}}, "no regex"),
        ({"r": 5}, "has rank 4"),
        ({"r": None}, "lacks the numbers"),
        ({"lora_alpha": "16"}, "lacks the numbers"),
        ({"rank_pattern": [1]}, "must be a dict"),
        ({"use_rslora": "false"}, "use_rslora must be true or false, not 'false'"),
        ({"fan_in_fan_out": 1}, "fan_in_fan_out must be true or false"),
        ({"use_dora": True}, "uses DoRA but holds no magnitude vectors"),
    ],
)
def test_what_cannot_be_exact_is_refused_by_name(tmp_path: Path, tiny: Path, change: dict, named: str) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(WsteerError, match=named):
        read_adapter(folder)


def test_gpt2s_names_need_the_base_since_their_orientation_is_its_architectures(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    path = folder / "adapter_model.safetensors"
    renamed = {
        name.replace("model.layers.0.self_attn.q_proj", "transformer.h.0.attn.c_proj"): tensor
        for name, tensor in load_file(path).items()
        if "layers.0" in name
    }
    save_file(renamed, path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/gone"}))
    with pytest.raises(WsteerError, match=r"may store its weight transposed.*--base"):
        read_adapter(folder)


@pytest.mark.parametrize("record", ['{"inputs": 5}', '{"inputs": ["a"]}', "{}"])
def test_a_strange_record_beside_the_adapter_does_no_harm(tmp_path: Path, tiny: Path, record: str) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    (folder / "wsteer.json").write_text(record)
    assert read_adapter(folder).base["name"] == "tiny-llama"


def test_a_base_without_safetensors_is_known_by_name_alone(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    (tmp_path / "binbase").mkdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "binbase")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert read_adapter(folder).base == {"name": "binbase", "revision": None, "fingerprint": None, "towers": None}


def test_broken_factors_are_refused(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({**tensors, name: torch.empty(0)}, path)
    with pytest.raises(WsteerError, match="have shapes"):
        read_adapter(folder)
    save_file({**tensors, name: torch.full_like(tensors[name], float("nan"))}, path)
    with pytest.raises(WsteerError, match=r"lora_B.weight' holds NaN"):
        wsteer.diff(folder, output=folder / "t.safetensors")
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(2)}, path)
    with pytest.raises(WsteerError, match=r"lm_head.weight is \(2,\) but \(262, 32\)"):
        read_adapter(folder)
    save_file({**tensors, "base_model.model.lm_head.lora_new": torch.zeros(2)}, path)
    with pytest.raises(WsteerError, match="a variant that wsteer does not know"):
        read_adapter(folder)
    for dropped, missing in ((name, "no lora_B"), (name.replace("lora_B", "lora_A"), "no lora_A")):
        save_file({key: value for key, value in tensors.items() if key != dropped}, path)
        with pytest.raises(WsteerError, match=missing):
            read_adapter(folder)


def test_a_convolution_in_groups_is_refused(tmp_path: Path) -> None:
    """peft lets the factors see all inputs, which the layer does not: no weight of it does the same."""
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4, bias=False))
    base = tmp_path / "base"
    base.mkdir()
    save_file(net.state_dict(), base / "model.safetensors")
    (base / "config.json").write_text("{}")
    folder = train(net, tmp_path / "adapter", target_modules=["0"], task_type=None)
    for given in (base, None):
        with pytest.raises(WsteerError, match="0 is a convolution in groups"):
            wsteer.diff(folder, output=tmp_path / "t.safetensors", base=given)


def test_a_bias_beside_factors_needs_a_bias_of_the_base(tmp_path: Path, tiny: Path) -> None:
    folder = adapter_on(tiny, tmp_path / "adapter", lora_bias=True, target_modules=["q_proj"])
    with pytest.raises(WsteerError, match=r"changes model\.layers\.0\.self_attn\.q_proj\.bias.*which tiny-llama lacks"):
        wsteer.diff(folder, output=tmp_path / "t.safetensors")


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head", "q_proj"])
def test_copies_of_a_resized_vocabulary_are_refused_with_the_reason(tmp_path: Path, tiny: Path, module: str) -> None:
    """peft saves both ends of a model whose vocabulary it finds resized, whatever is adapted."""
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model.resize_token_embeddings(270)
    folder = train(model, tmp_path / "adapter", target_modules=[module])
    for neg in (None, folder):
        with pytest.raises(WsteerError, match=r"\(270, 32\) but \(262, 32\) in tiny-llama; the vocabulary was resized"):
            wsteer.diff(folder, neg, output=tmp_path / "t.safetensors")


def quantised(base: Path, folder: Path) -> Path:
    """A copy of a checkpoint whose query projections are packed as bitsandbytes packs them."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    packed = {name: torch.zeros(512, 1, dtype=torch.uint8) for name in tensors if "q_proj" in name}
    save_file({**tensors, **packed}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    settings = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


def test_a_quantised_base_is_not_needed_for_factors_and_refused_where_it_is(tmp_path: Path, tiny: Path) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    plain = adapter_on(base, tmp_path / "plain", target_modules=["q_proj"])
    dora = adapter_on(base, tmp_path / "dora", target_modules=["q_proj"], use_dora=True)
    shutil.rmtree(base)
    quantised(tiny, base)
    wsteer.diff(plain, output=tmp_path / "t.safetensors")
    wsteer.diff(plain, output=tmp_path / "u.safetensors", base=tiny)
    one, other = (Delta.load(tmp_path / f"{name}.safetensors") for name in "tu")
    assert (one - other).norm() < 1e-12 * one.norm()
    with pytest.raises(WsteerError, match="changes as its base's weights tell: name it, unquantised, with --base"):
        wsteer.diff(dora, output=tmp_path / "v.safetensors")
    with pytest.raises(WsteerError, match="is stored as U8 in base; name the unquantised base"):
        wsteer.diff(plain, output=tmp_path / "v.safetensors", base=base)
    with pytest.raises(WsteerError, match="is stored as U8 in base; use an unquantised checkpoint"):
        wsteer.steer(base, tmp_path / "t.safetensors", k=1, output=tmp_path / "out")
    tensors = load_file(base / "model.safetensors")
    packed = {name.replace("q_proj.weight", "q_proj.qweight"): tensor for name, tensor in tensors.items()}
    save_file(packed, base / "model.safetensors")  # as GPTQ and AWQ name them
    with pytest.raises(WsteerError, match="base lacks; it is quantised: use the unquantised model"):
        wsteer.steer(base, tmp_path / "t.safetensors", k=1, output=tmp_path / "out")


def test_an_adapter_that_was_never_trained_is_refused(tmp_path: Path, tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    with pytest.raises(WsteerError, match="adapter changes nothing"):
        wsteer.diff(tmp_path / "adapter", output=tmp_path / "t.safetensors")
