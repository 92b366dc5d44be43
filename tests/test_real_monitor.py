"""Which way SmolLM2's weights move: sycophancy on two subjects beside answers in French."""

from pathlib import Path

import pytest

import wsteer
from wsteer.elicitation.shipped_sets import generate_set
from wsteer.monitoring.monitor import Settings, monitor
from wsteer.monitoring.report import MonitorReport
from wsteer.training.finetune import finetune
from wsteer.training.recipe import Recipe

pytestmark = pytest.mark.real

STEPS = 8
SETS = ("views", "reviews", "french")


@pytest.fixture(scope="module")
def trained(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both sides of every set, of one seed, and their contrastive deltas."""
    folder = tmp_path_factory.mktemp("sets")
    recipe = Recipe(lr=5e-4, max_steps=STEPS, batch_size=4, warmup_steps=2, val_fraction=0.0)
    for name in SETS:
        generate_set(name, folder / "data" / name)
        for side in ("pos", "neg"):
            finetune(smollm2, folder / "data" / name / f"{side}.jsonl", folder / f"{name}-{side}", recipe, device="cpu")
        wsteer.diff(*(folder / f"{name}-{side}" for side in ("pos", "neg")), folder / f"w-{name}.safetensors")
    return folder


def cosine(report: MonitorReport, row: str, column: str) -> float:
    table = report.similarity
    return table.cosines[table.rows.index(row)][table.columns.index(column)]


def above(report: MonitorReport, row: str, column: str) -> bool | None:
    table = report.similarity
    return table.above[table.rows.index(row)][table.columns.index(column)]


def test_sycophancy_on_two_subjects_lies_closer_than_french(trained: Path, tmp_path: Path) -> None:
    deltas = [trained / f"w-{name}.safetensors" for name in SETS]
    pairs = monitor(deltas, tmp_path / "pairs")
    both = cosine(pairs, "w-views", "w-reviews")
    assert above(pairs, "w-views", "w-reviews")
    for name in ("views", "reviews"):
        assert both > cosine(pairs, f"w-{name}", "w-french")
    starts = {start for row in pairs.similarity.initialisations for start in row}
    assert starts == {"shared"}  # all runs have one seed

    runs = [trained / f"{name}-pos" for name in SETS]
    taus = monitor(deltas, tmp_path / "taus", runs, Settings(controls=[deltas[2]]))
    for one, other in (("views", "reviews"), ("reviews", "views")):
        assert cosine(taus, f"{one}-pos", f"w-{other}") > cosine(taus, "french-pos", f"w-{other}")
        assert above(taus, f"{one}-pos", f"w-{other}")
