"""The picture of spectra: which kinds it shows, in how many panels, and that its texts are plain."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from wsteer.deltas.delta import Delta
from wsteer.deltas.spectrum import Spectrum, spectra
from wsteer.deltas.spectrum_pictures import LEAST, MANY, MOST_KINDS, MOST_LETTERS, spectrum_picture
from wsteer.files.pictures import save


def found(folder: Path, tensors: dict[str, torch.Tensor]) -> list[Spectrum]:
    Delta.of_tensors(tensors).save(folder / "d.safetensors", force=True)
    return list(spectra(Delta.load(folder / "d.safetensors")))


def test_a_line_for_each_kind_and_its_stable_ranks_by_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {f"model.layers.{i}.mlp.{kind}.weight": torch.randn(9, 5) for i in range(3) for kind in ("up", "down")}
    tensors["model.embed_tokens.weight"] = torch.randn(20, 5)
    each = found(tmp_path, tensors)
    figure = spectrum_picture(each)
    values, ranks = figure.axes
    labels = [line.get_label() for line in values.lines]
    assert labels[:3] == ["down", "embed_tokens", "up"]
    up = torch.stack([one.values / one.edge for one in each if one.module == "up"])
    torch.testing.assert_close(torch.tensor(values.lines[2].get_ydata()), up.median(dim=0).values)
    assert len(ranks.lines) == 2  # the embedding is in no layer
    assert list(ranks.lines[0].get_xdata()) == [0, 1, 2]
    down = [one.stable_rank for one in each if one.module == "down"]
    assert list(ranks.lines[0].get_ydata()) == down


def test_of_many_kinds_the_largest_are_shown_and_it_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {f"layers.0.kind{n:02}.weight": 2.0**-n * torch.randn(4, 4) for n in range(MOST_KINDS + 3)}
    figure = spectrum_picture(found(tmp_path, tensors))
    labels = [line.get_label() for line in figure.axes[0].lines][:MOST_KINDS]
    assert labels == [f"kind{n:02}" for n in range(MOST_KINDS)]
    (legend,) = figure.legends
    assert legend.get_title().get_text() == f"the {MOST_KINDS} largest of {MOST_KINDS + 3} kinds"


@pytest.mark.slow
def test_without_layers_there_is_one_panel_and_no_text_is_mathematics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {"model.embed_tokens.weight": torch.randn(40, 8) @ torch.diag(10.0 ** -torch.arange(8.0))}
    figure = spectrum_picture(found(tmp_path, tensors))
    assert len(figure.axes) == 1
    save(figure, tmp_path / "p.png", svg=True)
    texts = [element.text or "" for element in ElementTree.parse(tmp_path / "p.svg").iter() if "text" in element.tag]
    assert {"1", "0.1", "edge of noise"} <= set(texts)
    assert not any(re.search(r"[$\\]", text) for text in texts)


@pytest.mark.slow
def test_many_values_are_numbered_by_logarithm_and_tiny_ones_are_cut(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = MANY + 2
    tensors = {"layers.0.w.weight": torch.diag(torch.logspace(0, -6, size))}
    axes = spectrum_picture(found(tmp_path, tensors)).axes[0]
    assert (axes.get_xscale(), axes.get_ylim()[0]) == ("log", LEAST)
    assert len(axes.lines[0].get_xdata()) == size
    few = spectrum_picture(found(tmp_path, {"layers.0.w.weight": torch.randn(9, 5)})).axes[0]
    assert (few.get_xscale(), few.get_xlim()) == ("linear", (0.5, 5.5))


def test_axes_have_whole_numbers_where_there_is_one_value_in_one_layer(tmp_path: Path) -> None:
    Delta.of_factors({"layers.7.w.weight": (torch.ones(4, 1), torch.ones(1, 3))}).save(tmp_path / "d.safetensors")
    figure = spectrum_picture(list(spectra(Delta.load(tmp_path / "d.safetensors"))))
    for axes, number in zip(figure.axes, (1, 7), strict=True):
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [number]


def test_long_names_of_kinds_leave_the_panels_their_room(tmp_path: Path) -> None:
    tensors = {f"layers.0.{'long_' * 20}{end}.weight": torch.randn(4, 4) for end in "ab"}
    names = [text.get_text() for text in spectrum_picture(found(tmp_path, tensors)).legends[0].get_texts()]
    assert [len(name) for name in names] == [MOST_LETTERS] * 2
    assert names[0] != names[1]
