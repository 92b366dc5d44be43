"""What surrounds the similarity table: parts, selections, controls, ceilings, files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import wsteer
from tests.helpers.command import Cli
from tests.helpers.dense_changes import OF_MATRICES, REPRESENTATIONS, cosine_of, saved, whole_of
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.tiny import save_adapter
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.callback import SimilarityCallback
from wsteer.monitoring.monitor import Settings, monitor
from wsteer.monitoring.report import COLUMNS


@pytest.mark.slow
def test_parts_of_the_model(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    pos, neg = (whole_of(adapter_factors(folder)) for folder in adapters)
    for by, part, wanted in (
        ("layer", "1", lambda name: ".1." in name),
        ("module", "up_proj", lambda name: "up_proj" in name),
        ("parameter", "model.layers.2.mlp.up_proj.weight", lambda name: "2.mlp.up_proj" in name),
    ):
        report = monitor([adapters[0]], tmp_path / by, [adapters[1]], Settings(per=by))
        halves = [{name: w for name, w in side.items() if wanted(name)} for side in (neg, pos)]
        assert report.per[part].cosines[0][0] == pytest.approx(cosine_of(*halves), abs=1e-9)
        assert report.cosines[0][0] == pytest.approx(cosine_of(neg, pos), abs=1e-9)
        lines = list(csv.DictReader((tmp_path / by / f"similarity-per-{by}.csv").open()))
        assert {line[by] for line in lines} == set(report.per)
        assert (tmp_path / by / f"similarity-per-{by}.png").exists()


def test_shares_of_a_dot_product_sum_to_one(tmp_path: Path, cli: Cli) -> None:
    """Also where parts work against each other, and after a mean was removed."""
    built = {name: OF_MATRICES[name]() for name in ("r2", "r3", "dense")}
    paths = saved(tmp_path, {name: delta for name, (delta, _) in built.items()})
    one, other, mean = (whole for _, whole in built.values())
    for extra, (a, b) in (
        ((), (one, other)),
        (("--centre", paths[2]), ({n: one[n] - mean[n] for n in one}, {n: other[n] - mean[n] for n in one})),
    ):
        command = ["monitor", paths[1], "--of", paths[0], "--per", "layer", *extra, "--force", "-o", tmp_path / "m"]
        dots = {str(layer): float((a[name] * b[name]).sum()) for layer, name in enumerate(a)}
        shares = {layer: dot / sum(dots.values()) for layer, dot in dots.items()}
        per = cli(*command, "--json").json["per"]
        assert {layer: part["shares_of_dots"][0][0] for layer, part in per.items()} == pytest.approx(shares, rel=1e-9)
        lines = csv.DictReader((tmp_path / "m" / "similarity-per-layer.csv").open())
        assert {line["layer"]: float(line["share_of_dot"]) for line in lines} == pytest.approx(shares, rel=1e-9)
        text = [line.split() for line in cli(*command).out.splitlines()]
        assert ["share", "of", "dot", "product", "r2", "·", "r3"] in text
        assert ["0", f"{shares['0']:.1%}"] in text


def test_orthogonal_changes_have_no_shares(tmp_path: Path) -> None:
    deltas = {
        "a": {"p": torch.tensor([1.0, 1.0]), "q": torch.ones(1)},
        "b": {"p": torch.tensor([1.0, 0.0]), "q": -torch.ones(1)},
    }
    paths = saved(tmp_path, {name: Delta.of_tensors(tensors) for name, tensors in deltas.items()})
    report = monitor(paths[:1], tmp_path / "m", paths[1:], Settings(per="parameter"))
    assert report.cosines == ((0.0,),)
    assert [part.shares_of_dots for part in report.per.values()] == [((None,),)] * 2
    assert [part.dots[0][0] for part in report.per.values()] == [1, -1]


def test_controls_without_a_common_parameter_tell_nothing(tmp_path: Path, cli: Cli) -> None:
    paths = saved(tmp_path, {name: REPRESENTATIONS[name]()[0] for name in ("r2", "r3", "bias", "dense")})
    r2, r3, bias, dense = paths
    ran = cli("monitor", r2, "--of", r3, "--controls", bias, "-o", tmp_path / "m", "--json")
    assert [ran.json["controls"][key] for key in ("rows", "level", "beyond")] == [[[None]]] * 3
    assert "no control can be compared" in cli("monitor", r2, "--of", r3, "--controls", bias, "-o", tmp_path / "p").out
    ran = cli("monitor", r2, "--of", r3, "--controls", bias, dense, "-o", tmp_path / "n")
    own, control, other = (
        abs(cosine_of(REPRESENTATIONS[one]()[1], REPRESENTATIONS[two]()[1]))
        for one, two in (("r2", "r3"), ("r2", "dense"), ("r3", "dense"))
    )
    assert f"{int(own > max(control, other))} of 1 cosines are larger" in ran.out
    ran = cli("monitor", r2, "--of", r3, "--ceiling", f"r2={bias}", "-o", tmp_path / "o")
    assert ran.error.startswith("--ceiling: r2 and bias have no parameter in common")


@pytest.mark.slow
def test_a_part_that_one_side_leaves_alone_has_no_cosine(tmp_path: Path) -> None:
    paths = saved(tmp_path, {name: OF_MATRICES[name]()[0] for name in ("r2", "partly", "dense")})
    plain = monitor(paths, tmp_path / "m", settings=Settings(per="layer"))
    assert plain.per["1"].cosines[0][1] is None
    assert plain.per["1"].cosines[0][2] is not None


def test_selections(tmp_path: Path, adapters: tuple[Path, Path], cli: Cli) -> None:
    pos, neg = (whole_of(adapter_factors(folder)) for folder in adapters)
    options = ["--layers", "0,2", "--include", "proj", "--exclude", "down_proj"]
    ran = cli("monitor", adapters[0], "--of", adapters[1], *options, "-o", tmp_path / "m", "--json")
    kept = [name for name in pos if ".1." not in name and "down_proj" not in name]
    halves = [{name: side[name] for name in kept} for side in (neg, pos)]
    assert ran.json["cosines"][0][0] == pytest.approx(cosine_of(*halves), abs=1e-9)
    ran = cli("monitor", adapters[0], "--layers", "9", "-o", tmp_path / "n")
    assert ran.error == "pos: --layers: the delta has nothing in [9]; it changes blocks 0 to 2"


def test_the_controls_mean_is_removed(tmp_path: Path, adapters: tuple[Path, Path], tiny: Path) -> None:
    controls = [save_adapter(tmp_path / f"c{seed}", tiny, seed) for seed in (5, 6)]
    pos, neg, *taken = (whole_of(adapter_factors(folder)) for folder in (*adapters, *controls))
    mean = {name: (taken[0][name] + taken[1][name]) / 2 for name in pos}
    centred = [{name: side[name] - mean[name] for name in pos} for side in (neg, pos)]
    report = monitor([adapters[0]], tmp_path / "m", [adapters[1]], Settings(centre=controls))
    assert report.cosines[0][0] == pytest.approx(cosine_of(*centred), abs=1e-9)
    square = sum((matrix**2).sum() for matrix in mean.values())
    norms = [np.sqrt(sum((matrix**2).sum() for matrix in side.values())) for side in centred]
    assert report.similarity.expected[0][0] == pytest.approx(square / (norms[0] * norms[1]), rel=1e-9)


@pytest.mark.slow
def test_controls_and_ceilings_stand_beside_the_cosines(
    tmp_path: Path, adapters: tuple[Path, Path], tiny: Path
) -> None:
    control, again = (save_adapter(tmp_path / name, tiny, seed) for seed, name in ((5, "control"), (6, "again")))
    pos, neg, c, d = (whole_of(adapter_factors(folder)) for folder in (*adapters, control, again))
    settings = Settings(controls=[control], ceiling={"pos": [again]})
    report = monitor([adapters[0]], tmp_path / "m", [adapters[1]], settings)
    level = max(abs(cosine_of(neg, c)), abs(cosine_of(pos, c)))
    assert report.controls.rows[0][0] == pytest.approx(cosine_of(neg, c), abs=1e-9)
    assert report.controls.columns[0][0] == pytest.approx(cosine_of(pos, c), abs=1e-9)
    assert report.controls.level[0][0] == pytest.approx(level, abs=1e-9)
    assert report.controls.beyond == ((abs(cosine_of(neg, pos)) > level,),)
    assert report.ceilings[0].mean == pytest.approx(cosine_of(pos, d), abs=1e-9)
    (line,) = csv.DictReader((tmp_path / "m" / "similarity.csv").open())
    assert tuple(line) == COLUMNS
    assert float(line["share_of_ceiling"]) == pytest.approx(cosine_of(neg, pos) / cosine_of(pos, d), rel=1e-6)
    assert float(line["control_level"]) == pytest.approx(level, rel=1e-6)
    with pytest.raises(WsteerError, match="--centre removes an item whole"):
        monitor([adapters[0]], tmp_path / "n", [adapters[1]], settings=Settings(centre=[adapters[1]]))
    with pytest.raises(WsteerError, match="--ceiling 'nobody' names no DELTA; they are pos"):
        monitor([adapters[0]], tmp_path / "n", settings=Settings(ceiling={"nobody": [again]}))


def test_files_hold_what_was_computed(tmp_path: Path, adapters: tuple[Path, Path], cli: Cli) -> None:
    wsteer.diff(*adapters, tmp_path / "w.safetensors")
    ran = cli("monitor", tmp_path / "w.safetensors", "--of", *adapters, "-o", tmp_path / "m", "--json")
    written = json.loads((tmp_path / "m" / "similarity.json").read_text())
    assert {**written, "output": str(tmp_path / "m"), "wsteer_version": wsteer.__version__} == ran.json
    lines = list(csv.DictReader((tmp_path / "m" / "similarity.csv").open()))
    assert [(line["row"], line["column"]) for line in lines] == [("pos", "w"), ("neg", "w")]
    for key, name in (
        ("cosine", "cosines"),
        ("dot", "dots"),
        ("floor", "floor"),
        ("z", "z"),
        ("shared_row", "shared_rows"),
    ):
        assert [float(line[key]) for line in lines] == [row[0] for row in written[name]]
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == ["similarity.csv", "similarity.json", "similarity.png", "similarity.svg", "wsteer.json"]
    assert (tmp_path / "m" / "similarity.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "0.7" in (tmp_path / "m" / "similarity.svg").read_text()


@pytest.mark.slow
def test_same_input_gives_the_same_bytes(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    for name in ("x", "y"):
        monitor(adapters, tmp_path / name, settings=Settings(per="layer"))
    for path in (tmp_path / "x").iterdir():
        assert path.read_bytes() == (tmp_path / "y" / path.name).read_bytes()


def test_in_python_a_path_alone_is_a_list_of_one(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    pos, neg = map(str, adapters)
    alone = monitor(pos, tmp_path / "a", neg, Settings(controls=neg, ceiling={"pos": neg}))
    several = monitor([pos], tmp_path / "b", [neg], Settings(controls=[neg], ceiling={"pos": [neg]}))
    assert alone.cosines == several.cosines
    assert list(SimilarityCallback(_saved_delta(tmp_path, pos)).deltas) == ["w"]


def _saved_delta(folder: Path, adapter: str) -> str:
    wsteer.diff(adapter, output=folder / "w.safetensors")
    return str(folder / "w.safetensors")


def test_in_python_nothing_to_compare_and_a_bound_that_is_nan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match="one delta or more"):
        monitor([], tmp_path / "m")
    with pytest.raises(WsteerError, match="the bound of w is NaN"):
        Settings(fail_above={"w": float("nan")})
