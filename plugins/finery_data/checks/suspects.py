"""Which labels are probably wrong: out-of-fold probabilities, near copies, and a rate of mistakes.

Confident learning (C. Northcutt, L. Jiang, I. Chuang, "Confident Learning: Estimating Uncertainty
in Dataset Labels", Journal of Artificial Intelligence Research 70, 2021,
https://arxiv.org/abs/1911.00068) ranks labels by the probability that a model gives them which
never saw their row, and estimates how many are wrong. Its thresholds, the mean probability of each
class, name many right labels where the model is weak. So the estimate is by maximum likelihood
here: of one temperature of the model (as in Guo et al. 2017, https://arxiv.org/abs/1706.04599) and
one rate at which labels are replaced by any other one. A weak model then gets a rate near zero.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from finery.rows import Row
from finery.rows.near import NEAR_SIMILARITY, NearIndex, common_pieces, prompt_entry

RIGHT_COPY = 0.8
"""The probability that the label of a near copy is also right for the row itself."""
DIGITS = 4
"""Decimal digits of probabilities that are kept. Further ones differ between machines."""
TEMPERATURES = tuple(0.4 * 1.1**n for n in range(22))
RATES = (0.0, 0.0025, 0.005, 0.0075, *(n / 100 for n in range(1, 61)))
"""Values that are tried for the temperature and the rate of wrong labels."""
LEAST_RATE = 0.01
"""The rate that suspicions are computed with if none is found, so that rows still have an order."""
CHUNK = 1_000
"""Rows whose nearest neighbours are looked for at once."""


class Copies(NamedTuple):
    """near: of each row, the other rows whose prompts are copies or near copies of its prompt.

    group: of each row, a number that it shares with all near copies, also with theirs.
    crowded: rows that weren't compared with all others, see `NearIndex`.
    """

    near: list[list[int]]
    group: list[int]
    crowded: int = 0


class Verdict(NamedTuple):
    """What is known about the label of a row.

    suspicion: the probability that it is wrong, between 0 and 1. proposed: the number of the most
    probable other class. margin: how much more probable the label is than that one.
    """

    suspicion: float
    proposed: int
    margin: float

    @property
    def is_suspect(self) -> bool:
        """Whether the label is more probably wrong than right."""
        return self.suspicion > 0.5


def copies_in(rows: Sequence[Row], folder: Path) -> Copies:
    """The rows that repeat each other. folder: for their texts meanwhile."""
    entries = [prompt_entry(row) for row in rows]
    index = NearIndex(NEAR_SIMILARITY, folder, common_pieces(entries))
    exact: list[list[int]] = []  # of each prompt, the rows that have it
    same, linked = list[int](), defaultdict[int, set[int]](set)
    prompts: dict[bytes, int] = {}
    for number, entry in enumerate(entries):
        digest = entry.digest() if entry is not None else b""
        prompt = prompts.setdefault(digest, len(exact)) if entry is not None else len(exact)
        same.append(prompt)
        if prompt < len(exact):
            exact[prompt].append(number)
            continue
        exact.append([number])
        if entry is None:
            continue
        for match in index.matches(entry):
            linked[prompt].add(match.number)
            linked[match.number].add(prompt)
        index.add(prompt, entry)
    near = [
        [i for one in (prompt, *sorted(linked[prompt])) for i in exact[one] if i != number]
        for number, prompt in enumerate(same)
    ]
    group = _components(len(exact), linked)
    return Copies(near, [group[prompt] for prompt in same], index.crowded)


def _components(size: int, linked: dict[int, set[int]]) -> list[int]:
    """Of each of `size` prompts, a number that it shares with those it is linked to."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [(one, other) for one, others in linked.items() for other in others]
    places = np.array(pairs, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), places), shape=(size, size))
    return [int(number) for number in connected_components(graph, directed=False)[1]]


def folds_of(labels: Sequence[int], groups: Sequence[int], count: int) -> list[int]:
    """The fold of each row, of `count`. Groups stay together; each class is dealt out evenly.

    Where groups are as large as half a fold, as with rows of one template, they are divided.
    """
    sizes = Counter(groups)
    names = [
        str(group) if sizes[group] <= max(1, len(groups) / count / 2) else f"{group} {number}"
        for number, group in enumerate(groups)
    ]
    votes = defaultdict[str, Counter[int]](Counter)
    for name, label in zip(names, labels, strict=True):
        votes[name][label] += 1
    ordered = sorted(
        votes, key=lambda n: (votes[n].most_common(1)[0][0], blake3(n.encode()).digest())
    )
    fold = {name: place % count for place, name in enumerate(ordered)}
    return [fold[name] for name in names]


def out_of_fold(vectors: Any, labels: Sequence[int], folds: Sequence[int], *, c: float) -> Any:
    """The probability of each class for each row [rows, classes], by models of the other folds.

    vectors: [rows, features]. A class that the other folds don't have gets the probability 0.
    """
    import numpy as np
    from scipy.special import softmax
    from threadpoolctl import threadpool_limits

    from finery_baseline.vectors import coefficients

    number = np.array(labels)
    fold = np.array(folds)
    probabilities = np.zeros((len(number), number.max() + 1))
    with threadpool_limits(limits=1):  # sums in the same order, whatever the number of cores
        for one in np.unique(fold):
            known, unseen = fold != one, np.flatnonzero(fold == one)
            classes = np.unique(number[known])
            if not len(classes):
                continue
            weights, bias = coefficients(vectors[known], number[known], c)
            scores = vectors[unseen] @ weights.T + bias
            halved = scores / 2 if len(classes) == 2 else scores  # both say the difference
            probabilities[np.ix_(unseen, classes)] = softmax(halved, axis=1)
    return probabilities.round(DIGITS)


def with_copies(probabilities: Any, labels: Sequence[int], near: Sequence[Sequence[int]]) -> Any:
    """The probabilities once the labels of near copies are known, by Bayes' theorem.

    Each is taken as an independent witness that is right with `RIGHT_COPY`.
    """
    import numpy as np

    count = probabilities.shape[1]
    factor = np.log(RIGHT_COPY * (count - 1) / (1 - RIGHT_COPY))  # of a class that a copy has
    logs = np.log(np.clip(probabilities, 1e-12, 1))
    for number, others in enumerate(near):
        for other in others:
            logs[number, labels[other]] += factor
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def verdicts_on(
    probabilities: Any, labels: Sequence[int], near: Sequence[Sequence[int]]
) -> list[Verdict]:
    """A verdict on each label. near: the copies of each row, whose labels count as evidence.

    A label is suspect if it is more probably wrong than right. A class that the models of other
    folds didn't know has a probability of 0, so its label is as suspicious as another is probable.
    """
    import numpy as np

    rows, given = np.arange(len(labels)), np.array(labels)
    count = probabilities.shape[1]
    temperature, rate = noise_in(probabilities, given)
    informed = with_copies(_tempered(probabilities, temperature), labels, near)
    own = informed[rows, given]
    others = informed.copy()
    others[rows, given] = -1
    proposed = others.argmax(axis=1)
    best = others[rows, proposed]
    is_unknown = probabilities[rows, given] == 0
    own = np.where(is_unknown, np.maximum(own, 1 - best), own)
    least = max(rate, LEAST_RATE)
    wrong = least * (1 - own) / (count - 1)
    suspicion = (wrong / (wrong + (1 - least) * own)).round(DIGITS)
    margins = (own - best).round(DIGITS)
    return [*map(Verdict, suspicion.tolist(), proposed.tolist(), margins.tolist())]


def noise_in(probabilities: Any, labels: Any) -> tuple[float, float]:
    """(temperature of the model, rate of wrong labels) that make the labels most likely.

    Of `TEMPERATURES` and `RATES`. A wrong label is any other class, each as likely as the others.
    """
    import numpy as np

    rows, rates = np.arange(len(labels)), np.array(RATES)
    best = (-np.inf, 1.0, 0.0)
    for temperature in TEMPERATURES:
        own = _tempered(probabilities, temperature)[rows, labels][:, None]
        likely = (1 - rates) * own + rates * (1 - own) / (probabilities.shape[1] - 1)
        sums = np.log(likely).sum(axis=0)
        place = int(sums.argmax())
        best = max(best, (float(sums[place]), temperature, float(rates[place])))
    return best[1:]


def _tempered(probabilities: Any, temperature: float) -> Any:
    import numpy as np

    powers = np.clip(probabilities, 10.0**-DIGITS, 1) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def nearest_with(
    vectors: Any, labels: Sequence[int], wanted: Iterable[tuple[int, int]], count: int
) -> list[list[int]]:
    """For each (row, class), the rows with this class whose vectors are nearest by their cosine."""
    import numpy as np

    given, asked, nearest = np.array(labels), [*wanted], list[list[int]]()
    for start in range(0, len(asked), CHUNK):
        part = asked[start : start + CHUNK]
        products = vectors[[row for row, _ in part]] @ vectors.T
        cosines = products.toarray() if hasattr(products, "toarray") else np.asarray(products)
        for (row, label), values in zip(part, cosines.round(DIGITS), strict=True):
            candidates = [int(i) for i in np.flatnonzero(given == label) if i != row]
            order = np.lexsort((candidates, -values[candidates]))  # the nearest first
            nearest.append([candidates[place] for place in order[:count]])
    return nearest
