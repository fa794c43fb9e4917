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
    return all(key in _KEYWORDS and _KEYWORDS[key](schema, value, defs) for key in schema)


def _type(schema: Schema, value: Any, defs: Schema) -> bool:
    names = schema["type"]
    kinds = map(_TYPES.get, names if isinstance(names, list) else [names])
    return any(kind is not None and type(value) in kind for kind in kinds)


def _additional(schema: Schema, value: Any, defs: Schema) -> bool:
    other, known = schema["additionalProperties"], schema.get("properties", {})
    if not isinstance(value, dict) or other is True:
        return True
    return all(
        k in known or (other is not False and _fits(other, v, defs)) for k, v in value.items()
    )


def _limit(keyword: str, holds: Callable[[Any, Any], bool], *kinds: type) -> "_Keyword":
    """A limit on values of some types, or on their lengths."""
    return lambda schema, value, defs: type(value) not in kinds or holds(value, schema[keyword])


_Keyword = Callable[[Schema, Any, Schema], bool]
_TYPES: dict[str, set[type]] = {
    "string": {str}, "integer": {int}, "number": {int, float}, "boolean": {bool},
    "array": {list}, "object": {dict}, "null": {type(None)},
}  # fmt: skip
_KEYWORDS: dict[str, _Keyword] = {
    "type": _type,
    "properties": lambda schema, value, defs: (
        not isinstance(value, dict)
        or all(
            _fits(schema["properties"][k], v, defs)
            for k, v in value.items()
            if k in schema["properties"]
        )
    ),
    "additionalProperties": _additional,
    "required": lambda schema, value, defs: (
        not isinstance(value, dict) or all(key in value for key in schema["required"])
    ),
    "items": lambda schema, value, defs: (
        not isinstance(value, list) or all(_fits(schema["items"], v, defs) for v in value)
    ),
    "anyOf": lambda schema, value, defs: any(_fits(of, value, defs) for of in schema["anyOf"]),
    "$ref": lambda schema, value, defs: (
        (name := schema["$ref"].removeprefix("#/$defs/")) in defs and _fits(defs[name], value, defs)
    ),
    "enum": lambda schema, value, defs: any(
        type(one) is type(value) and one == value for one in schema["enum"]
    ),
    "const": lambda schema, value, defs: (
        type(schema["const"]) is type(value) and schema["const"] == value
    ),
    "pattern": lambda schema, value, defs: (
        not isinstance(value, str) or re.search(schema["pattern"], value) is not None
    ),
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
    **dict.fromkeys(("$defs", "default", "description", "examples", "title"), lambda *_: True),
}
