"""Cosines of the running change of weights with deltas, inside a transformers Trainer."""

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from peft import PeftModel
from torch import Tensor, nn

from wsteer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from wsteer.checkpoints.conversion import Place, places
from wsteer.deltas.adapters.adapter import read_adapter
from wsteer.deltas.bases import check_bases
from wsteer.deltas.delta import Delta
from wsteer.deltas.gram import grouped_sums
from wsteer.deltas.inputs import adapter_delta, open_change
from wsteer.deltas.terms import Dense, Terms
from wsteer.errors import WsteerError
from wsteer.monitoring.measuring import Measuring, by_name
from wsteer.monitoring.similarity import nothing_shared, similarity

RUNNING = "the running change of weights"


class SimilarityCallback(Measuring):
    """Logs the cosine of the current change of weights with each delta, as `cosine_<name>`, while a Trainer trains.

    `deltas`: delta files, adapters or (with `base`) checkpoints, one or several; or deltas by name. `every`: steps
    between measurements; by default they are made at every log of the Trainer. `base`: the checkpoint that training
    started from. Plain LoRA does not need it. Full fine-tuning without it keeps a copy of the initial weights.

    The cosines are those of `wsteer monitor`, over the whole vectors. For a delta that does not change the same
    parameters as the run, the one over those that both change is logged beside it, as `cosine_shared_<name>`. They are
    in the Trainer's `log_history`, and in `history` and `history_shared` as (step, {name: cosine}). With `attach`,
    instead of `callbacks=[...]`, they are also reported to TensorBoard and others. At step 0 nothing has changed, so
    nothing is logged.

    Works on one process and under DDP, where the main process measures. Raises WsteerError where the model's
    weights are spread over processes, and if a delta shares no parameter with the run.
    """

    def __init__(
        self,
        deltas: str | Path | Sequence[str | Path] | Mapping[str, Delta],
        every: int | None = None,
        base: str | Path | Checkpoint | None = None,
    ) -> None:
        super().__init__(every)
        base = open_checkpoint(base) if isinstance(base, str | Path) else base
        self.deltas = by_name(deltas, lambda path: open_change(path, "watched", base).delta)
        for name, delta in self.deltas.items():
            if delta.kind == "activation":
                raise WsteerError(f"{name} is an activation vector, no change of weights; track one that diff wrote")
        self.base = base
        if self.base is not None:
            trained = (self.base.name, self.base.identity)
            for name, delta in self.deltas.items():
                check_bases([(name, delta.base), trained], "track changes of the model trained")
        self.history: list[tuple[int, dict[str, float]]] = []
        self.history_shared: list[tuple[int, dict[str, float]]] = []
        self._initial: dict[str, Tensor] = {}

    def start(self, model: nn.Module) -> None:
        """Keep the initial weights, from which the change is measured."""
        self._initial = {} if isinstance(model, PeftModel) else initial_weights(model, self.base)

    def metrics(self, step: int, model: nn.Module) -> dict[str, float]:
        """The cosines of this step, as the log gets them; `history` and `history_shared` keep them."""
        cosines, shared = self.measure(model)
        if cosines:
            self.history.append((step, cosines))
            self.history_shared.append((step, shared))
        found = {f"cosine_shared_{name}": cosine for name, cosine in shared.items()}
        return found | {f"cosine_{name}": cosine for name, cosine in cosines.items()}

    def measure(self, model: nn.Module) -> tuple[dict[str, float], dict[str, float]]:
        """The cosine of the model's change of weights, now, with each delta; empty if it is zero or not finite.

        The second is that over the parameters that both change, for deltas that do not change the same ones as the run.
        The first step of a warm-up changes nothing, and the Trainer reports a run that diverges.
        """
        names = [*self.deltas, RUNNING]
        with task_vector(model, self._initial, self.base) as change:
            sums = grouped_sums(
                [*(delta.terms for delta in self.deltas.values()), change.terms], len(self.deltas), lambda name: ""
            )[""]
            changed = change.terms.keys()
        if not 0 < float(sums.whole[-1]) < math.inf:
            return {}, {}
        table = similarity(sums, names, [len(self.deltas)], range(len(self.deltas)))
        cosines, shared = {}, {}
        for j, (name, delta) in enumerate(self.deltas.items()):
            whole, part = table.cosines[0][j], table.cosines_shared[0][j]
            if whole is None or part is None:
                raise WsteerError(nothing_shared(RUNNING, name))
            cosines[name] = whole
            if delta.terms.keys() != changed:
                shared[name] = part
        return cosines, shared


@contextlib.contextmanager
def task_vector(model: nn.Module, initial: Mapping[str, Tensor], base: Checkpoint | None = None) -> Iterator[Delta]:
    """The change of the model's weights since training began, as a delta for use inside the `with`.

    A PEFT model's adapter is saved to a temporary folder and read like any adapter folder, so every method that `wsteer
    diff` reads can be followed. Of another model it is the trainable weights minus those of `base`, or minus `initial`
    (by their names in memory) for weights that `base` lacks.
    """
    if isinstance(model, PeftModel):
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, selected_adapters=[model.active_adapter])
            own = Path(folder) / model.active_adapter
            adapter = read_adapter(own if own.is_dir() else Path(folder), base)
            delta = adapter_delta(adapter)
            checkpoint = base or adapter.checkpoint
            if delta.needing_base() and checkpoint is None:
                raise WsteerError(f"{delta.needing_base()[0]} changes as its base's weights tell: give base=")
            yield delta.bound(checkpoint) if checkpoint else delta
    else:
        yield Delta("task_vector", _weight_terms(model, initial, base))


def initial_weights(model: nn.Module, base: Checkpoint | None = None) -> dict[str, Tensor]:
    """Copies of the trainable weights by their names in memory, without those that `base` holds."""
    stored = _stored(model, base).values() if base is not None else ()
    known = {part.parameter for place in stored for part, _ in place.parts}
    return {name: weight.detach().to("cpu", copy=True) for name, weight in _trainable(model) if name not in known}


def _weight_terms(model: nn.Module, initial: Mapping[str, Tensor], base: Checkpoint | None) -> dict[str, Terms]:
    weights = dict(_trainable(model))
    terms: dict[str, Terms] = {}
    if base is not None:
        for name, place in _stored(model, base).items():
            if all(part.parameter in weights for part, _ in place.parts):
                terms[name] = ((1.0, Dense(place)), (-1.0, Dense(base.tensors[name])))
    for name, before in initial.items():
        terms[name] = ((1.0, Dense(Place.of(name, weights[name]))), (-1.0, Dense(before)))
    return terms


def _trainable(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights that training changes, tied ones once."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield name, weight


def _stored(model: nn.Module, base: Checkpoint) -> dict[str, Place]:
    """For each tensor of the base's files that the model has, its place in the model's memory."""
    entries = base.parameters()
    found = places(model, {name: entry.shape for name, entry in entries.items()})
    for name, place in found.items():
        if place.shape != entries[name].shape:
            stored = entries[name].shape
            raise WsteerError(f"{name} is {place.shape} in the model but {stored} in {base.name}; is it the base?")
    return found
