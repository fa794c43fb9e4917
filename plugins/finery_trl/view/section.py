"""The section of trainings on the report of a build: what each curve says, and the curve."""

from collections.abc import Sequence
from importlib.resources import files

from finery import Output, PageSection, render_page
from finery_trl.view.chart import Chart, chart_of, panel_of, points_of_each, span_of
from finery_trl.view.curves import Point, verdict
from finery_trl.view.model import curve_of, kept_step, measured
from finery_trl.view.page import best_of, panels_of, tiles_of

TEMPLATE = "finery_trl.view/section.html.jinja"


def section_of(outputs: Sequence[Output]) -> PageSection | None:
    """The section about all trained models of a build; None where none has a curve."""
    trained = [(output, points) for output in outputs if (points := curve_of(output)) is not None]
    if not trained:
        return None
    style = files("finery_trl.view").joinpath("section.css").read_text(encoding="utf-8")
    html = render_page(TEMPLATE, models=[_model(output, points) for output, points in trained])
    return PageSection("Trainings", html, rank=30, style=style)


def _model(output: Output, points: Sequence[Point]) -> dict[str, object]:
    kept = kept_step(output.manifest)
    judged = verdict(points, kept)
    facts = [f"{name} {value}" for name, value in measured(output.manifest).items()]
    return {
        "title": output.title,
        "sentence": judged.sentence,
        "advice": judged.advice,
        "is_bad": judged.is_bad,
        "facts": ", ".join(facts),
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
