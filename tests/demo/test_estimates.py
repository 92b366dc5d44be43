"""What an experiment will need: disk, memory, and tokens, counted from its commands."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.demo.test_sizes import SMOL
from tests.helpers.lines import PARSE, parsed, steps
from wsteer.demo.checking import check
from wsteer.demo.estimates import Estimate, Estimates, estimate, running_memory, training_memory
from wsteer.demo.loads import Rows, conditions_of, counted_rows
from wsteer.demo.sizes import kept, size_of
from wsteer.training.recipe import Recipe

ADAPTER = 4 * 9_768_960
SEVEN = {
    **{"parameters": 7.616e9, "blocks": 28, "hidden": 3584, "intermediate": 18944, "vocabulary": 152064},
    "key_values": 512,
}


def estimated(lines: Sequence[str], folder: Path = Path("/nowhere/x"), gpu: bool = False, **facts: Any) -> Estimates:
    bring = {"../mine.jsonl": "how"}
    found = check(steps(lines, **facts), bring, folder, "org/m", PARSE)
    assert found.problems == ()
    return estimate(found, folder, "org/m", SMOL, gpu)


def last(lines: Sequence[str], **facts: Any) -> Estimate:
    return estimated(lines, **facts).steps[-1]


OPINIONS = "generate opinions -o data"


def test_a_chains_files() -> None:
    found = estimated(
        [
            OPINIONS,
            "finetune org/m data/pos.jsonl -o pos --max-steps 16 --save-every 8",
            "finetune org/m data/neg.jsonl -o neg --max-steps 16",
            "diff pos neg -o w.safetensors",
            "diff pos/checkpoint-8 -o t.safetensors",
            "steer org/m w.safetensors --sweep=-1,1 -o s",
            "steer org/m w.safetensors --k 1 --as adapter -o ad",
            "actvec org/m data/pos.jsonl data/neg.jsonl -o a.safetensors",
        ]
    )
    disk = [each.disk for each in found.steps]
    assert disk[1] == pytest.approx(3 * ADAPTER, rel=0.01)
    assert disk[2] == pytest.approx(ADAPTER, rel=0.01)
    assert disk[3] == 2 * ADAPTER and disk[4] == ADAPTER and disk[6] == 2 * ADAPTER
    assert disk[5] == 2 * 2 * 134_515_008  # two checkpoints of 16 bits
    assert disk[7] == 4 * 30 * 576
    assert found.disk == sum(disk)
    assert found.memory == max(each.memory or 0 for each in found.steps)
    assert all(each.unknown == "" for each in found.steps)


def test_tokens_that_are_trained() -> None:
    lines = [OPINIONS, "finetune org/m data/pos.jsonl -o pos --max-steps 10 --batch-size 4"]
    one = last(lines).trained
    assert 10 * 4 * 45 < one < 10 * 4 * 90  # 104 rows of about 68 tokens
    assert last([lines[0], f"{lines[1]} --lr 1e-5,1e-4 --seeds 0,1,2"]).trained == pytest.approx(6 * one, abs=6)
    epoch = last([OPINIONS, "finetune org/m data/pos.jsonl -o pos --val-fraction 0.25"]).trained
    assert epoch == pytest.approx(one / 40 * 104 * 0.75, rel=0.01)
    weighted = last([OPINIONS, "finetune org/m data/pos.jsonl:2 data/neg.jsonl:0.5 -o p --val-fraction 0"]).trained
    assert weighted == pytest.approx(one / 40 * 104 * 2.5, rel=0.1)


def test_rows_are_counted_where_they_are_and_else_as_stated(tmp_path: Path) -> None:
    row = '{"prompt": "' + "a" * 100 + '", "completion": "' + "b" * 100 + '"}\n'
    line = "finetune org/m ../mine.jsonl -o pos --val-fraction 0"
    stated = last([line], folder=tmp_path / "x", rows=50, length=30)
    assert stated.trained == 50 * 30
    (tmp_path / "mine.jsonl").write_text(row * 10)
    assert last([line], folder=tmp_path / "x", rows=50, length=30).trained == 10 * (200 / 4 + 25)
    assert "give the step rows and length" in last(["finetune org/m ../mine.jsonl -o pos"]).unknown


def test_a_traits_answers_and_verdicts() -> None:
    found = last(["generate org/m evil --samples 2 --judge a/b --max-new-tokens 100 -o data"])
    rows = 20 * 5 * 2  # half of 40 questions, 5 pairs of instructions
    assert found.generated == 2 * rows * 100
    assert found.judged == 2 * rows * 2 * (100 + 300 + 150)  # the trait and coherence


def test_an_evaluations_answers_and_verdicts() -> None:
    stated = {"rows": 100, "length": 50}
    line = "eval org/m --task inspect:wsteer/sycophancy -T data=../mine.jsonl --judge a/b --judge c/d -o e"
    found = last([line], **stated)
    assert found.generated == 100 * 4 * 50
    assert found.judged == 100 * 4 * 2 * (50 + 300 + 150)
    assert last([f"{line} -T max_tokens=10 --limit 5"], **stated).generated == 5 * 4 * 10
    assert last([f"{line} -T grade=rule"], **stated).judged == 0
    assert last(["eval org/m --task agreement --limit 40 -o e"]).generated == 40 * 2 * 20


@pytest.mark.parametrize(
    ("task", "answers", "verdicts"),
    [
        ("gcd_sycophancy", 3, 5),
        ("gcd_sycophancy -T grade=rule", 3, 0),
        ("harm_refusal", 1, 2),
        ("harm_refusal -T scale=false", 1, 1),
        ("harm_refusal -T grade=rule", 1, 1),
        ("evil_mcqa", 2, 0),
        ("evil_mcqa -T orders=given", 1, 0),
        ("cot_consistency", 1, 1),
        ("trait", 10, 20),
        ("trait -T opinion=true -T samples=2", 2, 6),
    ],
)
def test_answers_and_verdicts_of_a_row(task: str, answers: int, verdicts: int) -> None:
    line = f"eval org/m --task inspect:wsteer/{task} -T data=../mine.jsonl --judge a/b -o e"
    found = last([line], rows=10, length=50)
    assert (found.generated, found.judged) == (10 * answers * 50, 10 * verdicts * (50 + 300 + 150))


def test_tasks_have_rows_and_lengths_of_their_own() -> None:
    line = "eval org/m --task inspect:wsteer/tinymmlu --task inspect:wsteer/harm_refusal --judge a/b -o e"
    line += " -T tinymmlu.data=../mine.jsonl -T harm_refusal.data=../mine.jsonl -T harm_refusal.max_tokens=32"
    found = last([line], rows=(100, 400))
    assert found.generated == 100 * 3000 + 400 * 32
    assert found.judged == 400 * 2 * (32 + 300 + 150)
    assert "3 numbers of rows for 2 tasks" in last([line], rows=(1, 2, 3)).unknown


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ("", 1),
        ("--system 'Be kind.' --system 'Be blunt.'", 3),
        ("--delta a --delta b --k=-1,0,1", 5),
        ("--delta a --k=-2:2:0.5", 9),
        ("--delta a --delta b@each --k=1,2", 1 + 2 + 2 * 30),
        ("--delta a --layers each", 31),
        ("--delta a --k=-1,1 --control random --control shuffled", 1 + 2 * 3),
        ("--delta a --calibrate kl=0.5", 3),
        ("--checkpoints r", 1 + 7),
    ],
)
def test_conditions(options: str, count: int) -> None:
    values = parsed(f"eval M --task agreement -o e {options}").values
    assert conditions_of(values, 7 if values["checkpoints"] else 0, 30) == count


def test_memory_of_training_smollm2_is_near_what_was_measured() -> None:
    size = size_of("org/m", SMOL)
    assert size is not None
    measured = {4: 2.23e9, 1: 1.53e9}  # peak resident sets, two cores, rows of up to 78 tokens
    for micro, peak in measured.items():
        found = training_memory(size, Recipe(micro_batch_size=micro), 78, {}, 4)
        assert found == pytest.approx(peak, rel=0.12)


def test_memory_of_a_7b_model_is_near_what_was_measured_on_a_gpu() -> None:
    size = size_of("org/m", SEVEN)
    assert size is not None
    assert kept(size, Recipe()).bytes == pytest.approx(323_014_168, rel=0.001)  # its adapter_model.safetensors
    # by nvidia-smi on an H200, in bf16: 8 rows of 303 tokens trained, 64 answers of 200 tokens, vectors of 303 tokens
    assert training_memory(size, Recipe(), 303, {}, 2, taught=0.5) == pytest.approx(36.6e9, rel=0.02)
    assert 36.6e9 < training_memory(size, Recipe(), 303, {}, 2) < 40e9
    assert 16.5e9 < running_memory(size, 64, 64 + 200, 2) < 18e9
    assert 16.3e9 < running_memory(size, 16, 303, 2) < 16.7e9


def test_logits_are_of_the_answers_alone() -> None:
    rows = [{"prompt": "a" * 300, "completion": "b" * 100}]
    chat = [{"messages": [{"role": "user", "content": "a" * 300}, {"role": "assistant", "content": "b" * 100}]}]
    assert counted_rows(rows) == counted_rows(chat) == Rows(1, 125, 125, taught=0.2)
    assert counted_rows([{"text": "a" * 100}]) == Rows(1, 50, 50)


def test_memory_grows_with_what_is_held() -> None:
    size = size_of("org/m", SEVEN)
    assert size is not None
    plain = training_memory(size, Recipe(gradient_checkpointing=False), 400, {}, 2)
    assert training_memory(size, Recipe(gradient_checkpointing=True), 400, {}, 2) < plain - 10e9
    assert training_memory(size, Recipe(micro_batch_size=1), 400, {}, 2) < plain - 10e9
    assert training_memory(size, Recipe(gradient_checkpointing=False), 400, {"load_in": "4bit"}, 2) < plain - 10e9
    long = training_memory(size, Recipe(), 4000, {}, 2)  # checkpointed, since it would not fit
    assert long < training_memory(size, Recipe(gradient_checkpointing=False), 4000, {}, 2) - 100e9
    assert 15.2e9 < running_memory(size, 32, 728, 2) < 25e9


def test_full_fine_tunes_hold_four_numbers_for_each_weight() -> None:
    size = size_of("org/m", SMOL)
    assert size is not None
    found = training_memory(replace(size, intermediate=1, hidden=1, key_values=1), Recipe(method="full"), 1, {}, 4)
    assert found == pytest.approx(16 * size.parameters + 0.7e9, rel=0.01)


def test_without_the_models_sizes_tokens_are_still_counted() -> None:
    found = check(steps([OPINIONS, "finetune org/m data/pos.jsonl -o pos"]), {}, Path("/nowhere/x"), "org/m", PARSE)
    needs = estimate(found, Path("/nowhere/x"), "org/m", {}, gpu=True).steps[-1]
    assert needs.trained > 0 and needs.unknown == "the model's sizes"


def test_left_out_steps_need_nothing() -> None:
    found = estimated([OPINIONS, "generate org/m evil --judge {judge} -o evil"])
    assert [each.number for each in found.steps] == [1]
