"""The values of options that are more than one number or name: parsed and checked in one place."""

import contextlib
import datetime
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import typer

from wsteer.errors import WsteerError

if TYPE_CHECKING:
    from wsteer.evaluation.compared import Added

T = TypeVar("T")

MOST = 10**9  # the largest count that any option takes
LARGEST_SEED = 2**32 - 1
LARGEST_FLOAT = 3.4028234663852886e38  # of float32, in which k is applied
MOST_KS = 1000  # values of a range; each is an evaluation
MOST_BLOCKS = 10_000  # decoder blocks that --layers can name; models have a few hundred
LONGEST = 200  # characters of a value that a message shows


def shown(text: str) -> str:
    """The value as messages quote it, cut if it is long."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def parse_count(text: str, name: str, least: int = 1, most: int = MOST) -> int:
    """A whole number of ASCII digits, from `least` to `most`."""
    if not re.fullmatch(r"0*[0-9]{1,10}", text) or not least <= int(text.lstrip("0") or "0") <= most:
        raise typer.BadParameter(f"{shown(text)} is no whole number from {least} to {most}", param_hint=name)
    return int(text.lstrip("0") or "0")


def parse_numbers(values: Sequence[str], name: str) -> list[float]:
    """`["-1,0", "1"]` as [-1.0, 0.0, 1.0]: options that take several numbers take commas and repeats."""
    numbers = []
    for part in ",".join(values).split(","):
        try:
            # float takes 1_5 for 15, and the digits of other scripts
            number = float(part.replace("_", "?").encode("ascii"))
        except ValueError:
            raise typer.BadParameter(
                f"{shown(part)} is not a number; write several as {name}=-1,0,1", param_hint=name
            ) from None
        if number == 0 and re.search("[1-9]", part.lower().partition("e")[0]):
            raise typer.BadParameter(f"{shown(part)} is too small: it would be read as 0", param_hint=name)
        if not abs(number) <= LARGEST_FLOAT:
            raise typer.BadParameter(f"{shown(part)} is not finite, or too large for float32", param_hint=name)
        numbers.append(number)
    return numbers


def parse_ks(values: Sequence[str]) -> list[float]:
    """`["-2:2:0.5", "3"]` as coefficients: numbers, and ranges FIRST:LAST:STEP with both ends."""
    ks: list[float] = []
    for part in ",".join(values).split(","):
        if ":" not in part:
            ks += parse_numbers([part], "--k")
            continue
        bounds = [parse_numbers([bound], "--k")[0] for bound in part.split(":")]
        if len(bounds) != 3 or bounds[2] <= 0 or bounds[1] < bounds[0]:
            raise typer.BadParameter(f"{shown(part)} is no range; write FIRST:LAST:STEP, as -2:2:0.5", param_hint="--k")
        first, last, step = bounds
        steps = (last - first) / step + 1e-9
        if steps >= MOST_KS:
            raise typer.BadParameter(f"{shown(part)} has more than {MOST_KS} values", param_hint="--k")
        ks += [round(first + i * step, 12) + 0.0 for i in range(math.floor(steps) + 1)]
    return ks


def parse_added(values: Sequence[str]) -> "list[Added]":
    """`["a=a.safetensors@12"]`, of the form [NAME=]DELTA[@LAYERS], as what is added to a model.

    A file or folder of the whole name is that, whatever characters it has. LAYERS are as for --layers, or all-layers.
    """
    from wsteer.evaluation.compared import VARIANTS, Added

    found = []
    for value in values:
        name, reference, layers = None, value, None
        if not os.path.exists(value):
            match = re.fullmatch(
                r"(?:([^=/\\]+)=)?(.+?)(?:@(each|all-layers|[0-9][0-9,\s-]*|[^@/\\]*%))?", value, re.DOTALL
            )
            if match is None:
                raise typer.BadParameter(f"{shown(value)} is not [NAME=]DELTA[@LAYERS]", param_hint="--delta")
            name, reference, layers = match[1], os.path.expanduser(match[2]), match[3]
        if name is not None and (not name.strip() or not name.isprintable() or len(name) > LONGEST):
            raise typer.BadParameter(f"{shown(name)} is no name for a table", param_hint="--delta")
        if layers in VARIANTS:
            found.append(Added(reference, name, variant=layers))
        else:
            found.append(Added(reference, name, parse_blocks(layers, "--delta")))
    return found


def parse_share(text: str, name: str) -> float:
    """`5%` or `0.05` as 0.05."""
    number = parse_numbers([text.removesuffix("%")], name)[0] / (100 if text.endswith("%") else 1)
    if not 0 <= number <= 1:
        raise typer.BadParameter(f"{shown(text)} is no share, as 5% or 0.05", param_hint=name)
    return number


def parse_names(text: str | None, name: str) -> tuple[str, ...]:
    """`a,b` as ("a", "b"); nothing for None."""
    if text is None:
        return ()
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise typer.BadParameter(f"{shown(text)} has an empty name; write A,B", param_hint=name)
    return tuple(os.path.expanduser(part) for part in names)


def parse_modules(text: str | None, name: str) -> tuple[str, ...]:
    """`q_proj,mlp.up_proj` as names of modules; peft would take other characters for parts of a regex."""
    names = parse_names(text, name)
    for each in names:
        if not re.fullmatch(r"[\w.-]+", each):
            raise typer.BadParameter(f"{shown(each)} is no name of a module, as q_proj", param_hint=name)
    return names


def parse_named(values: Sequence[str], name: str, once: bool = False) -> list[tuple[str, str]]:
    """`["a=1", "b=c=d"]` as [("a", "1"), ("b", "c=d")], for options of the form NAME=VALUE.

    With `once` no NAME stands twice.
    """
    pairs: list[tuple[str, str]] = []
    for value in values:
        key, equals, rest = value.partition("=")
        if not key or not equals or not rest:
            raise typer.BadParameter(f"{shown(value)} must be NAME=VALUE", param_hint=name)
        if once and key in dict(pairs):
            raise typer.BadParameter(f"{shown(key)} is given twice", param_hint=name)
        pairs.append((key, os.path.expanduser(rest)))
    return pairs


def parse_bounds(values: Sequence[str], name: str) -> dict[str, float]:
    """`["w=0.02"]` as {"w": 0.02}."""
    return {key: parse_numbers([value], name)[0] for key, value in parse_named(values, name, once=True)}


def parse_arguments(values: Sequence[str], name: str) -> dict[str, object]:
    """`["data=a.jsonl", "gsm8k.epochs=3"]` as {"data": "a.jsonl", "gsm8k.epochs": 3}; also true and false."""
    return {key: _scalar(value) for key, value in parse_named(values, name, once=True)}


def _scalar(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return number if math.isfinite(number := float(text)) else text
    return text


def parse_batch_size(text: str) -> int | None:
    """The number of rows; None for `auto`, the command's default."""
    if text == "auto":
        return None
    if not re.fullmatch("[0-9]+", text):
        raise typer.BadParameter(f"{shown(text)} is neither auto nor a number from 1 up", param_hint="--batch-size")
    return parse_count(text, "--batch-size")


def parse_layers(text: str | None, name: str = "--layers") -> list[int] | None:
    """`0-11,20` as a list of block numbers; None stays None."""
    if text is None:
        return None
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        if match is None:
            raise typer.BadParameter(f"{shown(part)} is no block number or range; write 0-11,20", param_hint=name)
        first, last = (parse_count(each, name, 0, MOST_BLOCKS - 1) for each in (match[1], match[2] or match[1]))
        if last < first:
            raise typer.BadParameter(f"{shown(part)} is no range; write 0-11,20", param_hint=name)
        layers.update(range(first, last + 1))
    return sorted(layers)


def parse_blocks(text: str | None, name: str = "--layers") -> list[int] | str | None:
    """What `parse_layers` takes, `each`, or a depth in percent, whose block is known with the model: `40%`."""
    from wsteer.deltas.blocks import check_depth
    from wsteer.evaluation.compared import EACH

    if text is None or not text.endswith("%"):
        return text if text == EACH else parse_layers(text, name)
    usage(lambda: check_depth(text), name)
    return text


def parse_layer_scale(text: str | None) -> tuple[float, float] | None:
    """`0.5:1` as (0.5, 1.0); None stays None."""
    return parse_pair(text, "--layer-scale", "0.5:1")


def parse_pair(text: str | None, name: str, example: str) -> tuple[float, float] | None:
    """`A:B` as two numbers; None stays None."""
    if text is None:
        return None
    parts = text.split(":")
    if len(parts) != 2 or "," in text:
        raise typer.BadParameter(f"{shown(text)} is not A:B, as {example}", param_hint=name)
    first, last = parse_numbers(parts, name)
    return first, last


def parse_columns(text: str) -> dict[str, str]:
    """`prompt=question,completion=answer` as {"prompt": "question", "completion": "answer"}."""
    from wsteer.files.shapes import check_columns

    columns = {name: column for name, column in parse_named(text.split(","), "--columns", once=True)}
    usage(lambda: check_columns(columns))
    return columns


def parse_seeds(text: str | None) -> list[int] | None:
    """`0,1,2` as a list of seeds, each once; None stays None."""
    if text is None:
        return None
    seeds = [parse_count(part.strip(), "--seeds", 0, LARGEST_SEED) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise typer.BadParameter(f"{shown(text)} names a seed twice", param_hint="--seeds")
    return seeds


def parse_regex(text: str) -> str:
    """The pattern as it stands, if Python can read it."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        raise typer.BadParameter(f"{shown(text)} is no regex: {error}") from None
    return text


def parse_date(text: str) -> str:
    """The day as it stands, if it exists and is written as 2024-07-26."""
    with contextlib.suppress(ValueError):
        if datetime.date.fromisoformat(text).isoformat() == text:
            return text
    raise typer.BadParameter(f"{shown(text)} is no day; write it as 2024-07-26")


def parse_object(text: str) -> dict:
    """A JSON object."""
    from wsteer.files.text import parse_json, without_duplicates

    try:
        value = parse_json(text, without_duplicates)
    except ValueError as error:
        raise typer.BadParameter(f"{shown(text)} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{shown(text)} is no JSON object, as '{{\"name\": true}}'")
    return value


def usage(make: Callable[[], T], name: str | None = None) -> T:
    """What `make` returns; values that it refuses are wrong usage, since they stand on the command line."""
    try:
        return make()
    except WsteerError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None


def refuse_unused(given: Mapping[str, object], where: str) -> None:
    """Refuse the first option that is given and would be ignored; the options are by their names in Python."""
    for name, value in given.items():
        if value:
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"it is not used with {where}; leave it out", param_hint=option)
