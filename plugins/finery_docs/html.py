"""HTML: its main part, written as Markdown writes it."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finery_docs.document import Builder, Document, Kind, Problem
from finery_docs.plain import cleaned, decoded

if TYPE_CHECKING:
    from bs4 import Tag

LEFT_OUT = frozenset(
    {
        "audio", "button", "canvas", "footer", "form", "head", "iframe", "math", "nav", "noscript",
        "object", "script", "select", "style", "svg", "template", "video",
    }
)  # fmt: skip
"""Elements that hold no text of the document."""
BLOCKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog",
        "div", "dl", "dt", "fieldset", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6",
        "header", "hgroup", "hr", "html", "li", "main", "ol", "p", "pre", "section", "summary",
        "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
    }
)  # fmt: skip
PERMALINKS = ("¶", "#", "§", "🔗")
"""Links from a heading to itself."""
_HEADING = re.compile(r"h[1-6]")
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def read_html(content: bytes) -> Document:
    """A document of the blocks of `<main>` or the only `<article>`, or else of the full page."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(_decoded(content), "html.parser")
    builder = Builder("line")
    try:
        _Writer(builder).write(_main(soup))
    except RecursionError:
        what = "its elements are nested too deeply"
        raise Problem("damaged", what, "repair the file, or remove it from `path`") from None
    return builder.document()


def _decoded(content: bytes) -> str:
    """As the page declares its encoding, else as UTF-8."""
    from bs4.dammit import EncodingDetector

    declared = EncodingDetector.find_declared_encoding(content, is_html=True)
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    if is_utf16 or not declared or declared.lower().replace("_", "-") in ("utf-8", "utf8"):
        return decoded(content)
    try:
        return cleaned(content.decode(declared))
    except (UnicodeDecodeError, LookupError) as error:
        what = f"it declares the encoding {declared}, but can't be read with it: {error}"
        raise Problem("encoding", what, "save it as UTF-8, and declare UTF-8") from error


def _main(soup: Any) -> "Tag":
    main = soup.find("main") or soup.find(attrs={"role": "main"})
    articles = soup.find_all("article") if main is None else []
    if len(articles) == 1:
        main = articles[0]
    chosen: Tag = main or soup.body or soup
    return chosen


class _Writer:
    """Adds the blocks of an element to a document."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._inline: list[str] = []
        self._line = 1

    def write(self, element: "Tag") -> None:
        """Add an element's blocks. Text between them becomes separate paragraphs."""
        self._walk(element)
        self._flush()

    def _walk(self, element: "Tag") -> None:
        child: Any
        for child in element.children:
            if _is_tag(child) and child.name not in LEFT_OUT and _is_block(child):
                self._flush()
                self._block(child)
            else:
                if not self._inline:
                    self._line = getattr(child, "sourceline", None) or _line(element, self._line)
                self._inline.append(_text(child))

    def _block(self, element: "Tag") -> None:
        name, line = element.name, _line(element, self._line)
        self._line = line
        if _HEADING.fullmatch(name):
            title = _squeezed(_text(element))
            if title:
                level = int(name[1])
                self._builder.add(
                    f"{'#' * level} {title}", "heading", line, level=level, title=title
                )
        elif name == "pre":
            self._add(f"```\n{element.get_text().strip(chr(10))}\n```", "lines", line)
        elif name == "table" and not element.find("table"):
            self._add("\n".join(_table(element)), "lines", line)
        elif name in ("ul", "ol") and not element.find(["pre", "table"]):
            self._add("\n".join(_list(element, "")), "lines", line)
        else:
            self._walk(element)
            self._flush()

    def _flush(self) -> None:
        text = _squeezed("".join(self._inline))
        self._inline.clear()
        self._add(text, "text", self._line)

    def _add(self, text: str, kind: Kind, line: int) -> None:
        if text.strip("`\n "):
            self._builder.add(text, kind, line)


def _is_tag(node: Any) -> bool:
    return getattr(node, "name", None) is not None


def _is_block(element: "Tag") -> bool:
    """Whether an element is a block, or a link that contains one."""
    return element.name in BLOCKS or element.find(lambda tag: tag.name in BLOCKS) is not None


def _line(element: "Tag", default: int) -> int:
    return element.sourceline or default


def _text(node: Any) -> str:
    """An element's text in a line: no comments, no scripts, code in backticks."""
    from bs4.element import NavigableString, PreformattedString

    if isinstance(node, NavigableString):
        return "" if isinstance(node, PreformattedString) else str(node)
    if node.name in LEFT_OUT:
        return " "
    if node.name == "br":
        return "\n"
    inner = "".join(map(_text, node.children))
    if node.name == "a" and inner.strip() in PERMALINKS:
        return ""
    if node.name in ("code", "kbd", "samp") and inner.strip() and "`" not in inner:
        return f"`{inner.strip()}`"
    return f" {inner} " if node.name in BLOCKS else inner


def _squeezed(text: str) -> str:
    """Without the space that HTML doesn't show."""
    return " ".join(_HALF_PAIR.sub("\ufffd", text).split())


def _list(element: "Tag", indent: str) -> Iterator[str]:
    """The items of a list, one a line, lists within them indented."""
    for number, item in enumerate(element.find_all("li", recursive=False), 1):
        mark = f"{number}." if element.name == "ol" else "-"
        nested = item.find_all(["ul", "ol"])
        inner = [child for child in nested if child.find_parent("li") is item]
        own = _squeezed("".join(_text(c) for c in item.children if c not in inner))
        yield f"{indent}{mark} {own}".rstrip()
        for child in inner:
            yield from _list(child, indent + "  ")


def _table(element: "Tag") -> Iterator[str]:
    """A table's rows as Markdown writes them, its first row as the header."""
    if element.caption is not None and (caption := _squeezed(_text(element.caption))):
        yield caption
        yield ""
    for number, row in enumerate(element.find_all("tr")):
        cells = [_squeezed(_text(cell)).replace("|", "\\|") for cell in row.find_all(["td", "th"])]
        yield f"| {' | '.join(cells)} |"
        if number == 0:
            yield f"|{' --- |' * len(cells)}"
