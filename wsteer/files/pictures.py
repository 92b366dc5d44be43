"""Figures written as PNG and SVG; equal figures give equal bytes, and whatever names they show can be drawn."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.text import Text

MOST_LABEL = 80  # characters of a name in a figure


def label(text: str, most: int = MOST_LABEL) -> str:
    """A name as a figure can show it: what cannot be printed is escaped, and the middle of a long one left out.

    `most` is an even number of characters.

    >>> label("a\\x1b[2J"), len(label("x" * 1000))
    ('a\\\\x1b[2J', 80)
    """
    half = most // 2
    if len(text) > most:
        text = f"{text[: half - 1]}\u2026{text[-half:]}"
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= most else f"{plain[: half - 1]}\u2026{plain[-half:]}"


# figures are drawn and written in matplotlib's own style: a matplotlibrc, also one in the current folder, can name
# programs to run and sizes beyond memory
own_style = matplotlib.style.context("default")


FORMS = (".png", ".svg")


@own_style
def save_alone(figure: Figure, path: Path, suffix: str) -> None:
    """Write the figure as one file of this suffix, by which `is_picture` knows it again; otherwise like `save`."""
    _prepare(figure)
    _write(figure, path, suffix, {"Software": "wsteer"} if suffix == ".png" else {"Creator": "wsteer", "Date": None})


@own_style
def save(figure: Figure, path: Path, svg: bool = False) -> None:
    """Write the figure as the PNG file `path` and, with `svg`, as an SVG file beside it.

    The files hold no software name, no date and no random identifier. Texts are shown as `label` gives them, and never
    parsed as mathematics; those of ticks, which matplotlib sets anew when it draws, must be given to it as such.
    """
    _prepare(figure)
    _write(figure, path, ".png", {"Software": None})
    if svg:
        _write(figure, path.with_suffix(".svg"), ".svg", {"Date": None})


def _prepare(figure: Figure) -> None:
    """Show all texts as `label` gives them, and place the panels once and for all."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text("\n".join(map(label, text.get_text().split("\n"))))
    if figure.get_layout_engine() is not None:
        # the engine's solver orders its unknowns by their addresses: its last digits differ from run to run, and so do
        # the names in an SVG file that matplotlib derives from the bounds of an area
        with _quiet():
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes in figure.axes:
            left, bottom, width, height = (round(number, 6) for number in axes.get_position(original=True).bounds)
            axes.set_position((left, bottom, width, height))
            axes.set_in_layout(True)  # counted in the figure's bounds


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of glyphs that the font lacks, which are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write(figure: Figure, path: Path, suffix: str, metadata: Mapping[str, str | None]) -> None:
    with _quiet(), matplotlib.rc_context({"svg.hashsalt": "wsteer", "svg.fonttype": "none"}):
        figure.savefig(path, format=suffix[1:], dpi=150, bbox_inches="tight", metadata=dict(metadata))
