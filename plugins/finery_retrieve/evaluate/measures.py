"""Measures of questions, where those about one document count together."""

from collections.abc import Mapping, Sequence

from finery_eval.measure import Measure, Value


def over_documents(values: Mapping[str, Sequence[Value]], documents: Sequence[str]) -> Measure:
    """A metric. values: name of a model or index → its value of each question, from 0 to 1.

    documents: that of each question. They are drawn; if each question is about a document of its
    own, questions are independent.
    """
    about: dict[str, list[int]] = {}
    for number, document in enumerate(documents):
        about.setdefault(document, []).append(number)
    if len(about) == len(documents):
        return Measure(values)
    counts = [any(of[i] is not None for of in values.values()) for i in range(len(documents))]
    return Measure(values, [of for of in about.values() if any(counts[i] for i in of)])
