"""Holds answers to a JSON Schema: which tokens may come next, by xgrammar.

Input: a vocabulary, a schema, and an answer so far. Output: for each token, whether it may follow.
finery_gguf uses it, too.
"""

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from finery import DataError, outside_key

if TYPE_CHECKING:
    import numpy
    from xgrammar import CompiledGrammar, TokenizerInfo

PACKAGE = "xgrammar"
WHITE_SPACE = 20
"""Most white space between two parts of the JSON. Without a limit, a model may write nothing else.
It is enough for five levels of indentation."""


@outside_key
def is_installed() -> bool:
    """Whether answers can be held to a schema. The version is in the keys of engines."""
    return find_spec(PACKAGE) is not None


class Constraints:
    """Begins the constraints of one model's answers. vocabulary: of xgrammar, made when needed."""

    def __init__(
        self, vocabulary: "Callable[[], TokenizerInfo]", log: Callable[[str], None]
    ) -> None:
        self._vocabulary = vocabulary
        self._log = log
        self._compiled: dict[str, CompiledGrammar | None] = {}
        self._compile: Callable[..., CompiledGrammar] | None = None

    def begin(self, schema: dict[str, Any] | None, *, strict: bool) -> "Constraint | None":
        """The constraint of an answer that hasn't begun; None without one.

        `DataError` if it must be held to the schema, and the schema can't be followed.
        """
        if schema is None or not is_installed():
            return None
        text = json.dumps(schema)
        if text not in self._compiled:
            try:
                self._compiled[text] = self._grammar(text)
            except RuntimeError as error:
                reason = str(error).strip().rpartition(": ")[2]
                if strict:
                    raise DataError(
                        f"answers can't be held to this JSON Schema: {reason}",
                        fix="simplify the schema, or let models answer freely",
                    ) from error
                self._log(f"the schema can't constrain the answers: {reason}")
                self._compiled[text] = None
        compiled = self._compiled[text]
        return None if compiled is None else Constraint(compiled)

    def _grammar(self, schema: str) -> "CompiledGrammar":
        import xgrammar

        if self._compile is None:
            self._compile = xgrammar.GrammarCompiler(self._vocabulary()).compile_json_schema
        return self._compile(schema, max_whitespace_cnt=WHITE_SPACE)


class Constraint:
    """One answer that follows a schema."""

    def __init__(self, compiled: "CompiledGrammar") -> None:
        import xgrammar

        self._size = compiled.tokenizer_info.vocab_size
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._bits = xgrammar.allocate_token_bitmask(1, self._size)
        self._taken = 0

    def allowed(self, answer: Sequence[int]) -> "numpy.ndarray[Any, Any]":
        """Whether each token of the vocabulary may follow; all may after the answer's end."""
        import numpy

        for token in answer[self._taken :]:
            if not self._matcher.is_terminated():
                self._matcher.accept_token(token)
        self._taken = len(answer)
        if self._matcher.is_terminated():
            return numpy.ones(self._size, dtype=bool)
        self._matcher.fill_next_token_bitmask(self._bits)
        bits = numpy.unpackbits(self._bits.numpy().view(numpy.uint8), bitorder="little")
        allowed = bits[: self._size].astype(bool)
        if not allowed.any():
            raise DataError("no token of the model's vocabulary continues JSON by this schema")
        return allowed
