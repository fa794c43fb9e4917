"""A recipe as it was written: plain data, and where in the file each part of it stands.

YAML is read the way people mean it: `2e-4` is a number, `no` and `on` are strings, a key written
twice is an error, aliases can't blow up, tags can't make objects.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from finery.errors import RecipeError, UsageError, shown

Path_ = tuple[str | int, ...]
"""A place in the recipe, e.g. `("train", "sft", "lora", "r")`."""

MAX_NODES = 200_000
"""More parts than any recipe has: what lies beyond is aliases multiplying."""
MAX_DEPTH = 100
"""Deeper than any recipe is nested."""
_NO_NUMBER = re.compile(r"[-+]?\.(inf|nan)$", re.ASCII | re.IGNORECASE)
_BIGGEST = 2**63
"""Whole numbers from its negative up to just below it fit in 64 bits, as keys carry them."""

_INT = re.compile(r"[-+]?(0|[1-9]\d*(_\d+)*)$|0x[0-9a-fA-F]+$|0o[0-7]+$", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\d+(_\d+)*(\.\d*|(?=[eE]))|\.\d+)([eE][-+]?\d+)?$", re.ASCII)
_WORDS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_SYNTAX = [
    ("mapping values are not allowed", "unexpected ':'",
     "quote the text before it, or check the indentation above"),
    ("undefined alias", "no anchor has this name",
     "define it before its first use: &name beside a value"),
    ("duplicate anchor", "this anchor is defined twice", "give it another name"),
    ("another document", "a second YAML document starts here", "keep one recipe a file"),
    ("expected <document start>", "a second YAML document starts here", "keep one recipe a file"),
    ("cannot start any token", "a text can't start with this character", "put it in quotes"),
    ("expected '-' indicator", "a list goes on here with something that isn't an item",
     "start items with '- ', or check the indentation"),
    ("block mapping did not find expected key", "this fits neither the line nor the lines above it",
     "check its indentation, and the quotes and brackets before it"),
    ("maximum nesting depth", "the recipe is nested too deeply", "flatten it"),
    ("unknown escape character", "unknown escape in double quotes",
     "write \\\\ for \\, or use single quotes"),
]  # fmt: skip
"""(part of what libyaml says, what is wrong, fix) for people who don't know YAML's grammar."""
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml: ten times faster


class Recipe:
    """The data of a recipe file, with `--set` applied, and the positions of its parts."""

    def __init__(self, path: Path, text: str, node: yaml.Node, data: dict[str, Any]) -> None:
        self.path = path
        self.text = text
        self.data = data
        self._node = node
        self._overrides: dict[Path_, str] = {}

    @property
    def folder(self) -> Path:
        """The recipe's folder: its paths are relative to it."""
        return self.path.parent

    @property
    def name(self) -> str:
        """The recipe's name; the folder's if it says none."""
        return str(self.data.get("name") or self.folder.resolve().name)

    def override(self, assignment: str) -> None:
        """Apply one `--set section.step.setting=value`; the value is read as YAML."""
        target, found, text = assignment.partition("=")
        where = without_secrets(f"--set {assignment}")
        if not found or not target:
            raise UsageError("--set takes PATH=VALUE", where=where, fix="--set train.sft.epochs=1")
        keys = target.strip().split(".")
        try:
            value = _parse(text, where)[1] if text.strip() else ""
        except RecipeError as error:
            what = error.what.replace("the recipe", "the value")
            raise UsageError(what, where=where, fix=error.fix) from None
        parent = self.data
        for depth, key in enumerate(keys[:-1]):
            child = parent.setdefault(key, {}) if depth >= 2 else parent.get(key)
            if not isinstance(child, dict):
                raise UsageError(
                    f"the recipe has no '{'.'.join(keys[: depth + 1])}' to set something in",
                    where=where,
                    fix="name a section and a step of the recipe: --set train.sft.epochs=1",
                )
            parent = child
        parent[keys[-1]] = value
        self._overrides[tuple(keys)] = where

    def where(self, place: Sequence[str | int] = (), *, key: bool = False) -> str:
        """`file:line:column` of a part of the recipe, or the nearest part above it.

        key: the position of the part's key instead of its value's.
        """
        for end in range(len(place), 0, -1):
            if tuple(place[:end]) in self._overrides:
                return self._overrides[tuple(place[:end])]
        mark = self._mark(place, key)
        return f"{shown(self.path)}:{mark.line + 1}:{mark.column + 1}"

    def _mark(self, place: Sequence[str | int], key: bool) -> yaml.Mark:
        node, mark = self._node, self._node.start_mark
        for depth, step in enumerate(place):
            pair = _child(node, step)
            if pair is None:
                break
            name, node = pair
            last = depth == len(place) - 1
            mark = name.start_mark if (last and key) or not last else node.start_mark
        return mark

    def error(
        self,
        what: str,
        place: Sequence[str | int] = (),
        *,
        key: bool = False,
        fix: str | None = None,
    ) -> RecipeError:
        """A `RecipeError` at a part of the recipe, with the line itself shown."""
        where = self.where(place, key=key)
        mark = self._mark(place, key)
        if where.startswith("--set"):
            return RecipeError(what, where=where, fix=fix)
        return RecipeError(
            what, where=where, fix=fix, details=_excerpt(self.text, mark.line, mark.column)
        )


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file; every mistake in the YAML is a `RecipeError` with its position."""
    recipe = Recipe(path, *_read(path))
    for assignment in overrides:
        recipe.override(assignment)
    return recipe


def _read(path: Path) -> tuple[str, yaml.Node, dict[str, Any]]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"there is no recipe {shown(path)}", fix="name one, or make one: finery init DIR"
        ) from None
    except OSError as error:
        raise UsageError(f"can't read the recipe {shown(path)}: {error.strerror}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise RecipeError(
            f"the recipe is not UTF-8 (byte 0x{raw[error.start]:02x})",
            where=f"{shown(path)}:{line}:{column}",
            fix="save it as UTF-8",
        ) from None
    node, data = _parse(text, shown(path))
    if not isinstance(data, dict):
        raise RecipeError(
            "a recipe is a mapping of sections",
            where=f"{shown(path)}:1:1",
            fix="start with `finery: 1`; `finery init DIR` writes an example",
        )
    return text, node, data


def _parse(text: str, name: str) -> tuple[yaml.Node, Any]:
    """(node tree, plain data) of one YAML document."""
    reader = _Reader(text, name)
    try:
        loader = _LOADER(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        data = None if node is None else reader.value(node)
    except RecursionError:
        raise RecipeError(
            "the recipe is nested too deeply", where=f"{name}:1:1", fix="flatten it"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise reader.syntax_error(error) from None
    except yaml.reader.ReaderError as error:
        raise RecipeError(
            f"character #x{error.character:04x} is not allowed in YAML"
            if isinstance(error.character, int)
            else f"not readable as YAML: {error.reason}",
            where=reader.at_offset(error.position),
            fix="delete it",
        ) from None
    if node is None:
        raise RecipeError(
            "the recipe is empty", where=f"{name}:1:1", fix="finery init DIR writes one"
        )
    return node, data


class _Reader:
    """Turns YAML nodes into plain data."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.budget = MAX_NODES
        self.open: set[int] = set()

    def value(self, node: yaml.Node) -> Any:
        """The plain data of a node."""
        self.budget -= 1
        if self.budget < 0:
            raise self.fail(
                "aliases multiply to more than 200,000 parts",
                node,
                "write it out, or drop the aliases",
            )
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            raise self.fail("an alias contains itself", node, "drop the alias")
        if len(self.open) == MAX_DEPTH:
            raise self.fail("the recipe is nested too deeply", node, "flatten it")
        self.check_tag(node, "map", "seq", "str")
        self.open.add(id(node))
        made: Any
        if isinstance(node, yaml.SequenceNode):
            made = [self.value(child) for child in node.value]
        else:
            made = self.mapping(node)
        self.open.discard(id(node))
        return made

    def check_tag(self, node: yaml.Node, *allowed: str) -> None:
        prefix, _, name = node.tag.rpartition(":")
        if prefix != "tag:yaml.org,2002" or name not in allowed:
            shown_tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise self.fail(f"the tag {shown_tag} is not allowed in a recipe", node, "drop the tag")

    def mapping(self, node: yaml.Node) -> dict[str, Any]:
        made: dict[str, Any] = {}
        seen: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.bad_key(key_node)
            key = key_node.value
            if key in seen:
                first = seen[key].start_mark.line + 1
                raise self.fail(
                    f"'{key}' is written twice (first in line {first})",
                    key_node,
                    "keep one of the two",
                )
            seen[key] = key_node
            if key == "<<":
                continue
            made[key] = self.value(value_node)
        for key_node, value_node in node.value:
            if key_node.value == "<<":
                made = self.merged(value_node) | made
        return made

    def bad_key(self, node: yaml.Node) -> RecipeError:
        mark = node.start_mark
        if self.text.splitlines()[mark.line][: mark.column + 1].endswith("{{"):
            return self.at(
                "a template must be in quotes", mark.line, mark.column - 1, 'write "{{ … }}"'
            )
        return self.fail("a key must be a plain word", node, "put it in quotes")

    def merged(self, node: yaml.Node) -> dict[str, Any]:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        made: dict[str, Any] = {}
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise self.fail(
                    "'<<' merges mappings only", part, "name an anchor of a mapping: <<: *defaults"
                )
            made = self.value(part) | made
        return made

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        self.check_tag(node, "str")
        if node.style in ("'", '"', "|", ">"):
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _NO_NUMBER.match(text):
            raise self.fail(
                f"{text} is no number that a recipe can hold",
                node,
                "write a number; if it is meant as text, put it in quotes",
            )
        if _INT.match(text) or _FLOAT.match(text):
            return self.number(node)
        return text

    def number(self, node: yaml.ScalarNode) -> int | float:
        text, made = node.value.replace("_", ""), math.inf
        if not _INT.match(text):
            made = float(text)
        elif len(text) < 100:  # Python reads no more than 4,300 digits
            made = int(text, 0 if text[:2] in ("0x", "0o") else 10)
        if math.isinf(made) or (isinstance(made, int) and not -_BIGGEST <= made < _BIGGEST):
            raise self.fail(
                f"the number {text[:20]}{'…' if len(text) > 20 else ''} is too large",
                node,
                "if it is meant as text, put it in quotes",
            )
        return made

    def fail(self, what: str, node: yaml.Node, fix: str) -> RecipeError:
        mark = node.start_mark
        return self.at(what, mark.line, mark.column, fix)

    def at(self, what: str, line: int, column: int, fix: str | None) -> RecipeError:
        where = f"{self.name}:{line + 1}:{column + 1}"
        return RecipeError(what, where=where, fix=fix, details=_excerpt(self.text, line, column))

    def at_offset(self, offset: int) -> str:
        line = self.text.count("\n", 0, offset) + 1
        return f"{self.name}:{line}:{offset - self.text.rfind(chr(10), 0, offset)}"

    def syntax_error(self, error: yaml.MarkedYAMLError) -> RecipeError:
        """libyaml's complaint in words a recipe's author can use."""
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        lines = self.text.splitlines()
        indent = re.match(r"\s*", lines[line]) if line < len(lines) else None
        if indent and "\t" in indent.group():
            column = indent.group().index("\t")
            return self.at("the line is indented with a tab", line, column, "indent with spaces")
        said = f"{error.context or ''} {error.problem or ''}"
        opened = error.context_mark
        if opened and line > opened.line and ("end of stream" in said or "parsing a flow" in said):
            start = lines[opened.line][opened.column]
            return self.at(f"this {start} is never closed", opened.line, opened.column, "close it")
        for needle, what, fix in _SYNTAX:
            if needle in said:
                return self.at(what, line, column, fix)
        problem = (error.problem or "").removeprefix("found ") or "not readable"
        context = f", {error.context}" if error.context else ""
        return self.at(
            f"not readable as YAML: {problem}{context}",
            line,
            column,
            "check quotes, brackets and indentation here and in the line above",
        )


def _child(node: yaml.Node, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """(key node, value node) of a part of a node, looking through merges."""
    if isinstance(node, yaml.SequenceNode):
        if isinstance(step, int) and step < len(node.value):
            return node.value[step], node.value[step]
        return None
    if not isinstance(node, yaml.MappingNode):
        return None
    for key_node, value_node in node.value:
        if key_node.value == step:
            return key_node, value_node
    for merged in _merged_nodes(node):
        found = _child(merged, step)
        if found:
            return found
    return None


def _merged_nodes(node: yaml.MappingNode) -> Iterator[yaml.Node]:
    for key_node, value_node in node.value:
        if key_node.value == "<<":
            yield from (
                value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            )


_PASSWORD = re.compile(r"""(\w://[^\s:/@'"]*:)[^\s'"]+@""")
_QUERY_KEY = re.compile(
    r"""([?&;][\w.-]*(?:key|token|secret|password|auth|sig)[\w.-]*=)[^\s'"&;#]+""", re.IGNORECASE
)


def without_secrets(text: str) -> str:
    """The text with the passwords of URLs, and keys in their queries, as `***`."""
    return _QUERY_KEY.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


def _excerpt(text: str, line: int, column: int) -> list[str]:
    """The line and a caret under the column."""
    lines = text.splitlines()
    if line >= len(lines):
        return []
    shown = without_secrets(lines[line].replace("\t", " "))
    number = f"{line + 1}"
    return (
        [f"{number} | {shown[:100]}", f"{' ' * len(number)} | {' ' * column}^"]
        if column < 100
        else [f"{number} | {shown[:100]}…"]
    )
