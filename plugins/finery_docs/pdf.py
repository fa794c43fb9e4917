"""PDF: the text of each page, and the outline as headings."""

import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from finery_docs.document import Builder, Document, Problem
from finery_docs.plain import paragraphs

if TYPE_CHECKING:
    from pypdf import PdfReader

_UNPRINTABLE = re.compile("[\0\ud800-\udfff]")


class _Entry(NamedTuple):
    """An entry of the outline: its page (from 0), how deep it is, and what it says."""

    page: int
    level: int
    title: str


def read_pdf(content: bytes, warn: Callable[[str], None]) -> Document:
    """A document of the paragraphs of all pages; `missing` lists the pages without text.

    warn: called with the library's complaints about the file.
    """
    from pypdf.errors import DependencyError

    try:
        with _warnings(warn):
            return _read(content)
    except Problem:
        raise
    except DependencyError as error:
        what = f"it is encrypted in a way that needs another package: {error}"
        raise Problem("encrypted", what, "pip install cryptography, or decrypt it") from error
    except Exception as error:  # a broken file makes the library raise anything
        what = f"the PDF can't be read: {error or type(error).__name__}"
        raise Problem("damaged", what, "download or export it again") from error


def _read(content: bytes) -> Document:
    from pypdf import PasswordType, PdfReader

    reader = PdfReader(io.BytesIO(content))
    if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
        fix = "save a copy without the password, e.g. qpdf --decrypt --password=… in.pdf out.pdf"
        raise Problem("encrypted", "it is encrypted and needs a password", fix)
    builder, missing = Builder("page"), []
    entries: dict[int, list[_Entry]] = {}  # by page; a PDF often has none
    for entry in _entries(reader, reader.outline, 1):
        entries.setdefault(entry.page, []).append(entry)
    for number, page in enumerate(reader.pages):
        text = _UNPRINTABLE.sub("\ufffd", page.extract_text())
        if text.strip():
            _add_page(builder, text, number + 1, entries.get(number, []))
        else:
            missing.append(number + 1)
    if not builder.has_text:
        what = f"no text on any of its {len(reader.pages):,} pages: it may be scanned"
        raise Problem("no-text", what, "recognise its text first, e.g. with ocrmypdf")
    document = builder.document()
    document.missing = missing
    return document


def _add_page(builder: Builder, text: str, number: int, entries: list[_Entry]) -> None:
    """Add a page's paragraphs, split at the entries of the outline."""
    at = 0
    for entry in entries:
        words = r"\s+".join(map(re.escape, entry.title.split()))
        match = re.compile(rf"^[ \t]*{words}[ \t]*$", re.MULTILINE).search(text, at)
        place = match.start() if match else at
        builder.extend(_texts(text[at:place]), number)
        builder.add("", "heading", number, level=entry.level, title=entry.title)
        at = place
    builder.extend(_texts(text[at:]), number)


def _texts(text: str) -> Iterator[str]:
    return (text[start:end] for start, end in paragraphs(text))


def _entries(reader: "PdfReader", outline: list[Any], level: int) -> Iterator[_Entry]:
    for item in outline:
        if isinstance(item, list):
            yield from _entries(reader, item, level + 1)
            continue
        page = reader.get_destination_page_number(item)
        title = " ".join(_UNPRINTABLE.sub("", item.title or "").split())
        if page is not None and page >= 0 and title:
            yield _Entry(page, level, title)


@contextmanager
def _warnings(warn: Callable[[str], None]) -> Iterator[None]:
    """Send the library's log to `warn` instead of the terminal."""
    logger, handler = logging.getLogger("pypdf"), _Handler(warn)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class _Handler(logging.Handler):
    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a warning on."""
        self._warn(record.getMessage())
