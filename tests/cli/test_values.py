"""Values of options that are more than a number or a name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from wsteer.cli.values import MOST_KS, parse_added, parse_blocks, parse_columns, parse_ks, parse_layers, parse_share
from wsteer.evaluation.compared import Added


@pytest.mark.parametrize(
    ("given", "ks"),
    [
        (["-2:2:0.5"], [-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2]),
        (["0:0.3:0.1"], [0, 0.1, 0.2, 0.3]),  # without 0.30000000000000004
        (["0:1:0.4"], [0, 0.4, 0.8]),
        (["1:1:1"], [1]),
        (["-1,0.5", "2:3:1"], [-1, 0.5, 2, 3]),
        (["-0"], [0]),
    ],
)
def test_coefficients_are_numbers_and_ranges_with_both_ends(given: list[str], ks: list[float]) -> None:
    found = parse_ks(given)
    assert found == ks
    assert all(str(k) != "-0.0" for k in found if ":" in given[0])


@pytest.mark.parametrize(
    "given", ["1:2", "1:2:0", "1:2:-1", "2:1:1", "1:2:3:4", "a:b:c", "::", "", "1,,2", "nan", "1e39", f"0:{MOST_KS}:1"]
)
def test_other_coefficients_are_refused(given: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_ks([given])


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ("w.safetensors", Added("w.safetensors")),
        ("w=out/w.safetensors", Added("out/w.safetensors", "w")),
        ("a.safetensors@12", Added("a.safetensors", None, [12])),
        ("a=a.safetensors@0-2,7", Added("a.safetensors", "a", [0, 1, 2, 7])),
        ("a.safetensors@each", Added("a.safetensors", None, "each")),
        ("a=a.safetensors@40%", Added("a.safetensors", "a", "40%")),
        ("a.safetensors@0.5%", Added("a.safetensors", None, "0.5%")),
        ("mean=a.safetensors@all-layers", Added("a.safetensors", "mean", None, "all-layers")),
        ("org/name@main", Added("org/name@main")),  # a revision of the Hub's
        ("τ⁺ (lora)=pos", Added("pos", "τ⁺ (lora)")),
        ("x/y=1/w.safetensors", Added("x/y=1/w.safetensors")),  # a folder's name may have any character
    ],
)
def test_a_delta_has_a_name_and_layers_of_its_own(given: str, added: Added) -> None:
    assert parse_added([given]) == [added]


def test_a_file_of_the_whole_name_is_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a=b@3", "w"):
        Path(name).touch()
    assert parse_added(["a=b@3", "c=a=b@3"]) == [Added("a=b@3"), Added("a=b", "c", [3])]
    assert parse_added(["x=~/w"]) == [Added(str(tmp_path / "w"), "x")]


# no depths of a block
BEYOND = ("a@100%", "a@-1%", "a@100.5%", "a@%", "a@40%%", "a@12,40%", "a@4e1%", "a@.5%", "a@٤٠%")


@pytest.mark.parametrize("given", ["", " =w", "a\x1b=w", f"{'a' * 300}=w", "a@3-1", "a@99999", *BEYOND])
def test_other_deltas_are_refused(given: str) -> None:
    with pytest.raises(typer.BadParameter) as raised:
        parse_added([given])
    assert raised.value.param_hint == "--delta"


def test_a_depth_is_told_from_numbers_and_refused_as_the_option_that_it_is() -> None:
    assert [parse_blocks(each) for each in ("40%", "each", "0-1,7", None)] == ["40%", "each", [0, 1, 7], None]
    with pytest.raises(
        typer.BadParameter, match="'100%' is no depth in a model: give one from 0% to below 100%"
    ) as bad:
        parse_blocks("100%")
    assert bad.value.param_hint == "--layers"
    with pytest.raises(typer.BadParameter, match="write 0-11,20"):
        parse_layers("40%")  # where no model is at hand


@pytest.mark.parametrize(("given", "share"), [("5%", 0.05), ("0.05", 0.05), ("0", 0), ("100%", 1), ("1", 1)])
def test_shares(given: str, share: float) -> None:
    assert parse_share(given, "--max-unscored") == share


@pytest.mark.parametrize(("parse", "given"), [(parse_share, given) for given in ("5", "-1%", "101%", "%", "", "nan%")])
def test_other_shares_are_refused(parse: Callable[[str, str], float], given: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse(given, "--max-unscored")


def test_columns_are_names_with_their_columns() -> None:
    given = "prompt=question,completion=the answer=x"
    assert parse_columns(given) == {"prompt": "question", "completion": "the answer=x"}


@pytest.mark.parametrize(
    "given", ["", "prompt", "prompt=", "=q", "question=q", "prompt=a,prompt=b", "prompt=a,messages=b"]
)
def test_other_columns_are_refused(given: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"NAME=|twice|leave out"):
        parse_columns(given)
