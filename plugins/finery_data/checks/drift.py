"""Whether requests differ from training rows: a classifier two-sample test, and a note about it.

D. Lopez-Paz, M. Oquab, "Revisiting Classifier Two-Sample Tests", ICLR 2017,
https://arxiv.org/abs/1610.06545. For other labels of the same rows, the scores of the classifiers
here are one product of matrices, so that each permutation trains them anew. That makes the p-value
exact, whatever the rows are.
"""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from finery import Job, Note
from finery.advanced import About, Graph, Results, percent, shortened
from finery.rows import Row, split_turns
from finery.rows.similar import question_text
from finery_data.checks.personal import masked
from finery_data.checks.suspects import copies_in, folds_of

MOST_ROWS = 1_500
"""Rows of each side that are compared. More are drawn from at random."""
MOST_FEATURES = 20_000
FOLDS = 5
PERMUTATIONS = 999
RIDGE = 1.0
"""Added to the diagonal of the kernel matrix, whose diagonal is 1."""
SHARPNESS = 20.0
"""How fast the weight of a neighbour falls with its cosine: by half for 0.035."""
LEVEL = 0.05
"""The p-value up to which the requests differ."""
DIGITS = 4
WORDS = 10
"""Words that no training row has which are listed."""
NAME = "requests-differ"
ABOUT = {
    NAME: About(
        when="a built `data.requests` with `against` finds that the requests differ from the "
        f"training rows, with a p-value of at most {LEVEL:g}",
        why="A model is as good as its evaluation only on requests like the rows of that. Label "
        "some of the requests, evaluate on them, and train on others.",
    )
}


class Drift(msgspec.Struct, frozen=True):
    """How requests differ from training rows.

    auc: the probability that a model of other rows gives a request a higher score than a training
    row; 0.5 if they don't differ. p: how often it is as high although they don't. requests, rows:
    how many were compared. unseen: the share of requests with a word that no training row has.
    words: the most frequent of these → requests.
    """

    auc: float
    p: float
    requests: int
    rows: int
    unseen: float
    words: dict[str, int]

    @property
    def differs(self) -> bool:
        """Whether there is a difference that isn't explained by chance."""
        return self.p <= LEVEL

    @property
    def share(self) -> float:
        """A lower bound of the share of requests that aren't like training rows.

        If that share were d, no model had an AUC above 1/2 + d/2. Of the AUC, the lower end of its
        95 % interval counts, with the standard error of J. Hanley and B. McNeil (1982, Radiology
        143).
        """
        area, ones, others = self.auc, self.requests, self.rows
        above, below = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
        total = area * (1 - area) + (ones - 1) * above + (others - 1) * below
        return max(0.0, 2 * (area - 1.96 * math.sqrt(total / (ones * others))) - 1)

    def words_about(self) -> str:
        """The result in words."""
        result = (
            f"a model tells them apart with an AUC of {self.auc:.2f} (p = {self.p:.3f}, "
            f"{self.requests:,} requests, {self.rows:,} rows)"
        )
        new = ", ".join(shortened(word, 20) for word in [*self.words][:5])
        return f"{result}; new words: {new}" if new else result


def drift_between(
    trained: Sequence[Row], requests: Sequence[Row], job: Job
) -> tuple[Drift, list[float]]:
    """How the requests differ, and how unlike the training rows each is, between 0 and 1.

    Requests that weren't drawn for the comparison are as unlike as can be known: 0.
    """
    texts = [  # all masked, since logs are
        [masked(question_text(split_turns(row)[0])) for row in rows] for rows in (trained, requests)
    ]
    draw = random.Random(0)
    places = [
        (side, place)
        for side, of in enumerate(texts)
        for place in draw.sample(range(len(of)), min(len(of), MOST_ROWS))
    ]
    places.sort(key=lambda place: texts[place[0]][place[1]])  # folds go by order, not by side
    pooled = [texts[side][place] for side, place in places]
    copies = copies_in([{"prompt": text} for text in pooled], job.scratch)
    members = defaultdict[int, list[int]](list)
    for number, group in enumerate(copies.group):
        members[group].append(number)
    kept = sorted(draw.choice(numbers) for numbers in members.values())
    sides = [places[number][0] for number in kept]
    auc, p, scores = two_samples([pooled[number] for number in kept], sides)
    order = sorted(set(scores))
    rank = {score: place / len(order) for place, score in enumerate(order, 1)}
    of_group = {copies.group[n]: rank[score] for n, score in zip(kept, scores, strict=True)}
    unlike = [0.0] * len(requests)
    for number, (side, place) in enumerate(places):
        if side:
            unlike[place] = round(of_group[copies.group[number]], DIGITS)
    words = [[*map(_words, of)] for of in texts]
    known = set[str]().union(*words[0])
    new = [one - known for one in words[1]]
    counts = Counter(word for one in new for word in sorted(one))
    drift = Drift(
        auc, p, sum(sides), len(sides) - sum(sides),
        round(sum(map(bool, new)) / len(new), DIGITS), dict(counts.most_common(WORDS)),
    )  # fmt: skip
    job.log(f"{'they differ' if drift.differs else 'no difference'} from `against`: "
            f"{drift.words_about()}")  # fmt: skip
    return drift, unlike


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[^\W\d_]+", text.lower()) if len(word) > 1}


def two_samples(texts: Sequence[str], sides: Sequence[int]) -> tuple[float, float, list[float]]:
    """(area under the curve, p-value, score of each text by models that didn't see its side).

    sides: of each text, 0 or 1; those of side 1 have the higher scores if they can be told apart.
    Two models are compared with themselves under permuted sides, and the surer one counts: a ridge
    regression finds other shares of topics, and the density of texts of side 0 near each text finds
    new ones. Neither the vectors nor the folds depend on the sides, so under the null hypothesis
    each permutation of the sides is as probable as any other.
    """
    import numpy as np
    from scipy.stats import rankdata
    from threadpoolctl import threadpool_limits

    from finery_baseline.vectors import vectors_of

    ones, count = sum(sides), len(sides)
    if not 0 < ones < count or not any(map(str.strip, texts)):
        return 0.5, 1.0, [0.0] * count
    generator = np.random.default_rng(0)
    observed = np.array(sides, dtype=float)
    permuted = (generator.permutation(observed) for _ in range(PERMUTATIONS))
    labels = np.stack([observed, *permuted], axis=1)
    with threadpool_limits(limits=1):  # sums in the same order, whatever the number of cores
        vectors = vectors_of(texts, MOST_FEATURES)[2]
        kernel = (vectors @ vectors.T).toarray()
        near = np.exp(SHARPNESS * (kernel - 1)) * (1 - np.eye(count))
        models = [_out_of_fold(kernel) @ (labels - ones / count), near @ (labels - 1)]
    areas = []
    for scores in models:
        sums = (rankdata(scores.round(9), axis=0) * labels).sum(axis=0)
        areas.append((sums - ones * (ones + 1) / 2) / (ones * (count - ones)))
    sure = np.stack([(area - area.mean()) / max(float(area.std()), 1e-9) for area in areas])
    better = int(sure[:, 0].argmax())
    most = sure.max(axis=0)
    p = float((most >= most[0] - 1e-9).mean())  # the observed one counts, too
    auc = min(1.0, 0.5 + float(areas[better][0] - areas[better].mean()))
    return round(auc, DIGITS), round(p, DIGITS), models[better][:, 0].round(9).tolist()


def _out_of_fold(kernel: Any) -> Any:
    """The matrix that makes out-of-fold scores of a ridge regression from labels [rows, rows]."""
    import numpy as np
    from scipy.linalg import solve

    count = len(kernel)
    fold = np.array(folds_of([0] * count, range(count), min(FOLDS, count)))
    smoother = np.zeros((count, count))
    for one in np.unique(fold):
        known, unseen = np.flatnonzero(fold != one), np.flatnonzero(fold == one)
        ridge = kernel[np.ix_(known, known)] + RIDGE * np.eye(len(known))
        weights = solve(ridge, kernel[np.ix_(known, unseen)], assume_a="pos")
        smoother[np.ix_(unseen, known)] = weights.T
    return smoother


def notes_on(graph: Graph, results: Results) -> Iterator[Note]:
    """A note for each step whose requests differ."""
    for node in graph.nodes.values():
        meta: dict[str, Any] = results.meta(node.name) or {}
        if meta.get("format") != "requests" or "drift" not in meta:
            continue
        drift = msgspec.convert(meta["drift"], Drift)
        if drift.differs:
            share = f", at least {percent(drift.share)} of them" if drift.share >= 0.01 else ""
            yield Note(
                name=NAME,
                text=f"the requests of {node.name} differ from the rows in `against`{share}: "
                f"{drift.words_about()}",
                fix=f"finery review {node.name}",
                step=node.name,
                place=node.place,
            )
