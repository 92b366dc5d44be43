"""A command line parsed without being run, for the dry check of an experiment: its values, or what is wrong with it."""

import contextlib
import contextvars
import copy
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from wsteer.cli.command import given_values
from wsteer.cli.finetune import recipe_of
from wsteer.cli.values import (
    parse_added,
    parse_arguments,
    parse_batch_size,
    parse_bounds,
    parse_ks,
    parse_layer_scale,
    parse_layers,
    parse_named,
    parse_names,
    parse_numbers,
    parse_seeds,
    parse_share,
)
from wsteer.demo.commands import Parsed, placed
from wsteer.errors import WsteerError

Read = Callable[[Any], object]


def parse_line(group: Any, words: Sequence[str], folder: Path) -> Parsed:
    """The values of a command line, `wsteer` left out, as it would have them if it were run in `folder`.

    `group` is the command line's own group of commands. Values from variables and from --config count, and option
    texts of several parts are parsed as the command itself parses them. Raises WsteerError with the command's own
    message; nothing runs, and no state is changed.
    """
    name, rest = (words[0] if words else ""), [str(word) for word in words[1:]]
    if name not in group.commands:
        raise WsteerError(f"wsteer has no command {name[:80]!r}; it has {', '.join(sorted(group.commands))}")
    found: dict[str, object] = {}
    known = copy.copy(group.commands[name])  # the group itself stays as it is

    def keep(**values: object) -> None:
        found.update(_read(name, values), follow_links=bool(values.get("follow_links")))

    known.callback = keep
    arguments = _with_config_in(rest, folder)
    said = io.StringIO()
    code: object = 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            contextvars.copy_context().run(known.main, arguments, prog_name=f"wsteer {name}")
        except SystemExit as ended:
            code = ended.code
    if code:
        told = (said.getvalue().strip().splitlines() or ["it is not understood"])[-1]
        raise WsteerError(told.removeprefix("Error: "))
    if not found:
        raise WsteerError(f"wsteer {name} would print something and end, as for --help; leave the option out")
    config = given_values(rest, known.params).get("config")
    return Parsed(name, {**found, **({"config": config[0]} if config else {})})  # as the line itself names it


def _with_config_in(arguments: Sequence[str], folder: Path) -> list[str]:
    """The arguments, with the file of --config as it is named from here."""
    words = []
    after = False
    for word in arguments:
        if after:
            word = str(placed(folder, word))
        elif word.startswith("--config="):
            word = f"--config={placed(folder, word.removeprefix('--config='))}"
        after = word == "--config"
        words.append(word)
    return words


def _read(command: str, values: Mapping[str, Any]) -> dict[str, object]:
    """The values with those of several parts parsed; what is absent stays absent."""
    parsers = {**COMMON, **OWN.get(command, {})}
    read = {name: parsers[name](value) if value and name in parsers else value for name, value in values.items()}
    if command == "finetune":
        read["recipe"] = recipe_of(**values)
        if bool(values["data"]) == (values["pairs"] is not None):
            raise typer.BadParameter("give it, or --pairs FILE, and not both", param_hint="DATA")
    if command == "steer" and (not values["k"]) == (not values["sweep"]):
        raise typer.BadParameter("give one of --k and --sweep", param_hint="--k")
    if command == "actvec" and not values["imported"]:
        for name in ("model", "pos", "neg", "output"):
            if values[name] is None:
                raise typer.BadParameter("it is missing; or take vectors from a file by --import", param_hint=name)
    return read


def _blocks_or_each(text: str) -> object:
    return text if text == "each" else parse_layers(text)


COMMON: dict[str, Read] = {
    "batch_size": lambda text: text if isinstance(text, int) else parse_batch_size(text),
    "fail_above": lambda texts: parse_bounds(texts, "--fail-above"),
    "fail_below": lambda texts: parse_bounds(texts, "--fail-below"),
    "layers": parse_layers,
    "delta": parse_added,
    "seeds": parse_seeds,
}
OWN: dict[str, dict[str, Read]] = {
    "generate": {"k": parse_ks, "layers": _blocks_or_each},
    "finetune": {"track": lambda text: parse_names(text, "--track")},
    "steer": {
        "k": lambda texts: parse_numbers(texts, "--k"),
        "sweep": lambda texts: parse_numbers(texts, "--sweep"),
        "layer_scale": parse_layer_scale,
    },
    "eval": {
        "k": parse_ks,
        "layers": _blocks_or_each,
        "task_arg": lambda texts: parse_arguments(texts, "--task-arg"),
        "calibrate": lambda text: parse_bounds([text], "--calibrate"),
        "max_unscored": lambda text: parse_share(text, "--max-unscored"),
    },
    "monitor": {
        "ceiling": lambda texts: parse_named(texts, "--ceiling"),
        "group": lambda texts: parse_named(texts, "--group", once=True),
    },
}
