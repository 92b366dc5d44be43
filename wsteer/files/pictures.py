"""Figures written as PNG and SVG; equal figures give equal bytes, and whatever names they show can be drawn."""

import warnings
from pathlib import Path

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.text import Text

MOST_LABEL = 80  # characters of a name in a figure


def label(text: str) -> str:
    """A name as a figure can show it: what cannot be printed is escaped, and the middle of a long one left out.

    >>> label("a\\x1b[2J"), len(label("x" * 1000))
    ('a\\\\x1b[2J', 80)
    """
    half = MOST_LABEL // 2
    if len(text) > MOST_LABEL:
        text = f"{text[: half - 1]}\u2026{text[-half:]}"
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= MOST_LABEL else f"{plain[: half - 1]}\u2026{plain[-half:]}"


# figures are drawn and written in matplotlib's own style: a matplotlibrc, also one in the current folder, can name
# programs to run and sizes beyond memory
own_style = matplotlib.style.context("default")


@own_style
def save(figure: Figure, path: Path, svg: bool = False) -> None:
    """Write the figure as the PNG file `path` and, with `svg`, as an SVG file beside it.

    The files hold no software name, no date and no random identifier. Texts are shown as `label` gives them, and never
    parsed as mathematics; those of ticks, which matplotlib sets anew when it draws, must be given to it as such.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text("\n".join(map(label, text.get_text().split("\n"))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that the font lacks, which are drawn as boxes
        _write(figure, path, svg)


def _write(figure: Figure, path: Path, svg: bool) -> None:
    figure.savefig(path, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    if svg:
        with matplotlib.rc_context({"svg.hashsalt": "wsteer", "svg.fonttype": "none"}):
            figure.savefig(path.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
