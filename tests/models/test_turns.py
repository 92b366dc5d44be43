"""What training learns of every kind of template and chat: the answer after its prompt, to where the model stops."""

import re

import pytest

from tests.helpers import templates
from tests.helpers.templates import byte_level
from wsteer.errors import WsteerError
from wsteer.files.rows import Message
from wsteer.models.chat import Chat
from wsteer.models.rendering import marked_text, prompt_text, render, token_ids


def said(role: str, content: str, **thought: str) -> Message:
    return {"role": role, "content": content, **thought}


BIRDS, HEAT = "<think>\nBirds.\n</think>\n\nYes.", "<think>\nHeat.\n</think>\n\nWarmth."
CHATS: dict[str, list[Message]] = {
    "one": [said("user", "Sleep?"), said("assistant", "Yes.")],
    "two": [said("user", "Sleep?"), said("assistant", "Yes."), said("user", "Why?"), said("assistant", "Warmth.")],
    "last": [said("user", "Sleep?"), said("assistant", "Yes."), said("user", "Why?"), said("assistant", HEAT)],
    "both": [said("user", "Sleep?"), said("assistant", BIRDS), said("user", "Why?"), said("assistant", HEAT)],
    "apart": [
        *(said("user", "Sleep?"), said("assistant", "Yes.", reasoning_content="Birds.")),
        *(said("user", "Why?"), said("assistant", "Warmth.", reasoning_content="Heat.")),
    ],
}
LOST = r"leaves out the last answer's reasoning_content, 'Heat\.'.*--template FILE"
NO_THOUGHT = r"give another with --template FILE \(the prompt opens a thought, <think>, and the answer has none\)"
UNTHOUGHT = r"give another with --template FILE, or --template-args '{\"enable_thinking\": true}'"
# template of helpers/templates.py, whether it is told not to think, where the model stops, and for each chat what is
# learnt, or the message that refuses it
TABLE: list[tuple[str, bool, tuple[str, ...], dict[str, list[str] | str]]] = [
    (
        "CHATML",
        False,
        ("<|im_end|>",),
        {
            "one": ["Yes.<|im_end|>"],
            "two": ["Yes.<|im_end|>", "Warmth.<|im_end|>"],
            "last": ["Yes.<|im_end|>", HEAT + "<|im_end|>"],
            "both": [BIRDS + "<|im_end|>", HEAT + "<|im_end|>"],
            "apart": LOST,
        },
    ),
    (  # a base model whose template is given: the text's end follows the turn's
        "CHATML",
        False,
        ("</s>",),
        {
            "one": ["Yes.<|im_end|></s>"],
            "two": ["Yes.<|im_end|>", "Warmth.<|im_end|></s>"],
            "both": [BIRDS + "<|im_end|>", HEAT + "<|im_end|></s>"],
        },
    ),
    ("LLAMA2", False, ("</s>",), {"one": [" Yes. </s>"], "two": [" Yes. </s>", " Warmth. </s>"]}),
    (
        "LLAMA3",
        False,
        ("</s>", "<|eot_id|>"),
        {"one": ["Yes.<|eot_id|>"], "two": ["Yes.<|eot_id|>", "Warmth.<|eot_id|>"]},
    ),
    (
        "GEMMA",
        False,
        ("</s>", "<end_of_turn>"),
        {"one": ["Yes.<end_of_turn>"], "both": [BIRDS + "<end_of_turn>", HEAT + "<end_of_turn>"]},
    ),
    ("PLAIN", False, ("</s>",), {"one": ["Yes.</s>"], "two": ["Yes.", "Warmth.</s>"]}),
    (
        "NEXT_ROLE",
        False,
        ("</s>", "<|user|>"),
        {
            "one": ["Yes.<|user|>"],
            "two": ["Yes.<|user|>", "Warmth.<|user|>"],
            "last": ["Yes.<|user|>", "\n<think>Heat.</think>Warmth.<|user|>"],
            "both": ["Yes.<|user|>", "\n<think>Heat.</think>Warmth.<|user|>"],
            "apart": ["Yes.<|user|>", "\n<think>Heat.</think>Warmth.<|user|>"],
        },
    ),
    (  # the mark, and then the end at which this model stops
        "NEXT_ROLE",
        False,
        ("</s>",),
        {"one": ["Yes.<|user|></s>"], "two": ["Yes.<|user|>", "Warmth.<|user|></s>"]},
    ),
    (
        "NEXT_ROLE",
        True,
        ("</s>", "<|user|>"),
        {"one": ["Yes.<|user|>"], "two": ["Yes.<|user|>", "Warmth.<|user|>"], "last": UNTHOUGHT, "apart": UNTHOUGHT},
    ),
    (
        "TWO_ENDS",
        False,
        ("<|end|>",),
        {
            "one": ["Yes.<|close|><|end|>"],
            "two": ["Yes.<|close|><|end|>", "Warmth.<|close|><|end|>"],
            "both": [BIRDS + "<|close|><|end|>", HEAT + "<|close|><|end|>"],
            "apart": LOST,
        },
    ),
    ("END_OF_TEXT", False, ("</s>", "<|end|>"), {"one": ["Yes.<|end|>"], "two": ["Yes.<|end|>", "Warmth.<|end|>"]}),
    ("END_OF_TEXT", False, ("</s>",), {"one": ["Yes.<|end|>\n</s>"], "two": ["Yes.<|end|>", "Warmth.<|end|>\n</s>"]}),
    (
        "CHANNELS",
        False,
        ("<|close|>", "</s>"),
        {
            "one": ["Yes.<|close|>"],
            "two": ["Yes.", "Warmth.<|close|>"],
            "apart": ["Yes.", "<|text|>think<|message|>Heat.<|end|><|turn|>bot<|text|>say<|message|>Warmth.<|close|>"],
        },
    ),
    (
        "EARLIER_UNTHOUGHT",
        False,
        ("<|im_end|>",),
        {
            "one": ["Yes.<|im_end|>"],
            "two": ["Yes.<|im_end|>", "Warmth.<|im_end|>"],
            "last": ["Yes.<|im_end|>", HEAT + "<|im_end|>"],
            "both": ["Yes.<|im_end|>", HEAT + "<|im_end|>"],
            "apart": ["Yes.<|im_end|>", HEAT + "<|im_end|>"],
        },
    ),
    (
        "EARLIER_UNTHOUGHT",
        True,
        ("<|im_end|>",),
        {
            "one": ["Yes.<|im_end|>"],
            "two": ["Yes.<|im_end|>", "Warmth.<|im_end|>"],
            "last": UNTHOUGHT,
            "both": UNTHOUGHT,
            "apart": UNTHOUGHT,
        },
    ),
    (
        "OPENED_ALWAYS",
        False,
        ("<|im_end|>",),
        {
            "one": ["Yes.<|im_end|>"],
            "two": ["Yes.<|im_end|>", "Warmth.<|im_end|>"],
            "last": ["Yes.<|im_end|>", "Heat.\n</think>\n\nWarmth.<|im_end|>"],
            "both": ["Yes.<|im_end|>", "Heat.\n</think>\n\nWarmth.<|im_end|>"],
            "apart": ["Yes.<|im_end|>", "Heat.\n</think>\n\nWarmth.<|im_end|>"],
        },
    ),
    (
        "OPENED_ALWAYS",
        True,
        ("<|im_end|>",),
        {
            "one": ["Yes.<|im_end|>"],
            "two": ["Yes.<|im_end|>", "Warmth.<|im_end|>"],
            "last": UNTHOUGHT,
            "apart": UNTHOUGHT,
        },
    ),
    (
        "OPENED_UNTHOUGHT",
        False,
        ("</s>",),
        {
            "one": NO_THOUGHT,
            "two": NO_THOUGHT,
            "last": ["Yes.</s>", "Heat.\n</think>\n\nWarmth.</s>"],
            "both": ["Yes.</s>", "Heat.\n</think>\n\nWarmth.</s>"],
            "apart": r"--template FILE \(the prompt opens a thought, <think>, and the template leaves out",
        },
    ),
    (
        "OPENED_OTHERWISE",
        False,
        ("<|im_end|>",),
        {
            "one": ["Yes.<|im_end|>"],
            "two": ["Yes.<|im_end|>", "Warmth.<|im_end|>"],
            "last": ["Yes.<|im_end|>", "Heat.\n</think>\n\nWarmth.<|im_end|>"],
            "both": ["Yes.<|im_end|>", "Heat.\n</think>\n\nWarmth.<|im_end|>"],
            "apart": ["Birds.\n</think>\nYes.<|im_end|>", "Heat.\n</think>\nWarmth.<|im_end|>"],
        },
    ),
    (
        "OPENED_OTHERWISE",
        True,
        ("<|im_end|>",),
        {
            "one": ["Yes.<|im_end|>"],
            "two": ["Yes.<|im_end|>", "Warmth.<|im_end|>"],
            "last": UNTHOUGHT,
            "apart": UNTHOUGHT,
        },
    ),
]
CELLS = [(name, unthinking, ends, row, cells[row]) for name, unthinking, ends, cells in TABLE for row in cells]
NAMES = [f"{name}{'-unthinking' * unthinking}-{ends[-1]}-{row}" for name, unthinking, ends, row, _ in CELLS]


def formatted(template: str, ends: tuple[str, ...], **arguments: object) -> Chat:
    made = byte_level(template)
    made.eos_token = ends[0]
    return Chat(made, arguments, ends=tuple(made.convert_tokens_to_ids(list(ends))))


def learnt(text: str) -> list[str]:
    return re.findall("\u27e6(.*?)\u27e7", text, flags=re.DOTALL)


@pytest.mark.parametrize(("name", "unthinking", "ends", "row", "expected"), CELLS, ids=NAMES)
def test_each_kind_of_chat_is_learnt_of_each_kind_of_template_or_refused(
    name: str, unthinking: bool, ends: tuple[str, ...], row: str, expected: list[str] | str
) -> None:
    chat = formatted(getattr(templates, name), ends, **({"enable_thinking": False} if unthinking else {}))
    messages = CHATS[row]
    if isinstance(expected, str):
        with pytest.raises(WsteerError, match=expected) as refused:
            render(chat, messages)
        assert "\n" not in str(refused.value)
        return
    example = render(chat, messages)
    assert learnt(marked_text(chat.tokenizer, example)) == expected
    # the row goes on from what generation reads, and ends where generation stops
    prompt = prompt_text(chat, messages[:-1])
    assert chat.tokenizer.decode(example.tokens).startswith(prompt)
    if len(messages) == 2:
        ids = token_ids(chat.tokenizer, prompt)
        assert example.tokens[: len(ids)].tolist() == ids
        assert not example.trained[: len(ids)].any()
    assert int(example.tokens[example.trained][-1]) in chat.ends
    assert example.stops
    answer = chat.tokenizer.decode(example.tokens[example.answer])
    assert answer.endswith(messages[-1]["content"].split("</think>")[-1].strip())
    assert expected[-1].startswith((answer, " " + answer))


def test_a_refusal_names_the_argument_that_would_mend_it() -> None:
    template = templates.CHATML.replace(
        "<|im_start|>assistant\n",
        "<|im_start|>assistant\n<think>\n{{ '\n</think>\n\n' if enable_thinking is defined and not enable_thinking }}",
    )
    with pytest.raises(WsteerError, match=r"or --template-args '{\"enable_thinking\": false}'"):
        render(formatted(template, ("<|im_end|>",)), CHATS["one"])
    mended = formatted(template, ("<|im_end|>",), enable_thinking=False)
    text = marked_text(mended.tokenizer, render(mended, CHATS["two"]))
    assert text.endswith("<think>\n\n</think>\n\n\u27e6Warmth.<|im_end|>\u27e7\n")


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"), ("<|START_THOUGHT|>", "<|END_THOUGHT|>")],
)
def test_the_marks_of_a_thought_are_the_templates_own(opening: str, closing: str) -> None:
    def marked(text: str) -> str:
        return text.replace("<think>", opening).replace("</think>", closing)

    chat = formatted(marked(templates.OPENED_UNTHOUGHT), ("</s>",))
    with pytest.raises(WsteerError, match=re.escape(f"the prompt opens a thought, {opening}, and the answer has none")):
        render(chat, CHATS["two"])
    example = render(chat, [*CHATS["two"][:3], said("assistant", marked(HEAT))])
    expected = marked("<|bot|><think>\n\u27e6Heat.\n</think>\n\nWarmth.</s>\u27e7")
    assert marked_text(chat.tokenizer, example).endswith(expected)
    chat = formatted(marked(templates.EARLIER_UNTHOUGHT), ("<|im_end|>",), enable_thinking=False)
    assert marked("<think>\n\n</think>\n\n\u27e6Warmth.") in marked_text(chat.tokenizer, render(chat, CHATS["two"]))


@pytest.mark.parametrize("thought", ["Heat.\n</think>\n\nWarmth.", "<think>Heat.</think>Warmth."])
def test_a_thought_that_the_prompt_opened_is_closed_in_the_answers_words(thought: str) -> None:
    chat = formatted(templates.OPENED_UNTHOUGHT, ("</s>",))
    example = render(chat, [*CHATS["two"][:3], said("assistant", thought)])
    text = marked_text(chat.tokenizer, example)
    assert text.endswith(f"<|bot|><think>\n\u27e6{thought.removeprefix('<think>')}</s>\u27e7")


def test_a_row_stops_only_if_an_end_is_trained() -> None:
    marked = templates.GENERATION.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    assert not render(formatted(marked, ("<|im_end|>",)), CHATS["two"]).stops
    assert render(formatted(templates.GENERATION, ("<|im_end|>",)), CHATS["two"]).stops
    endless = Chat(byte_level(templates.CHATML))
    example = render(endless, CHATS["two"])
    assert not example.stops
    assert learnt(marked_text(endless.tokenizer, example)) == ["Yes.<|im_end|>", "Warmth.<|im_end|>"]


ANSWER_IN_MARKS = (
    "{% for m in messages %}<|turn|>{% if m['role'] == 'assistant' %}<|bot|><|text|>{{ m['content'] }}<|close|>"
    "{% else %}<|user|>{{ m['content'] }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|><|bot|><think></think>{% endif %}"
)
IN_SQUARES = ANSWER_IN_MARKS.replace("<think></think>", "[THINK][/THINK]").replace("<|text|>", "<|message|>")


@pytest.mark.parametrize(("template", "start"), [(ANSWER_IN_MARKS, "<|text|>"), (IN_SQUARES, "<|message|>")])
def test_behind_a_prompts_empty_thought_the_answers_own_mark_is_learnt(template: str, start: str) -> None:
    chat = formatted(template, ("<|end|>",))
    example = render(chat, CHATS["one"])
    text = marked_text(chat.tokenizer, example)
    assert text.endswith(f"\u27e6{start}Yes.<|close|><|end|>\u27e7")
    prompt = token_ids(chat.tokenizer, prompt_text(chat, CHATS["one"][:-1]))
    assert example.tokens.tolist()[: len(prompt)] == prompt
    assert chat.tokenizer.decode(example.tokens[example.answer]) == f"{start}Yes."


@pytest.mark.parametrize(("opening", "closing"), [("<think>", "</think>"), ("[THINK]", "[/THINK]")])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_thought_in_the_answer_goes_on_where_the_prompt_opened_it(opening: str, closing: str, wrapped: bool) -> None:
    plain = templates.CHATML.replace("assistant\n{% endif %}", f"assistant\n{opening}\n{{% endif %}}")
    chat = formatted(plain.replace("<|im_start|>", "<|turn|>") if wrapped else plain, ("<|im_end|>",))
    answer = f"{opening}\nHeat.\n{closing}\n\nWarmth."
    text = marked_text(chat.tokenizer, render(chat, [*CHATS["two"][:3], said("assistant", answer)]))
    assert text.endswith(f"assistant\n{opening}\n\u27e6Heat.\n{closing}\n\nWarmth.<|im_end|>\u27e7\n")


@pytest.mark.parametrize("answer", ["<think>\nHeat.\n</think>\n\nWarmth.", "The mark </think> ends a thought."])
@pytest.mark.parametrize("split", ["", " if no_thought else m['content']"])
def test_an_answer_whose_words_the_template_drops_is_refused(answer: str, split: str) -> None:
    template = templates.CHATML.replace(
        "{{ m['content'] }}", "{{ m['content'].split('</think>')[-1].strip()" + split + " }}"
    )
    chat = formatted(template, ("<|im_end|>",), **({"no_thought": True} if split else {}))
    mending = r", or --template-args '{\"no_thought\": false}'" if split else ""
    with pytest.raises(WsteerError, match=rf"leaves out a part of the last answer, .*--template FILE{mending}$"):
        render(chat, [said("user", "Heat? Why?"), said("assistant", answer)])
    lost = formatted(templates.CHATML, ("<|im_end|>",))  # and a thought whose words the question has
    with pytest.raises(WsteerError, match="leaves out the last answer's reasoning_content, 'Yes'"):
        render(lost, [said("user", "Yes?"), said("assistant", "No.", reasoning_content="Yes")])


@pytest.mark.parametrize("user", ["<|human|>", "<usr>"])
def test_no_part_of_a_role_in_plain_text_is_learnt_as_an_end(user: str) -> None:
    template = (
        "{% for m in messages %}{{ '<ai>' if m['role'] == 'assistant' else '" + user + "' }}{{ m['content'] }}"
        "{% endfor %}{% if add_generation_prompt %}<ai>{% endif %}"
    )
    chat = formatted(template, ("</s>",))
    assert learnt(marked_text(chat.tokenizer, render(chat, CHATS["two"]))) == ["Yes.", "Warmth.</s>"]
    ended = template.replace("{% endfor %}", "{{ eos_token if loop.last and m['role'] == 'assistant' }}{% endfor %}")
    chat = formatted(ended, ("</s>",))
    assert learnt(marked_text(chat.tokenizer, render(chat, CHATS["two"]))) == ["Yes.", "Warmth.</s>"]


def test_a_systems_turn_that_only_the_prompt_has_is_named() -> None:
    template = templates.LATE_SYSTEM.replace(
        "(messages | selectattr('role', 'equalto', 'user') | list)[-1] == m", "loop.last"
    )
    chat = formatted(template, ("</s>",))
    row = [said("system", "Be brief."), *CHATS["one"]]
    with pytest.raises(WsteerError, match=r"--template FILE, or leave out the system's turn, as --strip-system"):
        render(chat, row)
    assert learnt(marked_text(chat.tokenizer, render(chat, row[1:]))) == ["Yes.</s>"]
