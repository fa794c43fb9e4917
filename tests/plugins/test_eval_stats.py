"""Statistics: published values, and what must hold for every table of counts."""

import math
import random
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery_eval.stats import (
    Interval,
    bootstrap,
    class_score,
    macro_f1,
    mcnemar_exact,
    paired_difference,
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
    return bootstrap([True] * hits + [False] * (n - hits), share_of_hits, seed=seed)[0]


def test_bootstrap_of_a_share_agrees_with_wilson() -> None:
    assert interval_of_share(300, 400) == pytest.approx(wilson(300, 400), abs=0.01)


def test_bootstrap_gives_the_same_interval_each_time() -> None:
    assert interval_of_share(30, 40) == interval_of_share(30, 40)
    assert interval_of_share(40, 40) == (1.0, 1.0)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 samples of 100 throws of a fair coin, 95 % are expected to cover one half."""
    throws = random.Random(3)
    samples = [sum(throws.random() < 0.5 for _ in range(100)) for _ in range(200)]
    cache = {hits: interval_of_share(hits, 100) for hits in set(samples)}
    covered = sum(cache[hits][0] <= 0.5 <= cache[hits][1] for hits in samples)
    assert 180 <= covered <= 199
