"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wsteer.checkpoints.contents import follow_links
from wsteer.cli.values import LARGEST_SEED, parse_columns, parse_date, parse_object, parse_regex
from wsteer.files.saving import check_output

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
RoundingMode = Literal["auto", "nearest", "stochastic"]
Positions = Literal["response", "prompt", "prompt-last", "all"]


def option(*names: str, help: str, **settings: Any) -> Any:
    """A typer option."""
    return typer.Option(*names, help=help, **settings)


def argument(metavar: str, help: str) -> Any:
    """A typer argument with the name that the documentation uses."""
    return typer.Argument(metavar=metavar, help=help)


Config = Annotated[
    Path | None,
    option("--config", help="YAML file with values for any of these options.", metavar="FILE"),
]
FollowLinks = Annotated[
    bool,
    option(
        "--follow-links",
        help="Follow links in model folders that lead out of them.",
        callback=follow_links,
    ),
]
Force = Annotated[bool, option("--force", "-f", help="Replace the output if it exists.")]
Json = Annotated[bool, option("--json", help="Print one JSON object instead of text.")]
Quiet = Annotated[bool, option("--quiet", "-q", help="Print no notes and no progress.")]
Seed = Annotated[int, option("--seed", help="Seed of all that is random.", min=0, max=LARGEST_SEED)]
DeviceOption = Annotated[Device, option("--device", help="Where the model runs.")]
DtypeOption = Annotated[
    Dtype, option("--dtype", help="Type the model runs in; auto is float32 on a CPU, else its own.")
]
RoundingOption = Annotated[
    RoundingMode,
    option("--rounding", help="How 16-bit weights are rounded; auto is stochastic where nearest loses 1% or more."),
]
# what is added to a model in memory
Deltas = Annotated[
    list[str] | None,
    option("--delta", help="Delta file, adapter or checkpoint: what to add; repeat.", metavar="[NAME=]DELTA[@LAYERS]"),
]
Ks = Annotated[list[str] | None, option("--k", help="Coefficients, as --k=-1,0.5,1 or --k=-2:2:0.5 [default: 1].")]
LayersOrEach = Annotated[
    str | None, option("--layers", help="Decoder blocks of the deltas to use, as 0-11,20, or 40%; or each.")
]
Variant = Annotated[
    Literal["all-layers"] | None,
    option("--variant", help="Add at every block what activation vectors gain there."),
]
PositionsOption = Annotated[Positions, option("--positions", help="Tokens at which activation vectors are added.")]
Layers = Annotated[str | None, option("--layers", help="Decoder blocks of the delta to use, as 0-11,20.")]
Include = Annotated[
    str | None,
    option("--include", help="Use parameters whose name this is found in.", parser=parse_regex, metavar="REGEX"),
]
Exclude = Annotated[
    str | None,
    option("--exclude", help="Leave out parameters whose name this is found in.", parser=parse_regex, metavar="REGEX"),
]
Template = Annotated[
    Path | None,
    option(
        "--template",
        help="Jinja file: the chat template of a model that has none, or instead of its own.",
        metavar="FILE",
    ),
]
TemplateArgs = Annotated[
    dict | None,
    option(
        "--template-args",
        help="Arguments of the chat template, as '{\"enable_thinking\": false}'.",
        parser=parse_object,
        metavar="JSON",
    ),
]
DateOption = Annotated[
    str | None,
    option("--date", help="Day that the chat template may write. [2024-07-26]", parser=parse_date, metavar="DATE"),
]
Columns = Annotated[
    dict | None,
    option(
        "--columns",
        help="Columns of the rows, as prompt=question,completion=answer.",
        parser=parse_columns,
        metavar="NAME=COLUMN,...",
    ),
]
Batch = Annotated[str, option("--batch-size", help="Rows that run at once.", metavar="auto|N")]


def check_early(output: Path, force: bool, folder: bool, resume: bool = False) -> None:
    """Refuse an output before the slow imports; the program checks it again, together with its inputs."""
    check_output(output, force, folder, resume=resume)
