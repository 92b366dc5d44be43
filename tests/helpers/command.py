"""The command line in tests: what a run gave, what commands are given, and arguments with which each succeeds."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.helpers.others_logs import lm_run
from wsteer.deltas.delta import Delta


@dataclass(frozen=True)
class Ran:
    """What a run of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """stdout as the one JSON object that --json promises."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one-line error; anything else on stderr but notes is a failure."""
        lines = [line for line in self.err.splitlines() if re.match("wsteer: (error|warning): ", line)]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("wsteer: error: ")


Cli = Callable[..., Ran]


@dataclass(frozen=True)
class Inputs:
    """What a command can be given, and a folder for what else a case needs."""

    folder: Path
    tiny: Path
    adapters: tuple[Path, Path]
    chats: tuple[Path, Path]

    def text(self, name: str, content: str | bytes) -> Path:
        """A file of that content."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def delta(self, name: str = "w", tensors: dict[str, torch.Tensor] | None = None) -> Path:
        """A delta file; of the tiny model's last norm unless other tensors are given."""
        path = self.folder / f"{name}.safetensors"
        tensors = tensors or {"model.norm.weight": torch.ones(32)}
        save_file(tensors, path, metadata={"wsteer": Delta.of_tensors(tensors).info()})  # NaN, too, as no `save` writes
        return path

    def vectors(self, size: float = 1.0) -> Path:
        """Activation vectors of all blocks of the tiny model, of entries of that size."""
        path = self.folder / "a.safetensors"
        tensors = {f"blocks.{block}": torch.full((32,), size) for block in range(3)}
        save_file(tensors, path, metadata={"wsteer": Delta.of_tensors(tensors, "activation").info()})
        return path


TRAIT = {"instruction": [{"pos": "Agree.", "neg": "Disagree."}], "questions": ["A?", "B?"], "eval_prompt": "{question}"}
# arguments, without -o, with which each command succeeds quickly
ARGUMENTS: dict[str, Callable[[Inputs], list]] = {
    "generate": lambda i: [i.tiny, i.text("trait.json", json.dumps(TRAIT)), "--samples", 1, "--max-new-tokens", 4],
    "finetune": lambda i: [i.tiny, i.chats[0], "--max-steps", 2, "--rank", 2],
    "diff": lambda i: [*i.adapters],
    "steer": lambda i: [i.tiny, i.delta(), "--k", "-1.5"],
    "actvec": lambda i: [i.tiny, *i.chats],
    "eval": lambda i: [i.tiny, "--delta", i.delta(), "--k", "0,1", "--task", "agreement", "--limit", 2],
    "monitor": lambda i: [i.delta()],
    "report": lambda i: [lm_run(i.folder / "lm", {"pretrained": "m"}), lm_run(i.folder / "lm1", {"peft": "sweep/k1"})],
    "demo": lambda i: ["--model", i.tiny],
}
COMMANDS = list(ARGUMENTS)
QUICK = [name for name in COMMANDS if name != "demo"]
Arguments = Callable[[str], list[str]]


def leftovers(folder: Path) -> list[str]:
    """The names of temporary files and folders in `folder`."""
    return [path.name for path in folder.iterdir() if path.name.endswith((".partial", ".old"))]
