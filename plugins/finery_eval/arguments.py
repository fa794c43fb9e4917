"""Arguments of calls, as the JSON Schemas of the tools define them: their equality and their names.

A value has a normal form that depends only on its schema. Two arguments are equal if their normal
forms are equal, so equality never depends on the order of comparisons.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from finery.rows.answers.jsonvalues import NotJson, parse

Schema = Mapping[str, Any]
Normal = tuple[Any, ...]
"""A hashable form of a JSON value: its kind, and what it holds."""

GIVEN: Normal = ("given",)
"""The form of an argument whose content isn't judged."""
DEEPEST = 8
"""References and combinations of a schema that are followed for one value: they may be circular."""
LONGEST_INDEX = 6
"""Digits of the number of an item in a reference, at most."""
COMBINATIONS = ("$ref", "allOf", "anyOf", "oneOf")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
"""JSON Schema's types, without the numbers."""


class Equality(msgspec.Struct, frozen=True, kw_only=True):
    """When the arguments of two calls of a tool are the same.

    ignore_case, strip: of texts, except for the values of an `enum`. free, unordered: arguments as
    `tool.argument.field`, of which the content or the order of a list doesn't matter.
    """

    ignore_case: bool = False
    strip: bool = False
    free: frozenset[str] = frozenset()
    unordered: frozenset[str] = frozenset()

    def normal(self, tool: str, schema: Schema, arguments: Mapping[str, Any]) -> Normal:
        """The normal form of a call's arguments."""
        return self._normal(arguments, schema, schema, tool)

    def differing(
        self, tool: str, schema: Schema, expected: Mapping[str, Any], answered: Mapping[str, Any]
    ) -> Iterator[str]:
        """The arguments of two calls of a tool that differ, in the order of their names."""
        forms = [dict(self.normal(tool, schema, call)[1]) for call in (expected, answered)]
        names = sorted({*forms[0], *forms[1]})
        yield from (name for name in names if forms[0].get(name) != forms[1].get(name))

    def _normal(self, value: Any, schema: Schema, root: Schema, path: str) -> Normal:
        is_blank = value in (None, [], {}) or (isinstance(value, str) and not value.strip())
        if path in self.free and not is_blank:
            return GIVEN
        facets = facets_of(schema, root, value)
        if isinstance(value, dict):
            named, extra = facets.get("properties", {}), facets.get("additionalProperties", {})
            defaults = {
                name: member_facets["default"]
                for name, member in named.items()
                if "default" in (member_facets := facets_of(member, root, None))
            }
            members = {
                name: self._normal(member, named.get(name, extra), root, f"{path}.{name}")
                for name, member in {**defaults, **value}.items()
            }
            return "object", tuple(sorted(members.items()))
        if isinstance(value, list):
            items = [self._normal(item, facets.get("items", {}), root, path) for item in value]
            if facets.get("uniqueItems") is True or path in self.unordered:
                return "set", tuple(sorted(items, key=repr))
            return "array", tuple(items)
        if isinstance(value, str):
            if not {"enum", "const"} & facets.keys():
                value = value.strip() if self.strip else value
                value = value.casefold() if self.ignore_case else value
            return "text", value
        # 3 equals 3.0 and differs from "3", and 1 differs from true.
        if isinstance(value, bool) or value is None:
            return "constant", str(value)
        is_whole = isinstance(value, float) and value.is_integer()
        return "number", int(value) if is_whole else value


def coerced(value: Any, schema: Schema) -> Any:
    """Arguments with values in text converted to the types that the schema asks for.

    If the schema doesn't allow text, a text that contains a number, `true`, `false`, a list or an
    object becomes that value. If it only allows text, a number becomes text. Raises `NotJson` if
    `parse` doesn't accept the result, e.g. because lists in texts are nested too deeply.
    """
    try:
        return parse(json.dumps(_coerced(value, schema, schema)))
    except RecursionError:
        raise NotJson("JSON nested too deeply") from None


def _coerced(value: Any, schema: Schema, root: Schema) -> Any:
    facets = facets_of(schema, root, value)
    types = types_of(facets)
    if isinstance(value, str) and types and "string" not in types:
        value = _read(value, types)
        facets = facets_of(schema, root, value)
    elif types == {"string"} and isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        named, extra = facets.get("properties", {}), facets.get("additionalProperties", {})
        return {k: _coerced(v, named.get(k, extra), root) for k, v in value.items()}
    if isinstance(value, list):
        return [_coerced(item, facets.get("items", {}), root) for item in value]
    return value


def _read(text: str, types: set[str]) -> Any:
    """The value of one of the types that a text holds; else the text."""
    stripped = text.strip()
    if "boolean" in types and stripped.lower() in ("true", "false"):
        return stripped.lower() == "true"
    is_number = {"number", "integer"} & types and _NUMBER.fullmatch(stripped)
    is_branch = {"object", "array"} & types and stripped[:1] in ("{", "[")
    if not is_number and not is_branch:
        return text
    try:
        value = parse(stripped)
    except NotJson:
        return text
    return value if is_number or _is_of(value, types) else text


def facets_of(schema: Any, root: Schema, value: Any, depth: int = DEEPEST) -> dict[str, Any]:
    """What a schema says of a value, with references and combinations resolved.

    Of `anyOf` and `oneOf`, the first branch counts that fits the value's type, its constant values
    and its required members. If none fits, only their types count.
    """
    if not isinstance(schema, dict) or not depth:
        return {}
    parts = [_resolved(schema["$ref"], root)] if isinstance(schema.get("$ref"), str) else []
    parts = [facets_of(part, root, value, depth - 1) for part in (*parts, *_list(schema, "allOf"))]
    for combination in ("anyOf", "oneOf"):
        branches = [facets_of(b, root, value, depth - 1) for b in _list(schema, combination)]
        if branches:
            fitting = [branch for branch in branches if _fits(value, branch)]
            types = sorted(set().union(*map(types_of, branches)))
            parts.append(fitting[0] if fitting else {"type": types})
    merged: dict[str, Any] = {}
    for part in (*parts, {k: v for k, v in schema.items() if k not in COMBINATIONS}):
        properties = {**merged.get("properties", {}), **part.get("properties", {})}
        merged |= part
        if properties:
            merged["properties"] = properties
    return merged


def branches_of(schema: Any, root: Schema) -> list[dict[str, Any]]:
    """All forms that a schema allows, whatever the value."""
    if not isinstance(schema, dict):
        return []
    branches = [b for keyword in ("anyOf", "oneOf") for b in _list(schema, keyword)]
    return [facets_of(part, root, None) for part in (schema, *branches)]


def _list(schema: Schema, keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []


def referenced(schema: Schema) -> Iterator[tuple[str, Any]]:
    """(reference, what it names) of each `$ref` inside of the schema; a missing part is {}."""
    parts: list[Any] = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            reference = part.get("$ref")
            if isinstance(reference, str) and reference.startswith("#/"):
                yield reference, _resolved(reference, schema)
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def _resolved(reference: str, root: Schema) -> Any:
    """The part of the schema that a reference such as `#/$defs/Address` names."""
    part: Any = root
    for key in reference.removeprefix("#").split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and key.isdecimal() and len(key) < LONGEST_INDEX:
            part = dict(enumerate(part)).get(int(key), {})
        elif isinstance(part, Mapping) and key in part:
            part = part[key]
        else:
            return {}
    return part


def _fits(value: Any, facets: Schema) -> bool:
    """Whether a value may follow this branch."""
    types = types_of(facets)
    if (types and not _is_of(value, types)) or not _is_constant(value, facets):
        return False
    members = facets.get("properties", {}).items()
    return not isinstance(value, dict) or (
        all(name in value for name in _list(facets, "required"))
        and all(_is_constant(value[name], member) for name, member in members if name in value)
    )


def _is_constant(value: Any, facets: Any) -> bool:
    """Whether a schema lists this value, if it lists any."""
    if not isinstance(facets, dict):
        return True
    constants = [*_list(facets, "enum"), *([facets["const"]] if "const" in facets else [])]
    return not constants or value in constants


def types_of(facets: Schema) -> set[str]:
    """The types that a schema allows; empty if it doesn't say."""
    kind = facets.get("type", [])
    return {kind} if isinstance(kind, str) else {each for each in kind if isinstance(each, str)}


def _is_of(value: Any, types: set[str]) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        is_whole = isinstance(value, int) or value.is_integer()
        return "number" in types or ("integer" in types and is_whole)
    return any(isinstance(value, _KINDS[kind]) for kind in types if kind in _KINDS)
