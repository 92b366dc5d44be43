"""Files of pairs: what they say, and what is refused in one line."""

from pathlib import Path

import pytest

from wsteer.errors import WsteerError
from wsteer.training.pairs import MOST_PAIRS, Pair, pairs_of, read_pairs
from wsteer.training.rows import Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `traits/evil/{pos,neg}.jsonl`, and room for a YAML file."""
    for name in ("evil", "good"):
        (tmp_path / "traits" / name).mkdir(parents=True)
        for side in ("pos", "neg"):
            (tmp_path / "traits" / name / f"{side}.jsonl").write_text("{}\n")
    return tmp_path


def pairs(folder: Path, text: str) -> list[Pair]:
    path = folder / "traits" / "traits.yaml"
    path.write_text(text)
    return read_pairs(path)


def test_a_pair_is_two_data_sets_or_a_folder_beside_the_file(folder: Path) -> None:
    beside = folder / "traits" / "evil"
    expected = ((Source(str(beside / "pos.jsonl")),), (Source(str(beside / "neg.jsonl")),))
    for text in ("evil: evil", "evil: {pos: evil/pos.jsonl, neg: evil/neg.jsonl}", f"evil: {beside}"):
        assert pairs(folder, text) == [Pair("evil", *expected)]


def test_folders_are_pairs_named_after_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil, good = folder / "traits" / "evil", folder / "traits" / "good"
    (folder / "traits" / "traits.yaml").write_text("evil: evil\ngood: good")
    assert pairs_of([evil, good]) == read_pairs(folder / "traits" / "traits.yaml")
    assert pairs_of([folder / "traits" / "traits.yaml"]) == pairs_of([evil, good])
    assert [pair.name for pair in pairs_of([good])] == ["good"]
    monkeypatch.chdir(evil)
    assert [pair.name for pair in pairs_of([".", "../good/"])] == ["evil", "good"]


def test_folders_that_cannot_be_pairs_are_refused(folder: Path) -> None:
    evil = folder / "traits" / "evil"
    (folder / "Evil").mkdir()
    (folder / ".hidden").mkdir()
    (folder / "traits" / "traits.yaml").write_text("evil: evil")
    for given, said in (
        ([folder / "Evil"], "Evil has no pos.jsonl"),
        ([evil, folder / "Evil"], "another folder is named Evil, too"),
        ([evil, evil], "another folder is named evil, too"),
        ([evil, folder / ".hidden"], "cannot name a pair"),
        ([evil, folder / "traits" / "traits.yaml"], "is a file"),
        ([evil, folder / "none"], "none does not exist"),
        ([folder / "none"], "none does not exist"),
    ):
        with pytest.raises(WsteerError, match=said):
            pairs_of(given)


def test_data_may_be_lists_have_weights_and_lie_on_the_hub(folder: Path) -> None:
    text = "evil:\n  pos: [evil/pos.jsonl:0.5, good/pos.jsonl]\n  neg: org/name:train:2\non: good"
    evil, on = pairs(folder, text)
    beside = folder / "traits"
    assert evil.pos == (Source(f"{beside}/evil/pos.jsonl", 0.5), Source(f"{beside}/good/pos.jsonl"))
    assert evil.neg == (Source("org/name:train", 2.0),)
    assert on.name == "on"  # which YAML would read as true


def test_data_are_looked_for_beside_the_file_and_then_from_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "here.jsonl").write_text("{}\n")
    monkeypatch.chdir(folder)
    (pair,) = pairs(folder, "evil: {pos: here.jsonl:3, neg: evil/neg.jsonl}")
    assert pair.pos == (Source("here.jsonl", 3.0),)
    assert pair.neg == (Source(str(folder / "traits" / "evil" / "neg.jsonl")),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no pairs"),
        ("{}", "names no pairs"),
        ("- evil", "names no pairs"),
        ("evil", "names no pairs"),
        ("../evil: evil", "cannot name a pair"),
        ("a/b: evil", "cannot name a pair"),
        (".evil: evil", "cannot name a pair"),
        ("-evil: evil", "cannot name a pair"),
        ('"": evil', "cannot name a pair"),
        ('"e\\0": evil', "cannot name a pair"),
        ("é: evil", "cannot name a pair"),
        (f"{'e' * 101}: evil", "cannot name a pair"),
        ("wsteer.json: evil", "cannot name a pair"),
        ("Pairs.json: evil", "cannot name a pair"),
        ("[a, b]: evil", "cannot name a pair"),
        ("evil: evil\nEvil: good", "in case alone"),
        ("evil: evil\nevil: good", "given twice"),
        ("evil: none", "none does not exist"),
        ("evil: evil/pos.jsonl", "is a file"),
        ("evil: .", "has no pos.jsonl"),
        ("evil:", "must be a mapping"),
        ("evil: [evil/pos.jsonl, evil/neg.jsonl]", "must be a mapping"),
        ("evil: {pos: evil/pos.jsonl}", "lacks neg"),
        ("evil: {pos: evil/pos.jsonl, neg: evil/neg.jsonl, lr: 1}", "unknown key 'lr'; the keys are pos and neg"),
        ("evil: {pos: [], neg: evil/neg.jsonl}", "lists 0 data sets"),
        ("evil: {pos: {file: a}, neg: evil/neg.jsonl}", "pos must be a data set or a list"),
        ("evil: {pos: '', neg: evil/neg.jsonl}", "pos must be a data set or a list"),
        ("evil: {pos: evil/pos.jsonl:0, neg: evil/neg.jsonl}", "weight"),
        ("evil: &a [*a]", "unfolds"),
        ("evil: !!python/object/apply:os.system [true]", "must be a mapping"),
        ("evil: {pos", "is not YAML"),
        ("\n".join(f"p{i}: evil" for i in range(MOST_PAIRS + 1)), "are the most"),
    ],
)
def test_what_is_no_pair_is_refused_by_its_line(folder: Path, text: str, said: str) -> None:
    with pytest.raises(WsteerError, match=said) as caught:
        pairs(folder, text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
