"""The turns of a row: which of them are judged, and how they are named."""

from finery.rows import Row, split_turns


def place_of(row: Row) -> str:
    """How messages name the turn of a row that is judged: its id and its number from 1."""
    return f"{row['id']}, turn {len(split_turns(row)[0]) + 1}"
