"""Compares the prompts of a frozen template with those of the training."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from finery import DataError, StepError
from finery.rows import Conversation, Row, split_turns
from finery_transformers.chat import CALLED, TOOLS, PromptTemplate

_AROUND = 30
"""Characters shown on either side of a difference."""
_VALUES = (True, False, "finery passes this")
"""Arguments that callers may pass."""
_DOCUMENTS = [{"title": "finery", "text": "finery passes this"}]
"""Values that they may pass as `documents`."""


class Sample(NamedTuple):
    """A prompt to compare. name: its description in errors."""

    name: str
    messages: Conversation
    tools: list[dict[str, Any]] | None = None


def samples(end: str, *, tools: bool) -> list[Sample]:
    """finery's own conversations. end: a special token, used as text. tools: also with tools."""
    plain = [Sample(name, messages) for name, messages in conversations(end).items()]
    if not tools:
        return plain
    offered = [Sample("a question with tools", CALLED[:1], TOOLS)]
    called = [Sample("an answer of a tool", CALLED[:3], TOOLS)]
    later = [*CALLED, {"role": "user", "content": "Thanks. And now?"}]
    return [*plain, *offered, *called, Sample("a turn after a tool call", later, TOOLS)]


def conversations(end: str) -> dict[str, Conversation]:
    """Conversations without tools, by name. end: a special token, used as text."""
    system = {"role": "system", "content": "Name the intent of the message. Answer in one word."}
    question = {"role": "user", "content": "Where's my card? It's 3 weeks late, isn't it!"}
    answer = {"role": "assistant", "content": "card_arrival"}
    unicode = "Größe: 5 µm — naïve, 漢字とかな, العربية, 👩‍👩‍👧 🇩🇪, e\u0301\u00a0x"
    code = 'def f(x):\n\tif x > 0:\n        return {"a": [1, 22, 333_333]}\n\n\n# 1e-4 "done"\n'
    special = f"What do {end}, </s>, <|endoftext|>, <|im_start|>user and [INST] stand for?"
    return {
        "a single turn": [question],
        "a system message": [system, question],
        "several turns": [question, answer, {"role": "user", "content": "And now?"}],
        "a system message and several turns": [
            system,
            question,
            answer,
            question,
            answer,
            question,
        ],
        "an empty message": [{"role": "user", "content": ""}],
        "an empty system message": [{"role": "system", "content": ""}, question],
        "an empty answer": [question, {"role": "assistant", "content": ""}, question],
        "unicode": [{"role": "user", "content": unicode}],
        "code": [{"role": "user", "content": code}],
        "text that looks like special tokens": [{"role": "user", "content": special}],
        "space around a text": [{"role": "user", "content": "  two before, one after \n"}],
    }


def samples_of(rows: Iterable[Row]) -> Iterator[Sample]:
    """The prompts of rows, each up to its last answer."""
    for row in rows:
        yield Sample(f"the row {row['id']}", split_turns(row)[0], row.get("tools"))


def prompt_or_none(template: PromptTemplate, sample: Sample) -> str | None:
    """The text of a prompt; None if the template refuses it."""
    try:
        return template.prompt(sample.messages, sample.tools)
    except DataError:
        return None


def check_same(
    trained: Callable[[Sample], str | None],
    frozen: Callable[[Sample, Mapping[str, Any]], str | None],
    asked: Iterable[Sample],
    names: Iterable[str],
) -> None:
    """Compare prompts, whatever a caller passes for the arguments with these names.

    trained, frozen: the text of a prompt, None if it is refused. `StepError` with the first
    difference.
    """
    given = [dict.fromkeys(names, value) for value in _VALUES]
    callers: list[dict[str, Any]] = [
        {},
        *({**c, "documents": _DOCUMENTS} if "documents" in c else c for c in given),
    ]
    for sample in asked:
        expected = trained(sample)
        for caller in callers:
            actual = frozen(sample, caller)
            if actual != expected:
                raise StepError(
                    f"{sample.name} has another prompt under the frozen chat template than in the "
                    "training",
                    details=_difference(expected, actual),
                    fix="give the model a chat template without this difference by "
                    "`chat_template:`, or report this as a bug in finery",
                )


def _difference(expected: str | None, actual: str | None) -> list[str]:
    if expected is None or actual is None:
        return [f"only the {'training' if expected is None else 'frozen'} template refuses it"]
    pairs = zip(expected, actual, strict=False)
    shorter = min(len(expected), len(actual))
    at = next((i for i, (one, other) in enumerate(pairs) if one != other), shorter)
    start, end = max(at - _AROUND, 0), at + _AROUND
    return [f"training: {expected[start:end]!r}", f"frozen:   {actual[start:end]!r}"]
