"""The model that inspect_ai talks to: `wsteer/NAME`, a condition of a subject that an engine answers for."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inspect_ai.log._samples import sample_active  # which sample a call is of; there is no public way to ask
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from wsteer.deltas.delta import Delta
from wsteer.deltas.model_input import open_model
from wsteer.errors import WsteerError
from wsteer.evaluation.compared import Added, Compared
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.inspection.engine import Engine
from wsteer.evaluation.methods import open_methods, placed
from wsteer.evaluation.naming import OF_PROVIDER
from wsteer.evaluation.subject import Subject, common_settings
from wsteer.files.rows import Message
from wsteer.models.arguments import check_run
from wsteer.models.generation import Answer, Decoding
from wsteer.models.loading import max_positions
from wsteer.steering.combination import check_k
from wsteer.steering.loading import load
from wsteer.steering.positions import POSITIONS
from wsteer.steering.rounding import Rounding

MOST_TOKENS = 2048  # of an answer, where the task sets no limit; inspect_ai's default for local models
MARK = "~"  # between the base and the condition in a model's name
OPTIONS = ("delta", "k", "layers", "positions", "variant", "rounding", "seed", "batch_size", "device", "dtype")
# settings that change what a model answers, or that a scorer reads, and that this one does not have
REFUSED = (
    *("logprobs", "top_logprobs", "prompt_logprobs", "best_of", "frequency_penalty", "presence_penalty", "logit_bias"),
    *("response_schema", "extra_body", "modalities"),
)

_serving: dict[str, tuple[Engine, Condition]] = {}  # what `serving` offers, by the name of the condition
# of models that inspect_ai's own commands asked for, with the deltas of their subjects
_engines: dict[tuple[object, ...], tuple[Engine, dict[str, Delta]]] = {}


@contextlib.contextmanager
def serving(engine: Engine, conditions: Sequence[Condition]) -> Iterator[None]:
    """Offer these conditions of the engine's subject as `wsteer/<condition.name>` in the `with` body."""
    names = [condition.name for condition in conditions]
    _serving.update((condition.name, (engine, condition)) for condition in conditions)
    try:
        yield
    finally:
        for name in names:
            _serving.pop(name, None)


class SteeredAPI(ModelAPI):
    """Text in and out of a base with k·delta applied.

    The name is that of a condition that is served in this process, or a base, with the delta and the rest as model
    arguments (-M). The condition's own name, which has the digest of the delta and k, becomes part of the model's:
    inspect_ai's caches and logs go by it. Where no temperature is set, decoding is greedy.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  inspect_ai's own signature
        **options: Any,
    ):
        if model_name in _serving:
            self.engine, self.condition = _serving[model_name]
        else:
            model_name, self.engine, self.condition = _opened(model_name, options)
        super().__init__(model_name, base_url, api_key, [], config)
        self._asked: Counter[tuple[object, ...]] = Counter()

    def connection_key(self) -> str:
        """All conditions of one engine share its thread."""
        return f"engine {id(self.engine)}"

    def max_connections(self) -> int:
        """All samples at once: the engine makes batches of what is there."""
        return 1000

    def max_tokens(self) -> int:
        """The most tokens of an answer where the task sets no limit; half of a model's positions is for prompts."""
        positions = max_positions(self.engine.subject.loaded)
        return MOST_TOKENS if positions is None else max(1, min(MOST_TOKENS, positions // 2))

    def auto_reasoning_history(self) -> Any:
        """What a model thought is not told to it again, as its chat template leaves it out."""
        return "none"

    async def count_text_tokens(self, text: str) -> int:
        """The tokens of a text by the model's own tokenizer (inspect_ai's default asks the internet for one)."""
        return len(await self.tokenize(text))

    async def tokenize(self, text: str) -> list[int]:
        """The token ids of a text, without special tokens."""
        return list(self.engine.subject.loaded.tokenizer.encode(text, add_special_tokens=False))

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """The model's answer, or several where `num_choices` says so, with the number of tokens that they took."""
        chat = _chat(input, tools)
        decoding = _decoding(config, self.max_tokens())
        seed = self.engine.subject.seed if config.seed is None else config.seed
        numbers = self._numbers(chat, decoding, seed, config.num_choices or 1)
        futures = [self.engine.ask(self.condition, chat, decoding, seed % 2**63, number) for number in numbers]
        answers = await asyncio.gather(*map(asyncio.wrap_future, futures))
        made = sum(answer.tokens for answer in answers)
        asked = answers[0].asked
        return ModelOutput(
            model=self.model_name,
            choices=[self._choice(answer) for answer in answers],
            # always given: without it inspect_ai counts tokens by a table that it fetches from the internet
            usage=ModelUsage(input_tokens=asked, output_tokens=made, total_tokens=asked + made),
        )

    def _choice(self, answer: Answer) -> ChatCompletionChoice:
        content: str | list[Content] = answer.text
        if answer.thought is not None:
            content = [ContentReasoning(reasoning=answer.thought), ContentText(text=answer.text)]
        message = ChatMessageAssistant(content=content, model=self.model_name, source="generate")
        return ChatCompletionChoice(message=message, stop_reason="stop" if answer.finished else "max_tokens")

    def _numbers(self, chat: Sequence[Message], decoding: Decoding, seed: int, count: int) -> list[int]:
        """What seeds each answer beside `seed`: the sample, its epoch, the prompt, and how often that was asked.

        It is the same under every condition and whatever is asked at the same time.
        """
        sample = sample_active()
        place = ("", 0) if sample is None else (str(sample.sample.id), sample.epoch)
        prompt = json.dumps(list(chat), sort_keys=True)
        times = (None if sample is None else sample.id, prompt, decoding, seed)
        first = self._asked[times]
        self._asked[times] += count
        described = [json.dumps([*place, prompt, first + number]) for number in range(count)]
        return [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in described]


class NoJudge(ModelAPI):
    """Stands for the judge where the user named none, so that no model grades its own answers."""

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Refuse."""
        raise WsteerError("the task asks a judge to grade; name one with --judge MODEL, as --judge openai/gpt-4o-mini")


def _chat(given: Sequence[ChatMessage], tools: Sequence[ToolInfo]) -> list[Message]:
    """The messages as chat templates take them. Raises WsteerError for what is no text."""
    if tools:
        raise WsteerError(f"the task gives the model tools ({tools[0].name}), and a wsteer/ model takes and gives text")
    chat: list[Message] = []
    for message in given:
        parts = [] if isinstance(message.content, str) else message.content
        other = next((part.type for part in parts if part.type not in ("text", "reasoning")), None)
        if message.role == "tool" or other is not None:
            raise WsteerError(f"the task has a message of {other or 'a tool'}, and a wsteer/ model takes text")
        chat.append({"role": message.role, "content": message.text})
    if not chat or chat[-1]["role"] == "assistant":
        raise WsteerError(
            "the task begins the model's answer, which a wsteer/ model cannot go on with; end with a user"
        )
    return chat


def _decoding(config: GenerateConfig, most: int) -> Decoding:
    """inspect_ai's settings as ours. Raises WsteerError for those that would be without effect in silence."""
    for name in REFUSED:
        if getattr(config, name, None):
            raise WsteerError(f"the task sets {name}, which a wsteer/ model does not have; leave it out")
    temperature, top_p = config.temperature or 0.0, config.top_p
    if temperature < 0 or (top_p is not None and not 0 < top_p <= 1):
        raise WsteerError(f"the task sets temperature {temperature:g} and top_p {top_p}; give numbers from 0 up, to 1")
    return Decoding(config.max_tokens or most, temperature, config.top_k, top_p, tuple(config.stop_seqs or ()))


def _opened(name: str, options: Mapping[str, Any]) -> tuple[str, Engine, Condition]:
    """(the model's whole name, its engine, its condition) of a base and model arguments; one load for each base."""
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise WsteerError(f"-M {unknown[0]}=: a wsteer/ model has no such argument; it takes {', '.join(OPTIONS)}")
    match = OF_PROVIDER.fullmatch(name)  # as a log has it, whose model is asked again
    base, stated = (match[1], name.rpartition(MARK)[2]) if match else (name, "")
    base = os.path.expanduser(base)
    if "delta" not in options and (unused := sorted({"k", "layers", "positions", "variant"} & set(options))):
        raise WsteerError(f"-M {unused[0]}= needs a -M delta= to be of")
    k, rounding = _k(options), Rounding(str(options.get("rounding", "auto")), _whole(options, "seed", 0))
    device, dtype = (str(options.get(name, "auto")) for name in ("device", "dtype"))
    batch_size = _whole(options, "batch_size", 32)
    check_run(batch_size, device, dtype)
    place = (str(Path(base).resolve()) if Path(base).exists() else base, device, dtype, batch_size, rounding.seed)
    if place not in _engines:
        deltas: dict[str, Delta] = {}
        subject = Subject(load(open_model(base), device, dtype), deltas, batch_size, rounding.seed)
        _engines[place] = Engine(subject), deltas
    engine, deltas = _engines[place]
    loaded = engine.subject.loaded
    settings = common_settings(loaded, rounding)
    added = [Added(str(options.get("delta")), layers=_layers(options.get("layers")), variant=options.get("variant"))]
    positions = str(options.get("positions", "response"))
    if positions not in POSITIONS:
        raise WsteerError(f"-M positions={positions}: give one of {', '.join(POSITIONS)}")
    compared = Compared(added, [k], positions=positions) if "delta" in options else Compared(positions=positions)
    methods = open_methods(loaded.checkpoint, placed(compared, loaded.checkpoint))
    condition, delta = list(methods.conditions(**settings).items())[-1]  # the base is the first
    if stated and stated != condition.name:
        raise WsteerError(f"wsteer/{name} is not what its arguments give now, wsteer/{base}{MARK}{condition.name}")
    if delta is not None:
        deltas[condition.name] = delta
    return f"{base}{MARK}{condition.name}", engine, condition


def _k(options: Mapping[str, Any]) -> float:
    given = options.get("k", 1 if "delta" in options else 0)
    try:
        k = float(given) + 0.0
    except (TypeError, ValueError):
        raise WsteerError(f"-M k={given!r} is no number; one model has one k") from None
    check_k(k)
    return k


def _whole(options: Mapping[str, Any], name: str, default: int) -> int:
    given = options.get(name, default)
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise WsteerError(f"-M {name}={given!r} is no whole number from 0 up")
    return given


def _layers(given: object) -> tuple[int, ...] | str | None:
    """Block numbers, as inspect_ai parses `-M layers=12`, `layers=0-11` or `layers=0-3,20`; or a depth, as `40%`."""
    if given is None:
        return None
    if isinstance(given, str) and given.endswith("%"):
        return given
    found: set[int] = set()
    for part in given if isinstance(given, list | tuple) else str(given).split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", str(part).strip())
        if match is None:
            raise WsteerError(f"-M layers={given}: {part!r} is no block number or range; write 0-11,20")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(found))
