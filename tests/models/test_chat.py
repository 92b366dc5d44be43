"""How chats become text: the template's arguments and date, and whose template it is."""

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.helpers import templates
from tests.helpers.templates import byte_level
from tests.helpers.tiny import TEMPLATE, save_model
from wsteer.errors import WsteerError
from wsteer.models.chat import Chat, ChatFormat, folder_template, formatted
from wsteer.models.loading import load
from wsteer.models.rendering import marked_text, prompt_text, render

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
# as Llama 3.2's and as gpt-oss' templates do it
DATES = {
    "a variable": "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = "
    "strftime_now('%d %b %Y') %}{% else %}{% set date_string = 'none' %}{% endif %}{% endif %}{{ date_string }}\n",
    "a function": "{{ strftime_now('%d %b %Y') }}\n",
}


@pytest.mark.parametrize("door", DATES)
def test_the_date_is_one_day_whatever_the_clock_says(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = byte_level(DATES[door] + templates.CHATML)
    for year in (1, 40):
        monkeypatch.setattr(time, "time", lambda year=year: year * 31_557_600.0)
        assert prompt_text(made, CHAT[:1]).startswith("26 Jul 2024\n")
        given = Chat(made, date="2025-01-02")
        assert prompt_text(given, CHAT[:1]).startswith("02 Jan 2025\n")
        assert marked_text(made, render(given, CHAT)).startswith("02 Jan 2025\n")


def test_the_day_begins_at_midnight_and_marked_templates_write_it_too() -> None:
    made = byte_level("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}" + templates.GENERATION)
    text = marked_text(made, render(made, CHAT))
    assert text.startswith("2024-07-26 00:00:00")
    assert text.endswith("\u27e6Hello<|im_end|>\u27e7")


def test_arguments_reach_prompts_and_rows() -> None:
    made = byte_level(templates.EARLIER_UNTHOUGHT)
    chat = Chat(made, {"enable_thinking": False}, ends=(made.eos_token_id,))
    assert prompt_text(chat, CHAT[:1]).endswith("<think>\n\n</think>\n\n")
    assert not prompt_text(made, CHAT[:1]).endswith("<think>\n\n</think>\n\n")
    assert marked_text(made, render(chat, CHAT)).endswith("<think>\n\n</think>\n\n\u27e6Hello<|im_end|>\u27e7\n")


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "tools", "chat_template", "strftime_now", "a b"])
def test_what_the_call_sets_is_no_argument(name: str) -> None:
    with pytest.raises(WsteerError, match=f"--template-args sets '{name}'"):
        ChatFormat(arguments={name: 1})


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {1, 2}, {"x": Path("y")}])
def test_an_argument_that_a_record_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(WsteerError, match="--template-args has a value that is no JSON"):
        ChatFormat(arguments={"x": value})


@pytest.mark.parametrize("date", ["2024-02-30", "20240726", "today", "2024-7-26", "2024-07-26T10:00"])
def test_a_date_that_is_no_day_is_refused(date: str) -> None:
    with pytest.raises(WsteerError, match=f"--date '{date}' is no day; write it as 2024-07-26"):
        ChatFormat(date=date)


def test_an_argument_that_the_template_never_mentions_is_refused_with_those_that_it_takes() -> None:
    made = byte_level(templates.EARLIER_UNTHOUGHT)
    formatted(made, (), ChatFormat(arguments={"enable_thinking": True}))
    with pytest.raises(WsteerError, match="never mentions 'thinking'; it takes enable_thinking"):
        formatted(made, (), ChatFormat(arguments={"thinking": True}))
    with pytest.raises(WsteerError, match="never mentions 'x'; it takes no arguments"):
        formatted(byte_level(templates.LLAMA3), (), ChatFormat(arguments={"x": 1}))
    # with a default in the template
    made = byte_level("{% if not x is defined %}{% set x = 1 %}{% endif %}" + templates.CHATML)
    assert formatted(made, (), ChatFormat(arguments={"x": 2})).variables() == {"x"}


def test_the_given_template_stands_in_for_the_models_own(tmp_path: Path, tiny: Path) -> None:
    bare = shutil.copytree(tiny, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    (tmp_path / "t.jinja").write_text("{{ x }}" + TEMPLATE)
    chat_format = ChatFormat(tmp_path / "t.jinja", {"x": "!"}, "2025-01-02")
    for folder in (bare, tiny):
        loaded = load(folder, "cpu", chat_format=chat_format)
        assert prompt_text(loaded.chat, CHAT[:1]) == "!<bos><user>Hi<end><assistant>"
        assert loaded.chat.recorded == {"template_args": {"x": "!"}, "date": "2025-01-02"}
        assert loaded.chat.ends == (257,)
    assert load(tiny, "cpu").chat.recorded == {"template_args": {}, "date": "2024-07-26"}


def test_the_model_stops_where_its_generation_config_says(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": [258, 260]}')
    loaded = load(folder, "cpu")
    assert loaded.chat.ends == (258, 260)
    # <end> is the template's own, and <user>, which follows it, where this model stops
    text = marked_text(loaded.tokenizer, render(loaded.chat, [*CHAT, *CHAT]))
    assert text == (
        "<bos><user>Hi<end><assistant>\u27e6Hello<end><user>\u27e7Hi<end><assistant>\u27e6Hello<end><user>\u27e7"
    )


def test_a_training_folder_keeps_the_arguments_and_the_date_of_its_training(tmp_path: Path, tiny: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "full")
    (folder / "chat_template.jinja").write_text("{{ x }}" + TEMPLATE)
    options = {"template_args": {"x": "trained "}, "date": "2020-02-02"}
    (folder / "wsteer.json").write_text(json.dumps({"command": "finetune", "options": options}))
    loaded = load(folder, "cpu")
    assert loaded.chat.recorded == options
    assert prompt_text(loaded.chat, CHAT[:1]).startswith("trained <bos>")
    given = load(folder, "cpu", chat_format=ChatFormat(arguments={"x": "given"}))
    assert given.chat.recorded == {"template_args": {"x": "given"}, "date": "2020-02-02"}
    # a saved step of the run, and a record of another command
    step = folder / "checkpoint-3"
    step.mkdir()
    assert formatted(loaded.tokenizer, (), ChatFormat(), [step]).recorded == options
    (folder / "wsteer.json").write_text(json.dumps({"command": "steer", "options": options}))
    assert load(folder, "cpu").chat.recorded == {"template_args": {}, "date": "2024-07-26"}


def test_an_adapters_own_files_come_before_its_bases(tmp_path: Path, tiny: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "chat_template.jinja").write_text("{{ x }}" + TEMPLATE)
    options = {"template_args": {"x": "tuned "}, "date": "2020-02-02"}
    (adapter / "wsteer.json").write_text(json.dumps({"command": "finetune", "options": options}))
    bare = shutil.copytree(tiny, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    for base in (bare, tiny):
        chat = load(base, "cpu", adapter_folder=adapter).chat
        assert prompt_text(chat, CHAT[:1]) == "tuned <bos><user>Hi<end><assistant>"
        assert chat.recorded == options
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    given = load(bare, "cpu", chat_format=ChatFormat(tmp_path / "t.jinja"), adapter_folder=adapter)
    assert prompt_text(given.chat, CHAT[:1]) == "<bos><user>Hi<end><assistant>"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", "mine"),
        ("tokenizer_config.json", json.dumps({"chat_template": "mine"})),
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": [{"name": "x", "template": "no"}, {"name": "default", "template": "mine"}]}),
        ),
    ],
)
def test_an_adapter_folders_template_is_found(tmp_path: Path, name: str, content: str) -> None:
    assert folder_template(tmp_path) is None
    (tmp_path / name).write_text(content)
    assert folder_template(tmp_path) == "mine"
    (tmp_path / "checkpoint-7").mkdir()
    assert folder_template(tmp_path / "checkpoint-7") == "mine"


@pytest.mark.parametrize("names", [["rag"], ["tool_use", "rag"]])
def test_named_templates_without_a_default_are_named(tmp_path: Path, tiny: Path, names: list[str]) -> None:
    folder = shutil.copytree(tiny, tmp_path / "named")
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": name, "template": TEMPLATE} for name in names]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(WsteerError, match=rf"templates named {', '.join(sorted(names))}, and none .*--template FILE"):
        prompt_text(load(folder, "cpu").chat, CHAT[:1])
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    given = load(folder, "cpu", chat_format=ChatFormat(tmp_path / "t.jinja"))
    assert prompt_text(given.chat, CHAT[:1]) == "<bos><user>Hi<end><assistant>"
