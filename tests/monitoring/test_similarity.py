"""Similarity tables against dense float64 computations."""

import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import wsteer
from tests.helpers.command import Cli
from tests.helpers.dense_changes import (
    FIRST,
    OF_BIASES,
    OF_MATRICES,
    REPRESENTATIONS,
    SHAPES,
    Whole,
    cosine_of,
    low_rank,
    saved,
    shared_cosine_of,
    whole_of,
)
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.tiny import save_adapter, save_model
from wsteer.deltas.delta import Delta
from wsteer.deltas.gram import grouped_sums
from wsteer.errors import WsteerError
from wsteer.monitoring.monitor import Settings, monitor
from wsteer.monitoring.similarity import similarity

BOTH = (("cosines", "floor"), ("cosines_shared", "floor_shared"))


@pytest.mark.slow
@pytest.mark.parametrize("pair", [*combinations(OF_MATRICES, 2), *combinations(OF_BIASES, 2)], ids=" and ".join)
def test_every_mixture_equals_the_dense_computation(tmp_path: Path, pair: tuple[str, str]) -> None:
    deltas = {name: REPRESENTATIONS[name]() for name in pair}
    one, other = saved(tmp_path, {name: delta for name, (delta, _) in deltas.items()})
    for rows, columns in (([one], [other]), ([other], [one])):
        table = monitor(columns, tmp_path / "m", rows, force=True).similarity
        wholes = [whole for _, whole in deltas.values()]
        assert table.cosines[0][0] == pytest.approx(cosine_of(*wholes), abs=1e-9)
        assert table.cosines_shared[0][0] == pytest.approx(shared_cosine_of(*wholes), abs=1e-9)
        whole = deltas[rows[0].stem][1]
        assert table.norms_rows[0] == pytest.approx(np.sqrt(sum((w**2).sum() for w in whole.values())), rel=1e-12)


def test_the_shared_share_of_norms_is_reported(tmp_path: Path, cli: Cli) -> None:
    partly, wide = saved(tmp_path, {name: OF_MATRICES[name]()[0] for name in ("partly", "wide")})
    table = monitor([wide], tmp_path / "m", [partly]).similarity
    whole = OF_MATRICES["wide"]()[1]
    first = next(iter(SHAPES))
    norm = np.sqrt(sum((w**2).sum() for w in whole.values()))
    assert table.shared_rows == ((1.0,),)
    assert table.shared_columns[0][0] == pytest.approx(np.linalg.norm(whole[first]) / norm, rel=1e-12)
    ran = cli("monitor", wide, "--of", partly, "-o", tmp_path / "again")
    assert f"hold {table.shared_columns[0][0]:.0%} of a norm of partly or wide" in ran.err


@pytest.mark.slow
def test_all_pairs_equal_pair_by_pair(tmp_path: Path) -> None:
    paths = saved(tmp_path, {name: build()[0] for name, build in OF_MATRICES.items()})
    table = monitor(paths, tmp_path / "m").similarity
    for i, one in enumerate(paths):
        for j, other in enumerate(paths):
            assert table.cosines[i][j] == table.cosines[j][i]
            if i != j:
                single = monitor([other], tmp_path / "pair", [one], force=True).similarity
                for key in ("cosines", "cosines_shared", "dots", "shared_rows", "floor", "overlaps"):
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


@pytest.mark.slow
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


def test_norms_beyond_the_range_of_their_product_are_refused_by_name() -> None:
    tiny = {name: Delta.of_tensors({"w": torch.full((2, 2), 1e-100, dtype=torch.float64)}) for name in ("a", "b")}
    sums = grouped_sums([delta.terms for delta in tiny.values()], 2, lambda name: "")[""]
    with pytest.raises(WsteerError, match="the norms of a and b are too small or too large"):
        similarity(sums, list(tiny), [0], [1])


def test_the_papers_cosine_is_the_default(tmp_path: Path, cli: Cli) -> None:
    """Of a change with its own part it is the part's share of the norm, as `Delta.cosine` says; over shared ones 1."""
    delta, whole = OF_MATRICES["r2"]()
    part, partly = OF_MATRICES["partly"]()
    paths = saved(tmp_path, {"tau": delta, "part": part})
    ran = cli("monitor", *paths, "-o", tmp_path / "m", "--json")
    share = np.linalg.norm(partly[FIRST]) / np.sqrt(sum((matrix**2).sum() for matrix in whole.values()))
    assert ran.json["cosines"][0][1] == pytest.approx(share, abs=1e-12) == delta.cosine(part)
    assert ran.json["cosines_shared"][0][1] == pytest.approx(1.0)
    assert ran.json["floor"][0][1] == pytest.approx(share * ran.json["floor_shared"][0][1], rel=1e-12)
    distances = [ran.json[cosine][0][1] / ran.json[floor][0][1] for cosine, floor in BOTH]
    assert distances == [pytest.approx(ran.json["z"][0][1], rel=1e-12)] * 2
    (line, *_) = [line for line in csv.DictReader((tmp_path / "m" / "similarity.csv").open()) if line["row"] == "part"]
    assert (float(line["cosine"]), float(line["cosine_shared"])) == (pytest.approx(share), pytest.approx(1.0))
    assert ">1.000<" not in (tmp_path / "m" / "similarity.svg").read_text().replace(">1.000<", "", 2)
    assert (tmp_path / "m" / "similarity-shared.svg").read_text().count(">1.000<") == 4
    text = [line.split() for line in cli("monitor", *paths, "-o", tmp_path / "n").out.splitlines()]
    shown = f"{share:.3f}*"
    assert text[:3] == [["cosine", "tau", "part"], ["tau", "1.000", shown], ["part", shown, "1.000"]]
    assert text[4:7] == [["over", "shared", "tau", "part"], ["tau", "1.000*"], ["part", "1.000*"]]


def test_a_pair_without_a_common_parameter_is_an_empty_cell(tmp_path: Path, cli: Cli) -> None:
    names = ("r2", "dense", "bias")
    paths = saved(tmp_path, {name: REPRESENTATIONS[name]()[0] for name in names})
    ran = cli("monitor", *paths, "-o", tmp_path / "m", "--json")
    for key in ("cosines", "cosines_shared", "floor", "z", "above"):
        assert [ran.json[key][i][j] for i, j in ((0, 2), (1, 2), (2, 0))] == [None] * 3
    wholes = [REPRESENTATIONS[name]()[1] for name in names]
    assert ran.json["cosines"][0][1] == pytest.approx(cosine_of(*wholes[:2]), abs=1e-9)
    lines = {(line["row"], line["column"]): line for line in csv.DictReader((tmp_path / "m" / "similarity.csv").open())}
    assert lines["r2", "bias"]["cosine"] == lines["r2", "bias"]["z"] == ""
    ran = cli("monitor", *paths, "-o", tmp_path / "n")
    assert ran.out.splitlines()[3].split() == ["bias", "1.000"]
    assert "r2 and bias (and 1 more) have no parameter in common that both change: their cell is empty" in ran.err


def test_a_parameter_that_did_not_move_is_not_in_common(tmp_path: Path) -> None:
    """As in a checkpoint whose other weights were frozen."""
    moved, still = torch.ones(3), torch.zeros(3)
    deltas = {"a": {"p": moved, "q": still}, "b": {"p": still, "q": moved}, "c": {"p": moved, "q": moved}}
    paths = saved(tmp_path, {name: Delta.of_tensors(tensors) for name, tensors in deltas.items()})
    table = monitor(paths, tmp_path / "m").similarity
    assert table.cosines[0][1] is None
    assert table.cosines[0][2] == pytest.approx(0.5**0.5)
    assert table.cosines_shared[0][2] == pytest.approx(1.0)


def test_gates_say_which_cosine_they_take(tmp_path: Path, cli: Cli) -> None:
    paths = saved(tmp_path, {name: REPRESENTATIONS[name]()[0] for name in ("r2", "partly", "bias")})
    command = ["monitor", paths[0], "--of", *paths[1:2], "-o", tmp_path / "m", "--force"]
    assert cli(*command, "--fail-above", "r2=0.999").code == 0
    ran = cli(*command, "--fail-above", "r2:shared=0.99")
    assert ran.code == 3
    assert "gate failed: partly: cosine over shared parameters with r2 is 1.0000, above 0.99" in ran.err
    ran = cli("monitor", paths[0], "--of", *paths[1:], "-o", tmp_path / "n", "--fail-above", "r2=2")
    assert (ran.code, ran.error) == (
        1,
        "the gate 'r2' cannot break: bias and r2 have no parameter in common that both change; leave one of them out",
    )
    centre = ["--centre", *saved(tmp_path, {"c": REPRESENTATIONS["dense"]()[0]})]
    ran = cli(*command, *centre, "--fail-above", "r2:shared=0.99")
    assert ran.error == "the gate 'r2:shared' bounds nothing that is measured; give r2"
