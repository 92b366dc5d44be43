"""Made-up experiments: their files, and folders of results in which the numbers are known."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from wsteer.demo.experiment import Experiment, read_experiment
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.presentation.outputs import RESULTS, ROWS
from wsteer.evaluation.rows import Measure, Row, write_rows
from wsteer.files.text import write_json

FINDING = {
    **{"name": "f", "says": "Weights steer.", "section": "4.1.1", "figures": "2, 13", "axes": "up: kept"},
    **{"results": "eval", "picture": "tradeoff"},
}
STEPS = [
    {"does": "Fine-tune", "section": "3", "run": "wsteer finetune {model} data/pos.jsonl -o pos"},
    {"does": "Evaluate", "section": "4", "run": "wsteer eval {model} --delta pos -o eval"},
]


def experiment(folder: Path, *findings: Mapping[str, object], steps: Sequence[Mapping] = STEPS, **top) -> Experiment:
    """An experiment with these findings, each given by what is not as in `FINDING`; its file is in `folder`."""
    content = {
        **{"title": "A test", "section": "4.1", "small": {"model": "tiny", "about": "Small.", "block": 12}},
        **{"steps": list(steps), "findings": [{**FINDING, **each} for each in findings], **top},
    }
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_experiment(path)


def evaluated(
    folder: Path,
    conditions: Sequence[Condition],
    values: Mapping[Measure, Sequence[Sequence[float | str | None]]],
    name: str = "eval",
) -> Path:
    """A folder as `wsteer eval` writes it: of each measure a list of values for each condition, by rows.

    A text is why a row has no value, None leaves the row out.
    """
    place = folder / name
    place.mkdir(parents=True)
    rows = [
        Row(
            *(measure.task, measure.metric, condition.name, f"{number:03}"),
            None if isinstance(value, str) else float(value),
            value if isinstance(value, str) else "",
        )
        for measure, columns in values.items()
        for condition, column in zip(conditions, columns, strict=True)
        for number, value in enumerate(column)
        if value is not None
    ]
    write_rows(place / ROWS, rows)
    content = {"conditions": [each.as_json() for each in conditions], "measures": [asdict(each) for each in values]}
    write_json(place / RESULTS, content)
    return place


def monitored(
    folder: Path,
    cosines: Mapping[tuple[str, str], float | None],
    floor: float = 0.01,
    runs: Sequence[Mapping[str, object]] = (),
    name: str = "monitor",
) -> Path:
    """A folder as `wsteer monitor` writes it, of these cosines of items with deltas; of a name with itself 1."""
    place = folder / name
    place.mkdir(parents=True)
    rows, columns = (list(dict.fromkeys(pair[i] for pair in cosines)) for i in (0, 1))
    table = [[1.0 if row == column else cosines.get((row, column)) for column in columns] for row in rows]
    floors = [
        [None if row == column or value is None else floor for column, value in zip(columns, line, strict=True)]
        for row, line in zip(rows, table, strict=True)
    ]
    found = {"rows": rows, "columns": columns, "cosines": table, "floor": floors, "trajectories": list(runs)}
    write_json(place / "similarity.json", found)
    return place
