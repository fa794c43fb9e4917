"""A page with the curves of a training: one HTML file that needs no network.

The plot is plotly's, whose JavaScript the page carries; the page's own policy forbids it to load
anything. What comes from the artifact is escaped.
"""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from finery.artifact.kinds import Artifact
from finery.artifact.manifest import Manifest
from finery.cli.console import size
from finery.cli.curve_view import curve_of, kept_step
from finery.cli.plot import spreads
from finery.errors import UsageError
from finery_trl.view.curves import Point, Verdict, label, metrics, series, smoothed, verdict

SKIPPED = frozenset({"messages", "chat_template", "best_step", "eval_loss"})
"""Facts that the page has no room for, or says elsewhere."""
SMOOTHED_FROM = 30
"""Losses from which on a smoothed line lies over them."""
COLOURS = ("--loss", "--validation", "--rate", "--metric", "--metric-2", "--metric-3")
"""The page's colours that the plot uses, light or dark."""

Trace = dict[str, Any]


def page(title: str, artifact: Artifact, manifest: Manifest) -> str:
    """The page of a model with a curve. title: the recipe's and the step's name.

    Raises `UsageError` where plotly is missing.
    """
    return render(title, curve_of(artifact, manifest) or [], manifest, _plotly())


def _plotly() -> str:
    """plotly's JavaScript."""
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError(
            "the page needs plotly, which isn't installed",
            where="--html",
            fix="pip install 'finery[report]'",
        ) from error
    return str(get_plotlyjs())


def render(title: str, points: Sequence[Point], manifest: Manifest, javascript: str) -> str:
    """The page as HTML."""
    kept = kept_step(manifest)
    found = verdict(points, kept)
    facts = (
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in _facts(manifest)
    )
    parts = {
        "title": html.escape(title),
        "state": "bad" if found.is_bad else "fine",
        "mark": "!" if found.is_bad else "✓" if found.lowest_step is not None else "i",
        "sentence": html.escape(found.sentence),
        "advice": html.escape(found.advice or ""),
        "tiles": "".join(_tiles(points, found)),
        "facts": "\n".join(facts),
        "figure": _script(_figure(points, kept)),
        "plotly": javascript,
    }
    page = (files("finery.cli") / "curve.html").read_text(encoding="utf-8")
    return Template(page).substitute(parts)


def _script(value: Any) -> str:
    """JSON that can't end the script that it stands in."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tiles(points: Sequence[Point], found: Verdict) -> Iterator[str]:
    """The few numbers that matter, large."""
    training = series(points, "loss")
    if training:
        span = f"from {training[0][1]:.3g}"
        yield _tile("training loss", f"{training[-1][1]:.3g}", span)
    if found.lowest_eval_loss is not None:
        where = f"at step {found.lowest_step}"
        yield _tile("lowest validation loss", f"{found.lowest_eval_loss:.3g}", where)
    for name in metrics(points)[:2]:
        step, value = max(series(points, name), key=lambda v: (v[1], -v[0]))
        yield _tile(f"highest {label(name)}", f"{value:.3g}", f"at step {step}")
    if found.kept_step is not None:
        last = max((int(p["step"]) for p in points), default=found.kept_step)
        yield _tile("kept weights", f"step {found.kept_step}", f"of {last}")


def _tile(name: str, value: str, note: str) -> str:
    texts = (html.escape(t) for t in (name, value, note))
    return "<div class=tile><span>{}</span><b>{}</b><small>{}</small></div>".format(*texts)


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(name, value) of what is known about the model."""
    for name, value in manifest.meta.items():
        if name not in SKIPPED:
            yield name.replace("_", " "), _shown_value(value)
    for role, ref in manifest.refs.items():
        yield role, f"{ref.meta.get('format', ref.kind)}, {size(ref.size())}"
    yield "size", size(manifest.size())
    yield "digest", manifest.digest[:16]


def _shown_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        text = ", ".join(f"{k}: {_shown_value(v)}" for k, v in value.items())
    elif isinstance(value, list):
        text = ", ".join(map(_shown_value, value))
    else:
        text = "–" if value is None else str(value)
    return text if len(text) <= 300 else text[:299] + "…"


def _figure(points: Sequence[Point], kept: int | None) -> dict[str, Any]:
    """Traces and panels for plotly; colours are names of the page's own."""
    names = metrics(points)
    traces = [*_losses(points), *_metrics(points, names)]
    rate = series(points, "learning_rate")
    panels = ["loss"]
    if names:
        panels.append("task metric" if len(names) > 1 else _as_text(label(names[0])))
    if rate:
        panels.append("learning rate")
        line = _trace("learning rate", rate, "--rate", axis=len(panels))
        traces.append({**line, "hovertemplate": "%{y:.2e}"})
    losses = [v for trace in traces for v in trace["y"] if trace["yaxis"] == "y"]
    return {
        "traces": traces,
        "panels": panels,
        "kept": kept,
        "best": _best(points, kept),
        "log": spreads(losses),
        "canLog": min(losses, default=0) > 0,
    }


def _losses(points: Sequence[Point]) -> list[Trace]:
    training, validations = series(points, "loss"), series(points, "eval_loss")
    made = []
    if training:
        smooth = len(training) >= SMOOTHED_FROM
        raw = _trace("training loss", training, "--loss")
        if smooth:
            raw |= {"opacity": 0.45, "line": {"width": 1}}
        made.append(raw)
        if smooth:
            values = smoothed([loss for _, loss in training])
            steps = [step for step, _ in training]
            line = list(zip(steps, values, strict=True))
            made.append(_trace("training loss, smoothed", line, "--loss"))
    if validations:
        made.append(_trace("validation loss", validations, "--validation", marks=True))
    return made


def _metrics(points: Sequence[Point], names: Sequence[str]) -> list[Trace]:
    colours = COLOURS[3:]
    return [
        _trace(label(name), series(points, name), colours[i % len(colours)], axis=2, marks=True)
        for i, name in enumerate(names)
    ]


def _trace(
    name: str, values: Sequence[tuple[int, float]], colour: str, *, axis: int = 1,
    marks: bool = False,
) -> Trace:  # fmt: skip
    """A line of plotly's kind `scatter`, in the panel `axis`."""
    return {
        "type": "scatter",
        "name": _as_text(name),
        "x": [step for step, _ in values],
        "y": [value for _, value in values],
        "mode": "lines+markers" if marks or len(values) == 1 else "lines",
        "line": {"width": 2},
        "marker": {"size": 8},
        "yaxis": "y" if axis == 1 else f"y{axis}",
        "hovertemplate": "%{y:.4g}",
        "colour": colour,
    }


def _as_text(name: str) -> str:
    """The name as plotly shows it: it takes tags and `&lt;` for HTML, and quotes for text."""
    return html.escape(name, quote=False)


def _best(points: Sequence[Point], kept: int | None) -> Mapping[str, float] | None:
    """Where the kept weights lie on the validation loss, else on the training loss."""
    for name in ("eval_loss", "loss"):
        value = dict(series(points, name)).get(kept) if kept is not None else None
        if value is not None:
            return {"x": kept or 0, "y": value}
    return None
