"""How the metrics of a running step are shown, as its step type declares."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from finery.errors import PluginError
from finery.step.interfaces import declared
from finery.step.step import Step


class LiveMetric(NamedTuple):
    """How a metric that a running step reports with `job.metric` is shown.

    A step type declares a mapping, `class Train(Step, metrics=METRICS)`, from the names of metrics
    to this, in display order. `watch.*` means all names with that beginning.
    Metrics that aren't declared are shown as `LiveMetric()`.

    text: with `{name}` and `{value}`. number: formats the value. style: of rich. rank: 1 stays
    visible longest if the terminal is narrow. lasting: it is still shown when the step is done.
    validation: measured rarely, so plain output prints it soon. lower_is_better: a value above the
    lowest so far is marked with ↑. hides: another metric that isn't shown next to it.
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
    """How to show a metric, its rank among the declared ones, and the value of `{name}`."""

    style: LiveMetric
    place: int
    label: str


def declared_metric(name: str, styles: Mapping[str, LiveMetric]) -> DeclaredMetric:
    """How to show a metric: as declared for its name or its beginning, or the default."""
    for place, (pattern, style) in enumerate(styles.items()):
        start = pattern.removesuffix("*")
        if name == pattern or (start != pattern and name.startswith(start)):
            label = name if name == pattern else name.removeprefix(start)
            return DeclaredMetric(style, place, label.replace("_", " "))
    return DeclaredMetric(LiveMetric(), len(styles), name.replace("_", " "))


def metrics_of(step_type: type[Step]) -> Mapping[str, LiveMetric]:
    """How to show the metrics of such steps, as declared by their type.

    Raises `PluginError` if the declaration can't be loaded.
    """
    fix = 'name a mapping as "module:NAME": {"loss": LiveMetric(…)}'
    what, styles = declared(step_type, "metrics", fix)
    if styles is None:
        return {}
    values = styles.values() if isinstance(styles, Mapping) else [None]
    if not all(isinstance(value, LiveMetric) for value in values):
        raise PluginError(f"{what} isn't a mapping of names to LiveMetric", fix=fix)
    return dict(styles)
