"""Human decisions, and the agreement of a judge with them.

Positive means good: a person accepted the answer, or the judge let it pass.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery import Dataset, Files
from finery.advanced import counted
from finery.rows import Row
from finery.rows.report import Remark, ReportTable
from finery_eval import stats
from finery_review.decisions import Standing, parse

Score = tuple[float, stats.Interval]
Pair = tuple[bool, bool]
"""(a person's verdict, the judge's verdict) on one answer."""
MEASURES = ("kappa", "agreement", "sensitivity", "specificity")
SUBSTANTIAL = 0.6
HALVINGS = 40
"""Of an interval that holds the solution of an equation."""
BANDS = ((0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))
"""Upper ends, after J. R. Landis and G. G. Koch, Biometrics 33 (1977) 159-174."""


class Agreement(NamedTuple):
    """The quality of a judge, from answers that people judged, too.

    A measure is None if it isn't defined, e.g. the specificity if people rejected nothing.
    """

    rows: int
    agreement: Score
    kappa: Score | None
    sensitivity: Score | None
    specificity: Score | None
    accepted: int
    rejected: int

    def scores(self) -> dict[str, Score]:
        """Metric → (value, 95 % interval), those that are defined."""
        scores = {name: getattr(self, name) for name in MEASURES}
        return {name: score for name, score in scores.items() if score is not None}


def agreement(pairs: Sequence[Pair]) -> Agreement:
    """The agreement on some answers, at least one.

    kappa: J. Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological
    Measurement 20 (1960) 37-46, with a bootstrap interval (`stats.interval_of`), or that of
    `lowest_kappa` where judge and people never differ. Shares have Wilson intervals.
    """
    of_good = [judge for person, judge in pairs if person]
    of_bad = [not judge for person, judge in pairs if not person]
    return Agreement(
        rows=len(pairs),
        agreement=_share([person == judge for person, judge in pairs]) or (0.0, (0.0, 1.0)),
        kappa=_kappa_score(pairs),
        sensitivity=_share(of_good),
        specificity=_share(of_bad),
        accepted=len(of_good),
        rejected=len(of_bad),
    )


def kappa(counts: Mapping[Pair, int]) -> float | None:
    """Cohen's kappa; None if both always give the same verdict."""
    n = sum(counts.values())
    observed = sum(count for (person, judge), count in counts.items() if person == judge) / n
    people = sum(count for (person, _), count in counts.items() if person) / n
    judged = sum(count for (_, judge), count in counts.items() if judge) / n
    chance = people * judged + (1 - people) * (1 - judged)
    return None if chance == 1 else (observed - chance) / (1 - chance)


def _kappa_score(pairs: Sequence[Pair]) -> Score | None:
    value = kappa({pair: pairs.count(pair) for pair in set(pairs)})
    if value is None or len({person for person, _ in pairs}) < 2:
        return None

    if value == 1:
        accepted = sum(person for person, _ in pairs)
        return value, (lowest_kappa(accepted, len(pairs) - accepted), 1.0)

    def resampled(counts: Mapping[Pair, int]) -> float:
        value = kappa(counts)
        return 1.0 if value is None else value  # nobody differs: they agree by all that it shows

    return value, stats.bootstrap(pairs, resampled, stats.GAIN)


def lowest_kappa(accepted: int, rejected: int) -> float:
    """The lower end of kappa's 95 % interval where the judge agrees with all decisions.

    accepted, rejected: the numbers of decisions of each kind, both above 0. It is the kappa whose
    expected table differs from the observed one by a chi-squared (1 degree of freedom) of 3.84.
    The fewer decisions are of the rarer kind, the lower it is.

    Source: A. Donner and M. Eliasziw, "A goodness-of-fit approach to inference procedures for the
    kappa statistic", Statistics in Medicine 11 (1992) 1511-1519.
    """
    n = accepted + rejected
    share, rejected_share = accepted / n, rejected / n

    def chi_squared(differing: float) -> float:
        """Of a table in which judge and people differ on this share of answers."""
        half = differing / 2
        return n * (half**2 / (share - half) + differing + half**2 / (rejected_share - half))

    low, high = 0.0, 2 * min(share, rejected_share)  # chi-squared grows without limit up to there
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_squared(middle) < stats.Z95**2 else (low, middle)
    return 1 - low / (2 * share * rejected_share)


def _share(hits: Sequence[bool]) -> Score | None:
    if not hits:
        return None
    return sum(hits) / len(hits), stats.wilson(sum(hits), len(hits))


def correct_share(passed: float, rows: float, judge: Agreement) -> Score | None:
    """The share of good answers, corrected for the judge's errors, with its 95 % interval.

    passed: answers that the judge accepted, of `rows`. Effective numbers may be fractions. None if
    sensitivity or specificity is unknown, or if the judge is no better than chance.

    Sources: W. J. Rogan and B. Gladen, "Estimating prevalence from the results of a screening
    test", American Journal of Epidemiology 107 (1978) 71-76; the interval from Z. Lang and
    J. Reiczigel, "Confidence limits for prevalence of disease adjusted for estimated sensitivity
    and specificity", Preventive Veterinary Medicine 113 (2014) 13-22, which allows for the
    uncertainty of all three shares.
    """
    if judge.sensitivity is None or judge.specificity is None:
        return None
    (right, _), (wrong, _) = judge.sensitivity, judge.specificity
    if right + wrong <= 1:
        return None
    value = (passed / rows + wrong - 1) / (right + wrong - 1)
    z2 = stats.Z95 * stats.Z95
    n = rows + z2
    share = (passed + z2 / 2) / n
    n_right, n_wrong = judge.accepted + 2, judge.rejected + 2
    right = (right * judge.accepted + 1) / n_right
    wrong = (wrong * judge.rejected + 1) / n_wrong
    reach = right + wrong - 1
    if reach <= 0:
        return None
    middle = (share + wrong - 1) / reach
    of_right, of_wrong = right * (1 - right) / n_right, wrong * (1 - wrong) / n_wrong
    shift = 2 * z2 * (middle * of_right - (1 - middle) * of_wrong)
    spread = share * (1 - share) / n + middle**2 * of_right + (1 - middle) ** 2 * of_wrong
    half = stats.Z95 * math.sqrt(spread) / reach
    low, high = (_inside(middle + shift + end) for end in (-half, half))
    return _inside(value), (low, high)


def _inside(share: float) -> float:
    return min(1.0, max(0.0, share))


def kappa_word(value: float) -> str:
    """Landis and Koch's word for a kappa, e.g. `moderate`."""
    if value < 0:
        return "worse than chance"
    return next((word for end, word in BANDS if value <= end), "almost perfect")


# -- human decisions, and what follows from them for the judge ------------------------------------


GOOD = {"accept": True, "reject": False, "edit": False}
"""The verdict of a decision on the unchanged row. A comment or a swap has none."""


class Decided(NamedTuple):
    """A row with an answer that a person judged."""

    row: Row
    is_good: bool


def decided_rows(rows: Dataset, reviews: Files) -> list[Decided]:
    """The reviewed rows that people accepted, rejected or edited, in the order of the rows.

    An edited row counts as bad, since its answer had to be changed. Raises `DataError` for a broken
    file of decisions.
    """
    contents = [path.read_bytes() for path in reviews.paths]
    standing = Standing(d for content in contents for d in parse(content, str(reviews))[0])
    found = []
    for row in rows:
        decision = standing.of(row["id"])
        if decision is not None and decision.do in GOOD:
            found.append(Decided(row, GOOD[decision.do]))
    return found


def corrected_scores(
    passed: Mapping[str, tuple[int, int]], judge: Agreement | None, effective: float | None
) -> dict[str, Score]:
    """Model → corrected share of good answers. passed: model → (passed answers, all answers).

    effective: the number of independent answers that they count as; None for all.
    """
    if judge is None:
        return {}
    counts = {name: (n, rows, (effective or rows) / rows) for name, (n, rows) in passed.items()}
    scores = {
        name: correct_share(good_share * n, good_share * rows, judge)
        for name, (n, rows, good_share) in counts.items()
    }
    return {name: score for name, score in scores.items() if score is not None}


def tables(
    judge: Agreement | None, shares: Mapping[str, float], scores: Mapping[str, Score]
) -> Iterator[ReportTable]:
    """The judge next to people, and the models' shares corrected for its errors."""
    if judge is None:
        return
    columns = ["the judge against people", "value", "95 % CI low", "95 % CI high", "answers"]
    counts = {"sensitivity": judge.accepted, "specificity": judge.rejected}
    rows: list[list[Any]] = [
        [name, value, *interval, counts.get(name, judge.rows)]
        for name, (value, interval) in judge.scores().items()
    ]
    yield ReportTable("Calibration", columns, rows)
    if scores:
        columns = ["model", "passed", "corrected", "95 % CI low", "95 % CI high"]
        rows = [[name, shares[name], value, *ci] for name, (value, ci) in scores.items()]
        units = dict.fromkeys(columns[1:], "share")
        yield ReportTable(
            "Corrected for the judge's errors (Rogan-Gladen)", columns, rows, units=units
        )


def remarks(judge: Agreement | None, unread: int) -> Iterator[Remark]:
    """Remarks on the judge that people must know. unread: reviewed answers without a verdict."""
    if unread:
        yield Remark(
            f"{counted(unread, 'reviewed answer')} got no readable verdict of the judge",
            severity="warning",
        )
    if judge is None:
        yield Remark(
            "the judge isn't calibrated: no reviewed row has a human decision yet",
            "Review some answers: finery review STEP.",
            "warning",
        )
        return
    if judge.kappa is None:
        yield Remark(
            f"the judge can't be calibrated: people {'accepted' if judge.accepted else 'rejected'} "
            f"all {counted(judge.rows, 'answer')}",
            "Review answers of both kinds.",
            "warning",
        )
        return
    value, (low, high) = judge.kappa
    about = (
        f"kappa {value:z.2f} (95 % CI {low:z.2f} to {high:z.2f}, {counted(judge.rows, 'answer')})"
    )
    if value < SUBSTANTIAL:
        yield Remark(
            f"the judge doesn't agree enough with people to be trusted: {kappa_word(value)} "
            f"agreement, {about}",
            "Make the rubric more precise, show it a `reference`, or name a stronger judge.",
            "warning",
        )
    elif low < SUBSTANTIAL:
        yield Remark(
            f"the judge agrees with people ({kappa_word(value)}), but few decisions show it: "
            f"{about}",
            "Review more answers.",
        )


def log_line(judge: Agreement) -> str:
    """A line for the log: the judge's agreement with people."""
    measures = [f"{name} {value:z.2f}" for name, (value, _) in judge.scores().items()]
    return f"the judge against people on {counted(judge.rows, 'answer')}: {', '.join(measures)}"
