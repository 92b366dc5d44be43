"""A command line parsed without being run."""

import copy
import os
import shlex
from pathlib import Path

import pytest

from tests.cli.test_readmes import FAULTS, complaint
from tests.helpers.lines import GROUP, PARSE, parsed
from wsteer.checkpoints import contents
from wsteer.errors import WsteerError
from wsteer.evaluation.compared import Added


def test_values_are_as_the_command_gets_them() -> None:
    line = "eval M --delta w=a.safetensors@0-2 --k=-1:1:1 --layers each --task t -T n=3 --max-unscored 5%"
    values = parsed(f"{line} --batch-size 7 -o e").values
    assert values["delta"] == [Added("a.safetensors", "w", [0, 1, 2])]
    assert values["k"] == [-1, 0, 1] and values["layers"] == "each" and values["batch_size"] == 7
    assert values["max_unscored"] == 0.05 and values["task_arg"] == {"n": 3} and values["limit"] is None


def test_a_fine_tunes_recipe_is_that_of_its_preset_and_options() -> None:
    recipe = parsed("finetune M x --preset sycophancy-released --lr 1e-4,1e-3 --targets q_proj -o p").values["recipe"]
    assert recipe.max_steps == 100 and recipe.modules_to_save == ("embed_tokens", "lm_head")
    assert recipe.rates == (1e-4, 1e-3) and recipe.targets == ("q_proj",)


@pytest.mark.parametrize("fault", FAULTS)
def test_messages_are_the_commands_own(fault: str) -> None:
    line, _ = FAULTS[fault]
    words = shlex.split(line)[1:]
    told = complaint(words)
    with pytest.raises(WsteerError) as raised:
        PARSE(words, Path())
    if fault != "unknown command":
        assert f"Error: {raised.value}" == told


def test_variables_and_a_config_beside_the_folder_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yaml").write_text("rank: 4\nseed: 3\n")
    monkeypatch.setenv("WSTEER_FINETUNE_RANK", "8")
    values = parsed("finetune M x -o p --config ../c.yaml", tmp_path / "not-there").values
    assert values["recipe"].rank == 8 and values["seed"] == 3 and values["config"] == "../c.yaml"
    monkeypatch.setenv("WSTEER_FINETUNE_RANKS", "8")
    with pytest.raises(WsteerError, match="names no option"):
        parsed("finetune M x -o p")


def test_no_state_is_changed(capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = {name: command.callback for name, command in GROUP.commands.items()}
    before, environment = contents._followed.get(), copy.copy(dict(os.environ))
    assert parsed("diff a b -o w --follow-links").values["follow_links"] is True
    for line in ("diff --help", "finetune --preset list", "diff a", "generate --list-traits"):
        with pytest.raises(WsteerError):
            parsed(line)
    assert contents._followed.get() is before and dict(os.environ) == environment
    assert {name: command.callback for name, command in GROUP.commands.items()} == callbacks
    assert capsys.readouterr() == ("", "")
