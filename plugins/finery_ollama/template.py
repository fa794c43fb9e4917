"""A chat template as an Ollama TEMPLATE that writes the same prompts.

There are two conversions, each verified where it can go wrong. The chat template becomes `Turns`.
Every model has its own chat template, so the step compares the prompts of both. `Turns` become a Go
template in one of four forms, in which only the texts differ from model to model. So finery's tests
compare its prompts, rendered by Go's own text/template, with those of any `Turns`.

`Turns` are what a chat template writes around each turn, found by rendering conversations of marked
turns. Nothing here knows a model by name. The comparison refuses a template whose turns they can't
describe.

Ollama renders Go's text/template with `.Messages` (adjacent ones of a role merged), each of which
has `.Role` and `.Content`, and with `.System`, all system messages joined
(https://github.com/ollama/ollama/blob/main/template/template.go). A single prompt is rendered as
one user message.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from jinja2.exceptions import TemplateError

from finery import StepError
from finery.rows import Conversation
from finery.rows.difference import first_difference, text_difference
from finery_gguf.chat import ChatTemplate

Render = Callable[[Conversation, bool], str]
"""(messages, add_generation_prompt) → the prompt's text, without a BOS that llama.cpp adds."""

SYSTEM, USER, ASSISTANT = "«system»", "«user{}»", "«assistant{}»"


class Turns(msgspec.Struct, frozen=True, kw_only=True):
    """The texts around the turns of a conversation.

    head: before everything. lead: after the head if no system message is given (a default one).
    user, assistant: before and after a turn's content. generation: the generation prompt.
    place: where a system message is written: in its own turn, in the first or the last user turn,
        or nowhere. system: before and after its content; in a user turn these replace the text
        before the user's content.
    """

    head: str
    lead: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str
    place: Literal["turn", "first", "last", "nowhere"]
    system: tuple[str, str] = ("", "")

    def prompt(self, messages: Conversation) -> str:
        """The prompt of a conversation in which adjacent messages have different roles."""
        system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        around = {"user": self.user, "assistant": self.assistant}
        if self.place == "turn":
            around["system"] = self.system
        holder = self._system_holder(messages) if system else None
        parts = [self.head, self._lead_for(messages, system)]
        for index, message in enumerate(messages):
            if message["role"] in around:
                before, after = around[message["role"]]
                before = system.join(self.system) if index == holder else before
                parts += [before, message["content"], after]
        return "".join([*parts, self.generation])

    def _lead_for(self, messages: Conversation, system: str) -> str:
        begins_with_system = messages[0]["role"] == "system"
        replaced = {"turn": begins_with_system, "first": bool(system)}.get(self.place, False)
        return "" if replaced else self.lead

    def _system_holder(self, messages: Conversation) -> int | None:
        """Index of the user's message whose turn includes the system message."""
        users = [i for i, m in enumerate(messages) if m["role"] == "user"]
        if self.place == "first":
            return users[0] if users else None
        return len(messages) - 1 if self.place == "last" and len(messages) - 1 in users else None


def find_turns(render: Render, bos: str) -> Turns:
    """Infer the texts around the turns. `StepError` if turns can't be distinguished.

    bos: text of the BOS token, which belongs to no turn if it occurs only at the start.
    """
    talk = render(_talk(2), True)
    if not (talk.startswith(bos) and talk.count(bos) == 1):
        bos = ""

    def body(messages: Conversation, generation: bool = True) -> str:
        return render(messages, generation).removeprefix(bos)

    first, to_answer = _around(body(_talk(1)), [USER.format(1)])
    _, to_reply, to_next, _ = _around(body(_talk(2)), _marks(2))
    user_end = _tail(body, _talk(1), to_answer, to_reply)
    answer_end = _tail(body, _talk(2)[:2], to_next)
    user_start = to_next.removeprefix(answer_end)
    if not first.endswith(user_start):
        # The first turn begins differently (Llama 2 repeats the BOS before later turns).
        user_start = _common_suffix(first, to_next)
        answer_end = to_next.removesuffix(user_start)
    turns = Turns(
        head=bos,
        lead=first.removesuffix(user_start),
        user=(user_start, user_end),
        assistant=(to_reply.removeprefix(user_end), answer_end),
        generation=to_answer.removeprefix(user_end),
        place="nowhere",
    )
    return _with_system(turns, body)


def trims(template: ChatTemplate) -> bool:
    """Whether the template strips white space around messages, which Ollama templates can't."""
    return f" {USER} " not in template.render([{"role": "user", "content": f" {USER} "}])


def _with_system(turns: Turns, body: Callable[[Conversation], str]) -> Turns:
    """`turns` with the place of a system message and the texts around it."""
    message = {"role": "system", "content": SYSTEM}
    try:
        short, long = body([message, *_talk(1)]), body([message, *_talk(2)])
    except TemplateError:
        return turns
    if SYSTEM not in short:
        return turns
    if long.find(SYSTEM) < long.find(USER.format(1)):
        before, after, _ = _around(short, [SYSTEM, USER.format(1)])
        if after.endswith(turns.user[0]):
            around = before, after.removesuffix(turns.user[0])
            return msgspec.structs.replace(turns, place="turn", system=around)
        return msgspec.structs.replace(turns, place="first", system=(before, after))
    marks = [USER.format(1), ASSISTANT.format(1), SYSTEM, USER.format(2)]
    _, _, before, after, _ = _around(long, marks)
    around = before.removeprefix(turns.assistant[1]), after
    return msgspec.structs.replace(turns, place="last", system=around)


def _talk(turns: int) -> Conversation:
    """A conversation that ends with the last of `turns` user turns."""
    roles = {"«u": "user", "«a": "assistant"}
    return [{"role": roles[mark[:2]], "content": mark} for mark in _marks(turns)]


def _marks(turns: int) -> list[str]:
    pairs = ((USER.format(i), ASSISTANT.format(i)) for i in range(1, turns + 1))
    return [mark for pair in pairs for mark in pair][:-1]


def _around(text: str, marks: Sequence[str]) -> list[str]:
    """The texts before, between and after `marks`, which must each occur once, in order."""
    found = []
    for mark in marks:
        before, seen, text = text.partition(mark)
        if not seen or mark in text:
            raise StepError(
                "the chat template can't be written as an Ollama template: it omits, repeats or "
                "moves a turn of a plain conversation",
                details=[f"expected {mark} in the order {' '.join(marks)}"],
            )
        found.append(before)
    return [*found, text]


def _tail(body: Callable[..., str], messages: Conversation, *continued: str) -> str:
    """The end of the last turn if nothing follows; else the common start of its continuations."""
    try:
        end = body(messages, False).rpartition(messages[-1]["content"])[2]
    except TemplateError:
        end = ""
    if all(text.startswith(end) for text in continued):
        return end
    if len(continued) < 2:
        return ""
    return continued[0][: first_difference(continued[0], continued[1])]


def _common_suffix(one: str, other: str) -> str:
    length = first_difference(one[::-1], other[::-1])
    return one[len(one) - length :]


# -- the TEMPLATE ----------------------------------------------------------------------------------


def ollama_template(render: Render, bos: str) -> tuple[str, Turns]:
    """(the TEMPLATE, the turns that it writes) of a chat template.

    bos: text of the BOS token if the chat template has to write it; empty if llama.cpp adds it.
    `StepError` names a conversation that Ollama would write differently.
    """
    try:
        turns = find_turns(render, bos)
    except TemplateError as error:
        raise StepError(
            f"the chat template refuses a plain conversation: {error}",
            fix="use a chat template that takes a user's message, an answer and another message",
        ) from error
    _check_prompts(render, turns)
    return write_go(turns), turns


def _check_prompts(render: Render, turns: Turns) -> None:
    for name, messages in conversations().items():
        try:
            expected = render(messages, True)
        except TemplateError:
            continue  # the model has no prompt for it
        prompt = turns.prompt(messages)
        if prompt != expected:
            raise StepError(
                f"the chat template can't be written as an Ollama template: {name} differs",
                details=text_difference(("model:", "Ollama:"), expected, prompt),
                fix='export the model with gguf.export, and set `ollama: ">=0.30"`: these versions '
                "use the GGUF's chat template. Or train with a simpler one",
            )


def write_go(turns: Turns) -> str:
    """The Go template that writes `turns.prompt`."""
    assistant = f'{{{{ else if eq .Role "assistant" }}}}{_content(turns.assistant)}'
    end = f"{{{{ end }}}}{{{{ end }}}}{escape(turns.generation)}"
    return f"{escape(turns.head)}{_BEGIN[turns.place](turns)}{assistant}{end}"


def conversations() -> dict[str, Conversation]:
    """The conversations to compare, by name. Without white space around texts, see `trims`."""
    system = {"role": "system", "content": "Answer in one word.\n\nBe polite."}
    question = {"role": "user", "content": "Where's my card?"}
    answer = {"role": "assistant", "content": "It is\non its way."}
    odd = {
        "role": "user",
        "content": "{{ .System }} {% if x %} <b>&amp;</b> \"q\" 's' \\n ``` é 漢 👩‍👧",
    }
    return {
        "a single turn": [question],
        "a single turn with a system message": [system, question],
        "two turns": [question, answer, odd],
        "two turns with a system message": [system, question, answer, odd],
        "three turns": [question, answer, odd, answer, question],
        "three turns with a system message": [system, odd, answer, question, answer, question],
    }


def escape(text: str) -> str:
    """Text in the form for a template inside a Modelfile's `\"\"\"`.

    It escapes the beginnings of actions, the end of the quotes, and characters that Ollama's parser
    would drop because they aren't printable.
    """
    return re.sub(r'\{+|"""|.', _escaped, text, flags=re.DOTALL)


def _escaped(found: re.Match[str]) -> str:
    text = found[0]
    if text in "\n\t" or (len(text) == 1 and text != "{" and text.isprintable()):
        return text
    inner = "".join(_go_character(c) for c in text)
    return f'{{{{ "{inner}" }}}}'


def _go_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _content(around: tuple[str, str]) -> str:
    return f"{escape(around[0])}{{{{ .Content }}}}{escape(around[1])}"


def _in_turn(turns: Turns) -> str:
    lead = ""
    if turns.lead:
        lead = f'{{{{ if and (eq $i 0) (ne .Role "system") }}}}{escape(turns.lead)}{{{{ end }}}}'
    return (
        f"{{{{ range $i, $_ := .Messages }}}}{lead}"
        f'{{{{ if eq .Role "system" }}}}{_content(turns.system)}'
        f'{{{{ else if eq .Role "user" }}}}{_content(turns.user)}'
    )


def _in_first(turns: Turns) -> str:
    lead = f"{{{{ if not .System }}}}{escape(turns.lead)}{{{{ end }}}}" if turns.lead else ""
    before, after = map(escape, turns.system)
    return (
        f"{lead}{{{{ $system := .System }}}}{{{{ range .Messages }}}}"
        f'{{{{ if eq .Role "user" }}}}{{{{ if $system }}}}{before}{{{{ $system }}}}{after}'
        f'{{{{ $system = "" }}}}{{{{ else }}}}{escape(turns.user[0])}{{{{ end }}}}'
        f"{{{{ .Content }}}}{escape(turns.user[1])}"
    )


def _in_last(turns: Turns) -> str:
    before, after = map(escape, turns.system)
    return (
        f"{escape(turns.lead)}{{{{ range $i, $_ := .Messages }}}}"
        f'{{{{ if eq .Role "user" }}}}'
        f"{{{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}}}"
        f"{before}{{{{ $.System }}}}{after}{{{{ else }}}}{escape(turns.user[0])}{{{{ end }}}}"
        f"{{{{ .Content }}}}{escape(turns.user[1])}"
    )


def _nowhere(turns: Turns) -> str:
    return (
        f"{escape(turns.lead)}{{{{ range .Messages }}}}"
        f'{{{{ if eq .Role "user" }}}}{_content(turns.user)}'
    )


_BEGIN = {"turn": _in_turn, "first": _in_first, "last": _in_last, "nowhere": _nowhere}
"""Place of the system message → the template up to the assistant's turns."""
