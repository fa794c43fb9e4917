"""The wire format: requests as JSON bodies, and JSON bodies as completions."""

import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec

from finery import Completion, Request, Sampling, StepError
from finery.advanced import RefusedError, shortened
from finery.rows import Message
from finery.rows.answers.jsonvalues import NotJson, parse_strict
from finery.rows.chat.thinking import Thought, missing_opening_tag, split_thinking

CHARACTERS_A_TOKEN = 4
"""A rough average, where a server doesn't count the tokens of an answer."""
MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal")
"""Fields of a message that servers know. Rows may have others."""
_STREAMED = ("content", "refusal", "reasoning_content", "reasoning")
"""Fields of a message that a stream sends in parts of text."""
_FINISH = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


STREAMING = {"stream": True, "stream_options": {"include_usage": True}}
"""Parameters of a request whose answer is sent as it is generated."""


class Unreadable(Exception):
    """A response that isn't a chat completion."""


class _Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None
    refusal: str | None = None


class _Function(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None
    type: str | None = None


class _Said(msgspec.Struct):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: Any = None  # text, from most servers
    reasoning: Any = None  # the same, from OpenRouter and newer versions of vLLM


class _Choice(msgspec.Struct):
    message: _Said
    finish_reason: str | None = None
    error: Any = None


Tokens = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
"""A number of tokens; no model has a longer context."""


class _Used(msgspec.Struct):
    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Used | None = None
    error: Any = None


def body(
    request: Request, sampling: Sampling, extra: dict[str, Any], *, without: frozenset[str]
) -> dict[str, Any]:
    """The parameters of a request, except model and messages.

    without: parameters that the server doesn't know. They are renamed or omitted.
    """
    limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
    parameters: dict[str, Any] = {
        limit: sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
    }
    if sampling.top_p != 1.0:
        parameters["top_p"] = sampling.top_p
    if sampling.stop:
        parameters["stop"] = list(sampling.stop)
    if request.tools:
        parameters["tools"] = request.tools
    if sampling.schema is not None:
        parameters["response_format"] = response_format(sampling.schema)
    parameters |= extra
    return {
        k: v for k, v in parameters.items() if v is not None and (k == limit or k not in without)
    }


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema in the API's format; strict if the schema is strict by OpenAI's definition."""
    named = {"name": "answer", "schema": schema, "strict": _is_strict(schema)}
    return {"type": "json_schema", "json_schema": named}


def _is_strict(schema: Any) -> bool:
    """Whether all objects in it require all their fields and allow no others."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, dict):
        return True
    if "properties" in schema or schema.get("type") == "object":
        closed = schema.get("additionalProperties") is False
        if not closed or set(schema.get("required", [])) != set(schema.get("properties", {})):
            return False
    return all(map(_is_strict, schema.values()))


def messages(request: Request) -> list[Message]:
    """The conversation, reduced to the fields that servers know."""
    return [_message(message) for message in request.messages]


def _message(message: Message) -> Message:
    sent = {k: message[k] for k in MESSAGE_FIELDS if message.get(k) is not None}
    sent.setdefault("content", None if "tool_calls" in sent else "")
    if "tool_calls" in sent:
        sent["tool_calls"] = [_call(call, i) for i, call in enumerate(sent["tool_calls"])]
    return sent


def _call(call: dict[str, Any], number: int) -> dict[str, Any]:
    """A tool call with an id and with its arguments as JSON text, since rows often lack both."""
    function = dict(call.get("function", {}))
    if not isinstance(function.get("arguments", ""), str):
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return {"id": f"call_{number}", "type": "function", **call, "function": function}


def completion(content: bytes, request: Request, redact: Callable[[str], str]) -> Completion:
    """The answer in a response's body. redact: removes secrets from all text that is kept.

    Raises Unreadable if it isn't a chat completion, RefusedError if the model refuses or its
    provider filters the answer, and StepError if it has no choice.
    """
    try:
        return _completion(msgspec.json.decode(content, type=_Answer), request, redact)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(str(error)) from None
    except RecursionError:
        raise Unreadable("the JSON is nested too deeply") from None


def _completion(answer: _Answer, request: Request, redact: Callable[[str], str]) -> Completion:
    if answer.choices is None:
        raise Unreadable(_error(answer.error, redact) if answer.error else "`choices` is missing")
    if not answer.choices:
        raise StepError("the server sent an answer with empty `choices`")
    choice = answer.choices[0]
    if choice.error or choice.finish_reason == "error":
        raise Unreadable(_error(choice.error, redact))
    content_parts = choice.message.content if isinstance(choice.message.content, list) else []
    text, refusal = (
        redact(_text(choice.message.content)),
        redact(
            choice.message.refusal
            or "".join(content_part.refusal or "" for content_part in content_parts)
        ),
    )
    if refusal:
        raise refusal_error("the model refused to answer", refusal)
    if choice.finish_reason == "content_filter":
        raise refusal_error("the provider's content filter withheld the answer", text)
    calls = [
        _check_call(_map_texts(call, redact), number)
        for number, call in enumerate(choice.message.tool_calls or ())
    ]
    fields = (choice.message.reasoning_content, choice.message.reasoning)
    reasoning = redact(next((f for f in fields if f and isinstance(f, str)), ""))
    # Servers without a reasoning parser return both in one text.
    thought = (
        Thought(reasoning, text) if reasoning else split_thinking(text, missing_opening_tag(text))
    )
    if (error := _call_error(calls)) is not None:
        thought = thought._replace(
            text="\n".join(filter(None, [thought.text, *map(_written, calls)]))
        )
        calls = []
    counted = _token_counts(thought, choice.finish_reason, calls, answer.usage or _Used(), request)
    return msgspec.structs.replace(counted, call_error=error)


def _call_error(calls: list[dict[str, Any]]) -> str | None:
    """Why one of the calls can't be read: servers don't check the arguments that a model wrote."""
    for call in calls:
        function = call["function"]
        try:
            arguments = parse_strict(function["arguments"] or "{}")
        except NotJson as error:
            return f"the arguments of the call of {function['name']!r} are {error}"
        if not isinstance(arguments, dict):
            return f"the arguments of the call of {function['name']!r} aren't a JSON object"
    return None


def _written(call: dict[str, Any]) -> str:
    return f"{call['function']['name']}({call['function']['arguments']})"


def join_events(content: bytes) -> tuple[bytes, int | None]:
    """(the chat completion that a stream of events adds up to, bytes up to its first token).

    Any other content stays as it is, without a first token: a server may not stream.
    """
    if not content.lstrip().startswith((b"data:", b"event:", b"id:", b":")):
        return content, None
    message: dict[str, Any] = {}
    calls: dict[int, dict[str, str]] = {}
    completion: dict[str, Any] = {"choices": []}
    first_token_bytes = finish = None
    try:
        for end, event in _events(content):
            if event.get("error"):
                return msgspec.json.encode({"error": event["error"]}), None
            completion |= {"usage": event["usage"]} if event.get("usage") else {}
            for choice in (event.get("choices") or ())[:1]:
                finish = choice.get("finish_reason") or finish
                delta = choice.get("delta") or {}
                texts = {name: delta[name] for name in _STREAMED if delta.get(name)}
                _add(message, texts)
                for call_delta in delta.get("tool_calls") or ():
                    _add(
                        calls.setdefault(call_delta.get("index", 0), {}),
                        call_delta.get("function") or {},
                    )
                first_token_bytes = first_token_bytes or (
                    end if texts or delta.get("tool_calls") else None
                )
                called = [{"function": call} for call in calls.values()] or None
                answer = {**message, "tool_calls": called}
                completion["choices"] = [{"message": answer, "finish_reason": finish}]
    except (msgspec.DecodeError, AttributeError, TypeError) as error:
        raise Unreadable(f"an event of its stream can't be read: {error}") from None
    return msgspec.json.encode(completion), first_token_bytes


def _events(content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """(bytes up to its end, event) of each event but the last one, which has no data."""
    end = 0
    for line in content.splitlines(keepends=True):
        end += len(line)
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            yield end, msgspec.json.decode(data)


def _add(texts: dict[str, Any], deltas: dict[str, Any]) -> None:
    """Append the next part of each text."""
    for name, delta in deltas.items():
        texts[name] = texts.get(name, "") + (delta or "")


def _error(error: Any, redact: Callable[[str], str]) -> str:
    return shortened(redact(f"an error: {error}"), 300)


def _check_call(call: dict[str, Any], number: int) -> dict[str, Any]:
    """The tool call, validated, with an id and with its arguments as JSON text."""
    msgspec.convert(call, _Call)
    return _call({**call, "id": call.get("id") or f"call_{number}"}, number)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Plain data with `change` applied to all text in it."""
    if isinstance(value, dict):
        return {change(k): _map_texts(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [_map_texts(v, change) for v in value]
    return change(value) if isinstance(value, str) else value


def refusal_error(problem: str, text: str) -> RefusedError:
    """The error for a row that isn't answered; `text` is what the model said instead."""
    error = RefusedError(problem, details=[text[:200]] if text else [])
    error.text = text
    return error


def _token_counts(
    thought: Thought, reason: str | None, calls: list[dict[str, Any]], used: _Used, request: Request
) -> Completion:
    finish = _FINISH.get(reason or "", "tool_calls" if calls else "stop")
    written = len(thought.text) + len(thought.reasoning or "")
    prompt_tokens, counted = used.prompt_tokens, used.completion_tokens
    return Completion(
        text=thought.text,
        reasoning=thought.reasoning,
        finish_reason=finish if calls or finish != "tool_calls" else "stop",
        prompt_tokens=request.estimated_tokens() if prompt_tokens is None else prompt_tokens,
        completion_tokens=-(-written // CHARACTERS_A_TOKEN) if counted is None else counted,
        tool_calls=calls or None,
    )


def _text(content: str | list[_Part] | None) -> str:
    """Content as text. Parts that aren't text, e.g. a model's thoughts, are left out."""
    if not isinstance(content, list):
        return content or ""
    texts = [
        content_part.text
        for content_part in content
        if content_part.type in ("text", "output_text")
    ]
    if None in texts:
        raise Unreadable("a text part has no text")
    return "".join(text for text in texts if text is not None)
