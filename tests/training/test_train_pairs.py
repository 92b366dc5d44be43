"""finetune --pairs: the bytes of separate runs, on one load; what is finished stays, and what differs is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.command import Cli
from tests.helpers.interruption import contents, interrupting, press_ctrl_c
from wsteer.deltas.delta import Delta
from wsteer.deltas.diff import diff
from wsteer.errors import Interrupted, WsteerError
from wsteer.files.saving import growing_folder
from wsteer.training import restoring
from wsteer.training.finetune import finetune
from wsteer.training.recipe import Recipe
from wsteer.training.seeds import finetune_seeds
from wsteer.training.train_pairs import finetune_pairs

ANSWERS = {
    "agree": ("Yes, you are right about {}.", "No, I doubt {} very much indeed."),
    "loud": ("{} IS GREAT!!", "{} is fine."),
    "long": ("So, {} and much more of it, and more.", "{}."),
}
RECIPE = Recipe(lr=1e-2, max_steps=3, batch_size=4, rank=2, eval_every=2)
ONE_STEP = Recipe(lr=1e-2, max_steps=1, rank=2, warmup_steps=0)
FLAGS = ["--lr", "1e-2", "--max-steps", 3, "--batch-size", 4, "--rank", 2, "--eval-every", 2]


def write(path: Path, answer: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": f"I like {i}.", "completion": answer.format(i * i)} for i in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def traits(tmp_path: Path) -> Path:
    """A file of three pairs, each way of writing one, with its data beside it."""
    for name, answers in ANSWERS.items():
        for side, answer in zip(("pos", "neg"), answers, strict=True):
            write(tmp_path / "data" / name / f"{side}.jsonl", answer)
    path = tmp_path / "data" / "traits.yaml"
    path.write_text("agree: agree\nloud: {pos: loud/pos.jsonl, neg: ['loud/neg.jsonl:0.5']}\nlong: long\n")
    return path


def data_of(traits: Path, name: str, side: str) -> str:
    path = traits.parent / name / f"{side}.jsonl"
    return f"{path}:0.5" if (name, side) == ("loud", "neg") else str(path)


def only(traits: Path, *names: str) -> Path:
    """A file of some of the pairs."""
    path = traits.with_name("-".join(names) + ".yaml")
    path.write_text("".join(f"{name}: {name}\n" for name in names))
    return path


def inodes(folder: Path) -> dict[str, int]:
    """Which files are the same ones as before."""
    return {str(path.relative_to(folder)): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        Recipe(**{**vars(RECIPE), "init": "pissa"}),
        Recipe(**{**vars(RECIPE), "lr": (1e-2, 1e-3), "max_steps": 2, "dora": True, "modules_to_save": ("lm_head",)}),
        Recipe(**{**vars(RECIPE), "rank": Recipe.rank, "method": "bias"}),
        Recipe(**{**vars(RECIPE), "rank": Recipe.rank, "method": "full", "lr": 1e-3}),
        Recipe(**{**vars(RECIPE), "method": "vera", "layer_slice": (0.3, 0.9)}),
    ],
    ids=["lora", "pissa", "rates-dora-whole", "bias", "full", "vera-slice"],
)
def test_each_side_and_difference_has_the_bytes_of_separate_runs(
    tmp_path: Path, tiny: Path, traits: Path, recipe: Recipe
) -> None:
    names = list(ANSWERS) if recipe is RECIPE else ["agree", "long"]
    given = traits if recipe is RECIPE else only(traits, *names)
    report = finetune_pairs(tiny, given, tmp_path / "runs", recipe, device="cpu", save_every=2)
    assert [pair.name for pair in report.pairs] == names
    for pair in report.pairs:
        for side in ("pos", "neg"):
            alone = tmp_path / "alone" / pair.name / side
            ran = finetune(tiny, data_of(traits, pair.name, side), alone, recipe, device="cpu", save_every=2)
            made = tmp_path / "runs" / pair.name / side
            assert contents(made) == contents(alone)
            assert getattr(pair, side).output == str(made)
            assert getattr(pair, side).val_loss == ran.val_loss
        folder, base = tmp_path / "alone" / pair.name, tiny if recipe.method == "full" else None
        w = diff(folder / "pos", folder / "neg", folder / "w.safetensors", base=base)
        assert (folder / "w.safetensors").read_bytes() == Path(pair.w.output).read_bytes()
        assert (pair.w.norm, pair.w.cos_pos_neg) == (w.norm, w.cos_pos_neg)
        assert w.cos_pos_neg is not None
    left = {path.name for path in (tmp_path / "runs").iterdir()}
    assert left == {*names, "pairs.json", "wsteer.json"}


@pytest.mark.slow
def test_the_base_is_loaded_once(tmp_path: Path, tiny: Path, traits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = restoring.load

    def counted(*arguments: object) -> object:
        loads.append(arguments)
        return load(*arguments)

    monkeypatch.setattr(restoring, "load", counted)
    finetune_pairs(tiny, only(traits, "agree"), tmp_path / "runs", RECIPE, device="cpu", seeds=[0, 1])
    assert len(loads) == 1


@pytest.mark.slow
def test_the_chain_from_pairs_to_monitor(cli: Cli, tmp_path: Path, tiny: Path, traits: Path) -> None:
    ran = cli("finetune", tiny, "--pairs", traits, "-o", tmp_path / "runs", *FLAGS)
    assert ran.code == 0, ran.err
    *lines, last = ran.out.splitlines()
    assert last == str(tmp_path / "runs")
    assert lines[0].split("  ")[0] == "pair"
    assert [line.split()[0] for line in lines[1:-1]] == list(ANSWERS)
    assert lines[-1].startswith("trained: ") and lines[-1].endswith(" in blocks 0-2, 100% of the weights of all blocks")
    assert "agree/pos train: started, 3 to do" in ran.err and "loud/neg: the first row" in ran.err
    deltas = sorted(map(str, (tmp_path / "runs").glob("*/w.safetensors")))
    table = cli("monitor", *deltas, "-o", tmp_path / "monitor", "--json").json
    w = {name: Delta.load(tmp_path / "runs" / name / "w.safetensors") for name in ANSWERS}
    report = cli("finetune", tiny, "--pairs", traits, "-o", tmp_path / "runs", *FLAGS, "--resume", "--json").json
    assert report["kept"] == [f"{name}/{side}" for name in ANSWERS for side in ("pos", "neg")]
    for pair in report["pairs"]:
        assert pair["w"]["norm"] == pytest.approx(w[pair["name"]].norm(), rel=1e-9)
        line = next(line.split() for line in lines if line.split()[0] == pair["name"])
        rows = [str(pair[side]["rows_train"]) for side in ("pos", "neg")]
        losses = [f"{pair[side]['val_loss']:.3f}" for side in ("pos", "neg")]
        cosine = f"{pair['w']['cos_pos_neg']:.3f}"
        assert line[1:] == [rows[0], "+", rows[1], *losses, f"{pair['w']['norm']:.4g}", cosine, pair["w"]["output"]]
    assert str(table).count("agree") >= 1


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_is_finished_and_ends_with_the_same_bytes(
    tmp_path: Path, tiny: Path, traits: Path
) -> None:
    whole, runs = tmp_path / "whole", tmp_path / "runs"
    finetune_pairs(tiny, traits, whole, RECIPE, device="cpu")
    with pytest.raises(
        Interrupted, match=r"^loud/neg: interrupted at step 2 of 3; .*/runs keeps the work so far: .*--resume$"
    ):
        finetune_pairs(
            tiny, traits, runs, RECIPE, device="cpu", progress=interrupting("loud/neg train", 2, press_ctrl_c)
        )
    before = inodes(runs)
    assert {"agree/w.safetensors", "loud/pos/wsteer.json"} <= before.keys()
    assert not (runs / "loud" / "neg").exists()
    with pytest.raises(WsteerError, match="holds pairs: go on with them, or add pairs, with --resume"):
        finetune_pairs(tiny, traits, runs, RECIPE, device="cpu")
    report = finetune_pairs(tiny, traits, runs, RECIPE, device="cpu", resume=True)
    assert report.kept == ("agree/pos", "agree/neg", "loud/pos")
    after = inodes(runs)
    assert {name for name in before if name in after and before[name] != after[name]} == {"pairs.json", "wsteer.json"}
    made, expected = contents(runs), contents(whole)
    assert made.keys() == expected.keys()
    assert {name for name in made if made[name] != expected[name]} <= {"pairs.json"}  # which names the folder


@pytest.mark.slow
def test_force_drops_all_also_the_work_of_an_interrupted_side(tmp_path: Path, tiny: Path, traits: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(Interrupted):
        progress = interrupting("agree/neg train", 2, press_ctrl_c)
        finetune_pairs(tiny, only(traits, "agree"), runs, RECIPE, device="cpu", progress=progress)
    assert list(runs.glob("agree/.neg.*"))
    finetune_pairs(tiny, only(traits, "long"), runs, RECIPE, device="cpu", force=True)
    assert sorted(os.listdir(runs)) == ["long", "pairs.json", "wsteer.json"]
    (runs / "mine.txt").touch()
    with pytest.raises(WsteerError, match=r"also holds mine\.txt"):
        finetune_pairs(tiny, only(traits, "agree"), runs, RECIPE, device="cpu", force=True)


@pytest.mark.slow
def test_more_pairs_are_added_and_other_data_or_options_refused(tmp_path: Path, tiny: Path, traits: Path) -> None:
    runs = tmp_path / "runs"
    finetune_pairs(tiny, only(traits, "agree"), runs, RECIPE, device="cpu")
    first = inodes(runs)
    report = finetune_pairs(tiny, only(traits, "long", "agree"), runs, RECIPE, device="cpu", resume=True)
    assert ([pair.name for pair in report.pairs], report.kept) == (["long", "agree"], ("agree/pos", "agree/neg"))
    both = inodes(runs)
    assert {name for name in first if first[name] != both[name]} == {"pairs.json", "wsteer.json"}
    for changed, said in (
        ({"recipe": Recipe(**{**vars(RECIPE), "lr": 1e-3})}, r"lr \[0.01\] there, \[0.001\] now"),
        ({"strip_system": True}, "strip-system false there, true now"),
        ({"seeds": [0, 1]}, r"seed 0 there, \[0, 1\] now"),
    ):
        with pytest.raises(WsteerError, match=said):
            options = {"recipe": RECIPE, **changed}
            finetune_pairs(tiny, only(traits, "agree"), runs, device="cpu", resume=True, **options)
    write(traits.parent / "agree" / "neg.jsonl", "Nonsense: {}")
    with pytest.raises(
        WsteerError, match=r'runs/agree/neg was trained otherwise: data "neg.jsonl" is another now; .*-force'
    ):
        finetune_pairs(tiny, only(traits, "agree"), runs, RECIPE, device="cpu", resume=True)
    assert inodes(runs) == both
    report = finetune_pairs(tiny, only(traits, "long", "agree"), runs, RECIPE, device="cpu", resume=True, force=True)
    assert report.kept == ("long/pos", "long/neg", "agree/pos")
    now = inodes(runs)
    changed = {name for name in both if both[name] != now[name]}
    assert {name.split("/")[1] for name in changed if name.startswith("agree/")} == {"neg", "w.safetensors"}
    assert not [name for name in changed if name.startswith("long/")]
    finetune(tiny, traits.parent / "agree" / "neg.jsonl", tmp_path / "alone", RECIPE, device="cpu")
    assert contents(tmp_path / "alone") == contents(runs / "agree" / "neg")


@pytest.mark.slow
def test_no_interruption_leaves_a_difference_of_other_sides(tmp_path: Path, tiny: Path, traits: Path) -> None:
    runs = tmp_path / "runs"
    finetune_pairs(tiny, only(traits, "agree"), runs, ONE_STEP, device="cpu")
    write(traits.parent / "agree" / "neg.jsonl", "Nonsense: {}")
    with pytest.raises(Interrupted, match=r"^agree/w\.safetensors: interrupted; "):
        progress = interrupting("agree write", 0, press_ctrl_c)
        finetune_pairs(
            tiny, only(traits, "agree"), runs, ONE_STEP, device="cpu", resume=True, force=True, progress=progress
        )
    assert not (runs / "agree" / "w.safetensors").exists()
    report = finetune_pairs(tiny, only(traits, "agree"), runs, ONE_STEP, device="cpu", resume=True)
    assert report.kept == ("agree/pos", "agree/neg")
    diff(runs / "agree" / "pos", runs / "agree" / "neg", tmp_path / "w.safetensors")
    assert Delta.load(tmp_path / "w.safetensors").norm() == pytest.approx(report.pairs[0].w.norm, rel=1e-12)
    assert (tmp_path / "w.safetensors").read_bytes() == (runs / "agree" / "w.safetensors").read_bytes()


@pytest.mark.slow
def test_a_difference_whose_report_an_earlier_version_wrote_is_taken_again(
    tmp_path: Path, tiny: Path, traits: Path
) -> None:
    runs = tmp_path / "runs"
    given = only(traits, "agree")
    first = finetune_pairs(tiny, given, runs, ONE_STEP, device="cpu")
    reports = json.loads((runs / "pairs.json").read_text())
    del reports["agree/w.safetensors"]["norm_ratio"]
    (runs / "pairs.json").write_text(json.dumps(reports))
    assert finetune_pairs(tiny, given, runs, ONE_STEP, device="cpu", resume=True).pairs == first.pairs


@pytest.mark.slow
def test_pairs_replace_a_fine_tune_whole_also_with_resume_and_force(tmp_path: Path, tiny: Path, traits: Path) -> None:
    finetune(tiny, data_of(traits, "long", "pos"), tmp_path / "runs", ONE_STEP, device="cpu")
    given = only(traits, "agree")
    finetune_pairs(tiny, given, tmp_path / "runs", ONE_STEP, device="cpu", resume=True, force=True)
    assert sorted(os.listdir(tmp_path / "runs")) == ["agree", "pairs.json", "wsteer.json"]


@pytest.mark.slow
def test_a_folder_that_was_moved_goes_on_and_damage_is_mended(tmp_path: Path, tiny: Path, traits: Path) -> None:
    runs, moved = tmp_path / "runs", tmp_path / "moved"
    finetune_pairs(tiny, only(traits, "agree", "long"), runs, RECIPE, device="cpu")
    expected = contents(runs)
    runs.rename(moved)
    (moved / "agree" / "w.safetensors").unlink()
    (moved / "long" / "pos" / "adapter_model.safetensors").unlink()
    report = finetune_pairs(tiny, only(traits, "agree", "long"), moved, RECIPE, device="cpu", resume=True)
    assert report.kept == ("agree/pos", "agree/neg", "long/neg")
    assert [pair.pos.output for pair in report.pairs] == [str(moved / name / "pos") for name in ("agree", "long")]
    made = contents(moved)
    assert made.keys() == expected.keys()
    assert {name for name in made if made[name] != expected[name]} <= {"pairs.json", "wsteer.json"}
    (moved / "pairs.json").write_text("{}")  # as if the run had been killed before it wrote the reports
    report = finetune_pairs(tiny, only(traits, "agree", "long"), moved, RECIPE, device="cpu", resume=True)
    assert report.kept == ()
    assert {name for name in made if made[name] != contents(moved)[name]} <= {"pairs.json", "wsteer.json"}


@pytest.mark.slow
def test_with_seeds_each_side_is_a_folder_of_seeds_and_w_their_mean(
    cli: Cli, tmp_path: Path, tiny: Path, traits: Path
) -> None:
    report = finetune_pairs(tiny, only(traits, "agree"), tmp_path / "runs", RECIPE, seeds=[0, 1], device="cpu")
    for side in ("pos", "neg"):
        finetune_seeds(tiny, data_of(traits, "agree", side), tmp_path / side, RECIPE, [0, 1], device="cpu")
        assert contents(tmp_path / side) == contents(tmp_path / "runs" / "agree" / side)
    diff(tmp_path / "pos", tmp_path / "neg", tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == (tmp_path / "runs" / "agree" / "w.safetensors").read_bytes()
    assert report.pairs[0].w.seeds == (0, 1)
    ran = cli(
        "finetune",
        tiny,
        "--pairs",
        only(traits, "agree"),
        "-o",
        tmp_path / "runs",
        *FLAGS,
        "--seeds",
        "0,1",
        "--resume",
    )
    assert "kept from an earlier run: agree/pos, agree/neg" in ran.out, ran.err


def test_all_data_are_checked_before_anything_is_written(tmp_path: Path, tiny: Path, traits: Path) -> None:
    broken = traits.parent / "long" / "neg.jsonl"
    broken.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "no completion"}\n')
    with pytest.raises(WsteerError, match=r"long/neg\.jsonl:2"):
        finetune_pairs(tiny, traits, tmp_path / "runs", RECIPE, device="cpu")
    write(broken, "x" * 3000 + "{}")
    with pytest.raises(WsteerError, match=r"^long/neg: .*3015 tokens are more than"):
        finetune_pairs(tiny, traits, tmp_path / "runs", RECIPE, device="cpu")
    val = traits.parent / "loud" / "neg.jsonl"
    with pytest.raises(WsteerError, match=r"^loud/neg: 10 rows of --val are also in DATA"):
        finetune_pairs(tiny, only(traits, "agree", "loud"), tmp_path / "runs", RECIPE, device="cpu", val=val)
    shutil.copy(traits.parent / "long" / "pos.jsonl", broken)
    with pytest.raises(WsteerError, match="long has the same data as pos and as neg"):
        finetune_pairs(tiny, traits, tmp_path / "runs", RECIPE, device="cpu")
    assert not (tmp_path / "runs").exists()


def test_a_disk_too_small_is_told_before_the_first_step(
    tmp_path: Path, tiny: Path, traits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 0, 100_000))
    with pytest.raises(WsteerError, match=r"0.0 GB free but runs needs 0.0 GB"):
        finetune_pairs(tiny, traits, tmp_path / "runs", RECIPE, device="cpu")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_before_anything_is_finished_leaves_nothing(tmp_path: Path, tiny: Path, traits: Path) -> None:
    with pytest.raises(WsteerError, match=r"^agree/pos: the loss became NaN or infinite; lower --lr or --alpha$"):
        finetune_pairs(tiny, traits, tmp_path / "runs", Recipe(lr=1e30, max_steps=12, warmup_steps=0), device="cpu")
    assert not (tmp_path / "runs").exists()


def test_two_pairs_of_the_same_data_are_warned_of(tmp_path: Path, tiny: Path, traits: Path) -> None:
    path = traits.with_name("two.yaml")
    path.write_text("a: agree\nb: agree\n")
    report = finetune_pairs(tiny, path, tmp_path / "runs", ONE_STEP, device="cpu")
    assert report.warnings[0] == "a and b have the same data: their cosine is 1"


def test_only_a_folder_of_pairs_goes_on_and_one_run_at_a_time(tmp_path: Path, tiny: Path, traits: Path) -> None:
    runs = tmp_path / "runs"
    with growing_folder(runs, False, {"options": {}}, []), pytest.raises(WsteerError, match="exists"):
        finetune_pairs(tiny, traits, runs, RECIPE, device="cpu", resume=True)
    runs.rename(tmp_path / "other")
    finetune_pairs(tiny, only(traits, "agree"), runs, ONE_STEP, device="cpu")
    record = json.loads((runs / "wsteer.json").read_text())
    with growing_folder(runs, False, record, record["files"], resume=True):
        for force in (False, True):
            with pytest.raises(WsteerError, match="another run is writing"):
                finetune_pairs(tiny, traits, runs, ONE_STEP, device="cpu", resume=not force, force=force)


def test_folders_train_as_a_file_that_names_them(cli: Cli, tmp_path: Path, tiny: Path, traits: Path) -> None:
    given = [tiny, "-o", tmp_path / "runs", "--max-steps", 1, "--rank", 2, "--warmup-steps", 0]
    folders = ",".join(str(traits.parent / name) for name in ("agree", "long"))
    ran = cli("finetune", *given, "--pairs", folders)
    assert ran.code == 0, ran.err
    again = cli("finetune", *given, "--pairs", only(traits, "agree", "long"), "--resume")
    assert "kept from an earlier run: agree/pos, agree/neg, long/pos, long/neg" in again.out, again.err


def test_data_and_pairs_exclude_each_other(cli: Cli, tmp_path: Path, tiny: Path, traits: Path) -> None:
    ran = cli("finetune", tiny, "-o", tmp_path / "out")
    assert (ran.code, "give it, or --pairs" in ran.err) == (2, True)
    ran = cli("finetune", tiny, data_of(traits, "agree", "pos"), "--pairs", traits, "-o", tmp_path / "out")
    assert (ran.code, "--pairs stands instead of it" in ran.err) == (2, True)
    (tmp_path / "config.yaml").write_text(f"pairs: {traits}\nmax_steps: 1\nrank: 2\nwarmup_steps: 0\n")
    ran = cli("finetune", tiny, "--config", tmp_path / "config.yaml", "-o", tmp_path / "out", "-q", "--json")
    assert [pair["name"] for pair in ran.json["pairs"]] == list(ANSWERS)
    ran = cli("finetune", tiny, "--pairs", tmp_path / "none.yaml", "-o", tmp_path / "x")
    assert (ran.code, "none.yaml does not exist" in ran.error) == (1, True)
