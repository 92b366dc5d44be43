"""What an evaluation gave: the summary of its rows, what was chosen, and what fails."""

from collections.abc import Mapping
from dataclasses import dataclass

from wsteer.errors import WsteerError
from wsteer.evaluation.presentation.outputs import results
from wsteer.evaluation.presentation.page import Findings
from wsteer.evaluation.presentation.sweeps import best_blocks
from wsteer.evaluation.rows import find_measure
from wsteer.evaluation.summary import Estimate


@dataclass(frozen=True)
class EvalReport:
    """What `eval` found and wrote to `output`.

    `unscored` are lines on rows that a judge left without a verdict, `failures` on gates that values break.
    """

    output: str
    findings: Findings
    unscored: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    def estimate(self, metric: str, condition: str = "base") -> Estimate:
        """The estimate of `metric` (or `task.metric`) under the condition of this label, as "w k=1"."""
        measure = find_measure(self.findings.measures, metric)
        names = {each.label: each.name for each in self.findings.conditions}
        if condition not in names:
            raise WsteerError(f"there is no condition {condition!r}; there are {', '.join(names)}")
        return self.findings.by_place[measure.task, measure.metric, names[condition]]

    @property
    def told(self) -> list[str]:
        """What was chosen, and where a sweep's best block is, in lines."""
        found = self.findings
        best = best_blocks(found.by_place, found.conditions, found.measures)
        return [*(found.choice.told if found.choice else ()), *(each.text for each in best), *found.notes]

    def as_json(self) -> Mapping[str, object]:
        """What `--json` prints: results.json, the path, and what fails."""
        failed = {"unscored": list(self.unscored), "failures": list(self.failures)}
        return {"output": self.output, **results(self.findings), **failed}
