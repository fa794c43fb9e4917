"""Search by meaning: the cosine of embeddings, exactly."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import Job, StepError
from finery_retrieve.embed.cached import CachedEmbedder, OtherLength
from finery_retrieve.embed.engines import Embedding
from finery_retrieve.index.chunks import Chunks

if TYPE_CHECKING:
    import numpy as np

FILE = "embeddings.npy"
"""float32, shape (chunks, dimensions), each of length 1."""
DIGITS = 6


class Embedded(NamedTuple):
    """The result of embedding the chunks. cut: number of chunks that were truncated."""

    dimensions: int
    cut: int


def write_embeddings(folder: Path, embedder: CachedEmbedder, job: Job) -> Embedded:
    """Embed the chunks in `folder`, in their order, and write the array next to them.

    Holds one batch in memory. Cached embeddings may come from a model that the server no longer
    runs. If the model gives vectors of another length, all of them are computed again.
    """
    try:
        return _written(folder, embedder, job, None)
    except OtherLength as error:
        length = error.dimensions
        job.log(f"the embedding model now gives vectors of length {length}: embedding all chunks")
    try:
        return _written(folder, embedder, job, length)
    except OtherLength as error:
        raise StepError(
            "the embedding model gives vectors of different lengths: "
            f"{length}, then {error.dimensions}",
            fix="check which model the server runs",
        ) from error


def _written(folder: Path, embedder: CachedEmbedder, job: Job, dimensions: int | None) -> Embedded:
    from numpy.lib.format import open_memmap

    chunks = Chunks(folder)
    array: Any = None
    cut, done = 0, 0
    stream = iter(chunks)
    while batch := list(islice(stream, embedder.batch)):
        texts = [chunk.searched for chunk in batch]
        embeddings = embedder.embed(texts, "document", dimensions)
        vectors = _vectors(embeddings)
        if array is None:
            dimensions = vectors.shape[1]
            shape = (len(chunks), dimensions)
            array = open_memmap(folder / FILE, mode="w+", dtype="<f4", shape=shape)
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
        size, dimensions = self._embedder.batch, int(self._array.shape[1])
        parts = [questions[at : at + size] for at in range(0, len(questions), size)]
        try:
            embeddings = [
                one for part in parts for one in self._embedder.embed(part, "question", dimensions)
            ]
        except OtherLength as error:
            raise StepError(
                f"the embeddings in the index have the length {dimensions}, those of the questions "
                f"{error.dimensions}: the server runs another model now",
                fix="start the server with the former model, or change `revision` in the step of "
                "the embedding model to embed the chunks again",
            ) from error
        return _vectors(embeddings)

    def scores(self, question: "np.ndarray") -> "np.ndarray":
        """The cosine of each chunk and an embedded question, shape (chunks,).

        Rounded to six digits: further ones depend on the order of additions, which differs between
        machines, and must not decide which of two chunks comes first.
        """
        import numpy as np

        cosines: np.ndarray = (self._array @ question).astype(np.float64)
        return cosines.round(DIGITS)


def _vectors(embeddings: Sequence[Embedding]) -> "np.ndarray":
    """The vectors, all of one length, as an array."""
    import numpy as np

    joined = b"".join(embedding.vector for embedding in embeddings)
    return np.frombuffer(joined, dtype="<f4").reshape(len(embeddings), -1)
