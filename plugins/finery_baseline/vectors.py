"""Fits linear classifiers on TF-IDF vectors, and stores them as data."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finery_baseline.classifier import ARRAYS, FEATURES, KINDS, Classifier

DIGITS = 4
"""Decimal digits of the coefficients that are kept. Further ones differ between machines."""


def fit(
    texts: Sequence[str], columns: Sequence[Sequence[str]], *, c: float, max_features: int
) -> Classifier:
    """A classifier of texts; columns: the class of each text, for each column."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    features, idf, vectors = vectors_of(texts, max_features)
    with threadpool_limits(limits=1):  # sums in the same order, whatever the number of cores
        fitted = [coefficients(vectors, column, c) for column in columns]
    return Classifier(
        features,
        [sorted(set(column)) for column in columns],
        idf,
        np.concatenate([weights for weights, _ in fitted]).round(DIGITS).astype(np.float32),
        np.concatenate([bias for _, bias in fitted]).round(DIGITS).astype(np.float32),
    )


def vectors_of(texts: Sequence[str], max_features: int) -> tuple[list[list[str]], Any, Any]:
    """(features of each kind, their idf, the TF-IDF vectors of the texts: a sparse matrix)."""
    import numpy as np

    features = [_vocabulary(texts, kind, max_features) for kind in KINDS]
    counted = _counts(texts, features)
    spread = np.asarray((counted > 0).sum(axis=0)).ravel()
    idf = (np.log((1 + len(texts)) / (1 + spread)) + 1).round(DIGITS).astype(np.float32)
    return features, idf, _tfidf(counted, idf)


def _vocabulary(texts: Sequence[str], kind: Callable[[str], list[str]], most: int) -> list[str]:
    from sklearn.feature_extraction.text import CountVectorizer

    if not any(map(kind, texts)):  # of emoji, there are no words
        return []
    vectorizer = CountVectorizer(analyzer=kind, max_features=most)
    vectorizer.fit(texts)
    return [str(feature) for feature in vectorizer.get_feature_names_out()]


def coefficients(
    vectors: Any, column: Sequence[str], c: float, class_weight: str | None = None
) -> tuple[Any, Any]:
    """(weights, bias) with a line for each class, in the order of their names.

    For two classes, the difference of their scores is twice the logit.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    classes = sorted(set(column))
    if len(classes) == 1:
        return np.zeros((1, vectors.shape[1])), np.zeros(1)
    model = LogisticRegression(C=c, max_iter=2_000, class_weight=class_weight)
    model.fit(vectors, column)
    if len(classes) == 2:  # one line then says how far the second class is ahead
        return np.concatenate([-model.coef_, model.coef_]), np.append(
            -model.intercept_, model.intercept_
        )
    return model.coef_, model.intercept_


def _counts(texts: Sequence[str], features: Sequence[Sequence[str]]) -> Any:
    """The count of each feature in each text: a sparse matrix [texts, features]."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import CountVectorizer

    matrices = [
        CountVectorizer(analyzer=kind, vocabulary=list(of)).transform(texts)
        for kind, of in zip(KINDS, features, strict=True)
        if of
    ]
    return hstack(matrices, format="csr")


def _tfidf(counted: Any, idf: Any) -> Any:
    """The counts, damped by the logarithm, times `idf`, each text's vector of length 1."""
    import numpy as np
    from sklearn.preprocessing import normalize

    damped = counted.astype(np.float64)
    damped.data = 1 + np.log(damped.data)
    return normalize(damped.multiply(idf).tocsr())


def save(classifier: Classifier, folder: Path) -> None:
    """Write the classifier as JSON and NumPy arrays."""
    import numpy as np

    texts = {"features": classifier.features, "classes": classifier.classes}
    (folder / FEATURES).write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    for name, array in zip(ARRAYS, classifier[2:], strict=True):
        np.save(folder / name, array, allow_pickle=False)
