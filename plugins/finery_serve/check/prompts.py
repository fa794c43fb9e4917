"""Compares the prompts that a server makes with those of the training, token for token."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

from finery import DataError, FineryError, Model
from finery.rows import Conversation
from finery.rows.difference import text_difference
from finery_gguf.llama import Gguf
from finery_gguf.prompts import model_template, tokenize
from finery_serve.servers import Checkable, Fault, Kind, Prompt
from finery_transformers.chat import SWITCHES
from finery_transformers.frozen.proof import conversations
from finery_transformers.frozen.template import ClientFacts, frozen_template, with_system
from finery_transformers.wrapping import source_of

Tools = list[dict[str, Any]] | None
Render = Callable[[Conversation, Tools, Mapping[str, Any]], str]
"""(messages, tools, further arguments of the template) → a prompt's text."""
NAMED = 5
"""Prompts that a fault names."""


class ComparedPrompt(NamedTuple):
    """A prompt to compare. name: of the case or row, for people.

    system: a message that the server adds to the conversation, and that its prompt must have. sent:
    the request for it, if a client sends another one than the conversation and its tools.
    """

    name: str
    messages: Conversation
    tools: Tools
    system: str = ""
    sent: Mapping[str, Any] | None = None

    @property
    def whole(self) -> Conversation:
        """The conversation with what the server adds."""
        system_turns = [{"role": "system", "content": self.system}] if self.system else []
        return [*system_turns, *self.messages]


class TrainedPrompts(NamedTuple):
    """How the training made prompts.

    source: of the chat template. end: a token that ends answers. system: the message that begins
    conversations without one, since all training rows had it. tools: those that all rows offer.
    """

    source: str
    end: str
    render: Render
    tokens: Callable[[str], list[int]]
    system: str = ""
    tools: Tools = None

    @classmethod
    def of_training(cls, model: Model, *, system: bool) -> Self:
        """The prompts of a model as its training made them, on the day of the training.

        system: whether conversations without a system message begin with that of the training.
        """
        frozen = frozen_template(model, system=system)
        template, default_system = frozen.trained, frozen.system or ""

        def render(messages: Conversation, tools: Tools, extra_arguments: Mapping[str, Any]) -> str:
            full_conversation = with_system(messages, default_system)
            return template.having(**extra_arguments).prompt(full_conversation, tools)

        source, end = source_of(template.tokenizer), str(template.tokenizer.eos_token)
        return cls(source, end, render, template.tokens, default_system)

    @classmethod
    def of_engine(cls, gguf: Gguf, model: Model) -> Self:
        """The prompts of a GGUF as finery's own engine makes them."""
        template = model_template(gguf, model)

        def render(messages: Conversation, tools: Tools, extra_arguments: Mapping[str, Any]) -> str:
            return tokenize(gguf, template.with_arguments(**extra_arguments), messages, tools).text

        end = gguf.special_tokens().get("eos_token", "</s>")
        system = ClientFacts.of(model.meta).system
        return cls(template.source, end, render, gguf.encode_prompt, system)


def prompt_cases(
    trained: TrainedPrompts,
    rows: Iterable[ComparedPrompt],
    client: Mapping[str, Any],
    system: str = "",
) -> Iterator[ComparedPrompt]:
    """Edge cases, those with the rows' tools included, and then the rows themselves.

    A row with the system message or the tools of the training is also asked without that message,
    and with the client's tools, as by a client that only sends a question.

    client: the request of the client. system: the message that the server adds to conversations
    without one. The edge cases expect it. A row doesn't: without a system message, it was trained
    without one.
    """
    row_prompts = list(rows)
    tools = next((row.tools for row in row_prompts if row.tools), None)
    for name, messages in conversations(trained.end).items():
        added = "" if messages[0]["role"] == "system" else system
        yield ComparedPrompt(name, messages, None, added)
        if tools:
            yield ComparedPrompt(f"{name}, with tools", messages, tools, added)
    yield from row_prompts
    system_turns = [{"role": "system", "content": trained.system}] if trained.system else []
    settings = {name: client[name] for name in ("tools", "tool_choice") if name in client}
    for row in row_prompts:
        has_tools = bool(trained.tools) and row.tools == trained.tools
        if (system_turns or has_tools) and row.messages[: len(system_turns)] == system_turns:
            question_turns = row.messages[len(system_turns) :]
            sent = {**request(question_turns, None), **settings} if has_tools else None
            name = f"{row.name} as a bare question"
            yield row._replace(name=name, messages=question_turns, sent=sent)


class PromptDifference(NamedTuple):
    """A prompt that the server makes otherwise. None: it is refused.

    refusal: the server's words, if it refuses the conversation.
    """

    prompt: ComparedPrompt
    trained: str | None
    served: Prompt | None
    refusal: str = ""


def compare_prompts(
    running: Checkable,
    name: str,
    trained: TrainedPrompts,
    prompts: Sequence[ComparedPrompt],
    progress: Callable[[int], None],
) -> tuple[int, list[PromptDifference]]:
    """(how many prompts were compared, those that differ).

    name: of the model on the server. What both refuse isn't counted.
    """
    compared, differences = 0, []
    for number, prompt in enumerate(prompts):
        progress(number)
        expected = actual = None
        refusal = ""
        with suppress(DataError):
            expected = trained.render(prompt.whole, prompt.tools, {})
        try:
            body = prompt.sent or request(prompt.messages, prompt.tools)
            actual = running.prompt({**body, "model": name})
        except FineryError as error:
            refusal = error.what
        if expected is None and actual is None:
            continue
        compared += 1
        if expected is None or actual is None or trained.tokens(expected) != actual.tokens:
            differences.append(PromptDifference(prompt, expected, actual, refusal))
    return compared, differences


def request(messages: Conversation, tools: Tools) -> dict[str, Any]:
    """The body that a client sends, with arguments of calls as JSON text."""
    body: dict[str, Any] = {"messages": [_wire_message(message) for message in messages]}
    return body | ({"tools": tools} if tools else {})


def _wire_message(message: Mapping[str, Any]) -> dict[str, Any]:
    filled = {name: value for name, value in message.items() if value is not None}
    if calls := filled.get("tool_calls"):
        filled["tool_calls"] = [_wire_call(i, call) for i, call in enumerate(calls)]
    return filled


def _wire_call(index: int, call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function", {}))
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {"id": f"call{index:05}", "type": "function", **call, "function": function}


def prompt_faults(
    trained: TrainedPrompts,
    server_template: str | None,
    compared: int,
    differences: Sequence[PromptDifference],
    renderer: str | None = None,
) -> list[Fault]:
    """Why prompts differ, with an example.

    server_template: the chat template that the server uses. renderer: its own code for prompts, if
    it has any.
    """
    if not differences:
        return []
    flipped = [(d, switch) for d in differences if (switch := _thinking_switch(trained, d))]
    if flipped:
        (difference, (name, value)), *_ = flipped
        return [Fault(
            "thinking",
            f"the server writes {len(flipped)} of {compared} prompts with {name}: "
            f"{str(value).lower()}, which the training didn't",
            _example(difference),
            "export the model again, which fixes the template's arguments; or give the model "
            f"chat_template_kwargs: {{{name}: {str(not value).lower()}}}",
        )]  # fmt: skip
    finding = f"{len(differences)} of {compared} prompts differ from the trained ones"
    kind: Kind = "prompts"
    fix = "see the difference; a server of another version may render templates otherwise"
    if renderer is not None:
        kind, fix = "template", "use a server that writes them with the chat template: llama.bundle"
        finding = (
            f"the server writes prompts with its own renderer '{renderer}', not with the chat "
            f"template: {finding}"
        )
    elif server_template is not None and not server_template.strip().endswith(
        trained.source.strip()
    ):
        kind, fix = "template", "export the model again"
        finding = f"the server uses another chat template than the training: {finding}"
    names = [difference.prompt.name for difference in differences[:NAMED]]
    details = [f"for example: {'; '.join(names)}", *_example(differences[0])]
    return [Fault(kind, finding, details, fix)]


def _thinking_switch(
    trained: TrainedPrompts, difference: PromptDifference
) -> tuple[str, bool] | None:
    """The switch of thinking, and its value, that makes the server's prompt; None: it isn't it."""
    prompt = difference.prompt
    for name in SWITCHES:
        for value in (True, False):
            with suppress(DataError):
                text = trained.render(prompt.whole, prompt.tools, {name: value})
                if difference.served and trained.tokens(text) == difference.served.tokens:
                    return name, value
    return None


def _example(difference: PromptDifference) -> list[str]:
    if difference.trained is None or difference.served is None:
        who = "the trained template" if difference.trained is None else "the server"
        return [
            f"only {who} refuses {difference.prompt.name}",
            *filter(None, [difference.refusal]),
        ]
    lines = text_difference(("trained:", "served:"), difference.trained, difference.served.text)
    return [f"in {difference.prompt.name}:", *lines]
