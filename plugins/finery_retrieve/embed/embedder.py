"""What every embedding model does: texts in, vectors out."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from finery import Completion, DataError, Engine, Request, Sampling

Side = Literal["document", "question"]
"""What a text is. Some models want a different prefix before each."""
SIDES: tuple[Side, ...] = ("document", "question")


class Embedding(NamedTuple):
    """The embedding of a text.

    vector: little-endian float32, of length 1 as a vector. was_cut: whether the text was longer
    than the model reads, so that only its beginning is embedded.
    """

    vector: bytes
    was_cut: bool

    @property
    def dimensions(self) -> int:
        """Numbers in the vector."""
        return len(self.vector) // 4


class Interrupted(Exception):
    """An engine embedded only some of the texts.

    embeddings: by the number of the text. reason: what to raise once these are stored.
    """

    def __init__(self, embeddings: Mapping[int, Embedding], reason: BaseException) -> None:
        super().__init__(str(reason))
        self.embeddings = embeddings
        self.reason = reason


class Embedder(Engine):
    """An engine that embeds texts, and answers no prompts.

    batch: how many texts to embed at once.
    """

    batch: int = 32

    def embed(self, texts: Sequence[str], side: Side) -> list[Embedding]:
        """The embedding of each text, which doesn't depend on the other texts.

        May raise `Interrupted` with what is finished, so that it isn't computed again.
        """
        raise NotImplementedError

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Raise `DataError`: it can't."""
        raise DataError(
            "an embedding model can't answer prompts",
            fix="name a language model; embedding models are for retrieve.index",
        )


def packed(values: Sequence[float]) -> bytes:
    """A vector scaled to length 1, as bytes. `ValueError` if that isn't possible."""
    import numpy as np

    vector = np.asarray(values, dtype=np.float64)
    length = float(np.linalg.norm(vector))
    if vector.ndim != 1 or not np.isfinite(length) or length == 0.0:
        raise ValueError("it has a length of 0 or isn't finite")
    return (vector / length).astype("<f4").tobytes()
