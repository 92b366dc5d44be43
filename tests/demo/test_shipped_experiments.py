"""Every experiment that ships passes its dry check, at both scales."""

import importlib.util
from pathlib import Path

import pytest

from tests.helpers.lines import PARSE
from wsteer.demo.checking import EXTRAS, check
from wsteer.demo.estimates import estimate
from wsteer.demo.experiment import MODEL, commands, read_experiment, shipped

ALL = [(name, scale) for name in shipped() for scale in read_experiment(name).scales]


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_the_dry_check_finds_nothing_wrong(name: str, scale: str, tmp_path: Path) -> None:
    experiment = read_experiment(name)
    values = experiment.scales[scale]
    model, folder = values.values[MODEL], tmp_path / "run"
    found = check(commands(experiment, scale), experiment.bring, folder, model, PARSE)
    absent = [extra for module, extra in EXTRAS.items() if importlib.util.find_spec(module) is None]
    assert [each for each in found.problems if not any(f"wsteer[{extra}]" in each for extra in absent)] == []
    needs = estimate(found, folder, model, values.size, gpu=scale == "paper")
    assert needs.trained > 0 and needs.disk > 0
    if values.size:
        assert [each.unknown for each in needs.steps if each.unknown] == []
        assert 0 < needs.memory < 80e9
