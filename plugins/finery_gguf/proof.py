"""Verifies that a GGUF turns conversations into the tokens that the model was trained on."""

from collections.abc import Iterable
from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from finery import DataError, StepError
from finery.rows import Row
from finery.rows.difference import first_difference, text_difference
from finery_gguf.chat import ChatTemplate
from finery_gguf.llama import Gguf
from finery_gguf.prompts import chat_template, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finery_transformers.frozen.template import FrozenTemplate

_CONTEXT_TOKENS = 6  # tokens shown on either side of a difference
_LABELS = ("trained:", "GGUF:")
_PROBE = "\u2402"


def prove(
    gguf: Gguf,
    frozen: "FrozenTemplate",
    rows: Iterable[Row] = (),
    *,
    replacement: str | None = None,
) -> int:
    """Compare the GGUF's chat template and tokenizer with those of the training.

    frozen: the template that the GGUF must have. rows: more conversations to compare. replacement:
    the chat template beside the file, which replaces the GGUF's. Returns the number of compared
    conversations. Raises `StepError` with the first difference.
    """
    tokenizer = frozen.tokenizer
    if (replacement or gguf.chat_template) != frozen.source:
        raise StepError(
            "the GGUF's chat template is not the one the model was trained with",
            details=text_difference(_LABELS, frozen.source, gguf.chat_template or ""),
        )
    template = chat_template(gguf, {}, replacement)
    compared = 0
    for sample in frozen.samples(rows):
        expected, actual = frozen.trained_tokens(sample), None
        with suppress(DataError):
            actual = gguf.encode_prompt(render(template, sample.messages, sample.tools))
        if expected != actual:
            raise StepError(
                f"the GGUF turns {sample.name} into other tokens than the model was trained on",
                details=_token_difference(gguf, expected, actual),
                fix="nothing was exported, since llama.cpp and transformers tokenise this model "
                "differently; export a model with the unchanged tokenizer of its base",
            )
        compared += expected is not None  # else both templates refuse it
    if not compared:
        raise StepError("the model's chat template refuses all of finery's test conversations")
    _check_end(gguf, template, tokenizer)
    return compared


def _token_difference(
    gguf: Gguf, expected: list[int] | None, actual: list[int] | None
) -> list[str]:
    if expected is None or actual is None:
        refuses = "the trained" if expected is None else "the GGUF's"
        return [f"only {refuses} chat template refuses the conversation"]
    at = first_difference(expected, actual)
    return [
        f"the first difference is token {at} of {len(expected)} (trained) and {len(actual)} (GGUF)",
        f"{_LABELS[0]} {_tokens_around(gguf, expected, at)}",
        f"{_LABELS[1]}    {_tokens_around(gguf, actual, at)}",
    ]


def _tokens_around(gguf: Gguf, tokens: list[int], at: int) -> str:
    """The tokens around the marked position `at`."""
    start, end = max(at - _CONTEXT_TOKENS, 0), at + _CONTEXT_TOKENS + 1
    pieces = []
    for position, token in enumerate(tokens[start:end], start):
        text = f"{token}:{gguf.token_text(token)!r}"
        pieces.append(f">>>{text}<<<" if position == at else text)
    if at >= len(tokens):
        pieces.append(">>>end<<<")
    return " ".join(pieces)


def _check_end(gguf: Gguf, template: ChatTemplate, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise `StepError` if llama.cpp wouldn't stop at a token that ends answers.

    A template may close the answer's text before it ends the turn, as Cohere's does: then it is
    enough to stop at one of these tokens.
    """
    eos: Any = tokenizer.eos_token_id
    for ends in ([] if eos is None else [int(eos)], _end_of_turn(gguf, template)):
        if ends and not any(gguf.ends_generation(token) for token in ends):
            raise StepError(
                f"llama.cpp would not stop at {gguf.token_text(ends[0])!r}, which ends the model's "
                "answers",
                fix="make that token the tokenizer's eos_token before training",
            )


def _end_of_turn(gguf: Gguf, template: ChatTemplate) -> list[int]:
    """The control tokens that the chat template writes right after an answer."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
    try:
        text = template.render(turns, add_generation_prompt=False)
    except TemplateError:
        return []
    return list(takewhile(gguf.is_control, gguf.encode(text.rpartition(_PROBE)[2])))
