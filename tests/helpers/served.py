"""Models behind a real server: `transformers serve` on a free port of the loopback, for tests marked `real`."""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

LONGEST_START = 120  # seconds; two on an idle machine
RUNNING = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
# the server ends when its input does, so that none is left behind by tests that were killed
SERVER = """
import os, sys, threading
from transformers.cli.transformers import main

def watch():
    sys.stdin.buffer.read()
    os._exit(1)

threading.Thread(target=watch, daemon=True).start()
sys.argv[0] = "transformers"
main()
"""


@contextlib.contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    """The address, `http://127.0.0.1:PORT/v1`, of a server that loads models by the paths of their folders.

    It runs in the `with` body, and writes what it says to `serve.log` in the folder. Skips where what it needs is not
    installed: it comes with `wsteer[inspect]`.
    """
    for name in ("fastapi", "uvicorn", "openai"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"transformers serve needs {name}")
    log = folder / "serve.log"
    command = [sys.executable, "-c", SERVER, "serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with (
        log.open("wb") as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            yield f"{_address(process, log)}/v1"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _address(process: subprocess.Popen, log: Path) -> str:
    """What the server says that it listens on, as soon as it does."""
    for _ in range(10 * LONGEST_START):
        said = log.read_text(errors="replace")
        if found := RUNNING.search(said):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"transformers serve does not start: {said[-2000:]}")
