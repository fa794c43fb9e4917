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
from finery.rows.chat.thinking import THINKING_TAGS
from finery_transformers.chat import (
    END_THINK,
    THINK,
    PromptDiffers,
    thinking_of,
    without_think_tags,
)
from finery_trl.rows.example import NO_LOSS, Example
from finery_trl.rows.faults import Fault, Faulty

if TYPE_CHECKING:
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


class _Written(NamedTuple):
    """A turn to learn as the template writes it.

    messages: of the row, up to the turn. prompt_text: of its prompt. whole: the text of prompt and
    answer.
    """

    row: Row
    messages: Conversation
    prompt_text: str
    whole: str

    @property
    def message(self) -> Message:
        """The message to learn."""
        return self.messages[-1]

    @property
    def answer(self) -> str:
        """What the template writes after the prompt."""
        return self.whole[len(self.prompt_text) :]


def learned_turns(turns: Turns, loss: Loss) -> list[int]:
    """Places in the conversation of the turns that are learned."""
    messages, places = turns.conversation, turns.replies
    if loss == "last_turn":
        return places[-1:]
    return [i for i in places if loss != "marked" or messages[i].get("weight") != 0]


def examples_of_row(row: Row, tokens: "Tokens", learn: Learn) -> list[Example]:
    """The fewest examples that have each learned turn after its prompt at inference.

    Raises `Faulty` for a row that can't be trained on.
    """
    turns = Turns.of(row)
    messages, places = turns.conversation, learned_turns(turns, learn.loss)
    _check_turns(turns, places, learn)
    if learn.switch and not any(map(thinking_of, messages)):
        tokens = tokens._replace(template=tokens.template.having(**learn.switch))
    try:
        _check_templates(row, messages, tokens)
        _check_tools(row, messages, tokens)
        learned = [_learned(row, messages[: place + 1], tokens, learn) for place in places]
    except DataError as error:
        raise Faulty(_refusal(row, messages, tokens), [error.what]) from error
    return list(_joined(row["id"], learned))


@outside_key
def _check_turns(turns: Turns, learned: Sequence[int], learn: Learn) -> None:
    """Raise `Faulty` if a row has no turn to learn, or a weight that is none."""
    messages, places = turns.conversation, turns.replies
    if not places or places[-1] != len(messages) - 1:
        raise Faulty(Fault.UNANSWERED, [repr(str(m.get("content"))[:80]) for m in messages[-1:]])
    if not learned:
        raise Faulty(Fault.UNMARKED, [])
    for index in places:
        weight = messages[index].get("weight")
        if learn.loss == "marked" and weight not in (None, 0, 1):
            raise Faulty(Fault.WEIGHTLESS, [f"turn {index + 1}: weight: {weight!r}"])


def prompt_of_row(row: Row, tokens: "Tokens") -> list[int]:
    """The tokens of a row's prompt, as at inference: what precedes its answer, if it has one.

    Raises `Faulty` for a row without a prompt, and for one that the template refuses.
    """
    messages = Turns.of(row).prompt
    if not messages:
        raise Faulty(Fault.UNPROMPTED, [])
    try:
        _check_templates(row, messages, tokens)
        _check_tools(row, messages, tokens)
        ids = tokens.template.prompt_tokens(messages, row.get("tools"))
    except DataError as error:
        raise Faulty(_refusal(row, messages, tokens), [error.what]) from error
    if tokens.template.has_two_bos(ids):
        raise Faulty(Fault.BOS_TWICE, [])
    return ids


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


def _learned(row: Row, messages: Conversation, tokens: "Tokens", learn: Learn) -> _Turn:
    """The last of these messages as tokens, verified."""
    _check_content(messages)
    template, tools = tokens.template, row.get("tools")
    asked = template.prompt(messages[:-1], tools)
    turn = _Written(row, messages, asked, template.text(messages, tools))
    prompt = template.tokens(asked)
    try:
        answer = template.answer_tokens(asked, turn.whole, prompt, tokens.ends)
    except PromptDiffers as error:
        raise _difference_of(turn, prompt, tokens) from error
    _check_answer(turn, prompt, answer, tokens)
    labels = list(answer)
    if learn.thinking == "masked":
        _check_notation(turn)
        if thinking_of(turn.message):
            labels = _without_thinking(turn, answer, tokens)
    return _Turn(prompt, answer, labels)


# -- thinking without loss -----------------------------------------------------------------------


def _without_thinking(turn: _Written, answer: Sequence[int], tokens: "Tokens") -> list[int]:
    """The labels of an answer without loss on its thinking, verified."""
    first, last = _place_of_thinking(turn, tokens)
    spans = _spans(turn, answer, tokens)
    is_thought = [begin < last and end > first for begin, end in spans]
    decode: Any = tokens.tokenizer.decode
    masked = [token for token, hidden in zip(answer, is_thought, strict=True) if hidden]
    text = decode(masked, clean_up_tokenization_spaces=False)
    if _normal(turn.whole[first:last]) not in _normal(text):
        raise DataError("the tokens of the thinking have another text, so it can't be masked")
    return [NO_LOSS if hidden else token for token, hidden in zip(answer, is_thought, strict=True)]


def _place_of_thinking(turn: _Written, tokens: "Tokens") -> tuple[int, int]:
    """Where the thinking of a turn begins and ends in its whole text.

    The place is found with a mark instead of the thinking, whose text may occur elsewhere in the
    answer.
    """
    thought = thinking_of(turn.message)
    twin = [*turn.messages[:-1], _with_thought(turn.message, thought, THOUGHT)]
    head, mark, tail = tokens.template.text(twin, turn.row.get("tools")).partition(THOUGHT)
    if not mark or len(head) < len(turn.prompt_text) or head + thought + tail != turn.whole:
        raise DataError("the thinking is written in another form, so it can't be masked")
    return len(head), len(head) + len(thought)


def _with_thought(message: Message, thought: str, other: str) -> Message:
    """A message with other thinking."""
    field = "reasoning_content" if message.get("reasoning_content") else "content"
    text = str(message[field])
    at = text.find(thought, 0 if field != "content" else text.find(THINK) + len(THINK))
    return {**message, field: text[:at] + other + text[at + len(thought) :]}


def _normal(text: str) -> str:
    """The text without white space, in a form that tokenizers' own normalisation doesn't change."""
    return "".join(normalize("NFKC", text).split())


def _spans(turn: _Written, answer: Sequence[int], tokens: "Tokens") -> list[tuple[int, int]]:
    """Where each token of an answer begins and ends in the whole text of its turn."""
    tokenizer, start = tokens.tokenizer, len(turn.prompt_text)
    texts = ((turn.whole, 0), (turn.answer, start)) if tokenizer.is_fast else ()
    for text, shift in texts:
        coded: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = coded["input_ids"], coded["offset_mapping"]
        first = next((i for i, (_, end) in enumerate(spans) if end + shift > start), len(ids))
        if ids[first : first + len(answer)] == list(answer):
            return [(a + shift, b + shift) for a, b in spans[first : first + len(answer)]]
    raise DataError("this tokenizer doesn't say where its tokens are, so thinking can't be masked")


# -- checks, which only refuse -------------------------------------------------------------------


@outside_key
def _check_content(messages: Conversation) -> None:
    """Raise `Faulty` if the last message is empty."""
    message = messages[-1]
    if not str(message.get("content") or "").strip() and not message.get("tool_calls"):
        raise Faulty(Fault.EMPTY, _place(messages))


def _place(messages: Conversation) -> list[str]:
    """The last message in the details of an error."""
    after = [f", after {str(m.get('content'))[:80]!r}" for m in messages[-2:-1]]
    return [f"turn {len(messages)}{''.join(after)}"]


@outside_key
def _difference_of(turn: _Written, prompt: Sequence[int], tokens: "Tokens") -> Faulty:
    """The fault of a turn whose text doesn't begin with that of its prompt."""
    if turn.prompt_text.startswith(turn.whole):
        return Faulty(Fault.UNWRITTEN, _place(turn.messages))
    if _squeezed(thinking_of(turn.message)) not in _squeezed(turn.whole):
        return Faulty(Fault.THOUGHTLESS, _place(turn.messages))
    place = f"{turn.row['id']}: turn {len(turn.messages)}"
    lines = _difference(place, tokens, prompt, tokens.template.tokens(turn.whole))
    return Faulty(Fault.CHANGED, lines, _fix_of_thinking(turn, tokens))


@outside_key
def _check_answer(
    turn: _Written, prompt: Sequence[int], answer: Sequence[int], tokens: "Tokens"
) -> None:
    """Raise `Faulty` if an answer isn't what the row says, doesn't end, or can't be read back."""
    details = _place(turn.messages)
    _check_text(turn, details)
    if _is_empty(answer, tokens):
        raise Faulty(Fault.UNWRITTEN, details)
    if answer[-1] not in tokens.ends:
        raise Faulty(Fault.ENDLESS, details)
    if tokens.template.has_two_bos(prompt):
        raise Faulty(Fault.BOS_TWICE, details)
    if turn.message.get("tool_calls") and turn.row.get("tools"):
        _check_calls(turn, answer, tokens, details)


def _check_calls(
    turn: _Written, answer: Sequence[int], tokens: "Tokens", details: Sequence[str]
) -> None:
    """Raise `Faulty` if an engine wouldn't read a turn's calls from its tokens."""
    from finery_transformers.answering.answers import misread

    length = next(i for i, token in enumerate(answer) if token in tokens.ends)
    reason = misread(
        tokens.template, turn.prompt_text, answer[:length], turn.message, turn.row["tools"]
    )
    if reason:
        raise Faulty(Fault.MISREAD, [f"{details[0]}: {reason}"])


def _check_text(turn: _Written, details: Sequence[str]) -> None:
    """Raise `Faulty` if a template doesn't write what an answer says, or opens two think blocks."""
    message, text = turn.message, turn.answer
    content = without_think_tags(message).get("content")
    # `_check_tools` checks the text next to calls.
    is_plain = isinstance(content, str) and not message.get("tool_calls")
    if is_plain and _squeezed(str(content)) not in _squeezed(text):
        raise Faulty(Fault.UNWRITTEN, details)
    thought = thinking_of(message)
    if thought and _squeezed(thought) not in _squeezed(text):
        raise Faulty(Fault.THOUGHTLESS, details)
    unopened = str(message.get("content") or "").lstrip().removeprefix(THINK)
    mentioned = (str(message.get("reasoning_content") or "") + unopened).count(THINK)
    opened = turn.prompt_text.rstrip().endswith((THINK, END_THINK))
    if opened + text.count(THINK) - mentioned > 1:
        raise Faulty(Fault.THOUGHT_TWICE, details)


def _fix_of_thinking(turn: _Written, tokens: "Tokens") -> str:
    """The fix where the prompt's think block is what differs; else empty."""
    switch = tokens.template.thinking_switch()
    prompt, thinks = turn.prompt_text.rstrip(), bool(thinking_of(turn.message))
    if prompt.endswith(THINK) and not thinks:
        off = "set `without_thinking: switch`, or " if switch else ""
        return (
            f"{off}give these rows thinking (`reasoning_content`): the prompts open a think block"
        )
    if prompt.endswith(END_THINK) and thinks:
        on = ", ".join(f"{name}: true" for name in switch or {})
        ways = f"set `chat_template_kwargs: {{{on}}}` on the model, or " if on else ""
        return f"{ways}remove the thinking from these rows: the prompts say that there is none"
    return ""


@outside_key
def _check_notation(turn: _Written) -> None:
    """Raise `Faulty` if a text closes thinking that isn't recognised as such."""
    content = str(without_think_tags(turn.message).get("content") or "")
    closing = next((tag for tag in THINKING_TAGS.values() if tag in content), None)
    if closing is not None:
        raise Faulty(Fault.UNMASKED, [f"{_place(turn.messages)[0]}: {closing}"])


def _uses_tools(row: Row, messages: Conversation) -> bool:
    called = any(m.get("tool_calls") or m.get("role") == "tool" for m in messages)
    return called or bool(row.get("tools"))


@outside_key
def _refusal(row: Row, messages: Conversation, tokens: "Tokens") -> Fault:
    """The fault of a row that a template refuses: because of its tools, or not."""
    if not _uses_tools(row, messages):
        return Fault.REFUSED
    system = [m for m in messages[:1] if m.get("role") == "system"]
    plain = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "."}]
    try:
        tokens.template.text([*system, *plain])
    except DataError:
        return Fault.REFUSED
    return Fault.TOOLLESS


@outside_key
def _check_tools(row: Row, messages: Conversation, tokens: "Tokens") -> None:
    """Raise `Faulty` if tools, calls or answers of tools don't reach the text as they should."""
    if not _uses_tools(row, messages):
        return
    from finery_transformers.capabilities import unwritten

    lost = unwritten(tokens.template, messages, row.get("tools"))
    if lost:
        raise Faulty(Fault.TOOLLESS, [str(part) for part in lost[:3]])


@outside_key
def _check_templates(row: Row, messages: Conversation, tokens: "Tokens") -> None:
    """Raise `Faulty` if the base's template writes the row differently."""
    if tokens.base is None:
        return
    templates = tokens.template._replace(tokenizer=tokens.base), tokens.template
    for number in range(1, len(messages) + 1):
        texts = [template.text(messages[:number], row.get("tools")) for template in templates]
        if texts[0] != texts[1]:
            ids = [tokens.template.tokens(text) for text in texts]
            place = f"{row['id']}: turn {number}"
            lines = _difference(place, tokens, ids[0], ids[1], NAMES)
            raise Faulty(Fault.TWO_TEMPLATES, lines)


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
    tokens: "Tokens",
    first_ids: Sequence[int],
    second_ids: Sequence[int],
    names: tuple[str, str] = ("at inference:", "in training: "),
) -> list[str]:
    """Both texts, from shortly before the first token that differs."""
    pairs = enumerate(zip(first_ids, second_ids, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(first_ids), len(second_ids)))
    decode: Any = tokens.tokenizer.decode
    window = slice(max(0, first - 8), first + 12)
    texts = [f"…{decode(ids[window])!r}" for ids in (first_ids, second_ids)]
    lines = [f"{name} {text}" for name, text in zip(names, texts, strict=True)]
    return [f"{place}: from token {first}", *lines]
