"""Similarity tables against dense float64 computations, and what surrounds them: controls, ceilings, gates, groups."""

import csv
import json
import shutil
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import wsteer
from tests.conftest import Cli, save_adapter, save_model
from tests.folding import adapter_factors
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.monitor import Settings, monitor
from wsteer.monitoring.report import COLUMNS

Whole = dict[str, np.ndarray]


def whole_of(factors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Whole:
    """The change as float64 matrices."""
    return {name: b.double().numpy() @ a.double().numpy() for name, (b, a) in factors.items()}


def cosine_of(a: Whole, b: Whole) -> float:
    """The cosine over the parameters that both change, in numpy's float64."""
    names = sorted(a.keys() & b.keys())
    x, y = (np.concatenate([side[name].ravel() for name in names]) for side in (a, b))
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


SHAPES = {"model.layers.0.mlp.up_proj.weight": (12, 7), "model.layers.1.mlp.up_proj.weight": (5, 9)}
BIAS = "model.layers.{}.mlp.down_proj.bias"


def low_rank(seed: int, rank: int, std: float = 1.0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (std * torch.randn(out, rank, generator=generator), torch.randn(rank, into, generator=generator))
        for name, (out, into) in SHAPES.items()
    }


def mixtures() -> dict[str, tuple[Delta, Whole]]:
    """Deltas of every representation beside their whole matrices."""
    torch.manual_seed(0)
    dense = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    wide = {**{name: torch.randn(shape) for name, shape in SHAPES.items()}, "model.norm.weight": torch.randn(7)}
    bias = {BIAS.format(block): torch.randn(7) for block in range(2)}
    vectors = {f"blocks.{block}": torch.randn(7) for block in range(2)}
    r2, r3 = low_rank(1, 2), low_rank(2, 3)
    first = next(iter(SHAPES))
    partly = {first: r2[first]}
    as_biases = {BIAS.format(block): vectors[f"blocks.{block}"].double().numpy() for block in range(2)}
    return {
        "r2": (Delta.of_factors(r2), whole_of(r2)),
        "r3": (Delta.of_factors(r3), whole_of(r3)),
        "partly": (Delta.of_factors(partly), whole_of(partly)),
        "dense": (Delta.of_tensors(dense), {name: tensor.double().numpy() for name, tensor in dense.items()}),
        "wide": (Delta.of_tensors(wide), {name: tensor.double().numpy() for name, tensor in wide.items()}),
        "bias": (Delta.of_tensors(bias), {name: tensor.double().numpy() for name, tensor in bias.items()}),
        "vector": (Delta.of_tensors(vectors, "activation"), as_biases),
    }


def saved(folder: Path, deltas: dict[str, Delta]) -> list[Path]:
    for name, delta in deltas.items():
        delta.save(folder / f"{name}.safetensors")
    return [folder / f"{name}.safetensors" for name in deltas]


@pytest.mark.parametrize("pair", [*combinations(["r2", "r3", "partly", "dense", "wide"], 2), ("bias", "vector")])
def test_every_mixture_equals_the_dense_computation(tmp_path: Path, pair: tuple[str, str]) -> None:
    deltas = {name: mixtures()[name] for name in pair}
    one, other = saved(tmp_path, {name: delta for name, (delta, _) in deltas.items()})
    for rows, columns in (([one], [other]), ([other], [one])):
        table = monitor(columns, tmp_path / "m", rows, force=True).similarity
        assert table.cosines[0][0] == pytest.approx(cosine_of(*(whole for _, whole in deltas.values())), abs=1e-9)
        whole = deltas[rows[0].stem][1]
        assert table.norms_rows[0] == pytest.approx(np.sqrt(sum((w**2).sum() for w in whole.values())), rel=1e-12)


def test_the_shared_share_of_norms_is_reported(tmp_path: Path, cli: Cli) -> None:
    deltas = {name: delta for name, (delta, _) in mixtures().items() if name in ("partly", "wide")}
    partly, wide = saved(tmp_path, deltas)
    table = monitor([wide], tmp_path / "m", [partly]).similarity
    whole = mixtures()["wide"][1]
    first = next(iter(SHAPES))
    norm = np.sqrt(sum((w**2).sum() for w in whole.values()))
    assert table.shared_rows == ((1.0,),)
    assert table.shared_columns[0][0] == pytest.approx(np.linalg.norm(whole[first]) / norm, rel=1e-12)
    ran = cli("monitor", wide, "--of", partly, "-o", tmp_path / "again")
    assert f"that is {table.shared_columns[0][0]:.0%} of a norm" in ran.err


def test_all_pairs_equal_pair_by_pair(tmp_path: Path) -> None:
    paths = saved(tmp_path, {name: delta for name, (delta, _) in mixtures().items() if name not in ("bias", "vector")})
    table = monitor(paths, tmp_path / "m").similarity
    for i, one in enumerate(paths):
        for j, other in enumerate(paths):
            assert table.cosines[i][j] == table.cosines[j][i]
            if i != j:
                single = monitor([other], tmp_path / "pair", [one], force=True).similarity
                for key in ("cosines", "dots", "shared_rows", "floor", "overlaps"):
                    expected, found = getattr(single, key)[0][0], getattr(table, key)[i][j]
                    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-12))
        assert table.cosines[i][i] == 1.0


def nearly_equal(relative: float) -> tuple[Delta, Whole, Delta, Whole]:
    """A low-rank change and its like with other B, relatively so far away, with their whole matrices."""
    one = low_rank(3, 3)
    generator = torch.Generator().manual_seed(4)
    other = {name: (b * (1 + relative * torch.randn(b.shape, generator=generator)), a) for name, (b, a) in one.items()}
    return Delta.of_factors(one), whole_of(one), Delta.of_factors(other), whole_of(other)


def test_nearly_parallel_changes_are_told_apart(tmp_path: Path) -> None:
    one, whole_one, other, whole_other = nearly_equal(1e-6)
    dense = Delta.of_tensors({name: torch.from_numpy(matrix) for name, matrix in whole_one.items()})
    paths = saved(tmp_path, {"one": one, "other": other, "dense": dense})
    stored = {name: tensor.double().numpy() for name, tensor in load_file(paths[2]).items()}
    table = monitor(paths, tmp_path / "m").similarity
    for i, j, a, b in ((0, 1, whole_one, whole_other), (0, 2, whole_one, stored), (1, 2, whole_other, stored)):
        assert table.cosines[i][j] == pytest.approx(cosine_of(a, b), abs=1e-9)
        # below 1 by the squared angle, which float32 sums could not show
        assert 1 - table.cosines[i][j] == pytest.approx(1 - cosine_of(a, b), abs=2e-15)


def test_small_differences_of_large_changes_keep_their_direction(tmp_path: Path) -> None:
    """Contrastive deltas whose sides differ by a millionth, stored as the factors of both sides."""
    deltas, wholes = {}, {}
    for name, seed in (("w", 5), ("v", 7)):
        b_seed = torch.Generator().manual_seed(seed)
        pos = low_rank(3, 3)
        neg = {key: (b * (1 + 1e-6 * torch.randn(b.shape, generator=b_seed)), a) for key, (b, a) in pos.items()}
        deltas[name] = Delta.of_factors(pos) - Delta.of_factors(neg)
        wholes[name] = {
            key: (pos[key][0].double() - neg[key][0].double()).numpy() @ pos[key][1].double().numpy() for key in pos
        }
    w, v = saved(tmp_path, deltas)
    table = monitor([w], tmp_path / "m", [v]).similarity
    norm = np.sqrt(sum((matrix**2).sum() for matrix in wholes["v"].values()))
    assert table.norms_rows[0] == pytest.approx(norm, rel=1e-8)
    assert table.cosines[0][0] == pytest.approx(cosine_of(wholes["w"], wholes["v"]), abs=1e-9)


def test_nearly_orthogonal_changes_are_measured(tmp_path: Path) -> None:
    one = low_rank(3, 3)
    wholes = [whole_of(one)]
    other = {name: torch.randn(shape, generator=torch.Generator().manual_seed(9)) for name, shape in SHAPES.items()}
    for _ in range(2):  # take the component along `one` out, but for a millionth
        dot = sum((other[name].double().numpy() * matrix).sum() for name, matrix in wholes[0].items())
        square = sum((matrix**2).sum() for matrix in wholes[0].values())
        other = {
            name: (tensor.double() - (dot / square - 1e-7) * torch.from_numpy(wholes[0][name]))
            for name, tensor in other.items()
        }
    paths = saved(tmp_path, {"one": Delta.of_factors(one), "other": Delta.of_tensors(other)})
    stored = {name: tensor.double().numpy() for name, tensor in load_file(paths[1]).items()}
    cosine = monitor([paths[0]], tmp_path / "m", [paths[1]]).cosines[0][0]
    assert abs(cosine) < 1e-5
    assert cosine == pytest.approx(cosine_of(wholes[0], stored), abs=1e-12)


def test_adapters_and_checkpoints_are_compared_with_their_deltas(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    wsteer.diff(*adapters, tmp_path / "w.safetensors")
    wsteer.steer(tiny, tmp_path / "w.safetensors", k=1.0, output=tmp_path / "steered")
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny, tmp_path / "steered"))
    change = {name: (after[name].double() - before[name].double()).numpy() for name in before}
    pos, neg = (whole_of(adapter_factors(folder)) for folder in adapters)
    w = {name: pos[name] - neg[name] for name in pos}
    report = monitor(
        [tmp_path / "w.safetensors"], tmp_path / "m", [*adapters, tmp_path / "steered"], Settings(base=tiny)
    )
    assert report.similarity.rows == ("pos", "neg", "steered")
    assert [row[0] for row in report.cosines] == pytest.approx(
        [cosine_of(each, w) for each in (pos, neg, change)], abs=1e-9
    )
    assert report.similarity.shared_rows[2][0] == pytest.approx(1.0)


def test_adapters_told_by_their_base_are_compared_as_dense(tmp_path: Path, tiny: Path) -> None:
    dora = save_adapter(tmp_path / "dora", tiny, 1, use_dora=True)
    plain = save_adapter(tmp_path / "plain", tiny, 2)
    wsteer.diff(dora, output=tmp_path / "dora.safetensors")
    expected = Delta.load(tmp_path / "dora.safetensors").cosine(Delta.of_factors(adapter_factors(plain)))
    report = monitor([plain], tmp_path / "m", [dora])
    assert report.cosines[0][0] == pytest.approx(expected, abs=1e-6)  # the file holds float32
    assert report.similarity.overlaps == ((None,),)


def test_tied_embeddings_count_once(tmp_path: Path) -> None:
    base, tuned = (save_model(tmp_path / name, tie_word_embeddings=True, seed=seed) for seed, name in enumerate("ab"))
    tensors = load_file(tuned / "model.safetensors")
    assert "lm_head.weight" not in tensors
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tuned / "model.safetensors")
    before = load_file(base / "model.safetensors")
    norm = sum(float(((tensors[name].double() - before[name].double()) ** 2).sum()) for name in before) ** 0.5
    wsteer.diff(tuned, output=tmp_path / "t.safetensors", base=base)
    table = monitor([tmp_path / "t.safetensors"], tmp_path / "m", [tuned], Settings(base=base)).similarity
    assert table.norms_rows[0] == pytest.approx(norm, rel=1e-12)


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


def test_a_part_that_one_side_leaves_alone_has_no_cosine(tmp_path: Path) -> None:
    paths = saved(tmp_path, {name: mixtures()[name][0] for name in ("r2", "partly", "dense")})
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


def test_groups_order_the_picture(tmp_path: Path, cli: Cli) -> None:
    deltas = {name: Delta.of_factors(low_rank(seed, 2)) for seed, name in enumerate(("evil-1", "syc-1", "evil-2"))}
    paths = saved(tmp_path, deltas)
    groups = ["--group", "sycophantic=syc*", "--group", "evil=evil-?"]
    ran = cli("monitor", *paths, *groups, "-o", tmp_path / "m", "--json")
    assert ran.json["groups"] == {"evil": ["evil-1", "evil-2"], "sycophantic": ["syc-1"]}
    picture = (tmp_path / "m" / "similarity.svg").read_text()
    labels = [picture.index(f">{name}<") for name in ("syc-1", "evil-1", "evil-2")]
    assert labels == sorted(labels)
    assert ">sycophantic<" in picture
    ran = cli("monitor", *paths, "--group", "none=x*", "-o", tmp_path / "n")
    assert ran.error == "--group none=x* matches no item; they are evil-1, syc-1, evil-2"


GATES = [
    (["--fail-above", "w=0.99"], None),
    (["--fail-above", "w=0.5"], ("pos", "above 0.5")),
    (["--fail-below", "w=-0.5"], ("neg", "below -0.5")),
    (["--fail-below", "w=-0.99", "--fail-above", "w=0.99"], None),
]


@pytest.mark.parametrize(("bounds", "culprit"), GATES)
def test_gates_exit_3_and_name_the_culprit(
    tmp_path: Path, adapters: tuple[Path, Path], cli: Cli, bounds: list[str], culprit: tuple[str, str] | None
) -> None:
    wsteer.diff(*adapters, tmp_path / "w.safetensors")
    ran = cli("monitor", tmp_path / "w.safetensors", "--of", *adapters, *bounds, "-o", tmp_path / "m")
    lines = [line for line in ran.err.splitlines() if "gate failed" in line]
    cosines = json.loads((tmp_path / "m" / "similarity.json").read_text())["cosines"]  # the result stands
    assert ran.out.splitlines()[-1] == str(tmp_path / "m")
    if culprit is None:
        assert (ran.code, lines) == (0, [])
    else:
        name, side = culprit
        ((cosine,),) = [cosines[["pos", "neg"].index(name)]]
        assert ran.code == 3
        assert lines == [f"wsteer: gate failed: {name}: cosine with w is {cosine:.4f}, {side}"]


def test_gates_hold_for_all_pairs_and_for_names(tmp_path: Path, cli: Cli) -> None:
    paths = saved(tmp_path, {"a": Delta.of_factors(low_rank(1, 2)), "b": Delta.of_factors(low_rank(1, 2, std=2.0))})
    ran = cli("monitor", *paths, "--fail-above", "b=0.5", "-o", tmp_path / "m", "--json")
    assert ran.code == 3
    assert [(each["item"], each["delta"]) for each in ran.json["failures"]] == [("a", "b")]
    ran = cli("monitor", *paths, "--fail-above", "c=0.5", "-o", tmp_path / "n")
    assert (ran.code, ran.error) == (1, "the gate 'c' names no DELTA; they are a, b")
    for wrong in ("b", "b=x", "=1"):
        assert cli("monitor", *paths, "--fail-above", wrong, "-o", tmp_path / "n").code == 2


def test_equal_names_in_different_folders_are_different_deltas(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", -1.0)):
        (tmp_path / name).mkdir()
        Delta.of_tensors({"p": torch.full((3,), value)}).save(tmp_path / name / "w.safetensors")
    report = monitor([tmp_path / "a" / "w.safetensors"], tmp_path / "m", of=[tmp_path / "b" / "w.safetensors"])
    assert report.cosines == ((-1.0,),)
    assert (report.similarity.rows, report.similarity.columns) == (("b/w",), ("a/w",))


def refused(folder: Path, tiny: Path, adapters: Sequence[Path]) -> dict[str, tuple[list, str]]:
    """Bad input: arguments of monitor and what its one line names."""
    torch.manual_seed(0)
    tensors = {
        "a": {"a": torch.ones(3)},
        "other": {"b": torch.ones(3)},
        "longer": {"a": torch.ones(4)},
        "zero": {"a": torch.zeros(3)},
        "nan": {"a": torch.tensor([1.0, float("nan"), 0.0])},
    }
    paths = dict(zip(tensors, saved(folder, {n: Delta.of_tensors(t) for n, t in tensors.items()}), strict=True))
    small = save_model(folder / "small", num_hidden_layers=2)
    of_small = save_adapter(folder / "of_small", small, 1)
    holed = save_adapter(folder / "holed", tiny, 1)
    factors = load_file(holed / "adapter_model.safetensors")
    next(iter(factors.values()))[0, 0] = float("inf")
    save_file(factors, holed / "adapter_model.safetensors")
    gone = save_model(folder / "gone")
    (gone / "model.safetensors").unlink()
    cut = save_model(folder / "cut")
    (cut / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:-100])
    (folder / "again").mkdir()
    shutil.copytree(adapters[0], folder / "again" / "pos")
    (folder / "empty").mkdir()
    (folder / "scores.csv").write_text("step,score\n1,x\n")
    a = paths["a"]
    return {
        "nothing in common": ([a, "--of", paths["other"]], "other and a have no parameter in common"),
        "shapes": ([a, "--of", paths["longer"]], "a has different shapes in the deltas compared"),
        "bases": ([adapters[0], "--of", of_small], "pos (of tiny-llama) and of_small (of small) have different bases"),
        "another base": ([adapters[0], "--base", small], "was it made on another model"),
        "zero": ([a, "--of", paths["zero"]], "zero changes nothing: its norm is 0"),
        "nan": ([a, "--of", paths["nan"]], "nan holds NaN or infinity"),
        "infinite factor": ([adapters[0], "--of", holed], "holds NaN or infinity"),
        "checkpoint alone": ([a, "--of", tiny], "needs --base"),
        "missing weights": ([adapters[0], "--of", gone, "--base", tiny], "holds no model.safetensors"),
        "truncated weights": ([adapters[0], "--of", cut, "--base", tiny], "is truncated"),
        "named twice": ([a, "--of", adapters[0], f"{adapters[0]}/"], "is named twice (--of)"),
        "missing": ([a, "--of", folder / "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        "empty folder": ([a, "--of", folder / "empty"], "is neither an adapter"),
        "watched folder": ([a, "--of", folder / "nowhere", "--watch"], "does not exist or is no folder"),
        "scores alone": ([a, "--scores", folder / "scores.csv"], "scores.csv:2: step and score must be numbers"),
        "scores without header": ([a, "--scores", a], "cannot be read as CSV"),
    }


CASES = [
    *("nothing in common", "shapes", "bases", "another base", "zero", "nan", "infinite factor", "checkpoint alone"),
    *("missing weights", "truncated weights", "named twice", "missing", "empty folder", "watched folder"),
    *("scores alone", "scores without header"),
]


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_compared_is_one_line(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], cli: Cli, case: str
) -> None:
    arguments, named = refused(tmp_path, tiny, adapters)[case]
    ran = cli("monitor", *arguments, "-o", tmp_path / "m")
    assert (ran.code, ran.out) == (1, "")
    assert named in ran.error
    assert not (tmp_path / "m").exists()


def test_same_input_gives_the_same_bytes(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    for name in ("x", "y"):
        monitor(adapters, tmp_path / name, settings=Settings(per="layer"))
    for path in (tmp_path / "x").iterdir():
        assert path.read_bytes() == (tmp_path / "y" / path.name).read_bytes()


def test_a_wide_table_is_shown_by_its_largest_cosines(tmp_path: Path, cli: Cli) -> None:
    paths = saved(tmp_path, {f"d{seed:02}": Delta.of_factors(low_rank(seed, 2)) for seed in range(12)})
    ran = cli("monitor", *paths, "-o", tmp_path / "m")
    header, first, second, *_ = ran.out.splitlines()
    assert header.split() == ["largest", "of", "66", "pairs", "cosine"]
    values = [abs(float(line.split()[-1].rstrip("*"))) for line in (first, second)]
    cosines = json.loads((tmp_path / "m" / "similarity.json").read_text())["cosines"]
    largest = sorted({abs(c) for row in cosines for c in row if c != 1.0})[::-1]
    assert values == [pytest.approx(c, abs=5e-4) for c in largest[:2]]


def test_options_that_would_be_ignored_are_usage_errors(tmp_path: Path, adapters: tuple[Path, Path], cli: Cli) -> None:
    ran = cli("monitor", adapters[0], "--of", adapters[1], "--watch", "--group", "a=b", "-o", tmp_path / "m")
    assert ran.code == 2
    assert "--group: it is not used with --watch" in " ".join(ran.err.split())
