"""Answers as tokens of a tokenizer, read to prompts of its chat template."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finery.rows import Conversation
from finery_transformers.chat import decoded, rendered, special_ids
from finery_transformers.parsing.parsed import Parsed
from finery_transformers.parsing.reader import AnswerReader
from finery_transformers.wrapping import source_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finery_transformers.parsing.calls import Tools


class TokenReader:
    """Reads answers as engines do; trainings check with it what they teach.

    reader: reads their text. arguments: of the chat template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._arguments = dict(arguments)
        self._special = frozenset(special_ids(tokenizer))
        self.reader = AnswerReader(source_of(tokenizer, with_tools=True), self._rendered)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of an answer, with special tokens where the reader needs them."""
        return decoded(self._tokenizer, tokens, special=self.reader.needs_special_tokens)

    def parts(
        self, text: str, tokens: Sequence[int], *, prompt: str, tools: "Tools | None"
    ) -> Parsed:
        """The parts of an answer. text: of its tokens, perhaps cut. prompt: the end of its text."""
        special = [
            decoded(self._tokenizer, [token], special=True) for token in set(tokens) & self._special
        ]
        return self.reader.read(text, prompt=prompt, tools=tools, special=special)

    def _rendered(
        self, messages: Conversation, tools: "Tools | None", add_generation_prompt: bool
    ) -> str:
        asked = {**self._arguments, "add_generation_prompt": add_generation_prompt}
        return rendered(self._tokenizer, messages, tools=tools, arguments=asked)
