"""The chain of the demo on models of other kinds than its own."""

from pathlib import Path

import pytest

from tests.helpers.command import Cli
from tests.helpers.tiny import save_model


@pytest.mark.slow
def test_the_demo_runs_on_a_model_that_names_its_sizes_otherwise(tmp_path: Path, cli: Cli) -> None:
    base = save_model(tmp_path / "gpt2", "gpt2", tie_word_embeddings=True, max_position_embeddings=256)
    assert "num_hidden_layers" not in (base / "config.json").read_text()
    ran = cli("demo", "--model", base, "-o", tmp_path / "out", "--json", "--quiet")
    assert ran.code == 0, ran.err
    assert ran.json["block"] == 1
    assert (tmp_path / "out" / "eval" / "report.html").exists()
