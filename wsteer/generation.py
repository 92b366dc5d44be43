"""A model's answers to chats, greedy or sampled, in batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from wsteer.data import Message, batches, prompt_text, token_ids
from wsteer.models import LoadedModel
from wsteer.progress import Track, silent


@dataclass(frozen=True)
class Answer:
    """One generated answer: its text, its length in tokens, and whether it ended by itself or at the token limit."""

    text: str
    tokens: int
    finished: bool


class SeededSampling(LogitsProcessor):
    """Turns greedy choice into sampling at a temperature, by Gumbel noise from one generator a row.

    argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T). With a generator of its own, seeded by the
    row's index, an answer does not depend on which rows share its batch.
    """

    def __init__(self, seeds: Sequence[int], temperature: float):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.stack([torch.rand(scores.shape[1], generator=generator) for generator in self.generators])
        # rand is in [0, 1): the clamp keeps log from infinity
        gumbel = -torch.log(-torch.log(noise.clamp_(1e-20, 1 - 1e-7)))
        return scores.float() / self.temperature + gumbel.to(scores.device)


def answer(
    loaded: LoadedModel,
    chats: Sequence[Sequence[Message]],
    max_new_tokens: int,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    track: Track = silent,
) -> list[Answer]:
    """The model's answer to each chat, in the order given; temperature 0 is greedy."""
    prompts = [token_ids(loaded.tokenizer, prompt_text(loaded.tokenizer, chat)) for chat in chats]
    answers: dict[int, Answer] = {}
    for indices in track(list(batches(map(len, prompts), batch_size)), "generate"):
        seeds = [(seed << 32) + index for index in indices]
        processors = [SeededSampling(seeds, temperature)] if temperature else []
        generated = _generate(loaded, [prompts[index] for index in indices], max_new_tokens, processors)
        answers.update(zip(indices, generated, strict=True))
    return [answers[index] for index in range(len(chats))]


def _generate(
    loaded: LoadedModel, prompts: list[list[int]], max_new_tokens: int, processors: list[LogitsProcessor]
) -> list[Answer]:
    width = max(map(len, prompts))
    pad = loaded.tokenizer.pad_token_id
    padded = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    device = loaded.model.device
    with torch.inference_mode():
        output = loaded.model.generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList(processors),
        )
    return [_decoded(loaded, row) for row in output[:, width:].tolist()]


def _decoded(loaded: LoadedModel, row: list[int]) -> Answer:
    ends = loaded.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    length = next((i for i, token in enumerate(row) if token in ends), len(row))
    text = loaded.tokenizer.decode(row[:length], skip_special_tokens=True).strip()
    return Answer(text, length, finished=length < len(row))
