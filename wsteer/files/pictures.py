"""Figures written as PNG and SVG; equal figures give equal bytes."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG and, beside it, as SVG; equal figures give equal bytes."""
    with matplotlib.rc_context({"svg.hashsalt": "wsteer", "svg.fonttype": "none"}):
        figure.savefig(path.with_suffix(".png"), dpi=150, bbox_inches="tight", metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
