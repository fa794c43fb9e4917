"""Search by meaning: the cosine of embeddings, exactly."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import Job, StepError
from finery_retrieve.embed.cached import CachedEmbedder
from finery_retrieve.embed.embedder import Embedding
from finery_retrieve.index.chunks import Chunk, Chunks

if TYPE_CHECKING:
    import numpy as np

FILE = "embeddings.npy"
"""float32, shape (chunks, dimensions), each of length 1."""
DIGITS = 6


class Embedded(NamedTuple):
    """What embedding the chunks came to. cut: chunks of which only the beginning is embedded."""

    dimensions: int
    cut: int


def write_embeddings(folder: Path, embedder: CachedEmbedder, job: Job) -> Embedded:
    """Embed the chunks in `folder`, in their order, and write the array beside them.

    Holds one batch in memory.
    """
    chunks = Chunks(folder)
    array: Any = None
    cut, done = 0, 0
    for batch in _batches(chunks, embedder.batch):
        embeddings = embedder.embed([chunk.searched for chunk in batch], "document")
        vectors = _vectors(embeddings, None if array is None else array.shape[1])
        if array is None:
            array = _created(folder / FILE, len(chunks), vectors.shape[1])
        array[done : done + len(batch)] = vectors
        done += len(batch)
        cut += sum(embedding.was_cut for embedding in embeddings)
        job.progress(done, len(chunks), f"embedding: {embedder.computed:,} new")
    array.flush()
    return Embedded(int(array.shape[1]), cut)


class Vectors:
    """Compares questions with the embeddings of an index."""

    def __init__(self, folder: Path, embedder: CachedEmbedder) -> None:
        import numpy as np

        self._array = np.load(folder / FILE, mmap_mode="r")
        self._embedder = embedder

    def embed(self, questions: Sequence[str]) -> "np.ndarray":
        """The embeddings of questions, shape (questions, dimensions)."""
        size = self._embedder.batch
        parts = [questions[at : at + size] for at in range(0, len(questions), size)]
        embeddings = [e for part in parts for e in self._embedder.embed(part, "question")]
        return _vectors(embeddings, self._array.shape[1])

    def scores(self, question: "np.ndarray") -> "np.ndarray":
        """The cosine of each chunk and an embedded question, shape (chunks,).

        Rounded to six digits: further ones depend on the order of additions, which differs between
        machines, and must not decide which of two chunks comes first.
        """
        import numpy as np

        cosines: np.ndarray = (self._array @ question).astype(np.float64)
        return cosines.round(DIGITS)


def _batches(chunks: Chunks, size: int) -> Iterator[list[Chunk]]:
    stream = iter(chunks)
    while batch := list(islice(stream, size)):
        yield batch


def _created(path: Path, rows: int, dimensions: int) -> Any:
    from numpy.lib.format import open_memmap

    return open_memmap(path, mode="w+", dtype="<f4", shape=(rows, dimensions))


def _vectors(embeddings: Sequence[Embedding], dimensions: int | None) -> "np.ndarray":
    """The vectors as an array. `StepError` if they don't have the expected length."""
    import numpy as np

    lengths = {len(embedding.vector) // 4 for embedding in embeddings}
    if len(lengths) > 1 or (dimensions is not None and lengths - {dimensions}):
        sizes = sorted(lengths | {dimensions or 0} - {0})
        raise StepError(
            f"the embedding model gives vectors of different lengths: {sizes}",
            fix="build the index again with the model that is served now",
        )
    joined = b"".join(embedding.vector for embedding in embeddings)
    return np.frombuffer(joined, dtype="<f4").reshape(len(embeddings), -1)
