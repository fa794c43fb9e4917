"""The curve of a training: its series, and a verdict as text. Needs no ML framework.

A curve is a list of points `{step, epoch, loss?, learning_rate?, eval_loss?, watch?}`, stored in
the `curve.json` of a trained model. `step` counts optimizer steps, losses are in nats, and `watch`
maps the task metrics of a validation to their values. Other numbers count as metrics too.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from statistics import fmean, median
from typing import Any, Literal

import msgspec

from finery.advanced import counted, percent

CURVE = "curve.json"
"""The file of a trained model that contains its curve."""
SMALLEST_SHARE, SMALLEST_RISE = 0.03, 0.005
"""A loss that differs by less than this share, or this many nats, counts as unchanged."""
SINGLE_SHARE = 0.05
"""The share if only one validation follows the lowest one."""
NOISE = 2.0
"""A rise counts if it is this many times the largest move against the trend. With 2 % of random
noise on 10 to 20 validations of a flat curve, 2 to 6 % of such curves count as rising."""
LEARNED_SHARE = 0.1
"""A training loss below this share of its first value has nothing left to learn."""
SILENT = 0.7
"""Share of groups with equal rewards from which advice is given."""
LATE = 3
"""Number of validations at the end with a median that must exceed the lowest one."""

Point = Mapping[str, Any]
Series = list[tuple[int, float]]
"""(optimizer step, value), in order."""
State = Literal[
    "empty", "unvalidated", "validated once", "overfitting", "unstable", "still falling", "flat",
    "settled", "rewarded", "exploited", "distilled",
]  # fmt: skip


class Verdict(msgspec.Struct, frozen=True):
    """The verdict on a curve.

    sentence: one sentence for people. advice: what to do, if anything. lowest_step,
    lowest_eval_loss: the first validation with the lowest loss. since: the step after which the
    loss rose, None if it didn't. kept_step: the step of the weights that were kept.
    """

    state: State
    sentence: str
    advice: str | None = None
    lowest_step: int | None = None
    lowest_eval_loss: float | None = None
    since: int | None = None
    kept_step: int | None = None

    @property
    def is_bad(self) -> bool:
        """Whether it deserves a warning."""
        return self.state in ("overfitting", "unstable", "flat", "exploited")


def series(points: Sequence[Point], name: str) -> Series:
    """The finite values of `loss`, `eval_loss` …, or of a task metric as `watch.<metric>`."""
    metrics_by_name = {}
    for point in points:
        value: Any = point.get("watch", {}).get(name[6:]) if _watched(name) else point.get(name)
        if _is_number(value):
            metrics_by_name[int(point["step"])] = float(value)
    return sorted(metrics_by_name.items())


def metrics(points: Sequence[Point]) -> list[str]:
    """The names of task metrics in a curve, as `series` takes them, those of validations first.

    A metric without a finite value is omitted, and so is `preference_accuracy` if there is
    `eval_preference_accuracy`, and so on.
    """
    names: dict[str, None] = {}
    for point in points:
        watched = point.get("watch", {})
        names |= dict.fromkeys(f"watch.{n}" for n, v in watched.items() if _is_number(v))
    for point in points:
        fixed = ("step", "epoch", "loss", "eval_loss", "learning_rate", "watch")
        names |= dict.fromkeys(n for n, v in point.items() if n not in fixed and _is_number(v))
    names = {n: None for n in names if f"eval_{n}" not in names}
    return sorted(names, key=lambda n: (not _watched(n), not n.startswith("eval_")))


def label(name: str) -> str:
    """The displayed name of a series, e.g. `validation loss`."""
    checks = {
        "loss": "training loss",
        "eval_loss": "validation loss",
        "learning_rate": "learning rate",
        "tokens_per_second": "tokens/s",
    }
    return checks.get(name, name.removeprefix("watch.").removeprefix("eval_").replace("_", " "))


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbors, a twentieth of all values on each side.

    Towards the ends, fewer neighbors are used, the same number on both sides, so that the line
    doesn't lag.
    """
    reach, last = max(1, len(values) // 20), len(values) - 1
    spans = [min(reach, i, last - i) for i in range(len(values))]
    # Cumulative sums make this linear in the number of values, although the windows overlap.
    sums = [0.0, *accumulate(values)]
    return [
        (sums[i + span + 1] - sums[i - span]) / (2 * span + 1) if span else values[i]
        for i, span in enumerate(spans)
    ]


def lowest(validations: Series) -> tuple[int, float] | None:
    """The first (step, loss) with the lowest loss."""
    return min(validations, key=lambda v: (v[1], v[0]), default=None)


def verdict(points: Sequence[Point], kept: int | None = None) -> Verdict:
    """Judge a training by its curve.

    points: the curve, in any order. kept: the optimizer step whose weights were kept, if known.

    A training overfits if the validation loss ends clearly above its minimum (by 3 %, by 0.005
    nats, and by twice its largest move against the trend) while the training loss kept falling.
    """
    training, validations = series(points, "loss"), series(points, "eval_loss")
    if rewards := series(points, "reward"):
        return _rewarded(points, rewards, kept)
    if agreement := series(points, "agreement"):
        return _distilled(training, agreement, kept)
    if len(validations) < 2:
        return _unjudged(training, validations, kept)
    best = lowest(validations)
    assert best is not None
    facts: dict[str, Any] = {
        "lowest_step": best[0], "lowest_eval_loss": best[1], "kept_step": kept,
    }  # fmt: skip
    if _rises(validations, best):
        return _rising(points, training, validations, best, facts)
    keeps = f"; {_keeping(kept)}" if kept not in (None, best[0]) else ""
    text = f"Validation loss was lowest at step {best[0]} ({_short(best[1])})"
    before = [loss for step, loss in validations if step < best[0]]
    if _moved_little(training) and _moved_little(validations):
        return Verdict(
            "flat",
            f"The model learned hardly anything: validation loss went from "
            f"{_short(validations[0][1])} to {_short(validations[-1][1])}{keeps}.",
            "raise learning_rate, and check some of the rows with finery show",
            **facts,
        )
    if best[0] == validations[-1][0] and before[-1] - best[1] > _tolerance(validations, best):
        sentence = f"{text}, the last validation, and was still falling{keeps}."
        return Verdict("still falling", sentence, "more epochs may help", **facts)
    rise = validations[-1][1] - best[1]
    after = f" and ended only {_short(rise)} higher" if rise else ""
    return Verdict("settled", f"{text}{after}{keeps}.", **facts)


def _rewarded(points: Sequence[Point], rewards: Series, kept: int | None) -> Verdict:
    """The verdict on a training with rewards, whose loss says nothing."""
    if reason := next((str(p["stopped"]) for p in points if "stopped" in p), None):
        keeps = f"; {_keeping(kept)}" if kept is not None else ""
        advice = "correct the reward, e.g. add a metric of the content"
        return Verdict("exploited", f"The training {reason}{keeps}.", advice, kept_step=kept)
    size = max(1, len(rewards) // 5)
    values = [value for _, value in rewards]
    first, last = fmean(values[:size]), fmean(values[-size:])
    keeps = f"; {_keeping(kept)}" if kept not in (None, rewards[-1][0]) else ""
    sentence = (
        f"Mean reward went from {_short(first)} in the first {_steps(size)} to {_short(last)} in "
        f"the last{keeps}."
    )
    equal = [value for _, value in series(points, "equal_groups")]
    if equal and fmean(equal) > SILENT:
        other_series = (
            "use prompts that the model answers well only sometimes, a finer reward, or a higher "
            "temperature"
        )
        if min(equal) == 1:
            sentence = (
                "The model learned nothing: in every step, all answers to a prompt had the same "
                f"reward (on average {_short(fmean(values))})."
            )
            return Verdict("flat", sentence, other_series, kept_step=kept)
        advice = (
            f"{percent(fmean(equal))} of the groups had equal rewards, from which nothing is "
            f"learned: {other_series}"
        )
        return Verdict("rewarded", sentence, advice, kept_step=kept)
    return Verdict("rewarded", sentence, kept_step=kept)


def _steps(size: int) -> str:
    """What follows `in the first`."""
    return "step" if size == 1 else counted(size, "step")


def _distilled(divergence: Series, agreement: Series, kept: int | None) -> Verdict:
    """The verdict on a distillation, whose loss is measured on new answers in every step."""
    size = max(1, len(divergence) // 5)
    (far, near), (few, many) = (
        (fmean(v for _, v in values[:size]), fmean(v for _, v in values[-size:]))
        for values in (divergence, agreement)
    )
    keeps = f"; {_keeping(kept)}" if kept not in (None, divergence[-1][0]) else ""
    sentence = (
        f"Divergence from the teacher went from {_short(far)} in the first "
        f"{_steps(size)} to {_short(near)} in the last, and agreement on the likeliest "
        f"token from {percent(few)} to {percent(many)}{keeps}."
    )
    return Verdict("distilled", sentence, kept_step=kept)


def _unjudged(training: Series, validations: Series, kept: int | None) -> Verdict:
    if validations:
        step, loss = validations[0]
        return Verdict(
            "validated once",
            f"Validation loss was {_short(loss)} at step {step}, the only validation, which shows "
            "no trend.",
            "set eval_steps to validate more often",
            lowest_step=step,
            lowest_eval_loss=loss,
            kept_step=kept,
        )
    if not training:
        return Verdict("empty", "The curve contains no losses.", kept_step=kept)
    return Verdict(
        "unvalidated",
        f"Training loss went from {_short(training[0][1])} to {_short(training[-1][1])}. Without a "
        "validation loss, overfitting can't be detected.",
        "hold out some rows: data.split with validation: 0.1, and validation: split.validation",
        kept_step=kept,
    )


def _rising(
    points: Sequence[Point],
    training: Series,
    validations: Series,
    best: tuple[int, float],
    facts: Mapping[str, Any],
) -> Verdict:
    facts, last = {**facts, "since": best[0]}, validations[-1]
    rose = f"validation loss rose from {_short(best[1])} to {_short(last[1])}"
    keeps = f"; {_keeping(facts['kept_step'])}" if facts["kept_step"] is not None else ""
    at_best, at_end = _around(training, best[0]), _around(training, last[0])
    if at_best is None or at_end is None:
        return Verdict("unstable", f"Unstable since step {best[0]}: {rose}{keeps}.", **facts)
    fell = at_best - at_end >= SMALLEST_SHARE * abs(at_best)
    if not fell and at_end > LEARNED_SHARE * training[0][1]:
        sentence = f"Unstable since step {best[0]}: {rose}, and training loss didn't fall{keeps}."
        return Verdict("unstable", sentence, "lower learning_rate", **facts)
    how = f"fell from {_short(at_best)} to" if fell else "was no higher than"
    sentence = (
        f"Overfitting since step {best[0]}: {rose} while training loss {how} {_short(at_end)}"
    )
    return Verdict("overfitting", f"{sentence}{keeps}.", _cure(points, best[0]), **facts)


def _cure(points: Sequence[Point], step: int) -> str:
    """The fix for overfitting from a certain step."""
    epoch: Any = next((p.get("epoch") for p in points if p["step"] == step), None)
    known = _is_number(epoch)
    fewer = f"epochs: {max(1, math.ceil(epoch - 0.01))} is enough" if known else "use fewer epochs"
    return f"{fewer}; more rows, a lower rank or dropout reduce overfitting"


def _keeping(kept: int | None) -> str:
    return f"the weights of step {kept} were kept"


def _rises(validations: Series, best: tuple[int, float]) -> bool:
    """Whether the end is clearly above the lowest validation loss."""
    later = [loss for step, loss in validations if step > best[0]][-LATE:]
    if not later:
        return False
    return min(median(later), later[-1]) - best[1] > _tolerance(validations, best)


def _tolerance(validations: Series, best: tuple[int, float]) -> float:
    """How far a validation loss must move for the change to be more than noise.

    Noise is a move against the trend: a rise before the lowest loss, or a fall after it.
    """
    noise = 0.0
    for (_, earlier), (step, later) in pairwise(validations):
        noise = max(noise, later - earlier if step <= best[0] else earlier - later)
    after = sum(1 for step, _ in validations if step > best[0])
    share = SINGLE_SHARE if after == 1 else SMALLEST_SHARE
    return max(NOISE * noise, share * abs(best[1]), SMALLEST_RISE)


def _around(training: Series, step: int) -> float | None:
    """The training loss at a step: the mean over the last tenth of all values up to it."""
    until = [loss for at, loss in training if at <= step]
    window = max(1, len(training) // 10)
    return fmean(until[-window:]) if until else None


def _moved_little(values: Series) -> bool:
    """Whether the means of the first and the last third are equal within the tolerance."""
    size = max(1, len(values) // 3)
    numbers = [value for _, value in values]
    if not numbers:
        return True
    first, last = fmean(numbers[:size]), fmean(numbers[-size:])
    return abs(first - last) <= max(SMALLEST_SHARE * abs(first), SMALLEST_RISE)


def _short(value: float) -> str:
    """Three significant digits, e.g. `0.0887`, `12.3`."""
    return f"{value:.3g}"


def _watched(name: str) -> bool:
    return name.startswith("watch.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def load(text: bytes | str) -> list[Point]:
    """The points of a curve file. Raises `ValueError` if it contains anything else."""
    points = json.loads(text)  # accepts NaN, which a metric may be
    if not isinstance(points, list) or not all(map(_is_point, points)):
        raise ValueError("not a list of points with a step")
    return list(points)


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_number(value.get("step"))
        and isinstance(value.get("watch", {}), dict)
    )


def lines(verdict: Verdict) -> Iterator[str]:
    """The verdict as lines to print: a sentence, then advice."""
    yield verdict.sentence
    if verdict.advice:
        yield f"Advice: {verdict.advice}"
