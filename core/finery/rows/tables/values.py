"""Values of tables as rows can hold them: what JSON has, and bytes, which no row takes."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any


def json_value(value: Any) -> Any:
    """The value as JSON has it; bytes stay, so that a row that uses them can be refused.

    Dates and times become ISO 8601, those with a zone in UTC, so that the zone of a session changes
    nothing. Decimals become their digits, since a float would change them, and what JSON hasn't
    otherwise (UUIDs, networks, ranges) its text.
    """
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value
        case bytearray() | memoryview():
            return bytes(value)
        case datetime():
            return (value.astimezone(UTC) if value.tzinfo else value).isoformat()
        case date() | time():
            return value.isoformat()
        case Decimal():
            return format(value, "f")
        case timedelta():
            return str(value)
        case Mapping():
            return {str(key): json_value(inner) for key, inner in value.items()}
        case list() | tuple():
            return [json_value(inner) for inner in value]
    return str(value)


def has_bytes(value: Any) -> bool:
    """Whether a value is or contains bytes."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return True
    if isinstance(value, Mapping):
        return any(map(has_bytes, value.values()))
    return isinstance(value, list) and any(map(has_bytes, value))


def to_json_text(value: list[Any] | tuple[Any, ...] | dict[str, Any]) -> str:
    """A list or an object as templates write it: as JSON, in its own order."""
    return json.dumps(value, ensure_ascii=False, default=json_value)
