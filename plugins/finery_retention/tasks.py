"""Procedural tasks with verifiers, from the package reasoning-gym (Apache-2.0).

Input: the name of a task. Output: items that are the same on every machine, each with a verifier
for answers. `TASKS` has small tasks that a model with 135 million parameters can partly do, so that
a loss shows. docs/howto/retention.md lists those that were tried.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from finery import StepError
from finery.rows import Conversation

TaskName = Literal[
    "equations", "filtering", "legs", "letters", "needle", "products", "relatives", "reversal",
    "sorting", "sums", "syllogisms",
]  # fmt: skip

_DIGIT = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
_SMALL = {"min_numbers": 3, "max_numbers": 4, "min_decimals": 0, "max_decimals": 0}
TASKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "equations": ("simple_equations", {}),
    "filtering": ("number_filtering", {**_SMALL, "min_value": 0, "max_value": 50}),
    "legs": ("leg_counting", {"max_animals": 2, "max_instances": 4, "min_animals": 1}),
    "letters": ("letter_counting", {"min_words": 3, "max_words": 5}),
    "needle": ("needle_haystack", {"min_num_statements": 5, "max_num_statements": 8}),
    "products": ("products", _DIGIT),
    "relatives": ("family_relationships", {}),
    "reversal": ("word_sequence_reversal", {"min_words": 3, "max_words": 3}),
    "sorting": ("word_sorting", {"min_words": 3, "max_words": 3}),
    "sums": ("chain_sum", _DIGIT),
    "syllogisms": ("syllogism", {}),
}
"""Name → (generator, its settings)."""
SEED = 2889
SOLVED = 0.999
"""The verifiers' score of a right answer is 1."""
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Exceptions of verifiers for an answer that they can't parse, which is then wrong."""


class Item(NamedTuple):
    """One question. is_solved: whether a text answers it."""

    id: str
    task: str
    question: str
    expected: str
    messages: Conversation
    is_solved: Callable[[str], bool]


def items_of(name: str, count: int, shots: int) -> list[Item]:
    """The items of a task, each after the same `shots` solved ones. No question is repeated."""
    generator, settings = TASKS[name]
    source = _generator(generator, count, shots, settings)
    entries = _distinct(source, count + shots)
    before = [turn for entry in entries[:shots] for turn in _solved(entry)]
    return [
        Item(
            id=f"{name}-{number}",
            task=name,
            question=_question(entry),
            expected=entry["answer"],
            messages=[*before, {"role": "user", "content": _question(entry)}],
            is_solved=_verifier(source, entry),
        )
        for number, entry in enumerate(entries[shots:], 1)
    ]


def _generator(name: str, count: int, shots: int, settings: Mapping[str, Any]) -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise StepError(
            f"the tasks need the package reasoning-gym: {error}",
            fix="pip install 'finery[retention]', or score the text alone: tasks: []",
        ) from error
    size = 4 * (count + shots) + 100  # some questions may come twice
    return reasoning_gym.create_dataset(name, size=size, seed=SEED, **settings)


def _distinct(source: Any, wanted: int) -> list[dict[str, Any]]:
    """The first entries with different questions."""
    entries: dict[str, dict[str, Any]] = {}
    for index in range(len(source)):
        entry = source[index]
        entries.setdefault(_question(entry), entry)
        if len(entries) == wanted:
            return list(entries.values())
    raise StepError(
        f"this task has only {len(entries)} different questions",
        fix="reduce `items`",
    )


def _solved(entry: Mapping[str, Any]) -> Conversation:
    return [
        {"role": "user", "content": _question(entry)},
        {"role": "assistant", "content": entry["answer"]},
    ]


def _question(entry: Mapping[str, Any]) -> str:
    return str(entry["question"]).strip()


def _verifier(source: Any, entry: Mapping[str, Any]) -> Callable[[str], bool]:
    """Judges the first line of an answer, since the expected answers have one line."""

    def is_solved(text: str) -> bool:
        line = text.strip().partition("\n")[0].strip()
        try:
            return bool(source.score_answer(line, entry) >= SOLVED)
        except UNREADABLE:
            return False

    return is_solved
