"""The formats of `data.file`: how the columns of a record become a row."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from finery.advanced import did_you_mean
from finery.rows import Conversation, Row
from finery.rows.badrow import BadRow, kind_of
from finery.rows.chat.turns import as_conversation, check_turns, decode_column
from finery.rows.difference import first_difference
from finery_data.sources import sharegpt

Columns = dict[str, Any]
Build = Callable[[Columns, bool], Row]
"""(columns, prompts_only) → row; raises `BadRow`."""


def alpaca(columns: Columns, prompts_only: bool) -> Row:
    """`instruction`, `input`, `output`, optional `system` and `history` (pairs of turns)."""
    instruction, detail = text(columns, "instruction"), optional_text(columns, "input")
    user = "\n\n".join(part for part in (instruction, detail) if part.strip())
    if not user:
        raise BadRow("'instruction' is empty", "fill it in, or remove the row")
    turns = _turn("system", optional_text(columns, "system"))
    for pair in columns.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow("'history' isn't a list of [instruction, answer] pairs")
        question, answer = (_as_text(turn, "history") for turn in pair)
        if not question.strip() or not answer.strip():
            raise BadRow("'history' has an empty turn")
        turns += _turn("user", question) + _turn("assistant", answer)
    turns += _turn("user", user)
    return _answered(turns, columns, "output", prompts_only)


def _answered(turns: Conversation, columns: Columns, column: str, prompts_only: bool) -> Row:
    if prompts_only:
        if optional_text(columns, column):
            raise BadRow(f"'{column}' holds an answer, but prompts_only is set", _PROMPTS_ONLY_FIX)
    else:
        turns += _turn("assistant", full_text(columns, column))
    return {"messages": turns}


_PROMPTS_ONLY_FIX = "remove prompts_only, or remove the answers"


def from_sharegpt(columns: Columns, prompts_only: bool) -> Row:
    """`conversations` of `{from, value}` turns, optional `system`."""
    turns = sharegpt.turns_of(columns)
    _check_whole(turns, columns, prompts_only)
    return {"messages": turns}


def from_messages(columns: Columns, prompts_only: bool) -> Row:
    """`messages` in the shape of the OpenAI Chat Completions API."""
    turns = as_conversation(needed(columns, "messages"), "messages")
    _check_whole(turns, columns, prompts_only)
    return {"messages": turns}


def _check_whole(turns: Conversation, columns: Columns, prompts_only: bool) -> None:
    has_answer = turns[-1]["role"] == "assistant"
    if prompts_only and has_answer:
        raise BadRow("the row ends with an answer, but prompts_only is set", _PROMPTS_ONLY_FIX)
    if columns.get("answerable") is False and not prompts_only and not has_answer:
        raise BadRow(
            "the row has `answerable: false`, but no answer",
            'add the answer that a model should give, e.g. "The documents don\'t say."',
        )
    check_turns(turns, answered=not prompts_only)


def completion(columns: Columns, prompts_only: bool) -> Row:
    """`prompt` and `completion`, both as text or as messages, and perhaps `reasoning_content`."""
    if isinstance(columns.get("label"), bool):
        raise BadRow(
            "'label' is true or false: these are ratings of completions, not completions to learn",
            "read them with format: rating, or keep only the good ones",
        )
    return _completed(columns, prompts_only)


def rating(columns: Columns, prompts_only: bool) -> Row:
    """`prompt`, `completion` and `label`: true or 1 where the completion is good, else false or 0.

    In a row the label is the text true or false.
    """
    good = _rated(columns.get("label"))
    if good is None:
        raise BadRow(
            f"'label' is {_told(columns.get('label'))}, but must be true or false",
            "write true or 1 for good completions, false or 0 for bad ones",
        )
    return {**_completed(columns, prompts_only), "label": good}


def _rated(label: Any) -> str | None:
    """The label of a rated completion in rows; None if the value isn't a rating."""
    if isinstance(label, str):
        return _RATINGS.get(label.strip().lower())
    return _RATINGS.get(str(int(label))) if label in (0, 1) else None


_RATINGS = {"true": "true", "1": "true", "false": "false", "0": "false"}


def _told(value: Any) -> str:
    return f"{value!r:.40}" if isinstance(value, str | int | float) else kind_of(value)


def _completed(columns: Columns, prompts_only: bool) -> Row:
    if prompts_only:
        if columns.get("completion"):
            raise BadRow("'completion' holds an answer, but prompts_only is set", _PROMPTS_ONLY_FIX)
        return _prompt(columns)
    prompt, answer = _sides(columns, "prompt"), _sides(columns, "completion")
    prompt, (answer,) = _alike(prompt, [answer])
    thinking = optional_text(columns, "reasoning_content")
    if thinking and isinstance(answer, str):
        prompt = [{"role": "user", "content": prompt}]
        answer = [{"role": "assistant", "content": answer, "reasoning_content": thinking}]
    if not isinstance(prompt, str):
        _check_parts(prompt, answer, "completion")
    return {"prompt": prompt, "completion": answer}


def _prompt(columns: Columns) -> Row:
    prompt = _sides(columns, "prompt")
    if not isinstance(prompt, str):
        check_turns(prompt, answered=False)
    return {"prompt": prompt}


def preference(columns: Columns, prompts_only: bool) -> Row:
    """`prompt`, `chosen`, `rejected`, all as text or all as messages.

    Without `prompt`, or where `chosen` and `rejected` repeat it, the prompt is what they have in
    common at their start. `margin`, by how much the chosen one is better, must be a number.
    """
    value = columns.get("margin")
    try:
        number = 0.0 if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise BadRow(
            f"'margin' is {_told(value)}, not a finite number", "write a number, or remove it"
        )
    answers = [_sides(columns, "chosen"), _sides(columns, "rejected")]
    sides = _sides(columns, "prompt") if columns.get("prompt") is not None else None
    if sides is None and isinstance(answers[0], str) != isinstance(answers[1], str):
        raise BadRow(
            "one of 'chosen' and 'rejected' is text, the other messages",
            "write both in the same way",
        )
    prompt, answers = _alike(sides, answers)
    if answers[0] == answers[1]:
        raise BadRow("'chosen' and 'rejected' are the same", "remove the row")
    if isinstance(answers[0], str):
        return _text_preference(prompt, *answers)
    return _turn_preference(prompt, *answers)


def _text_preference(prompt: str | None, chosen: str, rejected: str) -> Row:
    if prompt is None:
        cut = _common_text(chosen, rejected)
        prompt, chosen, rejected = chosen[:cut], chosen[cut:], rejected[cut:]
        if not prompt.strip():
            raise BadRow("there is no 'prompt', and 'chosen' and 'rejected' start differently")
    if not chosen.strip() or not rejected.strip():
        raise BadRow(
            "one of 'chosen' and 'rejected' is the beginning of the other", "remove the row"
        )
    if chosen.strip() == rejected.strip():
        raise BadRow("'chosen' and 'rejected' differ only in spaces", "remove the row")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _common_text(chosen: str, rejected: str) -> int:
    """Length of the common start, without the part of a word in which they begin to differ."""
    cut = first_difference(chosen, rejected)
    while cut and not chosen[cut - 1].isspace():
        cut -= 1
    while cut and chosen[cut - 1].isspace():
        cut -= 1
    return cut


def _turn_preference(prompt: Any, chosen: Conversation, rejected: Conversation) -> Row:
    repeats = [turns[0]["role"] != "assistant" for turns in (chosen, rejected)]
    if any(repeats) or prompt is None:
        cut = _common_turns(chosen, rejected) if all(repeats) else 0
        implicit, chosen, rejected = chosen[:cut], chosen[cut:], rejected[cut:]
        if prompt is not None and implicit[-len(prompt) :] != prompt:
            raise BadRow("'chosen' and 'rejected' start with a prompt that differs from 'prompt'")
        prompt = implicit
    if not prompt:
        raise BadRow("'chosen' and 'rejected' have no prompt in common", "give them a 'prompt'")
    _check_parts(prompt, chosen, "chosen")
    _check_parts(prompt, rejected, "rejected")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _common_turns(chosen: Conversation, rejected: Conversation) -> int:
    """Number of turns that are the same at the start, without the answer they may end with."""
    cut = first_difference(chosen, rejected)
    while cut and chosen[cut - 1]["role"] == "assistant":
        cut -= 1
    return cut


def _check_parts(prompt: Conversation, answer: Conversation, column: str) -> None:
    check_turns(prompt, answered=False)
    if not answer or answer[0]["role"] != "assistant":
        what = f"'{answer[0]['role']}'" if answer else "nothing"
        raise BadRow(f"'{column}' starts with {what}, not with an assistant turn")
    check_turns([*prompt, *answer], answered=True)


def _sides(columns: Columns, column: str) -> Any:
    """A prompt or an answer: text that isn't empty, or checked turns."""
    value = needed(columns, column)
    return as_conversation(value, column) if isinstance(value, list) else full_text(columns, column)


def _alike(prompt: Any, answers: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Prompt and answers as they are if all are text, else all as messages."""
    if all(isinstance(v, str) for v in (prompt, *answers) if v is not None):
        return prompt, list(answers)
    whole = _turn("user", prompt) if isinstance(prompt, str) else prompt
    return whole, [_turn("assistant", a) if isinstance(a, str) else a for a in answers]


def _turn(role: str, content: str) -> Conversation:
    return [{"role": role, "content": content}] if content.strip() else []


def needed(columns: Columns, column: str) -> Any:
    """The value of a column that must be there and not be null."""
    _check_there(columns, column)
    if columns[column] is None:
        raise BadRow(f"'{column}' is empty", "fill it in, or remove the row")
    return columns[column]


def _check_there(columns: Columns, column: str) -> None:
    if column not in columns:
        raise BadRow(f"there is no column '{column}'", did_you_mean(column, columns))


def text(columns: Columns, column: str) -> str:
    """The text of a column that must be there, possibly empty."""
    _check_there(columns, column)
    return optional_text(columns, column)


def full_text(columns: Columns, column: str) -> str:
    """The text of a column that must be there and not be empty."""
    value = _as_text(needed(columns, column), column)
    if not value.strip():
        raise BadRow(f"'{column}' is empty", "fill it in, or remove the row")
    return value


def optional_text(columns: Columns, column: str) -> str:
    """The text of a column; empty if there is none."""
    value = columns.get(column)
    return "" if value is None else _as_text(value, column)


def _as_text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"'{column}' is {kind_of(value)}, not text")
    return value


def tools(columns: Columns) -> Row:
    """`{"tools": [...]}` where the row has tools, in the shape of the Chat Completions API."""
    value = columns.get("tools")
    if isinstance(value, str) and value.strip():
        value = decode_column(value, "tools")
    if not value:
        return {}
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise BadRow(f"'tools' is {kind_of(value)}, not a list of objects")
    return {"tools": [_tool(tool) for tool in value]}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("a tool has no function with a 'name'")
    return tool if "function" in tool else {"type": "function", "function": tool}


def label(columns: Columns) -> Row:
    """`{"label": text}` where the row has a label; numbers and booleans become text."""
    value = columns.get("label")
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, int):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise BadRow(f"'label' is {kind_of(value)}, not text")
    return {"label": value} if value and value.strip() else {}


FORMATS: dict[str, Build] = {
    "alpaca": alpaca,
    "sharegpt": from_sharegpt,
    "messages": from_messages,
    "completion": completion,
    "preference": preference,
    "rating": rating,
}


def detect(columns: Columns, prompts_only: bool) -> list[str]:
    """The formats that the columns of a row fit."""
    answer = set() if prompts_only else {"output"}
    formats = ["alpaca"] if {"instruction", *answer} <= columns.keys() else []
    if {"conversations", "conversation"} & columns.keys():
        formats.append("sharegpt")
    if "messages" in columns:
        formats.append("sharegpt" if _has_from(columns["messages"]) else "messages")
    if {"prompt"} | (set() if prompts_only else {"completion"}) <= columns.keys():
        formats.append("rating" if _is_verdict(columns.get("label")) else "completion")
    if {"chosen", "rejected"} <= columns.keys():
        formats = [f for f in formats if f != "completion" or "completion" in columns]
        formats.append("preference")
    return list(dict.fromkeys(formats))


def _is_verdict(label: Any) -> bool:
    """Whether a label is certainly a rating. 1 and 0 are just as often names of classes."""
    return isinstance(label, bool) or str(label).strip().lower() in ("true", "false")


def _has_from(turns: Any) -> bool:
    first = turns[0] if isinstance(turns, list) and turns else None
    return isinstance(first, dict) and "from" in first
