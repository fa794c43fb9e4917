"""Why an answer is wrong, from its line in `predictions.jsonl`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from finery_eval.calls.calls import shown_call


def reasons(facts: Mapping[str, Any]) -> Iterator[str]:
    """The reasons why an answer is wrong.

    These facts are read: `error` and `problem`, texts; `broken`, names of rules; `differs`,
    field → its `expected` and `answered` value, of which one may be missing; `changed`, the same of
    the parts of a state; `expected` and
    `prediction` where both have fields; `chosen_logprob` and `rejected_logprob` of a preference.
    """
    yield from (str(facts[name]) for name in ("error", "problem") if facts.get(name))
    if facts.get("broken"):
        yield f"breaks {', '.join(map(str, facts['broken']))}"
    if not facts.get("problem"):  # an answer that can't be read differs everywhere
        for field, values in _differing(facts).items():
            answered, expected = (_value(values, name) for name in ("answered", "expected"))
            yield f"{field or 'the whole'}: {answered}, expected {expected}"
    for part, values in (facts.get("changed") or {}).items():
        yield f"{part}: {_value(values, 'answered')}, expected {_value(values, 'expected')}"
    if "chosen_logprob" in facts:
        chosen, rejected = facts["chosen_logprob"], facts["rejected_logprob"]
        yield f"log-probability of the chosen answer {chosen:.2f}, of the rejected {rejected:.2f}"


def answer_of(facts: Mapping[str, Any]) -> str:
    """The answer: its text, JSON in one line, and its tool calls, one a line."""
    text = _text_of(facts)
    return "\n".join([*([text] if text else []), *map(shown_call, facts.get("tool_calls") or [])])


def _text_of(facts: Mapping[str, Any]) -> str:
    text = compact(facts.get("answer", ""))
    try:
        read = json.loads(text)
    except ValueError:
        return text
    return compact(read) if isinstance(read, dict | list) else text


PLACE = ("turn", "message", "context")
"""Facts that distinguish several answers to one row."""


def turn_of(facts: Mapping[str, Any]) -> str:
    """The turn of a conversation that an answer belongs to, and its position in the row."""
    message = f" (message {facts['message']})" if "message" in facts else ""
    return f"turn {facts['turn']}{message}"


def context_of(facts: Mapping[str, Any]) -> str:
    """Which of several contexts a question had; empty if there is only one."""
    return f"context: {facts['context']}" if "context" in facts else ""


def compact(value: Any) -> str:
    """A text as it is, anything else as JSON in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _differing(facts: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    if "differs" in facts:
        return facts["differs"] or {}
    expected, read = facts.get("expected"), facts.get("prediction")
    if not (isinstance(expected, dict) and isinstance(read, dict)):
        return {}
    return {
        field: {"expected": value} | ({} if read.get(field) is None else {"answered": read[field]})
        for field, value in expected.items()
        if read.get(field) != value
    }


def _value(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "nothing"
