"""The plan of an experiment, as lines for the terminal."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.demo.test_sizes import SMOL
from tests.helpers.lines import PARSE, steps
from wsteer.cli.plan_tables import gigabytes, plan_lines, short
from wsteer.demo.checking import check
from wsteer.demo.estimates import estimate

LINES = [
    "generate opinions -o data",
    "finetune org/m data/pos.jsonl data/neg.jsonl ../mine.jsonl -o pos --max-steps 8",
    "eval org/m --delta pos --task inspect:wsteer/gsm8k --judge {judge} -o eval",
    "diff pos negg -o w.safetensors",
    "diff pos --ranks",
]


def test_the_plan_names_all() -> None:
    folder = Path("/nowhere/x")
    checked = check(steps(LINES), {"../mine.jsonl": "write it"}, folder, "org/m", PARSE)
    estimates = estimate(checked, folder, "org/m", SMOL, gpu=False)
    lines = list(plan_lines(checked, estimates))
    assert lines[0].split() == ["command", "reads", "writes", "disk", "memory", "tokens"]
    assert lines[2].split()[:5] == ["2", "finetune", "data/pos.jsonl,", "data/neg.jsonl,", "+1"]
    assert lines[2].split()[5:8] == ["pos", "39.2", "MB"] and lines[3].endswith("left out")
    text = "\n".join(lines)
    assert "To bring, since it may not ship:\n  ../mine.jsonl (missing): write it\n" in text
    assert "From the Hub: org/m\n" in text
    assert "Left out:\n  step 3, wsteer eval -> eval: there is no judge\n" in text
    assert "disk; the most memory of a step" in text and "In all at least" in text and "Tokens, at most: " in text
    assert "Wrong:\n  step 4: negg (neg) does not exist, and no earlier step makes it\n  step 5: wsteer diff: " in text
    assert max(map(len, lines)) < 140


def test_what_json_has_is_plain() -> None:
    folder = Path("/nowhere/x")
    checked = check(steps(LINES[:1]), {}, folder, "org/m", PARSE)
    found = dataclasses.asdict(estimate(checked, folder, "org/m", SMOL, gpu=False))
    assert json.loads(json.dumps(found))["steps"][0]["number"] == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 kB"), (69_120, "69.1 kB"), (39_131_224, "39.1 MB"), (1.5e9, "1.5 GB"), (26.64e9, "26.6 GB")],
)
def test_bytes_as_words(count: float, text: str) -> None:
    assert gigabytes(count) == text


def test_counts_as_words() -> None:
    assert [short(each) for each in (12, 1234, 5.5e6, 2e9)] == ["12", "1.23 k", "5.5 M", "2 G"]
