"""What is finished in an experiment's folder, by its record: which steps run again, and how they go on."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wsteer.demo.digests import Digests, digest_of_text
from wsteer.demo.plan import Planned, is_inside
from wsteer.errors import WsteerError
from wsteer.files.flushing import replace_json
from wsteer.files.provenance import RECORD, in_utf8, recordable
from wsteer.files.saving import check_output, kept_work, locked
from wsteer.files.text import read_json

Entry = dict[str, Any]  # "command", whether it has "ended", and by path the digests of its "inputs" and "outputs"


class Finished:
    """The steps of a record, finished and begun. Paths are those of the commands: it is used inside the folder."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.entries = list(entries)
        self.digests = Digests()
        self.named: Callable[[Planned], Iterable[str]] = (
            lambda step: ()
        )  # inputs that only files name, as those of pairs

    def is_unchanged(self, step: Planned) -> bool:
        """Whether the step ended with this command, and its inputs and outputs still are as they were."""
        entry = self._entry(step)
        return (
            entry is not None
            and entry["ended"] is True
            and entry["outputs"] == self._of(step.outputs)
            and self._began(step)
        )

    def options(self, step: Planned) -> list[str]:
        """What to add to the command: --force where it made its outputs before, --resume where it was interrupted."""
        made = {path for entry in self.entries for path in entry["outputs"]}
        outputs = [Path(path) for path in step.outputs if path in made]
        kept = any(kept_work(path) for path in outputs)
        of_pairs = any(word.partition("=")[0] == "--pairs" for word in step.command.words)
        grows = of_pairs and any(path.exists() for path in outputs)
        resumed = self._began(step) and (kept or grows)
        return [
            *(["--resume"] if resumed else []),
            *(["--force"] if kept or any(path.exists() for path in outputs) else []),
        ]

    def begin(self, step: Planned) -> None:
        """Note that the step begins, with its inputs."""
        self._replace(step, False, dict.fromkeys(step.outputs))

    def end(self, step: Planned) -> None:
        """Note that the step has ended, with its inputs and outputs."""
        self._replace(step, True, self._of(step.outputs))

    def others(self, steps: Sequence[Planned]) -> list[str]:
        """Outputs of steps that are not among `steps`."""
        made = {path for step in steps for path in step.outputs}
        return sorted({path for entry in self.entries for path in entry["outputs"]} - made)

    def files(self) -> list[str]:
        """The files that the steps made, which are wsteer's to replace."""
        found: set[str] = set()
        for entry in self.entries:
            for name in entry["outputs"]:
                if entry["ended"] is True or _is_ours(Path(name)):
                    inner = Path(name).rglob("*") if Path(name).is_dir() else [Path(name)]
                    found |= {in_utf8(str(each)) for each in inner if each.is_symlink() or each.is_file()}
        return sorted(found)

    def _entry(self, step: Planned) -> Entry | None:
        return next((entry for entry in self.entries if entry["command"] == step.text), None)

    def _began(self, step: Planned) -> bool:
        entry = self._entry(step)
        return entry is not None and entry["inputs"] == self._read(step)

    def _read(self, step: Planned) -> dict[str, str]:
        """The digests of what the step reads: files, and variables that give its command's options."""
        variables = _variables(step.command.words[0])
        read = self._of([*step.inputs, *self.named(step), *variables.values()])
        return read | {name: digest_of_text(text) for name, text in variables.items()}

    def _of(self, paths: Sequence[str]) -> dict[str, str]:
        """The digests of the paths that are files or folders; a Hub id or a number is none."""
        root = Path.cwd()
        found: dict[str, str] = {}
        for path in dict.fromkeys(str(Path(os.path.expanduser(each))) for each in paths):
            within = not root.is_relative_to(os.path.abspath(path))  # a folder above is nothing that a step reads
            if within and (digest := self.digests.of(path)) is not None:
                name = recordable(path)  # of an absolute path the last part, which another may have, too
                found[name if name not in found else f"{name} ({len(found)})"] = digest
        return found

    def _replace(self, step: Planned, ended: bool, outputs: dict) -> None:
        entry = {"command": step.text, "ended": ended, "inputs": self._read(step), "outputs": outputs}
        kept = [each for each in self.entries if not each["outputs"].keys() & step.outputs]
        self.entries = [*(each for each in kept if each["command"] != step.text), entry]


def is_experiment(folder: Path) -> bool:
    """Whether the folder is one that an experiment ran in."""
    return (folder / RECORD).is_file() and _entries(folder) is not None


def read_finished(folder: Path) -> Finished:
    """What the record of an experiment's folder has; a WsteerError if it is no such folder."""
    entries = _entries(folder) if (folder / RECORD).is_file() else None
    if entries is None:
        raise WsteerError(f"output {folder} holds no experiment to go on with; name another with -o")
    return Finished(entries)


def write_record(record: dict, finished: Finished) -> None:
    """Write the record in the current folder, with all steps and their files."""
    replace_json(Path(RECORD), {**record, "steps": finished.entries, "files": finished.files()})


def adopt(folder: Path) -> None:
    """List the files that the last step of a killed run made, so that they may be replaced."""
    finished = read_finished(folder)
    with locked(folder), inside(folder):
        write_record(read_json(Path(RECORD)), finished)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in the folder, as a user who changed to it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _entries(folder: Path) -> list[Entry] | None:
    held = read_json(folder / RECORD)
    entries = held.get("steps") if isinstance(held, dict) and held.get("command") == "demo" else None
    return entries if isinstance(entries, list) and all(map(_is_entry, entries)) else None


def _is_entry(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("command"), str):
        return False
    if not all(isinstance(value.get(key), dict) for key in ("inputs", "outputs")) or "ended" not in value:
        return False
    return all(map(is_inside, value["outputs"]))


def _variables(command: str) -> dict[str, str]:
    """The variables that give this command options; those of demo do not reach the report."""
    start = f"WSTEER_{command}_".upper()
    named = {name: text for name, text in os.environ.items() if text and name.startswith(start)}
    return {} if command == "demo" else named


def _is_ours(path: Path) -> bool:
    """Whether what lies there is wsteer's: of a step that was killed, the record does not tell."""
    if path.exists():
        with contextlib.suppress(WsteerError):
            check_output(path, force=True, folder=path.is_dir())
            return True
    return False
