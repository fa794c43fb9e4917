"""Repeats over seeds: mean, spread and Student's interval, against published tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from needs import need

from finery.rows.repeats import summarise, t_cdf, t_quantile

TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 29: 2.045, 120: 1.980}
"""Degrees of freedom → the two-sided 5 % point (Fisher and Yates, table III)."""


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_the_tables(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(TABLE[freedom], abs=5e-4)


@given(st.integers(1, 60), st.floats(0, 30))
def test_probabilities_are_those_of_scipy(freedom: int, t: float) -> None:
    need("scipy")
    from scipy import stats

    assert t_cdf(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-12)


def test_a_known_sample() -> None:
    # Cushny and Peebles' additional sleep, which Student used: 1.58 ± 1.23, n = 10.
    sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    made = summarise(sleep)
    assert made.mean == pytest.approx(1.58)
    assert made.deviation == pytest.approx(1.23, abs=5e-3)
    assert made.interval is not None
    assert [*made.interval] == pytest.approx([0.70, 2.46], abs=5e-3)


def test_the_interval_covers_the_mean_in_95_of_100_draws() -> None:
    import random

    draw = random.Random(4)
    covered = 0
    for _ in range(2_000):
        made = summarise([draw.gauss(0.8, 0.03) for _ in range(5)])
        assert made.interval is not None
        covered += made.interval[0] <= 0.8 <= made.interval[1]
    assert 0.94 <= covered / 2_000 <= 0.96
