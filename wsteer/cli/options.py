"""Options that several commands share, --config, and the parsing of their values."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wsteer.checkpoints.contents import follow_links
from wsteer.errors import WsteerError
from wsteer.files.saving import check_output

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
RoundingMode = Literal["auto", "nearest", "stochastic"]


def option(*names: str, help: str, **settings: Any) -> Any:
    """A typer option whose help does not spell out its environment variable (WSTEER_<COMMAND>_<OPTION>)."""
    return typer.Option(*names, help=help, show_envvar=False, **settings)


def argument(metavar: str, help: str) -> Any:
    """A typer argument with the name that the documentation uses."""
    return typer.Argument(metavar=metavar, help=help, show_envvar=False)


def load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the command's defaults from a YAML file: flag > environment > file > default."""
    if path is None or context.resilient_parsing:
        return path
    values = _read_config(path)
    parameters = {_config_key(parameter): parameter for parameter in context.command.params}
    parameters.pop("config")
    context.default_map = {}
    for key, value in values.items():
        parameter = parameters.get(str(key).replace("-", "_"))
        if parameter is None:
            raise typer.BadParameter(f"{path}: unknown key {key!r}; the keys are {', '.join(sorted(parameters))}")
        several = getattr(parameter, "multiple", False) or parameter.nargs == -1
        value = _expanded(value)
        context.default_map[parameter.name] = [value] if several and not isinstance(value, list) else value
    return path


def _read_config(path: Path) -> dict:
    from wsteer.files.text import read_yaml

    try:
        values = read_yaml(path) or {}
    except WsteerError as error:
        raise typer.BadParameter(str(error)) from None
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{path} must hold a mapping of option names to values")
    return values


def _config_key(parameter: Any) -> str:
    """The long flag's name without dashes, or the argument's name as the help writes it (DELTA: delta)."""
    flags = [flag for flag in parameter.opts if flag.startswith("--")]
    return (flags[0].removeprefix("--") if flags else parameter.metavar).replace("-", "_").lower()


def _expanded(value: Any) -> Any:
    """`~` in a text from a file becomes the home folder, as a shell does on the command line."""
    if isinstance(value, list):
        return [_expanded(entry) for entry in value]
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~") else value


Config = Annotated[
    Path | None,
    option("--config", help="YAML file with values for any of these options.", is_eager=True, callback=load_config),
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
Seed = Annotated[int, option("--seed", help="Seed of all that is random.", min=0, max=2**32 - 1)]
DeviceOption = Annotated[Device, option("--device", help="Where the model runs.")]
DtypeOption = Annotated[
    Dtype, option("--dtype", help="Type the model runs in; auto is float32 on a CPU, else its own.")
]
RoundingOption = Annotated[
    RoundingMode,
    option("--rounding", help="How 16-bit weights are rounded; auto is stochastic where nearest loses 1% or more."),
]
Layers = Annotated[str | None, option("--layers", help="Decoder blocks of the delta to use, as 0-11,20.")]
Include = Annotated[
    str | None, option("--include", help="Use parameters whose name this is found in.", metavar="REGEX")
]
Exclude = Annotated[
    str | None, option("--exclude", help="Leave out parameters whose name this is found in.", metavar="REGEX")
]
Batch = Annotated[str, option("--batch-size", help="Rows that run at once.", metavar="auto|N")]


def check_early(output: Path, force: bool, folder: bool, resume: bool = False) -> None:
    """Refuse an output before the slow imports; the program checks it again, together with its inputs."""
    check_output(output, force, folder, resume=resume)


def parse_numbers(values: list[str], name: str) -> list[float]:
    """`["-1,0", "1"]` as [-1.0, 0.0, 1.0]: options that take several numbers take commas and repeats."""
    numbers = []
    for part in ",".join(map(str, values)).split(","):
        try:
            number = float(part)
        except ValueError:
            raise typer.BadParameter(
                f"{part!r} is not a number; write several as {name}=-1,0,1", param_hint=name
            ) from None
        if not math.isfinite(number):
            raise typer.BadParameter(f"{part!r} is not finite", param_hint=name)
        numbers.append(number)
    return numbers


def parse_named(values: list[str], name: str) -> list[tuple[str, str]]:
    """`["a=1", "b=c=d"]` as [("a", "1"), ("b", "c=d")], for options of the form NAME=VALUE."""
    pairs = []
    for value in values:
        key, equals, rest = str(value).partition("=")
        if not key or not equals or not rest:
            raise typer.BadParameter(f"{value!r} must be NAME=VALUE", param_hint=name)
        pairs.append((key, rest))
    return pairs


def parse_batch_size(text: str, auto: int) -> int:
    """The number of rows; `auto` is the command's default."""
    if text == "auto":
        return auto
    if not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is neither auto nor a number from 1 up", param_hint="--batch-size")
    return int(text)


def parse_layers(text: str | None) -> list[int] | None:
    """`0-11,20` as a list of block numbers; None stays None."""
    if text is None:
        return None
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise typer.BadParameter(f"{part!r} is no block number or range; write 0-11,20", param_hint="--layers")
        layers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(layers)
