"""Conversations in the format of the OpenAI Chat Completions API, and the checks of their turns."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from finery.rows.badrow import BadRow, kind_of
from finery.rows.chat.thinking import split_thinking
from finery.rows.row import TURN_COLUMNS, Conversation, Message, Row
from finery.rows.row import as_turns as turns_in
from finery.util.text import did_you_mean

ROLES = ("system", "user", "assistant", "tool")
_ALLOWED_NEXT = {
    "the start": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
"""Role → roles that the next turn may have."""
THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Names of an assistant's thinking; rows use the first."""


def as_conversation(value: Any, column: str) -> Conversation:
    """The turns in a column, given as a list or (in CSV files) as its JSON text."""
    return [as_message(turn, number) for number, turn in enumerate(as_turns(value, column), 1)]


def as_turns(value: Any, column: str) -> list[Any]:
    """The list in a column of turns, which must not be empty. The turns aren't checked."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = decode_column(value, column)
    if not isinstance(value, list):
        raise BadRow(f"'{column}' is {kind_of(value)}, not a list of turns")
    if not value:
        raise BadRow(f"'{column}' is empty")
    return value


def decode_column(text: str, column: str) -> Any:
    """The value of the JSON text in a column."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise BadRow(f"'{column}' holds invalid JSON: {error}") from error


def as_message(turn: Any, number: int) -> Message:
    """A checked copy of one turn. Keys other than role and content are kept.

    `developer` becomes `system`, the only name that chat templates know. Text in parts is joined.
    Missing content becomes the empty text if there are tool calls. An assistant's thinking is
    renamed to `reasoning_content`.
    """
    if not isinstance(turn, dict):
        raise BadRow(f"turn {number} is {kind_of(turn)}, not an object with role and content")
    message = {k: v for k, v in turn.items() if v is not None}
    if "role" not in message:
        raise BadRow(f"turn {number} has no 'role'", did_you_mean("role", map(str, turn)))
    role = "system" if message["role"] == "developer" else message["role"]
    if role == "function":
        raise BadRow(
            f"turn {number} has the role 'function', the older form of 'tool'",
            'write {"role": "tool", "tool_call_id": …, "content": …}',
        )
    if role not in ROLES:
        raise BadRow(f"turn {number} has the unknown role '{role}'", did_you_mean(str(role), ROLES))
    if message.get("tool_calls") == []:
        del message["tool_calls"]
    if "tool_calls" in message:
        _check_tool_calls(message["tool_calls"], role, number)
    if role == "assistant":
        message = _normalise_thinking(message)
        _check_keys(message, number)
    content = _text(message.get("content", ""), number)
    if role == "assistant":
        _check_refusal(message, content, number)
    if not content.strip() and role != "tool" and "tool_calls" not in message:
        raise BadRow(f"turn {number} ({role}) is empty", "fill it in, or remove the row")
    return {**message, "role": role, "content": content}


def _normalise_thinking(message: Message) -> Message:
    """The message with its thinking, if it is text, as `reasoning_content`."""
    name = next((n for n in THINKING_KEYS if isinstance(message.get(n), str)), None)
    if name is None or name == THINKING_KEYS[0]:
        return message
    return {THINKING_KEYS[0] if k == name else k: v for k, v in message.items()}


def _check_keys(message: Message, number: int) -> None:
    if message.get("weight", 1) not in (0, 1):
        raise BadRow(
            f"turn {number} has the weight {message['weight']!r}, which isn't 0 or 1",
            "write `weight: 0` for a turn that isn't learned, and `weight: 1` for one that is",
        )
    if "function_call" in message:
        raise BadRow(
            f"turn {number} (assistant) has 'function_call', the older form of 'tool_calls'",
            'write "tool_calls": [{"type": "function", "function": …}] with the same name and '
            "arguments",
        )


def _check_refusal(message: Message, content: str, number: int) -> None:
    """Raise `BadRow` for a turn that has a refusal instead of an answer, or only thinking."""
    if message.get("refusal") and not content.strip():
        raise BadRow(
            f"turn {number} (assistant) has a 'refusal' instead of a content",
            "move its text into 'content' if the model is to learn it, or remove the row",
        )
    if not split_thinking(content).is_closed:
        raise BadRow(
            f"turn {number} (assistant) begins with thinking that isn't closed, so it has no "
            "answer",
            "close the thinking where the answer begins (`<think>…</think>`), or remove the row",
        )


def _text(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) for p in content):
        unsupported = [p.get("type") for p in content if not isinstance(p.get("text"), str)]
        if not unsupported:
            return "".join(p["text"] for p in content)
        raise BadRow(
            f"turn {number} has content of type '{unsupported[0]}'; only text can be trained on"
        )
    raise BadRow(f"turn {number}: 'content' is {kind_of(content)}, not text")


def _check_tool_calls(calls: Any, role: str, number: int) -> None:
    if role != "assistant":
        raise BadRow(f"turn {number} ({role}) has tool_calls; only assistant turns can")
    if not isinstance(calls, list):
        raise BadRow(f"turn {number}: 'tool_calls' is {kind_of(calls)}, not a list")
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(
                f"turn {number} has a tool call without a function name",
                'write {"type": "function", "function": {"name": …, "arguments": …}}',
            )
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = decode_column(arguments or "{}", f"arguments of {function['name']}")
        if not isinstance(arguments, dict):
            raise BadRow(
                f"turn {number}: the arguments of {function['name']} are "
                f"{kind_of(arguments)}, not an object"
            )


def check_turns(turns: Sequence[Message], *, answered: bool) -> None:
    """Raise `BadRow` unless the turns follow each other sensibly.

    A conversation is an optional system turn, then user and assistant turns in alternation, with
    tool turns after the assistant's. answered: it must end with an assistant turn; else it must
    not, since it is a prompt.
    """
    previous, calls = "the start", list[Any]()
    for number, turn in enumerate(turns, 1):
        role = turn["role"]
        if role not in _ALLOWED_NEXT[previous] or (calls and role != "tool"):
            problem = f"turn {number} is '{role}' after '{previous}'"
            if calls:
                problem = (
                    f"turn {number} is '{role}', but the tool calls before it have no 'tool' turn"
                )
            elif number == 1:
                problem = f"the first turn is '{role}', not 'system' or 'user'"
            raise BadRow(problem, _order_fix(role, previous))
        if role == "tool":
            _check_answers(turn, calls, number)
        else:
            calls = turn.get("tool_calls", [])
        previous = role
        if role == "tool" and (number == len(turns) or turns[number]["role"] != "tool"):
            calls = []
    if answered and previous != "assistant":
        raise BadRow(
            f"the last turn is '{previous}', not 'assistant'",
            "add the answer, or set prompts_only: true if the rows are prompts",
        )
    if not answered and previous not in ("user", "tool"):
        is_system = previous == "system"
        problem = "there is no user turn" if is_system else f"the prompt ends with '{previous}'"
        raise BadRow(problem, "a prompt ends with a user or tool turn")


def _order_fix(role: str, previous: str) -> str:
    if role == previous:
        return f"join the two {role} turns, or make two rows of them"
    if role == "system":
        return "a system turn can only come first"
    return f"after {previous} there can be: {' or '.join(_ALLOWED_NEXT[previous])}"


def _check_answers(turn: Message, calls: Sequence[Any], number: int) -> None:
    ids = [c["id"] for c in calls if "id" in c]
    if ids and "tool_call_id" in turn and turn["tool_call_id"] not in ids:
        raise BadRow(
            f"turn {number} answers the tool call '{turn['tool_call_id']}', which isn't in the "
            "assistant turn before it",
            f"the calls there are: {', '.join(map(str, ids))}",
        )


Problem = tuple[str, str]
"""(name of the check, what it found)."""


def turn_problems(row: Row) -> list[Problem]:
    """Every empty turn as `empty`, and what else is wrong with the turns as `turns`."""
    columns = {name: row[name] for name in TURN_COLUMNS if row.get(name) is not None}
    if not columns:
        has_text = isinstance(row.get("text"), str)
        return [] if has_text else [("turns", "it has neither turns nor a text")]
    problems = [
        problem for name, value in columns.items() for problem in _column_problems(name, value)
    ]
    if any(check == "turns" for check, _ in problems):
        return problems
    return [*problems, *_column_order_problems(columns)]


def _column_problems(name: str, value: Any) -> Iterator[Problem]:
    if isinstance(value, str):
        if not value.strip():
            yield "empty", f"'{name}' is empty"
        return
    if not isinstance(value, list):
        yield "turns", f"'{name}' is {kind_of(value)}, but must be text or a list of turns"
        return
    if not value:
        yield "turns", f"'{name}' has no turns"
    for number, turn in enumerate(value, 1):
        place = "" if name == "messages" else f"'{name}': "
        if _is_empty(turn):
            yield "empty", f"{place}turn {number} ({turn['role']}) is empty"
            continue
        try:
            as_message(turn, number)
        except BadRow as error:
            yield "turns", f"{place}{error.what}"


def _is_empty(turn: Any) -> bool:
    """Whether a turn that needs content has none. A tool's answer may be empty."""
    if not isinstance(turn, dict) or turn.get("role") not in ("system", "user", "assistant"):
        return False
    content = turn.get("content")
    blank = content is None or (isinstance(content, str) and not content.strip())
    return blank and not any(turn.get(name) for name in ("tool_calls", "function_call", "refusal"))


def _column_order_problems(columns: dict[str, Any]) -> Iterator[Problem]:
    """Yield the first turn in a wrong place. All turns are well-formed here."""
    prompt = turns_in(columns.get("messages", columns.get("prompt", [])), "user")
    if "messages" in columns:
        yield from _order_problems("", prompt, answered=prompt[-1]["role"] == "assistant")
        return
    answers = [name for name in TURN_COLUMNS[2:] if name in columns]
    if not answers:
        yield from _order_problems("'prompt': ", prompt, answered=False)
    for name in answers:
        yield from _order_problems(
            f"with '{name}': ", [*prompt, *turns_in(columns[name])], answered=True
        )


def _order_problems(place: str, turns: list[Any], *, answered: bool) -> Iterator[Problem]:
    plain_roles = [{**t, "role": "system"} if t["role"] == "developer" else t for t in turns]
    try:
        check_turns(plain_roles, answered=answered)
    except BadRow as error:
        yield "turns", f"{place}{error.what}"
