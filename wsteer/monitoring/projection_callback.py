"""How training shifts fixed prompts along activation vectors, inside a transformers Trainer."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from wsteer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.files.shapes import Shape
from wsteer.models.arguments import check_run
from wsteer.models.chat import ChatFormat
from wsteer.models.loading import LoadedModel, with_tokenizer
from wsteer.monitoring.measuring import Measuring, by_name
from wsteer.monitoring.probe import Probe, directions, read_rows, spans, vector_of
from wsteer.monitoring.projections import PROMPT_END

BATCH_SIZE = 16  # rows that run at once by default


class ProjectionCallback(Measuring):
    """Logs how far training has moved fixed prompts along activation vectors, while a Trainer trains.

    `deltas`: files that `wsteer actvec` wrote, one or several; or activation deltas by name. `data`: a data set, whose
    prompts alone are read. `base`: the checkpoint that training started from, whose tokenizer and template render them.
    `every`: steps between measurements; by default they are made at every log of the Trainer. `layers`: the decoder
    blocks, else all that the deltas have.

    The log gets, as `projection_<name>_<block>`, the mean shift since training began at the prompts' last token, along
    the unit vector: what `wsteer monitor --shift` gives for a checkpoint. They are in the Trainer's `log_history`, and
    in `history` as (step, {"<name>_<block>": shift}). With `attach`, instead of `callbacks=[...]`, they are also
    reported to TensorBoard and others. The model is read in eval mode and without gradients; a run with the callback
    gives the same weights as one without.

    Works on one process and under DDP, where the main process measures. Raises WsteerError where the model's weights
    are spread over processes, and for vectors of another model.
    """

    def __init__(
        self,
        deltas: str | Path | Sequence[str | Path] | Mapping[str, Delta],
        data: str | Path,
        base: str | Path | Checkpoint,
        every: int | None = None,
        layers: Sequence[int] | None = None,
        *,
        columns: Shape | None = None,
        template: str | Path | None = None,
        template_args: Mapping[str, object] | None = None,
        date: str | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        super().__init__(every)
        check_run(batch_size, "auto", "auto")
        found = by_name(deltas, Delta.load)
        self.deltas = {name: vector_of(name, delta, layers) for name, delta in found.items()}
        self.base = open_checkpoint(base) if isinstance(base, str | Path) else base
        self.chats = read_rows(data, columns, answers_needed=False)
        self.chat_format = ChatFormat(template, template_args, date)
        self.batch_size = batch_size
        self.history: list[tuple[int, dict[str, float]]] = []
        self._probe: Probe | None = None
        self._loaded: LoadedModel | None = None

    def start(self, model: nn.Module) -> None:
        """Read the prompts before the first step; from there the shift is measured."""
        with _reading(model) as language_model:
            self._loaded = loaded = with_tokenizer(language_model, self.base, self.chat_format)
            text = language_model.config.get_text_config()
            sizes = text.num_hidden_layers, text.hidden_size
            along = [each for name, delta in self.deltas.items() for each in directions(name, delta, self.base, sizes)]
            data = {"prompts": spans(loaded, self.chats)}
            self._probe = Probe(along, data, PROMPT_END, self.batch_size).started(loaded)

    def metrics(self, step: int, model: nn.Module) -> dict[str, float]:
        """The shifts of this step, as the log gets them; `history` keeps them."""
        shifts = self.measure(model)
        self.history.append((step, shifts))
        return {f"projection_{name}": shift for name, shift in shifts.items()}

    def measure(self, model: nn.Module) -> dict[str, float]:
        """The mean shift along each delta at each block, as `<name>_<block>`, since training began."""
        if self._probe is None or self._loaded is None:
            raise WsteerError("ProjectionCallback measures from the start of training, which it has not seen")
        with _reading(model) as language_model:
            found = self._probe.shifts(replace(self._loaded, model=language_model), "the model in training")
        return {f"{each.delta}_{each.block}": each.mean for each in found}


@contextlib.contextmanager
def _reading(model: nn.Module) -> Iterator[PreTrainedModel]:
    """The language model in eval mode, for the `with` body; modules' modes and the state of chance are as before then.

    An adapter that is trained is in its layers.
    """
    language_model = model
    if isinstance(model, PeftModel):
        if model.active_peft_config.is_prompt_learning:
            raise WsteerError("ProjectionCallback reads no model with trained prompts; use an adapter of its weights")
        language_model = model.get_base_model()
    if not isinstance(language_model, PreTrainedModel):
        raise WsteerError(f"ProjectionCallback reads models of transformers, and this is a {type(model).__name__}")
    modes = {module: module.training for module in model.modules()}
    device = language_model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.eval()
        try:
            yield language_model
        finally:
            for module, mode in modes.items():
                module.training = mode
