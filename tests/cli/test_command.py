"""Where values come from: given once on the command line, else in the environment, else in --config."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.helpers.command import Arguments, Cli, Inputs
from wsteer.cli.command import given_values, read_config, with_home
from wsteer.cli.main import app

GROUP: Any = typer.main.get_command(app)


@pytest.mark.parametrize(
    "twice",
    [["-o", "a", "-o", "b"], ["-oa", "--output=b"], ["-fo", "a", "--output", "b"], ["--rank", "1", "--rank=1"]],
    ids=" ".join,
)
def test_one_value_given_twice_is_a_usage_error(cli: Cli, twice: list[str]) -> None:
    ran = cli("diff", "pos", "neg", *twice)
    assert ran.code == 2
    assert "it is given 2 times; give it once" in ran.err


def test_flags_and_lists_may_be_repeated(cli: Cli, tmp_path: Path, arguments: Arguments) -> None:
    assert cli(*arguments("diff"), "-o", tmp_path / "w", "-f", "-f", "-q", "-q").code == 0
    _, base, delta, *_ = arguments("steer")
    other = shutil.copy(delta, tmp_path / "v.safetensors")
    assert cli("steer", base, delta, other, "--k", "1", "--k", "-0.5", "-o", tmp_path / "s", "-q").code == 0


def test_no_command_reads_a_value_twice() -> None:
    words = ["w", "-fqo", "out", "--of", "-1", "--k=-2", "--", "-o"]
    found = given_values(words, GROUP.commands["monitor"].params)
    assert found == {"": ["w", "-o"], "output": ["out"], "of": ["-1"]}  # --k is of another command


def test_the_home_folder_may_stand_after_an_equals_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    words = ["--output=~/a", "-o~/a", "~/a", "--include=a~b", "--k=-1", "a=~"]
    assert list(map(with_home, words)) == [
        "--output=/home/x/a",
        "-o/home/x/a",
        "/home/x/a",
        "--include=a~b",
        "--k=-1",
        "a=~",
    ]


def test_an_output_in_the_home_folder(
    cli: Cli, tmp_path: Path, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli(*arguments("diff"), "--output=~/w.safetensors", "-q").code == 0
    assert (tmp_path / "w.safetensors").is_file()


# what stands in the file, and what the one line says
CONFIGS = {
    "a date": ("rank: 2026-01-01", "'--rank': Input should be a valid integer"),
    "a time": ("rank: 1:30", "'--rank': Input should be a valid integer"),
    "a truth": ("rank: on", "'--rank': Input should be a valid integer"),
    "a number for a flag": ("force: 7", "'--force' / '-f': Input should be a valid boolean"),
    "a list for one value": ("rank: [1, 2]", "rank in c.yaml is a list, but it takes one value"),
    "a map": ("pos: {a: b}", "pos must be a value or a list of values"),
    "a list of lists": ("pos: [[a]]", "pos must be a value or a list of values"),
    "a key twice": ("rank: 1\nrank: 2", "rank is given twice"),
    "a key that is a list": ("? [a]\n: b", "unknown key"),
    "deep nesting": ("pos: " + "[" * 5000, "too much depth"),
    "aliases": ("pos: &a [x]\nneg: *a", "pos in c.yaml is a list"),
    "a tag": ("pos: !!python/object:os.system x\nrank: x", "'--rank': Input should be a valid integer"),
    "a control character": ("rank: \x1b[2J", "is not YAML"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_config_may_not_hold(cli: Cli, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, says = CONFIGS[name]
    inputs.text("c.yaml", text)
    monkeypatch.chdir(inputs.folder)
    ran = cli("diff", *inputs.adapters, "-o", "out", "--config", "c.yaml")
    assert ran.code == 2
    assert says in " ".join(ran.err.split())
    assert not (inputs.folder / "out").exists()


def test_a_config_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: 010\nb: on\nc: 2026-01-01\nd: 1:30\ne: null\nf: 'null'\ng: [1e-3, yes]\nh:\n")
    found = read_config(tmp_path / "c.yaml", dict.fromkeys("abcdefgh"))
    assert found == {"a": "010", "b": "on", "c": "2026-01-01", "d": "1:30", "f": "null", "g": ["1e-3", "yes"]}


def test_a_key_in_two_spellings_is_given_twice(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("dry-run: 1\ndry_run: 2")
    with pytest.raises(typer.BadParameter, match="dry_run is given twice"):
        read_config(tmp_path / "c.yaml", {"dry_run": None})


def test_a_wrong_value_is_named_with_its_place(cli: Cli, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSTEER_DIFF_RANK", "x")
    ran = cli("diff", *inputs.adapters, "-o", inputs.folder / "out")
    assert ran.code == 2
    assert "(in WSTEER_DIFF_RANK)" in " ".join(ran.err.split())
    assert cli("diff", *inputs.adapters, "-o", inputs.folder / "out", "--rank", 2).code == 0


# the variables, and the k that is used
VARIABLES: dict[str, tuple[dict[str, str], list[float] | int]] = {
    "several": ({"WSTEER_STEER_SWEEP": "1 2"}, [1.0, 2.0]),
    "with commas": ({"WSTEER_STEER_SWEEP": "1,2"}, [1.0, 2.0]),
    "quoted": ({"WSTEER_STEER_SWEEP": "'1' \"2\""}, [1.0, 2.0]),
    "an open quote": ({"WSTEER_STEER_SWEEP": "'1"}, 2),
    "empty": ({"WSTEER_STEER_SWEEP": "3", "WSTEER_STEER_SEED": ""}, [3.0]),
    "no number": ({"WSTEER_STEER_SWEEP": "x"}, 2),
    "a flag that is off": ({"WSTEER_STEER_SWEEP": "1", "WSTEER_STEER_DRY_RUN": "0"}, [1.0]),
    "an option of another name in Python": ({"WSTEER_STEER_SWEEP": "1", "WSTEER_STEER_AS": "nosuch"}, 2),
    "an argument": ({"WSTEER_STEER_SWEEP": "1", "WSTEER_STEER_DELTA": "'my w.safetensors'"}, [1.0]),
}


@pytest.mark.parametrize("name", VARIABLES)
def test_values_from_the_environment(cli: Cli, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    variables, expected = VARIABLES[name]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(inputs.folder)
    deltas = [] if "WSTEER_STEER_DELTA" in variables else [inputs.delta()]
    inputs.delta("my w")
    ran = cli("steer", inputs.tiny, *deltas, "-o", "out", "-q", "--json")
    if isinstance(expected, int):
        assert ran.code == expected
    else:
        assert ran.code == 0, ran.err
        folders = [f"k{k:g}" for k in expected]
        assert sorted(path.name for path in (inputs.folder / "out").glob("k*")) == folders
        assert json.loads(ran.out)["output"] == "out"


@pytest.mark.parametrize("value", ["0", "false", "", "no"])
def test_debugging_can_be_off(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WSTEER_DEBUG", value)
    assert "no does not exist" in cli("diff", tmp_path / "no", "-o", tmp_path / "out").error


def test_empty_values_are_usage_errors(cli: Cli, inputs: Inputs) -> None:
    for arguments in (["--base="], ["--base", ""], [""]):
        ran = cli("diff", inputs.adapters[0], *arguments, "-o", inputs.folder / "out")
        assert (ran.code, "is empty" in ran.err) == (2, True)
