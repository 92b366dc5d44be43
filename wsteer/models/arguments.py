"""Arguments of the programs that run a model, checked at once: Python's callers have no command line to do it."""

import math

from wsteer.errors import WsteerError
from wsteer.models.devices import DEVICES
from wsteer.models.loading import DTYPE_NAMES


def check_count(name: str, value: object) -> None:
    """Refuse what is no whole number from 1 up."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WsteerError(f"{name} is {value!r}; it must be a whole number from 1 up")


def check_sampling(samples: int, max_new_tokens: int, temperature: float) -> None:
    """Refuse counts that are none, a temperature below 0, and several samples that would all be equal."""
    for name, count in (("samples", samples), ("max_new_tokens", max_new_tokens)):
        check_count(name, count)
    if not 0 <= temperature < math.inf:
        raise WsteerError(f"temperature is {temperature}; it must be a number from 0 up")
    if temperature == 0 and samples > 1:
        raise WsteerError(
            f"at temperature 0 all {samples} samples are equal; use --samples 1, or a temperature above 0"
        )


def check_run(batch_size: object, device: str, dtype: str) -> None:
    """Refuse a batch size, a device or a dtype with which no model runs."""
    check_count("batch_size", batch_size)
    for name, value, known in (("device", device, DEVICES), ("dtype", dtype, ("auto", *DTYPE_NAMES))):
        if str(value).partition(":")[0] not in known:  # cuda:1 is one of several
            raise WsteerError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
