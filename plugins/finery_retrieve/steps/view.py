"""The display of indexes, rows with retrieved documents, and models that retrieve."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from finery.advanced import Manifest, counted
from finery.rows import Row, snippet
from finery.rows.dropped import DROPPED
from finery.rows.files import lines_of
from finery.views import (
    Context,
    Detail,
    Field,
    Output,
    Part,
    Record,
    Section,
    View,
    counts_in_words,
    record_of,
)
from finery_data.view.dataset import DatasetView
from finery_retrieve.formats import COUNTS_TOKENS
from finery_retrieve.index.chunks import Chunks
from finery_retrieve.index.words import FOLDER, VOCABULARY
from finery_retrieve.steps.index import in_words
from finery_trl.view.model import CurveView

WORDS = 12
"""Most frequent words that are shown."""
DROPS = 3
"""Dropped chunks that are shown unless all are."""


class IndexView(View):
    """Shows an index: its sources, its most frequent words, its first chunks."""

    def brief(self, manifest: Manifest) -> str:
        """The number of chunks, and the search method."""
        return f"{counted(manifest.meta['chunks'], 'chunk')}, {manifest.meta['method']}"

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """Chunks by source, the most frequent words with their chunks, and the first chunks."""
        rows = [_row(chunk) for chunk in islice(Chunks(output.artifact.path), detail.rows)]
        sources, runtime = dict(_sources(output)), output.manifest.runtime
        return {**runtime, "by_source": sources, "words": _words(output), "rows": rows}

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`meta`, sources, and the most frequent words."""
        meta = {**output.manifest.meta, **output.manifest.runtime}
        meta.pop("embedder", None)  # `print` lists what the index refers to
        meta.pop(COUNTS_TOKENS, None)
        tokenizer = meta.pop("tokenizer", "")
        if tokens := meta.pop("tokens", None):
            meta["tokens per chunk"] = in_words(tokens, tokenizer)
        facts = {**meta, "by source": counts_in_words(_sources(output), "sources")}
        words = _words(output)
        if words:
            facts["words"] = ", ".join(f"{word} ({count:,})" for word, count in words.items())
        return facts

    def describe(self, outputs: Sequence[Output], context: Context) -> Iterator[Section]:
        """Facts, files, the first chunks and the dropped ones."""
        for output in outputs if context.scope == "output" else ():
            yield Section(output.title, self._parts(output, context.detail))

    def _parts(self, output: Output, detail: Detail) -> Iterator[Part]:
        yield from self.overview(output)
        chunks = islice(Chunks(output.artifact.path), detail.rows)
        yield from (record_of(_row(chunk)) for chunk in chunks)
        lines = map(msgspec.json.decode, lines_of(output.artifact, DROPPED))
        drops = [
            Field(f"dropped: {line['reason']}", f"{line['detail']}: {snippet(line['row'])}")
            for line in (lines if detail.dropped else islice(lines, DROPS))
        ]
        if drops:
            yield Record(drops)


class RetrievedView(DatasetView):
    """Shows rows with what was retrieved for each."""

    def record(self, row: Row) -> Record:
        """The turns, whether the prompt has the answer, and the chunks in it."""
        fields = list(record_of(row).fields)
        if row.get("context"):
            fields.append(Field("context", str(row["context"])))
        hits = [
            f"[{label}] {hit['source']} {hit['heading']} (score {hit['score']:.4g})"
            for label, hit in enumerate(row.get("retrieved") or (), start=1)
        ]
        return Record([*fields, Field("retrieved", "\n".join(hits) or "nothing")])


class RetrievingView(View):
    """Shows models that retrieve."""

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`k`, what limits the prompt, and the template."""
        meta = output.manifest.meta
        facts = {"format": meta["format"], "k": meta["k"], **meta["prompt"]}
        if (limit := meta["prompt"]["limit"]) is not None:
            facts["limit"] = f"{limit:,} tokens"
        return {name: value for name, value in facts.items() if value is not None}


class EmbedderView(CurveView):
    """Shows embedding models, and the curve of a trained one."""

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`meta`, with a line for each fact of how the model embeds."""
        meta = dict(super().facts(output))
        meta |= meta.pop("embedding", {})
        return {name: value for name, value in meta.items() if value not in (None, "", False)}


def _sources(output: Output) -> Counter[str]:
    return Counter(chunk.source for chunk in Chunks(output.artifact.path))


def _words(output: Output) -> dict[str, int]:
    """The most frequent words, and in how many chunks they are; none without BM25."""
    if "bm25" not in output.manifest.meta:
        return {}
    import numpy as np

    folder = output.artifact.path / FOLDER
    counts = np.diff(np.load(folder / "indptr.csc.index.npy"))
    columns = msgspec.json.decode((folder / VOCABULARY).read_bytes(), type=dict[str, int])
    return dict(Counter({w: int(counts[c]) for w, c in columns.items()}).most_common(WORDS))


def _row(chunk: Any) -> Row:
    return {"id": chunk.id, "source": chunk.source, "heading": chunk.heading, "text": chunk.text}
