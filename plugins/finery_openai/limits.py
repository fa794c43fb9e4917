"""The rate of requests: rate limits, and waits before retries."""

import asyncio
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds: the wait before the first retry, which doubles each time, and its upper limit."""


class Bucket:
    """A token bucket: `per_minute` units flow in evenly, up to `burst_seconds` of them are kept.

    A request that takes more than the bucket holds leaves a debt, and the next requests wait until
    it is paid off. So a request larger than the bucket passes too. None: no limit.
    """

    def __init__(self, per_minute: float | None, burst_seconds: float) -> None:
        self._rate = per_minute / 60 if per_minute else None
        self._most = max(1.0, (self._rate or 0.0) * burst_seconds)
        self._level = self._most
        self._at = time.monotonic()
        self._turn = asyncio.Lock()  # first come, first served

    async def take(self, units: float) -> None:
        """Wait until the bucket isn't empty, and take `units`."""
        if self._rate is None:
            return
        async with self._turn:
            while (level := self._filled()) <= 0:
                await asyncio.sleep(-level / self._rate + 1e-3)
            self._level -= units

    def settle(self, units: float) -> None:
        """Take `units` more, or return them if negative, once the real number is known."""
        self._level -= units

    def _filled(self) -> float:
        now = time.monotonic()
        self._level = min(self._most, self._level + (now - self._at) * (self._rate or 0.0))
        self._at = now
        return self._level


class Hold:
    """Holds back all requests until a given time, since a server's wait applies to all of them."""

    def __init__(self) -> None:
        self._until = 0.0

    def extend(self, seconds: float) -> None:
        """Hold back requests for this many seconds."""
        self._until = max(self._until, time.monotonic() + seconds)

    async def passed(self) -> None:
        """Wait until requests may be sent."""
        while (seconds_left := self._until - time.monotonic()) > 0:
            await asyncio.sleep(seconds_left)


def backoff(tries: int) -> float:
    """Seconds to wait after the `tries`-th failure in a row: exponential, with jitter."""
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tries - 1))
    return longest * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, or None (RFC 9110, 10.2.3).

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
