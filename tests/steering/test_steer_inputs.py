"""What steer takes for a DELTA and for its BASE: adapters and checkpoints, against float64 and the unmerged adapter."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.checkpoint_contents import stored_tensors
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.merging import adapter_on, save_architecture
from tests.helpers.tiny import save_adapter, save_model
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError
from wsteer.steering.export import export

IDS = torch.arange(2, 40)[None]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.double()


def of_checkpoint(folder: Path) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def of_adapter(base: Path, adapter: Path) -> torch.Tensor:
    """The logits of the adapter as peft runs it, unmerged."""
    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter))


def check_sum(base: Path, steered: Path, *scaled: tuple[float, Path]) -> None:
    """Every tensor is the base's plus the sum of k·s·B A of plain adapters, in float64, up to float32's rounding."""
    parts = [(k, adapter_factors(folder)) for k, folder in scaled]
    before, after = load_file(base / "model.safetensors"), load_file(steered / "model.safetensors")
    assert before.keys() == after.keys()
    for name, theta in before.items():
        exact = theta.double()
        for k, factors in parts:
            if name in factors:
                b, a = factors[name]
                exact = exact + k * b.double() @ a.double()
        torch.testing.assert_close(after[name].double(), exact, rtol=0, atol=1e-6, msg=name)


def as_folder(adapter: Path, folder: Path) -> Path:
    return Path(shutil.copytree(adapter, folder / "moved"))


def as_named(adapter: Path, folder: Path) -> Path:
    """An adapter with a name, which peft saves in a subfolder."""
    shutil.copytree(adapter, folder / "named" / "mine")
    return folder / "named"


def as_step(adapter: Path, folder: Path) -> Path:
    """A checkpoint of a training run."""
    return Path(shutil.copytree(adapter, folder / "run" / "checkpoint-10"))


@pytest.mark.parametrize("made", [as_folder, as_named, as_step])
def test_an_adapter_is_steered_by_as_the_delta_that_diff_makes_of_it(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], made: Callable[[Path, Path], Path]
) -> None:
    given = made(adapters[0], tmp_path)
    wsteer.diff(adapters[0], output=tmp_path / "t.safetensors", base=tiny)
    for name, delta in (("file", tmp_path / "t.safetensors"), ("folder", given)):
        wsteer.steer(tiny, [delta, adapters[1]], k=[1.5, -0.5], output=tmp_path / name)
    assert (tmp_path / "file" / "model.safetensors").read_bytes() == (
        tmp_path / "folder" / "model.safetensors"
    ).read_bytes()
    check_sum(tiny, tmp_path / "folder", (1.5, adapters[0]), (-0.5, adapters[1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", {"use_dora": True}),
        ("llama", {"modules_to_save": ["lm_head"]}),
        ("qwen2", {"use_dora": True, "bias": "all"}),
        ("gpt2", {"target_modules": ["c_attn", "c_fc"]}),
    ],
)
def test_an_adapter_that_its_base_completes_is_merged_exactly(tmp_path: Path, kind: str, config: dict) -> None:
    base = save_architecture(tmp_path / "base", kind)
    adapter = adapter_on(base, tmp_path / "pos", **config)
    wsteer.steer(base, adapter, k=1, output=tmp_path / "out")
    expected = of_adapter(base, adapter)
    assert (expected - of_checkpoint(base)).abs().max() > 1e-2
    torch.testing.assert_close(of_checkpoint(tmp_path / "out"), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_is_steered_by_as_its_difference_from_the_base(tmp_path: Path, dtype: torch.dtype) -> None:
    base, ft = (save_model(tmp_path / name, seed=seed, dtype=dtype) for seed, name in enumerate(("base", "ft")))
    adapter = save_adapter(tmp_path / "w", base, seed=3)
    wsteer.steer(base, ft, k=1, output=tmp_path / "same")
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == (ft / "model.safetensors").read_bytes()
    wsteer.steer(base, [ft, adapter], k=[1, -0.5], output=tmp_path / "out", rounding="nearest", dtype="float32")
    factors = adapter_factors(adapter)
    for name, after in stored_tensors(tmp_path / "out").items():
        exact = stored_tensors(ft)[name].double()
        if name in factors:
            b, a = factors[name]
            exact = exact - 0.5 * b.double() @ a.double()
        torch.testing.assert_close(after.double(), exact, rtol=0, atol=1e-6)


def test_of_a_folder_of_seeds_the_mean_is_taken(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> None:
    for seed, adapter in enumerate(adapters):
        shutil.copytree(adapter, tmp_path / "pos" / f"seed-{seed}")
    wsteer.steer(tiny, tmp_path / "pos", k=2, output=tmp_path / "out")
    check_sum(tiny, tmp_path / "out", (1, adapters[0]), (1, adapters[1]))


def test_records_hold_the_digests_of_weights_as_diff_gives_them(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(adapters[0], "pos.v1")
    wsteer.diff("pos.v1", output="t.safetensors", base=tiny)
    report = wsteer.steer(tiny, ["pos.v1", tiny], k=[0.5, 1])
    assert report.output == "tiny-llama-pos.v1-tiny-llama-k0.5,1"
    inputs = json.loads(Path(report.output, "wsteer.json").read_text())["inputs"]
    diffed = wsteer.Delta.load("t.safetensors").sources[0]
    assert inputs[1] == {"role": "delta", "path": "pos.v1", "sha256": diffed["sha256"]}
    assert [entry["path"] for entry in inputs[2:]] == ["tiny-llama"] and inputs[2]["sha256"]


def test_names_of_outputs_tell_what_was_added(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(adapters[0], tmp_path / "run" / "checkpoint-10")
    shutil.copytree(adapters[0], tmp_path / "pos" / "mine")
    for cwd, given, name in (
        ("run", "checkpoint-10", "run-checkpoint-10"),
        ("run/checkpoint-10", ".", "run-checkpoint-10"),
        ("pos", "mine/", "mine"),
        ("pos/mine", "..", "pos"),
    ):
        monkeypatch.chdir(tmp_path / cwd)
        assert wsteer.steer(tiny, given, k=1, dry_run=True).output == f"tiny-llama-{name}-k1"


@pytest.mark.parametrize("form", ["delta", "adapter"])
def test_other_forms_are_made_of_adapters(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], form: str) -> None:
    out = tmp_path / ("out.safetensors" if form == "delta" else "out")
    export(tiny, list(adapters), [1, -2], out, form=form)
    wsteer.steer(tiny, out, k=1, output=tmp_path / "steered")
    check_sum(tiny, tmp_path / "steered", (1, adapters[0]), (-2, adapters[1]))


@pytest.mark.slow
def test_an_adapter_as_base_is_its_base_with_its_change(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pos, neg = adapters
    report = wsteer.steer(pos, neg, k=-1)
    assert report.output == "pos-neg-k-1" and report.k == (-1,)
    check_sum(tiny, Path(report.output), (1, pos), (-1, neg))
    record = json.loads(Path(report.output, "wsteer.json").read_text())
    assert [entry["role"] for entry in record["inputs"]] == ["base", "adapter", "delta"]
    assert all(entry["sha256"] for entry in record["inputs"][1:]) and record["options"]["k"] == [-1]
    wsteer.steer(pos, neg, k=0, output=tmp_path / "zero", selection=Selection(layers=[0]))
    check_sum(tiny, tmp_path / "zero", (1, pos))
    export(pos, neg, 2, tmp_path / "both", form="adapter")
    torch.testing.assert_close(
        of_adapter(tiny, tmp_path / "both"), of_checkpoint_sum(tiny, tmp_path, pos, neg), rtol=0, atol=1e-5
    )


def of_checkpoint_sum(tiny: Path, folder: Path, pos: Path, neg: Path) -> torch.Tensor:
    wsteer.steer(tiny, [pos, neg], k=[1, 2], output=folder / "sum")
    return of_checkpoint(folder / "sum")


def test_a_sweep_on_an_adapter_says_what_to_do(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    with pytest.raises(WsteerError, match=r"pos is an adapter, and --sweep .* wsteer steer .*tiny-llama .*pos --k 1"):
        wsteer.steer(adapters[0], adapters[1], sweep=[1, 2], output=tmp_path / "out")


def with_score(base: Path, folder: Path) -> Path:
    """An adapter of a classifier, whose head `score` a language model lacks."""
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    adapted.save_pretrained(folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(0)
    tensors = {name: 0.1 * torch.randn(each.shape, generator=generator) for name, each in tensors.items()}
    tensors["base_model.model.score.weight"] = torch.ones(2, 32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def with_score_of_ia3(base: Path, folder: Path) -> Path:
    """The same, of another method."""
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        IA3Config(target_modules=["q_proj", "v_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
    )
    adapted.save_pretrained(folder)
    tensors = {name: 1.5 * each for name, each in load_file(folder / "adapter_model.safetensors").items()}
    tensors["base_model.model.score.weight"] = torch.ones(2, 32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def with_long_head(base: Path, folder: Path) -> Path:
    """A delta whose head has rows for a larger vocabulary."""
    wsteer.Delta.of_tensors(
        {"model.layers.0.self_attn.q_proj.weight": torch.ones(32, 32), "lm_head.weight": torch.ones(300, 32)}
    ).save(folder.with_suffix(".safetensors"))
    return folder.with_suffix(".safetensors")


def with_long_rows(base: Path, folder: Path) -> Path:
    """A fine-tune whose vocabulary has grown."""
    return save_model(folder, seed=4, vocab_size=300)


MISFITS = [
    (with_score, "score"),
    (with_score_of_ia3, "score"),
    (with_long_head, "lm_head"),
    (with_long_rows, r"lm_head|embed_tokens"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("made", "misfit"), MISFITS)
def test_what_is_left_out_need_not_fit(
    tmp_path: Path, tiny: Path, made: Callable[[Path, Path], Path], misfit: str
) -> None:
    given = made(tiny, tmp_path / "given")
    with pytest.raises(WsteerError, match=rf"({misfit})"):
        wsteer.steer(tiny, given, k=1, output=tmp_path / "out")
    with pytest.raises(WsteerError, match=rf"({misfit})"):
        wsteer.steer(tiny, given, k=1, output=tmp_path / "out", selection=Selection(exclude="v_proj"))
    without = Selection(exclude=misfit)
    wsteer.steer(tiny, given, k=1, output=tmp_path / "out", selection=without)
    wsteer.diff(given, output=tmp_path / "t.safetensors", base=tiny, selection=without)
    wsteer.steer(tiny, tmp_path / "t.safetensors", k=1, output=tmp_path / "again")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    base = load_file(tiny / "model.safetensors")
    q_proj = "model.layers.0.self_attn.q_proj.weight"
    assert (one[q_proj] - base[q_proj]).abs().max() > 1e-3
    for name in base:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)
    export(tiny, given, 1, tmp_path / "w.safetensors", form="delta", selection=Selection(include="q_proj"))
    for nothing in (
        Selection(include="q_proj", exclude="nowhere"),
        Selection(include="nowhere"),
        Selection(layers=[9]),
    ):
        with pytest.raises(WsteerError, match=r"leaves? nothing|has nothing"):
            wsteer.steer(tiny, given, k=1, output=tmp_path / "none", selection=nothing)


def with_tower(base: Path, folder: Path) -> Path:
    """An adapter of a multimodal model, whose tower the language model lacks."""
    save_adapter(folder, base, seed=1, target_modules=["q_proj"])
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors |= {name.replace("model.layers", "model.visual.blocks"): each.clone() for name, each in tensors.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def with_biases(base: Path, folder: Path) -> Path:
    """A delta of biases that the model cannot hold, beside one of weights."""
    tensors = {f"model.layers.{layer}.mlp.down_proj.bias": torch.ones(32) for layer in range(2)}
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.ones(48, 32)
    wsteer.Delta.of_tensors(tensors).save(folder.with_suffix(".safetensors"))
    return folder.with_suffix(".safetensors")


@pytest.mark.parametrize(
    ("made", "refused", "selection"),
    [
        (with_tower, "visual", Selection(exclude=r"^model\.visual")),
        (with_tower, "visual", Selection(include=r"^model\.layers\.\d")),
        (with_biases, "cannot hold", Selection(exclude="bias$")),
        (with_biases, "cannot hold", Selection(layers=[2])),
    ],
)
def test_a_tower_and_biases_that_are_left_out_need_not_fit(
    tmp_path: Path, made: Callable[[Path, Path], Path], refused: str, selection: Selection
) -> None:
    base = save_architecture(tmp_path / "base", "qwen3", head_dim=8)
    given = made(base, tmp_path / "given")
    with pytest.raises(WsteerError, match=refused):
        wsteer.steer(base, given, k=1, output=tmp_path / "out")
    report = wsteer.steer(base, given, k=1, output=tmp_path / "out", selection=selection)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    q_proj = {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(3)}
    assert changed == (q_proj if made is with_tower else {"model.layers.2.mlp.up_proj.weight"})
    assert report.parameters_changed == len(changed)
