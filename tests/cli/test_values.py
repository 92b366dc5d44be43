"""Values of options, parsed: numbers and ranges, deltas with names and layers, shares."""

from pathlib import Path

import pytest
import typer

from wsteer.cli.values import parse_added, parse_ks, parse_share


@pytest.mark.parametrize(
    ("given", "ks"),
    [
        (["-2:2:0.5"], [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]),
        (["-0.3:0.3:0.1"], [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]),
        (["0:1:0.3"], [0.0, 0.3, 0.6, 0.9]),
        (["1:1:5", "3,-4"], [1.0, 3.0, -4.0]),
    ],
)
def test_ranges_of_k_have_both_ends_and_round_values(given: list[str], ks: list[float]) -> None:
    found = parse_ks(given)
    assert found == ks
    assert not any(str(k) == "-0.0" for k in found)


@pytest.mark.parametrize("given", ["", "1,", "1:2", "2:1:1", "1:2:0", "0:1:-1", "0:1:1e-9", "0:1:1e-320", "a:b:c"])
def test_what_is_no_range_of_k_is_a_usage_error(given: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_ks([given])


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("w.safetensors", (None, "w.safetensors", None, None)),
        ("w=runs/w@0-3,5", ("w", "runs/w", [0, 1, 2, 3, 5], None)),
        ("a.safetensors@each", (None, "a.safetensors", "each", None)),
        ("all=a@all-layers", ("all", "a", None, "all-layers")),
        ("org/name@main", (None, "org/name@main", None, None)),
    ],
)
def test_a_delta_may_have_a_name_and_layers(given: str, found: tuple[object, ...]) -> None:
    (added,) = parse_added([given])
    assert (added.name, added.reference, added.layers, added.variant) == found


def test_an_existing_path_is_itself_whatever_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a=b@12").mkdir()
    (added,) = parse_added([str(tmp_path / "a=b@12")])
    assert (added.name, added.reference, added.layers) == (None, str(tmp_path / "a=b@12"), None)


def test_shares_are_percentages_or_numbers() -> None:
    assert [parse_share(text, "--max-unscored") for text in ("5%", "0.05", "0", "100%")] == [0.05, 0.05, 0, 1]
    for text in ("5", "-1%", "101%", "", "%", "nan"):
        with pytest.raises(typer.BadParameter):
            parse_share(text, "--max-unscored")
