"""One page from logs: of inspect_ai, of lm-eval, and of `wsteer eval`, whoever ran them."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.evaluation.presentation.outputs import results, write_page
from wsteer.evaluation.presentation.page import Findings
from wsteer.evaluation.presentation.pictures import write_pictures
from wsteer.evaluation.reading import read
from wsteer.evaluation.summary import mostly_abstained, summarise
from wsteer.files.provenance import record, recordable, source_entry
from wsteer.files.saving import check_output, new_file
from wsteer.progress import Progress, silent


@dataclass(frozen=True)
class LogReport:
    """What `report` found in the logs and wrote to `output`; `files` is how many files it read."""

    output: str
    files: int
    findings: Findings

    def as_json(self) -> dict[str, object]:
        """What --json prints: what results.json of `wsteer eval` holds, and the path."""
        return {"output": self.output, "files": self.files, **results(self.findings)}


def report(
    logs: Sequence[str | Path],
    output: str | Path,
    *,
    base: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> LogReport:
    """Write the page `output` from `logs`: files and folders of inspect_ai, lm-eval and `wsteer eval`.

    The conditions are told from the models' names and arguments (`vllm/MODEL:sweep/k1`, `peft=sweep/k1`); the base is
    the model to which nothing is added, or the one that `base` names. Equal logs give equal bytes. Raises WsteerError
    as `reading.read` does.
    """
    output = Path(output)
    check_output(output, force, folder=False, inputs=logs)
    found = read(logs, base, progress)
    estimates = summarise(found.rows, found.measures, found.conditions)
    warnings = (*found.warnings, *mostly_abstained(estimates, found.conditions))
    options = {"logs": [recordable(each) for each in logs], "base": base}
    inputs = [source_entry("log", path) for path in found.files]
    what = record("report", options, inputs)
    findings = Findings(found.rows, found.measures, found.conditions, estimates, what, warnings)
    with tempfile.TemporaryDirectory() as folder, new_file(output, force) as partial:
        pictures = write_pictures(Path(folder), estimates, found.measures, found.conditions)
        write_page(partial, findings, pictures, "wsteer report")
    return LogReport(str(output), len(found.files), findings)
