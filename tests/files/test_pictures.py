"""Figures as files: equal bytes for equal figures, and an SVG beside the PNG where it is asked for."""

import os
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from wsteer.files.pictures import MOST_LABEL, label, save, save_alone
from wsteer.monitoring.pictures import heat_map


def drawn() -> Figure:
    figure = Figure(figsize=(2, 2))
    figure.add_subplot().plot([0, 1], [0, 1], label="x")
    return figure


def test_equal_figures_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(drawn(), tmp_path / f"{name}.png", svg=True)
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def panels() -> Figure:
    """Many panels of two sizes, which a layout engine places."""
    figure = Figure(figsize=(8.8, 20), layout="constrained")
    grid = figure.add_gridspec(6, 2)
    for i in range(12):
        cells = grid[i // 2, i % 2].subgridspec(2, 1, height_ratios=(4, 1))
        above = figure.add_subplot(cells[0])
        above.set_title(f"panel {i}")
        figure.add_subplot(cells[1], sharex=above).set(xlabel="k", ylabel="valid")
    return figure


@pytest.mark.slow
def test_laid_out_panels_give_equal_bytes_wherever_they_lie_in_memory(tmp_path: Path) -> None:
    seen, taken = set(), []
    for number in range(5):
        taken.append([object() for _ in range(4099 * number)])
        save_alone(panels(), tmp_path / "a.svg", ".svg")
        seen.add((tmp_path / "a.svg").read_bytes())
    assert len(seen) == 1


def test_an_svg_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    save(drawn(), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


NAMES = [
    "$x_{",
    "a$b$c",
    "\x1b[2J\x1b]0;title\x07",
    "\x00\x08\ufffe",
    "\udc80",
    "x" * 10**6,
    "<&>]]>",
    "\u4f60\U0001f600",
    "a\nb",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_can_be_drawn_and_gives_sound_svg(tmp_path: Path, name: str) -> None:
    figure = heat_map([name, "b"], [name, "b"], [[1.0, 0.5], [0.5, 1.0]], 1.0)
    axes = figure.axes[0]
    axes.plot([0, 1], [0, 1], label=f"of {name}")
    axes.set(xlabel=name, ylabel=name, title=name)
    axes.legend(title=name)
    axes.annotate(name, (0, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a line on stderr
        save(figure, tmp_path / "a.png", svg=True)
    texts = [element.text for element in ElementTree.parse(tmp_path / "a.svg").iter() if element.text]
    assert any(label(name.split("\n")[0]) in text for text in texts)
    assert (tmp_path / "a.png").stat().st_size < 10**6


def test_a_label_is_short_and_keeps_both_ends() -> None:
    assert label("plain name") == "plain name"
    assert len(label("a" * 500 + "b")) == MOST_LABEL and label("a" * 500 + "b").endswith("ab")
    assert len(label("\x01" * 500)) <= MOST_LABEL


def test_a_matplotlibrc_of_the_current_folder_changes_nothing_and_runs_nothing(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from matplotlib.figure import Figure\n"
        "from wsteer.files.pictures import own_style, save\n"
        "@own_style\n"
        "def draw():\n"
        "    figure = Figure(); figure.subplots().set_title('$x$'); save(figure, Path('x.png'), svg=True)\n"
        "draw()"
    )
    (tmp_path / "bin").mkdir()
    latex = tmp_path / "bin" / "latex"
    latex.write_text("#!/bin/sh\ntouch ../ran\n")
    latex.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for name, settings in (("plain", ""), ("hostile", "text.usetex: True\nsavefig.dpi: 100000\nfont.size: 40\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "matplotlibrc").write_text(settings)
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path / name, env=environment, check=True)
    assert not (tmp_path / "ran").exists()
    for file in ("x.png", "x.svg"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "hostile" / file).read_bytes()
