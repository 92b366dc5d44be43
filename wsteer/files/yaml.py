"""YAML files, read with bounds: their aliases can unfold into more than memory holds."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import yaml

from wsteer.errors import WsteerError
from wsteer.files.limits import bounded
from wsteer.files.text import read_text

MOST_BYTES = 1_000_000
MOST_NODES = 100_000  # aliases written out


def read_yaml(path: Path) -> object:
    """The value of a YAML file; a WsteerError as from `yaml_nodes`."""
    root = yaml_nodes(path)
    with _parsing(path):
        return None if root is None else yaml.SafeLoader("").construct_document(root)


def yaml_nodes(path: Path) -> yaml.Node | None:
    """The parts of a YAML file, whose scalars are texts; None for an empty file.

    Raises WsteerError if it is missing or broken, if a key stands twice, or if its aliases unfold into too much.
    """
    text = read_text(path, MOST_BYTES)
    with _parsing(path):
        root = yaml.SafeLoader(text).get_single_node()
        if root is not None and _unfolded(root, {}) > MOST_NODES:
            raise WsteerError(f"{path} unfolds into more than {MOST_NODES} values; write it without aliases")
        if root is not None and (twice := _named_twice(root)) is not None:
            raise WsteerError(f"{path}:{twice.start_mark.line + 1}: {twice.value[:80]} is given twice; keep one")
        return root


def _named_twice(root: yaml.Node) -> yaml.ScalarNode | None:
    """The first key that its table has already; YAML's reader would keep the last value, and say nothing."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        keys: set[tuple[str, str]] = set()
        for key, _ in pairs:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    return key
                keys.add((key.tag, key.value))
        inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in pairs for part in pair]
        for part in inner:
            if id(part) not in seen:  # an alias is the same node again
                seen.add(id(part))
                waiting.append(part)
    return None


@contextlib.contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Turn what PyYAML raises in the `with` body into one line; time and memory are limited."""
    try:
        with bounded(f"reading {path}"):
            yield
    except WsteerError:
        raise
    except Exception as error:  # its constructors raise anything: `!!timestamp x` an AttributeError
        raise WsteerError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _unfolded(node: yaml.Node, sizes: dict[int, float]) -> float:
    """The number of values that a node becomes where each alias is written out; infinite if it holds itself."""
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")  # until it is known
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for each in inner for part in (each if isinstance(each, tuple) else (each,))]
        sizes[id(node)] = 1 + sum(_unfolded(part, sizes) for part in parts)
    return sizes[id(node)]
