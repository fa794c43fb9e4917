"""Requests to models as programs log them: finery's own log, OpenTelemetry spans, Langfuse.

Each becomes a conversation as in OpenAI's API. OpenTelemetry: the semantic conventions for GenAI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/) since 1.37, with messages as attributes of a
span or of its event.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from finery.rows import Conversation
from finery.rows.badrow import BadRow, kind_of

Columns = dict[str, Any]
CHAT = ("chat", "text_completion", "generate_content")
"""Operations of spans that are requests to a model."""
SPANS = ("resourceSpans", "scopeSpans", "spans")
"""Fields of OTLP's JSON with parts that are spans or have them."""
CONTENT = (
    "gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages",
    "gen_ai.tool.definitions",
)  # fmt: skip
"""Attributes of a span, or of its event, with what was said."""
GENERATION = "GENERATION"
"""The type of Langfuse's observations that are requests to a model."""
_NO_MESSAGES = (
    "the span has no messages",
    "let the program record them: OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT, and "
    "OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental",
)


class Served(NamedTuple):
    """A request and what became of it.

    prompt: its turns. answer: none for a request that failed, and for one whose answer isn't
    known. probability: that the answer is right, as the model says. error: why it failed.
    """

    prompt: Conversation
    answer: Conversation = []
    tools: Any = None
    probability: float | None = None
    error: str = ""


class Passed(NamedTuple):
    """A record that is no request. unlogged: requests that the server couldn't log here."""

    unlogged: int = 0


LOG_VERSION = 1
"""The value of `finery` in the lines of `finery_serve.request_log`."""


def requests_in(columns: Columns) -> Iterator[Served | Passed | BadRow]:
    """What a record holds; of OpenTelemetry's JSON, each span. Its fields say its format."""
    try:
        if "finery" in columns:
            yield from _of_log(columns)
        elif {*SPANS, "attributes"} & columns.keys():
            yield from _of_spans(columns)
        elif "input" in columns and ("output" in columns or "traceId" in columns):
            yield from _of_langfuse(columns)
        else:
            raise BadRow(
                "it is no request of a known format: "
                f"{', '.join(map(str, columns))[:80] or 'it is empty'}",
                "expected is a line of finery's log, OpenTelemetry's JSON, or an observation of "
                "Langfuse",
            )
    except BadRow as error:
        yield error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        yield BadRow(f"it can't be read: {type(error).__name__}: {error!s:.80}", "repair it")


def _of_log(columns: Columns) -> Iterator[Served | Passed]:
    """A line of `finery_serve.request_log`."""
    if columns["finery"] != LOG_VERSION:
        raise BadRow(
            f"it is of version {columns['finery']!r:.20} of finery's log, which can't be read",
            "install the version of finery that wrote it",
        )
    if "dropped" in columns:
        yield Passed(int(columns["dropped"]))
        return
    request = columns.get("request") or {}
    choices = (columns.get("response") or {}).get("choices") or [{}]
    if columns["status"] >= 400 or "error" in columns:
        yield Served([], error=str(columns.get("error") or columns["status"]))
        return
    message, probability = choices[0].get("message"), choices[0].get("probability")
    yield Served(
        request["messages"], [message] if message else [], request.get("tools"),
        None if probability is None else float(probability),
    )  # fmt: skip


# -- OpenTelemetry ---------------------------------------------------------------------------------


def _of_spans(columns: Columns) -> Iterator[Served | Passed | BadRow]:
    """The spans of a line of OTLP JSON, of a part of one, or a span by itself."""
    for name in SPANS:
        if name in columns:
            for part in columns[name]:
                yield from requests_in({"attributes": (), **part})
            return
    attributes = _attributes(columns.get("attributes"))
    operation = attributes.get("gen_ai.operation.name", CHAT[0])
    if operation not in CHAT or not any(name.startswith("gen_ai.") for name in attributes):
        yield Passed()
        return
    status = columns.get("status") or {}
    if status.get("code", status.get("status_code")) in (2, "STATUS_CODE_ERROR", "ERROR"):
        yield Served([], error=str(status.get("message") or attributes.get("error.type", "failed")))
        return
    for event in columns.get("events") or ():
        more = _attributes(event.get("attributes"))
        attributes |= {name: more[name] for name in CONTENT if name in more}
    system, given, answer, tools = (_decoded(attributes.get(name)) or [] for name in CONTENT)
    if not all(isinstance(value, list) for value in (system, given, answer)):
        raise BadRow("the messages of the span are no list of messages", "repair it")
    if not given:
        raise BadRow(*_NO_MESSAGES)
    prompt = [_turn({"role": "system", "parts": system})] if system else []
    prompt += [turn for message in given for turn in _turns(message)]
    yield Served(prompt, [_turn(message) for message in answer[:1]], tools or None)


def _attributes(given: Any) -> Columns:
    """Attributes by name, from OTLP's list or as SDKs print them."""
    if isinstance(given, dict):
        return dict(given)
    return {one["key"]: _value(one.get("value") or {}) for one in given or ()}


def _value(given: Columns) -> Any:
    """A value of OTLP JSON, whose only key is its type."""
    if not given:
        return None
    ((kind, value),) = given.items()
    if kind == "arrayValue":
        return [_value(one) for one in value.get("values") or ()]
    if kind == "kvlistValue":
        return _attributes(value.get("values"))
    return int(value) if kind == "intValue" else value


def _turns(message: Columns) -> Iterator[Columns]:
    """A message as turns: each response of a tool is one of its own."""
    parts = message.get("parts", ())
    responses = [part for part in parts if part.get("type") == "tool_call_response"]
    for part in responses:
        content = part.get("response", part.get("result"))
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        yield {"role": "tool", **_named("tool_call_id", part.get("id")), "content": text}
    if not responses:
        yield _turn(message)
    elif len(responses) < len(parts):
        yield _turn({**message, "parts": [part for part in parts if part not in responses]})


def _turn(message: Columns) -> Columns:
    """A message of OpenTelemetry as a turn of OpenAI's API."""
    if "parts" not in message:
        return {name: value for name, value in message.items() if name != "finish_reason"}
    texts = {"text": "", "reasoning": ""}
    calls = []
    for part in message["parts"]:
        kind = part.get("type")
        if kind in texts:
            texts[kind] += part.get("content") or ""
        elif kind == "tool_call":
            arguments = part.get("arguments")
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments or {}, ensure_ascii=False)
            function = {"name": part["name"], "arguments": arguments}
            calls.append({**_named("id", part.get("id")), "type": "function", "function": function})
        else:
            raise BadRow(f"a message has a part of the type {kind!r}, not text", "remove the span")
    return {
        "role": message["role"], "content": texts["text"],
        **_named("reasoning_content", texts["reasoning"]), **_named("tool_calls", calls),
    }  # fmt: skip


# -- Langfuse --------------------------------------------------------------------------------------


def _of_langfuse(columns: Columns) -> Iterator[Served | Passed]:
    """An observation: its input is a text, messages, or a request with `messages`."""
    if str(columns.get("type") or GENERATION).upper() != GENERATION:
        yield Passed()
        return
    if str(columns.get("level")).upper() == "ERROR":
        yield Served([], error=str(columns.get("statusMessage") or "failed"))
        return
    given = _decoded(columns["input"])
    if isinstance(given, dict) and "messages" in given:
        messages, tools = given["messages"], given.get("tools")
    elif isinstance(given, list) and all(isinstance(one, dict) and "role" in one for one in given):
        messages, tools = given, None
    elif isinstance(columns["input"], str):  # also one that is other JSON
        messages, tools = [{"role": "user", "content": columns["input"]}], None
    else:
        raise BadRow(f"its input is {kind_of(given)}, not a text or messages", "remove it")
    yield Served(messages, _langfuse_answer(columns.get("output")), tools)


def _langfuse_answer(output: Any) -> Conversation:
    if output is None:
        return []
    turn = _decoded(output)
    if isinstance(turn, dict) and turn.get("choices"):
        turn = turn["choices"][0].get("message")
    if isinstance(turn, list) and turn:
        turn = turn[0]
    if isinstance(turn, dict) and turn.get("role") == "assistant":
        return [turn]
    # The text as it is, also if it is JSON.
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    return [{"role": "assistant", "content": text}]


def _decoded(value: Any) -> Any:
    """A value that may be written as JSON text; other text as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{", '"'):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _named(name: str, value: Any) -> Columns:
    return {name: value} if value else {}
