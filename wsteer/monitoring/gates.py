"""Gates: bounds on cosines that a user sets, for CI; a failure names the item that breaks one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsteer.errors import WsteerError
from wsteer.monitoring.similarity import Similarity


@dataclass(frozen=True)
class Failure:
    """A cosine beyond its gate: the item, the delta, and the bound that it is `above` or `below`."""

    item: str
    delta: str
    cosine: float
    bound: float
    side: str

    @property
    def text(self) -> str:
        """One line that names the item."""
        return f"{self.item}: cosine with {self.delta} is {self.cosine:.4f}, {self.side} {self.bound:g}"


@dataclass(frozen=True)
class Gates:
    """Bounds by the name of a delta: cosines with it must not be above, or below, its bound."""

    above: Mapping[str, float]
    below: Mapping[str, float]

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse a gate on a delta that is not compared, before any work."""
        for name in (*self.above, *self.below):
            if name not in names:
                raise WsteerError(f"the gate {name!r} names no DELTA; they are {', '.join(names)}")

    def failures(self, table: Similarity) -> tuple[Failure, ...]:
        """The cosines that break a gate, in the table's order. An item's cosine with itself does not count."""
        found = []
        for i, j in table.pairs():
            cosine = table.cosines[i][j]
            pairs = [(table.columns[j], table.rows[i])]
            if table.row_items[i] in table.column_items:  # the row is itself one of the deltas
                pairs.append((table.rows[i], table.columns[j]))
            for delta, item in pairs:
                if cosine > self.above.get(delta, cosine):
                    found.append(Failure(item, delta, cosine, self.above[delta], "above"))
                if cosine < self.below.get(delta, cosine):
                    found.append(Failure(item, delta, cosine, self.below[delta], "below"))
        return tuple(found)
