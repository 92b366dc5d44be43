"""Conditions as lines of pictures."""

from dataclasses import replace

from tests.helpers.evaluations import conditions, parts, sweep
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.presentation.lines import CONTROL, layer_sweeps, lines


def test_methods_are_lines_in_their_order_with_points_by_k() -> None:
    found = lines([Condition(BASE), *(Condition("w", k, delta="w") for k in (1.0, -1.0)), Condition("a", 2, delta="a")])
    assert [(line.name, line.axis, [each.k for each in line.points]) for line in found] == [
        ("w", "k", [-1.0, 1.0]),
        ("a", "k", [2]),
    ]
    assert found[0].colour != found[1].colour and found[0].mark != found[1].mark


def test_checkpoints_lie_on_their_step_and_a_prompt_on_no_axis() -> None:
    found = {line.name: line for line in lines(conditions(25))}
    assert [found["ft"].where(each) for each in found["ft"].points] == list(range(50, 500, 50))
    assert found["system"].axis == "none"
    assert found["w random"].colour == CONTROL and found["w random"].control


def test_a_larger_k_is_darker_whatever_its_sign() -> None:
    (line,) = lines([Condition("w", k, delta="w") for k in (-2.0, -1.0, 1.0, 2.0)])
    shades = [line.shade(each) for each in line.points]
    assert shades[0] == shades[3] == line.colour.lower()
    assert shades[1] == shades[2] > shades[0]  # nearer to #ffffff


def test_conditions_of_single_blocks_are_a_sweep_and_one_line() -> None:
    (found,) = layer_sweeps(sweep(30))
    assert [each.layers for each in found] == [(block,) for block in range(30)]
    (line,) = lines(sweep(30))
    assert (line.name, line.axis, len(line.points)) == ("a k=-1, each block", "block", 30)


def test_a_control_of_each_block_is_a_sweep_of_its_own() -> None:
    random = [replace(each, method=f"{each.method} random", control="random") for each in sweep(8)[1:]]
    found = [line.name for line in lines([*sweep(8), *random])]
    assert found == ["a k=-1, each block", "a random k=-1, each block"]


def test_a_few_blocks_are_lines_of_their_own() -> None:
    assert [line.name for line in lines(sweep(3))] == ["a@0", "a@1", "a@2"]
    assert layer_sweeps(sweep(2)) == []


def test_parts_of_an_attribution_are_no_points_of_lines() -> None:
    (line,) = lines(parts(["layer 0"]))
    assert [each.label for each in line.points] == ["w k=-1"]
