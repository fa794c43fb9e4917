"""What to ship: the smallest model that passes and isn't shown to be worse, or why none."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery.rows.report import Report, Score
from finery_eval.stats import holm, mcnemar_exact
from finery_eval.view.judgements import Judgement, Role
from finery_eval.view.shipping import Candidate, Choice, choose

MARGIN = 0.05


def judged(
    model: str, right: Sequence[bool], role: Role = "tuned", step: str = "test"
) -> Judgement:
    """A model by its right and wrong answers."""
    answers = [
        {"id": str(row), "expected": "x", "answer": "y", "correct": is_right,
         "finish_reason": "stop", "values": {"accuracy": is_right}}
        for row, is_right in enumerate(right)
    ]  # fmt: skip
    report = Report(rows=len(right), scores={model: {"accuracy": Score(sum(right) / len(right))}})
    return Judgement(model, role, "", step, "eval.exact", report, answers)


def first(count: int, rows: int = 200) -> list[bool]:
    """Right in the first rows."""
    return [row < count for row in range(rows)]


def last(count: int, rows: int = 200) -> list[bool]:
    """Right in the last rows."""
    return first(count, rows)[::-1]


def candidate(
    model: str, right: Sequence[bool], size: int | None = None, **facts: Any
) -> Candidate:
    """A candidate of one evaluator. size: None if it isn't known."""
    return Candidate(judged(model, right), size=math.inf if size is None else size, **facts)


def text(choice: Choice) -> str:
    """The choice as a sentence."""
    name = choice.ship.name if choice.ship else "none"
    return "; ".join([f"{name}: {choice.why}", *choice.reservations])


BASE = judged("base", first(10), "base")


def test_the_smallest_that_is_not_shown_to_be_worse() -> None:
    models = [
        candidate("sft", first(152), 250_000_000, seconds=0.2),
        candidate("linear", [*first(146, 190), *[True] * 2, *[False] * 8], 300_000, seconds=0.0002),
        candidate("nearest", first(100), 200_000, seconds=0.0001),
    ]
    assert text(choose(models, [BASE], MARGIN)) == (
        "linear: 74.0 % accuracy, no difference to sft can be shown (95 % CI -5.1 to +1.0), "
        "293 KiB, 0.2 ms an answer; 200 rows can't rule out a loss of 5.1 points"
    )
    assert choose(models, [BASE], MARGIN).ship is models[1]
    wide = choose(models, [BASE], 0.06)  # the reservation follows the margin of a requirement
    assert (wide.ship, wide.reservations) == (models[1], [])


def test_a_model_that_is_shown_to_be_worse_is_not_shipped_however_small() -> None:
    models = [candidate("sft", first(180), 250_000_000), candidate("linear", first(120), 10)]
    assert text(choose(models, [BASE], MARGIN)) == (
        "sft: 90.0 % accuracy, better than linear: +30.0 points (95 % CI +23.5 to +36.4), 238 MiB"
    )


def test_with_few_rows_the_better_one_is_shipped_and_the_smaller_one_named() -> None:
    models = [candidate("sft", first(16, 20), 5_000_000), candidate("linear", last(14, 20), 10)]
    choice = choose(models, [], MARGIN)
    assert choice.ship is models[0]
    assert choice.reservations == [
        "20 test rows are too few to tell whether linear (10 B) is as good: -10.0 points (95 % CI "
        "-38.2 to +20.4)"
    ]


def test_of_equally_small_models_the_fastest_then_the_best() -> None:
    slow, fast, best = (
        candidate("slow", first(150), 1_000, seconds=0.2),
        candidate("fast", first(149), 1_040, seconds=0.1),
        candidate("best", first(151), 1_090, seconds=0.2),
    )
    assert choose([slow, fast, best], [], MARGIN).ship is fast
    assert choose([slow, best], [], MARGIN).ship is best
    quick = candidate("quick", first(150), 9_000, seconds=0.01)
    choice = choose([slow, quick], [], MARGIN)
    assert choice.ship is slow
    assert "quick is faster (8.8 KiB, 10 ms an answer)" in choice.reservations


def test_a_model_of_unknown_size_is_only_shipped_for_its_score() -> None:
    api, small = candidate("api", first(150), seconds=0.01), candidate("small", first(150), 5)
    assert choose([api, small], [], MARGIN).ship is small
    assert choose([api, candidate("small", first(50), 5)], [], MARGIN).ship is api
    assert choose([api, candidate("other", first(150))], [], MARGIN).ship is api


@pytest.mark.parametrize(("right", "words"), [
    (first(5), "nothing beats base: the best model, sft, has 2.5 % accuracy, and base 5.0 %"),
    (last(13), "200 test rows are too few to tell whether sft beats base: 6.5 % accuracy, and base "
     "5.0 %: +1.5 points (95 % CI -3.4 to +6.5, p = 0.678)"),
])  # fmt: skip
def test_nothing_is_shipped_that_is_not_shown_to_beat_the_base(
    right: list[bool], words: str
) -> None:
    assert text(choose([candidate("sft", right)], [BASE], MARGIN)).startswith(f"none: {words}")


def test_a_single_model_needs_a_base_or_a_requirement() -> None:
    alone = candidate("sft", first(150))
    assert "nothing says whether 75.0 % of sft is good enough" in choose([alone], [], MARGIN).why
    required = alone._replace(met=frozenset({"test"}))
    assert choose([required], [], MARGIN).ship is required
    assert choose([alone], [BASE], MARGIN).ship is alone


def test_where_a_requirement_fails_only_models_that_meet_one_of_their_own_are_shipped() -> None:
    sft = candidate("sft", first(150), 9, unmet="sft.accuracy is 0.75; required >= 0.9")
    linear = candidate("linear", first(149), 5)
    none = choose([sft, linear], [BASE], MARGIN)
    assert text(none) == ("none: a requirement isn't met: sft.accuracy is 0.75; required >= 0.9")
    met = linear._replace(met=frozenset({"test"}))
    choice = choose([sft, met], [BASE], MARGIN)
    assert choice.ship is met
    assert choice.reservations == ["sft doesn't meet its requirements"]


def test_answers_that_were_cut_off_come_before_everything_else() -> None:
    sft = judged("sft", first(100))
    cut = [{**of, "finish_reason": "length"} if row >= 150 else of
           for row, of in enumerate(sft.answers)]  # fmt: skip
    for bases in ([BASE], [judged("base", first(200), "base")]):
        choice = choose([Candidate(sft._replace(answers=cut))], bases, MARGIN)
        assert text(choice) == "none: 50 of 200 answers of sft were cut off at max_tokens"


def test_evaluators_that_disagree_are_named() -> None:
    def two(name: str, test: int, style: int, size: int, **facts: Any) -> Candidate:
        other = judged(name, first(style), step="style")
        return candidate(name, first(test), size, elsewhere=[other], **facts)

    models = [two("sft", 180, 100, 9), two("linear", 100, 180, 5)]
    assert text(choose(models, [BASE], MARGIN)).startswith(
        "none: test and style disagree: sft is to be shipped by test, but by style it is worse "
        "than linear: -40.0 points"
    )
    models[0] = two("sft", 180, 100, 9, met=frozenset({"style"}))
    assert choose(models, [BASE], MARGIN).ship is models[0]
    models = [two("sft", 180, 180, 9), two("gguf", 179, 100, 5)]
    assert choose(models, [BASE], MARGIN).ship is models[0]


@given(
    st.lists(
        st.tuples(
            st.lists(st.booleans(), min_size=40, max_size=40),
            st.integers(1, 10**9) | st.none(),
            st.booleans(),
            st.booleans(),
        ),
        min_size=1, max_size=6,
    ),
    st.lists(st.booleans(), min_size=40, max_size=40) | st.none(),
)  # fmt: skip
def test_what_is_shipped_passes_and_is_not_shown_to_be_worse(
    models: list[tuple[list[bool], int | None, bool, bool]], base: list[bool] | None
) -> None:
    """By McNemar's test of each against each, adjusted for their number."""
    candidates = [
        candidate(
            f"m{number}", right, size, unmet="x" if fails else "",
            met=frozenset({"test"} if meets else ()),
        )
        for number, (right, size, fails, meets) in enumerate(models)
    ]  # fmt: skip
    bases = [] if base is None else [judged("base", base, "base")]
    ship = choose(candidates, bases, MARGIN).ship
    if ship is None:
        return
    right = {each.name: models[number][0] for number, each in enumerate(candidates)}
    assert not ship.unmet
    if base is not None:
        assert sum(right[ship.name]) > sum(base)
        assert p_of(base, right[ship.name]) < 0.05
    rivals = [e for e in candidates if e is not ship and not e.unmet]
    adjusted = holm([p_of(right[rival.name], right[ship.name]) for rival in rivals])
    for rival, p_value in zip(rivals, adjusted, strict=True):
        assert p_value >= 0.05 or sum(right[rival.name]) < sum(right[ship.name])


def p_of(one: Sequence[bool], other: Sequence[bool]) -> float:
    """Of the exact test."""
    pairs = list(zip(one, other, strict=True))
    return mcnemar_exact(pairs.count((True, False)), pairs.count((False, True)))
