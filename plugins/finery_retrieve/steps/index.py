"""`retrieve.index`: an index of chunks, with the number of their tokens."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median_low
from typing import Any, Literal

import msgspec

from finery import (
    DataError,
    Dataset,
    Index,
    Job,
    Key,
    Model,
    Promise,
    Rehearsal,
    Resources,
    Step,
    UsageError,
    outside_key,
    setting,
    takes,
)
from finery.advanced import counted
from finery.rows.dropped import Drops, reason_counts
from finery.rows.parts import read_numbered, row_label
from finery_retrieve.embed.cached import CachedEmbedder
from finery_retrieve.embed.steps import LOCAL
from finery_retrieve.formats import (
    COUNTS_TOKENS,
    RERANKER,
    require_embedder,
    require_format,
    require_tokenizer,
)
from finery_retrieve.index.chunks import (
    FORMAT,
    Chunk,
    ChunkWriter,
    escape_control_tokens,
    has_control_tokens,
)
from finery_retrieve.index.retriever import write_embeddings
from finery_retrieve.index.words import FOLDER, Bm25, LexicalWriter

LEXICAL = {"bm25s": "finery[retrieve]", "PyStemmer": "finery[retrieve]"}
COUNTING = {"transformers": "finery[train]"}
BATCH, REHEARSED = 512, 8
"""Most chunks that are tokenized at once, and that a rehearsal embeds."""
CHARACTERS = 2**20
"""Characters from which on fewer chunks are a batch."""


def in_words(facts: Mapping[str, int], name: str) -> str:
    """The facts of `TokenCounts`. name: of the model with the tokenizer."""
    return f"median {facts['median']:,}, longest {facts['longest']:,} (tokenizer of {name})"


class TokenCounts:
    """Counts the tokens of chunks, and holds four bytes for each chunk.

    Raises `StepError` for a model whose tokenizer can't be loaded.
    """

    def __init__(self, model: Model) -> None:
        self._tokenizer: Any = _tokenizer_of(model)
        self._counts = array("I")

    def counted(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The chunks, each with the tokens of its text as prompts contain it.

        Without the special tokens that a tokenizer adds around a text.
        """
        for batch in _batches(chunks):
            for chunk, count in zip(batch, self._count(batch), strict=True):
                self._counts.append(count)
                yield msgspec.structs.replace(chunk, tokens=count)

    def facts(self) -> dict[str, int]:
        """The median, the most and the sum of the counts so far, of which there is at least one."""
        counts = self._counts
        return {"median": median_low(counts), "longest": max(counts), "total": sum(counts)}

    def _count(self, chunks: list[Chunk]) -> list[int]:
        encoded = self._tokenizer(
            [escape_control_tokens(chunk.text) for chunk in chunks],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [len(ids) for ids in encoded["input_ids"]]


@outside_key
def _tokenizer_of(model: Model) -> Any:
    """The model's tokenizer; `cache_key` has the code of an index that counts tokens."""
    from finery_transformers.loading import load_tokenizer

    return load_tokenizer(model)


def _batches(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    batch, characters = list[Chunk](), 0
    for chunk in chunks:
        batch.append(chunk)
        characters += len(chunk.text)
        if len(batch) == BATCH or characters >= CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class RetrieveIndex(
    Step,
    sections=("data",),
    seeded=False,
    engines=True,
):
    """Index chunks of documents, to find those that answer a question.

    `docs.files` makes such chunks; any rows with a text can be indexed. Chunks without a text and
    chunks with the id of an earlier one are dropped and listed in `dropped.jsonl`.
    """

    rows: list[Dataset] = takes(help="The chunks, e.g. of `docs.files`.")
    text: str = setting("text", column_of="rows", help="The column with the text of a chunk.")
    method: Literal["bm25", "dense", "hybrid"] = setting(
        "bm25",
        help="bm25: finds chunks that share words with the question, the rarer the better. dense: "
        "chunks whose embeddings are closest to the question's (cosine, exact). hybrid: both, "
        "joined by reciprocal rank fusion.",
    )
    embedder: Model | None = takes(
        None, help="The embedding model for dense and hybrid, e.g. of `retrieve.wheel`."
    )
    dimensions: int | None = setting(
        None,
        ge=1,
        help="Keep only the first numbers of each embedding, for a smaller index. Models trained "
        "for it lose little, e.g. those of `embed.train` with `dimensions`.",
    )
    bm25: Bm25 = setting(Bm25(), help="How words are scored.")
    tokenizer: Model | None = takes(
        None,
        uses_name=True,
        role="tokenizer",
        help="The model whose tokenizer counts the tokens of each chunk, e.g. the base of the "
        "training. `limit` of the steps that use the index needs the counts.",
    )

    def outputs(self) -> dict[str, Promise]:
        """With whether the index counts tokens, for the checks of steps with a `limit`."""
        return {"": Promise(Index, {COUNTS_TOKENS: self.tokenizer is not None})}

    def rehearsal(self) -> Rehearsal:
        """All chunks, since questions name them."""
        return Rehearsal(rows="all", run=self.rehearse)

    def rehearse(self, job: Job) -> Index:
        """Run, with the embeddings of a few chunks for all."""
        find, first = job.raw_engine, list[Any]()

        def find_quick(model: Model) -> Any:
            engine: Any = find(model)
            embed = engine.embed

            def embed_first(texts: Sequence[str], side: str) -> list[Any]:
                first.extend([] if first else embed(texts[:REHEARSED], side))
                return [first[number % len(first)] for number in range(len(texts))]

            engine.embed = embed_first
            return engine

        job.raw_engine = find_quick  # type: ignore[method-assign]
        return self.run(job)

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        if self.method != "dense" and self.bm25.method in ("bm25l", "bm25+") and not self.bm25.k1:
            raise UsageError(
                f"with k1: 0, {self.bm25.method} scores chunks with and without a word the same, "
                "and finds nothing",
                where="bm25.k1",
                fix="use a k1 above 0, or another method of bm25, e.g. lucene",
            )
        if self.method == "bm25" and self.embedder is not None:
            raise UsageError(
                "bm25 uses no embedding model",
                where="embedder",
                fix="remove embedder, or set method: hybrid",
            )
        if self.method == "bm25" and self.dimensions is not None:
            raise UsageError(
                "bm25 has no embeddings to shorten",
                where="dimensions",
                fix="remove dimensions, or set method: dense",
            )
        if self.method != "bm25" and self.embedder is None:
            raise UsageError(
                f"method: {self.method} needs an embedding model",
                where="method",
                fix="set embedder to a step that makes one, e.g. retrieve.wheel",
            )
        if self.embedder is not None:
            require_embedder(self.embedder, "embedder")
        if self.tokenizer is not None:
            require_tokenizer(self.tokenizer, "tokenizer")

    def cache_key(self) -> Key:
        """The packages that build and read the index of words, and those that count tokens."""
        key = super().cache_key() | Key(packages=() if self.method == "dense" else (*LEXICAL,))
        if self.tokenizer is None:
            return key
        from finery_transformers.loading import load_tokenizer

        return key | Key(packages=("tokenizers", "transformers"), code=(load_tokenizer,))

    def resources(self) -> Resources:
        """bm25s and its stemmer, unless the index is searched by embeddings alone; a tokenizer."""
        lexical = {} if self.method == "dense" else LEXICAL
        return Resources(packages=lexical if self.tokenizer is None else {**lexical, **COUNTING})

    def run(self, job: Job) -> Index:
        """Write the chunks and what finds them."""
        drops = Drops(job.out)
        lexical = LexicalWriter(self.bm25) if self.method != "dense" else None
        counts = TokenCounts(self.tokenizer) if self.tokenizer is not None else None
        sources, control = Counter[str](), 0
        with drops, ChunkWriter(job.out) as writer:
            chunks = self._chunks(job, drops)
            for chunk in counts.counted(chunks) if counts is not None else chunks:
                writer.add(chunk)
                if lexical is not None:
                    lexical.add(chunk.searched)
                sources[chunk.source] += 1
                control += has_control_tokens(chunk.text)
        drops.refuse_nothing_left(len(writer), "give `rows` chunks that have a text")
        dropped = f"; dropped: {reason_counts(drops.counts)}" if drops.counts else ""
        job.log(f"{counted(len(writer), 'chunk')} of {counted(len(sources), 'source')}{dropped}")
        if control:
            job.log(
                f"{counted(control, 'chunk')} with control tokens of chat templates, such as "
                "<|im_end|>: prompts show them with a space inside, so that models read plain text"
            )
        index = Index(job.out, meta={
            "format": FORMAT,
            "method": self.method,
            "chunks": len(writer),
            "sources": len(sources),
            "control_tokens": control,
            COUNTS_TOKENS: self.tokenizer is not None,
            **drops.meta(),
        })  # fmt: skip
        if self.tokenizer is not None and counts is not None:
            index.meta["tokens"] = facts = counts.facts()
            index.runtime["tokenizer"] = name = self.tokenizer.name  # it changes no prompt
            job.log(f"tokens per chunk: {in_words(facts, name)}")
        if lexical is not None:
            index.meta |= self._write_words(lexical, job)
        if self.embedder is not None:
            self._add_embeddings(self.embedder, index, job)
        return index

    def _write_words(self, lexical: LexicalWriter, job: Job) -> dict[str, Any]:
        """Write the index of words; facts about it."""
        if lexical.is_empty:
            raise DataError(
                "no chunk has a word that BM25 could find it by",
                fix="set text to the column with the text, or use method: dense",
            )
        if count := lexical.without_words:
            job.log(f"{counted(count, 'chunk')} without words, which BM25 can't find")
        lexical.write(job.out / FOLDER)
        settings = msgspec.to_builtins(self.bm25)
        return {"bm25": settings, "without_words": lexical.without_words}

    def _add_embeddings(self, model: Model, index: Index, job: Job) -> None:
        """Embed the chunks, and add the embeddings to the index."""
        embedder = CachedEmbedder(model, job)
        embedded = write_embeddings(job.out, embedder, job, self.dimensions)
        if (self.dimensions or 0) > embedded.whole:
            raise UsageError(
                f"the model's embeddings have only {embedded.whole} numbers",
                where="dimensions",
                fix=f"use a number up to {embedded.whole}",
            )
        job.log(
            f"embedded {embedder.computed:,} of {index.meta['chunks']:,} chunks; "
            f"{embedder.cached:,} embeddings came from the cache"
        )
        if embedded.cut:
            job.log(
                f"{counted(embedded.cut, 'chunk')} longer than the embedding model reads: only the "
                "beginning is embedded (make chunks smaller)"
            )
        index.meta |= {
            "dimensions": embedded.dimensions, "cut": embedded.cut, "embedder": model.digest,
        }  # fmt: skip
        if embedded.dimensions < embedded.whole:
            index.meta["whole_dimensions"] = embedded.whole
        index.refs["embedder"] = model
        index.runtime |= {"embedded": embedder.computed, "from_cache": embedder.cached}

    def _chunks(self, job: Job, drops: Drops) -> Iterator[Chunk]:
        seen = set[str]()
        for number, row in read_numbered(job, self.rows, "chunks"):
            text = row.get(self.text) or ""
            if not isinstance(text, str):
                raise DataError(
                    f"text: '{self.text}' of a chunk isn't text",
                    where=row_label(number, row),
                    fix="name a column that holds text",
                )
            if not text.strip():
                drops.add(row, "empty", f"the chunk has no text in '{self.text}'")
            elif row["id"] in seen:
                drops.add(row, "repeated", "an earlier chunk has the same id")
            else:
                seen.add(row["id"])
                yield Chunk.of(row, text)


class RetrieveRerank(Step, sections=("data",), seeded=False, installs=LOCAL):
    """Retrieve more chunks than needed, and put them in the order of a reranker.

    The result is an index like any other: models answer from it, and eval.retrieval compares it
    with the index that it is made of. Each question costs `candidates` passes of the reranker.
    """

    index: Index = takes(help="The index that retrieves the candidates.")
    model: Model = takes(help="The reranker, of `rerank.train`.")
    candidates: int = setting(
        20, ge=2, le=1000, help="Chunks to rerank. Those after them follow in their own order."
    )

    def outputs(self) -> dict[str, Promise]:
        """With whether the index counts tokens, for the checks of steps with a `limit`."""
        meta = {name: fact for name, fact in self.index.meta.items() if name == COUNTS_TOKENS}
        return {"": Promise(Index, meta)}

    def check(self) -> None:
        """Raise `UsageError` for inputs that can't work. Light: reads no input."""
        fix = "name a step of rerank.train"
        require_format(self.model, "model", (RERANKER,), "can't rerank chunks", fix)
        if self.index.meta.get("format", FORMAT) != FORMAT or "reranker" in self.index.refs:
            raise UsageError(
                "the index can't be reranked here: another plugin made it, or it already is",
                where="index",
                fix="name a step of retrieve.index",
            )

    def run(self, job: Job) -> Index:
        """Copy the index, and add the reranker."""
        root = self.index.path
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and name != "manifest.json":  # finery's own
                job.copy(path, name)
        meta = {**self.index.meta, "reranker": self.model.digest, "candidates": self.candidates}
        refs = {**self.index.refs, "reranker": self.model}
        return Index(job.out, meta=meta, refs=refs, runtime=dict(self.index.runtime))
