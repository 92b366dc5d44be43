"""wsteer's own data sets by name, written by us: `sets/NAME.jsonl` has the rows, `sets/sets.yaml` a line on each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD, record
from wsteer.files.rows import read_objects
from wsteer.files.saving import check_output, new_folder
from wsteer.files.text import write_json, write_jsonl
from wsteer.files.yaml import read_yaml

SHIPPED = Path(__file__).with_name("sets")
SIDES = ("pos", "neg")
PAIR = {"question", *SIDES}  # the fields of a row that gives a chat on each side
SPLIT = "split"  # the field that tells the file of any other row


@dataclass(frozen=True)
class SetReport:
    """What `generate_set` wrote: the number of rows by the names of the files."""

    output: str
    rows: Mapping[str, int]


def shipped_sets() -> dict[str, str]:
    """What the rows of each set are, by the set's name."""
    described = read_yaml(SHIPPED / "sets.yaml")
    assert isinstance(described, dict)  # the file is ours
    return dict(sorted(described.items()))


def generate_set(name: str, output: str | Path, force: bool = False) -> SetReport:
    """Write one of wsteer's own data sets into a new folder `output`.

    Questions with two answers become the chats `pos.jsonl` and `neg.jsonl`. Any other rows go as they are into
    `rows.jsonl`, or, where they have a field `split`, without it into a file of that name: `train.jsonl`, `test.jsonl`.
    """
    if name not in (known := shipped_sets()):
        raise WsteerError(f"there is no set {name!r} of wsteer's own; there are {', '.join(known)}")
    output = Path(output)
    check_output(output, force, folder=True)
    files: dict[str, list[dict]] = {}
    for _, row in read_objects(SHIPPED / f"{name}.jsonl"):
        if row.keys() == PAIR:
            for side in SIDES:
                files.setdefault(side, []).append(_chat(row["question"], row[side]))
        else:
            files.setdefault(row.get(SPLIT, "rows"), []).append({key: row[key] for key in row if key != SPLIT})
    with new_folder(output, force) as partial:
        for file, rows in files.items():
            write_jsonl(partial / f"{file}.jsonl", rows)
        write_json(partial / RECORD, record("generate", {"set": name}, []))
    return SetReport(str(output), {f"{file}.jsonl": len(rows) for file, rows in files.items()})


def _chat(question: str, answer: str) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
