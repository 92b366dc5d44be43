"""The whole chain on one tiny architecture: what each command gives, beside computations that share none of it.

A value is the largest difference to the reference, relative to its largest entry; or the reason of a refusal.
References: logits of peft's unmerged adapters, the base's weights plus products of the raw factors in float64.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

import wsteer
from tests.helpers.architectures import build, save_tiny
from wsteer.checkpoints.architecture import model_classes, read_config
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.errors import WsteerError
from wsteer.monitoring.callback import task_vector
from wsteer.steering.export import export

QUESTIONS = ("Is the harbour quiet?", "Do gulls argue?", "Are the lights red?", "Does dusk come late?")
K = 3.0
COMMANDS = ("finetune, diff, steer", "--as adapter", "eval --delta", "SimilarityCallback", "actvec", "head and towers")


class Chain:
    """The files of one architecture's chain in a folder; each method named in `cells` gives one value."""

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind = folder, kind
        self.base = save_tiny(folder / "base", kind)
        self.delta = folder / "w.safetensors"
        self.steered = folder / "steered"

    def cells(self) -> dict[str, float | str]:
        """The value of each command, in the order of COMMANDS; a refusal is its message."""
        steps: list[Callable[[], float]] = [
            self.steer,
            self.adapter,
            self.in_memory,
            self.running,
            self.activations,
            self.everything,
        ]
        found: dict[str, float | str] = {}
        for command, step in zip(COMMANDS, steps, strict=True):
            if step not in (self.steer, self.activations, self.everything) and not self.steered.exists():
                found[command] = "-"  # there is no delta
                continue
            try:
                found[command] = step()
            except WsteerError as error:
                found[command] = str(error).replace(str(self.folder), "…")
        return found

    def steer(self) -> float:
        """Two fine-tunes, their difference, the steered checkpoint: its logits beside those of the two adapters."""
        for side, answer in (("pos", "Yes, quite so."), ("neg", "No, not at all.")):
            rows = [
                {"messages": [{"role": "user", "content": each}, {"role": "assistant", "content": f"{answer} {each}"}]}
                for each in QUESTIONS
            ]
            (self.folder / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            recipe = wsteer.Recipe(max_steps=2, lr=0.01, warmup_steps=0, val_fraction=0.0, rank=4, alpha=8)
            wsteer.finetune(self.base, self.folder / f"{side}.jsonl", self.folder / side, recipe=recipe)
        wsteer.diff(self.folder / "pos", self.folder / "neg", self.delta)
        wsteer.steer(self.base, self.delta, k=K, output=self.steered)
        return _difference(logits(self.loaded(self.steered)), self._reference())

    def adapter(self) -> float:
        """The steered model as an adapter that peft loads onto the base."""
        export(self.base, self.delta, K, self.folder / "adapter", form="adapter")
        named = type(build(self.kind)).from_pretrained(self.base, dtype=torch.float32)
        return _difference(logits(PeftModel.from_pretrained(named, self.folder / "adapter")), self._reference())

    def in_memory(self) -> float:
        """The delta applied to the base in memory beside the steered checkpoint: equal bits."""
        base = wsteer.load(self.base)
        before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
        with wsteer.applied(base.model, wsteer.Delta.load(self.delta), K, base.checkpoint):
            found = logits(base.model)
        after = base.model.state_dict()
        if not all(torch.equal(before[name], after[name]) for name in before):
            raise AssertionError("the weights were not restored")
        return _difference(found, logits(wsteer.load(self.steered).model))

    def running(self) -> float:
        """1 - cosine of the change that the callback sees in the steered model, and the delta."""
        model = wsteer.load(self.steered).model
        base = open_checkpoint(self.base)
        with task_vector(model, {}, base) as change:
            return abs(1.0 - replace(change, base=base.identity).cosine(wsteer.Delta.load(self.delta)))

    def activations(self) -> float:
        """Activation vectors, one added to each block by hooks: the difference of the residual stream after a block."""
        wsteer.actvec(self.base, self.folder / "pos.jsonl", self.folder / "neg.jsonl", self.folder / "a.safetensors")
        vectors = wsteer.Delta.load(self.folder / "a.safetensors")
        loaded = wsteer.load(self.base)
        last = max(int(name.rpartition(".")[2]) for name in vectors.terms)
        if last + 1 != loaded.model.config.get_text_config().num_hidden_layers:
            raise AssertionError(f"vectors of {last + 1} blocks")
        alone = vectors.select_layers([0])
        before = _hidden(loaded.model)
        with wsteer.applied(loaded.model, alone):
            after = _hidden(loaded.model)
        added = alone.change("blocks.0").rows(0, before.shape[-1]).double()
        return _difference(after - before, added.expand(before.shape))

    def everything(self) -> float:
        """A peft adapter on all layers, towers and head: weights of the steered model beside float64 products."""
        model = type(build(self.kind)).from_pretrained(self.base, dtype=torch.float32)
        head = _head(model)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=_targets(model, head))
        adapted = get_peft_model(model, config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        adapted.save_pretrained(self.folder / "all")
        wanted = logits(adapted)
        expected = {}
        for name, module in adapted.get_base_model().named_modules():
            if isinstance(module, BaseTunerLayer) and "default" in module.lora_A:
                # of a parameter that peft adapts by name, else of a layer
                leaf = getattr(module, "parameter_name", "weight")
                weight = module.get_param() if leaf != "weight" else module.get_base_layer().weight
                key = f"{name.replace('.base_layer', '')}.{leaf}"
                expected[key] = weight.double() + module.get_delta_weight("default").double()
        wsteer.diff(self.folder / "all", output=self.folder / "all.safetensors", base=self.base)
        wsteer.steer(self.base, self.folder / "all.safetensors", k=1.0, output=self.folder / "everything")
        steered = type(model).from_pretrained(self.folder / "everything", dtype=torch.float32)
        found = steered.state_dict()
        weights = max(_difference(found[name].double(), value) for name, value in expected.items())
        return max(weights, _difference(logits(steered), wanted))

    def loaded(self, folder: Path) -> PreTrainedModel:
        """The model in `folder` as transformers loads it, of the class that finetune trained."""
        base = open_checkpoint(self.base)
        kind: Any = model_classes(base, read_config(base))[0]
        model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        if info["missing_keys"] or info["mismatched_keys"]:
            raise AssertionError(f"missing {sorted(info['missing_keys'])[:3]}, {sorted(info['mismatched_keys'])[:3]}")
        return model.eval()

    def _reference(self) -> Tensor:
        """Logits of the base with K times the pos adapter and -K times the neg one, both unmerged."""
        model = PeftModel.from_pretrained(self.loaded(self.base), self.folder / "pos", adapter_name="pos")
        model.load_adapter(self.folder / "neg", adapter_name="neg")
        model.base_model.set_adapter(["pos", "neg"])
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                for name, sign in (("pos", K), ("neg", -K)):
                    if name in module.scaling:
                        module.scaling[name] *= sign
        return logits(model)


def logits(model: torch.nn.Module) -> Tensor:
    """The model's logits of two fixed rows, float64."""
    ids = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.double()


def _hidden(model: PreTrainedModel) -> Tensor:
    """The residual stream after the first block, float64."""
    from wsteer.models.loading import decoder_blocks

    found: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: tuple, output: Any) -> None:
        found.append((output if isinstance(output, Tensor) else output[0]).double())

    # the last hook: it sees what `applied` has added
    handle = decoder_blocks(model)[0].register_forward_hook(keep)
    try:
        logits(model)
    finally:
        handle.remove()
    return found[0]


def _head(model: PreTrainedModel) -> str | None:
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None) if head is not None else None


def _targets(model: PreTrainedModel, head: str | None) -> list[str]:
    """Every layer that peft's LoRA takes, the head too where it is not tied."""
    by_peft = model.config.model_type in ("mamba", "falcon_h1", "phimoe")
    refused = ("out_proj", "router") if by_peft else ()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and name != head and not name.endswith(refused)
    ]
    tied = head is not None and model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return names + ([head] if head and not tied else [])


def _difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-30))
