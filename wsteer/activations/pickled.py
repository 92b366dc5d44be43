"""Activation vectors in PyTorch's `.pt` files: persona-vectors' tensor, and lm-evaluation-harness's `steered`.

persona-vectors: a tensor [blocks + 1, hidden] like transformers' hidden_states. Row 0 is the embedding's, row l the
output of block l - 1, but for the last row, which is taken after the final norm (notes: activations A1).
lm-evaluation-harness: {"layers.19": {"steering_vector": v, "steering_coefficient": k, "action": "add", ...}}, where
the key names a module inside of the base model, to whose output k·v is added.
"""

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from wsteer.activations.vectors import MOST_BLOCKS, MOST_BYTES, Vectors, checked, kept_facts, without_zeros
from wsteer.checkpoints.checkpoint import TOWER
from wsteer.deltas.choosing import ranges
from wsteer.errors import WsteerError
from wsteer.files.opening import read_whole
from wsteer.files.provenance import EXPORT_MEMBERS
from wsteer.files.tensors import unpickled
from wsteer.files.text import parse_json

LARGEST = 3.4e38  # of float32, about
AGAIN = "save a plain tensor [blocks + 1, hidden], or lm-eval's dictionary of steering vectors, with torch.save"
HOOKPOINT = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*\.(0|[1-9][0-9]{0,3})")  # a path to a block: one number, last


def read_pickled(path: Path) -> Vectors:
    """The vectors of a `.pt` file of one of these two kinds; nothing in the file is run."""
    content = read_whole(path, MOST_BYTES)
    stored = unpickled(path, content, "cpu", AGAIN)
    facts = _facts(content)
    if isinstance(stored, Tensor):
        return _of_rows(path, stored, facts)
    if isinstance(stored, dict) and stored and all(isinstance(value, dict) for value in stored.values()):
        return _of_hookpoints(path, stored, facts or {})
    raise WsteerError(f"{path} holds a {type(stored).__name__}, and no activation vectors that wsteer knows; {AGAIN}")


def _of_rows(path: Path, rows: Tensor, facts: Mapping[str, str] | None) -> Vectors:
    dense = rows.layout == torch.strided and rows.dim() == 2
    if not dense or not 2 < len(rows) <= MOST_BLOCKS or rows.numel() > MOST_BYTES // 4:
        raise WsteerError(
            f"{path} holds a tensor {list(rows.shape)}, and persona-vectors' is [blocks + 1, hidden]; stack the "
            "vectors by layer, after a row of zeros"
        )
    blocks = len(rows) - 1
    count = blocks - 1 if facts is None else blocks  # ours have the output before the norm in the last row
    vectors = {block: checked(path, f"row {block + 1}", rows[block + 1]) for block in range(count)}
    found = without_zeros(path, vectors)
    last = max(found)
    left_out = "" if facts is not None else f", row {blocks} (after the final norm: no block's output)"
    meaning = f"row {last + 1} -> block {last} (the paper's layer {last + 1}); left out: row 0 (embedding){left_out}"
    if zeros := vectors.keys() - found.keys():
        meaning += f", blocks {ranges(zeros)} (zeros)"
    return Vectors("persona-vectors", found, f"{len(rows)} rows: {meaning}", facts or {}, {"model_blocks": blocks})


def _of_hookpoints(path: Path, stored: Mapping[object, Mapping], facts: Mapping[str, str]) -> Vectors:
    by_block: dict[int, Tensor] = {}
    told: dict[int, str] = {}
    for hookpoint, info in stored.items():
        match = HOOKPOINT.fullmatch(hookpoint) if isinstance(hookpoint, str) else None
        if match is None or TOWER.search(match[0]):
            raise WsteerError(
                f"{path}: {str(hookpoint)[:80]!r} is not the output of a decoder block, as 'layers.19', and a delta "
                "file holds these alone"
            )
        where, block = f"{match[0]!r}", int(match[1])
        if block in by_block:
            raise WsteerError(f"{path} names block {block} twice; keep one of them")
        if info.get("action") != "add" or info.get("bias") is not None or info.get("head_index") is not None:
            raise WsteerError(f"{path}: {where} is no plain addition to a block's output; only action 'add' is read")
        coefficient = _number(path, where, info.get("steering_coefficient", 1.0))
        vector = checked(path, f"the vector of {where}", info.get("steering_vector"))
        by_block[block] = checked(path, f"the vector of {where}, times {coefficient:g}", vector * coefficient)
        told[block] = f"{match[0]} -> block {block} (the paper's layer {block + 1}), its coefficient {coefficient:g}"
    found = without_zeros(path, by_block)
    count = f"{len(found)} hookpoints" if len(found) > 1 else "1 hookpoint"
    return Vectors("lm-eval", found, f"{count}: {told[max(found)]} is folded in", facts)


def _number(path: Path, where: str, value: object) -> float:
    if isinstance(value, Tensor) and value.numel() == 1 and value.layout == torch.strided and not value.is_complex():
        value = value.item()
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < LARGEST:
        raise WsteerError(f"{path}: the steering_coefficient of {where} is no finite number; write one")
    return float(value)


def rows_bytes(by_block: Mapping[int, Tensor], blocks: int, facts: Mapping[str, str]) -> bytes:
    """persona-vectors' file of a model of so many blocks: row b + 1 is block b's, rows without a vector are zero."""
    size = len(next(iter(by_block.values())))
    rows = torch.zeros(blocks + 1, size)
    for block, vector in by_block.items():
        rows[block + 1] = vector
    return _saved(rows, {**facts, "index": "row l is the output of decoder block l - 1, counted from 0"})


def hookpoint_bytes(
    by_block: Mapping[int, Tensor], k: float, hookpoints: Sequence[str], facts: Mapping[str, str]
) -> bytes:
    """lm-evaluation-harness's `steered` file, which adds k times each vector; `hookpoints` name each block's module."""
    steered = {
        hookpoints[block]: {
            "steering_vector": vector.clone(),
            "steering_coefficient": k,
            "action": "add",
            "bias": None,
            "head_index": None,
        }
        for block, vector in sorted(by_block.items())
    }
    return _saved(steered, {**facts, "index": "the key is a module of the base model"})


def _saved(value: object, facts: Mapping[str, str]) -> bytes:
    """What torch.save writes, with a record beside it in the archive, which torch.load passes over."""
    content = io.BytesIO()
    torch.save(value, content)
    with zipfile.ZipFile(content, "a") as archive:  # ZipInfo's own date is a fixed one
        archive.writestr(zipfile.ZipInfo(EXPORT_MEMBERS[1]), json.dumps(dict(facts), sort_keys=True))
    return content.getvalue()


def _facts(content: bytes) -> dict[str, str] | None:
    """What wsteer put beside the vectors when it exported them; None for a file of others."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if EXPORT_MEMBERS[1] not in archive.namelist():
            return None
        try:
            found = parse_json(archive.read(EXPORT_MEMBERS[1]).decode())
        except (ValueError, zipfile.BadZipFile):
            return None
    return kept_facts(found) if isinstance(found, dict) else None
