"""The output folder of a run that several processes and several attempts may share."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from wsteer.saving import new_folder, partial_folder
from wsteer.training import processes


@contextlib.contextmanager
def shared_folder(output: Path, force: bool, recorded: dict, resume: bool) -> Iterator[Path]:
    """The folder to write: the first process makes it, and puts it in its place when all are done.

    `recorded` tells an interrupted run, whose folder `resume` goes on with, from one of other options or inputs.
    """
    key = hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()[:12]
    if processes.rank():
        processes.wait()
        yield partial_folder(output, key)
        processes.wait()
        return
    with new_folder(output, force, key, resume) as partial:
        processes.wait()
        yield partial
        processes.wait()
