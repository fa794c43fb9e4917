"""Fixes for values that a setting doesn't take."""

import math
import re
from typing import Any

from finery.util.text import counted

_YES, _NO = frozenset({"true", "yes", "on", "y", "1"}), frozenset({"false", "no", "off", "n", "0"})
_NULLS = frozenset({"none", "null", "nil", "nan", "na", "undefined", "~"})
_THOUSANDS = re.compile(r"\d{1,3}([ ,']\d{3})+")


def value_fix(label: str, value: Any, kinds: set[str], schema: dict[str, Any]) -> str | None:
    """The fix for a wrong value; None if the schema's message can't be improved.

    label: the name of the setting in messages. kinds: the types that it accepts, in JSON Schema's
    terms. schema: of the value.
    """
    name = label.rpartition(".")[2]
    if isinstance(value, str):
        return _text_fix(name, value, kinds)
    if isinstance(value, bool):
        return _bool_fix(name, value, kinds)
    if isinstance(value, (int, float)):
        return _number_fix(name, value, kinds, schema)
    if isinstance(value, list) and "array" not in kinds:
        return _list_fix(name, value, kinds)
    if isinstance(value, dict) and "array" in kinds and value:
        return f"write {name}: [{', '.join(value)}]"
    return None


def number_of(text: str) -> str | None:
    """The number that a text means, in YAML notation; None if it doesn't mean one."""
    share = text.removesuffix("%").strip()
    if share != text and (number := _finite(share.replace(",", "."))) is not None:
        return f"{number / 100:g}"
    if _THOUSANDS.fullmatch(text):
        return re.sub(r"\D", "", text)
    for candidate in (text, text.replace(",", ".")):
        if _finite(candidate) is not None:
            return candidate
    return None


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def _text_fix(name: str, text: str, kinds: set[str]) -> str | None:
    if "null" in kinds and text.strip().lower() in _NULLS:
        return f"write {name}: null"
    if kinds & {"integer", "number"} and (number := number_of(text)):
        return f"write {name}: {number}"
    if "boolean" in kinds and text.strip().lower() in _YES | _NO:
        return f"write {name}: {'true' if text.strip().lower() in _YES else 'false'}"
    if "array" in kinds and not text.lstrip().startswith("-"):
        return f"write {name}: [{', '.join(re.split(r'[,;]? +|[,;]', text.strip()))}]"
    return None


def _bool_fix(name: str, value: bool, kinds: set[str]) -> str | None:
    if "null" in kinds and not value:
        return f"write {name}: null"
    return None


def _number_fix(name: str, value: float, kinds: set[str], schema: dict[str, Any]) -> str | None:
    if "boolean" in kinds and value in (0, 1):
        return f"write {name}: {'true' if value else 'false'}"
    limit = schema.get("maximum", schema.get("exclusiveMaximum"))
    if limit == 1 and 1 < value < 100:
        return f"write {name}: {value / 100:g} for {value:g} %"
    if "array" in kinds and "integer" in _types(schema.get("items", {})):
        return f"write {name}: [{value}]"
    return None


def _types(schema: dict[str, Any]) -> set[str]:
    return {schema.get("type", ""), *(form.get("type", "") for form in schema.get("anyOf", ()))}


def _list_fix(name: str, value: list[Any], kinds: set[str]) -> str | None:
    if "string" not in kinds or not all(isinstance(one, str) for one in value):
        return None
    if len(value) == 1:
        return f"write {name}: {value[0]}"
    return f"write one of the {counted(len(value), 'name')}" if value else None
