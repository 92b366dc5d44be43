"""Results on stdout, as text or as one JSON object; notes, warnings and progress on stderr."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from wsteer import __version__
from wsteer.cli.terminal import one_line, raw

if TYPE_CHECKING:
    from wsteer.monitoring.gates import Failure

T = TypeVar("T")

GATE_FAILED = 3  # the exit code where a valid result fails a gate that the user set


@dataclass(frozen=True)
class Printer:
    """Prints one command's output, as its --json and --quiet ask."""

    json: bool = False
    quiet: bool = False

    def result(self, report: Any, lines: Sequence[str]) -> None:
        """The report as one JSON object, else `lines`; its warnings go to stderr either way."""
        fields = asdict(report) if is_dataclass(report) and not isinstance(report, type) else dict(report)
        for warning in fields.get("warnings", ()):
            _say(f"warning: {warning}")
        if self.json:
            print(json.dumps({**fields, "wsteer_version": __version__}, sort_keys=True, allow_nan=False), flush=True)
        else:
            print("\n".join(map(one_line, lines)), flush=True)

    def note(self, text: str) -> None:
        """A remark beside the result."""
        if not self.quiet:
            _say(text)

    def failure(self, text: str) -> None:
        """Why the command fails although its result is valid: a gate that the user set."""
        _say(text)

    def gates(self, failures: Sequence["Failure"]) -> None:
        """End with `GATE_FAILED` and a line for each, if bounds on what monitor measures are broken."""
        for failure in failures:
            self.failure(f"gate failed: {failure.text}")
        if failures:
            raise typer.Exit(GATE_FAILED)

    def command(self, text: str) -> None:
        """A command line, shown as if typed at a prompt, before it runs."""
        if not self.quiet:
            print(f"\n$ {one_line(text)}", file=sys.stderr)

    def progress(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """A progress bar on a terminal; else a line when the stage starts and one when it ends."""
        total = len(items) if total is None and isinstance(items, Sized) else total
        if self.quiet or total == 0:
            yield from items
        elif sys.stderr.isatty():
            yield from _bar(items, label, total)
        else:
            self.note(f"{label}: started" + (f", {total} to do" if total is not None else ""))
            start = time.perf_counter()
            yield from items
            self.note(f"{label}: done in {time.perf_counter() - start:.1f} s")


def _say(text: str) -> None:
    print(f"wsteer: {one_line(text)}", file=sys.stderr)


def _bar(items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),  # a label may hold a file's name
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(file=raw(sys.stderr))  # which is sent a terminal's commands
    with Progress(*columns, console=console) as bar:
        yield from bar.track(items, total=total, description=one_line(label))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> list[str]:
    """Lines of a plain table: the first `texts` columns left-aligned, the others, of numbers, right-aligned."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        padded = enumerate(zip(row, widths, strict=True))
        aligned = [cell.ljust(width) if i < texts else cell.rjust(width) for i, (cell, width) in padded]
        lines.append("  ".join(aligned).rstrip())
    return lines
