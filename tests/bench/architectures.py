"""Run the whole chain on tiny random models of many architectures, and print the table of deltas/adapters/README.md.

    python tests/bench/architectures.py [NAME...]

Each cell is the largest error beside an independent computation (tests/helpers/chain.py), or why the command refuses.
It takes about five minutes on two cores.
"""

import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.architectures import ARCHITECTURES, NEEDS_IMAGES, TOWERS
from tests.helpers.chain import COMMANDS, Chain


def main(names: list[str]) -> None:
    """Print the table's rows as they are made, then the refusals in full."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    notes: dict[str, list[str]] = {}
    print(f"| architecture | {' | '.join(COMMANDS)} |\n|---{'|---' * len(COMMANDS)}|")
    for name in names:
        folder = Path(tempfile.mkdtemp())
        try:
            cells = [_cell(value, name, notes) for value in Chain(folder, name).cells().values()]
        except Exception:
            cells = [f"FAILED {traceback.format_exc().splitlines()[-1]}", *[""] * (len(COMMANDS) - 1)]
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"| {name}{' (towers)' if name in TOWERS else ''} | {' | '.join(cells)} |", flush=True)
    for number, (note, where) in enumerate(notes.items(), 1):
        print(f"\n({number}) {', '.join(where)}: {note}")


def _cell(value: float | str, name: str, notes: dict[str, list[str]]) -> str:
    if isinstance(value, float):
        return f"{value:.0e}" if value else "0"
    if value == "-":  # what the command reads was refused before
        return value
    notes.setdefault(value, []).append(name)
    return f"refused ({list(notes).index(value) + 1})"


if __name__ == "__main__":
    main(sys.argv[1:] or [name for name in ARCHITECTURES if name not in NEEDS_IMAGES])
