"""The picture of activation vectors over blocks, and the file that it becomes."""

from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from wsteer.activations.actvec import actvec
from wsteer.activations.picture import block_picture
from wsteer.errors import WsteerError
from wsteer.files.pictures import save_alone
from wsteer.files.provenance import is_picture


def test_panels_hold_norms_ratios_and_known_cosines() -> None:
    figure = block_picture("a", [1.0, 3.0, 0.0], [10.0, 20.0, 0.0], [0.5, None, 0.9], [0.2, 0.3, 0.4])
    above, middle, below = figure.axes[:3]
    assert [list(line.get_ydata()) for line in above.lines] == [[1.0, 3.0, 0.0], [10.0, 20.0, 0.0]]
    assert list(middle.lines[0].get_ydata())[:2] == [0.1, 0.15]
    cosines, _, shares = below.lines
    assert [list(cosines.get_xdata()), list(cosines.get_ydata())] == [[0, 2], [0.5, 0.9]]
    assert list(shares.get_ydata()) == [0.2, 0.3, 0.4]
    assert all(axes.get_ylabel() for axes in (above, middle, below)) and below.get_xlabel() == "decoder block"


@pytest.mark.parametrize("blocks", [1, 2, 126])
def test_pictures_of_any_number_of_blocks_have_plain_labels(tmp_path: Path, blocks: int) -> None:
    figure = block_picture("a", [2.0 + i for i in range(blocks)], [30.0 + i for i in range(blocks)], None)
    save_alone(figure, tmp_path / "a.svg", ".svg")
    text = (tmp_path / "a.svg").read_text()
    assert "mathdefault" not in text and "paper's layer" in text
    assert is_picture(tmp_path / "a.svg")


@pytest.mark.parametrize("most", [1.2, 9.0, 40.0, 600.0, 5e7])
def test_labels_of_the_norms_do_not_touch(most: float) -> None:
    figure = block_picture("a", [1.0, most / 2], [most / 3, most], None)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axis = figure.axes[0].yaxis
    labels = [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)]
    low, high = figure.axes[0].get_window_extent().intervaly
    boxes = [text.get_window_extent() for text in labels if text.get_text()]
    heights = sorted((box.y0, box.y1) for box in boxes if low <= (box.y0 + box.y1) / 2 <= high)
    assert len(heights) >= 2
    assert all(below[1] <= above[0] for below, above in pairwise(heights))


@pytest.mark.parametrize("name", ["p.png", "p.SVG"])
def test_a_picture_is_written_known_again_and_replaced(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], name: str
) -> None:
    output, picture = tmp_path / "a.safetensors", tmp_path / name
    report = actvec(tiny, *chats, output, picture=picture, device="cpu")
    assert report.picture == str(picture) and is_picture(picture)
    before = picture.read_bytes()
    assert before.startswith(b"\x89PNG") == (name == "p.png")
    output.unlink()
    with pytest.raises(WsteerError, match=f"output .*{name} exists"):
        actvec(tiny, *chats, output, picture=picture, device="cpu")
    actvec(tiny, *chats, output, picture=picture, device="cpu", force=True)
    assert picture.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", name, "pos.jsonl", "neg.jsonl"}


def test_a_picture_in_the_wrong_place_is_refused_before_a_model_is_loaded(
    tmp_path: Path, chats: tuple[Path, Path]
) -> None:
    own = tmp_path / "own.png"
    own.write_bytes(b"\x89PNG of somebody")
    cases = [
        (tmp_path / "a.pdf", "name a file that ends in .png or .svg"),
        (tmp_path / "a.png", "is the output too"),
        (own, "picture or answers that wsteer wrote"),
        (tmp_path, "ends in .png"),
    ]
    for picture, reason in cases:
        with pytest.raises(WsteerError, match=reason):
            actvec(tmp_path / "gone", *chats, tmp_path / "a.png", picture=picture, force=True)
    assert own.read_bytes() == b"\x89PNG of somebody"
