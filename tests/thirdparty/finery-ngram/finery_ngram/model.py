"""The model: counts of words after contexts, and what follows from them."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from finery.rows import Conversation

ANSWER, END = "<answer>", "<end>"
"""What begins an answer and what ends it, as words."""
FILE = "counts.json"


def words_of(text: str) -> list[str]:
    """The words and punctuation marks of a text."""
    return re.findall(r"\w+|[^\w\s]", text)


def prompt_words(conversation: Conversation) -> list[str]:
    """The words of a prompt, up to where the answer begins."""
    text = " ".join(str(message.get("content") or "") for message in conversation)
    return [*words_of(text), ANSWER]


class Counts:
    """How often each word follows each context of up to `order` - 1 words.

    Probabilities are interpolated with those of the next shorter context, whose weight is
    `smoothing` (MacKay & Peto 1995); the shortest one is uniform over the known words.
    """

    def __init__(self, order: int, smoothing: float) -> None:
        self.order = order
        self.smoothing = smoothing
        self.table: dict[str, Counter[str]] = {}
        self.words: set[str] = {END}

    def add(self, before: Sequence[str], word: str) -> None:
        """Count a word after the words before it."""
        self.words.add(word)
        for context in self._contexts(before):
            self.table.setdefault(context, Counter())[word] += 1

    def probability(self, before: Sequence[str], word: str) -> float:
        """How likely a word is after the words before it."""
        probability = 1 / (len(self.words) + 1)
        for context in reversed(self._contexts(before)):
            counts = self.table.get(context)
            if counts is not None:
                share = counts[word] + self.smoothing * probability
                probability = share / (counts.total() + self.smoothing)
        return probability

    def choices(self, before: Sequence[str]) -> list[str]:
        """The words seen after the longest known context, the likeliest first."""
        known = next((c for c in self._contexts(before) if c in self.table), None)
        counts = self.table[known] if known is not None else Counter({END: 1})
        return sorted(counts, key=lambda word: (-counts[word], word))

    def _contexts(self, before: Sequence[str]) -> list[str]:
        """The contexts that end the words before, the longest first."""
        longest = min(self.order - 1, len(before))
        return [" ".join(before[len(before) - n :]) for n in range(longest, -1, -1)]

    def save(self, path: Path) -> None:
        """Write the counts as JSON."""
        path.write_text(json.dumps(self.to_dict(), sort_keys=True), encoding="utf-8")

    def to_dict(self) -> dict[str, object]:
        """The counts as JSON values."""
        return {"order": self.order, "smoothing": self.smoothing, "table": self.table}

    @classmethod
    def of(cls, data: dict[str, object]) -> "Counts":
        """The counts of `to_dict`."""
        counts = cls(int(str(data["order"])), float(str(data["smoothing"])))
        table: Iterable[tuple[str, dict[str, int]]] = data["table"].items()  # type: ignore[attr-defined]
        counts.table = {context: Counter(words) for context, words in table}
        counts.words |= {word for words in counts.table.values() for word in words}
        return counts
