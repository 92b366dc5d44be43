"""A command's values: from the command line, else the environment, else --config, all of them read as text."""

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from wsteer.errors import WsteerError
from wsteer.files.saving import check_input

SPREAD = ("--of", "--controls", "--centre", "--shift")  # options that take all values up to the next option
PREFIX = "WSTEER"  # of variables: WSTEER_<COMMAND>_<OPTION>

Value = str | list[str]


class Stopped(BaseException):
    """Ctrl-C, as commands pass it on: typer would end the innermost command alone, and say nothing."""


class Command(TyperCommand):
    """A command whose single values are given once, and whose other values come from variables or from a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check what is given twice or empty; take what is not given from the environment, then from --config."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        args = [with_home(argument) for argument in spread_of(args)]
        given = given_values(args, self.params)
        self._check(ctx, given)
        names = {option_name(parameter): parameter for parameter in self.params}
        variables = {name: f"{PREFIX}_{self.name}_{name}".upper() for name in names}
        path = (given.get("config") or [os.environ.get(variables["config"], "")])[-1]
        del names["config"]
        self._check_variables(ctx, variables.values())
        ctx.meta["config"] = path
        found: dict[str, tuple[Value, str]] = {}
        for key, value in read_config(Path(path), names).items() if path else ():
            found[key] = value, path
        for key, parameter in names.items():
            if text := os.environ.get(variables[key]):
                several = takes_several(parameter)
                found[key] = (_words(text, variables[key]) if several else os.path.expanduser(text)), variables[key]
        ctx.default_map = {}
        for key, (value, source) in found.items():
            if spaced(names[key], [value] if isinstance(value, str) else value):
                raise typer.BadParameter(f"{key}: {value!r} in {source} is no number", ctx=ctx)
            ctx.default_map[names[key].name] = _fitting(value, takes_several(names[key]), f"{key} in {source}")
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            key = option_name(error.param) if error.param is not None else ""
            if key in found and error.param is not None and error.param.name not in given:
                error.message += f" (in {found[key][1]})"
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends all that is under way, also the command that runs this one."""
        try:
            os.getcwd()
        except FileNotFoundError:  # some libraries would end the process
            raise WsteerError("the current folder no longer exists; change to another one") from None
        if ctx.meta["config"] and ctx.params.get("output"):  # the program checks what it reads itself
            check_input(ctx.params["output"], Path(ctx.meta["config"]))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(str(error) or "interrupted") from None

    def _check(self, ctx: Any, given: Mapping[str, Sequence[str]]) -> None:
        parameters: list[Any] = self.params
        for parameter in parameters:
            values = given.get(parameter.name, ())
            if len(values) > 1 and not takes_several(parameter):
                raise typer.BadParameter(f"it is given {len(values)} times; give it once", ctx=ctx, param=parameter)
            if "" in values:
                raise typer.BadParameter("it is empty", ctx=ctx, param=parameter)
            if spaced(parameter, values):
                raise typer.BadParameter(f"{values[0]!r} is no number", ctx=ctx, param=parameter)
        if "" in given.get("", ()):
            raise typer.BadParameter("an argument is empty", ctx=ctx)

    def _check_variables(self, ctx: Any, known: Iterable[str]) -> None:
        """Refuse a variable of this command that names no option: a gate spelt wrongly must not pass."""
        for variable, text in os.environ.items():
            if text and variable.startswith(f"{PREFIX}_{self.name}_".upper()) and variable not in known:
                listed = ", ".join(known)
                raise typer.BadParameter(f"{variable} is set, but names no option; they are {listed}", ctx=ctx)


def spread_of(arguments: Sequence[str]) -> list[str]:
    """`--of a b c` as `--of a --of b --of c`, so that `--of runs/*/` means every folder the shell found.

    `--of=a b c` means the same: else b and c would be taken for arguments.

    Standard input with a weight, `-:0.5`, becomes `/dev/stdin:0.5`.

    >>> spread_of(["w.safetensors", "--of", "runs/1/", "runs/2/", "-o", "out"])
    ['w.safetensors', '--of', 'runs/1/', '--of', 'runs/2/', '-o', 'out']
    """
    spread: list[str] = []
    arguments = [re.sub(r"^-:(?=[0-9.]+$)", "/dev/stdin:", each) for each in arguments]  # else an option's name
    option = ""  # the option whose values are being read
    inside = 0  # the position among its values, from 1; 0 outside
    for argument in arguments:
        if argument.startswith("-") and argument != "-":  # which is standard input
            option, equals, _ = argument.partition("=")
            inside = (2 if equals else 1) if option in SPREAD else 0
        elif inside:
            spread += [option] if inside > 1 else []
            inside += 1
        spread.append(argument)
    return spread


def with_home(argument: str) -> str:
    """The argument with a `~` at its beginning, or at that of `--option=~/value`, replaced by the home folder."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if option in ("--include", "--exclude"):  # regexes
        return argument
    if argument[:1] == "-" and argument[2:3] == "~":  # -o~/out
        option, value = argument[:2], argument[2:]
    return option + equals + os.path.expanduser(value)


def given_values(arguments: Sequence[str], parameters: Sequence[Any]) -> dict[str, list[str]]:
    """The values on the command line by the parameter's name; those of arguments together, under an empty name.

    Flags have none. What the command does not know is left to typer, which refuses it.
    """
    options = {flag: parameter for parameter in parameters for flag in (*parameter.opts, *parameter.secondary_opts)}
    found: dict[str, list[str]] = {}
    words = iter(arguments)
    for word in words:
        if word == "--":
            found.setdefault("", []).extend(words)
        elif not word.startswith("-") or word == "-":
            found.setdefault("", []).append(word)
        elif word.startswith("--"):
            flag, equals, value = word.partition("=")
            if (parameter := options.get(flag)) is not None and not parameter.is_flag:
                found.setdefault(parameter.name, []).extend([value] if equals else _next(words))
        else:
            letters = [options.get(f"-{letter}") for letter in word[1:]]  # -fo out
            place = next((i for i, each in enumerate(letters) if each is None or not each.is_flag), None)
            if place is not None and (parameter := letters[place]) is not None:
                found.setdefault(parameter.name, []).extend([word[place + 2 :]] if word[place + 2 :] else _next(words))
    return found


def _next(words: Iterator[str]) -> list[str]:
    word = next(words, None)
    return [] if word is None else [word]


def spaced(parameter: Any, values: Iterable[str]) -> bool:
    """Whether a number is written with `_` between its digits: 1_5 may mean 1.5, and Python reads 15."""
    described = getattr(parameter, "type_descriptor", None)  # of newer typers; older ones have click's type
    named = parameter.type.name.split()[0] if described is None else ""  # "integer", "integer range"
    number = named in ("integer", "float") or (described is not None and described.annotation in (int, float))
    return number and any("_" in value for value in values)


def takes_several(parameter: Any) -> bool:
    """Whether an option may be repeated, or an argument has several values."""
    return getattr(parameter, "multiple", False) or parameter.nargs == -1


def option_name(parameter: Any) -> str:
    """The long flag's name, or the argument's name as the help writes it (DELTA: delta), with `_` for `-`."""
    flags = [flag for flag in parameter.opts if flag.startswith("--")]
    return (flags[0].removeprefix("--") if flags else parameter.metavar).replace("-", "_").lower()


def read_config(path: Path, names: Mapping[str, object]) -> dict[str, Value]:
    """The values in a YAML file by the names of options, each as the text that stands there, or a list of texts.

    YAML's own types are not used: it would read 1:30 as 90, on as true and 2026-01-01 as a date.
    """
    import yaml

    from wsteer.files.yaml import yaml_nodes

    try:
        root = yaml_nodes(path)
    except WsteerError as error:
        raise typer.BadParameter(str(error), param_hint="--config") from None
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise typer.BadParameter(f"{path} must hold a mapping of option names to values", param_hint="--config")
    found: dict[str, Value] = {}
    for key, node in root.value if root is not None else ():
        name = str(key.value).replace("-", "_") if isinstance(key, yaml.ScalarNode) else ""
        if name not in names:
            known = ", ".join(sorted(names))
            raise typer.BadParameter(f"{path}: unknown key {key.value!r}; the keys are {known}", param_hint="--config")
        if name in found:
            raise typer.BadParameter(f"{path}: {name} is given twice", param_hint="--config")
        takes_object = getattr(names[name], "metavar", None) == "JSON"
        found[name] = _json(node) if takes_object else _texts(node, f"{path}: {name}")
    return {name: value for name, value in found.items() if value}


def _json(node: Any) -> str:
    """A mapping as JSON text; of a scalar the text, which may be JSON."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    return json.dumps(yaml.SafeLoader("").construct_document(node), default=str)


def _texts(node: Any, where: str) -> Value:
    """A scalar's text, or a list of such; nothing for null."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        null = node.style is None and node.value in ("", "~", "null")
        return "" if null else os.path.expanduser(node.value)
    if not isinstance(node, yaml.SequenceNode) or not all(isinstance(each, yaml.ScalarNode) for each in node.value):
        raise typer.BadParameter(f"{where} must be a value or a list of values", param_hint="--config")
    return [os.path.expanduser(each.value) for each in node.value]


def _words(text: str, variable: str) -> list[str]:
    """The values in a variable, separated by spaces and quoted as in a shell."""
    try:
        return [os.path.expanduser(word) for word in shlex.split(text)]
    except ValueError as error:
        raise typer.BadParameter(f"{error}; values are quoted as in a shell", param_hint=variable) from None


def _fitting(value: Value, several: bool, where: str) -> Value:
    """The value as a list for what takes several, else as one text."""
    if isinstance(value, list) and not several:
        raise typer.BadParameter(f"{where} is a list, but it takes one value")
    return [value] if several and isinstance(value, str) else value
