"""wsteer monitor: the direction of a change of weights, compared with a noise floor."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wsteer.cli.monitor_tables import result_lines, watch_lines
from wsteer.cli.options import (
    Batch,
    Columns,
    Config,
    DateOption,
    DeviceOption,
    DtypeOption,
    Exclude,
    FollowLinks,
    Force,
    Include,
    Json,
    Layers,
    Quiet,
    Template,
    TemplateArgs,
    argument,
    check_early,
    option,
)
from wsteer.cli.output import Printer
from wsteer.cli.values import (
    LARGEST_SEED,
    MOST,
    parse_batch_size,
    parse_bounds,
    parse_layers,
    parse_named,
    refuse_unused,
)

if TYPE_CHECKING:
    from wsteer.monitoring.settings import Settings

DAY = 86_400  # seconds
Part = Literal["layer", "module", "parameter"]

Deltas = Annotated[list[str], argument("DELTA", help="Deltas, or other changes of weights, to compare with.")]
Output = Annotated[Path, option("--output", "-o", help="Folder to write.", metavar="DIR")]
Of = Annotated[
    list[str] | None,
    option(
        "--of",
        help="Deltas, adapters, checkpoints, training folders to compare. Without: all pairs of DELTA.",
        metavar="ITEM...",
    ),
]
Base = Annotated[str | None, option("--base", help="Model that checkpoints were tuned from.", metavar="BASE")]
ControlsOption = Annotated[
    list[str] | None,
    option("--controls", help="Deltas of no interest: cosines with them tell what is usual.", metavar="FILE..."),
]
CeilingOption = Annotated[
    list[str] | None,
    option("--ceiling", help="A DELTA made again, of another seed or half the data; repeat.", metavar="NAME=FILE"),
]
Centre = Annotated[
    list[str] | None, option("--centre", help="Remove the mean of these deltas before comparing.", metavar="FILE...")
]
Per = Annotated[Part | None, option("--per", help="Also one table for each such part of the model.")]
Group = Annotated[
    list[str] | None,
    option("--group", help="Draw the items whose name matches together; repeat.", metavar="NAME=GLOB"),
]
ScoresOption = Annotated[
    Path | None, option("--scores", help="CSV of step and score, drawn with trajectories.", metavar="FILE")
]
Correlate = Annotated[
    Path | None,
    option("--correlate", help="CSV of numbers by pairs of items: Spearman's rho with the cosines.", metavar="FILE"),
]
SeedOption = Annotated[
    int | None, option("--seed", help="Seed of --correlate's permutations. [0]", min=0, max=LARGEST_SEED)
]
FailAbove = Annotated[
    list[str] | None,
    option(
        "--fail-above",
        help="Exit with 3 if a cosine with DELTA, or projection on it, is larger; repeat.",
        metavar="DELTA[:PART]=X",
    ),
]
FailBelow = Annotated[
    list[str] | None,
    option(
        "--fail-below",
        help="Exit with 3 if a cosine with DELTA, or projection on it, is smaller; repeat.",
        metavar="DELTA[:PART]=X",
    ),
]
Watch = Annotated[bool, option("--watch", help="Follow one training folder, --of or --shift, as checkpoints appear.")]
UntilStep = Annotated[
    int | None, option("--until-step", help="End --watch at this step.", min=1, max=MOST, metavar="N")
]
Interval = Annotated[
    float | None,
    option("--interval", help="Seconds between looks of --watch. [10]", min=0.1, max=DAY, metavar="SECONDS"),
]
Shift = Annotated[
    list[str] | None,
    option("--shift", help="Models, training folders tuned from BASE: project what tuning shifts.", metavar="MODEL..."),
]
Where = Annotated[
    Literal["prompt-last", "response"] | None,
    option("--positions", help="Tokens at which --shift is measured. [prompt-last]"),
]


EPILOG = """
Items: delta files, PEFT adapters, Hub ids, checkpoints (with --base) and
  training folders, whose checkpoint-<step> folders form a trajectory. Kinds
  may be mixed. --device cuda takes the products on a GPU (auto: if there is
  one), in float64 as well.
Cosines: the cosine is that of the whole vectors, as in the paper: what only
  one side changes is 0 on the other, and makes it smaller. Where the
  parameters that both change hold less than 99% of a norm, the cosine over
  those alone stands beside it (cosine_shared, similarity-shared.png). z and
  stars are the same for both. A pair without such a parameter is an empty
  cell.
Floor: each cosine has a noise floor, one standard deviation of the cosine
  of noise: random B on the actual A's, a random direction for dense
  changes, each parameter with its own norm. A star marks cosines above the
  floor by Holm's test at 5% over the whole table. Runs on the same topic,
  format or length pass that test too. A cosine near the floor does not
  prove a run harmless.
Controls: --controls are deltas of no interest; a cosine means something
  only if it is larger than theirs. --ceiling w=FILE is the same training
  with another seed or half of the data: do not expect larger cosines than
  that. --centre first removes the mean of its deltas, from whole vectors
  only. Compare runs of one seed with runs of one seed: the same start
  alone makes cosines several times larger.
Parts: --per layer, module or parameter adds a table and a picture by part:
  the cosine over each part, and its share of a pair's dot product. Shares
  sum to 1; one may be negative, so that others are above 1.
Correlation: --correlate FILE.csv is a matrix of your own, as ratings of how
  alike items are: header and first column are the items' names, in any
  order, also with others. It gives Spearman's rho with the cosines of
  different items, and p by permutations of the items (two-sided; all
  orders up to 5040, else 9999 by --seed). A table of all pairs needs a
  symmetric matrix, or one half of it.
Pictures: similarity.png and .svg are heat maps; --group puts items together
  in them. trajectory.png has cosines by step over a band of two floors,
  with a ring at the first step above the floor; --scores FILE.csv (columns
  step and a score, as the scores.csv that eval writes for checkpoints) adds
  an evaluation's scores.
Watching: --watch follows one training folder: each new checkpoint is a
  printed line, a line of trajectory.jsonl, and a point of the picture.
  Half-written ones are tried again. It ends at --until-step, at a broken
  gate, or on Ctrl-C.
Gates: --fail-above w=0.02 and --fail-below w=-0.02 end with exit code 3,
  and a line that names the item, at any step; w:shared=0.02 bounds the
  cosine over shared parameters. A gate on a pair that has no parameter in
  common is an error, since it cannot break.
Projections: with an activation DELTA, data sets as ITEMs and --base: the
  mean projection of the answers on the vector, with a 95% interval, by
  block. With --shift also how far tuning moved the prompts' last token or,
  with --positions response, the answers (tuned minus base, row by row);
  rows may then be prompts alone. Checkpoints of a training folder are
  steps, from the base at step 0, in trajectory.csv and .png; --scores is
  drawn beside them, and --watch follows one folder, --shift RUN. What is
  usual: --controls, other activation vectors, and the grey band of random
  directions. Gates bound the mean, not the interval's end, of the shifts
  or, without --shift, of the answers: a=0.5 at every measured block,
  a:12=0.5 at block 12. --template, --template-args and --date are those of
  wsteer eval; rows and --columns are those of wsteer finetune.
Files: similarity.json and similarity.csv hold both cosines, dots, norms,
  shared fractions, floors, z and overlap.
"""


def monitor(
    deltas: Deltas,
    output: Output,
    of: Of = None,
    base: Base = None,
    controls: ControlsOption = None,
    ceiling: CeilingOption = None,
    centre: Centre = None,
    per: Per = None,
    layers: Layers = None,
    include: Include = None,
    exclude: Exclude = None,
    group: Group = None,
    scores: ScoresOption = None,
    correlate: Correlate = None,
    seed: SeedOption = None,
    fail_above: FailAbove = None,
    fail_below: FailBelow = None,
    watch: Watch = False,
    until_step: UntilStep = None,
    interval: Interval = None,
    shift: Shift = None,
    positions: Where = None,
    columns: Columns = None,
    template: Template = None,
    template_args: TemplateArgs = None,
    date: DateOption = None,
    batch_size: Batch = "auto",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    follow_links: FollowLinks = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write the cosines of changes of weights with deltas, beside the noise floor, as tables and heat maps.

    With data sets as ITEMs (JSONL, or org/name:split) and activation DELTAs: project the answers on the vectors.

    Example: wsteer monitor w.safetensors --of run1/ --of run2/ -o monitor/
    """
    selected = parse_layers(layers)
    ceilings = _lists(parse_named(ceiling or [], "--ceiling"))
    groups = dict(parse_named(group or [], "--group", once=True))
    above, below = parse_bounds(fail_above or [], "--fail-above"), parse_bounds(fail_below or [], "--fail-below")
    rows_at_once = parse_batch_size(batch_size)
    check_early(output, force, folder=True)
    from wsteer.deltas.selection import Selection
    from wsteer.monitoring.items import is_data
    from wsteer.monitoring.settings import Settings

    settings = Settings(
        base=base,
        controls=controls or (),
        ceiling=ceilings,
        centre=centre or (),
        selection=Selection(selected, include, exclude),
        per=per,
        groups=groups,
        scores=scores,
        correlate=correlate,
        seed=seed or 0,
        device=device,
        fail_above=above,
        fail_below=below,
    )
    printer = Printer(json, quiet)
    projecting = bool(shift) or any(map(is_data, of or ()))
    running: dict[str, Any] = {"batch_size": rows_at_once, "device": device, "dtype": dtype, "positions": positions}
    running |= {"columns": columns, "template": template, "template_args": template_args, "date": date}
    if not projecting:
        ignored = {name: value not in (None, "auto") for name, value in running.items() if name != "device"}
        refuse_unused(ignored, "cosines of weights")
    refuse_unused({"seed": seed is not None and correlate is None}, "anything but --correlate")
    if not watch:
        refuse_unused({"until_step": until_step is not None, "interval": interval is not None}, "anything but --watch")
    if projecting:
        from wsteer.cli.projections import project

        watching = {"until_step": until_step, "interval": interval or 10.0} if watch else None
        project(printer, deltas, of or [], output, settings, shift or [], force, running, watching)
    elif watch:
        _watch(printer, deltas, of or [], output, settings, until_step, interval or 10.0, force)
    else:
        _compare(printer, deltas, of or [], output, settings, force)


def _compare(
    printer: Printer, deltas: list[str], of: list[str], output: Path, settings: "Settings", force: bool
) -> None:
    from wsteer.monitoring.monitor import monitor as program

    report = program(deltas, output, of, settings, force=force, progress=printer.progress)
    for note in report.notes:
        printer.note(note)
    printer.result(report.as_json(), result_lines(report))
    printer.gates(report.failures)


def _watch(
    printer: Printer,
    deltas: list[str],
    of: list[str],
    output: Path,
    settings: "Settings",
    until_step: int | None,
    interval: float,
    force: bool,
) -> None:
    _refuse(settings, ("controls", "ceiling", "centre", "per", "groups", "correlate"), "--watch")
    if len(of) != 1:
        raise typer.BadParameter("one training folder is needed: --of RUN", param_hint="--watch")
    from wsteer.monitoring.watch import watch as program

    report = program(
        deltas, of[0], output, settings, until_step=until_step, interval=interval, force=force, note=printer.note
    )
    printer.result(report, watch_lines(report))
    printer.gates(report.failures)
    if report.interrupted:
        raise typer.Exit(130)


def _refuse(settings: "Settings", names: Sequence[str], where: str) -> None:
    """Refuse options that would be ignored."""
    refuse_unused({"group" if name == "groups" else name: getattr(settings, name) for name in names}, where)


def _lists(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for name, value in pairs:
        lists.setdefault(name, []).append(value)
    return lists
