"""What an evaluation gave, by what a user asks of it: the summary of its rows, what was chosen, and what fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.evaluation.choosing import Rule, choose
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.gates import Gates
from wsteer.evaluation.presentation.outputs import ROWS, results
from wsteer.evaluation.presentation.page import Findings
from wsteer.evaluation.presentation.sweeps import best_blocks
from wsteer.evaluation.rows import Measure, Outcome, find_measure
from wsteer.evaluation.summary import Estimate, mostly_abstained, summarise, unscored


@dataclass(frozen=True)
class Criteria:
    """What a user asks of the results: a rule of choice, gates, and the largest share of rows that a judge may leave
    without a score. `seed` is that of the two halves of the rows for a choice.
    """

    rule: Rule | None
    gates: Gates
    max_unscored: float
    seed: int = 0

    def check_names(self, measures: Sequence[Measure]) -> None:
        """Refuse a metric that is not measured."""
        self.gates.check_names(measures)
        if self.rule is not None:
            self.rule.check_names(measures)

    def findings(
        self,
        outcome: Outcome,
        conditions: Sequence[Condition],
        record: Mapping[str, object],
        warnings: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> Findings:
        """The outcome of all tasks under all conditions, summarised, with the condition that the rule chooses."""
        rows, measures = outcome.rows, outcome.measures
        self.check_names(measures)
        estimates = summarise(rows, measures, conditions)
        choice = choose(rows, measures, conditions, self.rule, self.seed) if self.rule is not None else None
        doubts = [*mostly_abstained(estimates, conditions), *(choice.warnings if choice is not None else ())]
        told = (*warnings, *outcome.warnings, *doubts)
        return Findings(rows, measures, conditions, estimates, record, warnings=told, choice=choice, notes=notes)

    def report(self, output: Path, findings: Findings) -> "EvalReport":
        """What was written to `output`, and what in it fails."""
        estimates, conditions = findings.estimates, findings.conditions
        lost = [f"{line}; see {output / ROWS}" for line in unscored(estimates, conditions, self.max_unscored)]
        failures = self.gates.failures(estimates, findings.measures, conditions)
        return EvalReport(str(output), findings, tuple(lost), tuple(failures))


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
