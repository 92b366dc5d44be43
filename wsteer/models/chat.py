"""How a model's chats become text: its template, the template's arguments, the date it may write, where answers end."""

import contextlib
import datetime
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, meta
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from wsteer.errors import WsteerError
from wsteer.files.limits import bounded
from wsteer.files.provenance import RECORD, source_entry
from wsteer.files.rows import Message
from wsteer.files.text import read_json, read_text

MOST_TEMPLATE, MOST_RENDERED = 10**6, 10**7  # characters, of a template and of what one makes of a chat
DATE = "2024-07-26"  # the day that templates write by default; Llama 3's write it where they cannot ask for today's
TEMPLATE = "chat_template.jinja"  # transformers' name of a template's file
# what the call of a template sets itself
RESERVED = {
    *inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters,
    *("messages", "strftime_now", "raise_exception"),
}


@dataclass(frozen=True)
class ChatFormat:
    """The options `--template` (a jinja file), `--template-args`, `--date`; what is None the model's files decide."""

    template: str | Path | None = None
    arguments: Mapping[str, object] | None = None
    date: str | None = None

    def __post_init__(self) -> None:
        if self.arguments is not None and not isinstance(self.arguments, Mapping):
            raise WsteerError(f"--template-args is {str(self.arguments)[:80]!r}; give names with their values")
        for name in self.arguments or ():
            if not re.fullmatch(r"[A-Za-z_]\w*", str(name)) or name in RESERVED:
                raise WsteerError(f"--template-args sets {str(name)[:80]!r}, which is not for you to set; leave it out")
        try:
            json.dumps(dict(self.arguments or {}), allow_nan=False)  # records have them
        except (TypeError, ValueError) as error:
            raise WsteerError(
                f"--template-args has a value that is no JSON ({error}); write texts, numbers, true"
            ) from None
        if self.date is not None and not _is_day(self.date):
            raise WsteerError(f"--date {str(self.date)[:80]!r} is no day; write it as {DATE}")

    @property
    def recorded(self) -> dict[str, object]:
        """What records list of it as options; the template is an input."""
        return {"template_args": dict(self.arguments or {}), "date": self.date or DATE}

    @property
    def files(self) -> list[str | Path]:
        """The files that are read for it."""
        return [] if self.template is None else [self.template]

    @property
    def inputs(self) -> list[dict[str, object]]:
        """What records list of it as inputs, to be asked after the template was read."""
        return [source_entry("template", path) for path in self.files]


def _is_day(text: str) -> bool:
    with contextlib.suppress(ValueError, TypeError):
        return datetime.date.fromisoformat(text).isoformat() == text
    return False


@dataclass(frozen=True, eq=False)
class Chat:
    """A tokenizer whose template formats chats, with the template's arguments and date.

    `ends` are the token ids at which the model stops.
    """

    tokenizer: PreTrainedTokenizerBase
    arguments: Mapping[str, object] = field(default_factory=dict)
    date: str = DATE
    ends: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The model's name in messages."""
        return str(self.tokenizer.name_or_path)

    @cached_property
    def end_tokens(self) -> dict[str, int]:
        """The tokens at which the model stops, by their text."""
        added = self.tokenizer.added_tokens_decoder
        texts = {i: added[i].content if i in added else str(self.tokenizer.decode([i])) for i in self.ends}
        return {text: i for i, text in texts.items() if text}

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """The tokenizer's special tokens by their text."""
        return {token.content: i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}

    @property
    def recorded(self) -> dict[str, object]:
        """What records list of it as options."""
        return {"template_args": dict(self.arguments), "date": self.date}

    def text(self, messages: Sequence[Message], prompt: bool = False) -> str:
        """The chat as text, with the start of an answer behind it if it is a `prompt`."""
        text = str(self.applied(messages, tokenize=False, add_generation_prompt=prompt))
        if len(text) > MOST_RENDERED:
            raise self._refusal(f"it makes {len(text)} characters of one chat")
        return text

    def applied(self, messages: Sequence[Message], **settings: Any) -> Any:
        """transformers' `apply_chat_template`; what the template raises is one clear error."""
        template = self.template
        try:
            # transformers has no public way to set the clock: it is a global of the compiled, cached template
            globals_ = chat_template_utils._compile_jinja_template(template).globals
            clock = globals_["strftime_now"]
            globals_["strftime_now"] = datetime.datetime.fromisoformat(self.date).strftime
            try:
                given: dict[str, Any] = {**settings, **self.arguments}
                return self.tokenizer.apply_chat_template(list(messages), **given)
            finally:
                globals_["strftime_now"] = clock  # others in this process render by the same template
        except (MemoryError, RecursionError):  # `bounded` around it says it
            raise
        except Exception as error:  # a template is the user's program and can raise anything
            raise self._refusal(" ".join(str(error).split()) or type(error).__name__) from None

    @property
    def template(self) -> str:
        """The template's text; an error where there is none."""
        template = self.tokenizer.chat_template
        if not template:
            raise WsteerError(
                f"{self.name} has no chat template; use an instruction-tuned model, or give a jinja file with "
                "--template FILE"
            )
        if isinstance(template, dict):
            raise WsteerError(
                f"{self.name} has chat templates named {', '.join(sorted(template))[:80]}, and none named default; "
                "write the one to use into a jinja file, and give it with --template FILE"
            )
        if not isinstance(template, str) or len(template) > MOST_TEMPLATE:
            raise WsteerError(
                f"the chat template of {self.name} is no text of up to {MOST_TEMPLATE} characters; give a jinja file "
                "with --template FILE"
            )
        return template

    def _refusal(self, message: str) -> WsteerError:
        return WsteerError(f"the chat template of {self.name} refuses the messages: {message}")

    def variables(self) -> set[str]:
        """The variables that the template takes beside the messages, as `enable_thinking`; none of a broken one."""
        with contextlib.suppress(TemplateError), bounded(f"the chat template of {self.name}"):
            environment = chat_template_utils._compile_jinja_template(self.template).environment
            found = meta.find_undeclared_variables(environment.parse(self.template))
            return found - RESERVED - set(self.tokenizer.special_tokens_map)
        return set()


def chat_of(given: Chat | PreTrainedTokenizerBase) -> Chat:
    """`given`; a tokenizer alone formats chats without arguments, and its own end of text is where the model stops."""
    if isinstance(given, Chat):
        return given
    return Chat(given, ends=() if given.eos_token_id is None else (given.eos_token_id,))


def formatted(
    tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], chat_format: ChatFormat, folders: Sequence[Path] = ()
) -> Chat:
    """The chat of a model that stops at `ends`; its template is the tokenizer's by now.

    Arguments and date that are not given are those of the training that made one of `folders`, the model's own.
    """
    trained = next(filter(None, map(_of_training, folders)), ChatFormat())
    arguments = chat_format.arguments
    used = trained.arguments if arguments is None else arguments
    chat = Chat(tokenizer, used or {}, chat_format.date or trained.date or DATE, tuple(ends))
    if arguments and tokenizer.chat_template and (unknown := sorted(set(arguments) - (known := chat.variables()))):
        raise WsteerError(
            f"--template-args: the chat template of {chat.name} never mentions {unknown[0]!r}; it takes "
            f"{', '.join(sorted(known)) or 'no arguments'}"
        )
    return chat


def _of_training(folder: Path) -> ChatFormat | None:
    """The template's arguments and date of the `finetune` that wrote `folder`; None if none has written it."""
    for place in _with_run(folder):
        if (place / RECORD).is_file():
            written = read_json(place / RECORD)
            options = written.get("options")
            if written.get("command") == "finetune" and isinstance(options, dict):
                return ChatFormat(arguments=options.get("template_args"), date=options.get("date"))
    return None


def _with_run(folder: Path) -> list[Path]:
    """The folder, and that of its run if it is a `checkpoint-N` of one."""
    return [folder, folder.parent] if re.fullmatch(r"checkpoint-\d+", folder.name) else [folder]


def read_template(path: str | Path) -> str:
    """A chat template from a jinja file."""
    try:
        template = read_text(path)
        if len(template) > MOST_TEMPLATE:
            raise WsteerError(f"it is longer than {MOST_TEMPLATE} characters")
        return template
    except WsteerError as error:
        raise WsteerError(f"the chat template {path} cannot be read: {error}; give a jinja file") from None


def folder_template(folder: Path) -> str | None:
    """The chat template in an adapter's folder or its run's: a file of its own, or in tokenizer_config.json."""
    for place in _with_run(folder):
        if (place / TEMPLATE).is_file():
            return read_template(place / TEMPLATE)
        if (place / "tokenizer_config.json").is_file():
            named = read_json(place / "tokenizer_config.json").get("chat_template")
            if isinstance(named, list):  # several templates by name
                named = {each.get("name"): each.get("template") for each in named if isinstance(each, dict)}
                named = named.get("default")
            if isinstance(named, str):
                return named
    return None
