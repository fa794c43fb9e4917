"""What `finery serve` and `finery chat` do at signals, and what an error says of a server."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from finery import StepError
from finery_serve.processes import ServerProgram, raise_at_signals

SIGNALS = [signal.SIGTERM, signal.SIGHUP]


class Ended(BaseException):
    """As SystemExit, no Exception."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The default handlers, which the tests' own process may not have."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_an_exception(number: signal.Signals) -> None:
    with pytest.raises(Ended), raise_at_signals(Ended()):
        signal.raise_signal(number)
    assert [signal.getsignal(one) for one in SIGNALS] == [signal.SIG_DFL] * 2


def test_a_second_signal_does_not_interrupt_the_cleaning_up() -> None:
    ended = []
    with suppress(Ended), raise_at_signals(Ended()):
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            for number in SIGNALS:
                signal.raise_signal(number)
            ended.append("cleaned up")
    assert ended == ["cleaned up"]


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_at_signals(Ended()):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)  # else further tests start processes that ignore it


def test_the_error_of_a_server_has_both_ends_of_a_long_line(tmp_path: Path) -> None:
    says = f"echo begins; echo ERROR what is wrong {'.' * 2000} and where; exit 3"
    program = ServerProgram(
        "it", ["sh", "-c", says], os.environ, 60, re.compile("ERROR"), lambda status, text: ""
    )
    ended = pytest.raises(StepError, match="exit code 3")
    with ended as error, program.running(tmp_path / "log", lambda: None):
        pass
    (line,) = error.value.details
    assert line.startswith("ERROR what is wrong")
    assert line.endswith("and where")
