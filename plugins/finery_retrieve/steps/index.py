"""`retrieve.index`: an index of chunks."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from finery import DataError, Dataset, Index, Job, Step, setting, takes
from finery.rows.dropped import Drops
from finery.rows.parts import named, read
from finery_retrieve.index.chunks import Chunk, ChunkWriter
from finery_retrieve.index.control import CONTROL
from finery_retrieve.index.lexical import FOLDER, LexicalWriter
from finery_retrieve.index.retriever import FORMAT
from finery_retrieve.index.words import Bm25


class RetrieveIndex(Step, sections=("data",), seeded=False, packages=("bm25s", "PyStemmer")):
    """Index chunks of documents, so that the ones that answer a question are found.

    `docs.files` makes such chunks; any rows with a text can be indexed. Chunks without a text and
    chunks with the id of an earlier one are dropped and listed in `dropped.jsonl`.
    """

    rows: list[Dataset] = takes(help="The chunks, e.g. of `docs.files`.")
    text: str = setting("text", help="The column with the text of a chunk.")
    method: Literal["bm25"] = setting(
        "bm25",
        help="bm25: finds chunks that share words with the question, the rarer the better.",
    )
    bm25: Bm25 = setting(Bm25(), help="How words are scored.")

    def run(self, job: Job) -> Index:
        """Write the chunks and what finds them."""
        drops = Drops(job.out)
        lexical = LexicalWriter(self.bm25)
        sources, control = Counter[str](), 0
        with drops, ChunkWriter(job.out) as writer:
            for chunk in self._chunks(job, drops):
                writer.add(chunk)
                lexical.add(chunk.text)
                sources[chunk.source] += 1
                control += CONTROL.search(chunk.text) is not None
        drops.refuse_nothing_left(len(writer), "give `rows` chunks that have a text")
        if lexical.is_empty:
            raise DataError(
                "no chunk has a word that BM25 could find it by",
                fix="set text to the column with the text; for languages without spaces between "
                "words use method: dense",
            )
        lexical.write(job.out / FOLDER)
        job.log(f"{len(writer):,} chunks of {len(sources):,} sources; {drops.summary(len(writer))}")
        meta: dict[str, Any] = {
            "format": FORMAT,
            "method": self.method,
            "chunks": len(writer),
            "sources": len(sources),
            "bm25": msgspec.to_builtins(self.bm25),
            "without_words": lexical.without_words,
            "control_tokens": control,
            **drops.meta(),
        }
        return Index(job.out, meta=meta)

    def _chunks(self, job: Job, drops: Drops) -> Iterator[Chunk]:
        seen = set[str]()
        for number, row in read(job, self.rows, "chunks"):
            text = row.get(self.text)
            if text is not None and not isinstance(text, str):
                raise DataError(
                    f"text: '{self.text}' of a chunk isn't text",
                    where=named(number, row),
                    fix="name a column that holds text",
                )
            if not (text or "").strip():
                drops.add(row, "empty", f"the chunk has no text in '{self.text}'")
            elif row["id"] in seen:
                drops.add(row, "repeated", "an earlier chunk has the same id")
            else:
                seen.add(row["id"])
                yield Chunk.of(row, text)
