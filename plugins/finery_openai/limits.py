"""How fast a server may be asked: rate limits, and how long to wait before asking again."""

import asyncio
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds: the wait before the first retry, which doubles each time, and its limit."""


class Bucket:
    """A token bucket: `per_minute` units flow in evenly, and what isn't used is kept for a while.

    Taking more than there is leaves a debt, which those who come next wait for; so a request
    larger than the bucket passes too. None: no limit.
    """

    def __init__(self, per_minute: float | None, burst_seconds: float) -> None:
        self._rate = per_minute / 60 if per_minute else None
        self._most = max(1.0, (self._rate or 0.0) * burst_seconds)
        self._level = self._most
        self._at = time.monotonic()
        self._turn = asyncio.Lock()  # first come, first served

    async def take(self, units: float) -> None:
        """Wait until there is something, and take `units`."""
        if self._rate is None:
            return
        async with self._turn:
            while (level := self._filled()) <= 0:
                await asyncio.sleep(-level / self._rate + 1e-3)
            self._level -= units

    def settle(self, units: float) -> None:
        """Take `units` more, or give them back if negative: what was taken was an estimate."""
        self._level -= units

    def _filled(self) -> float:
        now = time.monotonic()
        self._level = min(self._most, self._level + (now - self._at) * (self._rate or 0.0))
        self._at = now
        return self._level


class Hold:
    """Lets nobody through until a time: what a server asks of one request holds for all."""

    def __init__(self) -> None:
        self._until = 0.0

    def extend(self, seconds: float) -> None:
        """Let nobody through for so many seconds."""
        self._until = max(self._until, time.monotonic() + seconds)

    async def passed(self) -> None:
        """Wait until it is over."""
        while (left := self._until - time.monotonic()) > 0:
            await asyncio.sleep(left)


def backoff(tries: int) -> float:
    """Seconds to wait after the `tries`-th failure in a row: exponential, with jitter."""
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tries - 1))
    return longest * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, None if it doesn't say (RFC 9110, 10.2.3).

    Retry-After is a number of seconds or an HTTP date; OpenAI's own header counts milliseconds.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    written = headers.get("retry-after")
    if (seconds := _number(written)) is not None:
        return seconds
    then, now = _time(written), _time(headers.get("date"))
    if then is None:
        return None
    return max(0.0, then - (time.time() if now is None else now))


def _number(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None


def _time(text: str | None) -> float | None:
    """Seconds since the epoch of an HTTP date."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except ValueError:
        return None
