"""What a step must take: other values of its settings, by their types and limits, and rows that it
rarely meets: none, odd text, very long text."""

import typing
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from finery.fields import Files, Settings
from finery.recipe.schema import step_schema
from finery.rows import Row
from finery.step.inspect import field_hints, inputs_of, nested_fields
from finery.step.step import Step
from finery.testing.checks import groups_in

UNLIMITED = 100_000_000
EMPTY = "empty"
"""The name of an empty file or folder, without suffix: another value of a setting for files."""


class Variation(NamedTuple):
    """A setting, e.g. `lora.r`, and values other than its own, the likeliest to be taken first.

    affects_output: whether the setting is part of the key.
    """

    path: str
    affects_output: bool
    values: list[Any]


def variations_of(step: Step) -> Iterator[Variation]:
    """All settings of a step, with the other values that follow from their types: maybe none.

    A group that may be null is a setting, too, if the step has it.
    """
    schema = step_schema(type(step))
    fixed = inputs_of(type(step)).keys() | nested_fields(type(step)).keys()
    yield from _variations(type(step), step, schema, schema.get("$defs", {}), fixed)


def is_of_files(variation: Variation) -> bool:
    """Whether the setting names files."""
    return str(variation.values[:1]).startswith(f"['{EMPTY}")


def _variations(
    cls: type[Settings],
    value: Settings | None,
    schema: Mapping[str, Any],
    groups: Mapping[str, Any],
    fixed: frozenset[str] | set[str] = frozenset(),
) -> Iterator[Variation]:
    """The variations of a group of settings. value: None if the group isn't set."""
    for name, hint in field_hints(cls).items():
        info = cls.__finery_fields__.get(name)
        if info is None or name in fixed:
            continue
        current = getattr(value, name) if value is not None else info.default
        if _names_files(hint):
            suffix = Path(current.patterns[0]).suffix if isinstance(current, Files) else ""
            yield Variation(name, info.affects_output, [f"{EMPTY}{suffix}"])
            continue
        inner = [group for group in groups_in(hint) if group.__name__ in groups]
        parts = current if isinstance(current, dict) and inner else {"": current}
        if len(inner) == 1 and current != {} and not isinstance(current, list):
            (group,) = inner
            if current is not None and type(None) in typing.get_args(hint):
                yield Variation(name, info.affects_output, [None])
            for key, part in parts.items():
                within = part if isinstance(part, group) else None
                prefix = f"{name}.{key}." if key else f"{name}."
                for v in _variations(group, within, groups[group.__name__], groups):
                    affects_output = info.affects_output and v.affects_output
                    yield v._replace(path=prefix + v.path, affects_output=affects_output)
            continue
        values = [v for v in _others(schema["properties"][name], current) if v != current]
        yield Variation(name, info.affects_output, values)


def _names_files(hint: Any) -> bool:
    """Whether a setting of this type names files, so that another value would name no file."""
    is_files = isinstance(hint, type) and issubclass(hint, Files)
    return is_files or any(map(_names_files, typing.get_args(hint)))


def _others(form: Mapping[str, Any], current: Any) -> Iterator[Any]:
    """Values that a JSON Schema allows: first its examples, which are likely to be sensible."""
    yield from form.get("examples", ())
    for part in form.get("anyOf", ()):
        yield from _others(part, current)
    yield from form.get("enum", ())
    kinds = form.get("type", ())
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind == "boolean":
            yield current is not True
        elif kind in ("integer", "number"):
            yield from _numbers(form, current, integer=kind == "integer")
        elif kind == "array":
            yield from [current[:-1]] if isinstance(current, list) and current else ()
            yield from ([v] for v in islice(_others(form.get("items", {}), None), 3))
        elif kind == "object":
            inner = form.get("additionalProperties")
            if isinstance(current, dict) and current:
                yield dict(islice(current.items(), len(current) - 1))
            values = [*islice(_others(inner, None), 3)] if isinstance(inner, dict) else [1]
            yield from ({"x": value} for value in values or [1])
        elif kind == "string" and "pattern" not in form and "enum" not in form:
            yield f"{current}x" if isinstance(current, str) else "x"


def _numbers(form: Mapping[str, Any], current: Any, *, integer: bool) -> Iterator[float]:
    low = form.get("minimum", form.get("exclusiveMinimum", 0))
    high = form.get("maximum", form.get("exclusiveMaximum"))
    is_set = isinstance(current, int | float) and not isinstance(current, bool)
    base = current if is_set else low
    choices = [base + 1, base - 1] if integer else [base / 2, base + 0.25, base + 1]
    if not is_set:  # most often a limit: a small one would leave nothing
        choices.insert(0, low + UNLIMITED)
    if high is not None:
        choices.append((low + high) // 2 if integer else (low + high) / 2)
    choices += [
        base * 4,
        base // 4 if integer else base / 16,
        low,
        *([] if high is None else [high]),
    ]
    for choice in choices:
        above = choice > low if "exclusiveMinimum" in form else choice >= low
        below = high is None or (choice < high if "exclusiveMaximum" in form else choice <= high)
        if above and below:
            yield choice


# -- rows ----------------------------------------------------------------------------------------

Change = Callable[[list[Row]], list[Row]]
"""Makes other rows of the same columns."""

LARGE_BYTES = 10 * 1024 * 1024
ODD_TEXT = (
    "\ufeffnul \x00, escape \x1b[31m, line\u2028paragraph\u2029next\x85, family 👩‍👩‍👧, "
    "cafe\u0301, \u202eright to left\u202c, 中文, عربى, '\"\\{{ x }}%s<b>&amp;\r\n\ttab "
)
"""Control characters, line ends that only Unicode knows, joined and bidirectional characters, and
what templates, SQL, HTML and format strings take for their own."""
_TEXTS = ("prompt", "completion", "chosen", "rejected", "text", "content")
"""Columns, and keys of messages, that hold text."""


def odd_rows(rows: list[Row]) -> list[Row]:
    """The same rows with odd text around all their texts."""
    return [_changed(row, lambda text: f"{ODD_TEXT}{text}{ODD_TEXT}") for row in rows]


def large_rows(rows: list[Row]) -> list[Row]:
    """The same rows; the texts of the first have 10 MB together."""
    if not rows:
        return rows
    texts: list[str] = []
    _changed(rows[0], lambda text: texts.append(text) or text)  # type: ignore[func-returns-value]
    words = "lorem ipsum dolor sit amet "
    filler = words * (LARGE_BYTES // len(words) // max(1, len(texts)))
    return [_changed(rows[0], lambda text: f"{text} {filler}"), *rows[1:]]


HOSTILE: dict[str, Change] = {"none": lambda rows: [], "odd": odd_rows, "large": large_rows}


def _changed(row: Row, change: Callable[[str], str]) -> Row:
    """The row with its texts changed; ids go, since the content is another."""
    return {
        key: _changed_value(key, value, change)
        for key, value in row.items()
        if key not in ("id", "parents")
    }


def _changed_value(key: str, value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value) if key in _TEXTS else value
    if isinstance(value, list):
        return [_changed_value(key, part, change) for part in value]
    if isinstance(value, dict):
        return {name: _changed_value(name, part, change) for name, part in value.items()}
    return value
