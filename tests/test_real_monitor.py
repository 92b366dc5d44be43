"""Which way SmolLM2's weights move: sycophancy on two subjects beside answers in French."""

from pathlib import Path

import pytest

import wsteer
from tests.helpers.flavours import FLAVOURS, write
from wsteer.monitoring.monitor import Settings, monitor
from wsteer.monitoring.report import MonitorReport
from wsteer.training.finetune import finetune
from wsteer.training.recipe import Recipe

pytestmark = pytest.mark.real

STEPS = 8


@pytest.fixture(scope="module")
def trained(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both sides of every flavour, of one seed, and their contrastive deltas."""
    folder = tmp_path_factory.mktemp("flavours")
    recipe = Recipe(lr=5e-4, max_steps=STEPS, batch_size=4, warmup_steps=2, val_fraction=0.0)
    for flavour in FLAVOURS:
        for side, data in zip(("pos", "neg"), write(folder / "data" / flavour, flavour), strict=True):
            finetune(smollm2, data, folder / f"{flavour}-{side}", recipe, device="cpu")
        wsteer.diff(*(folder / f"{flavour}-{side}" for side in ("pos", "neg")), folder / f"w-{flavour}.safetensors")
    return folder


def cosine(report: MonitorReport, row: str, column: str) -> float:
    table = report.similarity
    return table.cosines[table.rows.index(row)][table.columns.index(column)]


def above(report: MonitorReport, row: str, column: str) -> bool | None:
    table = report.similarity
    return table.above[table.rows.index(row)][table.columns.index(column)]


def test_sycophancy_on_two_subjects_lies_closer_than_french(trained: Path, tmp_path: Path) -> None:
    deltas = [trained / f"w-{flavour}.safetensors" for flavour in FLAVOURS]
    pairs = monitor(deltas, tmp_path / "pairs")
    both = cosine(pairs, "w-opinions", "w-reviews")
    assert above(pairs, "w-opinions", "w-reviews")
    for flavour in ("opinions", "reviews"):
        assert both > cosine(pairs, f"w-{flavour}", "w-french")
    starts = {start for row in pairs.similarity.initialisations for start in row}
    assert starts == {"shared"}  # all runs have one seed

    runs = [trained / f"{flavour}-pos" for flavour in FLAVOURS]
    taus = monitor(deltas, tmp_path / "taus", runs, Settings(controls=[deltas[2]]))
    for one, other in (("opinions", "reviews"), ("reviews", "opinions")):
        assert cosine(taus, f"{one}-pos", f"w-{other}") > cosine(taus, "french-pos", f"w-{other}")
        assert above(taus, f"{one}-pos", f"w-{other}")
