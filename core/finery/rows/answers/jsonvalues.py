"""JSON answers: read strictly, taken apart into fields, and compared value by value."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec

MAX_DEPTH = 64
"""Levels of nesting that an answer may have: what reads it recursively must survive it."""

MAX_DIGITS = 308
"""Maximum number of digits of an integer that fits in a double."""

FLOAT_TOLERANCE = 1e-9
"""Rounding error allowed on top of the tolerance, relative to the numbers."""

MISSING: Any = object()
"""Stands for a field that an object doesn't have."""

UNREADABLE: Any = object()
"""Stands for every field of an answer that isn't a JSON object; equal to nothing."""

Path = tuple[str, ...]
"""The keys that lead to a field, from the outermost object inwards."""

_CODE_FENCE = re.compile(r"```(?:\w*\s)?(.*)```", re.DOTALL)


class NotJson(ValueError):
    """A text isn't JSON. kind: the description that groups similar errors. detail: the place."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail


class DuplicateKey(NotJson):
    """An object has a key twice, the `detail`: programs differ in which of the values they take."""

    def __init__(self, key: str) -> None:
        super().__init__("JSON with a key given twice", key)


def parse(text: str) -> Any:
    """Parse JSON text, optionally in one code fence. Raises `NotJson`, see `parse_strict_at`."""
    text = strip_fence(text)
    if not text:
        raise NotJson("no JSON, the text is empty")
    return parse_strict(text)


def parse_strict(text: str) -> Any:
    """Parse JSON text. Raises `NotJson`, see `parse_strict_at`."""
    value, end = parse_strict_at(text, 0)
    end = _skip_space(text, end)
    if end < len(text):
        raise NotJson("text after the JSON", f"Extra data, character {end + 1}")
    return value


def parse_strict_at(text: str, start: int) -> tuple[Any, int]:
    """(the value that begins at a position of the text, the position after it).

    Stricter than `json.loads`: refuses a key given twice, NaN and Infinity (RFC 8259), numbers
    that no double holds, halves of surrogate pairs, and more than `MAX_DEPTH` levels of nesting.
    Raises `NotJson`.
    """
    try:
        value, end = _DECODER.raw_decode(text, _skip_space(text, start))
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(error.doc) or error.msg.startswith("Unterminated string")
        kind = "JSON that ends too early" if is_cut else "not JSON"
        raise NotJson(kind, f"{error.msg}, character {error.pos + 1}") from None
    except RecursionError:
        raise NotJson("JSON nested too deeply") from None
    if is_deeper(value, MAX_DEPTH):
        raise NotJson("JSON nested too deeply", f"more than {MAX_DEPTH} levels")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise NotJson("JSON with half of a surrogate pair") from None
    return value, end


def object_with_unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these members. Raises `DuplicateKey`."""
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise DuplicateKey(next(key for key, count in counts.items() if count > 1))
    return value


def strip_fence(text: str) -> str:
    """The content of the code fence if the text is nothing else; otherwise the stripped text."""
    match = _CODE_FENCE.fullmatch(text.strip())
    return (match[1] if match else text).strip()


def nodes(value: Any, path: Path = ()) -> Iterator[tuple[Path, bool]]:
    """(path, whether it is a leaf) of every field of an object, outer fields first.

    Everything except non-empty objects is a leaf, including lists with any content.
    """
    for key, inner in value.items():
        branch = isinstance(inner, dict) and bool(inner)
        yield (*path, key), not branch
        if branch:
            yield from nodes(inner, (*path, key))


def leaves(values: Iterable[Any]) -> list[Path]:
    """The leaves of these objects, in the order in which they are first met.

    What is an object in some and not in others counts by what it holds.
    """
    paths: dict[Path, None] = {}
    for value in values:
        paths.update((path, None) for path, leaf in nodes(value) if leaf)
    inner = {path[:n] for path in paths for n in range(1, len(path))}
    return [path for path in paths if path not in inner]


def lookup(value: Any, path: Path) -> Any:
    """The value at a path, `MISSING`, or `UNREADABLE` if `value` isn't an object."""
    if not isinstance(value, dict):
        return UNREADABLE
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return MISSING
        value = value[key]
    return value


def compact_json(value: Any) -> str:
    """A value as compact JSON, for tables."""
    if value is MISSING:
        return "(missing)"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Count(NamedTuple):
    """The result of a row in one field, in items: elements of a list, or the single value."""

    hits: int
    answered: int
    expected: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """When two values are the same.

    tolerance: the greatest difference of equal numbers. ordered: whether lists with the same
    elements in another order differ.
    """

    tolerance: float = 0.0
    ignore_case: bool = False
    ordered: bool = False

    def equal(self, a: Any, b: Any) -> bool:
        """Whether the values are equal: 3 and 3.0 are, 1 and true aren't."""
        if a is MISSING or b is MISSING or isinstance(a, bool) or isinstance(b, bool):
            return a is b
        if isinstance(a, int | float) and isinstance(b, int | float):
            return abs(a - b) <= self.tolerance + FLOAT_TOLERANCE * bool(self.tolerance) * max(
                abs(a), abs(b)
            )
        if type(a) is not type(b) or a is UNREADABLE:
            return False
        if isinstance(a, str):
            return self._text(a) == self._text(b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(self.equal(a[key], b[key]) for key in a)
        return a is None or len(a) == len(b) == self.overlap(a, b)

    def overlap(self, expected: Sequence[Any], answered: Sequence[Any]) -> int:
        """How many elements two lists have in common, each counted once.

        If order counts, the length of the longest common subsequence. Otherwise each expected
        element takes the first equal one that is left, numbers in ascending order.
        """
        if self.ordered:
            return self._subsequence(expected, answered)
        remaining, hits = sorted(answered, key=_sort_key), 0
        for element in sorted(expected, key=_sort_key):
            match = next(
                (i for i, candidate in enumerate(remaining) if self.equal(element, candidate)), None
            )
            if match is not None:
                del remaining[match]
                hits += 1
        return hits

    def count(self, expected: Any, answered: Any, *, as_list: bool) -> Count:
        """Hits, items answered and items expected. as_list: the field holds lists.

        In a list field, an answer that isn't a list counts as one wrong item, so that it always
        costs something. If the expected value isn't a list (null, say), an equal answer counts for
        nothing. Any other field has one item, right or wrong.
        """
        if not as_list:
            return Count(int(self.equal(expected, answered)), 1, 1)
        if isinstance(expected, list) and isinstance(answered, list):
            return Count(self.overlap(expected, answered), len(answered), len(expected))
        if isinstance(expected, list):
            return Count(0, 1, len(expected))
        if self.equal(expected, answered):
            return Count(0, 0, 0)
        return Count(0, max(1, len(answered)) if isinstance(answered, list) else 1, 0)

    def _text(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text

    def _subsequence(self, expected: Sequence[Any], answered: Sequence[Any]) -> int:
        best = [0] * (len(answered) + 1)
        for element in expected:
            previous = best[:]
            for i, candidate in enumerate(answered):
                longer = previous[i] + 1 if self.equal(element, candidate) else previous[i + 1]
                best[i + 1] = max(longer, best[i])
        return best[-1]


def _refuse_constant(text: str) -> NoReturn:
    raise NotJson("JSON with NaN or Infinity", text)


def _parse_number(text: str) -> float:
    """A number in JSON, with a fraction or an exponent or without."""
    is_whole = text.lstrip("-").isdecimal()
    if len(text.lstrip("-")) > MAX_DIGITS if is_whole else abs(float(text)) == float("inf"):
        raise NotJson("JSON with a number too large for a double")
    return int(text) if is_whole else float(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=object_with_unique_keys,
    parse_constant=_refuse_constant,
    parse_float=_parse_number,
    parse_int=_parse_number,
)
_SPACE = re.compile(r"[ \t\n\r]*")


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match is not None else at


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more than `levels` levels."""
    level = [value]
    for _ in range(levels):
        inner = [v.values() if isinstance(v, dict) else v for v in level if _children(v)]
        level = [element for elements in inner for element in elements]
    return any(map(_children, level))


def _children(value: Any) -> bool:
    return isinstance(value, dict | list)


def _sort_key(value: Any) -> tuple[int, float, str]:
    """Numbers first, by size; then all else in some fixed order."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, value, ""
    return 1, 0.0, json.dumps(value, sort_keys=True)
