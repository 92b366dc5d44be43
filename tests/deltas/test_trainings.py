"""What two sides' records say of their training, and the warning about what differs."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

import wsteer
from tests.deltas.test_diff import nudged
from tests.helpers.tiny import save_adapter
from wsteer.deltas.trainings import MOST_LETTERS, MOST_SHOWN

DATA = {"role": "data", "path": "data/pos.jsonl", "sha256": "a" * 64, "weight": 1.0}
OPTIONS = {
    "lr": [1e-5],
    "seed": 0,
    "batch_size": 8,
    "dtype": "float32",
    "method": "lora",
    "rank": 4,
    "save_every": None,
}


def recorded(folder: Path, *, rows: int = 90, data: str = "a", **changes: object) -> Path:
    """The folder with a record of finetune."""
    entry = {**DATA, "sha256": data * 64, "path": f"data/{data}.jsonl"}
    record = {"command": "finetune", "options": {**OPTIONS, **changes}, "inputs": [entry], "rows_train": rows}
    (folder / "wsteer.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def sides(tmp_path: Path, adapters: tuple[Path, Path]) -> tuple[Path, Path]:
    """Copies of two adapters, trained alike on different data."""
    pos, neg = (shutil.copytree(folder, tmp_path / side) for folder, side in zip(adapters, ("pos", "neg"), strict=True))
    return recorded(pos), recorded(neg, data="b")


def warnings(*sides: Path) -> tuple[str, ...]:
    output = sides[0].parent / "w.safetensors"
    return wsteer.diff(*sides, output=output, force=True).warnings


def test_a_setting_of_one_side_alone_is_told(sides: tuple[Path, Path]) -> None:
    recorded(sides[1], data="b", max_steps=5)
    recorded(sides[0], max_steps=None)
    (warning,) = warnings(*sides)
    assert warning.endswith(": max steps none and 5")


def test_sides_trained_alike_give_no_warning(sides: tuple[Path, Path]) -> None:
    assert warnings(*sides) == ()


def test_all_that_differs_is_one_line_with_both_values(sides: tuple[Path, Path]) -> None:
    recorded(sides[1], data="b", rows=80, lr=[0.0002], seed=1, dtype="bfloat16", save_every=5)
    assert warnings(*sides) == (
        "pos and neg were trained differently, so that their difference holds more than the behaviour: "
        "learning rate 1e-05 and 0.0002; seed 0 and 1; dtype float32 and bfloat16; rows 90 and 80",
    )
    assert warnings(sides[0]) == ()  # a task vector has one side


def test_the_kept_rate_and_step_are_compared(sides: tuple[Path, Path]) -> None:
    for folder, step in zip(sides, (20, 24), strict=True):
        recorded(folder, data=folder.name[0], lr=[1e-5, 1e-4])
        rows = f"0.00001,30,,1.5,0\n0.0001,{step},,1.2,1\n"
        (folder / "sweep.csv").write_text("rate,step,train_loss,val_loss,kept\n" + rows)
    (warning,) = warnings(*sides)
    assert warning.endswith(": step 20 and 24")


def test_checkpoints_of_a_run_are_told_by_their_step_and_its_record(sides: tuple[Path, Path]) -> None:
    for folder, step in zip(sides, (10, 30), strict=True):
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(folder / name, checkpoint / name)
    recorded(sides[1], data="b", seed=3)
    (warning,) = warnings(sides[0] / "checkpoint-10", sides[1] / "checkpoint-30")
    assert warning.endswith(": seed 0 and 3; step 10 and 30")


def test_the_same_data_on_both_sides_is_pointed_out(sides: tuple[Path, Path]) -> None:
    recorded(sides[1])
    (warning,) = warnings(*sides)
    assert warning == "pos and neg were trained on the same data (data/a.jsonl); is one of them the wrong folder?"
    for folder, column in zip(sides, ("chosen", "rejected"), strict=True):
        recorded(folder, columns={"completion": column})  # two columns of one file
    assert warnings(*sides) == ()


def test_others_adapters_are_told_by_their_configs(tmp_path: Path, tiny: Path) -> None:
    pos = save_adapter(tmp_path / "pos", tiny, seed=1, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    neg = save_adapter(tmp_path / "neg", tiny, seed=2, r=2, lora_alpha=16, target_modules=["v_proj"], use_rslora=True)
    (warning,) = warnings(pos, neg)
    told = set(warning.partition(": ")[2].split("; "))
    assert told == {"rank 4 and 2", "alpha 8 and 16", "targets q_proj, v_proj and v_proj", "rslora False and True"}


def test_what_transformers_trainer_left_is_read_and_its_pickle_is_not(tmp_path: Path, tiny: Path) -> None:
    sides = [save_adapter(tmp_path / side, tiny, seed) for seed, side in enumerate(("pos", "neg"))]
    for folder, steps, rate in zip(sides, (100, 80), (1e-4, 2e-4), strict=True):
        history = [{"learning_rate": rate / 2, "loss": 2.0}, {"learning_rate": rate}, {"eval_loss": 1.0}, "?"]
        state = {"global_step": steps, "num_train_epochs": 1, "train_batch_size": 8, "log_history": history}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        (folder / "training_args.bin").write_bytes(pickle.dumps(Bomb()))
    (warning,) = warnings(*sides)
    assert warning.endswith(": step 100 and 80; learning rate 0.0001 and 0.0002")


class Bomb:
    """What no one may unpickle."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("training_args.bin was unpickled",))


def test_methods_and_checkpoints_with_a_record_are_compared_too(
    tmp_path: Path, tiny: Path, sides: tuple[Path, Path]
) -> None:
    lacking = {"rank": None, "save_every": 7}  # LoRA's rank is no difference beside the method
    tuned = recorded(nudged(tmp_path / "full", tiny, seed=1), data="c", method="full", lr=[1e-6], **lacking)
    (warning,) = wsteer.diff(sides[0], tuned, tmp_path / "w.safetensors", base=tiny).warnings
    assert warning.endswith(": method lora and full; learning rate 1e-05 and 1e-06")


def test_delta_files_and_folders_of_other_commands_tell_nothing(sides: tuple[Path, Path]) -> None:
    recorded(sides[1], data="b", seed=1)
    wsteer.diff(sides[0], output=sides[0] / "p.safetensors")
    assert warnings(sides[0], sides[1])
    assert wsteer.diff(sides[0] / "p.safetensors", sides[1], sides[1].parent / "v.safetensors").warnings == ()
    record = json.loads((sides[1] / "wsteer.json").read_text())
    (sides[1] / "wsteer.json").write_text(json.dumps({**record, "command": "steer"}))
    assert warnings(*sides) == ()


@pytest.mark.parametrize(
    "text",
    [
        *('{"command": "finetune"}', '{"command": "finetune", "options": []}', '{"command": [], "inputs": null}'),
        '{"command": "finetune", "options": {"seed": {"a": [1]}, "lr": [[]]}, "inputs": {"role": "data"}}',
        '{"command": "finetune", "options": {}, "inputs": [3, {"role": "data", "sha256": [1]}], "rows_train": {}}',
    ],
)
def test_a_broken_record_does_not_stop_a_difference(sides: tuple[Path, Path], text: str) -> None:
    for name in ("wsteer.json", "trainer_state.json", "sweep.csv"):
        (sides[1] / name).write_text(text)
    for broken in ("", "[]", "{", "[" * 10_000):  # of wsteer.json reading the adapter says so
        (sides[0] / "trainer_state.json").write_text(broken)
        (sides[0] / "sweep.csv").write_text(broken)
        for warning in warnings(*sides):
            assert len(warning) < 1000


def test_long_lists_are_cut(sides: tuple[Path, Path]) -> None:
    many = {f"option_{n:02}": "x" * 500 for n in range(MOST_SHOWN + 4)}
    recorded(sides[0], **many)
    recorded(sides[1], data="b", **dict.fromkeys(many, "y"))
    (warning,) = warnings(*sides)
    assert warning.endswith(" and 4 more")
    assert "x" * (MOST_LETTERS - 1) + "\u2026 and y" in warning and "x" * MOST_LETTERS not in warning


def test_a_difference_that_several_seeds_show_is_told_once(tmp_path: Path, sides: tuple[Path, Path]) -> None:
    for side, folder in zip(("p", "n"), sides, strict=True):
        for seed in (0, 1):
            copy = shutil.copytree(folder, tmp_path / side / f"seed-{seed}")
            recorded(copy, data=side, seed=seed, lr=[1e-5 if side == "p" else 1e-4])
    report = wsteer.diff(tmp_path / "p", tmp_path / "n", tmp_path / "w.safetensors")
    assert [w for w in report.warnings if "trained" in w] == [
        "pos and neg were trained differently, so that their difference holds more than the behaviour: "
        "learning rate 1e-05 and 0.0001"
    ]


@pytest.mark.slow
def test_finetunes_own_records_are_compared(tmp_path: Path, tiny: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]}
        for n in range(24)
    ]
    sides = []
    for side, count, rate in (("pos", 20, 1e-3), ("neg", 24, 2e-3)):
        data = tmp_path / f"{side}.jsonl"
        data.write_text("\n".join(map(json.dumps, rows[:count])) + "\n")
        recipe = wsteer.Recipe(lr=rate, max_steps=2, rank=2, val_fraction=0.0)
        wsteer.finetune(tiny, data, tmp_path / side, recipe, device="cpu")
        sides.append(tmp_path / side)
    (warning,) = warnings(*sides)
    assert warning.endswith(": learning rate 0.001 and 0.002; rows 20 and 24")
