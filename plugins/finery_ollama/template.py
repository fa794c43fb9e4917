"""A chat template as an Ollama TEMPLATE that writes the same prompts.

There are two conversions, each verified where it can go wrong. The chat template becomes `Turns`.
Every model has its own chat template, so the step compares the prompts of both. `Turns` become a Go
template in one of four forms, in which only the texts differ from model to model. So finery's tests
compare its prompts, rendered by Go's own text/template, with those of any `Turns`.

Ollama renders Go's text/template with `.Messages` (adjacent ones of a role merged), each of which
has `.Role` and `.Content`, and with `.System`, all system messages joined
(https://github.com/ollama/ollama/blob/main/template/template.go). A single prompt is rendered as
one user message.
"""

import re

from jinja2.exceptions import TemplateError

from finery import StepError
from finery.rows import Conversation
from finery.rows.difference import text_difference
from finery_ollama.turns import Render, Turns, find_turns


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
