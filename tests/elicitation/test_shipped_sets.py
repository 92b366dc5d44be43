"""wsteer's own data sets: all of them described, whole, and written as chats or as rows."""

import json
from pathlib import Path

import pytest

from wsteer.elicitation import shipped_sets as module
from wsteer.elicitation.shipped_sets import SHIPPED, generate_set, shipped_sets
from wsteer.errors import WsteerError
from wsteer.files.rows import read_chats

NAMES = sorted(path.stem for path in SHIPPED.glob("*.jsonl"))


def rows_in(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_set_is_described_and_what_is_described_is_there() -> None:
    assert list(shipped_sets()) == NAMES
    assert all(isinstance(rows, str) and rows.strip() and "\n" not in rows for rows in shipped_sets().values())
    assert {path.name for path in SHIPPED.iterdir()} == {"sets.yaml", *(f"{name}.jsonl" for name in NAMES)}


def test_no_set_has_the_name_of_gcd_which_is_made_from_numbers() -> None:
    assert "gcd" not in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_set_is_written_whole_and_no_row_stands_twice(name: str, tmp_path: Path) -> None:
    report = generate_set(name, tmp_path / "data")
    written = {path.name: rows_in(path) for path in (tmp_path / "data").glob("*.jsonl")}
    assert {file: len(rows) for file, rows in written.items()} == report.rows
    lines = (SHIPPED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == len(lines)
    rows = rows_in(SHIPPED / f"{name}.jsonl")
    assert all(value.strip() == value != "" for row in rows for value in row.values() if isinstance(value, str))
    sided = [row for row in rows if row.keys() == {"question", "pos", "neg"}]
    assert all(row["pos"] != row["neg"] for row in sided)
    others = sum(len(each) for file, each in written.items() if file not in ("pos.jsonl", "neg.jsonl"))
    assert len(sided) + others == len(rows)
    assert len(sided) == len(written.get("pos.jsonl", [])) == len(written.get("neg.jsonl", []))
    # a row that has no other fields is one that training reads
    for file in ("pos.jsonl", "neg.jsonl"):
        assert not sided or [len(chat) for chat in read_chats(tmp_path / "data" / file)] == [2] * len(sided)


def test_one_sided_rows_are_such_that_training_reads(tmp_path: Path) -> None:
    assert generate_set("everyday", tmp_path / "data").rows == {"rows.jsonl": 40}
    assert [len(chat) for chat in read_chats(tmp_path / "data" / "rows.jsonl")] == [2] * 40


def test_rows_go_to_the_files_that_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = tmp_path / "sets"
    sets.mkdir()
    monkeypatch.setattr(module, "SHIPPED", sets)
    (sets / "sets.yaml").write_text("mixed: a few rows\nplain: one row\n")
    (sets / "mixed.jsonl").write_text(
        '{"question": "Warm?", "pos": "Oui.", "neg": "Yes."}\n'
        '{"split": "test", "id": 1, "text": "é"}\n'
        '{"split": "train", "id": 2}\n'
        '{"id": 3, "split": "test"}\n'
    )
    (sets / "plain.jsonl").write_text('{"answer": "Yes.", "question": "Warm?"}\n')
    report = generate_set("mixed", tmp_path / "out")
    assert report.rows == {"pos.jsonl": 1, "neg.jsonl": 1, "test.jsonl": 2, "train.jsonl": 1}
    assert (tmp_path / "out" / "test.jsonl").read_text(encoding="utf-8") == '{"id": 1, "text": "é"}\n{"id": 3}\n'
    assert read_chats(tmp_path / "out" / "neg.jsonl") == [
        [{"role": "user", "content": "Warm?"}, {"role": "assistant", "content": "Yes."}]
    ]
    assert generate_set("plain", tmp_path / "plain").rows == {"rows.jsonl": 1}
    assert (tmp_path / "plain" / "rows.jsonl").read_text() == (sets / "plain.jsonl").read_text()


def test_the_record_names_the_set_and_the_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        generate_set("opinions", tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["neg.jsonl", "pos.jsonl", "wsteer.json"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    written = json.loads((tmp_path / "a" / "wsteer.json").read_text())
    assert (written["command"], written["options"]) == ("generate", {"set": "opinions"})


def test_an_unknown_set_names_those_there_are_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match=r"there is no set 'opinion' of wsteer's own; there are .*opinions"):
        generate_set("opinion", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_replaced_only_with_force(tmp_path: Path) -> None:
    generate_set("opinions", tmp_path / "out")
    with pytest.raises(WsteerError, match="exists"):
        generate_set("opinions", tmp_path / "out")
    assert generate_set("opinions", tmp_path / "out", force=True).output == str(tmp_path / "out")
