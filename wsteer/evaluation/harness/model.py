"""The model in memory as lm-evaluation-harness's model."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import Collator
from torch import Tensor

from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.models.generation import SoundScores
from wsteer.models.loading import LoadedModel
from wsteer.progress import Progress
from wsteer.steering.positions import prompt_lengths

Request = tuple[Any, list[int], list[int]]  # its texts, the tokens of its context, those of its continuation


class HarnessModel(HFLM):
    """lm-eval's model of transformers, on one that is loaded. It computes what lm-eval does, with the same bits."""

    def __init__(self, loaded: LoadedModel, batch_size: int) -> None:
        self.chat = loaded.chat
        self._condition: Condition | None = None
        self.logits_cache = True
        self.cut = 0  # texts that lost their beginning, as they are longer than the model takes
        self._batches: Iterator[Sequence[Request]] | None = None  # of the likelihoods that are being computed
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
    def under(
        self, condition: Condition, progress: Progress, visible: Callable[[], AbstractContextManager[None]]
    ) -> Iterator[None]:
        """Answer under `condition` in the `with` body, and report to `progress`, each time in the context `visible`."""
        self._condition, self._progress, self._visible, self.cut = condition, progress, visible, 0
        try:
            yield
        finally:
            self._condition = self._progress = None

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
            if (
                self._condition is not None and self._condition.system is not None
            ):  # without it the condition would be the base under another name
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
        self.cut += sum(len(context + continuation) > self.max_length + 1 for _, context, continuation in requests)
        contexts = {(*context, *continuation[:-1]) for _, context, continuation in requests}
        with (
            self._stage("score answers", len(contexts)) if self._steps is None else contextlib.nullcontext(),
            self._by_role(requests),
        ):
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    @contextlib.contextmanager
    def _by_role(self, requests: Sequence[Request]) -> Iterator[None]:
        """In the `with` body know where each row's prompt ends, if an activation vector asks for it.

        lm-eval runs requests of equal tokens but the last once; not here, if their prompts end in different places.
        """
        if self._condition is None or self._condition.positions in (None, "all"):
            yield
            return
        ends: dict[tuple[int, ...], set[int]] = {}
        for request in requests:
            ends.setdefault((*request[1], *request[2][:-1]), set()).add(self._prompt(request))
        cached: bool = self.logits_cache
        self.logits_cache = cached and all(len(found) == 1 for found in ends.values())
        # as lm-eval orders them
        collator = Collator(
            requests,
            sort_fn=lambda request: (-len(request[1] + request[2]), tuple(request[1] + request[2])),
            group_by="contexts" if self.logits_cache else None,
            group_fn=lambda request: request[1] + request[2][:-1],
        )
        self._batches = iter(list(collator.get_batched(n=self.batch_size)))
        try:
            yield
        finally:
            self.logits_cache, self._batches = cached, None

    def _prompt(self, request: Request) -> int:
        """How many tokens the prompt has; lm-eval counts white space at its end to the continuation."""
        texts, context, continuation = request
        if texts and texts[0] != texts[0].rstrip():
            whole = self.tok_encode(texts[0])
            if whole == (context + continuation)[: len(whole)]:
                return len(whole)
        return len(context)

    def _model_call(self, inps: Tensor, *more: Any, **named: Any) -> Tensor:
        with self._known_prompts(inps):
            logits = super()._model_call(inps, *more, **named)
        self._step(len(inps))
        return logits

    def _known_prompts(self, inps: Tensor) -> AbstractContextManager[None]:
        """Tell the activation vector where the prompts of a batch end, and its padding begins."""
        batch = next(self._batches, ()) if self._batches is not None else ()
        prompts, lengths = [], []
        for request in batch:
            length = len(request[1] + request[2]) - 1
            lengths.append(min(length, self.max_length))  # a longer row loses its beginning
            prompts.append(max(self._prompt(request) - max(length - self.max_length, 0), 0))
        rows = [(request[1] + request[2])[:-1][-length:] for request, length in zip(batch, lengths, strict=True)]
        if not batch or [row[: len(known)] for row, known in zip(inps.tolist(), rows, strict=False)] != rows:
            return contextlib.nullcontext()  # where roles are needed and not known, the vector refuses to be added
        return prompt_lengths(prompts, lengths)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """lm-eval's, which counts the prompts that it cuts."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        if left_truncate_len:
            self.cut += int((mask.sum(dim=1) > left_truncate_len).sum())
            ids, mask = ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]
        return ids, mask

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
