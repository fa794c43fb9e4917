"""The number of threads that llama.cpp uses. Answers don't depend on it."""

import time
from collections.abc import Callable

from finery import outside_key

TRIES = 4  # tokens for which a number of threads is tried
SLOW = 1.5  # times the current choice's time per token: not tried any further
FRESH, OLDEST = (
    10.0,
    80.0,
)  # seconds until the next comparison; doubled while the result stays the same


@outside_key
class Pace:
    """Chooses the fastest at the moment: all cores, half of them, or one.

    llama.cpp's threads spin at some 500 barriers per token, so a thread that waits for its core
    delays the others. With SmolLM2-135M on two busy cores, two threads reached 2.3 tokens a
    second and one reached 32. On idle cores, two reached 98 and one 65. Threads that sleep instead
    (OMP_WAIT_POLICY=PASSIVE) reached 35 in both cases.
    """

    def __init__(self, cores: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._choices = sorted({cores, (cores + 1) // 2, 1}, reverse=True)
        self._clock = clock
        self._best = cores
        self._trials: list[int] = []
        self._took: dict[int, list[float]] = {}
        self._compare_at = clock()
        self._holds = FRESH

    def for_prompt(self) -> int:
        """The number of threads for reading a prompt."""
        return self._best

    def for_token(self) -> int:
        """The number of threads for the next token; report its time to `took`."""
        if not self._trials and self._clock() >= self._compare_at and len(self._choices) > 1:
            alternatives = [n for n in self._choices if n != self._best]
            self._trials = [n for n in [self._best, *alternatives] for _ in range(TRIES)]
            self._took = {}
        return self._trials[0] if self._trials else self._best

    def took(self, threads: int, seconds: float) -> None:
        """Record the time of one token."""
        if not self._trials or self._trials[0] != threads:
            return
        self._took.setdefault(threads, []).append(seconds)
        self._trials.pop(0)
        if threads != self._best and seconds > SLOW * self._mean(self._best):
            self._trials = [n for n in self._trials if n != threads]
        if not self._trials:
            self._decide()

    def _decide(self) -> None:
        best = min(self._took, key=self._mean)
        self._holds = min(2 * self._holds, OLDEST) if best == self._best else FRESH
        self._best = best
        self._compare_at = self._clock() + self._holds

    def _mean(self, threads: int) -> float:
        return sum(self._took[threads]) / len(self._took[threads])
