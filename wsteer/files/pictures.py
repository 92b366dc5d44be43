"""Figures written as PNG and SVG; equal figures give equal bytes."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure


def save(figure: Figure, path: Path, svg: bool = False) -> None:
    """Write the figure as the PNG file `path` and, with `svg`, as an SVG file beside it.

    The files hold no software name, no date and no random identifier.
    """
    figure.savefig(path, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    if svg:
        with matplotlib.rc_context({"svg.hashsalt": "wsteer", "svg.fonttype": "none"}):
            figure.savefig(path.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
