"""Activation vectors: mean residual activations over answers, positive minus negative."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wsteer.activations.exports import Export, Outline, export
from wsteer.activations.recording import Span, span_means
from wsteer.deltas.delta import Delta
from wsteer.deltas.terms import Dense
from wsteer.errors import WsteerError
from wsteer.files.opening import check_streams
from wsteer.files.provenance import source_entry
from wsteer.files.rows import Message, read_chats
from wsteer.files.saving import check_output
from wsteer.files.shapes import Shape
from wsteer.models.arguments import check_run
from wsteer.models.chat import ChatFormat
from wsteer.models.loading import LoadedModel, check_rows, dtype_name
from wsteer.models.rendering import examples
from wsteer.progress import Note, Progress, labelled, silent, unsaid
from wsteer.steering.loading import load

BATCH_SIZE = 16  # rows that run at once by default


@dataclass(frozen=True)
class ActvecReport:
    """What `actvec` wrote. By block: `norms` of the vector, `residual_norms` of the mean output over both sides.

    `exported` is the file for another tool, if one was asked for.
    """

    output: str
    kind: str
    layers: int
    hidden: int
    rows_pos: int
    rows_neg: int
    norms: tuple[float, ...]
    residual_norms: tuple[float, ...]
    exported: str | None = None


def actvec(
    model: str | Path,
    pos: str | Path,
    neg: str | Path,
    output: str | Path,
    *,
    columns: Shape | None = None,
    template: str | Path | None = None,
    template_args: Mapping[str, object] | None = None,
    date: str | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    dtype: str = "auto",
    export_to: Export | None = None,
    force: bool = False,
    progress: Progress = silent,
    note: Note = unsaid,
) -> ActvecReport:
    """Write two data sets' activation vectors: each decoder block's output, averaged over each answer's tokens, then
    over the rows, positive minus negative. `columns` name where rows have a chat. `template` (a jinja file),
    `template_args` and `date` say how chats become text. `export_to` is a file for another tool, written beside.
    """
    chat_format = ChatFormat(template, template_args, date)
    check_run(batch_size, device, dtype)
    output = Path(output)
    inputs = [model, pos, neg, *chat_format.files]
    check_output(output, force, folder=False, inputs=inputs)
    if export_to is not None:
        export_to.check(force, inputs, output)
    check_streams([str(pos), str(neg)])
    chats = {role: read_chats(path, columns) for role, path in (("pos", pos), ("neg", neg))}
    loaded = load(model, device, dtype, chat_format=chat_format)
    outline = None
    if export_to is not None:
        outline = Outline.of(loaded.model)
        export_to.chosen(range(len(outline.hookpoints)))  # refuses, before the model runs
    means = {role: mean_activations(loaded, rows, batch_size, labelled(progress, role)) for role, rows in chats.items()}
    difference = means["pos"] - means["neg"]
    if not difference.any():
        raise WsteerError(
            f"the answers of {pos} and {neg} are read alike in every block; there is no direction to write"
        )
    delta = Delta(
        "activation",
        {f"blocks.{block}": ((1.0, Dense(row.float())),) for block, row in enumerate(difference)},
        base=loaded.checkpoint.identity,
        sources=(
            source_entry("pos", pos),
            source_entry("neg", neg),
            *loaded.entries("model")[1:],
            *chat_format.inputs,
        ),
        layers=list(range(len(difference))),
        positions="answer",
        options={"dtype": dtype_name(loaded), "batch_size": batch_size, "columns": columns, **loaded.chat.recorded},
    )
    delta.save(output, force)
    exported = export(delta, export_to, outline, force, note) if export_to is not None else None
    return ActvecReport(
        output=str(output),
        kind=delta.kind,
        layers=difference.shape[0],
        hidden=difference.shape[1],
        rows_pos=len(chats["pos"]),
        rows_neg=len(chats["neg"]),
        norms=tuple(difference.norm(dim=1).tolist()),
        residual_norms=tuple(((means["pos"] + means["neg"]) / 2).norm(dim=1).tolist()),
        exported=exported,
    )


def mean_activations(
    loaded: LoadedModel, chats: Sequence[Sequence[Message]], batch_size: int = BATCH_SIZE, progress: Progress = silent
) -> Tensor:
    """The output of every decoder block, averaged over each answer's tokens, then over the rows: float64 [L, hidden].

    Outputs are taken where the model reads the answer's own tokens, not at the prompt, the end of turn or padding
    (persona vectors' `response_avg`, notes/activations.md A2).
    """
    spans = [Span.of_answer(example) for example in examples(loaded.chat, chats)]
    check_rows(loaded, (span.tokens for span in spans))
    total = torch.zeros((), dtype=torch.float64)
    for _, means in span_means(loaded, spans, batch_size, progress):
        total = total + means.sum(dim=1)
    return total / len(spans)
