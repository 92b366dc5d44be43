"""Mean residual activations over answers, and the activation vectors that are their differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wsteer.activations.recording import recorded
from wsteer.deltas.delta import Delta
from wsteer.deltas.terms import Dense
from wsteer.files.provenance import source_entry
from wsteer.files.rows import Message, read_chats
from wsteer.files.saving import check_output
from wsteer.models.batches import batches, padded
from wsteer.models.loading import LoadedModel, check_lengths, dtype_name, load
from wsteer.models.rendering import Example, render
from wsteer.progress import Track, labelled, silent


@dataclass(frozen=True)
class ActvecReport:
    """What `actvec` wrote. `norms` holds each block's vector norm beside `residual_norms`, that of its mean state."""

    output: str
    kind: str
    layers: int
    hidden: int
    rows_pos: int
    rows_neg: int
    norms: tuple[float, ...]
    residual_norms: tuple[float, ...]


def actvec(
    model: str | Path,
    pos: str | Path,
    neg: str | Path,
    output: str | Path,
    *,
    batch_size: int = 16,
    device: str = "auto",
    dtype: str = "auto",
    force: bool = False,
    track: Track = silent,
) -> ActvecReport:
    """Write the activation vectors of two chat data sets: for each decoder block the mean over the answers' tokens,
    then over the rows, of the block's output, positive minus negative."""
    output = Path(output)
    check_output(output, force, folder=False, inputs=[model, pos, neg])
    chats = {role: read_chats(path) for role, path in (("pos", pos), ("neg", neg))}
    loaded = load(model, device, dtype)
    means = {role: mean_activations(loaded, rows, batch_size, labelled(track, role)) for role, rows in chats.items()}
    difference = means["pos"] - means["neg"]
    delta = Delta(
        "activation",
        {f"blocks.{block}": ((1.0, Dense(row.float())),) for block, row in enumerate(difference)},
        base=loaded.checkpoint.identity,
        sources=(source_entry("pos", pos), source_entry("neg", neg)),
        layers=list(range(len(difference))),
        positions="answer",
        options={"dtype": dtype_name(loaded), "batch_size": batch_size},
    )
    delta.save(output, force)
    return ActvecReport(
        output=str(output),
        kind=delta.kind,
        layers=difference.shape[0],
        hidden=difference.shape[1],
        rows_pos=len(chats["pos"]),
        rows_neg=len(chats["neg"]),
        norms=tuple(difference.norm(dim=1).tolist()),
        residual_norms=tuple(((means["pos"] + means["neg"]) / 2).norm(dim=1).tolist()),
    )


def mean_activations(
    loaded: LoadedModel, chats: Sequence[Sequence[Message]], batch_size: int = 16, track: Track = silent
) -> Tensor:
    """The output of every decoder block, averaged over each answer's tokens, then over the rows: float64 [L, hidden].

    Only the answer's own tokens count, as inputs: neither prompt, nor the template's closing, nor padding
    (persona vectors' `response_avg`, notes/activations.md A2).
    """
    examples = [render(loaded.tokenizer, chat) for chat in chats]
    total = torch.zeros((), dtype=torch.float64)
    lengths = [example.answer.stop for example in examples]
    check_lengths(loaded, lengths)
    for indices in track(list(batches(lengths, batch_size)), "record"):
        total = total + _row_means(loaded, [examples[index] for index in indices]).sum(dim=1)
    return total / len(examples)


def _row_means(loaded: LoadedModel, examples: Sequence[Example]) -> Tensor:
    """Per-row means over the answer's tokens: float64 [L, rows, hidden]."""
    rows = [example.tokens[: example.answer.stop] for example in examples]
    ids, mask = padded(rows, loaded.tokenizer.pad_token_id)
    weights = torch.zeros(ids.shape, dtype=torch.float64)
    for weight, example in zip(weights, examples, strict=True):
        weight[example.answer] = 1 / (example.answer.stop - example.answer.start)
    device = loaded.model.device
    with recorded(loaded.model, weights) as means, torch.inference_mode():
        # the stack without its head: nobody needs the logits
        loaded.model.base_model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
    return torch.stack(means)
