"""The assistant turns of a row as tokens with loss, each as inference would see it.

A turn is learned after the prompt that an engine would send for it: the conversation before it and
the header of an answer. Where the tokens up to the end of a turn are the beginning of the next
turn's prompt, both turns share a sequence. If a template writes earlier turns differently, the next
turn gets a separate sequence.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from unicodedata import normalize

from finery import DataError, outside_key
from finery.rows import Conversation, Message, Row, Turns
from finery.rows.chat.thinking import TAGS
from finery_trl.rows.example import NO_LOSS, Example
from finery_trl.rows.faults import (
    BOS_TWICE,
    CHANGED,
    EMPTY,
    ENDLESS,
    MISREAD,
    REFUSED,
    THOUGHT_TWICE,
    THOUGHTLESS,
    TOOLLESS,
    TWO_TEMPLATES,
    UNANSWERED,
    UNMARKED,
    UNMASKED,
    UNWRITTEN,
    WEIGHTLESS,
    Faulty,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finery_trl.rows.tokens import Tokens

SHORT = 4
"""Answers of at most this many tokens are checked for text other than white space."""
THOUGHT = "finery marks the thinking"
NAMES = ("base:   ", "adapter:")
Loss = Literal["all_turns", "last_turn", "marked"]


class Learn(NamedTuple):
    """The part of a row that is learned; the settings of `trl.sft` with these names.

    switch: the template's arguments for rows without thinking, if `without_thinking` is `switch`.
    """

    loss: Loss = "all_turns"
    thinking: Literal["learned", "masked"] = "learned"
    without_thinking: Literal["template", "switch"] = "template"
    switch: Mapping[str, Any] = {}


class _Turn(NamedTuple):
    """A turn to learn: the tokens of its prompt, those of the answer, and the answer's labels."""

    prompt: list[int]
    answer: list[int]
    labels: list[int]


def learned_turns(turns: Turns, loss: Loss) -> list[int]:
    """Places in the conversation of the turns that are learned."""
    messages, places = turns.conversation, turns.replies
    if loss == "last_turn":
        return places[-1:]
    return [i for i in places if loss != "marked" or messages[i].get("weight") != 0]


def thinking_of(message: Message) -> str:
    """The thinking of an assistant's message, from its own key or a think block in the text."""
    from finery_transformers.chat import without_think_tags

    if message.get("role") != "assistant":
        return ""
    return str(without_think_tags(message).get("reasoning_content") or "").strip()


def examples_of_row(row: Row, tokens: "Tokens", learn: Learn) -> list[Example]:
    """The fewest examples that have each learned turn after its prompt at inference.

    Raises `Faulty` for a row that can't be trained on.
    """
    turns = Turns.of(row)
    messages, places = turns.conversation, _checked_turns(turns, learn)
    if learn.switch and not any(map(thinking_of, messages)):
        tokens = tokens._replace(arguments={**tokens.arguments, **learn.switch})
    try:
        _check_templates(row, messages, tokens)
        _check_tools(row, messages, tokens)
        learned = [_learned(row, messages, i, tokens, learn) for i in places]
    except DataError as error:
        fault = TOOLLESS if _refuses_tools(row, messages, tokens) else REFUSED
        raise Faulty(fault, [error.what]) from error
    return list(_joined(row["id"], learned))


def _checked_turns(turns: Turns, learn: Learn) -> list[int]:
    """The places of the turns to learn."""
    messages, places = turns.conversation, turns.replies
    if not places or places[-1] != len(messages) - 1:
        raise Faulty(UNANSWERED, [repr(str(m.get("content"))[:80]) for m in messages[-1:]])
    learned = learned_turns(turns, learn.loss)
    if not learned:
        raise Faulty(UNMARKED, [])
    for index in places:
        weight = messages[index].get("weight")
        if learn.loss == "marked" and weight not in (None, 0, 1):
            raise Faulty(WEIGHTLESS, [f"turn {index + 1}: weight: {weight!r}"])
    return learned


def _joined(row_id: str, turns: Sequence[_Turn]) -> Iterator[Example]:
    """Examples of turns: a turn continues the one before it if its prompt begins with that."""
    ids: list[int] = []
    labels: list[int] = []
    count = 0
    for turn in turns:
        if turn.prompt[: len(ids)] != ids:
            yield Example(row_id, ids, labels, turns=count)
            ids, labels, count = [], [], 0
        labels = [*labels, *[NO_LOSS] * (len(turn.prompt) - len(ids)), *turn.labels]
        ids, count = [*turn.prompt, *turn.answer], count + 1
    yield Example(row_id, ids, labels, turns=count)


def _learned(
    row: Row,
    messages: Conversation,
    index: int,
    tokens: "Tokens",
    learn: Learn,
) -> _Turn:
    """The turn with this index as tokens, verified."""
    from finery_transformers.chat import (
        PromptDiffers,
        answer_tokens,
        has_two_bos,
        prompt_text,
        rendered,
    )

    message = messages[index]
    before = [f", after {str(m.get('content'))[:80]!r}" for m in messages[:index][-1:]]
    details = [f"turn {index + 1}{''.join(before)}"]
    if not str(message.get("content") or "").strip() and not message.get("tool_calls"):
        raise Faulty(EMPTY, details)
    tokenizer, ends = tokens.tokenizer, tokens.ends
    named: Any = {"tools": row.get("tools"), "arguments": tokens.arguments}
    asked = prompt_text(tokenizer, messages[:index], **named)
    whole = rendered(tokenizer, messages[: index + 1], **named)
    prompt = tokens.ids(asked)
    try:
        answer = answer_tokens(tokenizer, asked, whole, prompt, ends)
    except PromptDiffers as error:
        if asked.startswith(whole):
            raise Faulty(UNWRITTEN, details) from error
        if _squeezed(thinking_of(message)) not in _squeezed(whole):
            raise Faulty(THOUGHTLESS, details) from error
        place = f"{row['id']}: turn {index + 1}"
        lines = _difference(place, tokenizer, prompt, tokens.ids(whole))
        raise Faulty(CHANGED, lines, _fix_of_thinking(asked, message, tokens)) from error
    text = whole[len(asked) :]
    _check_text(message, text, details)
    _check_thinking(message, asked, text, details)
    if _is_empty(answer, tokens):
        raise Faulty(UNWRITTEN, details)
    if answer[-1] not in ends:
        raise Faulty(ENDLESS, details)
    if has_two_bos(tokenizer, prompt):
        raise Faulty(BOS_TWICE, details)
    if message.get("tool_calls") and row.get("tools"):
        _check_calls(row, message, asked, answer, tokens, details)
    labels = list(answer)
    if learn.thinking == "masked":
        _check_notation(message, details)
        if thinking_of(message):
            span = _place_of_thinking(row, messages[: index + 1], whole, len(asked), tokens)
            labels = _without_thinking(answer, whole, len(asked), span, tokens)
    return _Turn(prompt, answer, labels)


@outside_key
def _check_calls(
    row: Row,
    message: Message,
    asked: str,
    answer: Sequence[int],
    tokens: "Tokens",
    details: Sequence[str],
) -> None:
    """Raise `Faulty` if an engine wouldn't read a turn's calls from its tokens."""
    from finery_transformers.answering.answers import misread

    length = next(i for i, token in enumerate(answer) if token in tokens.ends)
    given = tokens.tokenizer, tokens.arguments
    reason = misread(*given, asked, answer[:length], message, row["tools"])
    if reason:
        raise Faulty(MISREAD, [f"{details[0]}: {reason}"])


def _check_text(message: Message, text: str, details: Sequence[str]) -> None:
    """Raise `Faulty` if a template doesn't write what an answer says."""
    from finery_transformers.chat import without_think_tags

    content = without_think_tags(message).get("content")
    if not isinstance(content, str) or message.get("tool_calls"):
        return  # `_check_tools` checks the text next to calls
    if _squeezed(content) not in _squeezed(text):
        raise Faulty(UNWRITTEN, details)


def _check_thinking(message: Message, asked: str, text: str, details: Sequence[str]) -> None:
    """Raise `Faulty` if a template drops the thinking of an answer, or opens two think blocks."""
    from finery_transformers.chat import END_THINK, THINK

    thought = thinking_of(message)
    if thought and _squeezed(thought) not in _squeezed(text):
        raise Faulty(THOUGHTLESS, details)
    content = str(message.get("content") or "").lstrip().removeprefix(THINK)
    mentioned = (str(message.get("reasoning_content") or "") + content).count(THINK)
    opened = asked.rstrip().endswith((THINK, END_THINK))
    if opened + text.count(THINK) - mentioned > 1:
        raise Faulty(THOUGHT_TWICE, details)


def _fix_of_thinking(asked: str, message: Message, tokens: "Tokens") -> str:
    """The fix where the prompt's think block is what differs; else empty."""
    from finery_transformers.chat import END_THINK, THINK, thinking_switch

    switch = thinking_switch(tokens.tokenizer, tokens.arguments)
    if asked.rstrip().endswith(THINK) and not thinking_of(message):
        off = "set `without_thinking: switch`, or " if switch else ""
        return (
            f"{off}give these rows thinking (`reasoning_content`): the prompts open a think block"
        )
    if asked.rstrip().endswith(END_THINK) and thinking_of(message):
        on = ", ".join(f"{name}: true" for name in switch or {})
        ways = f"set `chat_template_kwargs: {{{on}}}` on the model, or " if on else ""
        return f"{ways}remove the thinking from these rows: the prompts say that there is none"
    return ""


def _check_notation(message: Message, details: Sequence[str]) -> None:
    """Raise `Faulty` if a text closes thinking that isn't recognised as such."""
    from finery_transformers.chat import without_think_tags

    content = str(without_think_tags(message).get("content") or "")
    closing = next((tag for tag in TAGS.values() if tag in content), None)
    if closing is not None:
        raise Faulty(UNMASKED, [f"{details[0]}: {closing}"])


def _place_of_thinking(
    row: Row, messages: Conversation, whole: str, start: int, tokens: "Tokens"
) -> tuple[int, int]:
    """Where the thinking of the last message begins and ends in the text `whole`.

    start: where the answer begins. The place is found with a mark instead of the thinking, whose
    text may occur elsewhere in the answer.
    """
    from finery_transformers.chat import rendered

    *before, message = messages
    thought = thinking_of(message)
    twin = [*before, _with_thought(message, thought, THOUGHT)]
    named: Any = {"tools": row.get("tools"), "arguments": tokens.arguments}
    head, mark, tail = rendered(tokens.tokenizer, twin, **named).partition(THOUGHT)
    if not mark or len(head) < start or head + thought + tail != whole:
        raise DataError("the thinking is written in another form, so it can't be masked")
    return len(head), len(head) + len(thought)


def _with_thought(message: Message, thought: str, other: str) -> Message:
    """A message with other thinking."""
    from finery_transformers.chat import THINK

    field = "reasoning_content" if message.get("reasoning_content") else "content"
    text = str(message[field])
    at = text.find(thought, 0 if field != "content" else text.find(THINK) + len(THINK))
    return {**message, field: text[:at] + other + text[at + len(thought) :]}


def _without_thinking(
    answer: Sequence[int], whole: str, start: int, place: tuple[int, int], tokens: "Tokens"
) -> list[int]:
    """The labels of an answer without loss on its thinking, verified.

    start: where the answer begins in the text `whole`. place: where its thinking begins and ends.
    """
    first, last = place
    spans = _spans(answer, whole, start, tokens)
    is_thought = [begin < last and end > first for begin, end in spans]
    decode: Any = tokens.tokenizer.decode
    masked = [token for token, hidden in zip(answer, is_thought, strict=True) if hidden]
    text = decode(masked, clean_up_tokenization_spaces=False)
    if _normal(whole[first:last]) not in _normal(text):
        raise DataError("the tokens of the thinking have another text, so it can't be masked")
    return [NO_LOSS if hidden else token for token, hidden in zip(answer, is_thought, strict=True)]


def _normal(text: str) -> str:
    """The text without white space, in a form that tokenizers' own normalisation doesn't change."""
    return "".join(normalize("NFKC", text).split())


def _spans(
    answer: Sequence[int], whole: str, start: int, tokens: "Tokens"
) -> list[tuple[int, int]]:
    """Where each token of an answer begins and ends in the text `whole`."""
    tokenizer: Any = tokens.tokenizer
    for text, shift in ((whole, 0), (whole[start:], start)) if tokenizer.is_fast else ():
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = coded["input_ids"], coded["offset_mapping"]
        first = next((i for i, (_, end) in enumerate(spans) if end + shift > start), len(ids))
        if ids[first : first + len(answer)] == list(answer):
            return [(a + shift, b + shift) for a, b in spans[first : first + len(answer)]]
    raise DataError("this tokenizer doesn't say where its tokens are, so thinking can't be masked")


def _uses_tools(row: Row, messages: Conversation) -> bool:
    called = any(m.get("tool_calls") or m.get("role") == "tool" for m in messages)
    return called or bool(row.get("tools"))


def _refuses_tools(row: Row, messages: Conversation, tokens: "Tokens") -> bool:
    """Whether a template refuses a row because of its tools."""
    from finery_transformers.chat import rendered

    if not _uses_tools(row, messages):
        return False
    system = [m for m in messages[:1] if m.get("role") == "system"]
    plain = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "."}]
    try:
        rendered(tokens.tokenizer, [*system, *plain], arguments=tokens.arguments)
    except DataError:
        return False
    return True


def _check_tools(row: Row, messages: Conversation, tokens: "Tokens") -> None:
    """Raise `Faulty` if tools, calls or answers of tools don't reach the text as they should."""
    if not _uses_tools(row, messages):
        return
    from finery_transformers.capabilities import unwritten

    lost = unwritten(tokens.tokenizer, messages, row.get("tools"), tokens.arguments)
    if lost:
        raise Faulty(TOOLLESS, [str(part) for part in lost[:3]])


def _check_templates(row: Row, messages: Conversation, tokens: "Tokens") -> None:
    """Raise `Faulty` if the base's template writes the row differently."""
    if tokens.base is None:
        return
    from finery_transformers.chat import rendered

    named: Any = {"tools": row.get("tools"), "arguments": tokens.arguments}
    for number in range(1, len(messages) + 1):
        texts = [rendered(t, messages[:number], **named) for t in (tokens.base, tokens.tokenizer)]
        if texts[0] != texts[1]:
            ids = [tokens.ids(text) for text in texts]
            place = f"{row['id']}: turn {number}"
            lines = _difference(place, tokens.tokenizer, ids[0], ids[1], NAMES)
            raise Faulty(TWO_TEMPLATES, lines)


def _squeezed(text: str) -> str:
    """The text with single spaces, since templates strip and join lines."""
    return " ".join(text.split())


def _is_empty(answer: Sequence[int], tokens: "Tokens") -> bool:
    """Whether an answer has no text before its end."""
    content = [t for t in answer if t not in tokens.ends]
    if len(content) > SHORT:
        return False
    decode: Any = tokens.tokenizer.decode
    return not content or not decode(content).strip()


def _difference(
    place: str,
    tokenizer: "PreTrainedTokenizerBase",
    one: Sequence[int],
    other: Sequence[int],
    names: tuple[str, str] = ("at inference:", "in training: "),
) -> list[str]:
    """Both texts, from shortly before the first token that differs."""
    pairs = enumerate(zip(one, other, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    decode: Any = tokenizer.decode
    window = slice(max(0, first - 8), first + 12)
    texts = [f"…{decode(ids[window])!r}" for ids in (one, other)]
    lines = [f"{name} {text}" for name, text in zip(names, texts, strict=True)]
    return [f"{place}: from token {first}", *lines]
