"""Files that hold no activation vectors, are damaged, made to harm or of another model; options that do not fit."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.command import Cli
from tests.helpers.tiny import save_model
from tests.helpers.vectors import by_block, gguf_file, rows_file, steered_file
from wsteer.activations.actvec import actvec
from wsteer.activations.convert import convert
from wsteer.activations.exports import Export
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError


class Harmful:
    """An object whose pickle runs code."""

    def __reduce__(self) -> tuple:
        return (open, ("harm", "w"))


def saved(value: object) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


def edited(find: bytes, replace: bytes) -> Callable[[Path], None]:
    """A sound GGUF file with some of its bytes replaced."""

    def make(path: Path) -> None:
        gguf_file(path, {"direction.1": numpy.ones(32, "float32"), "direction.2": numpy.ones(32, "float32")})
        content = path.read_bytes()
        assert find in content
        path.write_bytes(content.replace(find, replace))

    return make


def directions(**arrays: numpy.ndarray) -> Callable[[Path], object]:
    return lambda path: gguf_file(path, {name.replace("_", "."): each for name, each in arrays.items()})


ROWS = torch.ones(4, 32)
INFO = {"steering_vector": torch.ones(32), "steering_coefficient": 1.0, "action": "add", "bias": None}
ONES = numpy.ones(32, "float32")
DIMS = (1).to_bytes(4, "little") + (32).to_bytes(8, "little")
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle that runs code": (saved(Harmful()), "holds more than tensors"),
    "a state dict": (saved({"x": torch.ones(2)}), "holds a dict, and no activation vectors"),
    "one vector": (saved(torch.ones(32)), r"a tensor \[32\], and persona-vectors' is \[blocks \+ 1, hidden\]"),
    "two rows": (saved(torch.ones(2, 32)), r"a tensor \[2, 32\]"),
    "a huge shape": (saved(torch.ones(1).expand(4, 10**10)), r"a tensor \[4, 10000000000\]"),
    "whole numbers": (saved(ROWS.long()), "row 1 is no dense tensor of floating-point numbers"),
    "NaN": (saved(ROWS * float("nan")), "row 1 holds NaN or infinity"),
    "beyond float32": (saved(ROWS.double() * 1e300), "row 1 holds NaN or infinity"),
    "zeros": (saved(ROWS * 0), "holds no vector that changes anything"),
    "sparse rows": (saved(ROWS.to_sparse()), "persona-vectors' is|no dense tensor|holds more than tensors"),
    "clamp": (saved({"layers.1": {**INFO, "action": "clamp"}}), "only action 'add' is read"),
    "a head": (saved({"layers.1": {**INFO, "head_index": 2}}), "only action 'add' is read"),
    "no block": (saved({"layers.1.mlp": INFO}), "'layers.1.mlp' is not the output of a decoder block"),
    "a tower": (saved({"vision_tower.layers.1": INFO}), "is not the output of a decoder block"),
    "an expert": (saved({"layers.1.experts.2": INFO}), "is not the output of a decoder block"),
    "a block twice": (saved({"layers.1": INFO, "model.layers.1": INFO}), "names block 1 twice"),
    "a coefficient of text": (saved({"layers.1": {**INFO, "steering_coefficient": "2"}}), "is no finite number"),
    "a huge coefficient": (saved({"layers.1": {**INFO, "steering_coefficient": 10**400}}), "is no finite number"),
    "no vector": (saved({"layers.1": {**INFO, "steering_vector": None}}), "is no dense tensor"),
    "a matrix": (saved({"layers.1": {**INFO, "steering_vector": ROWS}}), r"has shape \[4, 32\], and one vector"),
    "sizes that differ": (
        saved({"layers.1": INFO, "layers.2": {**INFO, "steering_vector": torch.ones(16)}}),
        "vectors of 16 and of 32 numbers",
    ),
    "an old pickle": (
        lambda path: torch.save(ROWS, path, _use_new_zipfile_serialization=False),
        "is none of the files",
    ),
    "a text": (lambda path: path.write_text("no vectors"), "is none of the files that --import reads"),
    "nothing": (lambda path: path.write_bytes(b""), "is none of the files that --import reads"),
    "a csv of features": (
        lambda path: path.write_text("loader,action,sparse_model,hookpoint,feature_index,steering_coefficient\n"),
        "names features of sparse autoencoders",
    ),
    "a zip": (lambda path: path.write_bytes(b"PK\3\4" + bytes(100)), "is no PyTorch file"),
    "a delta of weights": (
        lambda path: Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(path),
        "is a change of weights, no activation vectors",
    ),
    "a gguf of a model": (lambda path: gguf_file(path, {"direction.1": ONES}, "llama"), "is of the kind 'llama'"),
    "no direction": (directions(), "holds no direction"),
    "another tensor": (directions(direction_1=ONES, weight=ONES), "the tensor 'weight' is no direction.N"),
    "a second spelling": (directions(direction_01=ONES), "the tensor 'direction.01' is no direction.N"),
    "half precision": (directions(direction_1=ONES.astype("float16")), "direction.1 is F16, and llama.cpp takes F32"),
    "a matrix of directions": (
        directions(direction_1=numpy.ones((2, 32), "float32")),
        r"direction.1 has shape \[32, 2\]",
    ),
    "NaN directions": (directions(direction_1=ONES * numpy.nan), "direction.1 holds NaN or infinity"),
    "directions of two sizes": (directions(direction_1=ONES, direction_2=ONES[:16]), "vectors of 16 and of 32 numbers"),
    "a direction twice": (edited(b"direction.2", b"direction.1"), "is damaged.*duplicated tensor"),
    "a huge direction": (edited(DIMS, DIMS[:4] + (1 << 61).to_bytes(8, "little")), "is damaged"),
    "a huge count of keys": (edited((3).to_bytes(8, "little"), (1 << 62).to_bytes(8, "little")), "is damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_file_of_vectors_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, says = REFUSED[name]
    make(tmp_path / "given")
    with pytest.raises(WsteerError, match=says):
        convert(tmp_path / "given", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "steered", "gguf", "delta"])
def test_a_truncated_file_is_one_line(tmp_path: Path, vectors: Path, kind: str) -> None:
    path = tmp_path / "given"
    if kind == "gguf":
        gguf_file(path, {"direction.1": ONES, "direction.2": ONES})
    elif kind == "delta":
        path.write_bytes(vectors.read_bytes())
    else:
        (rows_file if kind == "rows" else steered_file)(path)
    content = path.read_bytes()
    for length in range(0, len(content) - 1, max(1, len(content) // 60)):
        path.write_bytes(content[:length])
        with pytest.raises(WsteerError) as raised:
            convert(path, tmp_path / "out")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"blocks.0": torch.ones(4), "blocks.1": torch.ones(8)}, "are of no model"),
        ({"blocks.0": torch.ones(4, 4)}, "are of no model"),
        ({"blocks.999999999": torch.ones(4)}, "is of no block that a model has"),
    ],
)
def test_a_delta_that_no_model_has_is_not_exported(tmp_path: Path, tensors: dict, says: str) -> None:
    save_file(tensors, tmp_path / "a", metadata={"wsteer": Delta.of_tensors(tensors, "activation").info()})
    for name in ("v.gguf", "v.pt"):
        with pytest.raises(WsteerError, match=says):
            convert(tmp_path / "a", export_to=Export.of(tmp_path / name))
        assert not (tmp_path / name).exists()


def test_a_number_of_blocks_that_no_model_has_is_refused(tmp_path: Path) -> None:
    delta = replace(Delta.of_tensors({"blocks.0": torch.ones(4)}, "activation"), options={"model_blocks": 10**12})
    delta.save(tmp_path / "a")
    with pytest.raises(WsteerError, match=r"would need 1000000000000 rows.*--base"):
        convert(tmp_path / "a", export_to=Export.of(tmp_path / "v.pt"))


def test_vectors_of_another_model_are_refused(tmp_path: Path, tiny: Path, vectors: Path) -> None:
    other = save_model(tmp_path / "other", num_hidden_layers=2)
    rows_file(tmp_path / "rows.pt", rows=5)
    three = gguf_file(tmp_path / "v.gguf", {f"direction.{n}": ONES for n in (1, 2, 3)})
    wide = gguf_file(tmp_path / "w.gguf", {"direction.1": numpy.ones(64, "float32")})
    for source, base, says in (
        (vectors, other, "have different bases; name the model it was made on"),
        (tmp_path / "rows.pt", tiny, "has rows for 4 blocks, and .* has 3"),
        (three, tiny, "direction.3 is of no block of .*, whose blocks are 0 to 2; .* --gguf-index generator"),
        (wide, tiny, r"blocks.1 \(64,\) does not fit a model of 3 blocks and 32 dimensions"),
    ):
        with pytest.raises(WsteerError, match=says):
            convert(source, tmp_path / "out", base=base)
    convert(three, tmp_path / "out", base=tiny, gguf_index="generator")
    assert by_block(tmp_path / "out").keys() == {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "MODEL: it is missing; or take vectors from a file by --import"),
        (["m"], "POS: it is missing"),
        (["m", "p", "n"], "--output: it is missing"),
        (["--import", "v"], "--output: give a delta file to write, or --export"),
        (["m", "--import", "v", "-o", "a"], "MODEL: it has no meaning with --import"),
        (["--import", "v", "-o", "a", "--device", "cpu"], "--device: it has no meaning with --import"),
        (["m", "p", "n", "-o", "a", "--base", "b"], "--base: it is for --import"),
        (["m", "p", "n", "-o", "a", "--gguf-index", "generator"], "--gguf-index: it is for --import"),
        (["m", "p", "n", "-o", "a", "--layers", "1"], "--layers: it is for --export"),
        (["--import", "v", "-o", "a", "--export-as", "lm-eval"], "--export-as: it is for --export"),
        (["--import", "v", "--export", "a.bin"], "a.bin: an export ends in .gguf"),
        (["--import", "v", "--export", "a.gguf", "--export-as", "lm-eval"], "a.gguf: an export ends in"),
        (["--import", "v", "--export", "a.pt", "--k", "2"], "--k is for lm-eval's files"),
        (["--import", "v", "--export", "a.pt", "--export-as", "lm-eval", "--k", "1,2"], "a file holds one k"),
    ],
)
def test_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, options: list, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("actvec", *options)
    assert ran.code == 2 and says in " ".join(ran.err.split())


def test_an_index_for_other_files_and_equal_outputs_are_refused(tmp_path: Path, vectors: Path) -> None:
    with pytest.raises(WsteerError, match="--gguf-index is for GGUF files"):
        convert(vectors, tmp_path / "b", gguf_index="generator")
    with pytest.raises(WsteerError, match="is named for the delta and for the export"):
        convert(vectors, tmp_path / "b.pt", export_to=Export.of(tmp_path / "b.pt"))
    with pytest.raises(WsteerError, match="nothing is to be written"):
        convert(vectors)
    with pytest.raises(WsteerError, match=r"--layers: the delta has nothing in \[7\]"):
        convert(vectors, tmp_path / "b", export_to=Export.of(tmp_path / "b.pt", layers=(7,)))
    with pytest.raises(WsteerError, match=r"llama\.cpp adds nothing at block 0"):
        convert(vectors, tmp_path / "b", export_to=Export.of(tmp_path / "b.gguf", layers=(0,)))
    assert not (tmp_path / "b").exists()


def test_a_coefficient_beyond_float32_is_refused(tmp_path: Path, vectors: Path) -> None:
    with pytest.raises(WsteerError, match=r"--k 1e\+39 times a vector is beyond the range of float32"):
        convert(vectors, export_to=Export.of(tmp_path / "v.pt", "lm-eval", [1], 1e39))
    assert not (tmp_path / "v.pt").exists()


def test_an_export_that_cannot_be_is_refused_before_the_model_is_loaded(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    (model / "tokenizer.json").unlink()  # loading it would say so
    for layers, says in ((None, "choose a block with --layers"), ([3], "it changes blocks 0 to 2")):
        with pytest.raises(WsteerError, match=says):
            actvec(model, *chats, tmp_path / "a", export_to=Export.of(tmp_path / "v.pt", "lm-eval", layers))
    assert not (tmp_path / "a").exists()
