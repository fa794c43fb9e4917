"""The section of trainings on the report of a build: what each curve says, and the curve."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple

from finery.views import PageSection, render_page
from finery_trl.view.chart import Chart, chart_of, panel_of, points_of_each, span_of
from finery_trl.view.curves import Point, verdict
from finery_trl.view.page import best_of, panels_of, tiles_of

TEMPLATE = "finery_trl.view/section.html.jinja"


class Training(NamedTuple):
    """A trained model. kept: the step of its weights, if known. facts: what was measured."""

    title: str
    points: Sequence[Point]
    kept: int | None
    facts: Mapping[str, str]


def section_of(trainings: Sequence[Training]) -> PageSection:
    """The section about all trained models of a build."""
    style = files("finery_trl.view").joinpath("section.css").read_text(encoding="utf-8")
    html = render_page(TEMPLATE, models=[_model(training) for training in trainings])
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


def _chart(points: Sequence[Point], kept: int | None) -> Chart | None:
    panels = panels_of(points)
    curves = [curve for of in panels.values() for curve in of]
    if not curves:
        return None
    span, best = span_of(curves), best_of(points, kept)
    most = points_of_each(len(curves))
    drawn = [
        panel_of(title, of, span, best=best if title == "loss" else None, most=most)
        for title, of in panels.items()
    ]
    return chart_of(drawn, curves, span, kept)
