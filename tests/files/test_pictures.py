"""Figures as files: equal bytes for equal figures, and an SVG beside the PNG where it is asked for."""

from pathlib import Path

from matplotlib.figure import Figure

from wsteer.files.pictures import save


def drawn() -> Figure:
    figure = Figure(figsize=(2, 2))
    figure.add_subplot().plot([0, 1], [0, 1], label="x")
    return figure


def test_equal_figures_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(drawn(), tmp_path / f"{name}.png", svg=True)
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_an_svg_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    save(drawn(), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
