"""Files of others, as they come and spoilt."""

import json
from pathlib import Path


def framed(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file; `length` is what it gives as the header's, if not the true one."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def edited(path: Path, **changes: object) -> None:
    """Change values of a JSON file, which need not exist."""
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**value, **changes}))
