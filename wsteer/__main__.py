"""The program `wsteer`, also as `python -m wsteer`, `torchrun -m wsteer` and `accelerate launch -m wsteer`."""

import os
import signal
from types import FrameType


def interrupted(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C: while an import is under way end at once, since libraries do not survive one cut short."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"wsteer: interrupted\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line of this process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have it ignored, in the background
        signal.signal(signal.SIGINT, interrupted)  # before the imports, of which some take seconds
    from wsteer.cli import terminal
    from wsteer.cli.main import main as run

    terminal.install()
    try:
        run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: Python's own shutdown is not interrupted


if __name__ == "__main__":
    main()
