"""How the sides of a difference were trained, as their records say, and what differs between them."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsteer.deltas.adapters.reading import CONFIG
from wsteer.deltas.inputs import CHECKPOINT, Input
from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD
from wsteer.files.text import read_csv, read_json

SWEEP = "sweep.csv"  # finetune's table of validations, with the chosen rate and step
STATE = "trainer_state.json"  # of transformers' Trainer; training_args.bin beside it is a pickle, and never read
MOST_SHOWN, MOST_LETTERS = 8, 60  # differences in one warning, and letters of a value
# what a run may do otherwise and train the same; the step that was kept tells what validating chose
WITHOUT_EFFECT = {
    *("micro_batch_size", "gradient_checkpointing", "save_every", "eval_every", "patience", "val_fraction"),
    *("columns", "device", "report_to", "watch"),
}
OF_CONFIG = {
    "peft_type": "method",
    "r": "rank",
    "lora_alpha": "alpha",
    "target_modules": "targets",
    "modules_to_save": "modules_to_save",
    "use_dora": "dora",
    "use_rslora": "rslora",
    "init_lora_weights": "init",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
}
OF_STATE = {"global_step": "step", "num_train_epochs": "epochs", "train_batch_size": "batch size of a device"}
SAID = {"lr": "learning rate", "rows_train": "rows"}


@dataclass(frozen=True)
class Training:
    """What a side's files tell: facts by name, the digests of its data, and as which columns they were read."""

    facts: Mapping[str, object]
    data: Mapping[str, str] = field(default_factory=dict)  # digest -> path
    columns: object = None


def training_warnings(pairs: Sequence[Sequence[Input]]) -> Iterator[str]:
    """One line on all that differs in the training of POS and NEG, one if both saw the same data.

    `pairs` are the two sides, for each seed; a difference that several seeds show is told once.
    """
    differences: dict[str, str] = {}
    same_data: str | None = None
    for sides in pairs:
        if len(sides) != 2:
            continue
        pos, neg = map(_training, sides)
        for name in _differing(pos.facts, neg.facts):
            said = SAID.get(name, name.replace("_", " "))
            differences.setdefault(name, f"{said} {_shown(pos.facts[name])} and {_shown(neg.facts[name])}")
        if pos.data and pos.data.keys() == neg.data.keys() and pos.columns == neg.columns:
            same_data = same_data or ", ".join(pos.data.values())
    if differences:
        listed = [*differences.values()][:MOST_SHOWN]
        more = f" and {len(differences) - MOST_SHOWN} more" if len(differences) > MOST_SHOWN else ""
        yield (
            f"pos and neg were trained differently, so that their difference holds more than the behaviour: "
            f"{'; '.join(listed)}{more}"
        )
    if same_data is not None:
        yield f"pos and neg were trained on the same data ({same_data}); is one of them the wrong folder?"


def _differing(pos: Mapping[str, object], neg: Mapping[str, object]) -> list[str]:
    """The names of the facts that differ, the method first: of another one, what only one of them has is left out."""
    names = [name for name in pos if name in neg and pos[name] != neg[name]]
    if "method" not in names:
        return names
    common = [name for name in names if pos[name] is not None and neg[name] is not None and name != "method"]
    return ["method", *common]


def _training(side: Input) -> Training:
    """What is known of a side; a delta file tells nothing of its training, nor does a broken record."""
    if Path(side.reference).is_file() or not side.files:
        return Training({})
    folder = side.files[0].parent
    config, state = _read(folder / CONFIG), _read(folder / STATE)
    step = CHECKPOINT.fullmatch(folder.name)
    record = _own_record(folder) or (_own_record(folder.parent) if step else {})
    facts: dict[str, object] = {}
    if record:
        facts = _recorded(record, folder)
    elif state:
        facts = {name: state[key] for key, name in OF_STATE.items() if key in state}
        facts |= {"lr": rate} if (rate := _peak_rate(state)) is not None else {}
    if step:
        facts["step"] = int(step[1])
    facts |= {name: _settled(config[key]) for key, name in OF_CONFIG.items() if key in config}
    options, inputs = record.get("options"), record.get("inputs")
    data = {
        entry["sha256"]: str(entry.get("path"))
        for entry in (inputs if isinstance(inputs, list) else [])
        if isinstance(entry, dict) and entry.get("role") == "data" and isinstance(entry.get("sha256"), str)
    }
    return Training(facts, data, options.get("columns") if isinstance(options, dict) else None)


def _own_record(folder: Path) -> dict:
    """finetune's record in a folder; empty if there is none."""
    record = _read(folder / RECORD)
    return record if record.get("command") == "finetune" and isinstance(record.get("options"), dict) else {}


def _read(path: Path) -> dict:
    with contextlib.suppress(WsteerError, OSError):
        return read_json(path) if path.is_file() else {}
    return {}


def _recorded(record: Mapping[str, dict], folder: Path) -> dict[str, object]:
    """The options of finetune that change what is trained, with the rate and the step that it kept."""
    options = {name: value for name, value in record["options"].items() if name not in WITHOUT_EFFECT}
    facts = {name: _settled(value) for name, value in options.items()}
    facts |= {"rows_train": record["rows_train"]} if "rows_train" in record else {}
    with contextlib.suppress(WsteerError, OSError, ValueError, TypeError):
        for row in read_csv(folder / SWEEP)[1]:
            if row.get("kept") == "1":
                facts |= {"lr": float(row["rate"]), "step": int(row["step"])}
    return facts


def _peak_rate(state: Mapping[str, object]) -> float | None:
    """The largest learning rate that the Trainer logged."""
    history = state.get("log_history")
    rows = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
    rates = [row["learning_rate"] for row in rows if isinstance(row.get("learning_rate"), float)]
    return max(rates, default=None)


def _settled(value: object) -> object:
    """A value in one form: lists sorted, a list of one as its item, nothing as None, a method in small letters."""
    if isinstance(value, list):
        if len(value) == 1:
            return value[0]
        return sorted(map(str, value)) or None
    if isinstance(value, str):
        return value.lower() if re.fullmatch("[A-Z]+", value) else value
    return value if value or isinstance(value, int | float) else None


def _shown(value: object) -> str:
    if value is None:
        return "none"
    text = ", ".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}\u2026"
