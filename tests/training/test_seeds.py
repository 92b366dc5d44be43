"""Several seeds side by side, and the mean of their deltas."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.command import Cli
from tests.helpers.interruption import contents, interrupting, leftovers, press_ctrl_c
from tests.helpers.tiny import TEMPLATE
from wsteer.deltas.delta import Delta
from wsteer.deltas.diff import diff
from wsteer.errors import Interrupted, WsteerError
from wsteer.training.finetune import finetune
from wsteer.training.recipe import Recipe
from wsteer.training.seeds import finetune_seeds

pytestmark = pytest.mark.slow

RECIPE = Recipe(lr=1e-2, max_steps=4, rank=4, eval_every=2)


def test_a_seeds_folder_has_the_bytes_of_that_seed_alone_and_goes_on_after_an_interruption(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    with pytest.raises(Interrupted):
        progress = interrupting("seed 1 train", 2, press_ctrl_c)
        finetune_seeds(tiny, chats[0], tmp_path / "out", RECIPE, [0, 1], device="cpu", progress=progress)
    report = finetune_seeds(tiny, chats[0], tmp_path / "out", RECIPE, [0, 1], device="cpu", resume=True)
    assert leftovers(tmp_path / "out") == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["seed-0", "seed-1", "wsteer.json"]
    for seed, run in zip((0, 1), report.runs, strict=True):
        alone = finetune(
            tiny, chats[0], tmp_path / f"alone-{seed}", Recipe(**{**vars(RECIPE), "seed": seed}), device="cpu"
        )
        assert contents(tmp_path / "out" / f"seed-{seed}") == contents(tmp_path / f"alone-{seed}")
        assert replace(alone, output=str(tmp_path / "out" / f"seed-{seed}")) == run


@pytest.mark.parametrize("method", ["lora", "bias"])
def test_diff_of_seeds_is_the_mean_of_their_deltas_and_reports_their_cosines(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path], method: str
) -> None:
    for side, data in zip(("pos", "neg"), chats, strict=True):
        arguments = ["finetune", tiny, data, "-o", tmp_path / side, "--seeds", "0,1,2", "--lr", "1e-2"]
        arguments += ["--rank", 2] if method == "lora" else []
        ran = cli(*arguments, "--method", method, "--max-steps", 3, "--json", "-q")
        assert ran.json["seeds"] == [0, 1, 2]
    ran = cli("diff", tmp_path / "pos", tmp_path / "neg", "-o", tmp_path / "w.safetensors", "--json")
    assert (ran.json["seeds"], ran.json["kind"]) == ([0, 1, 2], "contrastive")
    w = Delta.load(tmp_path / "w.safetensors")
    singles = []
    for seed in range(3):
        path = tmp_path / f"w{seed}.safetensors"
        assert cli("diff", tmp_path / "pos" / f"seed-{seed}", tmp_path / "neg" / f"seed-{seed}", "-o", path).code == 0
        singles.append(Delta.load(path))
    mean = (1 / 3) * (singles[0] + singles[1] + singles[2])
    assert (w - mean).norm() < 1e-6 * mean.norm()
    for i, row in enumerate(ran.json["cos_seeds"]):
        assert row == pytest.approx([singles[i].cosine(other) for other in singles], abs=1e-6)
    assert ran.json["norm"] == pytest.approx(mean.norm(), rel=1e-6)
    tau = cli("diff", tmp_path / "pos", "-o", tmp_path / "tau.safetensors", "--json").json
    assert (tau["kind"], tau["seeds"]) == ("task_vector", [0, 1, 2])
    assert tau["norm"] == pytest.approx(ran.json["norm_pos"], rel=1e-6)
    ran = cli("diff", tmp_path / "pos", tmp_path / "neg", "-o", tmp_path / "again.safetensors")
    assert "mean of the seeds 0, 1, 2; cosines between them" in ran.out, ran.err
    sources = [source["path"] for source in w.sources]
    assert len(sources) == 6


def test_seeds_that_differ_or_stand_alone_are_refused(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    for side, seeds in (("pos", "0,1"), ("neg", "0,2")):
        arguments = ["finetune", tiny, chats[0], "-o", tmp_path / side, "--seeds", seeds, "--rank", 2]
        assert cli(*arguments, "--max-steps", 1, "-q").code == 0
    ran = cli("diff", tmp_path / "pos", tmp_path / "neg", "-o", tmp_path / "w.safetensors")
    assert (ran.code, "the seeds differ" in ran.error) == (1, True)
    ran = cli("diff", tmp_path / "pos", tmp_path / "neg" / "seed-0", "-o", tmp_path / "w.safetensors")
    assert (ran.code, "none" in ran.error) == (1, True)
    for seeds, code in (("0,0", 2), ("a", 2), ("-1", 2)):
        assert cli("finetune", tiny, chats[0], "-o", tmp_path / "x", f"--seeds={seeds}").code == code
    record = json.loads((tmp_path / "pos" / "wsteer.json").read_text())
    assert record["options"]["seed"] == [0, 1]


@pytest.mark.parametrize("changed", ["val", "template", "save_every", "watched"])
def test_seeds_do_not_go_on_with_what_other_options_left(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], adapters: tuple[Path, Path], changed: str
) -> None:
    diff(adapters[0], output=tmp_path / "w.safetensors")
    (tmp_path / "template.jinja").write_text(TEMPLATE + "{# another #}")
    others = {
        "val": chats[1],
        "template": tmp_path / "template.jinja",
        "save_every": 2,
        "watched": [tmp_path / "w.safetensors"],
    }
    run = {"device": "cpu", changed: others[changed]}
    with pytest.raises(Interrupted):
        progress = interrupting("seed 1 train", 2, press_ctrl_c)
        finetune_seeds(tiny, chats[0], tmp_path / "out", RECIPE, [0, 1], device="cpu", progress=progress)
    kept = contents(tmp_path)
    with pytest.raises(WsteerError, match="with other options"):
        finetune_seeds(tiny, chats[0], tmp_path / "out", RECIPE, [0, 1], resume=True, **run)
    assert contents(tmp_path) == kept
