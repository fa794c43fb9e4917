"""The page with the curves of a training: an HTML file without scripts or external resources."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from finery import Manifest
from finery.util.text import shortened, size
from finery.views import Output, PageSection, render_page, spreads
from finery_trl.view.chart import Chart, Curve, chart_of, panel_of, points_of_each, span_of
from finery_trl.view.curves import Point, Verdict, label, metrics, series, smoothed, verdict

TEMPLATE = "finery_trl.view/curve.html.jinja"
SKIPPED = frozenset({"messages", "chat_template", "best_step", "eval_loss"})
"""Facts that are too long for the page, or shown elsewhere on it."""
SOUND = ("still falling", "settled")
"""States of a curve that get a tick: validations show how it went."""
SMOOTHED_FROM = 30
"""Number of losses from which a smoothed line is added."""
LONGEST_FACT = 300
"""Characters of a fact to show."""
LOSS, VALIDATION, RATE = 0, 1, 5
"""Colours of the page."""
METRICS = (2, 4, 3)


def render(
    title: str,
    output: Output,
    points: Sequence[Point],
    kept: int | None,
    samples: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page of a model with a curve. kept: the step of the model's weights, if known.

    samples: answers of the model during the training, with their rewards.
    """
    judged = verdict(points, kept)
    return render_page(
        TEMPLATE,
        title=title,
        verdict=judged,
        mark="!" if judged.is_bad else "✓" if judged.state in SOUND else "i",
        tiles=list(tiles_of(points, judged)),
        charts=_charts(points, kept),
        suited="log" if spreads(_loss_values(points)) else "linear",
        legend=panels_of(points),
        facts=list(_facts(output)),
        samples=list(reversed(samples)),
    )


def tiles_of(points: Sequence[Point], judged: Verdict) -> Iterator[tuple[str, str, str]]:
    """(name, value, note) of the most important numbers."""
    training = series(points, "loss")
    if training:
        yield "training loss", f"{training[-1][1]:.3g}", f"from {training[0][1]:.3g}"
    if judged.lowest_eval_loss is not None:
        note = f"at step {judged.lowest_step}"
        yield "lowest validation loss", f"{judged.lowest_eval_loss:.3g}", note
    for name in metrics(points)[:2]:
        step, value = max(series(points, name), key=lambda v: (v[1], -v[0]))
        yield f"highest {label(name)}", f"{value:.3g}", f"at step {step}"
    if judged.kept_step is not None:
        last = max((int(p["step"]) for p in points), default=judged.kept_step)
        yield "kept weights", f"step {judged.kept_step}", f"of {last}"


def _facts(output: Output) -> Iterator[tuple[str, str]]:
    """(name, value) of the facts about the model."""
    manifest: Manifest = output.manifest
    for name, value in manifest.meta.items():
        if name not in SKIPPED:
            yield name.replace("_", " "), shortened(_words(value), LONGEST_FACT)
    yield from output.refs.items()
    yield "size", size(manifest.size())
    yield "digest", manifest.digest[:16]


def _words(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
        case Mapping():
            return ", ".join(f"{name}: {_words(of)}" for name, of in value.items())
        case list():
            return ", ".join(map(_words, value))
    return str(value)


def panels_of(points: Sequence[Point]) -> dict[str, list[Curve]]:
    """The curves by panel, from top to bottom, without empty panels."""
    names = metrics(points)
    watched = [
        Curve(label(name), series(points, name), METRICS[i % len(METRICS)], marks=True)
        for i, name in enumerate(names)
    ]
    lengths = [curve for curve in watched if curve.label == label("answer_length")]
    watched = [curve for curve in watched if curve not in lengths]  # they have another scale
    title = label(names[0]) if len(watched) == 1 else "task metric"
    rate = Curve(label("learning_rate"), series(points, "learning_rate"), RATE)
    panels = {"loss": list(_losses(points)), title: watched}
    panels |= {label("answer_length"): lengths, rate.label: [rate]}
    shown = {title: [c for c in curves if c.values] for title, curves in panels.items()}
    return {title: curves for title, curves in shown.items() if curves}


def _losses(points: Sequence[Point]) -> Iterator[Curve]:
    training = series(points, "loss")
    smooth = len(training) >= SMOOTHED_FROM
    yield Curve(label("loss"), training, LOSS, faint=smooth)
    if smooth:
        values = smoothed([loss for _, loss in training])
        line = [(step, loss) for (step, _), loss in zip(training, values, strict=True)]
        yield Curve(f"{label('loss')}, smoothed", line, LOSS)
    yield Curve(label("eval_loss"), series(points, "eval_loss"), VALIDATION, marks=True)


def _charts(points: Sequence[Point], kept: int | None) -> list[tuple[str, Chart]]:
    """(scale of the loss, chart): linear, and logarithmic if all losses are positive."""
    scales = ["linear", "log"] if min(_loss_values(points), default=0.0) > 0 else ["linear"]
    charts = [(scale, _chart(points, kept, log=scale == "log")) for scale in scales]
    return [(scale, chart) for scale, chart in charts if chart is not None]


def _chart(points: Sequence[Point], kept: int | None, *, log: bool = False) -> Chart | None:
    """The panels of a curve; None for an empty one. log: whether the loss has a log scale."""
    panels = panels_of(points)
    curves = [curve for drawn in panels.values() for curve in drawn]
    if not curves:
        return None
    span = span_of(curves)
    drawn = [
        panel_of(
            title,
            in_panel,
            span,
            log=log and title == "loss",
            zero=title == label("learning_rate"),
            best=best_of(points, kept) if title == "loss" else None,
            most=points_of_each(len(curves)),
        )
        for title, in_panel in panels.items()
    ]
    return chart_of(drawn, curves, span, kept)


def _loss_values(points: Sequence[Point]) -> list[float]:
    return [value for name in ("loss", "eval_loss") for _, value in series(points, name)]


def best_of(points: Sequence[Point], kept: int | None) -> tuple[int, float] | None:
    """The (step, value) of the kept weights on the validation loss, else the training loss."""
    for name in ("eval_loss", "loss"):
        value = dict(series(points, name)).get(kept) if kept is not None else None
        if value is not None and kept is not None:
            return kept, value
    return None


SECTION = "finery_trl.view/section.html.jinja"


class Training(NamedTuple):
    """A trained model. kept: the step of its weights, if known. facts: what was measured."""

    title: str
    points: Sequence[Point]
    kept: int | None
    facts: Mapping[str, str]


def section_of(trainings: Sequence[Training]) -> PageSection:
    """The section about all trained models of a build."""
    style = files("finery_trl.view").joinpath("section.css").read_text(encoding="utf-8")
    html = render_page(SECTION, models=[_model(training) for training in trainings])
    return PageSection("Trainings", html, rank=30, style=style)


def _model(training: Training) -> dict[str, object]:
    title, points, kept, facts = training
    judged = verdict(points, kept)
    return {
        "title": title,
        "sentence": judged.sentence,
        "advice": judged.advice,
        "is_bad": judged.is_bad,
        "facts": ", ".join(f"{name} {value}" for name, value in facts.items()),
        "tiles": list(tiles_of(points, judged)),
        "chart": _chart(points, kept),
        "legend": [curve for curves in panels_of(points).values() for curve in curves],
    }
