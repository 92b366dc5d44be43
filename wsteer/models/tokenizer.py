"""A model's tokenizer: its files are checked before it is used, and its tokens fit the model."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from wsteer.checkpoints.architecture import check_plain
from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.errors import WsteerError
from wsteer.files.limits import bounded
from wsteer.files.text import read_json
from wsteer.models.chat import TEMPLATE, ChatFormat, folder_template, read_template

FILE = "tokenizer.json"
SMALL_FILES = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
SECONDS = 120.0  # to convert a large vocabulary of another format may take a minute
MOST_GROWTH = 10**5  # times that a text may grow in a tokenizer; those in use at most double it a few times
STEPS = ("normalizer", "pre_tokenizer", "decoder")


def load_tokenizer(
    checkpoint: Checkpoint, config: PreTrainedConfig, chat_format: ChatFormat, adapter_folder: Path | None = None
) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, without code of the checkpoint.

    Its chat template is the given one, else the adapter folder's, else the checkpoint's own; one named template of
    several is `default`.
    """
    given = read_template(chat_format.template) if chat_format.template is not None else None
    if given is None and adapter_folder is not None:
        given = folder_template(adapter_folder)
    for path in (checkpoint.folder / name for name in (*SMALL_FILES, FILE, TEMPLATE)):
        if path.exists():
            check_plain(path)
    for path in (checkpoint.folder / name for name in SMALL_FILES):
        if path.exists():
            read_json(path)  # transformers goes on without some of them if they are broken
    _check_growth(checkpoint.folder)
    with silent_panics(), bounded(f"loading the tokenizer of {checkpoint.name}", SECONDS):
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, config=config, trust_remote_code=False)
        tokenizer("a")  # what a broken tokenizer raises at first use it raises here
    if given is not None:
        tokenizer.chat_template = given
    if isinstance(tokenizer.chat_template, dict):  # without a default they stay, to be named where one is needed
        tokenizer.chat_template = tokenizer.chat_template.get("default", tokenizer.chat_template)
    return tokenizer


def _check_growth(folder: Path) -> None:
    """Refuse steps that would make a text so long that the tokenizer's library runs out of memory and ends wsteer."""
    if not (folder / FILE).exists():
        return
    settings = read_json(folder / FILE)
    for name in STEPS:
        growth = 1.0
        for step in _steps(settings.get(name)):
            growth *= _growth(step)
        if growth > MOST_GROWTH:
            raise WsteerError(
                f"{folder / FILE}: its {name} can make a text {growth:.0e} times as long; it is made to "
                "harm, or damaged"
            )


def _steps(value: object) -> Iterator[dict]:
    """Every object inside a JSON value."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
        if isinstance(each, dict | list):
            waiting += each.values() if isinstance(each, dict) else each


def _growth(step: dict) -> float:
    """How many times as long a step makes a text, at most."""
    if step.get("type") == "Prepend":
        return 1.0 + len(str(step.get("prepend")))
    if step.get("type") != "Replace":
        return 1.0
    pattern, content = step.get("pattern"), len(str(step.get("content")))
    fixed = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(fixed, str) and fixed:
        return max(1.0, content / len(fixed))
    return 1.0 + content  # a regex may match before every character


@contextlib.contextmanager
def silent_panics() -> Iterator[None]:
    """Keep from stderr what the tokenizer's library, in Rust, writes there, past Python, before it raises.

    All of the process's stderr is lost meanwhile, so the `with` body should be short.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # closed by the caller
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
