"""--template, --template-args and --date: in every command that renders chats, and in its record."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.helpers.command import ARGUMENTS, Cli, Inputs
from tests.helpers.tiny import TEMPLATE
from wsteer.cli.command import read_config
from wsteer.deltas.delta import Delta

RENDERING = ["generate", "finetune", "actvec", "eval", "monitor"]
OPTIONS = {"template_args": {"mood": "good", "n": [1, 2]}, "date": "2025-01-02"}


@pytest.fixture
def bare(tmp_path: Path, tiny: Path) -> Path:
    """The tiny model without a chat template."""
    folder = shutil.copytree(tiny, tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    return folder


def arguments(name: str, inputs: Inputs, bare: Path) -> list:
    if name == "monitor":
        return [name, inputs.vectors(), "--of", inputs.chats[0], "--base", bare, "--layers", 0]
    return [name, *(bare if each == inputs.tiny else each for each in ARGUMENTS[name](inputs))]


@pytest.mark.slow
@pytest.mark.parametrize("name", RENDERING)
def test_every_command_that_renders_chats_takes_a_template_and_records_it(
    cli: Cli, inputs: Inputs, bare: Path, name: str
) -> None:
    words = arguments(name, inputs, bare)
    ran = cli(*words, "-o", inputs.folder / "none", "-q")
    assert ran.code == 1
    assert "has no chat template" in ran.error and "--template FILE" in ran.error
    template = inputs.text("t.jinja", "{{ mood }} {{ n }} {{ strftime_now('%Y') }}" + TEMPLATE)
    given = ["--template", template, "--template-args", json.dumps(OPTIONS["template_args"]), "--date", OPTIONS["date"]]
    output = inputs.folder / "out"
    ran = cli(*words, *given, "-o", output)
    assert ran.code == 0, ran.err
    if name == "actvec":
        delta = Delta.load(output)
        record = {"options": delta.options, "inputs": delta.sources}
    else:
        record = json.loads((output / "wsteer.json").read_text())
    assert {key: record["options"][key] for key in OPTIONS} == OPTIONS
    (entry,) = [each for each in record["inputs"] if each["role"] == "template"]
    assert entry["path"] == "t.jinja" and len(entry["sha256"]) == 64
    if name == "finetune":
        assert "good [1, 2] 2025<bos><user>" in ran.err
        assert (output / "chat_template.jinja").read_text() == template.read_text()
    ran = cli(*words, *given[:2], "--template-args", '{"moods": 1}', "-o", output, "--force", "-q")
    assert (ran.code, "never mentions 'moods'; it takes mood, n" in ran.error) == (1, True)


@pytest.mark.parametrize("name", RENDERING)
@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--template-args", "[1]", "is no JSON object"),
        ("--template-args", "enable_thinking=false", "is no JSON"),
        ("--template-args", '{"a": 1, "a": 2}', "a"),
        ("--date", "2025-13-01", "is no day; write it as 2024-07-26"),
        ("--date", "20250101", "is no day"),
    ],
)
def test_values_that_are_none_are_usage_errors(
    cli: Cli, inputs: Inputs, name: str, option: str, value: str, says: str
) -> None:
    ran = cli(*arguments(name, inputs, inputs.tiny), option, value, "-o", inputs.folder / "out")
    assert ran.code == 2
    assert says in " ".join(ran.err.split())


def test_a_config_may_hold_the_arguments_as_a_mapping(tmp_path: Path) -> None:
    given = {"enable_thinking": False, "effort": "high", "parts": {"a": [1, None]}}
    for text in (yaml.safe_dump({"template-args": given}), "template-args: '" + json.dumps(given) + "'"):
        (tmp_path / "c.yaml").write_text(text)
        found = read_config(tmp_path / "c.yaml", {"template_args": SimpleNamespace(metavar="JSON")})
        assert json.loads(found["template_args"]) == given


@pytest.mark.slow
def test_a_config_gives_arguments_and_date(cli: Cli, inputs: Inputs) -> None:
    template = inputs.text("t.jinja", "{{ mood }} {{ n }}" + TEMPLATE)
    values = {"template": str(template), "template-args": OPTIONS["template_args"], "date": OPTIONS["date"]}
    config = inputs.text("c.yaml", yaml.safe_dump(values))
    ran = cli("actvec", inputs.tiny, *inputs.chats, "-o", inputs.folder / "a.safetensors", "--config", config, "-q")
    assert ran.code == 0, ran.err
    recorded = Delta.load(inputs.folder / "a.safetensors").options
    assert {key: recorded[key] for key in OPTIONS} == OPTIONS


@pytest.mark.slow
@pytest.mark.parametrize("name", RENDERING)
def test_a_prompt_that_opens_a_thought_is_read_and_a_plain_answer_to_it_refused(
    cli: Cli, inputs: Inputs, name: str
) -> None:
    opened = TEMPLATE.replace(
        "%}<assistant>{% endif %}", "%}<assistant>{{ '<think>\\n' if thinking is not defined or thinking }}{% endif %}"
    ).replace("message['content']", "message['content'].split('</think>')[-1]")
    given = ["--template", inputs.text("t.jinja", opened), "-q"]
    words = arguments(name, inputs, inputs.tiny)
    ran = cli(*words, *given, "-o", inputs.folder / "out")
    if name in ("generate", "eval"):
        assert ran.code == 0, ran.err
        return
    assert ran.code == 1
    assert "--template FILE, or --template-args '{\"thinking\": false}'" in ran.error
    assert "the prompt opens a thought, <think>, and the answer has none" in ran.error
    ran = cli(*words, *given, "--template-args", '{"thinking": false}', "-o", inputs.folder / "out")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("given", [("--template", "t.jinja"), ("--template-args", "{}"), ("--date", "2025-01-02")])
def test_cosines_of_weights_render_no_chats(cli: Cli, inputs: Inputs, given: tuple[str, str]) -> None:
    ran = cli("monitor", inputs.delta(), "-o", inputs.folder / "out", *given)
    assert ran.code == 2
    assert given[0] in ran.err and "it is not used with cosines of weights" in " ".join(ran.err.split())
