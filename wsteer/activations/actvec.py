"""Activation vectors: what answers, or prompts, of two data sets differ in inside a model, block by block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsteer.activations.directions import METHODS, Directions, mean_directions, pca_directions
from wsteer.activations.exports import Export, Outline, export
from wsteer.activations.picture import block_picture
from wsteer.activations.recording import Span, span_means
from wsteer.activations.sides import Side, read_sides
from wsteer.checkpoints.names import depth
from wsteer.deltas.delta import Delta
from wsteer.deltas.model_input import open_model
from wsteer.deltas.terms import Dense
from wsteer.errors import WsteerError
from wsteer.files.opening import check_streams
from wsteer.files.pictures import FORMS, save_alone
from wsteer.files.provenance import source_entry
from wsteer.files.saving import check_output, new_file
from wsteer.files.shapes import Shape
from wsteer.models.arguments import check_run
from wsteer.models.chat import ChatFormat
from wsteer.models.loading import LoadedModel, check_rows, dtype_name
from wsteer.models.rendering import placed_examples
from wsteer.progress import Note, Progress, labelled, silent, unsaid
from wsteer.steering.loading import load
from wsteer.steering.positions import POSITIONS

BATCH_SIZE = 16  # rows that run at once by default


@dataclass(frozen=True)
class ActvecReport:
    """What `actvec` wrote, and of which rows.

    `rows_pos` and `rows_neg` were read. `empty_*` were left out, since an answer (of `pca`, of the pair) is empty.
    `system_*` have a system turn, `thoughts_*` an answer with a thought, which is averaged with it.

    By block: `norms` of the vector; `residual_norms` of the mean output over both sides; `half_cosines` between the
    vectors of the rows of even and of odd index (null where a side has one row, or a vector is zero), near 1 where more
    rows would change little; `explained`, of `pca`, the share of the differences' squared norms along the direction.
    `exported` is the file for another tool, if one was asked for.
    """

    output: str
    kind: str
    layers: int
    hidden: int
    method: str
    positions: str
    rows_pos: int
    rows_neg: int
    empty_pos: int
    empty_neg: int
    system_pos: int
    system_neg: int
    thoughts_pos: int
    thoughts_neg: int
    norms: tuple[float, ...]
    residual_norms: tuple[float, ...]
    half_cosines: tuple[float | None, ...] | None
    explained: tuple[float, ...] | None
    picture: str | None
    warnings: tuple[str, ...]
    exported: str | None = None


def actvec(
    model: str | Path,
    pos: str | Path,
    neg: str | Path,
    output: str | Path,
    *,
    method: str = "mean",
    positions: str = "response",
    strip_system: bool = False,
    picture: str | Path | None = None,
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
    """Write two data sets' activation vectors: each decoder block's output, averaged over each row's tokens of
    `positions`, then by `method` over the rows, positive minus negative.

    `mean` is the difference of the two sides' means; `pca` the first principal direction of the differences of paired
    rows, not centred, which needs the same prompts on both sides. `positions` are `response` (the answer's own tokens),
    `prompt`, `prompt-last` or `all`. `strip_system` reads the rows without their system turns. `picture`, a .png or
    .svg file, shows the report over the blocks. `columns` name where rows have a chat. `template` (a jinja file),
    `template_args` and `date` say how chats become text. `export_to` is a file for another tool, written beside.
    """
    chat_format = ChatFormat(template, template_args, date)
    _check_options(method, positions)
    check_run(batch_size, device, dtype)
    output, picture = Path(output), None if picture is None else Path(picture)
    inputs = [model, pos, neg, *chat_format.files]
    check_output(output, force, folder=False, inputs=inputs)
    if picture is not None:
        check_picture(picture, output, force, inputs)
    if export_to is not None:
        export_to.check(force, inputs, output)
    check_streams([str(pos), str(neg)])
    sides = read_sides(pos, neg, columns, strip_system, paired=method == "pca")
    given = open_model(model)
    if export_to is not None:
        export_to.chosen(range(depth(given.checkpoint)))  # refuses, before the model is loaded
    loaded = load(given, device, dtype, chat_format=chat_format)
    spans = {role: _spans(loaded, side, positions) for role, side in sides.items()}
    if _told(spans["pos"]) == _told(spans["neg"]):
        raise WsteerError(_alike(positions, str(pos), str(neg)))
    means = {role: span_means(loaded, each, batch_size, labelled(progress, role)) for role, each in spans.items()}
    rows = {role: len(side.chats) for role, side in sides.items()}
    if method == "pca":
        found = pca_directions(means["pos"], means["neg"], rows["pos"])
    else:
        found = mean_directions(means["pos"], means["neg"], rows["pos"], rows["neg"])
    if not found.vectors.any():
        raise WsteerError(_alike(positions, str(pos), str(neg)))
    delta = Delta(
        "activation",
        {f"blocks.{block}": ((1.0, Dense(row.float())),) for block, row in enumerate(found.vectors)},
        base=loaded.checkpoint.identity,
        sources=(
            source_entry("pos", pos),
            source_entry("neg", neg),
            *loaded.entries("model")[1:],
            *chat_format.inputs,
        ),
        layers=list(range(len(found.vectors))),
        positions=positions,
        options={
            "method": method,
            "strip_system": strip_system,
            "dtype": dtype_name(loaded),
            "batch_size": batch_size,
            "columns": columns,
            **loaded.chat.recorded,
        },
    )
    report = _report(found, sides, loaded, delta, str(output), method, None if picture is None else str(picture))
    delta.save(output, force)
    if picture is not None:
        title = f"{output.name}: {method} over {positions}, {rows['pos']} and {rows['neg']} rows"
        figure = block_picture(title, report.norms, report.residual_norms, report.half_cosines, report.explained)
        with new_file(picture, force) as partial:
            save_alone(figure, partial, picture.suffix.lower())
    if export_to is None:
        return report
    return replace(report, exported=export(delta, export_to, Outline.of(loaded.model), force, note))


def check_picture(picture: Path, output: Path, force: bool, inputs: list[str | Path]) -> None:
    """Refuse a picture of another format, in the place of another file, or in that of the output."""
    if picture.suffix.lower() not in FORMS:
        raise WsteerError(f"--picture {picture}: name a file that ends in {' or '.join(FORMS)}")
    if picture.resolve() == output.resolve():
        raise WsteerError(f"--picture {picture} is the output too; name another file")
    check_output(picture, force, folder=False, inputs=inputs)


def _check_options(method: str, positions: str) -> None:
    for name, value, known in (("method", method, METHODS), ("positions", positions, POSITIONS)):
        if value not in known:
            raise WsteerError(f"{name} is {value!r}; it must be one of {', '.join(known)}")


def _spans(loaded: LoadedModel, side: Side, positions: str) -> list[Span]:
    """Each row's tokens of these positions, after those that are read before them."""
    examples = (example for _, example in placed_examples(loaded.chat, zip(side.places, side.chats, strict=True)))
    spans = [Span.of(example, positions) for example in examples]
    check_rows(loaded, (span.tokens for span in spans))
    return spans


def _told(spans: Sequence[Span]) -> list[tuple[list[int], int]]:
    """What the mean over these spans depends on: their tokens and where each begins, in any order."""
    return sorted((span.tokens.tolist(), span.start) for span in spans)


def _alike(positions: str, pos: str, neg: str) -> str:
    if positions.startswith("prompt"):
        return (
            f"the prompts of {pos} and {neg} are read alike in every block; there is no direction to write: with "
            f"--positions {positions} the prompts must differ, as by system turns that ask for the behaviour"
        )
    return f"the answers of {pos} and {neg} are read alike in every block; there is no direction to write"


def _report(
    found: Directions,
    sides: Mapping[str, Side],
    loaded: LoadedModel,
    delta: Delta,
    output: str,
    method: str,
    picture: str | None,
) -> ActvecReport:
    pos, neg = sides["pos"], sides["neg"]
    warnings = [
        f"{side.path}: {side.empty} of {side.empty + len(side.chats)} rows are left out, since an answer is empty"
        for side in (pos, neg)
        if side.empty
    ]
    return ActvecReport(
        output=output,
        kind=delta.kind,
        layers=found.vectors.shape[0],
        hidden=found.vectors.shape[1],
        method=method,
        positions=str(delta.positions),
        rows_pos=len(pos.chats),
        rows_neg=len(neg.chats),
        empty_pos=pos.empty,
        empty_neg=neg.empty,
        system_pos=pos.system,
        system_neg=neg.system,
        thoughts_pos=pos.thoughts(loaded.chat),
        thoughts_neg=neg.thoughts(loaded.chat),
        norms=tuple(found.vectors.norm(dim=1).tolist()),
        residual_norms=tuple(found.residual.norm(dim=1).tolist()),
        half_cosines=found.half_cosines,
        explained=None if found.explained is None else tuple(found.explained.tolist()),
        picture=picture,
        warnings=tuple(warnings),
    )
