"""TF-IDF vectors and linear classifiers on them, stored as data."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

KINDS: tuple[dict[str, Any], ...] = (
    {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
    {"analyzer": "char_wb", "ngram_range": (2, 5)},
)
"""The kinds of features, as scikit-learn's `CountVectorizer` takes them."""
DIGITS = 4
"""Decimal digits of the coefficients that are kept. Further ones differ between machines."""
FEATURES, ARRAYS = "features.json", ("idf.npy", "weights.npy", "bias.npy")


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

    def predict(self, texts: Sequence[str]) -> list[list[str]]:
        """The most likely class of each column, for each text."""
        vectors = tfidf(counts(texts, self.features), self.idf)
        scores = vectors @ self.weights.T + self.bias
        return [[*self._best(row)] for row in scores]

    def _best(self, scores: Any) -> Iterator[str]:
        start = 0
        for classes in self.classes:
            yield classes[int(scores[start : start + len(classes)].argmax())]
            start += len(classes)


def fit(
    texts: Sequence[str], columns: Sequence[Sequence[str]], *, c: float, max_features: int
) -> Classifier:
    """A classifier of texts; columns: the class of each text, for each column."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    features = [_vocabulary(texts, kind, max_features) for kind in KINDS]
    counted = counts(texts, features)
    spread = np.asarray((counted > 0).sum(axis=0)).ravel()
    idf = (np.log((1 + len(texts)) / (1 + spread)) + 1).round(DIGITS).astype(np.float32)
    vectors = tfidf(counted, idf)
    with threadpool_limits(limits=1):  # sums in the same order, whatever the number of cores
        fitted = [_coefficients(vectors, column, c) for column in columns]
    return Classifier(
        features,
        [sorted(set(column)) for column in columns],
        idf,
        np.concatenate([weights for weights, _ in fitted]).round(DIGITS).astype(np.float32),
        np.concatenate([bias for _, bias in fitted]).round(DIGITS).astype(np.float32),
    )


def _vocabulary(texts: Sequence[str], kind: dict[str, Any], most: int) -> list[str]:
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(**kind, max_features=most)
    vectorizer.fit(texts)
    return [str(feature) for feature in vectorizer.get_feature_names_out()]


def _coefficients(vectors: Any, column: Sequence[str], c: float) -> tuple[Any, Any]:
    """(weights, bias) with a line for each class, in the order of their names."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    classes = sorted(set(column))
    if len(classes) == 1:
        return np.zeros((1, vectors.shape[1])), np.zeros(1)
    model = LogisticRegression(C=c, max_iter=2_000).fit(vectors, column)
    if len(classes) == 2:  # one line then says how far the second class is ahead
        return np.concatenate([-model.coef_, model.coef_]), np.append(
            -model.intercept_, model.intercept_
        )
    return model.coef_, model.intercept_


def counts(texts: Sequence[str], features: Sequence[Sequence[str]]) -> Any:
    """The count of each feature in each text: a sparse matrix [texts, features]."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import CountVectorizer

    matrices = [
        CountVectorizer(**kind, vocabulary=list(of)).transform(texts)
        for kind, of in zip(KINDS, features, strict=True)
    ]
    return hstack(matrices, format="csr")


def tfidf(counted: Any, idf: Any) -> Any:
    """The counts, damped by the logarithm, times `idf`, each text's vector of length 1."""
    import numpy as np
    from sklearn.preprocessing import normalize

    damped = counted.astype(np.float64)
    damped.data = 1 + np.log(damped.data)
    return normalize(damped.multiply(idf).tocsr())


def save(classifier: Classifier, folder: Path) -> None:
    """Write the classifier as JSON and NumPy arrays."""
    import numpy as np

    words = {"features": classifier.features, "classes": classifier.classes}
    (folder / FEATURES).write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    for name, array in zip(ARRAYS, classifier[2:], strict=True):
        np.save(folder / name, array, allow_pickle=False)


def load(folder: Path) -> Classifier:
    """Read what `save` wrote."""
    import numpy as np

    words = json.loads((folder / FEATURES).read_text(encoding="utf-8"))
    arrays = (np.load(folder / name, allow_pickle=False) for name in ARRAYS)
    return Classifier(words["features"], words["classes"], *arrays)
