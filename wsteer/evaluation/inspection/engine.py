"""The one thread that runs the subject: requests as they come, answered in batches of one condition."""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.subject import Subject, with_system
from wsteer.files.rows import Message
from wsteer.models.generation import Answer, Decoding, answer_by
from wsteer.models.loading import check_rows
from wsteer.models.rendering import prompt_text, token_ids
from wsteer.models.thoughts import find_marks
from wsteer.progress import Progress, silent

QUIET = 0.05  # seconds without a new request after which a batch is taken for complete
MOST_WAIT = 2.0  # seconds that the first request of a batch waits for others, if they keep coming
ROUND = 8  # batches that are answered at once: rows of one length together, and yet results come soon

T = TypeVar("T")
Group = tuple[str, Decoding, int]


@dataclass(frozen=True, eq=False)
class _Request:
    condition: Condition
    decoding: Decoding
    seed: int
    chat: Sequence[Message]
    number: int
    answer: "Future[Answer]" = field(default_factory=Future)

    @property
    def group(self) -> Group:
        """What the rows of a batch have in common."""
        return self.condition.name, self.decoding, self.seed

    @property
    def length(self) -> int:
        return sum(len(message["content"]) for message in self.chat)


class Engine:
    """Answers chats by the subject under any of its conditions, in a thread of its own, until it is closed.

    As a context manager it is closed at the end of the `with` body; the weights are then as before, bit for bit.
    `rounds` lists what was answered at once: the condition's name and the number of rows.
    """

    def __init__(self, subject: Subject, progress: Progress = silent):
        self.subject = subject
        self.progress = progress
        self.rounds: list[tuple[str, int]] = []
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()  # None: closing
        self._lock, self._closed = threading.Lock(), False
        find_marks(subject.loaded.chat)  # here, in bounded time: a thread cannot interrupt a template without end
        self._shown: Iterator[None] = iter(())
        self._thread = threading.Thread(target=self._run, name="wsteer engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(
        self, condition: Condition, chat: Sequence[Message], decoding: Decoding, seed: int, number: int
    ) -> "Future[Answer]":
        """The answer to come; sampling is seeded by `seed` and `number`, whatever is answered beside it."""
        request = _Request(condition, decoding, seed, with_system(condition, chat), number)
        with self._lock:
            if self._closed:
                raise WsteerError("the model was asked after the end of its evaluation")
            self._requests.put(request)
        return request.answer

    def close(self) -> None:
        """Stop after the batch that runs, and restore the weights; what was not answered is cancelled."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        waiting: dict[Group, list[_Request]] = {}
        error: BaseException | None = None
        try:
            with contextlib.ExitStack() as changes:
                self._serve(waiting, changes)
        except BaseException as raised:  # weights that cannot be restored: nothing more is to be answered
            error = raised
        with self._lock:
            self._closed = True
        with contextlib.suppress(queue.Empty):
            while (last := self._requests.get_nowait()) is not None:
                waiting.setdefault(last.group, []).append(last)
        for request in itertools.chain.from_iterable(waiting.values()):
            if error is None:
                request.answer.cancel()
            elif request.answer.set_running_or_notify_cancel():
                request.answer.set_exception(error)

    def _serve(self, waiting: dict[Group, list[_Request]], changes: contextlib.ExitStack) -> None:
        """Answer what comes until the engine closes; `changes` is what is applied to the model."""
        applied: str | None = None
        most = ROUND * self.subject.batch_size
        while self._collect(waiting):
            # the condition whose weights are there goes first
            group = next((each for each in waiting if each[0] == applied), next(iter(waiting)))
            requests = sorted(waiting.pop(group), key=lambda request: -request.length)
            if requests[most:]:
                waiting[group] = requests[most:]
            requests = [each for each in requests[:most] if each.answer.set_running_or_notify_cancel()]
            if not requests:
                continue
            if group[0] != applied:
                applied = None
                changes.close()
            try:
                if applied is None:
                    condition = requests[0].condition
                    changes.enter_context(self.subject.under(condition))
                    self._shown = changes.enter_context(self._stage(condition.label))
                    applied = group[0]
                self._answer(requests)
            except BaseException as error:  # it is the requests' own, raised where they are waited for
                for request in requests:
                    if not request.answer.done():
                        request.answer.set_exception(error)

    def _collect(self, waiting: dict[Group, list[_Request]]) -> bool:
        """Add what has been asked to `waiting`, until no more comes; False when the engine closes."""
        latest = time.monotonic() + MOST_WAIT
        while True:
            try:
                wait = max(0.0, min(QUIET, latest - time.monotonic())) if waiting else None
                request = self._requests.get(timeout=wait)
            except queue.Empty:
                return not self._closed
            if request is None:
                return False
            if not waiting:
                latest = time.monotonic() + MOST_WAIT
            waiting.setdefault(request.group, []).append(request)

    def _answer(self, requests: Sequence[_Request]) -> None:
        loaded, fitting = self.subject.loaded, []
        for request in requests:
            try:  # a prompt that is too long is an error of its own, and none of the rows beside it
                ids = token_ids(loaded.tokenizer, prompt_text(loaded.chat, request.chat))
                check_rows(loaded, [ids], more=request.decoding.max_new_tokens)
                fitting.append(request)
            except WsteerError as error:
                request.answer.set_exception(error)
        if not fitting:
            return
        first = fitting[0]
        self.rounds.append((first.condition.name, len(fitting)))
        answers = answer_by(
            loaded,
            [request.chat for request in fitting],
            first.decoding,
            self.subject.batch_size,
            first.seed,
            [request.number for request in fitting],
            self._until_closed,
        )
        for request, answer in zip(fitting, answers, strict=True):
            request.answer.set_result(answer)
            next(self._shown, None)

    def _until_closed(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        for item in items:
            if self._closed:
                raise WsteerError("the evaluation was stopped")
            yield item

    @contextlib.contextmanager
    def _stage(self, label: str) -> Iterator[Iterator[None]]:
        """The progress of one condition, to be moved on by one for each answer."""
        shown = iter(self.progress(itertools.repeat(None), f"{label} answers"))
        next(shown, None)
        try:
            yield shown
        finally:
            if isinstance(shown, Generator):
                shown.close()
