"""The items of one comparison, opened and checked, and all that is computed from them."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

from wsteer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from wsteer.checkpoints.names import layer_name, likely_path, module_name
from wsteer.deltas.gram import Sums, grouped_sums
from wsteer.errors import WsteerError
from wsteer.models.devices import float64_device
from wsteer.monitoring.correlation import correlation, read_matrix
from wsteer.monitoring.gates import SHARED, Gates, gate_cannot_break
from wsteer.monitoring.items import (
    Item,
    apart,
    comparable,
    distinct,
    in_tables,
    open_items,
    place_of,
    short_names,
)
from wsteer.monitoring.report import Ceiling, Controls, MonitorReport, notes_on
from wsteer.monitoring.settings import Settings
from wsteer.monitoring.similarity import Similarity, nothing_shared, part_similarity, similarity
from wsteer.monitoring.trajectories import trajectories
from wsteer.progress import Progress


@dataclass(frozen=True)
class Compared:
    """The items of one comparison, each once; the first `columns` of them are those that others are compared with.

    The other fields are indices of the items; with those of `--of`, as what each was named: by itself, or in a run.
    """

    items: tuple[Item, ...]
    base: Checkpoint | None
    columns: int
    deltas: tuple[int, ...]
    of: tuple[tuple[int, Item], ...]
    controls: tuple[int, ...]
    ceilings: Mapping[str, tuple[int, ...]]
    centre: tuple[int, ...]
    device: str

    @staticmethod
    def open(deltas: Sequence[str | Path], of: Sequence[str | Path], settings: Settings) -> "Compared":
        """Open all items, reading only headers, and check that they can be compared."""
        base = open_checkpoint(settings.base) if settings.base is not None else None
        references: dict[str, str] = {}
        for path in map(str, [*deltas, *of, *settings.references]):
            references.setdefault(place_of(path), path)
        names = dict(zip(references, short_names(list(references.values())), strict=True))

        def opened(paths: Sequence[str | Path], role: str) -> list[Item]:
            return open_items(paths, role, names, base, settings.selection)

        delta = in_tables(opened(deltas, "DELTA"))
        controls = in_tables(opened(settings.controls, "--controls"))
        ceilings = {name: in_tables(opened(paths, "--ceiling")) for name, paths in settings.ceiling.items()}
        centre = in_tables(opened(settings.centre, "--centre"))
        rows = opened(of, "--of")
        columns = _first_of([*delta, *controls, *chain(*ceilings.values()), *centre])
        everything = _first_of([*columns, *rows])
        at = {item.place: index for index, item in enumerate(everything)}
        labels = distinct([item.name for item in everything])
        items = [replace(item, name=label) for item, label in zip(everything, labels, strict=True)]
        delta_names = [items[at[item.place]].name for item in delta]
        settings.gates.check_names(delta_names, () if settings.centre else (SHARED,))
        if (settings.fail_above or settings.fail_below) and len({item.place for item in [*delta, *rows]}) == 1:
            raise WsteerError(f"a gate needs something to compare {delta_names[0]} with; name it with --of")
        _check_ceilings(settings.ceiling, dict(zip(delta_names, delta, strict=True)), ceilings)

        def indices(items: Sequence[Item]) -> tuple[int, ...]:
            return tuple(at[item.place] for item in items)

        ends = {item.place for item in centre}
        if len(ends) == 2 and any(
            ends == {row.place, column.place} for row in rows or delta for column in [*delta, *controls]
        ):
            raise WsteerError(
                "--centre: without the mean of two deltas they are opposite, whatever they are; "
                "give a third delta, or leave --centre out"
            )
        compared = comparable(items, base, settings.selection)
        _check_gated(settings.gates, compared, [at[item.place] for item in delta], [at[item.place] for item in rows])
        return Compared(
            tuple(compared),
            base,
            len(columns),
            indices(delta),
            tuple((at[item.place], item) for item in rows),
            indices(controls),
            {name: indices(items) for name, items in ceilings.items()},
            indices(centre),
            float64_device(settings.device),
        )

    @property
    def names(self) -> list[str]:
        """The items' names."""
        return [item.name for item in self.items]

    @property
    def rows(self) -> list[int]:
        """The indices of the items that are the table's rows."""
        kept = {item.place for item in in_tables([item for _, item in self.of])}
        return [index for index, item in self.of if item.place in kept] or list(self.deltas)

    def sums(self, group: Callable[[str], str], progress: Progress) -> dict[str, Sums]:
        """The sums from which all tables are computed, for each group of parameters."""
        return grouped_sums([item.delta.terms for item in self.items], self.columns, group, progress, self.device)

    def _part(self, per: str | None) -> Callable[[str], str]:
        """Which part of the model a parameter belongs to: one for all, or `per` layer, module or parameter."""
        deltas = [item.delta for item in self.items]
        blocks = next((delta.blocks for delta in deltas if delta.blocks), None)
        blocks = blocks or likely_path(name for delta in deltas for name in delta.terms)
        layer = functools.partial(layer_name, blocks=blocks)
        parts: dict[str | None, Callable[[str], str]] = {"layer": layer, "module": module_name, "parameter": str}
        return parts.get(per, lambda name: "")

    def report(self, output: Path, settings: Settings, progress: Progress) -> MonitorReport:
        """Compute everything; the items' files are read once."""
        rows, columns = ([self.names[index] for index in indices] for indices in (self.rows, self.deltas))
        values = read_matrix(settings.correlate, rows, columns) if settings.correlate else None
        by_part = self.sums(self._part(settings.per), progress)
        sums = Sums.zeros(len(self.items), self.columns)
        for part in by_part.values():
            sums.add(part)
        table = similarity(sums, self.names, self.rows, self.deltas, self.centre)
        if (pairs := table.pairs()) and all(table.empty(*pair) for pair in pairs):
            i, j = pairs[0]
            raise WsteerError(nothing_shared(table.rows[i], table.columns[j]))
        gated = [index for index, _ in self.of] or self.deltas  # every step of a run
        everything = similarity(sums, self.names, gated, self.deltas, self.centre)
        parts = by_part if settings.per else {}
        return MonitorReport(
            output=str(output),
            similarity=table,
            controls=self._controls(sums, table) if self.controls else None,
            ceilings=self._ceilings(sums),
            trajectories=trajectories(sums, self.names, self.of, self.deltas, self.centre),
            per={
                name: part_similarity(part, table, self.rows, self.deltas, self.centre) for name, part in parts.items()
            },
            groups=_members(settings.groups, [*table.rows, *table.columns]),
            correlation=None if values is None else correlation(table, values, settings.seed),
            failures=settings.gates.failures(everything.measured()),
            notes=(*notes_on(table, bool(self.centre)), *apart(self.items, self.base)),
        )

    def _controls(self, sums: Sums, table: Similarity) -> Controls:
        rows, columns = (
            similarity(sums, self.names, indices, self.controls, self.centre) for indices in (self.rows, self.deltas)
        )
        level = tuple(
            tuple(
                max((*_sizes(rows, i, {row, column}), *_sizes(columns, j, {row, column})), default=None)
                for j, column in enumerate(table.column_items)
            )
            for i, row in enumerate(table.row_items)
        )
        beyond = tuple(
            tuple(
                None if cosine is None or bound is None else abs(cosine) > bound
                for cosine, bound in zip(*pair, strict=True)
            )
            for pair in zip(table.cosines, level, strict=True)
        )
        return Controls(rows.columns, rows.cosines, columns.cosines, level, beyond)

    def _ceilings(self, sums: Sums) -> tuple[Ceiling, ...]:
        found = []
        for delta in self.deltas:
            name = self.names[delta]
            if again := self.ceilings.get(name):
                table = similarity(sums, self.names, [delta], again, self.centre)
                cosines = [cosine for cosine in table.cosines[0] if cosine is not None]
                if len(cosines) < len(again):
                    apart = next(j for j in range(len(again)) if table.empty(0, j))
                    raise WsteerError(f"--ceiling: {nothing_shared(name, table.columns[apart])}")
                found.append(Ceiling(name, table.columns, tuple(cosines)))
        return tuple(found)


def _sizes(table: Similarity, i: int, besides: set[int]) -> list[float]:
    """The absolute cosines of a row with the controls that are not in the pair itself."""
    cosines = zip(table.cosines[i], table.column_items, strict=True)
    return [abs(cosine) for cosine, item in cosines if cosine is not None and item not in besides]


def _first_of(items: Sequence[Item]) -> list[Item]:
    """Each item once, as it was named first."""
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(item.place, item)
    return list(found.values())


def _check_gated(gates: Gates, items: Sequence[Item], deltas: Sequence[int], rows: Sequence[int]) -> None:
    """Refuse a gate on a pair without a parameter in common, before anything is computed."""
    gated = {gate.removesuffix(f":{SHARED}") for gate in (*gates.above, *gates.below)}
    for j, i in itertools.product(deltas, rows or deltas):
        if items[j].name in gated and items[j].delta.terms.keys().isdisjoint(items[i].delta.terms):
            raise WsteerError(gate_cannot_break(items[j].name, items[i].name, items[j].name))


def _check_ceilings(
    given: Mapping[str, object], deltas: Mapping[str, Item], ceilings: Mapping[str, Sequence[Item]]
) -> None:
    for name in given:
        if name not in deltas:
            raise WsteerError(f"--ceiling {name!r} names no DELTA; they are {', '.join(deltas)}")
        if any(item.place == deltas[name].place for item in ceilings[name]):
            raise WsteerError(f"--ceiling {name} names the delta itself; give the same training made again")


def _members(globs: Mapping[str, str], names: Sequence[str]) -> dict[str, list[str]]:
    """The names that match each group's glob; a name belongs to the first group that it matches."""
    groups: dict[str, list[str]] = {}
    taken: set[str] = set()
    for group, glob in globs.items():
        groups[group] = [name for name in dict.fromkeys(names) if name not in taken and fnmatchcase(name, glob)]
        if not groups[group]:
            raise WsteerError(f"--group {group}={glob} matches no item; they are {', '.join(dict.fromkeys(names))}")
        taken.update(groups[group])
    return groups
