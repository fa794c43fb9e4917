"""What a curve says in words: overfitting is found, noise isn't taken for it."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery_trl.view.curves import Verdict, lines, load, metrics, series, verdict

FALLING = [4 * 0.95**i for i in range(120)]


def curve(training: Sequence[float], validations: Sequence[float] = ()) -> list[dict[str, Any]]:
    """A training with its validations spread evenly, the last one at its end."""
    number, epochs = len(training), max(1, len(validations))
    points: list[dict[str, Any]] = [
        {"step": i + 1, "epoch": (i + 1) * epochs / number, "loss": loss}
        for i, loss in enumerate(training)
    ]
    for i, loss in enumerate(validations):
        points[(i + 1) * number // epochs - 1]["eval_loss"] = loss
    return points


def judged(training: Sequence[float], validations: Sequence[float] = ()) -> Verdict:
    return verdict(curve(training, validations))


@pytest.mark.parametrize(("training", "validations", "state"), [
    (FALLING, [], "unvalidated"),
    (FALLING, [0.5, 0.4, 0.3], "still falling"),
    (FALLING, [0.5, 0.4, 0.398], "settled"),
    (FALLING, [0.5, 0.4, 0.45], "overfitting"),
    (FALLING, [0.3, 0.4, 0.5], "overfitting"),
    (FALLING, [0.5, 0.4, 0.6, 0.41], "settled"),
    ([0.69] * 60, [0.69, 0.691, 0.69], "flat"),
    ([2.0] * 60, [2.0, 2.5, 3.0], "unstable"),
])  # fmt: skip
def test_each_course_has_its_name(
    training: list[float], validations: list[float], state: str
) -> None:
    assert judged(training, validations).state == state


def test_overfitting_is_told_with_numbers_the_kept_weights_and_a_cure() -> None:
    found = verdict(curve(FALLING, [0.5, 0.4, 0.45]), kept=80)
    assert (found.since, found.lowest_step, found.lowest_eval_loss) == (80, 80, 0.4)
    assert found.sentence.startswith(
        "Overfitting since step 80: validation loss rose from 0.4 to 0.45 while training loss fell"
    )
    assert found.sentence.endswith("; the weights of step 80 were kept.")
    assert list(lines(found))[1].startswith("Advice: epochs: 2 is enough")


@pytest.mark.parametrize(
    ("equal", "state", "start"),
    [
        ([1, 1], "flat", "The model learned nothing: in every step, all answers"),
        ([1, 0.5], "rewarded", "Mean reward went from 0 in the first step to 0.5 in the last."),
    ],
)
def test_equal_rewards_teach_nothing(equal: list[float], state: str, start: str) -> None:
    points = [
        {"step": i + 1, "reward": 0.5 * i, "equal_groups": value} for i, value in enumerate(equal)
    ]
    judged = verdict(points)
    assert (judged.state, judged.sentence.startswith(start)) == (state, True)
    assert "use prompts that the model answers well only sometimes" in str(judged.advice)


def _noisy(course: Sequence[float], noise: float) -> list[str]:
    """The states of 100 trainings with this course of the validation loss."""
    made: list[str] = []
    for seed in range(100):
        chance = random.Random(seed)
        training = [abs(loss + chance.gauss(0, 0.05)) for loss in FALLING]
        made.append(judged(training, [v + chance.gauss(0, noise) for v in course]).state)
    return made


def test_noise_is_not_overfitting() -> None:
    assert _noisy([1.0] * 10, 0.02).count("overfitting") <= 10
    assert _noisy([1.0] * 3, 0.01).count("overfitting") <= 4
    assert _noisy([0.4 + 0.6 * 0.5**i for i in range(10)], 0.005).count("overfitting") <= 4


def test_overfitting_is_found_through_noise() -> None:
    rising = [0.4 + 0.6 * 0.5**i + 0.04 * max(0, i - 4) for i in range(10)]
    assert _noisy(rising, 0.01).count("overfitting") >= 95


def test_task_metrics_are_found_those_of_validations_first() -> None:
    points: list[dict[str, Any]] = [
        {"step": 1, "loss": 1.0, "preference_accuracy": 0.5, "margin": 0.1},
        {"step": 2, "eval_preference_accuracy": 0.6, "watch": {"accuracy": 0.7}},
    ]
    assert metrics(points) == ["watch.accuracy", "eval_preference_accuracy", "margin"]
    assert series(points, "watch.accuracy") == [(2, 0.7)]


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"loss": 1}]', '[{"step": 1, "watch": 2}]', "x"])
def test_what_is_no_curve_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (json's own message is as good as ours)
        load(text)


LOSSES = st.lists(st.floats(0, 20, allow_nan=False), max_size=30)


@given(LOSSES, LOSSES.map(lambda v: v[:8]), st.randoms())
def test_any_curve_has_a_verdict_whatever_the_order_of_its_points(
    training: list[float], validations: list[float], chance: random.Random
) -> None:
    points = curve(training, validations[: len(training)])
    found = verdict(points, kept=3)
    chance.shuffle(points)
    assert verdict(points, kept=3) == found
    assert found.sentence.endswith(".")
    if found.since is not None:
        assert found.since == found.lowest_step
    if found.lowest_eval_loss is not None:
        assert found.lowest_eval_loss == min(v for _, v in series(points, "eval_loss"))


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=12))
def test_a_validation_loss_that_only_falls_is_never_bad(validations: list[float]) -> None:
    course = sorted(validations, reverse=True)
    assert judged(FALLING, course).state in ("still falling", "settled")


@pytest.mark.parametrize(("validations", "end"), [
    ([0.5, 0.000437, 0.00152], "at step 80 (0.000437) and ended only 0.00108 higher."),
    ([0.5, 0.4, 0.4], "at step 80 (0.4)."),
])  # fmt: skip
def test_a_small_rise_after_the_lowest_validation_loss_is_given(
    validations: list[float], end: str
) -> None:
    found = judged(FALLING, validations)
    assert found.state == "settled"
    assert found.sentence.endswith(end)
