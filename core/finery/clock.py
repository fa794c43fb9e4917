"""When a file's stat can be trusted to tell the next change."""

COARSE_NS = 2_000_000_000
"""The grain of file systems that keep whole seconds, or two of them as FAT does."""
FINE_NS = 100_000_000
"""Ten times the grain of the others: the kernel stamps files by its tick, 1 to 10 ms."""


def settled(mtime: int, ctime: int, now: int) -> bool:
    """Whether a file last changed so long before `now` that a further change would show.

    All in nanoseconds since the epoch. Times without a fraction of a second come from a coarse
    file system.
    """
    last = max(mtime, ctime)
    return now - last > (FINE_NS if last % 1_000_000_000 else COARSE_NS)
