"""Holds answers to a JSON Schema: which tokens may come next, by llguidance.

Input: a vocabulary, a schema, and an answer so far. Output: for each token, whether it may follow.
finery_gguf uses it, too.
"""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from finery import DataError, outside_key

if TYPE_CHECKING:
    import numpy
    from llguidance import LLMatcher, LLTokenizer

PACKAGE = "llguidance"
WHITE_SPACE = 20
"""Most white space between two parts of the JSON. Without a limit, a model may write nothing else.
It is enough for five levels of indentation."""


@outside_key
def is_installed() -> bool:
    """Whether answers can be held to a schema. The version is in the keys of engines."""
    return find_spec(PACKAGE) is not None


class Constraints:
    """Begins the constraints of one model's answers. vocabulary: makes llguidance's."""

    def __init__(self, vocabulary: "Callable[[], LLTokenizer]", log: Callable[[str], None]) -> None:
        self._make_vocabulary = vocabulary
        self._log = log
        self._compiled: dict[str, LLMatcher | None] = {}

    def begin(self, schema: dict[str, Any] | None, *, strict: bool) -> "Constraint | None":
        """The constraint of an answer that hasn't begun; None without one.

        `DataError` if it must be held to the schema, and the schema can't be followed.
        """
        if schema is None or not is_installed():
            return None
        text = json.dumps(schema)
        if text not in self._compiled:
            try:
                self._compiled[text] = self._compile(schema)
            except ValueError as error:
                if strict:
                    raise DataError(
                        f"answers can't be held to this JSON Schema: {error}",
                        fix="simplify the schema, or let models answer freely",
                    ) from error
                self._log(f"the schema can't constrain the answers: {error}")
                self._compiled[text] = None
        compiled = self._compiled[text]
        return None if compiled is None else Constraint(compiled, self._vocabulary.vocab_size)

    @cached_property
    def _vocabulary(self) -> "LLTokenizer":
        return self._make_vocabulary()

    def _compile(self, schema: dict[str, Any]) -> "LLMatcher":
        """Allows any tokens that spell the JSON. `ValueError` if the schema can't be followed."""
        from llguidance import LLMatcher

        # lenient: keywords that a grammar can't express don't count
        options = {"lenient": True, "whitespace_pattern": rf"[ \n\r\t]{{1,{WHITE_SPACE}}}"}
        schema = {**schema, "x-guidance": options}
        grammar = f'%llguidance {{"no_forcing": true}}\nstart: %json {json.dumps(schema)}'
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0)
        if matcher.is_error():  # "at 2(8): failed to compile JSON schema: …", lines of the grammar
            reason = matcher.get_error().partition("\n   1 |")[0].rpartition("JSON schema: ")[2]
            raise ValueError(" ".join(reason.split()))
        return matcher


class Constraint:
    """One answer that follows a schema."""

    def __init__(self, compiled: "LLMatcher", size: int) -> None:
        """size: of the vocabulary."""
        self._matcher = compiled.deep_copy()
        self._size = size
        self._taken = 0

    def allowed(self, answer: Sequence[int]) -> "numpy.ndarray[Any, Any]":
        """Whether each token of the vocabulary may follow. The answer hasn't ended."""
        import numpy

        self._matcher.consume_tokens(list(answer[self._taken :]))
        self._taken = len(answer)
        bits = numpy.frombuffer(self._matcher.compute_bitmask(), dtype=numpy.uint8)
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0]
            raise DataError(f"no token continues the answer by this JSON Schema: {reason}")
        return numpy.unpackbits(bits, count=self._size, bitorder="little").astype(bool)
