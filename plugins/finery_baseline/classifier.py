"""Answers of a linear classifier, by NumPy alone.

`serve.bundle` ships this file, so it imports nothing of finery: its server answers with the code
that was evaluated.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

LINES, OBJECT, WHOLE = "lines", "object", "whole"
"""Forms of answers: lines `field: value`, a JSON object, one text."""
FEATURES, ARRAYS = "features.json", ("idf.npy", "weights.npy", "bias.npy")
_WORD = re.compile(r"\b\w+\b")
_SIZES = range(2, 6)


def words(text: str) -> list[str]:
    """The words of a text, and its pairs of words."""
    single = _WORD.findall(text.lower())
    return [*single, *(f"{first} {second}" for first, second in pairwise(single))]


def pieces(text: str) -> list[str]:
    """The pieces of 2 to 5 characters of each word, with a blank at both ends of the word.

    As scikit-learn's `CountVectorizer(analyzer="char_wb")`.
    """
    padded = [f" {word} " for word in text.lower().split()]
    return [
        word[start : start + size]
        for word in padded
        for size in _SIZES
        for start in range(len(word) - size + 1)
    ]


KINDS = (words, pieces)
"""The kinds of features."""


class Classifier(NamedTuple):
    """A linear classifier of several columns.

    features: of each kind, in the order of the vectors. classes: of each column. weights: float32
    [classes of all columns, features]. bias: float32, one for each class. idf: float32.
    """

    features: list[list[str]]
    classes: list[list[str]]
    idf: Any
    weights: Any
    bias: Any


def written(form: str, fields: Sequence[str], values: Sequence[str]) -> str:
    """The answer with these values."""
    if form == WHOLE:
        return values[0]
    pairs = zip(fields, values, strict=True)
    if form == OBJECT:
        return json.dumps({f: json.loads(v) for f, v in pairs}, ensure_ascii=False)
    return "\n".join(f"{field}: {value}" for field, value in pairs)


class Answers:
    """Answers texts with the classifier in a model's folder. meta: of the model."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        import numpy as np

        texts = json.loads((folder / FEATURES).read_text(encoding="utf-8"))
        arrays = (np.load(folder / name, allow_pickle=False) for name in ARRAYS)
        self._classifier = Classifier(texts["features"], texts["classes"], *arrays)
        self._shape = meta["shape"]
        self._places: list[dict[str, int]] = []
        start = 0
        for features in self._classifier.features:
            self._places.append({feature: start + i for i, feature in enumerate(features)})
            start += len(features)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The answer with the most likely class of each column, for each text."""
        return [answer for answer, _ in self.answered(texts)]

    def answered(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The answer to each text, and its probability, taking its columns as independent."""
        form, fields = self._shape["form"], self._shape["fields"]
        answers = []
        for text in texts:
            values, probabilities = zip(*self._best(self._scores(text)), strict=True)
            answers.append((written(form, fields, values), math.prod(probabilities)))
        return answers

    def _scores(self, text: str) -> Any:
        """The score of each class, from the text's TF-IDF vector, which has length 1."""
        import numpy as np

        _, _, idf, weights, bias = self._classifier
        counts = Counter(
            places[feature]
            for kind, places in zip(KINDS, self._places, strict=True)
            for feature in kind(text)
            if feature in places
        )
        known = sorted(counts)
        if not known:
            return bias
        vector = (1 + np.log([counts[i] for i in known])) * idf[known]
        return weights[:, known] @ (vector / np.sqrt(vector @ vector)) + bias

    def _best(self, scores: Any) -> Iterator[tuple[str, float]]:
        """The most likely class of each column, and its probability."""
        import numpy as np

        start = 0
        for classes in self._classifier.classes:
            column = scores[start : start + len(classes)].astype(np.float64)
            best = int(column.argmax())
            # Of two classes, the difference of the scores is twice the logit.
            behind = (column - column[best]) / (2 if len(classes) == 2 else 1)
            yield classes[best], float(1 / np.exp(behind).sum())
            start += len(classes)
