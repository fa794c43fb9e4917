"""The rows whose texts are most alike, in order: nearest neighbours by words and letters.

Texts are compared by the cosine of TF-IDF vectors (Salton and Buckley 1988) over their words and
the four-letter pieces of their words, so a word also resembles its other forms. Other than `near`,
which finds copies, every text has a nearest one if the two share a word that isn't everywhere.
"""

import heapq
import math
import re
from collections import Counter
from collections.abc import Sequence

from finery.rows.parts import join_turns
from finery.rows.row import Conversation

PIECE_CHARACTERS = 4
COMMON_SHARE = 0.2
"""Share of texts from which on a feature says nothing about them, like the instruction in each."""
COMMON_ROWS = 10
"""Minimum number of texts that must have such a feature."""
_WORD = re.compile(r"\w+")


def question_text(prompt: Conversation) -> str:
    """The text that prompts are compared by: all turns but the system prompt."""
    return join_turns([turn for turn in prompt if turn["role"] != "system"] or prompt)


def text_features(text: str) -> Counter[str]:
    """The words of a text and their pieces, with a mark at each end of a word."""
    counts: Counter[str] = Counter()
    for word in _WORD.findall(text.casefold()):
        counts[word] += 1
        marked = f"^{word}$"
        counts.update(
            f"~{marked[i : i + PIECE_CHARACTERS]}"
            for i in range(len(marked) - PIECE_CHARACTERS + 1)
        )
    return counts


class SimilarIndex:
    """Texts, and which of them are nearest to another one.

    Holds all their features in memory, about 10 KB a text of 100 words. Features that more than
    `COMMON_SHARE` of the texts have, and more than `COMMON_ROWS` of them, are left out.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        feature_counts = [text_features(text) for text in texts]
        document_counts = Counter(feature for counts in feature_counts for feature in counts)
        max_documents = max(COMMON_ROWS, COMMON_SHARE * len(texts))
        self._idf = {
            f: math.log(len(texts) / n) + 1
            for f, n in document_counts.items()
            if n <= max_documents
        }
        self._postings: dict[str, list[tuple[int, float]]] = {}
        for number, counts in enumerate(feature_counts):
            for feature, weight in self._vector(counts).items():
                self._postings.setdefault(feature, []).append((number, weight))

    def _vector(self, counts: Counter[str]) -> dict[str, float]:
        """The weights of the known features, of length 1."""
        vector = {f: (1 + math.log(n)) * self._idf[f] for f, n in counts.items() if f in self._idf}
        length = math.sqrt(math.fsum(weight * weight for weight in vector.values()))
        return {feature: weight / length for feature, weight in vector.items()}

    def nearest(self, text: str, count: int) -> list[tuple[int, float]]:
        """(number, cosine) of up to `count` texts, the most similar first; ties in their order.

        Texts that share no feature aren't included.
        """
        scores: dict[int, float] = {}
        for feature, weight in sorted(self._vector(text_features(text)).items()):
            for number, other_weight in self._postings[feature]:
                scores[number] = scores.get(number, 0.0) + weight * other_weight
        return heapq.nsmallest(count, scores.items(), key=lambda s: (-round(s[1], 9), s[0]))
