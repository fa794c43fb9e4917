"""Limits on the time and memory of foreign code that runs in this process: templates, patterns.

`{{ 'a' * 10 ** 10 }}` is a short template and a text of 10 GB, and `(a+)+$` searches forty letters
for hours. Filters and operators that can do this are too many to check one by one, so the limits
are those of the operating system:

- Memory: the soft limit on the address space (`RLIMIT_AS`), relative to what the process uses now.
  Allocations beyond it fail, and Python raises `MemoryError`. Memory that is already mapped, such
  as a loaded model or CUDA's reservations, isn't affected. The limit covers all threads, so another
  thread's large allocation could fail too; hence it is in force only during one rendering.
- Time: a timer whose signal handler raises an exception between two Python instructions. Some
  operations of Python run long without ever looking for signals (`sum` over lists, a comparison of
  lists nested in themselves). For these a second timer ends the process, by SIGPROF.

A child process for templates would cost a copy of the row and its answer over a pipe each time, and
can't be forked safely from a process in which torch has threads.
"""

import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from finery.errors import DataError
from finery.rows.badrow import BadRow
from finery.rows.row import Conversation

MEMORY_BYTES = 2**29
"""Memory that a template may take for one row, in addition to what the process has."""
SECONDS = 10.0
"""CPU time that a pattern or template may take for one row."""
GRACE_SECONDS = 20.0
"""CPU time after that until the process ends, if nothing could be raised in it."""
_SLICE = 0.1
_running: list[tuple[float, float]] = []
"""When the time that runs is over, by this thread's CPU clock, and its length; none: empty."""
_STATM = "/proc/self/statm"  # proc_pid_statm(5)
_HAS_STATM = os.path.exists(_STATM)
_PAGE = os.sysconf("SC_PAGE_SIZE")


class LimitExceeded(Exception):
    """Code took more time or memory than it may; the text says which, as `takes more than …`."""


class TimeExceeded(LimitExceeded):
    """It took too much CPU time, and was stopped."""


class MemoryExceeded(LimitExceeded):
    """It asked for too much memory, and didn't get it."""


@contextmanager
def apply_limits(*, memory: int = MEMORY_BYTES, seconds: float | None = None) -> Iterator[None]:
    """Run code that nobody has checked, such as a model's chat template, under limits.

    memory: bytes it may allocate in addition to what the process has. seconds: CPU time of this
    thread, `SECONDS` by default; a busy machine refuses nothing that an idle one lets pass. Raises
    `MemoryExceeded` or `TimeExceeded`. Compiling a Jinja template can take as much as rendering it,
    so do both inside. A nested use changes nothing: the outer limits hold.

    Python runs signal handlers only in the main thread, which runs the steps of a worker. In other
    threads nothing is limited, and outside Linux memory isn't. Costs 20 to 30 µs.
    """
    with time_limit(seconds):
        try:
            with memory_limit(memory):
                yield
        except MemoryError:
            raise MemoryExceeded(f"takes more than {memory >> 20:,} MiB of memory") from None


@contextmanager
def memory_limit(memory: int = MEMORY_BYTES) -> Iterator[None]:
    """`MemoryError` in what allocates more than `memory` bytes; for parts of `apply_limits`."""
    if not _HAS_STATM or not _in_main_thread():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + memory
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)  # also that of an outer use
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def time_limit(seconds: float | None = None) -> Iterator[None]:
    """`TimeExceeded` in what takes more CPU time, see `apply_limits`."""
    if not hasattr(signal, "setitimer") or not _in_main_thread() or _running:
        yield
        return
    is_free = signal.getsignal(signal.SIGPROF) is signal.SIG_DFL  # else a profiler uses it
    try:
        try:
            _start(SECONDS if seconds is None else seconds, is_free)
            yield
        finally:
            _running.clear()
    finally:  # even if the signal came in the lines above
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if is_free:
            signal.setitimer(signal.ITIMER_PROF, 0)
        _running.clear()


def _start(seconds: float, can_end: bool) -> None:
    # The handler stays: to put the old one back takes longer than most renderings.
    if signal.getsignal(signal.SIGVTALRM) is not _check_time:
        signal.signal(signal.SIGVTALRM, _check_time)
    _running.append((time.thread_time() + seconds, seconds))
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, _SLICE)
    if can_end:
        signal.setitimer(signal.ITIMER_PROF, seconds + GRACE_SECONDS)


def _check_time(signum: int, frame: object) -> None:
    # The timer counts all threads of the process; only this one's time matters. The code may catch
    # what is raised here, so it is raised again after a while.
    if _running and time.thread_time() >= _running[0][0]:
        raise TimeExceeded(f"takes more than {_running[0][1]:g} s")


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _address_space() -> int:
    """Of this process, in bytes."""
    file = os.open(_STATM, os.O_RDONLY)  # for each row: `open` takes three times as long
    try:
        return int(os.read(file, 32).partition(b" ")[0]) * _PAGE
    finally:
        os.close(file)


_REPETITION_FIX = "rewrite it without nested repetitions such as (a+)+"


def search(pattern: re.Pattern[str], text: str, where: str) -> re.Match[str] | None:
    """The first match of a pattern. `BadRow` at the setting `where` if the search is slow."""
    with limit_patterns(f"{where}: the regular expression {pattern.pattern!r:.80}"):
        return pattern.search(text)


@contextmanager
def limit_patterns(label: str) -> Iterator[None]:
    """`BadRow` if patterns that are searched for here take too long. label: names them.

    The package regex can stop a search by itself, but is no replacement: the package jsonschema
    searches the patterns of JSON Schemas, and regex reads some patterns differently without an
    error, e.g. `[[:alpha:]]`, `a{s}` (fuzzy), `(?i)ı`, and `\\s` for U+001C.
    """
    try:
        with time_limit():
            yield
    except TimeExceeded as error:
        raise BadRow(f"{label} {error} for this row", _REPETITION_FIX) from None


BASIS, TIMES = 2**22, 8
"""Maximum output in characters: a basis, and an addition for each byte of the messages."""
_TEMPLATE_FIX = (
    "give the model another chat template: put a chat_template.jinja into a copy of its folder"
)


def compile_within_limits(work: Callable[[], Any]) -> Any:
    """Call `work`, which compiles a chat template. Raises the same errors as `render_messages`."""
    try:
        with apply_limits():
            return work()
    except LimitExceeded as error:
        raise DataError(f"the model's chat template {error}", fix=_TEMPLATE_FIX) from error


def render_messages(render: Callable[[], Any], messages: Conversation) -> str:
    """The text that `render` makes of messages with a model's own chat template.

    `DataError` if that takes too much time or memory, or if the text becomes longer than any
    tokenizer could process.
    """
    text = str(compile_within_limits(render))
    if len(text) > BASIS and len(text) > BASIS + TIMES * len(msgspec.json.encode(messages)):
        raise DataError(
            f"the model's chat template writes {len(text):,} characters for a short conversation",
            fix=_TEMPLATE_FIX,
        )
    return text
