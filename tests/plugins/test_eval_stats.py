"""Statistics: published values, and what must hold for every table of counts."""

import gc
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm, permutation_test, t
from scipy.stats import bootstrap as scipy_bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from finery.rows.report import Difference, Score
from finery_eval import measure, stats
from finery_eval.measure import Measure
from finery_eval.stats import (
    SHARE,
    Interval,
    bootstrap,
    bootstrap_p,
    class_score,
    detectable_difference,
    expanded_tail,
    holm,
    interval_of,
    macro_f1,
    mcnemar_exact,
    paired_difference,
    percentiles,
    resampled,
    rows_needed,
    rows_to_show,
    same_in_all,
    sign_flip_exact,
    wilson,
)

count = st.integers(0, 60)
pairs = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_as_published(successes: int, n: int, low: float, high: float) -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_mcnemar_is_as_published() -> None:
    """Fagerland, Lydersen & Laake, Statistical Analysis of Contingency Tables (2017), ch. 8.

    Their mid-P value for 6 and 16 rows is 0.034690; it counts the observed table half.
    """
    observed = math.comb(22, 6) / 2**22
    assert mcnemar_exact(6, 16) - observed == pytest.approx(0.034690, abs=5e-7)


def test_paired_difference_is_as_published() -> None:
    """Fagerland, Lydersen & Laake (2017), ch. 8, complete response to consolidation therapy."""
    difference, interval = paired_difference(59, 6, 16, 80)
    assert difference == pytest.approx(-0.0621, abs=5e-5)
    assert interval == pytest.approx((-0.1186, -0.0046), abs=5e-5)


@given(count, count)
def test_wilson_holds_the_share(successes: int, failures: int) -> None:
    n = successes + failures
    low, high = wilson(successes, n)
    assert 0 <= low <= (successes / n if n else 0.5) <= high <= 1
    assert wilson(failures, n) == pytest.approx((1 - high, 1 - low))


@given(count, count, count, count)
def test_paired_difference_turns_its_sign_with_the_order(a: int, b: int, c: int, d: int) -> None:
    difference, (low, high) = paired_difference(a, b, c, d)
    swapped, (low2, high2) = paired_difference(a, c, b, d)
    assert -1 <= low <= difference <= high <= 1
    assert (swapped, low2, high2) == pytest.approx((-difference, -high, -low))


@given(count, count)
def test_mcnemar_is_a_symmetric_probability(b: int, c: int) -> None:
    assert 0 < mcnemar_exact(b, c) <= 1
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_macro_f1_is_as_scikit_learn_says() -> None:
    """The example of `sklearn.metrics.f1_score`: macro 0.2666…, by class 0.8, 0, 0."""
    table = Counter(zip("012012", "021001", strict=True))
    assert macro_f1(table) == pytest.approx(0.8 / 3)
    assert [class_score(table, c).f1 for c in "012"] == [0.8, 0.0, 0.0]
    assert class_score(table, "0") == (2 / 3, 1.0, 0.8, 2)


@given(pairs)
def test_macro_f1_is_one_only_without_errors(outcomes: list[tuple[str, str]]) -> None:
    value = macro_f1(Counter(outcomes))
    assert 0 <= value <= 1
    assert (value == 1) == all(expected == guess for expected, guess in outcomes)


def share_of_hits(counts: Mapping[bool, int]) -> float:
    """The mean of ones and zeros, whose interval is known."""
    return counts.get(True, 0) / sum(counts.values())


def interval_of_share(hits: int, n: int, seed: int = 1) -> Interval:
    """The bootstrap interval of a share."""
    outcomes = [True] * hits + [False] * (n - hits)
    return bootstrap(outcomes, share_of_hits, SHARE, seed=seed)


def test_bootstrap_of_a_share_agrees_with_wilson() -> None:
    assert interval_of_share(300, 400) == pytest.approx(wilson(300, 400), abs=0.01)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 samples of 100 throws of a fair coin, 95 % are expected to cover one half."""
    throws = random.Random(3)
    samples = [sum(throws.random() < 0.5 for _ in range(100)) for _ in range(200)]
    cache = {hits: interval_of_share(hits, 100) for hits in set(samples)}
    covered = sum(cache[hits][0] <= 0.5 <= cache[hits][1] for hits in samples)
    assert 180 <= covered <= 199


# -- held against libraries ----------------------------------------------------------------------


@settings(max_examples=50)
@given(count, count)
def test_shares_are_those_of_scipy_and_statsmodels(b: int, c: int) -> None:
    if b + c:
        test = binomtest(b, b + c)
        assert mcnemar_exact(b, c) == pytest.approx(test.pvalue)
        interval = test.proportion_ci(method="wilson")
        assert wilson(b, b + c) == pytest.approx((interval.low, interval.high))
        assert mcnemar_exact(b, c) == pytest.approx(mcnemar([[9, b], [c, 9]], exact=True).pvalue)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", int)  # it calls this, which takes 1 s in a process of 2 GB
        expected = list(multipletests(p_values, method="holm")[1])
    assert holm(p_values) == pytest.approx(expected)


def test_sign_flips_of_single_rows_are_mcnemar() -> None:
    assert sign_flip_exact([1] * 7 + [-1] * 2 + [0] * 5) == pytest.approx(mcnemar_exact(7, 2))


def test_holm_is_as_published() -> None:
    """By hand after Holm (1979): 0.005 × 4, 0.01 × 3, 0.03 × 2, and no less for 0.04."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


# -- how much rows can show ----------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other", "pairs"), [(0.45, 0.05, 23), (0.30, 0.15, 155)])
def test_rows_needed_are_as_published(one: float, other: float, pairs: int) -> None:
    """Calculators by Connor (1987, p. 209): 0.45 and 0.05 need 23 pairs, 0.30 and 0.15 155."""
    assert math.ceil(rows_needed(one - other, one + other)) == pairs


@pytest.mark.parametrize("n", [60, 128])
def test_a_detectable_difference_is_found_four_times_in_five(n: int) -> None:
    """The power of the exact McNemar test, summed over all tables. It is a little conservative."""
    difference, disagreement = detectable_difference(n), 0.25
    gained = (disagreement + difference) / 2 / disagreement
    power = sum(
        binom.pmf(k, n, disagreement) * binom.pmf(g, k, gained)
        for k in range(n + 1)
        for g in range(k + 1)
        if mcnemar_exact(g, k - g) < 0.05
    )
    assert 0.72 < power < 0.82


def test_rows_to_show_a_margin() -> None:
    """Nam's (1997) number for a Wald interval: (1.96 + 0.84)² × 0.1 / 0.03² = 872 pairs."""
    half = 1.959964 * math.sqrt(0.1 / 120)  # 120 rows, a tenth of which differ
    assert rows_to_show(120, half, 0.03) == pytest.approx(7.8489 * 0.1 / 0.0009, rel=1e-3)
    assert rows_to_show(120, half, 0) == math.inf


@given(st.floats(-1, 1), st.integers(1, 500))
def test_the_interval_of_equal_groups_holds_their_mean(value: float, n: int) -> None:
    low, high = same_in_all(value, n, -1, 1)
    assert -1 - 1e-9 <= low <= value <= high <= 1 + 1e-9
    assert same_in_all(-value, n, -1, 1) == pytest.approx((-high, -low))
    for share in (0, 1):
        assert same_in_all(share, n) == pytest.approx(wilson(share * n, n))


@pytest.mark.parametrize("n", [7, 12, 40, 300])
def test_equal_groups_rarely_mislead(n: int) -> None:
    """Models that differ in a share of all groups, seldom enough that n groups may show none.

    If that share is larger than the interval's end, n groups without any are improbable.
    """
    low, high = same_in_all(0, n, -1, 1)
    assert low == -high
    assert (1 - high) ** n < 0.05
    assert (1 - 0.8 * high) ** n > 0.03  # and the interval is hardly wider than need be


# -- coverage: how often a 95 % interval has the truth in it ---------------------------------------

DRAWS = 2000


def coverage(intervals: list[Interval], truth: float) -> float:
    """The share of intervals around the truth."""
    return sum(low <= truth <= high for low, high in intervals) / len(intervals)


def test_wilson_covers_95_percent() -> None:
    draw = random.Random(5)
    hits = [sum(draw.random() < 0.8 for _ in range(128)) for _ in range(DRAWS)]
    assert 0.93 <= coverage([wilson(h, 128) for h in hits], 0.8) <= 0.97


def test_paired_differences_cover_95_percent() -> None:
    """Two models that are right on 65 and 60 % of the rows, and differ on 25 % of them."""
    draw, cells = random.Random(6), [0.5, 0.15, 0.1, 0.25]
    tables = [Counter(draw.choices("abcd", cells, k=128)) for _ in range(DRAWS)]
    intervals = [paired_difference(*(of[cell] for cell in "abcd"))[1] for of in tables]
    assert 0.93 <= coverage(intervals, 0.05) <= 0.97


@pytest.mark.slow
def test_differences_of_groups_cover_95_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty parents with three paraphrases each, which are answered alike in four of five cases.

    Taken for independent rows, the intervals would cover far less.
    """
    monkeypatch.setattr(stats, "bootstrap", partial(bootstrap, resamples=400))
    draw = random.Random(7)
    grouped = [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(50)]
    intervals, naive = [], []
    for _ in range(DRAWS):
        gains = [gain for _ in grouped for gain in _group(draw)]
        first, second = [gain < 0 for gain in gains], [gain > 0 for gain in gains]
        found = Measure({"a": first, "b": second}, grouped).difference("a", "b")
        assert found is not None
        intervals.append(found.interval)
        gained, lost = gains.count(1), gains.count(-1)
        naive.append(paired_difference(0, gained, lost, 150 - gained - lost)[1])
    assert 0.93 <= coverage(intervals, 0.1) <= 0.97
    assert coverage(naive, 0.1) < 0.85


def _group(draw: random.Random) -> list[int]:
    """What the second model gains in three rows of one parent: 30 % better, 20 % worse."""
    shared = draw.choices((1, -1, 0), (0.3, 0.2, 0.5))[0]
    own = draw.choices((1, -1, 0), (0.3, 0.2, 0.5), k=3)
    return [shared if draw.random() < 0.8 else gain for gain in own]


@pytest.mark.slow
def test_f1_and_its_paired_difference_cover_95_percent() -> None:
    """Macro-F1 of two models that answer two classes; the truth is that of the probabilities."""
    draw, right = random.Random(8), (0.85, 0.75)
    truths = [macro_f1(_expected_table(p)) for p in right]
    means, differences = [], []
    for _ in range(DRAWS):
        rows = [_row(draw, right) for _ in range(60)]
        columns = [
            resampled([(e, answers[i]) for e, answers in rows], _f1, resamples=200)[0]
            for i in (0, 1)
        ]
        means.append(percentiles(columns[0]))
        differences.append(percentiles([b - a for a, b in zip(*columns, strict=True)]))
    assert 0.93 <= coverage(means, truths[0]) <= 0.97
    assert 0.93 <= coverage(differences, truths[1] - truths[0]) <= 0.97


def _row(draw: random.Random, right: tuple[float, float]) -> tuple[str, tuple[str, ...]]:
    expected = "a" if draw.random() < 0.6 else "b"
    wrong = "b" if expected == "a" else "a"
    return expected, tuple(expected if draw.random() < p else wrong for p in right)


def _expected_table(right: float) -> Counter[tuple[str, str]]:
    """How often each pair occurs in 10,000 rows, as expected."""
    shares = {("a", "a"): 0.6 * right, ("a", "b"): 0.6 * (1 - right),
              ("b", "b"): 0.4 * right, ("b", "a"): 0.4 * (1 - right)}  # fmt: skip
    return Counter({pair: round(10_000 * share) for pair, share in shares.items()})


def _f1(counts: Mapping[tuple[str, str], int]) -> list[float]:
    return [macro_f1(counts)]


def test_tails_are_expanded_by_students_quantile() -> None:
    for n in (8, 50, 1000):
        exact = norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1))
        assert expanded_tail(n) == pytest.approx(exact, rel=0.03)
    assert expanded_tail(1) == 0


def test_bootstrap_p_agrees_with_the_interval() -> None:
    differences = [i / 1000 for i in range(-20, 1980)]  # 21 of 2,000 not above 0
    assert bootstrap_p(differences, 2000) == pytest.approx(2 * 22 / 2001)
    assert percentiles(differences)[0] > 0
    assert bootstrap_p([0.0] * 2000, 0) == 1
    assert 0 < bootstrap_p([0.1] * 2000, 2000) < 0.001


@given(st.integers(0, 12))
def test_bootstrap_p_is_no_less_than_rows_can_show(differing: int) -> None:
    """Than a sign-flip test in which all rows that differ favour the same model."""
    most = sign_flip_exact([1] * differing)
    assert bootstrap_p([1.0] * 2000, differing) == pytest.approx(max(most, 2 / 2001))


# -- metrics that are no shares, on few rows -------------------------------------------------------

LABELS = "ab"


def near(value: float, interval: Interval) -> Any:
    """What equals the value and the interval of a score, about."""
    return value, pytest.approx(interval)


def both_of(score: Score | None) -> Any:
    """What `near` equals."""
    return score and (score.value, score.interval)


def of_classes(groups: Sequence[Sequence[int]] | None = None, **answers: str) -> Measure:
    """Macro-F1 of models that answer rows of the classes a, b, a, b, … by letters."""
    values = {
        name: [((LABELS[i % 2], letter),) for i, letter in enumerate(letters)]
        for name, letters in answers.items()
    }
    return Measure(values, groups, stats.mean_macro_f1)


def between(of: Measure) -> Difference:
    """The second model minus the first."""
    found = of.difference(*of.values)
    assert found is not None
    return found


def test_rows_that_are_all_right_have_wilsons_interval() -> None:
    of = of_classes(base="aba", sft="aba")
    assert both_of(of.score("sft")) == near(1, wilson(3, 3))
    assert between(of).interval == pytest.approx(same_in_all(0, 3, -1, 1))
    assert between(of).p_value == 1


def test_answers_without_a_value_dont_count() -> None:
    """Of 44 answers, 40 have a score, always the best one."""
    values = {"m": [1.0] * 40 + [None] * 4}
    assert both_of(Measure(values, statistic=measure.mean).score("m")) == near(1, wilson(40, 40))
    rows = [[i, i + 22] for i in range(22)]  # each group has an answer that counts
    assert both_of(Measure(values, rows, measure.mean).score("m")) == near(1, wilson(22, 22))
    assert Measure({"m": [None, None]}, statistic=measure.mean).score("m") is None


@pytest.mark.slow
def test_means_of_few_rows_cover_95_percent() -> None:
    """Of six rows, in 250 samples; the plain percentiles cover some 87 %."""
    draw, intervals, plain = random.Random(9), [], []
    for _ in range(250):
        (drawn,) = resampled(
            [draw.random() for _ in range(6)],
            lambda counts: [sum(value * n for value, n in counts.items()) / 6],
        )
        intervals.append(interval_of(drawn, 6, SHARE))
        plain.append(percentiles(drawn))
    assert 0.92 <= coverage(intervals, 0.5) <= 0.98
    assert coverage(plain, 0.5) < 0.9


@pytest.mark.slow
def test_equally_good_models_rarely_differ_in_f1(monkeypatch: pytest.MonkeyPatch) -> None:
    """In less than 5 % of samples of eight rows, whichever is more often right in one of them."""
    monkeypatch.setattr(stats, "resampled", partial(resampled, resamples=200))
    draw, false = random.Random(11), 0
    for _ in range(300):
        letters = [
            "".join(LABELS[(i + (draw.random() < 0.4)) % 2] for i in range(8)) for _ in range(2)
        ]
        false += between(of_classes(a=letters[0], b=letters[1])).p_value < 0.05
    assert false / 300 < 0.05


# -- measures held against scipy and statsmodels ---------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_measures_are_those_of_libraries(seed: int) -> None:
    """Generated shares, shares in groups, numbers from 0 to 1 and unbounded numbers."""
    draw = random.Random(seed)
    n, kind = draw.randrange(5, 40), seed % 4
    rows: dict[str, list[Any]] = {
        name: [draw.random() < p if kind < 2 else round(draw.random() * p, 3) for _ in range(n)]
        for name, p in (("a", 0.4), ("b", 0.7))
    }
    missing = draw.randrange(n)
    for of in rows.values():
        of[missing] = None
    a, b = ([float(x) for x in of if x is not None] for of in rows.values())
    gains = numpy.subtract(b, a)
    alone = [[i] for i in range(n)]
    groups = None if kind in (0, 3) else [*alone[:-2], [n - 2, n - 1]] if kind == 1 else alone
    within = SHARE if kind < 3 else (-math.inf, math.inf)
    of_rows = Measure(rows, groups, within=within)
    score, found = of_rows.score("b"), of_rows.difference("a", "b")
    assert score is not None
    assert found is not None
    assert score.interval is not None
    assert score.value == pytest.approx(numpy.mean(b))
    assert found.value == pytest.approx(gains.mean())
    if kind == 0:
        low, high = proportion_confint(sum(b), n - 1, method="wilson")
        assert score.interval == pytest.approx((low, high))
        table = [[0, sum(gains < 0)], [sum(gains > 0), 0]]
        assert found.p_value == pytest.approx(mcnemar(table, exact=True).pvalue)
        return
    if kind == 3:
        positive, negative = int(sum(gains > 0)), int(sum(gains < 0))
        assert found.p_value == pytest.approx(binomtest(positive, positive + negative).pvalue)
    elif kind == 2:
        flips = permutation_test(
            (gains,), lambda x, axis: numpy.mean(x, axis=axis), permutation_type="samples",
            n_resamples=20_000, rng=seed,
        )  # fmt: skip
        assert found.p_value == pytest.approx(flips.pvalue, abs=0.03)
    if kind != 1:
        drawn = scipy_bootstrap((b,), numpy.mean, method="percentile", n_resamples=4000, rng=seed)
        width = (drawn.confidence_interval.high - drawn.confidence_interval.low) / 2
        half = (score.interval[1] - score.interval[0]) / 2
        expanded = math.sqrt((n - 1) / (n - 2)) * t.ppf(0.975, n - 2) / norm.ppf(0.975)
        assert half == pytest.approx(width * expanded, rel=0.15)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("statistic", [None, measure.mean])
def test_rows_that_a_metric_does_not_apply_to_change_nothing(
    size: int, statistic: measure.Statistic | None
) -> None:
    """Bootstraps draw the others alone, and of two models the rows that it applies to for both."""
    generator = random.Random(3)
    a = [generator.choice([0.2, 0.5, 0.9]) for _ in range(6)]
    b = [min(1.0, value + generator.choice([0.0, 0.1, 0.3])) for value in a]
    gap, alone, more = [None] * 14, [range(i, i + size) for i in range(0, 6, size)], range(6, 20)
    groups = (None, None) if size == 1 else (alone, [*alone, *([i] for i in more)])
    plain = Measure({"a": a, "b": b}, groups[0], statistic)
    sparse = Measure({"a": a + gap, "b": b + gap}, groups[1], statistic)
    assert sparse.score("a") == plain.score("a")
    paired = plain.difference("a", "b")
    assert paired is not None
    assert sparse.difference("a", "b") == msgspec.structs.replace(paired, rows=6)
    unpaired = Measure({"a": [*a, 1.0, *gap], "b": [*b, None, *gap]}, None, statistic)
    if size == 1:
        assert unpaired.difference("a", "b") == msgspec.structs.replace(paired, rows=6)
