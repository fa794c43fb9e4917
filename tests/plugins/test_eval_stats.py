"""Statistics: published values, and what must hold for every table of counts."""

import math
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm, t
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from finery_eval import verdicts
from finery_eval.paired import Values
from finery_eval.scoring import groups
from finery_eval.scoring.differences import pairs_of
from finery_eval.scoring.scored import score
from finery_eval.stats import (
    GAIN,
    SHARE,
    Interval,
    bootstrap,
    bootstrap_p,
    class_score,
    expanded_tail,
    holm,
    interval_of,
    macro_f1,
    mcnemar_exact,
    paired_difference,
    percentiles,
    resampled,
    same_in_all,
    sign_flip_exact,
    wilson,
)
from finery_eval.stats.power import (
    detectable_difference,
    rows_needed,
    rows_to_show,
)
from finery_eval.verdicts import Judged, Means, Verdicts

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


def test_mcnemar_of_small_tables_by_hand() -> None:
    assert mcnemar_exact(0, 5) == 2 / 32
    assert mcnemar_exact(1, 7) == 2 * (1 + 8) / 256
    assert mcnemar_exact(0, 0) == mcnemar_exact(3, 3) == 1.0


def test_mcnemar_takes_large_tables() -> None:
    assert 0 < mcnemar_exact(0, 5000) < 1e-300
    assert 0.3 < mcnemar_exact(5000, 5100) < 0.35


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


def test_what_nothing_is_known_about_is_none() -> None:
    table = {("a", "a"): 2}
    assert class_score(table, "b") == (None, None, None, 0)
    assert class_score({("a", "b"): 2}, "a") == (None, 0.0, 0.0, 2)


def test_macro_f1_counts_only_expected_classes() -> None:
    assert macro_f1({("a", "a"): 3, ("a", "(invalid)"): 1}) == pytest.approx(6 / 7)


@given(pairs)
def test_macro_f1_is_one_only_without_errors(outcomes: list[tuple[str, str]]) -> None:
    value = macro_f1(Counter(outcomes))
    assert 0 <= value <= 1
    assert (value == 1) == all(expected == guess for expected, guess in outcomes)


def share_of_hits(counts: Mapping[bool, int]) -> list[float]:
    """The mean of ones and zeros, whose interval is known."""
    return [counts.get(True, 0) / sum(counts.values())]


def interval_of_share(hits: int, n: int, seed: int = 1) -> Interval:
    """The bootstrap interval of a share."""
    outcomes = [True] * hits + [False] * (n - hits)
    return bootstrap(outcomes, share_of_hits, SHARE, seed=seed)[0]


def test_bootstrap_of_a_share_agrees_with_wilson() -> None:
    assert interval_of_share(300, 400) == pytest.approx(wilson(300, 400), abs=0.01)


def test_bootstrap_gives_the_same_interval_each_time() -> None:
    assert interval_of_share(30, 40) == interval_of_share(30, 40)
    assert interval_of_share(40, 40) == pytest.approx(wilson(40, 40))


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
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_mcnemar_is_that_of_a_vignette() -> None:
    """M. P. Fay, "Exact McNemar's Test and Matching Confidence Intervals": 2 and 9 rows differ."""
    assert mcnemar_exact(2, 9) == pytest.approx(0.06543, abs=5e-6)


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


def test_detectable_differences_in_points() -> None:
    assert round(100 * detectable_difference(128)) == 12
    assert detectable_difference(3) == pytest.approx(1, abs=1e-5)
    assert detectable_difference(10) > 0.25  # more than the models are assumed to differ


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
def test_differences_of_groups_cover_95_percent() -> None:
    """Fifty parents with three paraphrases each, which are answered alike in four of five cases.

    Taken for independent rows, the intervals would cover far less.
    """
    draw = random.Random(7)
    grouped = [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(50)]
    intervals, naive = [], []
    for _ in range(DRAWS):
        gains = [gain for _ in grouped for gain in _group(draw)]
        first, second = [gain < 0 for gain in gains], [gain > 0 for gain in gains]
        found = groups.difference(first, second, grouped, resamples=400)
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
    """What equals a score with about this interval."""
    return value, pytest.approx(interval)


def of_classes(**answers: str) -> Verdicts:
    """Models that answer rows of the classes a, b, a, b, … by letters, judged by macro-F1."""
    judged = {}
    for name, letters in answers.items():
        outcomes = [(LABELS[i % 2], letter) for i, letter in enumerate(letters)]
        judged[name] = Judged([], {"accuracy": [a == b for a, b in outcomes]}, outcomes)
    metrics = ["accuracy", "macro_f1"]
    return Verdicts(judged, metrics, metrics, means=Means(["macro_f1"], _f1))


def test_two_rows_show_nothing() -> None:
    """As in accuracy, whose p-value is 0.5."""
    (pair,) = score(of_classes(base="ba", sft="ab"), None).pairs
    accuracy, f1 = pair["metrics"]["accuracy"], pair["metrics"]["macro_f1"]
    assert f1["p_value"] == accuracy["p_value"] == 0.5
    assert f1["difference"] == 1
    assert f1["interval"] == pytest.approx(same_in_all(1, 2, -1, 1))
    assert f1["interval"][0] < 0


def test_rows_that_are_all_right_have_wilsons_interval() -> None:
    scored = score(of_classes(base="aba", sft="aba"), None)
    assert scored.scores["sft"]["macro_f1"] == near(1, wilson(3, 3))
    assert scored.pairs[0]["metrics"]["macro_f1"]["interval"] == pytest.approx(
        same_in_all(0, 3, -1, 1)
    )
    assert scored.pairs[0]["metrics"]["macro_f1"]["p_value"] == 1


def test_one_group_shows_nothing() -> None:
    value, (low, high) = score(of_classes(m="aaab"), [[0, 1, 2, 3]]).scores["m"]["macro_f1"]
    assert (low, high) == pytest.approx(same_in_all(value, 1))
    assert high - low > 0.7


def test_rows_that_differ_are_the_evidence() -> None:
    """Five of 100 rows, all better: the McNemar test of accuracy has p = 0.0625."""
    base, sft = "bb" * 5 + "ab" * 45, "ab" * 50
    metrics = score(of_classes(base=base, sft=sft), None).pairs[0]["metrics"]
    assert metrics["accuracy"]["p_value"] == metrics["macro_f1"]["p_value"] == 2 / 2**5


def test_answers_without_an_outcome_dont_count() -> None:
    """Of 44 answers, 40 have a score, always the best one."""
    outcomes = [1.0] * 40 + [None] * 4

    def mean(counts: Mapping[float | None, int]) -> list[float]:
        known = {value: n for value, n in counts.items() if value is not None}
        total = sum(known.values())
        return [sum(value * n for value, n in known.items()) / total if total else 0.0]

    judged = Judged([], {"passed": [True] * 44}, outcomes)
    of = Verdicts({"m": judged}, ["passed", "score"], ["passed"], means=Means(["score"], mean))
    assert score(of, None).scores["m"]["score"] == near(1, wilson(40, 40))
    rows = [[i, i + 22] for i in range(22)]  # each group has an answer that counts
    assert score(of, rows).scores["m"]["score"] == near(1, wilson(22, 22))


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


def test_scores_have_the_interval_of_their_draws() -> None:
    of = of_classes(m="abbbab")
    draws = verdicts.draws_of(of.judged["m"], of)["macro_f1"]
    assert score(of, None).scores["m"]["macro_f1"][1] == interval_of(draws, 6, SHARE)
    assert interval_of(draws, 6, SHARE) != percentiles(draws)


def test_equally_good_models_rarely_differ_in_f1() -> None:
    """In less than 5 % of samples of eight rows, whichever is more often right in one of them."""
    draw, false = random.Random(11), 0
    for _ in range(300):
        letters = [
            "".join(LABELS[(i + (draw.random() < 0.4)) % 2] for i in range(8)) for _ in range(2)
        ]
        of = of_classes(a=letters[0], b=letters[1])
        drawn = {
            name: {"macro_f1": resampled(list[Any](judged.outcomes), _f1, resamples=200)[0]}
            for name, judged in of.judged.items()
        }
        false += pairs_of(of, drawn, None)[0]["metrics"]["macro_f1"]["p_value"] < 0.05
    assert false / 300 < 0.05


def test_weighted_means_of_one_row() -> None:
    """A score from 0 to 1 of one row has Wilson's width; one without bounds has no interval."""
    rows = {"a": [(0.2, 1.0)], "b": [(0.7, 1.0)]}
    bounded, free = Values(rows, within=SHARE), Values(rows)
    assert bounded.score("b") == near(0.7, same_in_all(0.7, 1))
    facts = bounded.difference("a", "b")
    assert facts is not None
    assert facts["interval"] == pytest.approx(same_in_all(0.5, 1, *GAIN))
    assert free.score("b") == (0.7, None)
    assert free.difference("a", "b") is None


def test_equal_values_are_equal_models_only_if_they_are_continuous() -> None:
    rows = {"a": [(0.25, 1.0), (0.75, 1.0)], "b": [(0.25, 1.0), (0.75, 1.0)]}
    scores = Values(rows, within=SHARE).difference("a", "b")
    nats = Values(rows, within=SHARE, is_continuous=True).difference("a", "b")
    assert scores is not None
    assert scores["interval"] == pytest.approx(same_in_all(0, 2, *GAIN))
    assert nats == {"difference": 0, "interval": [0, 0], "p_value": 1}
