"""Gates: bounds on metrics that a user sets, for CI; a failure names the condition that breaks one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import Measure, find_measure
from wsteer.evaluation.summary import Estimate


@dataclass(frozen=True)
class Gates:
    """Bounds by the name of a metric, `metric` or `task.metric`: no value may be above, or below, its bound."""

    above: Mapping[str, float] = field(default_factory=dict)
    below: Mapping[str, float] = field(default_factory=dict)

    def check_names(self, measures: Sequence[Measure]) -> None:
        """Refuse a gate on a metric that is not measured."""
        for name in (*self.above, *self.below):
            find_measure(measures, name)

    def failures(
        self, estimates: Sequence[Estimate], measures: Sequence[Measure], conditions: Sequence[Condition]
    ) -> list[str]:
        """A line for each value that breaks a gate; one that is undefined or was not measured breaks every gate.

        Gates hold for what was steered: all conditions but the base, controls and parts of a delta. Where there is no
        other, they hold for the base.
        """
        gated = [each for each in conditions if each.is_steered]
        found = {(each.task, each.metric, each.condition): each.value for each in estimates}
        lines = []
        for side, bounds in (("below", self.below), ("above", self.above)):
            for name, bound in bounds.items():
                measure = find_measure(measures, name)
                for condition in gated or [each for each in conditions if each.is_base]:
                    value = found.get((measure.task, measure.metric, condition.name))
                    if value is None:
                        lines.append(f"{condition.label}: {name} is undefined; it must not be {side} {bound:g}")
                    elif value < bound if side == "below" else value > bound:
                        lines.append(f"{condition.label}: {name} is {value:.4g}, {side} {bound:g}")
        return lines
