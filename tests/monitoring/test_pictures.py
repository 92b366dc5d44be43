"""The pictures of similarities."""

from pathlib import Path

from tests.helpers.command import Cli
from tests.helpers.dense_changes import low_rank, saved
from wsteer.deltas.delta import Delta
from wsteer.monitoring.pictures import trajectory_picture
from wsteer.monitoring.trajectories import Point, Scores, trajectory


def test_groups_order_the_picture(tmp_path: Path, cli: Cli) -> None:
    deltas = {name: Delta.of_factors(low_rank(seed, 2)) for seed, name in enumerate(("evil-1", "syc-1", "evil-2"))}
    paths = saved(tmp_path, deltas)
    groups = ["--group", "sycophantic=syc*", "--group", "evil=evil-?"]
    ran = cli("monitor", *paths, *groups, "-o", tmp_path / "m", "--json")
    assert ran.json["groups"] == {"evil": ["evil-1", "evil-2"], "sycophantic": ["syc-1"]}
    picture = (tmp_path / "m" / "similarity.svg").read_text()
    labels = [picture.index(f">{name}<") for name in ("syc-1", "evil-1", "evil-2")]
    assert labels == sorted(labels)
    assert ">sycophantic<" in picture
    ran = cli("monitor", *paths, "--group", "none=x*", "-o", tmp_path / "n")
    assert ran.error == "--group none=x* matches no item; they are evil-1, syc-1, evil-2"


def test_runs_have_one_legend_below_them_and_one_scale() -> None:
    def point(step: int, cosine: float) -> Point:
        return Point(step, (cosine, -cosine), (cosine, -cosine), (0.01, 0.01), (0.01, 0.01), (cosine, cosine))

    runs = [trajectory(run, ["v", "w"], [point(2, up / 2), point(4, up)]) for run, up in (("bad", 0.4), ("good", 0.1))]
    scores = Scores("harm", (("bad", 2, 0.5), ("bad", 4, 0.9), ("good", 2, 0.1), ("good", 4, 0.2)))
    figure = trajectory_picture(runs, scores)
    bad, good, *beside = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["v", "w", "harm"]
    assert all(panel.get_legend() is None for panel in figure.axes)
    assert bad.get_ylim() == good.get_ylim()
    assert len({each.get_ylim() for each in beside}) == 1
    assert beside[0].get_ylim()[0] < 0.1 < 0.9 < beside[0].get_ylim()[1]
