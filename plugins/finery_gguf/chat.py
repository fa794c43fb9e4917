"""Chat templates: Jinja, rendered as transformers renders it.

https://github.com/huggingface/transformers/blob/main/src/transformers/utils/chat_template_utils.py
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finery import FineryError
from finery.rows import Conversation, Message
from finery.rows.templates.limits import compile_within_limits, render_messages

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys of a message's reasoning. Templates read the first; that of gpt-oss reads the second."""


class ChatTemplate:
    """A chat template with the special tokens (`bos_token`, …) and arguments that it may use.

    arguments: passed to the template in every call, e.g. `enable_thinking`. jinja2's
    `TemplateError` for a template that isn't Jinja; `DataError` for one that takes too much time or
    memory.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.source = source
        self._names = {**special_tokens, **(arguments or {})}
        try:
            self._compiled = compile_within_limits(lambda: environment().from_string(source))
        except (SyntaxError, RecursionError) as error:
            raise TemplateError(f"{type(error).__name__}: {error}") from error

    def with_arguments(self, **arguments: Any) -> "ChatTemplate":
        """The same template with further arguments."""
        return ChatTemplate(self.source, self._names, arguments)

    def render(
        self,
        messages: Conversation,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt's text. jinja2's `TemplateError` if the template refuses `messages`.

        `DataError` if it takes too much time or memory.
        """
        plain = [_plain(message) for message in messages]
        names = {"tools": list(tools) if tools else None}
        try:
            return self._render(plain, {**names, "add_generation_prompt": add_generation_prompt})
        except TypeError as error:
            raise TemplateError(f"TypeError: {error}") from error

    @property
    def chat_template(self) -> str:
        """The source, as tokenizers of transformers call it."""
        return self.source

    def apply_chat_template(
        self, messages: Conversation, *, tokenize: bool = False, **names: Any
    ) -> str:
        """The text of messages, as the method of transformers' tokenizers returns it.

        So `finery_transformers.chat` prepares messages for a GGUF as it does for a training.
        tokenize: must be false. Raises as `render` does, and a template's `TypeError`.
        """
        assert not tokenize
        filled = [{k: v for k, v in message.items() if v is not None} for message in messages]
        return self._render(filled, names)

    def _render(self, messages: Conversation, names: Mapping[str, Any]) -> str:
        variables = {"documents": None, "tools": None, **self._names, **names, "messages": messages}
        try:
            return render_messages(lambda: self._compiled.render(variables), messages)
        except (TemplateError, FineryError, TypeError):
            raise
        except Exception as error:
            # A template that fails on a message, e.g. one without content, refuses it.
            raise TemplateError(f"{type(error).__name__}: {error}") from error


def environment() -> ImmutableSandboxedEnvironment:
    """The Jinja environment of transformers' `apply_chat_template`."""
    jinja = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    jinja.filters["tojson"] = _tojson
    jinja.globals["raise_exception"] = _raise_exception
    jinja.globals["strftime_now"] = _strftime_now
    jinja.globals["dict"] = _Dict()
    jinja.globals["namespace"] = _Namespace
    return jinja


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the answer for training; a prompt is the same without it."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Dict:
    """`dict` for templates, without the attributes of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(jinja2.utils.Namespace):
    """`namespace` for templates, without underscored names."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that `namespace(self=…)` works
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template may not set the underscored name {name!r}")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _plain(message: Message) -> Message:
    """A message without empty keys, with its reasoning under every key that templates read."""
    filled = {k: v for k, v in message.items() if v is not None}
    reasoning = next((filled[k] for k in REASONING if k in filled), None)
    if reasoning is None:
        return filled
    return {"thinking": reasoning, **filled, "reasoning_content": reasoning}
