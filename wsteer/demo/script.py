"""An experiment as a bash script, which gives the same bytes as a run of it."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from wsteer.demo.experiment import SHIPPED, Experiment
from wsteer.demo.model import without_fetching
from wsteer.demo.plan import Planned, model_of, plan
from wsteer.files.text import escaped

MODEL = "\ue000"  # stands for the model while words are quoted
GATE = """ || { code=$?; [ "$code" -eq 3 ] || exit "$code"; }"""  # a gate that fails is no failure of the step


def script(
    experiment: Experiment, scale: str, output: Path, model: str | None = None, follow_links: bool = False
) -> list[str]:
    """The lines of the script, which runs in a new folder `output`.

    No model is fetched. The environment's MODEL, a folder or a Hub id, is used instead.
    """
    named = without_fetching(model_of(experiment, scale, model))
    folder = os.fspath(output) if output.is_absolute() else f"./{output}"  # no option, and nothing of CDPATH
    shown = experiment.name if experiment.path.parent == SHIPPED else experiment.path
    lines = [
        "#!/usr/bin/env bash",
        _comment(f"{experiment.title} (section {experiment.section}): wsteer demo {shown} --scale {scale}"),
        "set -euo pipefail",
        f"MODEL=${{MODEL:-{quoted(named)}}}",
        'if [ -d "$MODEL" ]; then MODEL=$(CDPATH= cd -P -- "$MODEL" && pwd); fi',
        *([f"mkdir -p {quoted(os.path.dirname(folder))}"] if os.path.dirname(folder) not in (".", "/") else []),
        f"mkdir {quoted(folder)}  # a new one: results of two runs do not mix",
        f"cd {quoted(folder)}",
    ]
    for step in plan(experiment, scale, MODEL):
        lines += ["", *_step(step, follow_links)]
    return lines


def quoted(word: str) -> str:
    """A word as bash reads it, whatever is in it; the model as $MODEL."""
    return (
        "".join('"$MODEL"' if part == MODEL else _quoted(part) for part in re.split(f"({MODEL})", word) if part) or "''"
    )


def _quoted(text: str) -> str:
    if escaped(text) == text and "\n" not in text:
        return shlex.quote(text)
    return (
        "$'"
        + "".join(
            chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(text)
        )
        + "'"
    )


def _step(step: Planned, follow_links: bool) -> Iterator[str]:
    of = step.command.step
    section = f" (section {of.section})" if of.section else ""
    line = " ".join(["wsteer", *map(quoted, step.words(follow_links))])
    if step.left_out is not None:
        yield _comment(f"Left out, since {step.left_out}: {of.does}{section}")
        yield _comment(line)
        return
    yield _comment(f"{of.does}{section}")
    yield line + (GATE if of.gate else "")


def _comment(text: str) -> str:
    """A comment, of one line whatever is in the text: behind a line break there would be a command."""
    return f"# {escaped(' '.join(text.split()))}"
