"""How much memory a recipe's template may take for one row.

`{{ 'a' * 10 ** 10 }}` is a short template and a text of 10 GB. Where the operating system refuses
the memory, Python raises `MemoryError`, and the template can be named; otherwise it kills some
process when the machine has no more.
"""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

BYTES = 2**30
"""Memory that a template may take for one row, beside what the process has."""
_STATM = "/proc/self/statm"  # proc_pid_statm(5)
_IS_TOLD = os.path.exists(_STATM)
_PAGE = os.sysconf("SC_PAGE_SIZE")


@contextmanager
def memory_limit() -> Iterator[None]:
    """`MemoryError` in what takes more than `BYTES`.

    The limit is on the address space of the whole process (`setrlimit(2)`). So it is set in the
    main thread alone, in which steps run, and on Linux alone: other systems don't hold it.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not _IS_TOLD:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + BYTES
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Of this process, in bytes."""
    file = os.open(_STATM, os.O_RDONLY)  # for each row: `open` takes three times as long
    try:
        return int(os.read(file, 32).partition(b" ")[0]) * _PAGE
    finally:
        os.close(file)
