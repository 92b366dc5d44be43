"""What an experiment's folder says of the paper's findings, by the rules that its file has: verdicts, with numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.demo.cosines import Cosines, Table
from wsteer.demo.differences import Difference, Evaluation
from wsteer.demo.experiment import PLACE, Experiment, Finding
from wsteer.demo.rules import AGREES, CANNOT_TELL, DOES_NOT, CosineRule, MetricRule, read_rule
from wsteer.demo.standing import LEFT_OUT, NOT_RUN, standing
from wsteer.errors import WsteerError
from wsteer.evaluation.presentation.outputs import RESULTS, ROWS
from wsteer.progress import Progress, silent

SIMILARITY = "similarity.json"
VERDICTS = (AGREES, DOES_NOT, CANNOT_TELL, LEFT_OUT)


@dataclass(frozen=True)
class Judged:
    """A finding of the paper, what its rules say of a folder, and why; without results there are no rules."""

    finding: Finding
    verdict: str
    why: str
    rules: tuple[Difference | Cosines, ...] = ()

    @property
    def deciding(self) -> Difference | Cosines | None:
        """The first rule that decides."""
        return next((each for each in self.rules if each.verdict == self.verdict), None)


class Results:
    """The results in an experiment's folder, each read once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._evaluations: dict[str, Evaluation] = {}
        self._tables: dict[str, Table] = {}

    def evaluation(self, name: str) -> Evaluation | None:
        """The results of `wsteer eval` in a folder; None where it has none."""
        place = self.folder / name
        if name not in self._evaluations and (place / RESULTS).is_file() and (place / ROWS).is_file():
            self._evaluations[name] = Evaluation(place)
        return self._evaluations.get(name)

    def table(self, name: str) -> Table | None:
        """The cosines of `wsteer monitor` in a folder; None where it has none."""
        path = self.folder / name / SIMILARITY
        if name not in self._tables and path.is_file():
            self._tables[name] = Table(path)
        return self._tables.get(name)


def judge(
    experiment: Experiment,
    scale: str,
    folder: str | Path,
    results: Results | None = None,
    progress: Progress = silent,
) -> list[Judged]:
    """What the folder of an experiment's run says of each of its findings; `results` are those in it.

    A finding agrees if all of its rules do, and does not if any does not. Raises WsteerError where a rule names a
    metric, a condition or a pair that the results do not have: that is a slip, and no lack of results.
    """
    results = results or Results(folder)
    found = []
    for finding in progress(experiment.findings, "judging findings"):
        if not (results.folder / finding.results).exists():
            why = _why_missing(experiment, scale, results.folder, finding.results)
            found.append(Judged(finding, LEFT_OUT, why))
            continue
        values = experiment.scales[scale].values
        try:
            found.append(_judged(finding, results, values))
        except WsteerError as error:
            raise WsteerError(f"{experiment.path}: finding {finding.name!r}: {error}") from None
    return found


def _why_missing(experiment: Experiment, scale: str, folder: Path, results: str) -> str:
    """Why the folder of results is not there, by the step that makes it."""
    makes = [
        each
        for each in standing(experiment, scale, folder)
        if any(Path(results).is_relative_to(made) for made in each.step.outputs)
    ]
    if not makes:
        return f"no step of the scale {scale} makes {results}"
    last = makes[-1]
    return f"{last.step.command.step.does}: {'it has not run' if last.state == NOT_RUN else last.why or 'no results'}"


def _judged(finding: Finding, results: Results, values: Mapping[str, str]) -> Judged:
    place = results.folder / finding.results
    rules = [read_rule({key: _filled(each, values) for key, each in given.items()}) for given in finding.rules]
    metric_rules = [each for each in rules if isinstance(each, MetricRule)]
    cosine_rules = [each for each in rules if isinstance(each, CosineRule)]
    if (evaluation := results.evaluation(finding.results)) is not None:
        if cosine_rules:
            raise WsteerError(f"a rule on cosines needs a folder of wsteer monitor, and {place} is one of eval")
        return _joined(finding, [evaluation.judge(each) for each in metric_rules])
    if (table := results.table(finding.results)) is not None:
        if metric_rules:
            raise WsteerError(f"a rule on a metric needs a folder of wsteer eval, and {place} is one of monitor")
        return _joined(finding, [table.judge(each) for each in cosine_rules])
    raise WsteerError(f"{place} holds no results of wsteer eval ({RESULTS}, {ROWS}) or monitor ({SIMILARITY})")


def _filled(value: object, values: Mapping[str, str]) -> object:
    """A rule's text with the scale's values in its places, as in commands."""
    if isinstance(value, list):
        return [_filled(each, values) for each in value]
    if not isinstance(value, str):
        return value
    return PLACE.sub(lambda found: values.get(found[1], found[0]), value)


def _joined(finding: Finding, rules: Sequence[Difference | Cosines]) -> Judged:
    verdicts = {each.verdict for each in rules}
    verdict = DOES_NOT if DOES_NOT in verdicts else AGREES if verdicts == {AGREES} else CANNOT_TELL
    deciding = [each.why for each in rules if each.verdict == verdict]
    return Judged(finding, verdict, "; ".join(deciding), tuple(rules))
