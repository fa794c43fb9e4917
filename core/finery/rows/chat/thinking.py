"""The thinking at the beginning of an answer's text, as models write it between two tags."""

from typing import NamedTuple

THINKING_TAGS = {
    "<think>": "</think>",
    "<|channel>thought\n": "<channel|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "[THINK]": "[/THINK]",
}
"""The tag that opens thinking → the tag that closes it."""


class Thought(NamedTuple):
    """An answer in two parts.

    reasoning: the thinking without its tags and outer white space; None if there is none. text: the
    rest. is_closed: whether the thinking ends; an answer that was cut before is all thinking.
    """

    reasoning: str | None
    text: str
    is_closed: bool = True


def split_thinking(text: str, prompt_tag: str = "") -> Thought:
    """Split the thinking off an answer's text.

    prompt_tag: the tag that the prompt already wrote, see `open_thinking_tag`; else the text itself
    must begin with one. The first closing tag ends the thinking. Text without thinking is returned
    as it is.
    """
    begins = (tag for tag in THINKING_TAGS if text.lstrip().startswith(tag.rstrip()))
    opening = prompt_tag or next(begins, "")
    if not opening:
        return Thought(None, text)
    thinking = text.lstrip().removeprefix(opening.rstrip())
    reasoning, closing, answer = thinking.partition(THINKING_TAGS[opening])
    return Thought(reasoning.strip() or None, answer.lstrip(), bool(closing))


def open_thinking_tag(prompt: str) -> str:
    """The tag that opens thinking at the end of a prompt's text; empty if there is none."""
    end = prompt.rstrip()
    return next((tag for tag in THINKING_TAGS if end.endswith(tag.rstrip())), "")


def missing_opening_tag(text: str) -> str:
    """The tag that opened thinking before a text that only closes it; empty if there is none.

    A server whose chat template ends prompts with the opening tag returns such texts.
    """
    for opening, closing in THINKING_TAGS.items():
        thinking, closes, _ = text.partition(closing)
        if closes and opening.rstrip() not in thinking:
            return opening
    return ""
