"""A judge against people: published values, and the coverage of the corrected interval."""

import random

import pytest
from scipy.stats import chi2, chisquare

from finery_judge.calibration import (
    Agreement,
    agreement,
    correct_share,
    kappa,
    lowest_kappa,
    remarks,
)


def pairs(both: int, only_person: int, only_judge: int, neither: int) -> list[tuple[bool, bool]]:
    """(person, judge) verdicts in these numbers."""
    return [
        *[(True, True)] * both,
        *[(True, False)] * only_person,
        *[(False, True)] * only_judge,
        *[(False, False)] * neither,
    ]


@pytest.mark.parametrize(("counts", "published"), [
    ((20, 5, 10, 15), 0.40),  # the 50 grants of Wikipedia's article on Cohen's kappa
    ((45, 15, 25, 15), 0.1304),  # its two examples of equal agreement
    ((25, 35, 5, 35), 0.2593),
])  # fmt: skip
def test_kappa_has_its_published_values(counts: tuple[int, ...], published: float) -> None:
    made = agreement(pairs(*counts))
    assert made.kappa is not None
    value, (low, high) = made.kappa
    assert value == pytest.approx(published, abs=5e-5)
    assert low < value < high


def test_kappa_isnt_defined_where_all_verdicts_are_the_same() -> None:
    assert kappa({(True, True): 9}) is None
    made = agreement(pairs(9, 0, 0, 0))
    assert (made.kappa, made.specificity) == (None, None)
    assert made.agreement[0] == 1


def test_sensitivity_and_specificity() -> None:
    made = agreement(pairs(18, 2, 3, 7))
    assert made.sensitivity is not None
    assert made.specificity is not None
    assert (made.sensitivity[0], made.specificity[0]) == (0.9, 0.7)
    assert (made.accepted, made.rejected, made.rows) == (20, 10, 30)


def known(sensitivity: float, specificity: float, n: int) -> Agreement:
    """A judge that is known from n good and n bad answers."""
    good, bad = round(sensitivity * n), round(specificity * n)
    return agreement(pairs(good, n - good, n - bad, bad))


def test_the_corrected_share_has_its_published_value() -> None:
    """23 of 150 cows test positive; sensitivity 96 %, specificity 89 %: 5.1 % (R package epiR)."""
    found = correct_share(23, 150, known(0.96, 0.89, 100))
    assert found is not None
    value, (low, high) = found
    assert value == pytest.approx(0.051, abs=5e-4)
    assert low == 0 < value < high


def test_a_judge_that_is_no_better_than_chance_corrects_nothing() -> None:
    assert correct_share(5, 10, known(0.5, 0.5, 20)) is None
    assert correct_share(5, 10, agreement(pairs(9, 0, 0, 0))) is None


def test_a_perfect_judge_changes_nothing() -> None:
    found = correct_share(60, 100, known(1.0, 1.0, 500))
    assert found is not None
    assert found[0] == pytest.approx(0.6)


@pytest.mark.parametrize(("good", "right", "wrong", "rows", "reviewed"), [
    (0.7, 0.9, 0.8, 128, 40), (0.5, 0.8, 0.8, 300, 100), (0.85, 0.95, 0.7, 200, 60),
])  # fmt: skip
def test_the_corrected_interval_covers_the_true_share(
    good: float, right: float, wrong: float, rows: int, reviewed: int
) -> None:
    """95 % means 93 to 97 % of 2,000 draws (98 where few reviews make it conservative)."""
    draw, covered, draws = random.Random(5), 0, 2000
    passing = good * right + (1 - good) * (1 - wrong)

    def count(n: int, share: float) -> int:
        return sum(draw.random() < share for _ in range(n))

    for _ in range(draws):
        of_good, of_bad = count(reviewed, right), count(reviewed, wrong)
        judge = Agreement(
            2 * reviewed, (0.0, (0.0, 0.0)), None, (of_good / reviewed, (0.0, 1.0)),
            (of_bad / reviewed, (0.0, 1.0)), reviewed, reviewed,
        )  # fmt: skip
        found = correct_share(count(rows, passing), rows, judge)
        assert found is not None
        covered += found[1][0] <= good <= found[1][1]
    assert 0.93 <= covered / draws <= 0.98


@pytest.mark.parametrize(("accepted", "rejected"), [(1, 1), (15, 15), (28, 2), (3, 40)])
def test_a_judge_that_always_agrees_is_as_sure_as_decisions_make_it(
    accepted: int, rejected: int
) -> None:
    """The lower end's expected table differs from the observed one at the 5 % level."""
    low, n = lowest_kappa(accepted, rejected), accepted + rejected
    product = accepted * rejected / n
    expected = [accepted - product * (1 - low), 2 * product * (1 - low),
                rejected - product * (1 - low)]  # fmt: skip
    test = chisquare([accepted, 0, rejected], expected)
    assert test.statistic == pytest.approx(chi2.ppf(0.95, 1), rel=1e-6)
    value, interval = agreement(pairs(accepted, 0, 0, rejected)).kappa or (0, (0, 0))
    assert (value, interval) == (1, (low, 1))


def test_two_decisions_dont_show_that_a_judge_can_be_trusted() -> None:
    judge = agreement([(True, True), (False, False)])
    assert judge.kappa is not None
    assert judge.kappa[1][0] < 0
    (remark,) = remarks(judge, 0)
    assert "few decisions show it" in remark.text


def test_a_judge_that_lets_everything_pass_has_an_interval() -> None:
    """Its kappa is 0 in every resample."""
    judge = agreement(pairs(10, 0, 10, 0))
    assert judge.kappa is not None
    value, (low, high) = judge.kappa
    assert value == 0
    assert low < 0 < high
