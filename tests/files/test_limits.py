"""What an input makes run ends in time and in memory."""

import contextlib
import re
import signal
import threading
import time

import pytest

from wsteer.errors import WsteerError
from wsteer.files.limits import bounded


def endless() -> None:
    while True:
        pass


def swallowing() -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def deep() -> None:
    deep()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (endless, "takes more than 0.2 s"),
        (swallowing, "takes more than 0.2 s"),
        (lambda: re.match(r"(([a-z])+)+!", "a" * 60), "takes more than 0.2 s"),
        (lambda: "a" * (1 << 40), "too much memory"),
        (lambda: [bytes(1 << 28) for _ in range(64)], "too much memory"),
        (deep, "too much depth"),
    ],
)
def test_what_does_not_end_is_one_line(body, says: str) -> None:
    seconds = 0.2 if "0.2" in says else 30
    with pytest.raises(WsteerError, match=f"^the rule .*{says}"), bounded("the rule", seconds, memory=1 << 30):
        body()


def test_afterwards_nothing_is_limited_and_errors_pass() -> None:
    with bounded("x", seconds=0.05):
        pass
    time.sleep(0.1)
    assert len(bytes(3 << 30)) == 3 << 30
    with pytest.raises(KeyError), bounded("x"):
        raise KeyError


def test_in_another_thread_the_body_runs() -> None:
    ran: list[int] = []

    def body() -> None:
        with bounded("x"):
            ran.append(1)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert ran == [1]


def test_the_limit_around_another_fires_inside_it_and_names_itself() -> None:
    started = time.monotonic()
    with pytest.raises(WsteerError, match=r"^outer takes more than 0.2 s"), bounded("outer", 0.2), bounded("inner", 30):
        endless()
    assert time.monotonic() - started < 5


def test_the_limit_around_others_counts_their_time() -> None:
    with pytest.raises(WsteerError, match=r"^outer takes more than 0.3 s"), bounded("outer", 0.3):
        for _ in range(500):
            with bounded("inner", 0.2):
                time.sleep(0.01)


def test_a_limit_inside_another_ends_first_and_the_other_goes_on() -> None:
    with pytest.raises(WsteerError, match=r"^outer takes more than 0.4 s"), bounded("outer", 0.4):
        with pytest.raises(WsteerError, match=r"^inner takes more than 0.1 s"), bounded("inner", 0.1):
            endless()
        endless()


def test_an_alarm_at_the_very_end_leaves_nothing_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    for step in range(300):
        with contextlib.suppress(WsteerError), bounded("x", 0.001, memory=None):
            end = time.perf_counter() + 0.0009 + step * 1e-6
            while time.perf_counter() < end:
                pass
        assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == (before, (0.0, 0.0))
