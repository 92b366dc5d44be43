"""What the READMEs say holds: commands and Python parse, every link leads to a file, no table stands twice."""

import ast
import contextlib
import io
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

import wsteer
from wsteer.cli.main import app

ROOT = Path(__file__).parents[2]
READMES = [
    ROOT / "README.md",
    *sorted(path for folder in ("tests", "wsteer") for path in (ROOT / folder).rglob("README.md")),
]
LONGEST = 250  # lines of the README at the top
BEFORE_A_COMMAND = ("do", "then", "else", "time", "!")


Line = tuple[int, str]


def shell_lines(text: str) -> Iterator[Line]:
    """The numbered command lines of a page: after `$ ` and `> `, and in fenced blocks without prompts all lines."""
    block: list[Line] | None = None  # the fenced block that is being read
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line.startswith("```"):
            yield from _typed(block or [])
            block = [] if block is None else None
        elif block is not None:
            block.append((number, line))
        elif line.startswith("$ "):
            yield number, line[2:]


def _typed(block: Sequence[Line]) -> Iterator[Line]:
    """What was typed of a block that may show outputs as well."""
    prompts = any(line.startswith("$ ") for _, line in block)
    for number, line in block:
        if not prompts:
            yield number, line
        elif line.startswith(("$ ", "> ")):
            yield number, line[2:]


def invocations(line: str) -> Iterator[list[str]]:
    """The arguments of each `wsteer` in a line of the shell."""
    if not re.search(r"(^|\s)wsteer\s", line):
        return
    lexer = shlex.shlex(re.sub(r"<\([^)]*\)", "SUBSTITUTED", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) - set("();<>|&"):
            words.append(word)
            continue
        while words and (words[0] in BEFORE_A_COMMAND or re.fullmatch(r"\w+=.*", words[0])):
            words.pop(0)
        if words[:1] == ["wsteer"]:
            yield words[1:]
        elif ["-m", "wsteer"] in [words[i : i + 2] for i in range(len(words))]:
            yield words[words.index("wsteer") + 1 :]
        words = []


def complaint(arguments: Sequence[str]) -> str | None:
    """What the command line says against these arguments, if anything. No command runs, and no file is read."""
    group: Any = typer.main.get_command(app)
    for command in group.commands.values():
        command.callback = lambda **values: None
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        group.main(arguments, prog_name="wsteer")
    assert ended.value.code in (0, 2)
    return said.getvalue().strip().splitlines()[-1] if ended.value.code == 2 else None


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_every_command_line_parses(readme: Path) -> None:
    found = [(number, each) for number, line in shell_lines(readme.read_text()) for each in invocations(line) if each]
    refused = {number: told for number, arguments in found if (told := complaint(arguments)) is not None}
    assert refused == {}


def test_the_readme_shows_every_command() -> None:
    lines = [line for _, line in shell_lines((ROOT / "README.md").read_text())]
    shown = {arguments[0] for line in lines for arguments in invocations(line) if arguments}
    commands: Any = typer.main.get_command(app)
    assert shown == commands.commands.keys()


FAULTS = {
    "unknown command": ("wsteer difff pos neg -o w.safetensors", "difff"),
    "unknown option": ("wsteer diff pos neg -o w.safetensors --ranks 4", "--ranks"),
    "option of another command": ("wsteer diff pos neg -o w.safetensors --k 1", "--k"),
    "missing argument": ("wsteer steer $MODEL --k 1 -o out", "DELTA"),
    "missing option": ("wsteer diff pos neg", "--output"),
    "one argument too many": ("wsteer diff pos neg more -o w.safetensors", "more"),
    "option without its value": ("wsteer diff pos neg -o", "-o"),
    "value of a flag": ("wsteer diff pos neg -o w.safetensors --json=yes", "--json"),
    "no such choice": ("wsteer steer $MODEL w.safetensors --k 1 --as lora", "lora"),
    "no such preset": ("wsteer finetune $MODEL pos.jsonl -o pos --preset sycophant", "sycophant"),
    "no number": ("wsteer diff pos neg -o w.safetensors --rank four", "--rank"),
    "number too small": ("wsteer diff pos neg -o w.safetensors --rank 0", "--rank"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str) -> None:
    line, named = FAULTS[fault]
    page = f"Text.\n\n```\n$ wsteer diff pos neg -o w.safetensors\nw.safetensors\n$ {line}\n```\n"
    told = [complaint(each) for _, shown in shell_lines(page) for each in invocations(shown)]
    assert told[0] is None
    assert named in (told[1] or "")


def test_lines_are_read_as_a_shell_reads_them() -> None:
    page = """
```
$ for a in b; do
>   wsteer eval $M -o 'a b' | tail -1  # why
> done; X=1 wsteer diff <(cat w) v > out
wsteer: error: an output
```
`wsteer diff`
```
pip install . && wsteer demo
torchrun -m wsteer finetune
```
    $ wsteer --version
"""
    assert [(number, each) for number, line in shell_lines(page) for each in invocations(line)] == [
        (4, ["eval", "$M", "-o", "a b"]),
        (5, ["diff", "SUBSTITUTED", "v"]),
        (10, ["demo"]),
        (11, ["finetune"]),
        (13, ["--version"]),
    ]


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_all_python_parses_and_names_what_wsteer_has(readme: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", readme.read_text(), re.M | re.S):
        named = {
            node.attr
            for node in ast.walk(ast.parse(block))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "wsteer"
        }
        assert named <= set(wsteer.__all__)


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_links_lead_to_files(readme: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", readme.read_text())
    broken = [target for target in targets if ":" not in target and not (readme.parent / target).exists()]
    assert broken == []


def test_the_readme_is_a_path_not_a_wall() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST


def test_no_row_of_a_table_stands_in_two_readmes() -> None:
    rows = Counter(
        row for readme in READMES for row in set(re.findall(r"^ *(\|.*\w.*\|) *$", readme.read_text(), re.M))
    )
    assert [row for row, count in rows.items() if count > 1] == []
