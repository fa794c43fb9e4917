"""What a curve looks like: plots, the most important numbers, answers during the training."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finery.views import Axis, Field, Part, Plot, Record, Series, Tile, Tiles
from finery_trl.view.curves import Point, Verdict, label, metrics, series, smoothed

SMOOTHED_FROM = 30
"""Number of losses from which a smoothed line is added."""
LOSS, VALIDATION, RATE = 0, 1, 5
"""Colours of series."""
METRICS = (2, 4, 3)
FEWEST = 2
"""Values that a curve has at least, to be compared with another."""
LONGEST = 300
"""Characters of an answer that is shown at once."""
STEPS = Axis("optimizer step")


def curve_plot(points: Sequence[Point], best_step: int | None) -> Plot:
    """All series of a curve, those that say most in the first two panels: a terminal shows these.

    best_step: the step of the model's weights, if known.
    """
    losses = Axis("loss", scale="choice")
    names = metrics(points)
    colours = {name: METRICS[number % len(METRICS)] for number, name in enumerate(names)}
    if "reward" in names:  # whose loss says nothing
        names = ["reward", *(name for name in names if name != "reward")]
    first = names[:2] if "reward" in names else names[:1]
    other_names = [name for name in names if name not in (*first, "answer_length")]
    title = label(other_names[0]) if len(other_names) == 1 else "task metric"
    titles = {name: title if name in other_names else label(name) for name in names}
    axes = {name: Axis(title, scale="linear") for name, title in titles.items()}
    measured = [
        Series(label(name), series(points, name), "both", y=axes[name], colour=colours[name])
        for name in sorted(names, key="answer_length".__eq__)
    ]
    rate = Series(
        label("learning_rate"),
        series(points, "learning_rate"),
        y=Axis(label("learning_rate"), scale="linear", has_zero=True),
        colour=RATE,
    )
    of_loss = list(_losses(points))
    ordered = [*measured, *of_loss] if "reward" in names else [*of_loss, *measured]
    at = None if best_step is None else (best_step, f"kept, step {best_step}")
    return Plot([*ordered, rate], STEPS, losses, at=at)


def _losses(points: Sequence[Point]) -> Iterator[Series]:
    training = series(points, "loss")
    is_long = len(training) >= SMOOTHED_FROM
    yield Series(label("loss"), training, "faint" if is_long else "line", colour=LOSS)
    if is_long:
        values = smoothed([loss for _, loss in training])
        line = [(step, loss) for (step, _), loss in zip(training, values, strict=True)]
        yield Series(f"{label('loss')}, smoothed", line, colour=LOSS)
    yield Series(label("eval_loss"), series(points, "eval_loss"), "both", colour=VALIDATION)


def comparison_plot(curves: Mapping[str, Any]) -> Iterator[Plot]:
    """The validation loss of both trainings, else the training loss. curves: see `difference`."""
    for name in ("eval_loss", "loss"):
        both = curves.get(name, {}).get("series", [])
        if len(both) == 2 and all(len(side_points) >= FEWEST for side_points in both):
            lines = [
                Series(f"{label(name)} of {side}", [(x, y) for x, y in side_points], "both")
                for side, side_points in zip("AB", both, strict=True)
            ]
            yield Plot(lines, STEPS, Axis(label(name)))
            return


def curve_tiles(points: Sequence[Point], judged: Verdict) -> Tiles:
    """The most important numbers of a curve."""
    tiles = []
    training = series(points, "loss")
    if training:
        tiles.append(Tile(label("loss"), f"{training[-1][1]:.3g}", f"from {training[0][1]:.3g}"))
    if judged.lowest_eval_loss is not None:
        note = f"at step {judged.lowest_step}"
        tiles.append(Tile("lowest validation loss", f"{judged.lowest_eval_loss:.3g}", note))
    for name in metrics(points)[:2]:
        step, value = max(series(points, name), key=lambda v: (v[1], -v[0]))
        tiles.append(Tile(f"highest {label(name)}", f"{value:.3g}", f"at step {step}"))
    if judged.kept_step is not None:
        last = max((int(p["step"]) for p in points), default=judged.kept_step)
        tiles.append(Tile("kept weights", f"step {judged.kept_step}", f"of {last}"))
    return Tiles(tiles)


def curve_parts(points: Sequence[Point], judged: Verdict) -> list[Part]:
    """The most important numbers, and the plot."""
    return [curve_tiles(points, judged), curve_plot(points, judged.kept_step)]


def sample_record(sample: Mapping[str, Any]) -> Record:
    """An answer of the model during its training, with its rewards."""
    rewards = ", ".join(
        f"{name} {'–' if value is None else f'{value:g}'}"
        for name, value in sample["rewards"].items()
    )
    answer = str(sample["answer"])
    fields = [
        Field(f"step {sample['step']}", str(sample["prompt"])),
        Field("answer", answer, "good", is_folded=len(answer) > LONGEST),
        Field("rewards", rewards, "soft"),
    ]
    return Record(fields, data=sample)
