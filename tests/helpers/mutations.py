"""Sound files changed at random places, by hypothesis: JSON values, bytes, safetensors headers, pickles."""

import contextlib
import copy
import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hypothesis import strategies as st

from wsteer.errors import WsteerError

# values that a parser may not expect: other types, sizes beyond 64 bits, names that climb, broken regexes and text
ODD = [
    *[None, True, False, 0, -1, 1, 2, 3, 7, 255, 2**31, 2**40, 2**63, -(2**63) - 1, 10**30, 10**4000],
    *[0.5, -0.0, 2.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")],
    *["", "x", "..", "../x", "a/b", "/etc/passwd", "~nobody/x", "a/b@c", "[", "(?P<", "*", "F8_E4M3", "F4", "I64"],
    *["\0", "\ud800", "é\u2028\n\x1b[2J", "x" * 5000, "weight", "lora_A", "q_proj", "pissa", "kasa", "IA3"],
    *[[], [None], [[0]], [0, 4], [2**70], [2**40, 2**40], ["q_proj"], {}, {"": 0}, {"q_proj": "2"}, {"q_proj": [1]}],
]
# regexes that do not compile, or compile to much; those that hang cost 5 s a case and have rows of their own
REGEXES = [
    "[",
    "(?P<x>",
    "a{99999999999}",
    "(" * 200 + ")" * 200,
    "(?:a{1000}){1000}",
    "\\1",
    "(?i",
    ".*",
    "",
    "x|" * 999,
]
# what stands at the beginning of a text, and how it is encoded
ENCODINGS: list[Callable[[bytes], bytes]] = [
    lambda content: b"\xef\xbb\xbf" + content,
    lambda content: content.replace(b"\n", b"\r\n"),
    lambda content: content.replace(b"\n", b"\r"),
    gzip.compress,
    lambda content: gzip.compress(content)[:-5],
    lambda content: content.decode(errors="replace").encode("utf-16"),
    lambda content: content.decode(errors="replace").encode("utf-32-le"),
    lambda content: content + b"\0",
    lambda content: b"\x1f\x8b" + content,
]
# numbers and nesting that some parser cannot hold
BOMBS = [b"9" * 5000, b"1e999", b"[" * 20_000, b'{"a":' * 20_000, b"-Infinity", b"[" + b"[]," * 9_999 + b"[]]"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ODD_VALUE = st.sampled_from(range(len(ODD))).map(lambda index: copy.deepcopy(ODD[index])) | JSON
NAME = st.sampled_from([value for value in ODD if isinstance(value, str)]) | st.text(max_size=12)


def places(value: object) -> Iterator[tuple[object, object]]:
    """Every (container, key or index) inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from places(inner)


@st.composite
def mutated(draw: st.DrawFn, value: object) -> object:
    """A JSON value changed at one to three places."""
    root = [copy.deepcopy(value)]
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(root[0])) or [(root, 0)]
        if draw(st.integers(0, 30)) == 0:
            found = [(root, 0)]
        container, key = draw(st.sampled_from(found))
        action = draw(st.sampled_from(["replace", "replace", "replace", "drop", "rename", "wrap", "repeat", "copy"]))
        if action == "replace":
            container[key] = draw(ODD_VALUE)
        elif action == "wrap":
            container[key] = draw(st.sampled_from([lambda v: [v], lambda v: {"x": v}, str]))(container[key])
        elif action == "copy":
            source, name = draw(st.sampled_from(found))
            container[key] = copy.deepcopy(source[name])
        elif action == "repeat" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif action == "repeat" or (action == "rename" and isinstance(container, dict)):
            inner = container[key] if action == "repeat" else container.pop(key)
            container[draw(NAME | st.just(f"{key}.x") | st.just(str(key)[:-1]))] = copy.deepcopy(inner)
        elif container is not root:
            del container[key]
    return root[0]


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes changed at one to four places."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        cut = draw(st.integers(0, 8))
        changed[at : at + cut] = draw(st.binary(max_size=8))
    return bytes(changed[: draw(st.integers(0, len(changed)))] if draw(st.integers(0, 9)) == 0 else changed)


@st.composite
def documents(draw: st.DrawFn, value: object) -> bytes:
    """JSON text near to that of `value`: sound JSON most of the time, else with damaged bytes, or nothing like it."""
    kind = draw(st.integers(0, 19))
    if kind == 0:
        return draw(st.binary(max_size=64))
    if kind <= 3:
        return draw(mutated_bytes(json.dumps(value).encode()))
    return json.dumps(draw(mutated(value))).encode()


@st.composite
def texts(draw: st.DrawFn, whole: bytes) -> bytes:
    """A text in another encoding, with a bomb in place of a part of it, or both."""
    if draw(st.booleans()):
        at = draw(st.integers(0, len(whole)))
        whole = whole[:at] + draw(st.sampled_from(BOMBS)) + whole[at + draw(st.integers(0, 8)) :]
    return draw(st.sampled_from(ENCODINGS))(whole) if draw(st.integers(0, 3)) else whole


@contextlib.contextmanager
def refused_or_fine() -> Iterator[None]:
    """Nothing but WsteerError may come out, and it says something."""
    try:
        yield
    except WsteerError as error:
        assert str(error).strip()


def split(path: Path) -> tuple[dict, bytes]:
    """The header and the data of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


OPCODES = [pickle.MARK, pickle.NONE * 3, pickle.EMPTY_DICT, pickle.REDUCE, b"c", pickle.BINGET + b"\xff"]


@st.composite
def damaged_pickle(draw: st.DrawFn, whole: bytes) -> bytes:
    """A PyTorch file with bytes changed: anywhere, or in its pickle, packed soundly again."""
    if draw(st.integers(0, 3)) == 0:
        return draw(mutated_bytes(whole))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as before, zipfile.ZipFile(buffer, "w") as after:
        for record in before.infolist():
            content = before.read(record)
            if record.filename.endswith("data.pkl"):
                content = (
                    draw(mutated_bytes(content)) if draw(st.booleans()) else draw(st.sampled_from(OPCODES)) + content
                )
            after.writestr(record.filename, content)
    return buffer.getvalue()
