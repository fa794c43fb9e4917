"""How long a recipe's regular expressions and templates may take for one row.

A pattern such as `(a+)+$` tries every way to split a text before it gives up: hours for forty
letters. The time is CPU time, so that a busy machine refuses nothing that an idle one lets pass.

The package regex can stop a search by itself, and is no replacement: patterns of JSON Schemas are
searched by the package jsonschema, templates have no patterns, and regex reads some patterns
otherwise without an error, e.g. `[[:alpha:]]`, `a{s}` (fuzzy), `(?i)ı`, and `\\s` for U+001C.
"""

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from finery.rows.badrow import BadRow

SECONDS = 10.0
"""CPU time that one pattern or template may take for one row."""
_SLICE = 0.1
_REPEATED = "rewrite it without a repetition inside a repetition, such as (a+)+"


class Slow(Exception):
    """What was begun took too much CPU time, and was stopped."""

    def __str__(self) -> str:
        return f"takes more than {SECONDS:g} s for this row"


@contextmanager
def patience() -> Iterator[None]:
    """Raise `Slow` in what takes too long. Not to be nested.

    Python runs handlers of signals in a process's main thread alone, and steps run in that of
    their worker. In any other thread, and on systems without such timers, nothing is limited.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "setitimer"):
        yield
        return
    end = time.thread_time() + SECONDS

    def look(signum: int, frame: object) -> None:
        # The timer counts all threads of the process; only this one's time matters.
        if time.thread_time() >= end:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            raise Slow

    handler = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, _SLICE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)


def search(pattern: re.Pattern[str], text: str, where: str) -> re.Match[str] | None:
    """Where the pattern is first found; `BadRow` naming the setting `where` if that takes long."""
    with patterns_of(f"{where}: the regular expression {pattern.pattern!r:.80}"):
        return pattern.search(text)


@contextmanager
def patterns_of(what: str) -> Iterator[None]:
    """`BadRow` where patterns that are searched for here take too long. what: names them."""
    try:
        with patience():
            yield
    except Slow as error:
        raise BadRow(f"{what} {error}", _REPEATED) from None
