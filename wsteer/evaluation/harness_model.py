"""The model in memory as lm-evaluation-harness's model."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor

from wsteer.errors import WsteerError
from wsteer.models.generation import SoundScores
from wsteer.models.loading import LoadedModel
from wsteer.progress import Progress

Request = tuple[Any, list[int], list[int]]  # its texts, the tokens of its context, those of its continuation


class HarnessModel(HFLM):
    """lm-eval's model of transformers, on one that is loaded. It computes what lm-eval does, with the same bits."""

    def __init__(self, loaded: LoadedModel, batch_size: int) -> None:
        self.chat, self.system = loaded.chat, False
        self._steps: Iterator[int] | None = None
        self._progress: Progress | None = None
        self._visible: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        model: Any = loaded.model
        model.tie_weights = lambda *_, **__: None  # lm-eval ties the head, also one that a change has untied
        try:
            super().__init__(pretrained=model, tokenizer=loaded.tokenizer, batch_size=batch_size)
        finally:
            del model.tie_weights

    @contextlib.contextmanager
    def reporting(
        self, progress: Progress, visible: Callable[[], AbstractContextManager[None]], system: bool
    ) -> Iterator[None]:
        """Report to `progress` in the `with` body, each time in the context `visible`.

        `system` says whether the condition has a system prompt, which a chat template may refuse.
        """
        self._progress, self._visible, self.system = progress, visible, system
        try:
            yield
        finally:
            self._progress, self.system = None, False

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as lm-eval writes it: without a task's own system prompt where the template refuses one.

        Template, its arguments and the date are those of the run.
        """
        settings = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return str(self.chat.applied(chat_history, **settings))
        except WsteerError:
            if self.system:  # without it the condition would be the base under another name
                raise
            return str(self.chat.applied([each for each in chat_history if each["role"] != "system"], **settings))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """lm-eval's, without its bars."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """lm-eval's, without its bars."""
        with self._stage("score texts", None):
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """lm-eval's, without its bars."""
        with self._stage("generate", len(requests)):
            return super().generate_until(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        contexts = {(*context, *continuation[:-1]) for _, context, continuation in requests}
        with self._stage("score answers", len(contexts)) if self._steps is None else contextlib.nullcontext():
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def _model_call(self, inps: Tensor, *more: Any, **named: Any) -> Tensor:
        logits = super()._model_call(inps, *more, **named)
        self._step(len(inps))
        return logits

    def _model_generate(self, context: Tensor, *more: Any, **named: Any) -> Tensor:
        scores = SoundScores()
        made = super()._model_generate(context, *more, logits_processor=[scores], **named)
        scores.check()
        self._step(len(context))
        return made

    @contextlib.contextmanager
    def _stage(self, label: str, total: int | None) -> Iterator[None]:
        """Report the rows that the model runs in the `with` body as one stage."""
        running = True

        def rows() -> Iterator[int]:
            while running:
                yield 0

        self._steps = self._progress(rows(), label, total) if self._progress else iter(())
        try:
            self._step(1)  # the stage is shown from its beginning
            yield
            running = False
            self._step(1)
        finally:
            running, self._steps = False, None

    def _step(self, rows: int) -> None:
        if self._steps is not None:
            with self._visible():
                for _ in range(rows):
                    next(self._steps, None)
