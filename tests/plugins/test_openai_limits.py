"""How fast a server is asked, and how long finery waits for it."""

import asyncio
import selectors
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from finery_openai.limits import LONGEST_WAIT, Bucket, Hold, backoff, retry_after

NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": formatdate(NOW + 3, usegmt=True), "date": formatdate(NOW)}, 3.0),
        ({"retry-after": "soon"}, None),
    ],
)
def test_servers_say_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_is_held_against_the_clock_here_where_the_server_tells_no_time() -> None:
    wait = retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert wait is not None
    assert 28 < wait <= 30


def test_waits_grow_and_differ() -> None:
    for tries in range(1, 12):
        longest = min(LONGEST_WAIT, 0.5 * 2 ** (tries - 1))
        waits = {backoff(tries) for _ in range(20)}
        assert len(waits) > 1
        assert all(longest / 2 <= wait <= longest for wait in waits)


Taking = Callable[..., float]


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Taking:
    """Seconds that it takes to get units, by a clock that goes on only while everything waits."""
    now = 0.0

    class Clock(selectors.SelectSelector):
        def select(self, timeout: float | None = None) -> Any:
            nonlocal now
            now += timeout or 0
            return super().select(0)

    def seconds(limit: Bucket | Hold, *units: float) -> float:
        async def take() -> None:
            if isinstance(limit, Hold):
                await asyncio.gather(limit.passed(), limit.passed())
            else:
                await asyncio.gather(*(limit.take(n) for n in units))

        started = now
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Clock())) as runner:
            runner.run(take())
        return now - started

    monkeypatch.setattr(time, "monotonic", lambda: now)
    return seconds


def test_a_bucket_lets_through_so_many_a_minute(taking: Taking) -> None:
    bucket = Bucket(60 * 100, burst_seconds=0.1)  # a hundred a second, ten at once
    assert taking(bucket, *[1] * 40) == pytest.approx(0.3, abs=0.02)


def test_a_bucket_without_limit_holds_nobody(taking: Taking) -> None:
    assert taking(Bucket(None, burst_seconds=1), *[1e9] * 100) == 0


def test_more_than_a_bucket_holds_passes_and_is_waited_for(taking: Taking) -> None:
    bucket = Bucket(60 * 1000, burst_seconds=0.01)
    assert taking(bucket, 210) == 0
    assert taking(bucket, 1) == pytest.approx(0.2, abs=0.02)


def test_what_was_taken_too_much_is_given_back(taking: Taking) -> None:
    bucket = Bucket(60 * 10, burst_seconds=1)
    assert taking(bucket, 1000) == 0
    bucket.settle(-995)
    assert taking(bucket, 1) == 0


def test_a_hold_holds_all(taking: Taking) -> None:
    hold = Hold()
    hold.extend(0.1)
    hold.extend(0.01)
    assert taking(hold) == pytest.approx(0.1)
