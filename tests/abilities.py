"""The abilities of chat templates, found out by rendering conversations."""

from typing import Any, NamedTuple

from finery import DataError
from finery.rows import Conversation, Message
from finery_transformers.capabilities import unwritten
from finery_transformers.chat import CALLED, TOOLS, PromptDiffers, PromptTemplate, thinking_field

MARK = "finery0000mark"


class Capabilities(NamedTuple):
    """The abilities of a chat template: for each, the reason why it is missing, or empty text.

    system: system turns. turns: several turns of user and assistant. prefix_preserving: the tokens
    of a conversation are the beginning of the next turn's prompt, so that all turns can be learned
    in one sequence. tools, calls, arguments, answers: they reach the text. parallel: several calls
    in a turn. call_text: text beside a call. thinking: an assistant's thinking reaches the text.
    switch: thinking can be switched off. single_bos: it begins with one BOS at most. end_of_turn:
    answers end with a special token. generation_prompt: prompts end with the header of an answer.
    """

    system: str = ""
    turns: str = ""
    prefix_preserving: str = ""
    tools: str = ""
    calls: str = ""
    arguments: str = ""
    answers: str = ""
    parallel: str = ""
    call_text: str = ""
    thinking: str = ""
    switch: str = ""
    single_bos: str = ""
    end_of_turn: str = ""
    generation_prompt: str = ""
    unthinking: str = ""

    def lacks(self) -> dict[str, str]:
        """Ability → why the template doesn't have it."""
        return {name: reason for name, reason in self._asdict().items() if reason}


def capabilities(tokenizer: Any) -> Capabilities:
    """The abilities of the tokenizer's chat template."""
    calls = _call_abilities(tokenizer)
    return Capabilities(
        system=_writes(tokenizer, [_turn("system", "{mark}"), _turn("user")]),
        turns=_writes(tokenizer, [*_exchange("{mark}"), *_exchange()]),
        prefix_preserving=_prefix_preserving(tokenizer),
        **calls,
        thinking="" if thinking_field(tokenizer) else "it doesn't write an assistant's thinking",
        switch=""
        if PromptTemplate(tokenizer).thinking_switch()
        else "it has no switch for thinking",
        single_bos=_single_bos(tokenizer),
        end_of_turn=_ends(tokenizer),
        generation_prompt=_header(tokenizer),
        unthinking=_unthinking(tokenizer),
    )


def _turn(role: str, content: str = "?") -> Message:
    return {"role": role, "content": content}


def _exchange(answer: str = ".") -> Conversation:
    return [_turn("user"), _turn("assistant", answer)]


def _writes(tokenizer: Any, messages: Conversation) -> str:
    """Why a template doesn't write the turn with the text `{mark}`; empty if it does."""
    marked = [{**m, "content": str(m["content"]).replace("{mark}", MARK)} for m in messages]
    role = next(m["role"] for m in marked if m["content"] == MARK)
    try:
        text = PromptTemplate(tokenizer).text(marked)
    except DataError as error:
        return error.what
    return "" if MARK in text else f"it doesn't write the {role} turn"


def _call_abilities(tokenizer: Any) -> dict[str, str]:
    """The abilities about tools: name → why not."""
    reasons: dict[str, str] = {}
    call = CALLED[1]["tool_calls"][0]
    another = {**call, "id": "call00002"}
    answer = {**CALLED[2], "tool_call_id": "call00002"}
    both = {**CALLED[1], "tool_calls": [call, another]}
    spoken = {**CALLED[1], "content": "I look it up."}
    probes: dict[str, Conversation] = {
        "tools": [_turn("user")],
        "calls": CALLED[:2],
        "answers": CALLED,
        "parallel": [CALLED[0], both, CALLED[2], answer, CALLED[3]],
        "call_text": [CALLED[0], spoken, *CALLED[2:]],
    }
    for name, messages in probes.items():
        turn = {"tools": None, "answers": 3}.get(name, 2)
        try:
            lost = unwritten(PromptTemplate(tokenizer), messages, TOOLS)
        except DataError as error:
            reasons[name] = error.what
        else:
            reasons[name] = next((part.reason for part in lost if part.turn == turn), "")
    said = [r for r in (reasons["calls"],) if "arguments" in r]
    reasons["arguments"] = said[0] if said else reasons["calls"]
    reasons["calls"] = "" if said else reasons["calls"]
    return reasons


def _prefix_preserving(tokenizer: Any) -> str:
    try:
        learned, answered = _learned(tokenizer)
        prompt = [*answered, _turn("user")]
        later = PromptTemplate(tokenizer).tokens(PromptTemplate(tokenizer).prompt(prompt))
    except DataError as error:
        return error.what
    decode: Any = tokenizer.decode
    if later[: len(learned)] == learned:
        return ""
    if decode(later).startswith(decode(learned)):
        return "its tokenizer joins the end of a prompt with the beginning of an earlier answer"
    return "it writes an earlier answer differently from the last one"


def _learned(tokenizer: Any) -> tuple[list[int], Conversation]:
    """(token ids, messages) of a question and its answer, with thinking if it must have some."""
    try:
        return _tokens(tokenizer, _exchange("One."))
    except PromptDiffers:
        if thinking_field(tokenizer) is None:
            raise
        thinking = [_turn("user"), {**_turn("assistant", "One."), "reasoning_content": "1"}]
        return _tokens(tokenizer, thinking)


def _tokens(tokenizer: Any, messages: Conversation) -> tuple[list[int], Conversation]:
    ends = PromptTemplate(tokenizer).ends_of_turn()
    _, ids = PromptTemplate(tokenizer).row_tokens(messages[:1], messages[1:], ends)
    return ids, messages


def _unthinking(tokenizer: Any) -> str:
    try:
        _tokens(tokenizer, _exchange())
    except PromptDiffers:
        return "its prompts open a think block that it leaves out of an answer without thinking"
    except DataError as error:
        return error.what
    return ""


def _single_bos(tokenizer: Any) -> str:
    try:
        ids = PromptTemplate(tokenizer).tokens(PromptTemplate(tokenizer).prompt([_turn("user")]))
    except DataError as error:
        return error.what
    return "it begins with two BOS tokens" if PromptTemplate(tokenizer).has_two_bos(ids) else ""


def _ends(tokenizer: Any) -> str:
    try:
        learned, _ = _learned(tokenizer)
    except DataError as error:
        return error.what
    ends = PromptTemplate(tokenizer).ends_of_turn()
    return "" if learned[-1] in ends else "answers don't end with a special token"


def _header(tokenizer: Any) -> str:
    try:
        header = PromptTemplate(tokenizer).unasked_header()
    except DataError as error:
        return error.what
    return f"each answer begins with {header!r}, but prompts don't end with it" if header else ""
