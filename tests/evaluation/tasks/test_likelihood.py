"""Log-probabilities against a computation row by row in float64."""

from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.tiny import save_model
from wsteer.errors import WsteerError
from wsteer.evaluation.tasks.likelihood import Scored, continuation, log_probabilities
from wsteer.models.loading import LoadedModel, load
from wsteer.models.rendering import token_ids


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A tiny model in float64."""
    found = load(save_model(tmp_path_factory.mktemp("model") / request.param, request.param), "cpu")
    found.model.double()
    return found


def alone(loaded: LoadedModel, row: Scored) -> list[float]:
    """The row's log-probabilities, without padding and from the logits of all tokens."""
    with torch.no_grad():
        logs = loaded.model(input_ids=torch.tensor([row.tokens])).logits[0].log_softmax(dim=-1)
    return [float(logs[place - 1, row.tokens[place]]) for place in range(row.start, len(row.tokens))]


def rows(loaded: LoadedModel) -> list[Scored]:
    prompt = "<bos><user>Hi<end><assistant>"
    found = [continuation(loaded, prompt, "", text) for text in ("A", "B", "Abba", "No, no.")]
    found += [continuation(loaded, "<bos><user>A much longer prompt<end><assistant>", "So", f" {x}") for x in "xyz"]
    return [*found, Scored((3, 4, 5, 6, 7, 8), 1, 0)]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_padding_and_shared_passes_do_not_matter(loaded: LoadedModel, batch_size: int) -> None:
    given = rows(loaded)
    found = log_probabilities(loaded, given, batch_size)
    for row, values in zip(given, found, strict=True):
        assert values == pytest.approx(alone(loaded, row), abs=1e-12)


def test_options_of_one_token_share_one_forward_pass(loaded: LoadedModel) -> None:
    ran = []
    hook = loaded.model.register_forward_pre_hook(lambda *_, **given: ran.append(1), with_kwargs=False)
    try:
        given = [continuation(loaded, "<bos><user>Hi<end><assistant>", "", text) for text in "ABCD"]
        log_probabilities(loaded, given, 32)
    finally:
        hook.remove()
    assert len(ran) == 1


def test_a_text_continues_its_prompt_and_what_was_said(loaded: LoadedModel) -> None:
    prompt = "<bos><user>Hi<end><assistant>"
    row = continuation(loaded, prompt, "It is", " so")
    ids = token_ids(loaded.tokenizer, f"{prompt}It is so")
    assert (list(row.tokens), row.start, row.prompt) == (ids, len(ids) - 3, len(ids) - 8)


def test_activation_vectors_are_added_where_generation_adds_them(loaded: LoadedModel) -> None:
    """At positions `response` the logits after the prompt are those that the first generated token is chosen by."""
    prompt = token_ids(loaded.tokenizer, "<bos><user>Hi there<end><assistant>")
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    delta = wsteer.Delta.of_tensors({"blocks.1": vector}, kind="activation")
    first, second = 65, 66
    given = [Scored((*prompt, first, second), len(prompt), len(prompt)), Scored((*prompt, 7), len(prompt), len(prompt))]
    with wsteer.applied(loaded.model, delta, k=2.0, positions="response"):
        found = log_probabilities(loaded, given, 8)

    def hook(module, inputs, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        hidden[:, len(prompt) - 1 :] += 2.0 * vector.double()
        return output

    handle = wsteer.models.loading.decoder_blocks(loaded.model)[1].register_forward_hook(hook)
    try:
        wanted = [alone(loaded, row) for row in given]
    finally:
        handle.remove()
    assert found[0] == pytest.approx(wanted[0], abs=1e-12) and found[1] == pytest.approx(wanted[1], abs=1e-12)
    assert found[0] != pytest.approx(log_probabilities(loaded, given, 8)[0], abs=1e-3)


def test_a_broken_model_and_a_row_too_long_are_one_line(tmp_path: Path) -> None:
    loaded = load(save_model(tmp_path / "m", max_position_embeddings=8), "cpu")
    with pytest.raises(WsteerError, match="a row of 9 tokens is longer than the 8 positions"):
        log_probabilities(loaded, [Scored(tuple(range(9)), 1, 0)], 1)
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(WsteerError, match="NaN or infinity for the probability of a text"):
        log_probabilities(loaded, [Scored((1, 2, 3), 1, 0)], 1)
