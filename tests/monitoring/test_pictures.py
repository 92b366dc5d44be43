"""The pictures of similarities."""

from pathlib import Path

from tests.helpers.command import Cli
from tests.helpers.dense_changes import low_rank, saved
from wsteer.deltas.delta import Delta


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
