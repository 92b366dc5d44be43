"""What a command takes for a MODEL: a checkpoint, or an adapter, which is its base with its change."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint, fetch, open_checkpoint
from wsteer.deltas.adapters.adapter import base_of, find_adapter
from wsteer.deltas.adapters.reading import CONFIG
from wsteer.deltas.bases import check_bases
from wsteer.deltas.delta import DELTA
from wsteer.deltas.inputs import ChangeInput, holds_weights, open_change
from wsteer.errors import WsteerError
from wsteer.files.text import read_json


@dataclass(frozen=True)
class ModelInput:
    """A checkpoint by its `reference`, and if an adapter was named, the adapter's change of that checkpoint."""

    reference: str
    checkpoint: Checkpoint
    change: ChangeInput | None = None

    @property
    def name(self) -> str:
        """The name of what was named."""
        return self.checkpoint.name if self.change is None else short_name(self.change.reference)

    @property
    def folders(self) -> list[Path]:
        """The folders that hold it."""
        return [self.checkpoint.folder, *({file.parent for file in self.change.files} if self.change else ())]


def open_model(reference: str | Path) -> ModelInput:
    """The checkpoint that `reference` names or, if it names an adapter, the adapter's base with the adapter's change.

    A folder that also holds a whole model is that model. Raises WsteerError if the base of an adapter is not to be had.
    """
    try:
        return ModelInput(str(reference), open_checkpoint(reference))
    except WsteerError:
        adapter = _adapter_in(reference)
        if adapter is None:
            raise
    base_reference = base_of(adapter, read_json(adapter / CONFIG))
    if base_reference is None:
        raise WsteerError(f"{reference} is an adapter that does not name its base; {_mend(reference)}")
    try:
        base = open_checkpoint(base_reference)
    except WsteerError as error:
        raise WsteerError(
            f"{reference} is an adapter, whose base is not to be had: {error}; {_mend(reference)}"
        ) from None
    change = open_change(reference, "adapter", base)
    check_bases([(change.path, change.base), (base.name, base.identity)], f"its base has changed; {_mend(reference)}")
    return ModelInput(base_reference, base, change)


def _adapter_in(reference: str | Path) -> Path | None:
    """The adapter that `reference` names, if it names no whole model."""
    try:
        folder, _ = fetch(reference, local_only=True)  # one from the Hub has been fetched already
    except WsteerError:
        return None
    if holds_weights(folder):
        return None
    if (folder / DELTA).is_file() and not (folder / CONFIG).exists():
        raise WsteerError(f"{reference} holds a change of weights ({DELTA}) and no model; {_mend(reference)}")
    return find_adapter(folder)


def _mend(reference: str | Path) -> str:
    return f"name the base yourself: wsteer steer BASE {reference} --k 1 writes the whole model"


def short_name(reference: str | Path) -> str:
    """A reference's own name: a folder's, a file's without its suffix, or the last part of a Hub id.

    A checkpoint of a training run has the run's name too: `pos-checkpoint-24`.
    """
    path = Path(os.path.expanduser(reference))
    if path.is_file():
        return path.stem
    if not path.is_dir():
        return path.name.partition("@")[0]
    path = path.resolve() if path.name in ("", "..") else path
    of_run = re.fullmatch(r"checkpoint-\d+", path.name) and path.absolute().parent.name
    return f"{of_run}-{path.name}" if of_run else path.name
