"""Descriptions of chat templates in the trl package, which transformers can read answers by."""

from types import SimpleNamespace
from typing import Any

from finery_transformers.parsing.calls import BadCall, Calls, Tools, as_call


def described_by_trl(source: str) -> dict[str, Any] | None:
    """The trl package's description of a chat template that it knows; None without the package."""
    try:
        from trl.chat_template_utils import add_response_schema
    except ImportError:
        return None
    template: Any = SimpleNamespace(chat_template=source, response_template=None)
    try:
        add_response_schema(template)
    except ValueError:
        return None
    description: dict[str, Any] | None = template.response_template
    return description


def calls_by_description(description: dict[str, Any], raw: str, tools: Tools) -> Calls:
    """The calls that the trl package's description finds. Raises `BadCall`."""
    from transformers.utils.chat_parsing import parse_response

    try:
        fields = parse_response(raw, description, prefix="", tools=list(tools))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadCall(f"the tool call can't be read: {error}") from error
    calls = [as_call(call) for call in fields.get("tool_calls") or ()]
    return Calls(str(fields.get("content") or ""), calls)
