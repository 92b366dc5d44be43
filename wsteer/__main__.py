"""The program `wsteer`, also as `python -m wsteer`, `torchrun -m wsteer` and `accelerate launch -m wsteer`."""

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # they end a command as Ctrl-C does: it cleans up
received: list[int] = []


def interrupted(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C and its kin: while an import is under way end at once, since libraries do not survive a cut."""
    received.append(number)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"wsteer: interrupted\n")
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line of this process."""
    for number in SIGNALS:  # before the imports, of which some take seconds
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell has Ctrl-C in the background, and nohup SIGHUP
            signal.signal(number, interrupted)
    from wsteer.cli import terminal
    from wsteer.cli.main import main as run

    terminal.install()
    try:
        run()
    except SystemExit as end:
        if end.code == 130 and received:
            end.code = 128 + received[0]
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: Python's own shutdown is not interrupted
        for number in SIGNALS[1:]:
            if signal.getsignal(number) is interrupted:
                signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main()
