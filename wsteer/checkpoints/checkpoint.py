"""A model on disk or on the Hub: find its folder, list its tensors from the file headers, read ranges of rows."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wsteer.checkpoints.contents import check_folder
from wsteer.checkpoints.ties import tied_names, ties
from wsteer.errors import WsteerError, reason
from wsteer.files.hub import fetch_repository
from wsteer.files.provenance import in_utf8
from wsteer.files.tensors import TensorEntry, equal_tensors, read_header, read_pickled_header
from wsteer.files.text import read_json

INDEX = "model.safetensors.index.json"
PICKLED_INDEX = "pytorch_model.bin.index.json"
# names that models give their input embedding and their head, for names whose checkpoint is not at hand
EMBEDDINGS = (
    *("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight"),
    *("backbone.embeddings.weight", "rwkv.embeddings.weight", "tokens_embed.weight", "transformer.w.weight"),
)
HEADS = ("lm_head.weight", "embed_out.weight", "output_projection.weight")
# embeddings of models that call their head lm_head; of others transformers is asked
COMMON = re.compile(
    r"((model|language_model|text_model|transformer)\.)*(embed_tokens|wte|word_embeddings)\.weight|"
    r"gpt_neox\.embed_in\.weight|backbone\.embeddings\.weight"
)
COMMON_HEAD = re.compile(r"((model|language_model|text_model)\.)*(lm_head|embed_out)\.weight")
# how the parts of a model beside its language model are called, in configs and in names of parameters
TOWER = re.compile(r"(?:^|[._])(?:vis|vit|image|img|video|audio|speech|sound)", re.IGNORECASE)
LARGEST_NUMBER = 1 << 31  # of blocks, heads, widths
# how delta files and records name an unknown base
UNKNOWN_BASE: dict[str, str | None] = {"name": None, "revision": None, "fingerprint": None, "towers": None}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A Hugging Face checkpoint folder, known from its headers alone."""

    folder: Path
    name: str
    revision: str | None
    tensors: dict[str, TensorEntry]

    @cached_property
    def config(self) -> dict:
        """The contents of config.json."""
        return read_json(self.folder / "config.json")

    @cached_property
    def shards(self) -> list[Path]:
        """The weight files, in name order."""
        return sorted({entry.file for entry in self.tensors.values()})

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the sorted (name, shape) of the tensors: equal for every fine-tune of one architecture."""
        names = sorted((name, list(entry.shape)) for name, entry in self.tensors.items())
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    @property
    def identity(self) -> dict[str, str | None]:
        """How delta files and records name the checkpoint; they name an unknown one by `UNKNOWN_BASE`."""
        known = {"name": self.name, "revision": self.revision, "fingerprint": self.fingerprint}
        return {**known, "towers": ", ".join(self.towers) or None}

    @cached_property
    def towers(self) -> tuple[str, ...]:
        """The parts that the config describes beside the language model, as `vision`; none for a model of text."""
        if not (self.folder / "config.json").exists():
            return ()
        parts = {
            key.removesuffix("_config")
            for key, value in self.config.items()
            if key.endswith("_config") and isinstance(value, dict) and ("model_type" in value or TOWER.search(key))
        }
        return tuple(sorted(parts - {"text", "quantization"}))

    def input_entry(self, role: str) -> dict[str, object]:
        """The checkpoint's entry, as an input in this role, in a record."""
        return {"role": role, **self.identity}

    def parameters(self) -> dict[str, TensorEntry]:
        """The tensors without a stored copy of the embedding, as which loading takes a head that is tied to it."""
        copy = self.tied[1] if self.tied is not None else None
        return {name: entry for name, entry in self.tensors.items() if name != copy}

    @property
    def text_settings(self) -> dict:
        """The config of the language model: its text part if it has one."""
        text = self.config.get("text_config")
        return text if isinstance(text, dict) else self.config

    def config_number(self, *keys: str) -> int:
        """The config's first positive integer among these keys, in its text part if it has one; else a WsteerError."""
        settings = self.text_settings
        for key in keys:
            if type(settings.get(key)) is int and 0 < settings[key] < LARGEST_NUMBER:
                return settings[key]
        raise WsteerError(f"{self.folder / 'config.json'} does not tell {keys[0]}; download the model again")

    @cached_property
    def tied(self) -> tuple[str, str] | None:
        """The names of the embedding and of the head that shares its weight; None where each has its own.

        The first is stored: it is the head's name if the files have that alone.

        As transformers 5 loads (`tie_weights` in its modeling_utils.py): a head that is not stored is the embedding; a
        stored one is tied only if the config says so and its values are the embedding's, else it is a parameter of its
        own, whatever the config says. The values are compared first: they mostly differ in the first rows, and what the
        config says may have to be asked of its class.
        """
        embedding, head = self.ends
        if embedding is None or head is None or not {embedding, head} & self.tensors.keys():
            return None
        if head not in self.tensors:
            return embedding, head
        if embedding not in self.tensors:
            return head, embedding
        copied = equal_tensors(self.tensors[embedding], self.tensors[head])
        return (embedding, head) if copied and ties(self.config) else None

    @cached_property
    def known_names(self) -> dict[str, None]:
        """What a change may name: the stored tensors, and an end that is not stored since it is the other."""
        names = dict.fromkeys(self.tensors)
        both = all(end in names for end in self.ends)
        return names if both else {**names, **dict.fromkeys(self.tied or ())}

    @cached_property
    def ends(self) -> tuple[str | None, str | None]:
        """The names of the embedding and of the head, stored or not; None for one that the model lacks."""
        embedding = next(filter(COMMON.fullmatch, self.tensors), None)
        head = next(filter(COMMON_HEAD.fullmatch, self.tensors), None)
        if embedding is None and (self.folder / "config.json").exists() and self.config.get("model_type"):
            embedding, own_head = tied_names(self.config, self.tensors)
            head = own_head or head
        embedding = embedding or next((name for name in self.tensors if name.endswith(EMBEDDINGS)), None)
        head = head or next((name for name in self.tensors if name.endswith(HEADS)), None)
        return embedding, head or (HEADS[0] if embedding is not None else None)

    @property
    def stored_head(self) -> str | None:
        """The head's name in the files; None if it is not stored."""
        head = self.ends[1]
        return head if head in self.tensors else None


def fetch(reference: str | Path, local_only: bool = False) -> tuple[Path, str | None]:
    """The local folder of a model or adapter and, for one from the Hub, its resolved commit.

    `reference` is a folder, `org/name` or `org/name@revision` on the Hub; `local_only` looks only in the Hub's cache.
    """
    try:
        path = Path(os.path.expanduser(reference))
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, or an unknown user's home: a base may have any name
        raise WsteerError(f"{str(reference)[:200]!r} is no path; give a model folder or a Hub id (org/name)") from None
    if is_folder:
        check_folder(path)
        return path, None
    if exists:
        raise WsteerError(f"{reference} is a file; a model folder or a Hub id (org/name) is needed")
    name, _, revision = str(reference).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise WsteerError(f"{reference} does not exist; give a model folder or a Hub id (org/name)")
    # not fetched: code, which is never needed, and weights in other formats where there are safetensors
    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        folder = fetch_repository(name, revision or None, patterns, local_only)
        if not any(folder.glob("*.safetensors")):
            pickled = [*patterns, "pytorch_model*.bin", "adapter_model.bin"]
            folder = fetch_repository(name, folder.name, pickled, local_only)
    except (OSError, ValueError) as error:  # huggingface_hub's own errors derive from these two
        raise WsteerError(f"{reference} is neither a folder nor to be had from the Hub: {reason(error)}") from error
    check_folder(folder)
    return folder, folder.name


def open_checkpoint(reference: str | Path, local_only: bool = False) -> Checkpoint:
    """The checkpoint that `reference` names, its headers read and checked."""
    folder, revision = fetch(reference, local_only)
    name = hub_name(reference) or local_name(reference)
    tensors: dict[str, TensorEntry] = {}
    for shard in find_shards(folder):
        entries = read_pickled_header(shard) if shard.suffix == ".bin" else read_header(shard)[0]
        for tensor_name in entries.keys() & tensors.keys():
            raise WsteerError(
                f"{folder}: {tensor_name!r} stands in two files, {tensors[tensor_name].file.name} and {shard.name}"
            )
        tensors.update(entries)
    return Checkpoint(folder, name, revision, tensors)


def local_checkpoint(reference: str) -> Checkpoint | None:
    """The checkpoint that `reference` names if it is on this machine (a folder, or in the Hub's cache), else None."""
    try:
        return open_checkpoint(reference, local_only=True)
    except WsteerError:
        return None


def hub_name(reference: str | Path) -> str | None:
    """The `org/name` of a reference to the Hub, without its revision; None for a folder."""
    return None if Path(os.path.expanduser(reference)).is_dir() else str(reference).partition("@")[0]


def local_name(reference: str | Path) -> str:
    """A folder's name in records: the path as given if it is relative and ends in a name, else its last part."""
    try:
        path = Path(os.path.expanduser(reference))
        return in_utf8(str(path) if not path.is_absolute() and path.name not in ("", "..") else path.resolve().name)
    except (OSError, RuntimeError, ValueError):  # not a path: an adapter may give its base any name
        return Path(reference).name


def find_shards(folder: Path) -> list[Path]:
    """The files that hold the model in `folder`, found as transformers does; safetensors before PyTorch's."""
    for index, single, pattern in (
        (INDEX, "model.safetensors", "model-*-of-*.safetensors"),
        (PICKLED_INDEX, "pytorch_model.bin", "pytorch_model-*-of-*.bin"),
    ):
        if (folder / single).exists():  # before an index: saving over a sharded model leaves the old one
            return [folder / single]
        if (folder / index).exists():
            return _indexed_shards(folder, index)
        if shards := sorted(folder.glob(pattern)):
            return shards
    if (folder / "adapter_config.json").exists():
        raise WsteerError(
            f"{folder} is an adapter, and a whole model is needed; write it first: wsteer steer BASE {folder} --k 1"
        )
    raise WsteerError(f"{folder} holds no model.safetensors; save the model with save_pretrained first")


def _indexed_shards(folder: Path, index: str) -> list[Path]:
    weight_map = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WsteerError(f"{folder / index} has no weight_map; download the model again")
    names = list(weight_map.values())
    for name in names:
        # the index is input: a name that climbs out of the folder must not be followed
        plain = isinstance(name, str) and re.fullmatch(r"[\w.-][\w. -]*", name) and len(name.encode()) < 256
        if not plain or not name.strip("."):
            raise WsteerError(f"{folder / index}: its weight_map names {name!r}, which is not a plain file name")
    for name in sorted(set(names)):
        if not (folder / name).is_file():
            raise WsteerError(f"{folder / name} is missing, though {index} names it; download the model again")
    return [folder / name for name in sorted(set(names))]


def base_entry(parameter: str, base: Checkpoint) -> TensorEntry:
    """The base's tensor for `parameter`; for one of head and embedding that is not stored, the other's."""
    if parameter not in base.tensors and base.tied is not None and parameter == base.tied[1]:
        return base.tensors[base.tied[0]]
    return base.tensors[parameter]
