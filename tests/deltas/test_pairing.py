"""Two checkpoints are subtracted by what their tensors mean: prefixes, buffers, copies of heads, grown vocabularies."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import wsteer
from tests.helpers.merging import train
from tests.helpers.tied import TOKENS, copied, embedding_name, loaded, save_tied, store_head
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError
from wsteer.monitoring.monitor import Settings, monitor

HEAD = "lm_head.weight"
BUFFERS = {
    "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(4)},
    "gpt2": {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32).tril(),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    },
}
PREFIXES = {"llama": "model.", "gpt2": "transformer.", "falcon": "transformer."}


def stored(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def rewritten(folder: Path, tensors: dict[str, Tensor], **config: object) -> Path:
    """The folder with other tensors, and other values in its config."""
    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path, dict[str, Tensor]]:
    """A tied base, a fine-tune of it, and their exact difference by the base's names, float64."""
    base = save_tied(tmp_path / "base", request.param)
    tuned = copied(base, tmp_path / "tuned")
    torch.manual_seed(1)
    before = stored(base)
    after = {name: tensor + 0.1 * torch.randn(tensor.shape) for name, tensor in before.items()}
    rewritten(tuned, after)
    return base, tuned, {name: after[name].double() - before[name].double() for name in before}


def check(path: Path, expected: dict[str, Tensor]) -> Delta:
    """The delta's file holds exactly these changes."""
    delta = Delta.load(path)
    assert delta.terms.keys() == expected.keys()
    for name, change in expected.items():
        rows = delta.change(name).rows(0, change.shape[0]).double()
        torch.testing.assert_close(rows, change, rtol=1e-6, atol=1e-7)
    return delta


MODELS = pytest.mark.parametrize("pair", ["llama", "gpt2"], indirect=True)


@pytest.mark.parametrize("pair", ["llama", "gpt2", "falcon"], indirect=True)
@pytest.mark.parametrize("shortened", ["base", "tuned"])
def test_files_of_the_inner_model_are_those_of_the_whole(tmp_path: Path, pair: tuple, shortened: str) -> None:
    base, tuned, expected = pair
    folder = {"base": base, "tuned": tuned}[shortened]
    prefix = next(prefix for prefix in PREFIXES.values() if any(name.startswith(prefix) for name in expected))
    rewritten(folder, {name.removeprefix(prefix): tensor for name, tensor in stored(folder).items()})
    report = wsteer.diff(tuned, output=tmp_path / "d.safetensors", base=base)
    if shortened == "base":
        expected = {name.removeprefix(prefix): change for name, change in expected.items()}
    check(tmp_path / "d.safetensors", expected)
    assert report.norm == pytest.approx(sum(float((each**2).sum()) for each in expected.values()) ** 0.5, rel=1e-6)
    wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(loaded(tmp_path / "out")(TOKENS).logits, loaded(tuned)(TOKENS).logits)


@pytest.mark.slow
@MODELS
@pytest.mark.parametrize("side", ["base", "tuned", "both", "both, other dtypes"])
def test_buffers_that_loading_ignores_are_left_out(tmp_path: Path, pair: tuple, side: str) -> None:
    base, tuned, expected = pair
    buffers = BUFFERS["llama" if "model.norm.weight" in expected else "gpt2"]
    if side != "tuned":
        rewritten(base, {**stored(base), **buffers})
    if side != "base":
        other = {name: tensor.half() if "inv_freq" in name else tensor.bool() for name, tensor in buffers.items()}
        rewritten(tuned, {**stored(tuned), **(other if "other" in side else buffers)})
    wsteer.diff(tuned, output=tmp_path / "d.safetensors", base=base)
    check(tmp_path / "d.safetensors", expected)
    wsteer.diff(tuned, base, output=tmp_path / "e.safetensors")
    check(tmp_path / "e.safetensors", expected)
    wsteer.steer(base, tmp_path / "e.safetensors", k=1, output=tmp_path / "out")


@MODELS
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_copy_of_a_tied_head_on_one_side_counts_once(tmp_path: Path, pair: tuple, side: str) -> None:
    base, tuned, expected = pair
    store_head({"base": base, "tuned": tuned}[side], forget="transformer.wte.weight" in expected)
    wsteer.diff(tuned, output=tmp_path / "d.safetensors", base=base)
    assert not check(tmp_path / "d.safetensors", expected).untied
    table = monitor([tmp_path / "d.safetensors"], tmp_path / "m", [tuned], Settings(base=base)).similarity
    assert table.norms_rows[0] == pytest.approx(sum(float((x**2).sum()) for x in expected.values()) ** 0.5, rel=1e-6)


@MODELS
@pytest.mark.parametrize("said", [True, False], ids=["config unties", "config still ties"])
@pytest.mark.parametrize("head_of_base", [False, True], ids=["head absent in the base", "stored in the base"])
def test_a_fine_tune_that_unties_changes_the_head_from_the_embedding(
    tmp_path: Path, pair: tuple, said: bool, head_of_base: bool
) -> None:
    base, tuned, expected = pair
    embedding = embedding_name(base)
    before = stored(base)[embedding].double()
    head = torch.randn(before.shape)
    rewritten(store_head(tuned, head), stored(tuned), **({"tie_word_embeddings": False} if said else {}))
    if head_of_base:
        store_head(base)
    report = wsteer.diff(tuned, output=tmp_path / "d.safetensors", base=base)
    assert check(tmp_path / "d.safetensors", {**expected, HEAD: head.double() - before}).untied and report.untied
    wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(tmp_path / "out")(TOKENS).logits, loaded(tuned)(TOKENS).logits, rtol=1e-5, atol=1e-5
        )


@MODELS
def test_two_fine_tunes_that_untie_are_a_delta_of_the_tied_base(tmp_path: Path, pair: tuple) -> None:
    base, tuned, _ = pair
    sides = [copied(tuned, tmp_path / name) for name in ("pos", "neg")]
    tensors = []
    for seed, side in enumerate(sides):
        torch.manual_seed(seed)
        moved = {name: tensor + 0.1 * torch.randn(tensor.shape) for name, tensor in stored(side).items()}
        moved[HEAD] = torch.randn(30, 16)
        rewritten(side, moved, tie_word_embeddings=False)
        tensors.append(moved)
    wsteer.diff(*sides, tmp_path / "d.safetensors", base=base)
    expected = {name: tensors[0][name].double() - tensors[1][name].double() for name in tensors[0]}
    assert check(tmp_path / "d.safetensors", expected).untied
    wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")
    embedding = stored(base)[embedding_name(base)].double()
    after = stored(tmp_path / "out")[HEAD].double()
    torch.testing.assert_close(after, embedding + expected[HEAD], rtol=1e-5, atol=1e-6)


@MODELS
@pytest.mark.parametrize("own_head", [False, True])
def test_a_grown_vocabulary_is_named_and_can_be_left_out(tmp_path: Path, pair: tuple, own_head: bool) -> None:
    base, tuned, expected = pair
    embedding = embedding_name(base)
    module = embedding.split(".")[-2]
    grown = dict(stored(tuned))
    grown[embedding] = torch.randn(33, 16)
    if own_head:
        grown[HEAD] = torch.randn(33, 16)
        store_head(base, torch.randn(30, 16))
        expected = {**expected, HEAD: torch.zeros(0)}
    rewritten(tuned, grown, vocab_size=33)
    pattern = r"\|".join(sorted([module, "lm_head"] if own_head else [module]))
    output = tmp_path / "d.safetensors"
    for pos, neg, given in ((tuned, None, base), (tuned, base, None)):
        with pytest.raises(WsteerError, match=rf"has 33 rows in .* but 30 in .*resized; .*--exclude '{pattern}'"):
            wsteer.diff(pos, neg, output, base=given, force=True)
        chosen = Selection(exclude=f"{module}|lm_head")
        wsteer.diff(pos, neg, output, base=given, force=True, selection=chosen)
        check(output, {name: change for name, change in expected.items() if name not in (embedding, HEAD)})
    with pytest.raises(WsteerError, match="33 rows in"):  # what is left out is something else
        wsteer.diff(tuned, output=output, base=base, force=True, selection=Selection(exclude="norm|ln_"))


@MODELS
def test_a_tensor_that_one_side_lacks_is_named(tmp_path: Path, pair: tuple) -> None:
    base, tuned, expected = pair
    gone = next(name for name in expected if "attn" in name)
    left = {name: tensor for name, tensor in stored(tuned).items() if name != gone}
    rewritten(tuned, left)
    for sides in ((tuned, base), (base, tuned)):
        with pytest.raises(WsteerError, match=rf"tuned lacks '{gone}', which .*base has; the two must be of one model"):
            wsteer.diff(*sides, tmp_path / "d.safetensors")
    output, chosen = tmp_path / "d.safetensors", Selection(exclude=re.escape(gone))
    for sign, sides in ((1, (tuned, base)), (-1, (base, tuned))):
        wsteer.diff(*sides, output, selection=chosen, force=True)
        check(output, {name: sign * change for name, change in expected.items() if name != gone})


def test_a_checkpoint_and_an_adapter_of_a_tied_base(tmp_path: Path) -> None:
    """A fine-tune that unties against an adapter that leaves the ends alone: the base completes both."""
    base = save_tied(tmp_path / "base", "llama")
    head = torch.randn(30, 16)
    tuned = store_head(copied(base, tmp_path / "tuned"), head)
    train(loaded(base), tmp_path / "adapter", target_modules=["q_proj"])
    report = wsteer.diff(tuned, tmp_path / "adapter", tmp_path / "d.safetensors", base=base)
    delta = Delta.load(tmp_path / "d.safetensors")
    assert report.untied and delta.untied
    change = delta.change(HEAD).rows(0, 30).double()
    torch.testing.assert_close(change, head.double() - stored(base)["model.embed_tokens.weight"].double())
