"""Thoughts and channels told apart from answers, by templates of the kinds in use."""

from dataclasses import dataclass

import pytest

from tests.helpers.templates import CHATML, GEMMA, LATE_SYSTEM, LLAMA2, LLAMA3, PLAIN, byte_level
from wsteer.models.chat import Chat
from wsteer.models.thoughts import Marks, find_marks


def turns(assistant: str, prompt: str = "", before: str = "") -> str:
    """A chat template that writes `assistant` for an answer and `prompt` where one is asked for."""
    return (
        f"{before}{{% for m in messages %}}{{% set content = m['content'] %}}<|im_start|>{{{{ m['role'] }}}}\n"
        f"{{% if m['role'] == 'assistant' %}}{assistant}{{% else %}}{{{{ content }}}}{{% endif %}}<|im_end|>\n"
        f"{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{prompt}{{% endif %}}"
    )


CONTENT = "{{ content }}"
AFTER_THINK = "{{ content.split('</think>')[-1].lstrip() }}"
BY_FIELD = "{% if m.reasoning_content and loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
LEFT_EMPTY = "{% if loop.last and '</think>' not in content %}<think>\n\n</think>\n\n{% endif %}{{ content }}"
UNLESS_ASKED = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
HARMONY_START = "{% for m in messages %}{% if m['role'] == 'assistant' %}"
HARMONY_END = (
    "<|start|>assistant<|channel|>final<|message|>{{ m['content'] }}{% if loop.last %}<|return|>{% else %}<|end|>"
    "{% endif %}{% else %}<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
ANALYSIS = (
    "{% if loop.last and m.thinking %}<|start|>assistant<|channel|>analysis<|message|>"
    "{{ m.thinking }}<|end|>{% endif %}"
)
PARTS = (
    "{% if content is string %}{{ content }}{% else %}{% for part in content %}{% if part.type == 'thinking' %}"
    "[THINK]{{ part.thinking }}[/THINK]{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
)
COHERE = (
    "{% if m.thinking %}<|START_THINKING|>{{ m.thinking }}<|END_THINKING|>{% endif %}"
    "<|START_RESPONSE|>{{ content }}<|END_RESPONSE|>"
)
STRIPPED = (
    "{% set kept = namespace(text='') %}{% for part in content.split('<channel|>') %}"
    "{% set kept.text = kept.text + part.split('<|channel>')[0] %}{% endfor %}{{ kept.text | trim }}"
)
SEED = (
    "{% set e = '</seed:think>' %}{% if m.reasoning_content %}<seed:think>{{ m.reasoning_content }}{{ e }}{% endif %}"
)
ANSWER_OUT = (
    "{% if '<answer>' in content %}{% set content = content.split('<answer>')[-1].split('</answer>')[0] %}{% endif %}"
    "{{ content | trim }}"
)
# turns without ends, and an empty thought in every answer
GLM = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>\n<think>"
    "{{ m.reasoning_content or '' }}</think>\n{{ m['content'] }}{% else %}<|user|>\n{{ m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# the same, of a whole answer alone, and in earlier turns alone
EARLIER_ANSWER_OUT = (
    "{% if '<answer>' in content and '</answer>' in content and not loop.last %}"
    "{% set content = content.split('<answer>')[-1].split('</answer>')[0] %}{% endif %}{{ content | trim }}"
)
MENTIONED = "Write your thoughts in <think></think> and your answer in <response></response>.\n"
ODD = "{% if '<<so>>' in content %}{% set content = content.split('<<so>>')[1] %}{% endif %}{{ content }}"


@dataclass(frozen=True)
class Kind:
    """A template, its added tokens (special, and not), its arguments; texts, and what is (thought, answer) in them."""

    template: str
    finished: dict[str, tuple[str | None, str] | None]  # None: nothing is to be separated
    cut: dict[str, tuple[str | None, str] | None]
    special: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    arguments: tuple[tuple[str, object], ...] = ()


THINK = {
    "<think>\nHm, so.\n</think>\n\nYes, quite.": ("Hm, so.", "Yes, quite."),
    "<think>\n\n</think>\n\nYes.": (None, "Yes."),
    "<think>Hm.</think>Yes.": ("Hm.", "Yes."),
    "<think>Hm.</think>\n</think>\n\nYes.": ("Hm.", "Yes."),
    "Yes.": None,
    "": None,
}
UNENDED = {
    "<think>\nHm, so": ("Hm, so", ""),
    "<think>": (None, ""),
    "<think>\nHm.\n</think>\n\n": ("Hm.", ""),
    "<think>Hm.</think>\nYes, I": ("Hm.", "Yes, I"),
    "Yes, I": None,
}
OPENED = {
    "Hm, so.\n</think>\n\nYes.": ("Hm, so.", "Yes."),
    "</think>\n\nYes.": (None, "Yes."),
    "Hm.</think></think>Yes.": ("Hm.", "Yes."),
    "Hm.</think>Yes <b>and</b> no.": ("Hm.", "Yes <b>and</b> no."),
}
OPENED_CUT = {"Hm, so": ("Hm, so", ""), "": (None, ""), "Hm.\n</think>": ("Hm.", ""), "Hm.</think>Yes": ("Hm.", "Yes")}
CHANNELS = {
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.": ("Hm.", "Yes."),
    "<|channel|>final<|message|>Yes.": (None, "Yes."),
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>Wait.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Yes.": ("Hm.\nWait.", "Yes."),
    "<|channel|>final<|message|>Yes.<|end|><|start|>assistant<|channel|>commentary<|message|>More.": (None, "Yes."),
    "<|channel|>commentary<|message|>Wait.": ("Wait.", ""),
    "Yes.": None,
}
CHANNELS_CUT = {
    "<|channel|>analysis<|message|>Hm": ("Hm", ""),
    "<|channel|>": (None, ""),
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>fin": ("Hm.", ""),
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>": ("Hm.", ""),
    "<|channel|>final<|message|>Yes, I": (None, "Yes, I"),
}
HARMONY_TOKENS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>")
TAGS = ("<think>", "</think>")
KINDS = {
    "field": Kind(turns(BY_FIELD + CONTENT), THINK, UNENDED, plain=TAGS),
    "field, special marks": Kind(turns(BY_FIELD + CONTENT), THINK, UNENDED, special=TAGS),
    "field, marks as text": Kind(turns(BY_FIELD + CONTENT), THINK, UNENDED),
    "split off": Kind(turns(AFTER_THINK), THINK, UNENDED, plain=TAGS),
    "left empty": Kind(turns(LEFT_EMPTY), THINK, UNENDED, plain=TAGS),
    "asked for none": Kind(
        turns(LEFT_EMPTY, UNLESS_ASKED),
        {"Yes.": None, "<think>Hm.</think>Yes.": ("Hm.", "Yes.")},
        {"Yes, I": None},
        arguments=(("enable_thinking", False),),
    ),
    "opened, field": Kind(turns(BY_FIELD + CONTENT, "<think>\n"), OPENED, OPENED_CUT, plain=TAGS),
    "opened, left empty": Kind(turns(LEFT_EMPTY, "<think>\n"), OPENED, OPENED_CUT),
    "opened, split off": Kind(turns(AFTER_THINK, "<think>\n"), OPENED, OPENED_CUT, special=TAGS),
    "opened, and no word of its end": Kind(
        turns(CONTENT, "<think>"), {"Hm.</think>Yes.": ("Hm.", "Yes."), "Yes.": None}, {"Hm": ("Hm", "")}
    ),
    "parts": Kind(
        turns(PARTS),
        {"[THINK]Hm.[/THINK]Yes.": ("Hm.", "Yes."), "Yes [sic].": None},
        {"[THINK]Hm": ("Hm", ""), "[THINK]Hm.[/THINK]": ("Hm.", "")},
        special=("[THINK]", "[/THINK]"),
    ),
    "response": Kind(
        turns(COHERE),
        {
            "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>": ("Hm.", "Yes."),
            "<|START_RESPONSE|>Yes.<|END_RESPONSE|>": (None, "Yes."),
            "<|START_THINKING|>Hm.<|END_THINKING|>Yes.": ("Hm.", "Yes."),
            "Yes.": None,
        },
        {"<|START_THINKING|>Hm": ("Hm", ""), "<|START_THINKING|>Hm.<|END_THINKING|>": ("Hm.", "")},
        special=("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    "channels": Kind(HARMONY_START + ANALYSIS + HARMONY_END, CHANNELS, CHANNELS_CUT, special=HARMONY_TOKENS),
    "channels, no field": Kind(HARMONY_START + HARMONY_END, CHANNELS, CHANNELS_CUT, special=HARMONY_TOKENS),
    "channel stripped": Kind(
        turns(STRIPPED),
        {"<|channel>thought\nHm.<channel|>Yes.": ("thought\nHm.", "Yes."), "Yes.": None},
        {"<|channel>thought\nHm": ("thought\nHm", ""), "<|channel>thought\nHm.<channel|>": ("thought\nHm.", "")},
        special=("<|channel>", "<channel|>"),
    ),
    "mentioned, with the answer": Kind(
        turns(CONTENT, before=MENTIONED),
        {
            "<think>Hm.</think><response>Yes.</response>": ("Hm.", "Yes."),
            "<think>Hm.</think>\n\n<response>\nYes.\n</response>": ("Hm.", "Yes."),
            "<think>Hm.</think>Yes.": ("Hm.", "Yes."),
            "The mark <think> begins a thought.": None,
        },
        {
            "<think>Hm": ("Hm", ""),
            "<think>Hm.</think>": ("Hm.", ""),
            "<think>Hm.</think><response>Yes, I": ("Hm.", "Yes, I"),
        },
    ),
    "a name's own": Kind(
        turns(SEED + CONTENT),
        {"<seed:think>Hm.</seed:think>Yes.": ("Hm.", "Yes.")},
        {"<seed:think>Hm": ("Hm", "")},
        special=("<seed:think>", "</seed:think>"),
    ),
    "a channel's name": Kind(
        turns(STRIPPED, "{% if not think %}<|channel>thought\n<channel|>{% endif %}"),
        {
            "<|channel>thought\nHm.\n<channel|>Yes.": ("Hm.", "Yes."),
            "<|channel>thought\n<channel|>Yes.": (None, "Yes."),
        },
        {"<|channel>thought\nHm": ("Hm", ""), "<|channel>thought": (None, ""), "Yes": None},
        special=("<|channel>", "<channel|>"),
        arguments=(("think", True),),
    ),
    "a thought that the prompt left empty": Kind(
        turns(STRIPPED, "{% if not think %}<|channel>thought\n<channel|>{% endif %}"),
        {"Yes.": None, "<|channel>thought\nHm.\n<channel|>Yes.": ("Hm.", "Yes.")},
        {"Yes": None},
        special=("<|channel>", "<channel|>"),
    ),
    "an answer taken out": Kind(
        turns(ANSWER_OUT, "{% if no_thought %}<think>\n\n</think>{% endif %}"),
        {
            "<think>\nHm.\n</think>\n<answer>\nYes.\n</answer>": ("Hm.", "Yes."),
            "<answer>Yes.</answer>": (None, "Yes."),
            "Yes.": None,
        },
        {"<think>Hm": ("Hm", ""), "<think>Hm.</think><answer>Yes": ("Hm.", "Yes")},
    ),
    "an earlier answer taken out": Kind(
        turns(EARLIER_ANSWER_OUT, "{% if no_thought %}<think>\n\n</think>{% endif %}"),
        {
            "<think>\nHm.\n</think>\n<answer>\nYes.\n</answer>": ("Hm.", "Yes."),
            "<answer>Yes.</answer>": (None, "Yes."),
            "Yes.": None,
        },
        {"<think>Hm": ("Hm", ""), "<think>Hm.</think><answer>Yes": ("Hm.", "Yes")},
    ),
    "a thought in the answer's place": Kind(
        GLM,
        {"\n<think>Hm.</think>\nYes.": ("Hm.", "Yes."), "\n<think></think>\nYes.": (None, "Yes."), "Yes.": None},
        {"\n<think>Hm": ("Hm", ""), "\nYes": None},
        special=("<|user|>", "<|assistant|>"),
        plain=TAGS,
    ),
    "an odd mark": Kind(turns(ODD), {"Hm.<<so>>Yes.": ("Hm.", "Yes."), "Yes.": None}, {"Hm. <<so>>": ("Hm.", "")}),
}


def chat_of_kind(
    template: str, special: tuple[str, ...] = (), plain: tuple[str, ...] = (), **arguments: object
) -> Chat:
    tokenizer = byte_level(template)
    tokenizer.add_tokens(list(plain))
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return Chat(tokenizer, arguments)


def split(marks: Marks, chat: Chat, text: str, finished: bool) -> tuple[str | None, str] | None:
    found = marks.split(chat.text([{"role": "user", "content": "Is it so?"}], prompt=True), text, finished)
    return None if found is None else (found.thought, found.answer)


@pytest.mark.parametrize("name", KINDS)
def test_thoughts_are_told_from_answers_by_the_templates_own_marks(name: str) -> None:
    kind = KINDS[name]
    chat = chat_of_kind(kind.template, kind.special, kind.plain, **dict(kind.arguments))
    marks = find_marks(chat)
    assert {text: split(marks, chat, text, True) for text in kind.finished} == kind.finished, marks
    assert {text: split(marks, chat, text, False) for text in kind.cut} == kind.cut, marks


@pytest.mark.parametrize("template", [CHATML, LLAMA2, LLAMA3, GEMMA, LATE_SYSTEM, PLAIN])
def test_templates_without_marks_of_thoughts_separate_nothing(template: str) -> None:
    chat = chat_of_kind(template)
    marks = find_marks(chat)
    for text in ("Yes.", "<think>Hm.</think>Yes.", "[THINK]Hm.[/THINK]Yes.", "The mark </think> ends it.", "<think>Hm"):
        for finished in (True, False):
            assert split(marks, chat, text, finished) is None, marks


def test_a_text_that_speaks_of_the_marks_keeps_them() -> None:
    chat = chat_of_kind(turns(BY_FIELD + CONTENT))
    marks = find_marks(chat)
    assert split(marks, chat, "A thought begins with <think>, I think.", True) is None
    said = "<think>Hm.</think>A thought ends with </think>, I think."
    assert split(marks, chat, said, True) == ("Hm.", "A thought ends with </think>, I think.")
    twice = "<think>Hm.</think>Yes.<think>Or?</think> Yes."
    assert split(marks, chat, twice, True) == ("Hm.\nOr?", "Yes. Yes.")


def test_a_template_that_refuses_placeholders_has_no_marks() -> None:
    refusing = "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}{{ messages[0]['content'] }}"
    assert find_marks(chat_of_kind(refusing)).thoughts == ()
