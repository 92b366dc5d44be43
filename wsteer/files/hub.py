"""Models and data sets of the Hub: fetched, or found in its cache; a dead or silent network ends in bounded time."""

import contextlib
import functools
import importlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub  # whose names load on first use: an HTTP client takes a tenth of a second
from huggingface_hub import constants

from wsteer.errors import WsteerError, reason
from wsteer.files.limits import bounded

ANSWER = 8  # seconds for the first answer
LONGEST_ANSWER = 20  # seconds in all, of an answer that comes in drops
STALL = 5  # seconds without a byte, before the library asks again
SILENCE = 15  # seconds in which nothing is heard, before it may ask no more; its pauses are up to 8 s
COMMIT = re.compile("[0-9a-f]{40}")


@functools.cache
def _bar() -> type:
    """The library's progress bar, on a terminal alone.

    It moves the cursor, and names no file of the repository: it writes past what escapes the text of inputs.
    """
    library: Any = importlib.import_module("huggingface_hub.utils").tqdm

    class Bar(library):
        def __init__(self, *given: Any, **settings: Any) -> None:
            terminal = sys.__stderr__ if sys.__stderr__ is not None and sys.__stderr__.isatty() else None
            settings.update({"file": terminal} if terminal is not None else {"disable": True})
            super().__init__(*given, **settings)

    return Bar


def fetch_repository(name: str, revision: str | None, patterns: Sequence[str], local_only: bool) -> Path:
    """The local folder of a model's repository, with the files of these patterns; its name is the commit.

    The Hub's cache is used where it does not answer, and alone with `local_only`. Raises OSError or ValueError.
    """

    def snapshot(of: str | None, local: bool) -> Path:
        with no_long_silence(), _plain_errors():
            found = huggingface_hub.snapshot_download(
                name, revision=of, allow_patterns=list(patterns), local_files_only=local, tqdm_class=_bar()
            )
        return Path(found)

    if local_only:
        return snapshot(revision, True)
    if revision is not None and COMMIT.fullmatch(revision):
        with contextlib.suppress(OSError, ValueError):  # a commit does not change, so that the cache is enough
            return snapshot(revision, True)
    try:
        _ask(name, "model", revision)
        return snapshot(revision, False)  # by the name that was given, which the cache remembers
    except (OSError, ValueError) as error:
        if type(error).__name__ == "RevisionNotFoundError":
            raise
        with contextlib.suppress(OSError, ValueError):
            return snapshot(revision, True)
        raise error


def load_data_set(name: str, split: str, config: str | None = None) -> Sequence[dict]:
    """The rows of a split of a data set, of one `config` of several.

    Raises WsteerError if it is not to be had, or `datasets` is not installed.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise WsteerError(f"reading {name} from the Hub needs datasets: pip install 'wsteer[hub]'") from None
    datasets.disable_progress_bars()
    unreachable: Exception | None = None
    try:
        _ask(name, "dataset", None)
    except (OSError, ValueError) as error:
        unreachable = error
    try:
        with _plain_errors(), _offline(datasets) if unreachable else no_long_silence():
            return datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError) as error:  # datasets' own errors derive from these two
        why = reason(unreachable or error)
        named = f"{name}/{config}" if config else name
        raise WsteerError(f"the data set {named}:{split} is not to be had from the Hub: {why}") from error


def _ask(name: str, kind: str, revision: str | None) -> None:
    """Ask the Hub whether it has a repository; an OSError or ValueError where it says no, or not in time."""
    try:
        with bounded(f"asking the Hub for {name}", LONGEST_ANSWER, memory=None), _plain_errors():
            huggingface_hub.HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=ANSWER)
    except WsteerError:
        raise TimeoutError(f"it does not answer within {LONGEST_ANSWER} s") from None


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Let OSError and ValueError pass, and turn what the HTTP library raises into an OSError."""
    try:
        yield
    except (OSError, ValueError, WsteerError):
        raise
    except Exception as error:
        raise OSError(f"the Hub does not answer: {reason(error)}") from error


@contextlib.contextmanager
def no_long_silence() -> Iterator[None]:
    """The library waits for ever in some requests, and asks again and again in others; not in the `with` body.

    Every request fails after STALL seconds without a byte, and none begins after SILENCE seconds in which no thread has
    heard anything.
    """
    huggingface_hub.logging.set_verbosity_error()  # it tells of each retry
    given = os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT")
    stall = constants.HF_HUB_DOWNLOAD_TIMEOUT if given else STALL
    silence = max(SILENCE, 3 * stall) if given else SILENCE
    heard = time.monotonic()

    def before_request(request: Any) -> None:
        if time.monotonic() - heard > silence:
            raise TimeoutError(f"it does not answer within {silence} s")
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), stall)

    def after_headers(response: Any) -> None:
        nonlocal heard
        heard = time.monotonic()
        response.iter_raw = functools.partial(listened, response.iter_raw)

    def listened(blocks: Callable[..., Iterator[bytes]], *arguments: Any, **more: Any) -> Iterator[bytes]:
        nonlocal heard
        for block in blocks(*arguments, **more):
            heard = time.monotonic()
            yield block

    def limited() -> Any:
        client = factory()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], before_request],
            "response": [*hooks["response"], after_headers],
        }
        return client

    # the factory, as the library makes a new client after some errors; there is no public way to read the user's
    factory = importlib.import_module("huggingface_hub.utils._http")._GLOBAL_CLIENT_FACTORY
    huggingface_hub.set_client_factory(limited)
    try:
        yield
    finally:
        huggingface_hub.set_client_factory(factory)


@contextlib.contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Neither library asks the network in the `with` body."""
    with (
        _set(constants, "HF_HUB_OFFLINE", True),
        _set(datasets.config, "HF_HUB_OFFLINE", True),
    ):
        yield


@contextlib.contextmanager
def _set(module: Any, name: str, value: object) -> Iterator[None]:
    """A library's setting changed for the `with` body; it takes no argument for it."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
