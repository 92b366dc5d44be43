"""Outputs: what is never replaced, deleted or left half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.helpers.command import ARGUMENTS, QUICK, TRAIT, Inputs
from tests.helpers.promises.case import Case
from tests.helpers.tasks import FACT, TASK


def ours(inputs: Inputs, name: str, *contents: Path) -> Path:
    """A folder that looks like an output of wsteer, whose record lists copies of these files and folders."""
    folder = inputs.folder / name
    folder.mkdir()
    for path in contents:
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, folder / path.name)
    listed = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    (folder / "wsteer.json").write_text(json.dumps({"files": listed}))
    return folder


def reading(command: str, *given: object) -> Callable[[Inputs], list]:
    """The command with an input in a folder of ours, named by `IN`, and that folder as its output."""

    def arrange(inputs: Inputs) -> list:
        facts = inputs.text("facts.jsonl", json.dumps(FACT))
        sources = {
            "DATA": inputs.chats[0],
            "DELTA": inputs.delta("made"),
            "TRAIT": inputs.text("trait.json", json.dumps(TRAIT)),
            "TEMPLATE": inputs.text("template.jinja", "{{ messages }}"),
            "TASK": inputs.text("task.yaml", TASK),
            "FACTS": facts,
            "SCORES": inputs.text("scores.csv", "step,score\n1,0.5\n"),
            "CONFIG": inputs.text("config.yaml", "quiet: true\n"),
            "MODEL": inputs.tiny,
            "ADAPTER": inputs.adapters[0],
        }
        used = next(name for word in given for name in sources if isinstance(word, str) and f"IN/{name}" in word)
        folder = ours(inputs, "ours", *([facts] if used == "TASK" else []), sources[used])
        plain = {"TINY": inputs.tiny, "POS": inputs.chats[0], "W": inputs.delta(), "VECTOR": inputs.vectors()}
        words = [
            str(plain.get(str(word), word)).replace(f"IN/{used}", f"{folder / sources[used].name}") for word in given
        ]
        return [command, *words, "-o", folder, "--force"]

    return arrange


IS_READ = "output .* is the input .* or holds it; name another output"
# every option that names a file or folder that is read, in a folder that --force could otherwise replace
READ = [
    ("finetune DATA", reading("finetune", "TINY", "IN/DATA")),
    ("finetune DATA with a weight", reading("finetune", "TINY", "IN/DATA:2")),
    ("finetune BASE", reading("finetune", "IN/MODEL", "POS")),
    ("finetune --val", reading("finetune", "TINY", "POS", "--val", "IN/DATA")),
    ("finetune --track", reading("finetune", "TINY", "POS", "--track", "W,IN/DELTA")),
    ("finetune --template", reading("finetune", "TINY", "POS", "--template", "IN/TEMPLATE")),
    ("finetune --config", reading("finetune", "TINY", "POS", "--config", "IN/CONFIG")),
    ("finetune --seeds", reading("finetune", "TINY", "POS", "--seeds", "0,1", "--val", "IN/DATA")),
    ("generate TRAIT", reading("generate", "TINY", "IN/TRAIT")),
    ("generate MODEL", reading("generate", "IN/MODEL", "no.json")),
    ("steer BASE", reading("steer", "IN/MODEL", "W", "--k", "1")),
    ("steer DELTA", reading("steer", "TINY", "IN/DELTA", "--k", "1")),
    ("steer --as adapter", reading("steer", "TINY", "IN/DELTA", "--k", "1", "--as", "adapter")),
    ("eval MODEL", reading("eval", "IN/MODEL", "--task", "agreement")),
    ("eval --delta", reading("eval", "TINY", "--task", "agreement", "--delta", "IN/DELTA")),
    ("eval --task", reading("eval", "TINY", "--task", "IN/TASK")),
    ("eval --data", reading("eval", "TINY", "--task", "agreement", "--data", "IN/FACTS")),
    ("eval --template", reading("eval", "TINY", "--task", "agreement", "--template", "IN/TEMPLATE")),
    (
        "monitor --template",
        reading("monitor", "VECTOR", "--of", "POS", "--base", "TINY", "--template", "IN/TEMPLATE"),
    ),
    ("monitor DELTA", reading("monitor", "W", "IN/DELTA")),
    ("monitor --of", reading("monitor", "W", "--of", "IN/ADAPTER")),
    ("monitor --controls", reading("monitor", "W", "--controls", "IN/DELTA")),
    ("monitor --ceiling", reading("monitor", "W", "--ceiling", "w=IN/DELTA")),
    ("monitor --centre", reading("monitor", "W", "--centre", "IN/DELTA")),
    ("monitor --scores", reading("monitor", "W", "--scores", "IN/SCORES")),
    ("monitor --base", reading("monitor", "W", "--base", "IN/MODEL")),
    ("monitor --watch", reading("monitor", "W", "--watch", "--of", "IN/ADAPTER")),
    ("monitor data sets", reading("monitor", "VECTOR", "--of", "IN/DATA", "--base", "TINY")),
    ("monitor --shift", reading("monitor", "VECTOR", "--of", "POS", "--base", "TINY", "--shift", "IN/ADAPTER")),
    ("demo --model", reading("demo", "--model", "IN/MODEL")),
]


def part_of_input(command: str, name: str) -> Callable[[Inputs], list]:
    """A file of a folder that the command reads, as its output."""

    def arrange(inputs: Inputs) -> list:
        model = shutil.copytree(inputs.tiny, inputs.folder / "model")
        words: dict[str, list] = {
            "actvec": [model, *inputs.chats],
            "diff": [inputs.delta(), "--base", model],
            "steer": [model, inputs.delta(), "--k", 1, "--as", "delta"],
        }
        return [command, *words[command], "-o", model / name, "--force"]

    return arrange


def foreign(command: str) -> Callable[[Inputs], list]:
    """An output folder of ours that also holds a file of the user's."""

    def arrange(inputs: Inputs) -> list:
        folder = ours(inputs, "mine", inputs.chats[1])
        (folder / "notes.txt").write_text("precious")
        return [command, *ARGUMENTS[command](inputs), "-o", folder, "--force"]

    return arrange


def of_user(name: str, command: str = "diff") -> Callable[[Inputs], list]:
    """A file of the user's as the output of a command that writes a delta file."""

    def arrange(inputs: Inputs) -> list:
        path = inputs.text(name, "precious")
        return [command, *ARGUMENTS[command](inputs), "-o", path, "--force"]

    return arrange


def named(command: str, name: str) -> Callable[[Inputs], list]:
    return lambda inputs: [command, *ARGUMENTS[command](inputs), "-o", inputs.folder / name]


FOLDERS = [command for command in QUICK if command not in ("diff", "actvec", "report")]
NO_DELTA = "is not a delta file, report, picture or answers that wsteer wrote"
PART = {"actvec": NO_DELTA, "diff": "is part of the input", "steer": "is part of the input"}
CASES: list[Case] = [
    *(Case(f"--force onto what is read: {name}", arrange, IS_READ) for name, arrange in READ),
    *(
        Case(f"--force onto a file of an input: {command} {name}", part_of_input(command, name), says)
        for command, says in PART.items()
        for name in ("model.safetensors", "config.json")
    ),
    *(Case(f"--force beside a user's file: {name}", foreign(name), "also holds notes.txt") for name in FOLDERS),
    Case("--force onto a user's text", of_user("notes.txt"), NO_DELTA),
    Case("--force onto a user's page", of_user("page.html", "report"), NO_DELTA),
    Case("--force onto a user's weights", of_user("model.safetensors", "actvec"), NO_DELTA),
    *(
        Case(
            f"a name of 245 letters: {name}",
            named(name, "x" * 245),
            "the name of output .* is too long; shorten it by .* bytes",
        )
        for name in QUICK
    ),
    *(
        Case(f"a path beyond the system's: {name}", named(name, "x/" * 3000 + "x"), "File name too long: .*/x/x'$")
        for name in QUICK
    ),
]
