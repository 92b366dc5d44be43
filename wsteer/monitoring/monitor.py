"""Cosines of changes of weights with deltas: one run of `wsteer monitor`, from paths to a folder of results."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

from matplotlib.figure import Figure

from wsteer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from wsteer.checkpoints.names import layer_name, likely_path, module_name
from wsteer.deltas.gram import Sums, grouped_sums
from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.errors import WsteerError
from wsteer.files.opening import check_unchanged
from wsteer.files.pictures import save
from wsteer.files.provenance import RECORD, record
from wsteer.files.saving import check_output, new_folder
from wsteer.files.text import write_json
from wsteer.monitoring.gates import Gates
from wsteer.monitoring.items import (
    Item,
    apart,
    comparable,
    distinct,
    in_tables,
    listed,
    open_items,
    place_of,
    short_names,
)
from wsteer.monitoring.pictures import heat_map, similarity_map, trajectory_picture
from wsteer.monitoring.report import Ceiling, Controls, MonitorReport, notes_on, write_pairs, write_per
from wsteer.monitoring.similarity import Similarity, part_similarity, similarity
from wsteer.monitoring.trajectories import Scores, read_scores, trajectories, write_trajectories
from wsteer.progress import Progress, silent
from wsteer.workers import beside

MOST_DRAWN = 200  # parts of a model in one picture


@dataclass(frozen=True)
class Settings:
    """What to compare with, and how: the options of `wsteer monitor` besides its items.

    `controls`: deltas of no interest, whose cosines show what is usual. `ceiling`: by a delta's name, deltas of the
    same training, repeated. `centre`: deltas whose mean is removed first. `per`: layer, module or parameter. `groups`:
    globs of names that are drawn together in pictures. `fail_above` and `fail_below`: bounds by a delta's name. A path
    alone counts as a list of one.
    """

    base: str | Path | None = None
    controls: Sequence[str | Path] = ()
    ceiling: Mapping[str, Sequence[str | Path]] = field(default_factory=dict)
    centre: Sequence[str | Path] = ()
    selection: Selection = EVERYTHING
    per: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    scores: Path | None = None
    fail_above: Mapping[str, float] = field(default_factory=dict)
    fail_below: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("controls", "centre"):
            object.__setattr__(self, name, listed(getattr(self, name)))
        object.__setattr__(self, "ceiling", {name: listed(paths) for name, paths in self.ceiling.items()})
        for option, bounds in (("fail_above", self.fail_above), ("fail_below", self.fail_below)):
            for name, bound in bounds.items():
                if math.isnan(bound):
                    raise WsteerError(f"{option}: the bound of {name} is NaN, which no cosine breaks; give a number")

    @property
    def references(self) -> list[str | Path]:
        """All items that the settings name."""
        return [*self.controls, *(path for paths in self.ceiling.values() for path in paths), *self.centre]

    @property
    def read(self) -> list[str | Path]:
        """All files and folders that the settings name."""
        return [*self.references, *(path for path in (self.base, self.scores) if path is not None)]

    @property
    def gates(self) -> Gates:
        """The bounds that the cosines must keep."""
        return Gates(self.fail_above, self.fail_below)

    @property
    def options(self) -> dict[str, object]:
        """The options besides inputs, as records list them."""
        own = {"per": self.per, "groups": self.groups, "fail_above": self.fail_above, "fail_below": self.fail_below}
        return {**{name: value for name, value in own.items() if value}, **self.selection.options}


def monitor(
    deltas: str | Path | Sequence[str | Path],
    output: str | Path,
    of: str | Path | Sequence[str | Path] = (),
    settings: Settings | None = None,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> MonitorReport:
    """Write the cosine of every item of `of` with every one of `deltas` (without `of`: of all pairs of `deltas`).

    Items are delta files, adapters, checkpoints (with a base), training folders, whose checkpoints form a trajectory,
    and Hub ids. Cosines are taken over the parameters that both change, in float64: low-rank changes in rank space,
    dense ones streamed. Each has its noise floor: one standard deviation of the cosine of noise on the same row spaces.

    Raises WsteerError for items of different bases, without a common parameter, or with a norm of zero.
    """
    settings = settings or Settings()
    deltas, of, output = listed(deltas), listed(of), Path(output)
    if not deltas:
        raise WsteerError("monitor needs one delta or more to compare with")
    check_output(output, force, folder=True, inputs=[*deltas, *of, *settings.read])
    compared = Compared.open(deltas, of, settings)
    scores = read_scores(settings.scores) if settings.scores else None
    if scores and not any(item.step is not None for item in compared.items):
        raise WsteerError(
            "--scores is drawn beside a trajectory: name a folder with checkpoint-<step> folders with --of"
        )
    with (
        new_folder(output, force) as partial,
        beside(lambda: [item.input.source for item in compared.items]) as sources,
    ):
        report = compared.report(output, settings, progress)
        check_unchanged(file for item in compared.items for file in item.input.files)
        _write(partial, report, settings.per, scores)
        write_json(partial / RECORD, record("monitor", settings.options, sources()))
    return report


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
        settings.gates.check_names(delta_names)
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
        return Compared(
            tuple(comparable(items, base, settings.selection)),
            base,
            len(columns),
            indices(delta),
            tuple((at[item.place], item) for item in rows),
            indices(controls),
            {name: indices(items) for name, items in ceilings.items()},
            indices(centre),
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
        return grouped_sums([item.delta.terms for item in self.items], self.columns, group, progress)

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
        by_part = self.sums(self._part(settings.per), progress)
        sums = Sums.zeros(len(self.items), self.columns)
        for part in by_part.values():
            sums.add(part)
        table = similarity(sums, self.names, self.rows, self.deltas, self.centre)
        gated = [index for index, _ in self.of] or self.deltas  # every step of a run
        everything = similarity(sums, self.names, gated, self.deltas, self.centre)
        parts = by_part if settings.per else {}
        return MonitorReport(
            output=str(output),
            similarity=table,
            controls=self._controls(sums, table) if self.controls else None,
            ceilings=self._ceilings(sums),
            trajectories=trajectories(sums, self.names, self.of, self.deltas, self.centre),
            per={name: part_similarity(part, self.rows, self.deltas, self.centre) for name, part in parts.items()},
            groups=_members(settings.groups, [*table.rows, *table.columns]),
            failures=settings.gates.failures(everything.measured()),
            notes=(*notes_on(table, bool(self.centre)), *apart(self.items, self.base)),
        )

    def _controls(self, sums: Sums, table: Similarity) -> Controls:
        rows, columns = (
            similarity(sums, self.names, indices, self.controls, self.centre) for indices in (self.rows, self.deltas)
        )
        level = tuple(
            tuple(
                max(_largest(rows, i, {row, column}), _largest(columns, j, {row, column}))
                for j, column in enumerate(table.column_items)
            )
            for i, row in enumerate(table.row_items)
        )
        beyond = tuple(
            tuple(abs(cosine) > bound for cosine, bound in zip(*pair, strict=True))
            for pair in zip(table.cosines, level, strict=True)
        )
        return Controls(rows.columns, rows.cosines, columns.cosines, level, beyond)

    def _ceilings(self, sums: Sums) -> tuple[Ceiling, ...]:
        found = []
        for delta in self.deltas:
            name = self.names[delta]
            if again := self.ceilings.get(name):
                table = similarity(sums, self.names, [delta], again, self.centre)
                found.append(Ceiling(name, table.columns, table.cosines[0]))
        return tuple(found)


def _largest(table: Similarity, i: int, besides: set[int]) -> float:
    """The largest absolute cosine of a row with the controls that are not in the pair itself."""
    sizes = [abs(c) for c, item in zip(table.cosines[i], table.column_items, strict=True) if item not in besides]
    return max(sizes, default=0.0)


def _first_of(items: Sequence[Item]) -> list[Item]:
    """Each item once, as it was named first."""
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(item.place, item)
    return list(found.values())


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


def _write(folder: Path, report: MonitorReport, by: str | None, scores: Scores | None) -> None:
    fields = report.as_json()
    del fields["output"]
    write_json(folder / "similarity.json", fields)
    write_pairs(folder / "similarity.csv", report)
    save(similarity_map(report.similarity, report.groups), folder / "similarity.png", svg=True)
    if report.trajectories:
        write_trajectories(folder / "trajectory.csv", report.trajectories)
        save(trajectory_picture(report.trajectories, scores), folder / "trajectory.png", svg=True)
    if by is not None:
        write_per(folder / f"similarity-per-{by}.csv", by, report)
        if len(report.per) <= MOST_DRAWN and report.similarity.pairs():
            save(_part_map(report, by), folder / f"similarity-per-{by}.png", svg=True)


def _part_map(report: MonitorReport, by: str) -> Figure:
    table = report.similarity
    pairs = table.pairs()[:MOST_DRAWN]
    values = tuple(tuple(part.cosines[i][j] for part in report.per.values()) for i, j in pairs)
    reach = max((abs(value) for row in values for value in row if value is not None), default=1.0)
    figure = heat_map([f"{table.rows[i]} · {table.columns[j]}" for i, j in pairs], list(report.per), values, reach)
    figure.axes[0].set_title(f"cosine of weight changes by {by}", fontsize=10)
    return figure
