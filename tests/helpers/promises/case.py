"""One careless or hostile use of the command line, and how it must end."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.helpers.command import Inputs


@dataclass(frozen=True)
class Case:
    """`arrange` makes the inputs and returns the arguments; the run must end with `code`.

    A failure (code 1, or 2 for wrong usage) is one line on stderr in which the regex `says` is found; code 0 is a run
    that must succeed, and `says` is then found in what it prints. `environment` is set for the run. A run may take
    `seconds`. A run that `hangs` is ended by a limit of time, which the test makes shorter. Unless a run succeeds,
    every file in its folder and of its inputs must be as it was before, and no other may be there.
    """

    name: str
    arrange: Callable[[Inputs], list]
    says: str
    code: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    seconds: float = 30
    hangs: bool = False
