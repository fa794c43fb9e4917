"""How the metrics of a running step are shown, as its step type declares."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from finery.errors import PluginError
from finery.step.interfaces import declared
from finery.step.step import Step


class LiveMetric(NamedTuple):
    """How a metric that a running step reports with `job.metric` is shown.

    A step type names a mapping of them, `class Train(Step, metrics=METRICS)`, from a metric's name
    to this, in the order in which they are shown; `watch.*` stands for all names that begin so.
    Metrics that aren't declared are shown as `LiveMetric()`.

    text: with `{name}` and `{value}`. number: the value in words. style: of rich. rank: 1 stays
    longest where a terminal is narrow. lasting: it is still shown when the step is done.
    validation: measured now and then, so plain output prints it soon. lower_is_better: a value
    above the lowest so far is marked with ↑. hides: another metric that isn't shown beside it.
    """

    text: str = "{name} {value}"
    number: Callable[[float], str] = "{:.3g}".format
    style: str = "magenta"
    rank: int = 4
    lasting: bool = True
    validation: bool = False
    lower_is_better: bool = False
    hides: str = ""


class DeclaredMetric(NamedTuple):
    """How a metric is shown, its place among the declared ones, and what `{name}` stands for."""

    style: LiveMetric
    place: int
    label: str


def declared_metric(name: str, styles: Mapping[str, LiveMetric]) -> DeclaredMetric:
    """How a metric is shown: as declared by its name, by the beginning of it, or by default."""
    for place, (pattern, style) in enumerate(styles.items()):
        start = pattern.removesuffix("*")
        if name == pattern or (start != pattern and name.startswith(start)):
            label = name if name == pattern else name.removeprefix(start)
            return DeclaredMetric(style, place, label.replace("_", " "))
    return DeclaredMetric(LiveMetric(), len(styles), name.replace("_", " "))


def metrics_of(step_type: type[Step]) -> Mapping[str, LiveMetric]:
    """How the metrics of such steps are shown, as their type declares.

    Raises `PluginError` where that can't be loaded.
    """
    fix = 'name a mapping as "module:NAME": {"loss": LiveMetric(…)}'
    what, styles = declared(step_type, "metrics", fix)
    if styles is None:
        return {}
    values = styles.values() if isinstance(styles, Mapping) else [None]
    if not all(isinstance(value, LiveMetric) for value in values):
        raise PluginError(f"{what} isn't a mapping of names to LiveMetric", fix=fix)
    return dict(styles)
