"""Pairs of data sets, pos and neg, under names: those of a YAML file, or of folders that hold both sides."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD
from wsteer.files.yaml import yaml_nodes
from wsteer.training.finished import REPORTS
from wsteer.training.rows import Source, parse_source

SIDES = ("pos", "neg")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
RESERVED = (RECORD, REPORTS)  # files of the folder that gets the pairs
MOST_PAIRS = 1000
MOST_SOURCES = 1000  # of one side
SHOWN = 80  # characters of a value that a message shows
_EXAMPLE = "evil: {pos: evil/pos.jsonl, neg: evil/neg.jsonl}, or evil: FOLDER with these two files"


@dataclass(frozen=True)
class Pair:
    """A named pair: the data sets of each side, with their weights."""

    name: str
    pos: tuple[Source, ...]
    neg: tuple[Source, ...]

    @property
    def sides(self) -> dict[str, tuple[Source, ...]]:
        """The data of both sides, by the side's name."""
        return {"pos": self.pos, "neg": self.neg}


def pairs_of(given: Sequence[str | Path]) -> list[Pair]:
    """The pairs of one YAML file, or those of folders, each with pos.jsonl and neg.jsonl and named as its pair."""
    paths = [Path(each) for each in given]
    if len(paths) == 1 and not paths[0].is_dir():
        return read_pairs(paths[0])
    pairs: dict[str, Pair] = {}
    for path in paths:
        name = Path(os.path.abspath(path)).name
        if reason := _no_name(name):
            raise WsteerError(f"{path}: {reason}")
        if name.casefold() in pairs:
            raise WsteerError(f"{path}: another folder is named {name}, too; give them names in a YAML file of pairs")
        pairs[name.casefold()] = _of_folder("pairs", path, name)
    return list(pairs.values())


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a YAML file, `NAME: {pos: DATA, neg: DATA}` or `NAME: FOLDER` with pos.jsonl and neg.jsonl.

    DATA is what finetune takes, or a list of that: a file, beside the YAML file or else from the current folder, or a
    data set of the Hub, each with an optional weight. A name becomes a folder, so that it must be safe as one.
    """
    root = yaml_nodes(path)
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise WsteerError(f"{path} names no pairs; write {_EXAMPLE}")
    if len(root.value) > MOST_PAIRS:
        raise WsteerError(f"{path} names {len(root.value)} pairs, and {MOST_PAIRS} are the most; split it")
    pairs: dict[str, Pair] = {}
    for key, node in root.value:
        name = _name(path, key)
        if name.casefold() in pairs:
            raise WsteerError(f"{path}:{key.start_mark.line + 1}: {name} differs from another name in case alone")
        pairs[name.casefold()] = _pair(path, name, node)
    return list(pairs.values())


def _name(path: Path, key: yaml.Node) -> str:
    name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
    if reason := _no_name(name):
        raise WsteerError(f"{path}:{key.start_mark.line + 1}: {reason}")
    return name


def _no_name(name: str) -> str:
    """Why a pair cannot have this name; empty if it can."""
    if NAME.fullmatch(name) and name.casefold() not in RESERVED:
        return ""
    return (
        f"{name[:SHOWN]!r} cannot name a pair, since a folder gets the name; use letters, digits, '_', '-' and '.', up "
        f"to 100, the first a letter, a digit or '_', and none of {', '.join(RESERVED)}"
    )


def _pair(path: Path, name: str, node: yaml.Node) -> Pair:
    where = f"{path}:{node.start_mark.line + 1}: {name}"
    if isinstance(node, yaml.ScalarNode) and node.value:
        return _of_folder(where, Path(_beside(path, node.value)), name)
    if not isinstance(node, yaml.MappingNode):
        raise WsteerError(f"{where} must be a mapping with pos and neg, or a folder: {_EXAMPLE}")
    sides: dict[str, tuple[Source, ...]] = {}
    for key, value in node.value:
        side = str(key.value)[:SHOWN] if isinstance(key, yaml.ScalarNode) else "?"
        if side not in SIDES:
            raise WsteerError(f"{where}: unknown key {side!r}; the keys are pos and neg")
        sides[side] = _sources(path, f"{where}: {side}", value)
    for side in SIDES:
        if side not in sides:
            raise WsteerError(f"{where} lacks {side}; each pair has pos and neg: {_EXAMPLE}")
    return Pair(name, **sides)


def _of_folder(where: str, folder: Path, name: str) -> Pair:
    if not folder.is_dir():
        kind = "is a file: name one for each side" if folder.exists() else "does not exist"
        raise WsteerError(f"{where}: {str(folder)[:SHOWN]} {kind}; a pair is {_EXAMPLE}")
    for side in SIDES:
        if not (folder / f"{side}.jsonl").exists():
            raise WsteerError(
                f"{where}: {folder} has no {side}.jsonl, as folders of wsteer generate do; name its files"
            )
    pos, neg = ((Source(str(folder / f"{side}.jsonl")),) for side in SIDES)
    return Pair(name, pos, neg)


def _sources(path: Path, where: str, node: yaml.Node) -> tuple[Source, ...]:
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not nodes or len(nodes) > MOST_SOURCES:
        raise WsteerError(f"{where} lists {len(nodes)} data sets; give 1 to {MOST_SOURCES}")
    if not all(isinstance(each, yaml.ScalarNode) and each.value for each in nodes):
        raise WsteerError(f"{where} must be a data set or a list of them: JSONL files, or Hub data sets org/name:split")
    return tuple(_source(path, each.value) for each in nodes)


def _source(path: Path, text: str) -> Source:
    """One data set, as finetune's DATA; the weight is told from the name once it is known which file is meant."""
    beside = parse_source(_joined(path, text))
    return beside if os.path.exists(beside.path) else parse_source(os.path.expanduser(text))


def _beside(path: Path, text: str) -> str:
    """A path beside the YAML file where that exists, else as given: from the current folder."""
    beside = _joined(path, text)
    return beside if os.path.exists(beside) else os.path.expanduser(text)


def _joined(path: Path, text: str) -> str:
    return str(path.parent / os.path.expanduser(text))
