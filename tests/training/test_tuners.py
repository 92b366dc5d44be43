"""peft's methods: finetune, diff, steer and --track beside peft's own merge and logits; what they cannot do."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.architectures import save_tiny
from tests.helpers.command import Cli
from tests.helpers.tiny import save_model
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.training.finetune import finetune
from wsteer.training.recipe import ADAPTERS, Recipe

OPTIONS = {"lora": {"rank": 4}, "oft": {"block_size": 8}, "boft": {"block_size": 8}, "vera": {"rank": 16}}
IDS = torch.arange(3, 40)[None]
LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
# trained parameters of a linear layer of `n` inputs and `m` outputs, as each method's paper counts them
COUNTS = {
    "lora": lambda n, m: 4 * (n + m),
    "delora": lambda n, m: 8 * (n + m) + 1,
    "oft": lambda n, m: n // 8 * (8 * 7 // 2),
    "boft": lambda n, m: n // 8 * 8 * 8 + m,
    "ia3": lambda n, m: n if n == 48 else m,  # the inputs of down_proj
    "loha": lambda n, m: 2 * 8 * (n + m),
    "vera": lambda n, m: 16 + m,
}
SHAPES = {"q_proj": (32, 32), "k_proj": (32, 16), "v_proj": (32, 16), "o_proj": (32, 32), "gate_proj": (32, 48)}
SHAPES = {**SHAPES, "up_proj": (32, 48), "down_proj": (48, 32)}  # inputs, outputs

pytestmark = [
    pytest.mark.filterwarnings("ignore:Failed to load the CUDA", "ignore:Setting boft_n", "ignore:Unmerge result"),
    pytest.mark.filterwarnings("ignore:Already unmerged"),
]


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it finds a CUDA compiler, peft compiles a kernel for BOFT when the tests load an adapter."""
    monkeypatch.setattr("peft.tuners.boft.layer._FBD_CUDA", False)


def recipe_of(method: str, **options) -> Recipe:
    settings = {"lr": 0.02, "max_steps": 2, "warmup_steps": 0, "val_fraction": 0.0, "batch_size": 4, "eval_every": 1}
    return Recipe(method=method, **{**settings, **OPTIONS.get(method, {}), **options})


def merged_by_peft(folder: Path, base: Path) -> dict[str, Tensor]:
    """What peft's merge into the whole model in float64 changes, by parameter."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    merged = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).double().merge_and_unload()
    return {name: parameter.detach() - before[name] for name, parameter in merged.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("method", ADAPTERS)
def test_the_chain_equals_peft(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], adapters: tuple[Path, Path], method: str
) -> None:
    for side, data in zip(("pos", "neg"), chats, strict=True):
        run = {"watched": adapters[0], "save_every": 2} if side == "pos" else {}
        recipe = recipe_of(method, gradient_checkpointing=side == "neg")
        report = finetune(tiny, data, tmp_path / side, recipe, device="cpu", dtype="float32", **run)
    scaled = ["down_proj", "k_proj", "v_proj"]
    assert list(report.modules) == (scaled if method == "ia3" else LINEAR)
    assert report.blocks == (0, 1, 2)
    sizes = {name: inputs * outputs for name, (inputs, outputs) in SHAPES.items()}
    assert report.share == pytest.approx(sum(map(sizes.get, report.modules)) / sum(sizes.values()))
    if method in COUNTS:
        counted = 3 * sum(COUNTS[method](*SHAPES[name]) for name in report.modules)
        assert report.trained_parameters == counted
    wsteer.diff(tmp_path / "pos", tmp_path / "neg", tmp_path / "w.safetensors")
    pos, neg = (merged_by_peft(tmp_path / side, tiny) for side in ("pos", "neg"))
    w = Delta.load(tmp_path / "w.safetensors")
    for name, change in pos.items():
        expected = change - neg[name]
        if name not in w.terms:
            assert not expected.any()
            continue
        rows = w.change(name).rows(0, expected.shape[0]).double()
        torch.testing.assert_close(rows, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))
    tau = tmp_path / "tau.safetensors"
    wsteer.diff(tmp_path / "pos", output=tau)
    wsteer.steer(tiny, tau, k=1.0, output=tmp_path / "steered")
    plain, steered = (AutoModelForCausalLM.from_pretrained(each) for each in (tiny, tmp_path / "steered"))
    with torch.no_grad():
        base = plain(input_ids=IDS).logits.clone()
        tuned = PeftModel.from_pretrained(plain, tmp_path / "pos").eval()(input_ids=IDS).logits
        found = steered(input_ids=IDS).logits
    assert (tuned - base).abs().max() > 1e-3
    torch.testing.assert_close(found, tuned, rtol=0, atol=2e-6)
    rows = [json.loads(line) for line in (tmp_path / "pos" / "log.jsonl").open()]
    wsteer.diff(adapters[0], output=tmp_path / "watched.safetensors")
    cosine = Delta.load(tmp_path / "watched.safetensors").cosine(Delta.load(tau))
    tracked = [row["cosine_pos"] for row in rows if "cosine_pos" in row]
    if method != "ia3":  # the cosine of what both change: the watched adapter changes all linear layers
        assert tracked[-1] == pytest.approx(cosine, abs=1e-5)
    assert len(tracked) == 2
    step = load_file(tmp_path / "pos" / "checkpoint-2" / "adapter_model.safetensors")
    final = load_file(tmp_path / "pos" / "adapter_model.safetensors")
    assert step.keys() == final.keys() and all(torch.equal(step[name], final[name]) for name in step)


@pytest.mark.slow
def test_options_are_handed_to_peft_under_its_names(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    for method, options, stored in (
        ("delora", {"rank": 3, "dropout": 0.1}, {"r": 3, "module_dropout": 0.1}),
        ("vera", {"rank": 5, "dropout": 0.2}, {"r": 5, "vera_dropout": 0.2}),
        ("lokr", {"rank": 2, "alpha": 6.0, "modules_to_save": "lm_head"}, {"r": 2, "alpha": 6.0}),
    ):
        recipe = recipe_of(method, targets=("q_proj", "mlp.up_proj"), max_steps=1, **options)
        report = finetune(tiny, chats[0], tmp_path / method, recipe, device="cpu", dtype="bfloat16")
        config = json.loads((tmp_path / method / "adapter_config.json").read_text())
        assert (config["peft_type"], config["target_modules"]) == (method.upper(), sorted(config["target_modules"]))
        assert {key: config[key] for key in stored} == stored
        assert set(report.modules) == {"q_proj", "up_proj"} | ({"lm_head"} if method == "lokr" else set())
        wsteer.diff(tmp_path / method, output=tmp_path / f"{method}.safetensors", base=tiny)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (recipe_of("oft", block_size=32), "--block-size 32 does not divide the 48 inputs of .*: 2, 4, 8, 16 fit all"),
        (recipe_of("boft", block_size=5), "--block-size 5 does not divide the 32 inputs of"),
        (recipe_of("loha", targets=("embed_tokens",)), "--targets embed_tokens: only linear layers can be targets of"),
        (recipe_of("lokr", targets=("no_such",)), "--targets no_such: .* has no such module"),
        (recipe_of("vera", rank=10**9), r"--rank 1000000000: vera of that size needs about \d+ GB"),
        (recipe_of("loha", rank=10**9), "--rank 1000000000: loha of that size"),
    ],
)
def test_what_a_method_cannot_do_is_refused_and_writes_nothing(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], recipe: Recipe, message: str
) -> None:
    with pytest.raises(WsteerError, match=message.replace("; ", ";? ").replace(".*:", ".*[:;]")):
        finetune(tiny, chats[0], tmp_path / "out", recipe, device="cpu")
    assert list(tmp_path.glob("*out*")) == []


def test_what_diff_could_not_read_of_a_tied_base_is_refused(
    tmp_path: Path, tiny_bf16: Path, chats: tuple[Path, Path]
) -> None:
    for options in ({"modules_to_save": "embed_tokens"}, {"targets": "lm_head"}):
        with pytest.raises(WsteerError, match=r"--method oft and .*, which .* ties to another weight"):
            finetune(tiny_bf16, chats[0], tmp_path / "out", recipe_of("oft", **options), device="cpu")


def test_layers_and_models_that_a_method_does_not_know_are_refused(tmp_path: Path, chats: tuple[Path, Path]) -> None:
    gpt2, mamba = (save_tiny(tmp_path / kind, kind) for kind in ("gpt2", "mamba"))
    with pytest.raises(WsteerError, match="--method delora, --targets: peft refuses them: Target module Conv1D"):
        finetune(gpt2, chats[0], tmp_path / "out", recipe_of("delora"), device="cpu")
    with pytest.raises(WsteerError, match="--method ia3: peft knows no modules to scale in a mamba model"):
        finetune(mamba, chats[0], tmp_path / "out", recipe_of("ia3"), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ia3", "vera"])
def test_layers_that_store_their_weight_transposed_equal_peft(
    tmp_path: Path, chats: tuple[Path, Path], method: str
) -> None:
    base = save_model(tmp_path / "gpt2", "gpt2", n_embd=32, n_layer=2, n_head=4)
    finetune(base, chats[0], tmp_path / "out", recipe_of(method), device="cpu", dtype="float32")
    wsteer.diff(tmp_path / "out", output=tmp_path / "tau.safetensors")
    tau, expected = Delta.load(tmp_path / "tau.safetensors"), merged_by_peft(tmp_path / "out", base)
    assert tau.terms
    for name in tau.terms:
        (change,) = [each for known, each in expected.items() if known.endswith(name)]
        found = tau.change(name).rows(0, change.shape[0]).double()
        torch.testing.assert_close(found, change, rtol=0, atol=2e-6 * float(change.abs().max()))


SLICES = {  # method, kind of model: what the names in a file of the last of two blocks contain
    ("lora", "llama"): ".layers.1.",
    ("lora", "gpt2"): ".h.1.",
    ("lora", "mixtral"): ".layers.1.",
    ("lora", "qwen2_vl"): ".language_model.layers.1.",
    ("ia3", "qwen2"): ".layers.1.",
    ("vera", "gemma3_text"): ".layers.1.",
}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind"), SLICES)
def test_a_slice_trains_its_blocks_alone_and_peft_loads_it(
    tmp_path: Path, chats: tuple[Path, Path], method: str, kind: str
) -> None:
    base = save_tiny(tmp_path / "base", kind)
    recipe = recipe_of(method, layer_slice=(0.5, 1.0), max_steps=1)
    report = finetune(base, chats[0], tmp_path / "out", recipe, device="cpu", dtype="float32")
    assert report.blocks == (1,) and 0 < report.share <= 0.5
    names = [
        name for name in load_file(tmp_path / "out" / "adapter_model.safetensors") if "base_model.vera" not in name
    ]
    assert names and all(SLICES[method, kind] in name for name in names)
    wsteer.diff(tmp_path / "out", output=tmp_path / "tau.safetensors")
    changed = Delta.load(tmp_path / "tau.safetensors").terms
    assert changed and all(".1." in name for name in changed)
    if kind != "qwen2_vl":
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out")
        known = set(model.base_model.targeted_module_names)
        assert {name.rpartition(".")[0] for name in changed} <= {f"model.{each}" for each in known} | known | {
            name.removeprefix("transformer.") for name in known
        }


@pytest.mark.slow
def test_the_whole_depth_is_what_no_slice_trains(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    for name, part in (("whole", (0.0, 1.0)), ("plain", None)):
        finetune(tiny, chats[0], tmp_path / name, recipe_of("lora", layer_slice=part), device="cpu")
    whole, plain = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "plain"))
    assert whole.keys() == plain.keys() and all(torch.equal(whole[name], plain[name]) for name in whole)


@pytest.mark.slow
def test_full_and_bias_train_the_blocks_of_a_slice_alone(cli: Cli, tmp_path: Path, chats: tuple[Path, Path]) -> None:
    base = save_model(tmp_path / "base", tie_word_embeddings=True)
    before = load_file(base / "model.safetensors")
    common = ["--layer-slice", "0.3:0.9", "--lr", "1e-2", "--max-steps", 2, "--eval-every", 1, "-q"]
    full = cli("finetune", base, chats[0], "-o", tmp_path / "full", "--method", "full", *common)
    assert full.code == 0, full.err
    assert " in blocks 1-2, 67% of the weights of all blocks\n" in full.out
    after = load_file(tmp_path / "full" / "model.safetensors")
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {name for name in before if ".layers.1." in name or ".layers.2." in name}
    one = ["--layer-slice", "0.3:0.5", *common[2:]]
    single = cli("finetune", base, chats[0], "-o", tmp_path / "one", "--method", "bias", *one)
    assert " in block 1, 0% of" in single.out, single.err
    bias = cli("finetune", base, chats[0], "-o", tmp_path / "bias", "--method", "bias", *common)
    assert bias.code == 0, bias.err
    delta = load_file(tmp_path / "bias" / "delta.safetensors")
    assert sorted(delta) == [f"model.layers.{block}.mlp.down_proj.bias" for block in (1, 2)]
    assert "trained: down_proj.bias in blocks 1-2, 0% of the weights of all blocks\n" in bias.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_slice": (0.1, 0.3)}, "--layer-slice 0.1:0.3 begins none of the model's 3 blocks"),
        (
            {"layer_slice": (0.5, 1.0), "targets": ("q_proj", "lm_head")},
            "--targets lm_head has no module in",
        ),
        ({"layer_slice": (0.5, 1.0), "modules_to_save": "input_layernorm"}, "--modules-to-save input_layernorm is in"),
        # peft takes each module whose name ends so, the blocks' norms too
        ({"layer_slice": (0.5, 1.0), "modules_to_save": "norm"}, "--modules-to-save norm is in blocks"),
    ],
)
def test_a_slice_that_leaves_nothing_or_is_gone_round_is_refused(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], options: dict, message: str
) -> None:
    with pytest.raises(WsteerError, match=message):
        finetune(tiny, chats[0], tmp_path / "out", recipe_of("lora", **options), device="cpu")
    assert list(tmp_path.glob("*out*")) == []


def test_a_slice_is_written_a_b(cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    for text in ("0.5", "0.1:0.2:0.3", "a:b"):
        ran = cli("finetune", tiny, chats[0], "-o", tmp_path / "out", "--layer-slice", text)
        assert ran.code == 2 and "--layer-slice" in ran.err
    assert cli("finetune", tiny, chats[0], "-o", tmp_path / "out", "--layer-slice", "0.8:0.3").code == 2
