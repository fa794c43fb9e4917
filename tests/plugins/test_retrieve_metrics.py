"""Metrics of rankings and answers against other implementations and published values."""

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from finery.rows.report import Pair, Score
from finery_eval import stats
from finery_eval.measure import Measure, pairs_of, scores_of
from finery_retrieve.evaluate.outcome import abstains, has_expected, token_f1
from finery_retrieve.evaluate.retrieval import ndcg, recall, reciprocal_rank
from finery_retrieve.evaluate.tables import measure_over_documents

rankings = st.lists(st.booleans(), min_size=2, max_size=20)
cuts = st.integers(1, 25)


# rankings


@given(rankings, cuts, st.integers(0, 3))
def test_ndcg_is_that_of_scikit_learn(gains: list[bool], k: int, missed: int) -> None:
    """missed: right chunks that aren't retrieved, at the end of scikit-learn's ranking."""
    right = sum(gains) + missed
    if not right:
        return
    relevance = [*map(float, gains), *[0.0] * max(0, k - len(gains)), *[1.0] * missed]
    scores = [float(-i) for i in range(len(relevance))]
    expected = ndcg_score([relevance], [scores], k=k)
    assert ndcg(gains, right, k) == pytest.approx(expected)


def test_discounts_are_as_published() -> None:
    """The example of a DCG of 6.861, of relevances 3, 2, 3, 0, 1, 2 (Wikipedia).

    The gain of a single right chunk at each rank is the discount there.
    """
    discounts = [ndcg([i == rank for i in range(6)], 1, 6) for rank in range(6)]
    assert discounts == pytest.approx([1, 0.6309, 0.5, 0.4307, 0.3869, 0.3562], abs=5e-5)
    relevances = (3, 2, 3, 0, 1, 2)
    total = sum(of * discount for of, discount in zip(relevances, discounts, strict=True))
    assert total == pytest.approx(6.861, abs=5e-4)


def test_reciprocal_ranks_are_as_published() -> None:
    """The example with ranks 3, 2 and 1 (Wikipedia, mean reciprocal rank): 11/18."""
    answers = ([False, False, True], [False, True, False], [True, False, False])
    assert sum(reciprocal_rank(of, 3) for of in answers) / 3 == pytest.approx(11 / 18)


@given(rankings, st.integers(1, 3))
def test_metrics_grow_with_k_and_stay_below_1(gains: list[bool], missed: int) -> None:
    right = sum(gains) + missed
    for measure in (recall, lambda g, n, k: reciprocal_rank(g, k)):
        values = [measure(gains, right, k) for k in range(1, len(gains) + 2)]
        assert values == sorted(values)
        assert all(0 <= value <= 1 for value in values)


# answers


def squad_f1(prediction: str, truth: str) -> float:
    """As in the evaluation script of SQuAD 1.1, written anew from its description."""

    def normal(text: str) -> list[str]:
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    first, second = normal(prediction), normal(truth)
    same = sum((Counter(first) & Counter(second)).values())
    if same == 0:
        return 0.0
    precision, recalled = same / len(first), same / len(second)
    return 2 * precision * recalled / (precision + recalled)


ascii_text = st.text(string.ascii_letters + " .,!'-", min_size=1, max_size=40)


@given(ascii_text, ascii_text)
def test_f1_is_that_of_squad(answer: str, reference: str) -> None:
    if any(c.isalpha() for c in answer + reference):
        words = [re.sub(r"[^a-z]", "", w) for w in f"{answer} {reference}".lower().split()]
        if any(word not in ("", "a", "an", "the") for word in words):
            assert token_f1(answer, reference) == pytest.approx(squad_f1(answer, reference))


def test_f1_ignores_citations_but_not_an_answer_that_is_a_quote() -> None:
    assert token_f1('It is 50 MB. "Files up to 50 MB are read" [2]', "It is 50 MB.") == 1
    assert token_f1('"Files up to 50 MB are read" [2]', "files up to 50 MB are read") == 1


def test_f1_counts_characters_where_words_have_no_spaces() -> None:
    assert token_f1("上限是50兆", "上限是50兆字节") == pytest.approx(2 * 5 / (5 + 7))


@pytest.mark.parametrize(("answer", "expected", "is_right"), [
    ("The limit is 50\u00a0MB [2].", ["50 mb"], True),
    ("The limit is 150 MB.", ["50 MB"], False),
    ("The limit is 50 MBit.", ["50 MB"], False),
    ("It is 1.50 MB.", ["50 MB"], False),
    ("It costs 50.", ["50"], True),
    ("Every day, at noon.", [["daily", "every day"], "noon"], True),
    ("Every day, at one.", [["daily", "every day"], "noon"], False),
    ("See [50].", ["50"], False),
])  # fmt: skip
def test_expected_texts_are_whole_words(
    answer: str, expected: Sequence[str | list[str]], is_right: bool
) -> None:
    assert has_expected(answer, expected) is is_right


@pytest.mark.parametrize(("answer", "is_abstention"), [
    ("The documents don't say.", True),
    ("the documents don’t say", True),
    ("I'm sorry. The documents don't say.", True),
    ("The documents don't say. But it is 50 MB [2].", False),
    ("The documents say it: 50 MB.", False),
    ("", False),
])  # fmt: skip
def test_abstentions_are_recognised(answer: str, is_abstention: bool) -> None:
    assert abstains(answer, "The documents don't say.") is is_abstention


# means over questions


def measured(
    values: Mapping[str, Sequence[float | bool | None]], clusters: Sequence[Sequence[int]]
) -> Measure:
    """A metric. clusters: the questions about each document."""
    about = {i: str(number) for number, of in enumerate(clusters) for i in of}
    return measure_over_documents(values, [about[i] for i in range(len(about))])


values = st.lists(st.booleans(), min_size=2, max_size=30)


@given(values)
def test_shares_of_independent_questions_are_wilsons(hits: list[bool]) -> None:
    measure = measured({"a": hits}, [[i] for i in range(len(hits))])
    score = measure.score("a")
    assert score == Score(sum(hits) / len(hits), stats.wilson(sum(hits), len(hits)))


@given(values)
def test_differences_of_independent_questions_are_newcombes(hits: list[bool]) -> None:
    others = [not hit if i % 3 else hit for i, hit in enumerate(hits)]
    measure = measured({"a": hits, "b": others}, [[i] for i in range(len(hits))])
    between = measure.difference("a", "b")
    assert between is not None
    assert between.value == pytest.approx((sum(others) - sum(hits)) / len(hits))
    gained = sum(b and not a for a, b in zip(hits, others, strict=True))
    lost = sum(a and not b for a, b in zip(hits, others, strict=True))
    assert between.p_value == stats.mcnemar_exact(gained, lost)


def test_questions_of_a_document_count_together() -> None:
    """Forty questions about four documents have a wider interval than forty documents."""
    hits = [i < 20 for i in range(40)]
    apart = measure_over_documents({"a": hits}, [str(i) for i in range(40)]).score("a")
    together = measure_over_documents({"a": hits}, [str(i // 10) for i in range(40)]).score("a")
    assert apart is not None
    assert together is not None
    assert apart.value == together.value == 0.5
    widths = [high - low for low, high in (of.interval or (0, 0) for of in (apart, together))]
    assert widths[1] > 1.5 * widths[0]


def test_few_documents_show_no_difference_however_alike_they_are() -> None:
    """Four signs that agree have a p-value of 2 / 2⁴, whatever the sizes are."""
    clusters = [[i, i + 1] for i in range(0, 8, 2)]
    measure = measured({"a": [0.1] * 8, "b": [0.35] * 8}, clusters)
    between = measure.difference("a", "b")
    assert between is not None
    assert between.value == pytest.approx(0.25)
    assert between.p_value == pytest.approx(2 / 2**4)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_sign_flips_of_any_numbers_are_those_of_all_signs(gains: list[float]) -> None:
    """By counting all signs; rounding to parts may move only sums that are nearly equal."""
    measure = measured({"a": [0.0] * len(gains), "b": gains}, [[i] for i in range(len(gains))])
    between = measure.difference("a", "b")
    assert between is not None
    total, size = abs(sum(gains)), sum(map(abs, gains))
    sums = [
        abs(sum(sign * gain for sign, gain in zip(signs, gains, strict=True)))
        for signs in product((-1, 1), repeat=len(gains))
    ]
    slack = 2 * len(gains) * size / 5_000 + 1e-9
    least = sum(of >= total + slack for of in sums) / len(sums)
    most = sum(of >= total - slack for of in sums) / len(sums)
    assert least - 1e-9 <= between.p_value <= most + 1e-9


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=12))
def test_equal_rankings_are_as_sure_as_documents_make_it(values: list[float]) -> None:
    """Whatever they retrieve, the share of documents with a difference is 0 of so many."""
    clusters = [[i, i + 1] for i in range(0, len(values) - 1, 2)]
    values = values[: 2 * len(clusters)]
    between = measured({"a": values, "b": values}, clusters).difference("a", "b")
    assert between is not None
    most = stats.wilson(0, len(clusters))[1]
    assert between.interval == pytest.approx((-most, most))
    assert between.value == 0.0
    assert between.p_value == 1.0


def test_what_applies_to_no_question_is_left_out() -> None:
    measures = {"x": measured({"a": [None, None], "b": [True, None]}, [[0], [1]])}
    assert scores_of(["a", "b"], measures) == {"a": {}, "b": {"x": Score(1.0, stats.wilson(1, 1))}}
    assert pairs_of(["a", "b"], measures) == [Pair("b", "a", {})]


@given(st.lists(st.floats(0, 1), min_size=3, max_size=10))
def test_means_of_shares_are_inside_their_interval(scores: list[float]) -> None:
    measure = measured({"a": scores}, [[i] for i in range(len(scores))])
    score = measure.score("a")
    assert score is not None
    value, (low, high) = score.value, score.interval or (0, 0)
    assert math.isclose(value, sum(scores) / len(scores), abs_tol=1e-9)
    assert low - 1e-9 <= value <= high + 1e-9
