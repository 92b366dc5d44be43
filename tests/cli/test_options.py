"""--config, and the values that several commands take."""

import json
from pathlib import Path

import pytest
import yaml

from tests.helpers.command import COMMANDS, Arguments, Cli
from wsteer.cli.values import parse_layers, parse_numbers


@pytest.mark.slow
def test_config_gives_any_option_and_flags_and_environment_beat_it(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "base": str(tiny),
        "data": str(chats[0]),
        "output": str(tmp_path / "a"),
        "max-steps": 1,
        "lr": 1e-3,
        "rank": 2,
    }
    # PyYAML reads 1e-3 as a text: it must become a number all the same
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values).replace("0.001", "1e-3"))

    def options(folder: str) -> dict:
        return json.loads((tmp_path / folder / "wsteer.json").read_text())["options"]

    assert cli("finetune", "--config", tmp_path / "c.yaml", "-q").code == 0
    assert (options("a")["lr"], options("a")["rank"], options("a")["max_steps"]) == ([1e-3], 2, 1)
    monkeypatch.setenv("WSTEER_FINETUNE_RANK", "3")
    monkeypatch.setenv("WSTEER_FINETUNE_LR", "0.5")
    assert cli("finetune", "--config", tmp_path / "c.yaml", "-q", "-o", tmp_path / "b", "--lr", "0.25").code == 0
    assert (options("b")["lr"], options("b")["rank"], options("b")["max_steps"]) == ([0.25], 3, 1)


def test_config_takes_lists_and_single_values_for_several(cli: Cli, tmp_path: Path, arguments: Arguments) -> None:
    _, base, delta, *_ = arguments("steer")
    for i, values in enumerate(({"delta": [delta], "k": -1.5}, {"delta": delta, "k": [-1.5]})):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"base": base, "output": str(tmp_path / f"o{i}"), **values}))
        ran = cli("steer", "--config", tmp_path / "c.yaml", "--json", "-q")
        assert ran.code == 0, ran.err
        assert ran.json["k"] == [-1.5]


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_config_keys_name_the_valid_ones(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "c.yaml").write_text("ouptut: x\n")
    ran = cli(name, "--config", tmp_path / "c.yaml")
    assert ran.code == 2
    assert "unknown key 'ouptut'" in ran.err
    assert "output" in ran.err.split("the keys are")[1]


def test_home_in_a_config_is_expanded(
    cli: Cli, tmp_path: Path, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _, base, *_ = arguments("steer")
    values = {"base": base, "delta": "~/w.safetensors", "k": 1, "output": "~/out"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert cli("steer", "--config", tmp_path / "c.yaml").code == 0
    assert (tmp_path / "out" / "config.json").exists()


def test_batch_size_is_auto_or_a_number(cli: Cli, tmp_path: Path, arguments: Arguments) -> None:
    assert cli(*arguments("actvec"), "-o", tmp_path / "a", "--batch-size", "auto").code == 0
    assert cli(*arguments("actvec"), "-o", tmp_path / "b", "--batch-size", "16").code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert cli(*arguments("actvec"), "-o", tmp_path / "c", "--batch-size", "0").code == 2


@pytest.mark.parametrize("text", ["[", "- a", "\x00"])
def test_broken_config_is_a_usage_error(cli: Cli, tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    ran = cli("diff", "--config", tmp_path / "c.yaml")
    assert ran.code == 2
    assert "--config" in ran.err


def test_numbers_and_layers_are_parsed() -> None:
    import typer

    assert parse_numbers(["-1.5"], "--k") == [-1.5]
    assert parse_numbers(["-1,0", "1e-2"], "--k") == [-1.0, 0.0, 0.01]
    assert parse_layers("0-2,5") == [0, 1, 2, 5]
    assert parse_layers(None) is None
    for bad in ("x", "3-1", "1-", "", "-1"):
        with pytest.raises(typer.BadParameter):
            parse_layers(bad)
    for bad in ("x", "nan", "inf", "1,,2", ""):
        with pytest.raises(typer.BadParameter):
            parse_numbers([bad], "--k")


def test_bad_k_is_a_usage_error(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    ran = cli("steer", tiny, tmp_path / "w.safetensors", "--k", "much")
    assert ran.code == 2
    assert "'much' is not a number" in ran.err
