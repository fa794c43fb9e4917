"""What a search finds."""

import msgspec


class Hit(msgspec.Struct, frozen=True):
    """A chunk that was found.

    score: BM25's, the cosine, or that of reciprocal rank fusion; 0 if it wasn't searched for.
    place: `{"line": 12}` or `{"page": 3}`. tokens: of its text as prompts contain it; None if the
    index counts none.
    """

    id: str
    text: str
    source: str
    heading: str
    score: float
    place: dict[str, int]
    tokens: int | None = None
