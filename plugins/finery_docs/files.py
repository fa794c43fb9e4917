"""`docs.files`: rows from documents, a chunk each."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from finery import DataError, Dataset, Files, Job, Key, Resources, Step, UsageError, setting
from finery.advanced import counted
from finery.rows import Row, row_id
from finery.rows.dropped import Drops
from finery.rows.tables.records import COMPRESSED, data_suffix
from finery.rows.tables.streams import open_bytes
from finery.rows.templates.limits import TimeExceeded, time_limit
from finery_docs.chunks import Limits, chunks
from finery_docs.document import Document, Problem
from finery_docs.html import read_html
from finery_docs.pdf import read_pdf
from finery_docs.plain import read_markdown, read_text

MARKDOWN = (".md", ".markdown", ".mdx")
TEXT = (".txt", ".text", ".rst")
HTML = (".html", ".htm", ".xhtml")
PDF = (".pdf",)
SUFFIXES = (*MARKDOWN, *TEXT, *HTML, *PDF)
SEPARATOR = " > "
LISTED = 10
SECONDS = 10.0
PACE = 50_000
"""Bytes of markup that have a second more: what takes longer is built to take long."""
READERS = {
    **dict.fromkeys(HTML, "beautifulsoup4"),
    **dict.fromkeys(MARKDOWN, "markdown-it-py"),
    ".pdf": "pypdf",
}
"""How a file's name ends → what reads it."""


class DocsFiles(Step, seeded=False, version="1"):
    """Rows from Markdown, text, HTML and PDF files: one per chunk, with its place.

    A row has `text`; `source`, the file; `heading`, the headings above the text, as `Guide >
    Install`; and `line` (of the file) or `page` (of a PDF) where it begins. A section that fits
    into `chunk` characters is one chunk, and small neighbouring sections share one. Longer ones are
    split between paragraphs, lists, tables and blocks of code, and if necessary within them: at
    lines or sentences, then at words. Other files are skipped. `dropped.jsonl` lists what is
    missing: files, pages without text, short chunks.
    """

    path: Files = setting(
        help="Folder, file, glob or list of them, relative to the recipe: .md, .txt, .rst (as "
        "text), .html, .pdf, optionally compressed as .gz or .zst.",
        examples=["docs", ["docs/**/*.md", "manual.pdf"]],
    )
    chunk: int = setting(
        2000, ge=50, help="Maximum characters in a chunk; 2,000 are about 500 tokens of English."
    )
    overlap: int = setting(
        0,
        ge=0,
        help="Characters of the previous chunk that a chunk repeats if both come from the same "
        "split section. The repeated part starts at a sentence or word.",
    )
    shortest: int = setting(
        50, ge=1, help="Minimum characters in a chunk; shorter ones are dropped."
    )
    bad_files: Literal["error", "skip"] = setting(
        "error",
        help="What to do with files that can't be read (wrong encoding, encrypted, damaged, "
        "scanned): stop with an error, or skip them.",
    )

    def cache_key(self) -> Key:
        """What reads files of these kinds."""
        return Key(packages=self._readers())

    def resources(self) -> Resources:
        """The same."""
        return Resources(packages=dict.fromkeys(self._readers(), "finery[docs]"))

    def _readers(self) -> tuple[str, ...]:
        suffixes = {data_suffix(path.name) for path in self.path.paths}
        return tuple(sorted({READERS[suffix] for suffix in suffixes & READERS.keys()}))

    def check(self) -> None:
        """Raise `UsageError` for an overlap or a shortest chunk that leaves no room."""
        for name in ("overlap", "shortest"):
            value = getattr(self, name)
            if value > self.chunk // 2:
                raise UsageError(
                    f"{name} must be at most half of `chunk` ({self.chunk:,} characters)",
                    where=name,
                    fix=f"{name}: {self.chunk // 2} or less",
                )

    def run(self, job: Job) -> Dataset:
        """Write the chunks of all files, in the order of `path`; `meta` counts files and drops."""
        reading = Reading(self, job)
        with reading.drops:
            dataset = Dataset.write(job.out, reading.rows())
        left_out = ", ".join(f"{why} {n:,}" for why, n in sorted(reading.drops.counts.items()))
        job.log(
            f"{counted(len(dataset), 'chunk')} of {counted(reading.used, 'file')}"
            + (f"; left out: {left_out}" if left_out else "")
        )
        dataset.meta |= {"files": reading.used, **reading.drops.meta()}
        return dataset

    def trace_rows(self, ids: Collection[str], job: Job) -> Iterator[tuple[str, str]]:
        """File and line, or page, of each chunk with one of `ids`."""
        reading = Reading(self, job)
        with reading.drops:
            for row in reading.rows():
                if row["id"] in ids:
                    page = f" (page {row['page']})" if "page" in row else f":{row['line']}"
                    yield row["id"], f"{row['source']}{page}"


class Reading:
    """One run of `docs.files`."""

    def __init__(self, step: DocsFiles, job: Job) -> None:
        self.drops = Drops(job.out)
        self.used = 0
        self._step = step
        self._job = job
        self._limits = Limits(step.chunk, step.overlap, step.shortest)
        self._bad: list[tuple[str, Problem]] = []
        self._made = 0

    def rows(self) -> Iterator[Row]:
        """The rows of all files; raises `DataError` at the end if some can't be read."""
        files = list(zip(self._step.path.names, self._step.path.paths, strict=True))
        for done, (name, path) in enumerate(files):
            self._job.progress(done, len(files), name)
            before = self._made
            for row in self._rows_of(name, path):
                self._made += 1
                yield row
            self.used += self._made > before
        self._job.progress(len(files), len(files))
        if self._bad and (self._step.bad_files == "error" or not self._made):
            raise self._bad_files_error()
        fix = f"name folders or files that contain text: {', '.join(SUFFIXES)}"
        self.drops.refuse_nothing_left(self._made, fix)

    def _rows_of(self, name: str, path: Path) -> Iterator[Row]:
        try:
            document = self._document(name, path)
        except Problem as problem:
            # Other files should give rows, unless `bad_files` is `skip`.
            harmless = problem.reason == "empty" or (
                problem.reason == "not-a-document" and name not in self._step.path.patterns
            )
            if not harmless:
                self._bad.append((name, problem))
            self.drops.add({"source": name}, problem.reason, problem.what)
            return
        for page in document.missing:
            self.drops.add({"source": name, "page": page}, "page-without-text", "it may be scanned")
        seen: Counter[str] = Counter()
        for chunk in chunks(document, self._limits):
            # The id is a hash of the text and its file, not of its line: text that is added above
            # doesn't change it. Chunks of a file that say the same are numbered.
            text = document.text[chunk.start : chunk.end]
            row: Row = {"text": text, "source": name, "heading": SEPARATOR.join(chunk.headings)}
            row_key = row_id(row)
            seen[row_key] += 1
            if seen[row_key] > 1:
                row_key = row_id({**row, "number": seen[row_key]})
            row = {"id": row_key, **row, **document.place(chunk.start)}
            if len(row["text"]) >= self._step.shortest:
                yield row
            else:
                detail = f"{len(row['text'])} characters, fewer than {self._step.shortest}"
                self.drops.add(row, "too-short", detail)

    def _document(self, name: str, path: Path) -> Document:
        read = _reader(path, lambda text: self._job.log(f"{name}: {text}"))
        content = _content(path)
        if not content.strip():
            raise Problem("empty", "the file is empty", "fill it, or remove it from `path`")
        seconds = SECONDS + len(content) / PACE
        try:
            with nullcontext() if _suffix(path) in PDF else time_limit(seconds):
                document = read(content)
        except TimeExceeded as error:
            fix = "repair or simplify its markup, or remove it from `path`"
            raise Problem("too-slow", f"reading it {error}", fix) from None
        except ImportError as error:
            raise UsageError(
                f"reading this file needs the package {error.name}",
                where=name,
                fix="pip install 'finery[docs]'",
            ) from error
        if not document.text.strip():
            raise Problem("empty", "the file has no text", "remove it from `path`")
        return document

    def _bad_files_error(self) -> DataError:
        name, first = self._bad[0]
        details = []
        if len(self._bad) > 1:
            details = [f"{len(self._bad):,} files can't be read:"]
            details += [f"{name}: {problem.what}" for name, problem in self._bad[:LISTED]]
            if len(self._bad) > LISTED:
                details.append(f"… and {len(self._bad) - LISTED:,} more")
        skip = "; or skip such files with bad_files: skip" if self._made else ""
        of_first = "" if len({problem.fix for _, problem in self._bad}) == 1 else "the first: "
        return DataError(first.what, where=name, fix=of_first + first.fix + skip, details=details)


def _content(path: Path) -> bytes:
    """A file's bytes, decompressed."""
    try:
        with open_bytes(path) as stream:
            return stream.read()
    except DataError as error:
        raise Problem("damaged", error.what, error.fix or "") from error


def _reader(path: Path, warn: Callable[[str], None]) -> Callable[[bytes], Document]:
    """The function that reads a file, by its name."""
    suffix = _suffix(path)
    if suffix in PDF:
        return lambda content: read_pdf(content, warn)
    for suffixes, read in ((HTML, read_html), (MARKDOWN, read_markdown), (TEXT, read_text)):
        if suffix in suffixes:
            return read
    what = f"'*{suffix}' isn't a document" if suffix else "a file without a suffix isn't a document"
    raise Problem("not-a-document", what, f"convert it to one of: {', '.join(SUFFIXES)}")


def _suffix(path: Path) -> str:
    """`.md` of `x.md` and of `X.MD.gz`."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return Path(name).suffix
