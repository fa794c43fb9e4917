"""Plain text and Markdown: the chunks are what the file holds."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from finery_docs.document import Block, Document, Kind, Problem, line_starts

if TYPE_CHECKING:
    from markdown_it.token import Token

_PARAGRAPH = re.compile(r"\S.*?(?=\n[ \t\f]*\n|\Z)", re.DOTALL)
_FRONT_MATTER = re.compile(
    r"---[ \t]*\n(?![ \t]*\n)(?:.*?\n)??(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL
)
"""As in Pandoc, a line of dashes before an empty line is a ruler."""
_KINDS: dict[str, Kind] = {
    "fence": "lines",
    "code_block": "lines",
    "html_block": "lines",
    "table_open": "lines",
    "bullet_list_open": "lines",
    "ordered_list_open": "lines",
}
"""Blocks of Markdown that are split at lines; all others at sentences."""


def decoded(content: bytes) -> str:
    """Text of UTF-8, with or without a byte order mark, its line ends as `\\n`."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Problem("encoding", "the file is UTF-16, not UTF-8", "save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"line {line}: a byte (0x{content[error.start]:02x}) isn't UTF-8"
        raise Problem("encoding", what, "save it as UTF-8") from error
    return cleaned(text)


def cleaned(text: str) -> str:
    """The text with `\\n` at the ends of lines; `Problem` for what no text file holds."""
    if "\0" in text:
        raise Problem(
            "binary", "it contains NUL characters, so it isn't text", "remove it from `path`"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each stretch between empty lines."""
    for match in _PARAGRAPH.finditer(text):
        yield match.start(), match.start() + len(match[0].rstrip())


def read_text(content: bytes) -> Document:
    """A document of paragraphs."""
    text = decoded(content)
    blocks = [Block(start, end, "text") for start, end in paragraphs(text)]
    return Document(text, blocks, "line", line_starts(text))


def read_markdown(content: bytes) -> Document:
    """A document of the blocks of CommonMark with tables, without its front matter."""
    from markdown_it import MarkdownIt

    text = decoded(content)
    front = _FRONT_MATTER.match(text)
    body = front.end() if front else 0
    starts = line_starts(text)
    first = text.count("\n", 0, body)  # lines before the body
    offsets = [offset for offset, _ in starts] + [len(text)]
    tokens = MarkdownIt("commonmark").enable("table").parse(text[body:])
    blocks = list(_blocks(text, body, offsets[first:], tokens))
    return Document(text, blocks, "line", starts)


def _blocks(text: str, body: int, offsets: list[int], tokens: "list[Token]") -> Iterator[Block]:
    """Blocks of the tokens, and of the text between them: definitions of links."""
    at = body
    for index, token in enumerate(tokens):
        if token.level or token.map is None:
            continue
        start, end = offsets[token.map[0]], offsets[min(token.map[1], len(offsets) - 1)]
        yield from _between(text, at, start)
        at = end
        end = start + len(text[start:end].rstrip())
        if token.type == "heading_open":
            inline = tokens[index + 1]
            children = [child for child in inline.children or () if child.type != "html_inline"]
            parts = (" " if child.type.endswith("break") else child.content for child in children)
            title = " ".join("".join(parts).split())
            yield Block(start, end, "heading", int(token.tag[1:]), title)
        elif end > start and not _is_comment(text[start:end]):
            yield Block(start, end, _KINDS.get(token.type, "text"))
    yield from _between(text, at, len(text))


def _is_comment(text: str) -> bool:
    """Whether a block only contains HTML comments."""
    at = len(text) - len(text.lstrip())
    while text.startswith("<!--", at):
        end = text.find("-->", at + 4)
        if end < 0:
            return False
        at = end + 3
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return True
    return False


def _between(text: str, start: int, end: int) -> Iterator[Block]:
    for first, last in paragraphs(text[start:end]):
        yield Block(start + first, start + last, "lines")
