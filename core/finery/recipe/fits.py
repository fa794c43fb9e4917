"""Whether a value fits a JSON Schema, without the reason.

Most values fit, and a validator that explains its errors takes longer to import than a whole build
with nothing to do. This one knows the keywords that step types use. A schema with any other
keyword counts as not fitting, so that the full validator decides.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

Schema = Mapping[str, Any]


def fits(schema: Schema, value: Any) -> bool:
    """Whether the value certainly fits; False if it doesn't, or if that is unknown."""
    return _fits(schema, value, schema.get("$defs", {}))


def _fits(schema: Schema, value: Any, defs: Schema) -> bool:
    return all(_KEYWORDS.get(key, _unknown)(schema, value, defs) for key in schema)


def _type(schema: Schema, value: Any, defs: Schema) -> bool:
    names = schema["type"]
    kinds = map(_TYPES.get, names if isinstance(names, list) else [names])
    return any(kind is not None and type(value) in kind for kind in kinds)


def _properties(schema: Schema, value: Any, defs: Schema) -> bool:
    if not isinstance(value, dict):
        return True
    known = schema["properties"]
    return all(key not in known or _fits(known[key], v, defs) for key, v in value.items())


def _additional(schema: Schema, value: Any, defs: Schema) -> bool:
    if not isinstance(value, dict):
        return True
    other, known = schema["additionalProperties"], schema.get("properties", {})
    if isinstance(other, bool):
        return other or all(key in known for key in value)
    return all(key in known or _fits(other, v, defs) for key, v in value.items())


def _required(schema: Schema, value: Any, defs: Schema) -> bool:
    return not isinstance(value, dict) or all(key in value for key in schema["required"])


def _items(schema: Schema, value: Any, defs: Schema) -> bool:
    return not isinstance(value, list) or all(_fits(schema["items"], v, defs) for v in value)


def _any_of(schema: Schema, value: Any, defs: Schema) -> bool:
    return any(_fits(one, value, defs) for one in schema["anyOf"])


def _ref(schema: Schema, value: Any, defs: Schema) -> bool:
    name = schema["$ref"].removeprefix("#/$defs/")
    return name in defs and _fits(defs[name], value, defs)


def _enum(schema: Schema, value: Any, defs: Schema) -> bool:
    return any(type(one) is type(value) and one == value for one in schema["enum"])


def _const(schema: Schema, value: Any, defs: Schema) -> bool:
    return type(schema["const"]) is type(value) and schema["const"] == value


def _pattern(schema: Schema, value: Any, defs: Schema) -> bool:
    return not isinstance(value, str) or re.search(schema["pattern"], value) is not None


def _limit(keyword: str, holds: Callable[[Any, Any], bool], *kinds: type) -> "_Keyword":
    """A limit on values of some types, or on their lengths."""

    def check(schema: Schema, value: Any, defs: Schema) -> bool:
        return type(value) not in kinds or holds(value, schema[keyword])

    return check


def _ignored(schema: Schema, value: Any, defs: Schema) -> bool:
    return True


def _unknown(schema: Schema, value: Any, defs: Schema) -> bool:
    return False


_Keyword = Callable[[Schema, Any, Schema], bool]
_TYPES: dict[str, set[type]] = {
    "string": {str}, "integer": {int}, "number": {int, float}, "boolean": {bool},
    "array": {list}, "object": {dict}, "null": {type(None)},
}  # fmt: skip
_KEYWORDS: dict[str, _Keyword] = {
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional,
    "required": _required,
    "items": _items,
    "anyOf": _any_of,
    "$ref": _ref,
    "enum": _enum,
    "const": _const,
    "pattern": _pattern,
    "minimum": _limit("minimum", lambda value, limit: value >= limit, int, float),
    "exclusiveMinimum": _limit("exclusiveMinimum", lambda value, limit: value > limit, int, float),
    "maximum": _limit("maximum", lambda value, limit: value <= limit, int, float),
    "exclusiveMaximum": _limit("exclusiveMaximum", lambda value, limit: value < limit, int, float),
    "minLength": _limit("minLength", lambda value, limit: len(value) >= limit, str),
    "maxLength": _limit("maxLength", lambda value, limit: len(value) <= limit, str),
    "minItems": _limit("minItems", lambda value, limit: len(value) >= limit, list),
    "maxItems": _limit("maxItems", lambda value, limit: len(value) <= limit, list),
    "minProperties": _limit("minProperties", lambda value, limit: len(value) >= limit, dict),
    "maxProperties": _limit("maxProperties", lambda value, limit: len(value) <= limit, dict),
    **dict.fromkeys(("$defs", "default", "description", "examples", "title"), _ignored),
}
