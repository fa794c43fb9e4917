"""YAML as people expect it: nodes to plain data, mistakes with their position.

Errors show lines of a recipe without secrets.
"""

import json
import math
import re
from collections.abc import Collection, Sequence
from typing import Any
from unicodedata import east_asian_width

import yaml

from finery.errors import RecipeError
from finery.util.text import counted

_USER = re.compile(r"""(\w://)(?:[^\s:/@'"]*:[^\s'"]+|[^\s:/@'"?#]+)@""")
_FRAGMENT = re.compile(r"""(\w://[^\s'"#]*)#[^\s'",}\]]+""")
_QUERY_KEY = re.compile(
    r"""([?&;][\w.-]*(?:key|token|secret|password|auth|sig)[\w.-]*=)[^\s'"&;#]+""", re.IGNORECASE
)
_SECRET_NAME = (
    r"(?:(?:api|access|secret|private|signing|encryption|account)[_.-]?key|token(?![\w.-])|secret"
    r"|passw(?:or)?d|passphrase|pwd|credential|authorization|cookie|\bdsn)[\w-]{0,30}"
)
_NAMED_SECRET = re.compile(
    rf"""({_SECRET_NAME}["']?[ \t]*[:=][ \t]*)(?:Bearer[ ]|Basic[ ])?"""
    r"""(?!["']?(?:\$|(?-i:[A-Z][A-Z0-9_]*\b)|(?:true|false|null|none)\b))"""
    r"""("[^"\n]*"|'[^'\n]*'|[^\s,;&}}\])"'|>][^\s,;&}}\])"']*)""",
    re.IGNORECASE,
)
"""A value after a name of a secret. A variable's name in capitals isn't one."""
_PEM = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL)
_SERVICE_KEY = re.compile(
    r"\b(?:sk|pk|rk|hf|gh[oprsu]|github_pat|glpat|xox[abprs]|AKIA|AIza|eyJ)(?=[\w.-]*\d)"
    r"(?:[-_.]?[A-Za-z0-9]){16,}"
)
"""Prefixes of the keys of well-known services."""


def redact_secrets(text: str) -> str:
    """The text with secrets as `***`.

    Those are user names and passwords of URLs, keys in their queries, their fragments, what stands
    after a name such as `api_key` or `password`, private keys, and what looks like the key of a
    well-known service.
    """
    text = _NAMED_SECRET.sub(r"\1***", _PEM.sub(r"\1***", text))
    text = _QUERY_KEY.sub(r"\1***", _USER.sub(r"\1***@", text))
    return _SERVICE_KEY.sub("***", _FRAGMENT.sub(r"\1#***", text))


MAX_EXCERPT = 400
"""Longest part of a line that an error shows, in characters."""


def _excerpt(text: str, line: int, column: int) -> list[str]:
    """The line and a caret under the column, where a terminal shows it."""
    lines = text.splitlines()
    if line >= len(lines):
        return []
    line_text = lines[line].replace("\t", " ")
    code, column = redact_secrets(line_text), len(redact_secrets(line_text[:column]))
    start = max(0, column - MAX_EXCERPT // 2) if len(code) > MAX_EXCERPT else 0
    prefix, suffix = "…" if start else "", "…" if len(code) > start + MAX_EXCERPT else ""
    number, gap = f"{line + 1}", " " * (len(prefix) + _cell_width(code[start:column]))
    return [
        f"{number} | {prefix}{code[start : start + MAX_EXCERPT]}{suffix}",
        f"{' ' * len(number)} | {gap}^",
    ]


def _cell_width(text: str) -> int:
    """The width of a text in a terminal, where Chinese characters take two cells."""
    return len(text) + sum(east_asian_width(character) in "WF" for character in text)


MAX_NODES = 200_000
"""More parts than any recipe has: anything beyond comes from multiplying aliases."""
MAX_DEPTH = 100
"""More levels than any recipe has."""
_NOT_A_NUMBER = re.compile(r"[-+]?\.(inf|nan)$", re.ASCII | re.IGNORECASE)
_INTEGER_LIMIT = 2**63
"""Keys encode integers in 64 bits: from this negative number to just below the positive one."""
_INT = re.compile(r"[-+]?(0|[1-9]\d*(_\d+)*)$|0x[0-9a-fA-F]+$|0o[0-7]+$", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\d+(_\d+)*(\.\d*|(?=[eE]))|\.\d+)([eE][-+]?\d+)?$", re.ASCII)
_CONSTANT_WORDS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_SYNTAX_HINTS = [
    ("mapping values are not allowed", "unexpected ':'",
     "put the text around it in quotes, or check the indentation"),
    ("undefined alias", "no anchor has this name",
     "define it before its first use, such as x-defaults: &NAME {…}"),
    ("duplicate anchor", "this anchor is defined twice", "give it another name"),
    ("another document", "a second YAML document starts here", "write one recipe per file"),
    ("expected <document start>", "a second YAML document starts here",
     "write one recipe per file"),
    ("cannot start any token", "a text can't start with this character", "put it in quotes"),
    ("expected '-' indicator", "this line in a list isn't an item",
     "start items with '- ', or check the indentation"),
    ("block mapping did not find expected key",
     "the indentation of this line doesn't match the lines above",
     "indent it like the lines above, and check the quotes and brackets before it"),
    ("maximum nesting depth", "this is nested too deeply", "flatten it"),
    ("unknown escape character", "unknown escape in double quotes",
     "write \\\\ for \\, or use single quotes"),
]  # fmt: skip
"""(part of libyaml's message, what is wrong, fix) for people who don't know YAML's grammar."""
_OPEN_QUOTE = re.compile(r"""(?:[^#'"]*:\s+|\s*-\s+)(?P<quote>["'])(?:(?!(?P=quote)).)*$""")
_COLON_MISSING = re.compile(r"\s*(?:- )?(?P<key>[\w.-]+)(?P<sign>:|\s*=\s*)(?P<value>\S.*)")
_KEY = re.compile(r"\s*[\w.-]+:\s")
_COMPARISON = re.compile(r"(?P<key>.*?:\s+)(?P<value>[<>]=?\s*\S.*)")
_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))
_NUMBERS_BEGIN = frozenset("0123456789+-.")
_BASE: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml: ten times faster
_KINDS = dict(zip((yaml.ScalarNode, yaml.MappingNode, yaml.SequenceNode), _TAGS, strict=True))


class _Loader(_BASE):  # type: ignore[misc]  # one of two classes
    """Gives each node the plain tag of its kind: `_Reader` decides what a scalar means."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        return _KINDS[kind]

    def descend_resolver(self, current_node: Any, current_index: Any) -> None: ...

    def ascend_resolver(self) -> None: ...


def _parse(text: str, name: str, title: str = "the recipe") -> tuple[yaml.Node, Any]:
    """(node tree, plain data) of one YAML document. title: its name in errors."""
    reader = _Reader(text, name, title)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        data = None if node is None else reader.value(node)
    except RecursionError:
        raise RecipeError(
            f"{title} is nested too deeply", where=f"{name}:1:1", fix="flatten it"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise reader.syntax_error(error) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"character #x{error.character:04x} is not allowed in YAML"
            if isinstance(error.character, int)
            else f"not readable as YAML: {error.reason}",
            where=f"{name}:{line}:{error.position - text.rfind(chr(10), 0, error.position)}",
            fix="delete it",
        ) from None
    if node is None:
        raise RecipeError(
            f"{title} is empty", where=f"{name}:1:1", fix="create one with `finery init DIR`"
        )
    return node, data


class _Reader:
    """Turns YAML nodes into plain data."""

    def __init__(self, text: str, name: str, title: str) -> None:
        self.text = text
        self.name = name
        self.title = title
        self.budget = MAX_NODES
        self.open: set[int] = set()

    def value(self, node: yaml.Node) -> Any:
        """The plain data of a node."""
        self.budget -= 1
        if self.budget < 0:
            raise self.fail(
                "aliases multiply to more than 200,000 parts",
                node,
                "write the values out, or remove aliases",
            )
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            raise self.fail("an alias contains itself", node, "remove the alias")
        if len(self.open) == MAX_DEPTH:
            raise self.fail(f"{self.title} is nested too deeply", node, "flatten it")
        self.check_tag(node, _TAGS)
        self.open.add(id(node))
        value: Any
        if isinstance(node, yaml.SequenceNode):
            value = [self.value(child) for child in node.value]
        else:
            value = self.mapping(node)
        self.open.discard(id(node))
        return value

    def check_tag(self, node: yaml.Node, allowed: Collection[str]) -> None:
        if node.tag not in allowed:
            shown_tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise self.fail(
                f"the tag {shown_tag} is not allowed in a recipe", node, "remove the tag"
            )

    def mapping(self, node: yaml.Node) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        key_nodes: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.bad_key(key_node)
            key = key_node.value
            if key in key_nodes:
                first_line = key_nodes[key].start_mark.line + 1
                raise self.fail(
                    f"'{key}' is written twice (first in line {first_line})",
                    key_node,
                    "keep one of the two",
                )
            key_nodes[key] = key_node
            if key == "<<":
                continue
            mapping[key] = self.value(value_node)
        for key_node, value_node in node.value:
            if key_node.value == "<<":
                mapping = self.merged(value_node) | mapping
        return mapping

    def bad_key(self, node: yaml.Node) -> RecipeError:
        mark = node.start_mark
        if self.text.splitlines()[mark.line][: mark.column + 1].endswith("{{"):
            return self.at(
                "a template must be in quotes", mark.line, mark.column - 1, 'write "{{ … }}"'
            )
        return self.fail("a key must be a plain word", node, "put it in quotes")

    def merged(self, node: yaml.Node) -> dict[str, Any]:
        merged_nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        mapping: dict[str, Any] = {}
        for merged_node in merged_nodes:
            if not isinstance(merged_node, yaml.MappingNode):
                raise self.fail(
                    "'<<' can only merge mappings",
                    merged_node,
                    "name the anchor of a mapping: <<: *defaults",
                )
            mapping = self.value(merged_node) | mapping
        return mapping

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        self.check_tag(node, _TAGS[:1])
        if node.style in ("'", '"', "|", ">"):
            return text
        if text in _CONSTANT_WORDS:
            return _CONSTANT_WORDS[text]
        if text[0] not in _NUMBERS_BEGIN:
            return text
        if _NOT_A_NUMBER.match(text):
            raise self.fail(
                f"a recipe can't hold the number {text}",
                node,
                "write a finite number; if it is text, put it in quotes",
            )
        if _INT.match(text) or _FLOAT.match(text):
            return self.number(node)
        return text

    def number(self, node: yaml.ScalarNode) -> int | float:
        text, number = node.value.replace("_", ""), math.inf
        if not _INT.match(text):
            number = float(text)
        elif len(text) < 100:  # Python reads no more than 4,300 digits
            number = int(text, 0 if text[:2] in ("0x", "0o") else 10)
        if math.isinf(number) or (
            isinstance(number, int) and not -_INTEGER_LIMIT <= number < _INTEGER_LIMIT
        ):
            raise self.fail(
                f"the number {text[:20]}{'…' if len(text) > 20 else ''} is too large",
                node,
                "if it is text, put it in quotes",
            )
        return number

    def fail(self, problem: str, node: yaml.Node, fix: str) -> RecipeError:
        mark = node.start_mark
        return self.at(problem, mark.line, mark.column, fix)

    def at(self, problem: str, line: int, column: int, fix: str | None) -> RecipeError:
        where = f"{self.name}:{line + 1}:{column + 1}"
        return RecipeError(problem, where=where, fix=fix, details=_excerpt(self.text, line, column))

    def syntax_error(self, error: yaml.MarkedYAMLError) -> RecipeError:
        """libyaml's error in words that help the author of a recipe."""
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        lines = self.text.splitlines()
        indent = re.match(r"\s*", lines[line]) if line < len(lines) else None
        if indent and "\t" in indent.group():
            column = indent.group().index("\t")
            return self.at("the line is indented with a tab", line, column, "indent with spaces")
        complaint = f"{error.context or ''} {error.problem or ''}"
        context_mark = error.context_mark
        mistake = _find_mistake(
            lines, line, column, complaint, context_mark.line if context_mark else None
        )
        if mistake:
            return self.at(*mistake)
        unclosed = "end of stream" in complaint or "parsing a flow" in complaint
        if context_mark and line > context_mark.line and unclosed:
            start = lines[context_mark.line][context_mark.column]
            return self.at(
                f"this {start} is never closed", context_mark.line, context_mark.column, "close it"
            )
        for needle, what, fix in _SYNTAX_HINTS:
            if needle in complaint:
                return self.at(what, line, column, fix)
        problem = (error.problem or "").removeprefix("found ") or "not readable"
        context = f", {error.context}" if error.context else ""
        return self.at(
            f"not readable as YAML: {problem}{context}",
            line,
            column,
            "check quotes, brackets and indentation here and in the line above",
        )


_Mistake = tuple[str, int, int, str]
"""(what is wrong, line, column, fix)."""


def _find_mistake(
    lines: Sequence[str], line: int, column: int, complaint: str, context: int | None
) -> _Mistake | None:
    """A mistake that people often make and that explains the complaint.

    line, column: where libyaml found it. context: the line where what it was reading began.
    """
    for number in range(min(line + 1, len(lines))):
        match = _OPEN_QUOTE.match(lines[number])
        if match and not _is_closed(lines[number + 1 : line + 1], match["quote"]):
            quote, start = match["quote"], match.start("quote")
            return f"this {quote} is never closed", number, start, "close it"
    if "scanning a block scalar" in complaint and (match := _COMPARISON.match(lines[line])):
        problem, value = "a value that starts with > must be in quotes", match["value"]
        return problem, line, match.start("value"), f'write "{value}"'
    if "could not find expected ':'" in complaint and context is not None:
        return _missing_colon(lines[context], context)
    text = lines[line] if line < len(lines) else ""
    if "mapping values are not allowed" in complaint:
        return _wrong_indentation(lines, line, column) or _unquoted_colon(
            text, line, column, r"(\s#.*)?$"
        )
    in_braces = "parsing a flow mapping" in complaint and text[column : column + 1] == ":"
    if in_braces and (mistake := _unquoted_colon(text, line, column, r"\s*[,}\]]")):
        return mistake
    first_line = line if context is None else context
    for number in range(first_line, min(line + 1, len(lines))):
        if (start := lines[number].find("//")) > 0 and lines[number][start - 1] != ":":
            return "unexpected '//'", number, start, "start comments with #, or put text in quotes"
    return None


def _is_closed(later_lines: Sequence[str], quote: str) -> bool:
    """Whether a quoted text that spans several lines ends in one of them."""
    for text in later_lines:
        if quote in text:
            remainder = text[text.index(quote) + 1 :]
            return _KEY.match(text) is None and remainder.strip(" ,]}") == ""
    return False


def _missing_colon(text: str, line: int) -> _Mistake | None:
    match = _COLON_MISSING.fullmatch(text)
    if match is None:
        start = len(text) - len(text.lstrip())
        return "this line has no 'key: value'", line, start, "write KEY: VALUE"
    problem = "a space is missing after ':'" if match["sign"] == ":" else "unexpected '='"
    return problem, line, match.start("sign"), f"write {match['key']}: {match['value']}"


def _unquoted_colon(text: str, line: int, column: int, end: str) -> _Mistake | None:
    """A value with a colon in it. column: of the colon. end: pattern of what follows the value."""
    start = re.search(r".*(?<![\w.-])(?P<key>[\w.-]+):\s+(?P<value>[^\s\"'].*)", text[:column])
    end_match = re.match(rf".*?(?={end})", text[column:])
    if start is None or end_match is None:
        return None
    value = json.dumps(start["value"] + end_match[0], ensure_ascii=False)
    fix = redact_secrets(f"write {start['key']}: {value}")
    problem = "a text with a colon and a space must be in quotes"
    return problem, line, start.start("value"), fix


def _wrong_indentation(lines: Sequence[str], line: int, column: int) -> _Mistake | None:
    """The place where a line is indented deeper than the previous one, which has a value."""
    previous_line = next((text for text in reversed(lines[:line]) if text.strip()), "")
    indent, previous_indent = (
        len(text) - len(text.lstrip(" ")) for text in (lines[line], previous_line)
    )
    if lines[line].find(":") != column or indent <= previous_indent:
        return None
    return (
        "the line is indented further than the line above",
        line,
        indent,
        f"indent it with {counted(previous_indent, 'space')}, as the line above",
    )
