"""What a row's length is."""

from finery.rows import Row


def length(row: Row) -> int:
    """Characters of the prompt."""
    return len(row["prompt"])
