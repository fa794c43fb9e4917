"""The result of an evaluation as a typed value, and the file `metrics.json` that holds it.

Evaluators make a `Report`; whatever shows, compares or requires scores reads one. Nothing here
knows how a report looks, so editing a view changes no key. The file has the form that `--json`
prints, and an earlier version of finery, without draws, wrote the same.
"""

import json
import math
from array import array
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeVar, get_args

import msgspec

from finery.errors import PluginError
from finery.rows.files import READ_ERRORS, unusable_file_error
from finery.util.text import counted, did_you_mean

METRICS = "metrics.json"
VERSION = 2
T = TypeVar("T")
Interval = tuple[float, float]
Unit = Literal[
    "", "count", "share", "likely", "difference", "change", "p", "seconds", "dollars", "bytes",
    "duration",
]  # fmt: skip
"""Of a number: `count` is whole; `share` is from 0 to 1 and `likely` is a probability that may be
near 1, both shown in percent; `difference` is one of two shares, in points, and `change` one of
other numbers; `p` is a p-value; `seconds` may be milliseconds, and `duration` hours."""
UNITS = get_args(Unit)


class Score(msgspec.Struct, omit_defaults=True):
    """The value of a metric, with its 95 % interval if there is one.

    draws: its values in the resamples of the rows, for a metric that isn't a mean over rows. The
    difference of two of them on the same rows follows from these.
    """

    value: float
    interval: Interval | None = None
    draws: Sequence[float] = ()


Scores = dict[str, dict[str, Score]]
"""Model, or what else is measured → metric → score."""


class Difference(msgspec.Struct, omit_defaults=True):
    """The difference of a metric between two models, on the same rows.

    p_value: two-sided, that there is none; for this comparison alone. rows: that it rests on, where
    the metric doesn't apply to all.
    """

    value: float = msgspec.field(name="difference")
    interval: Interval
    p_value: float
    rows: int | None = None


class Comparison(Difference, kw_only=True, omit_defaults=True):
    """The first metric of a model against that of a baseline. method: of the test.

    p_holm: the p-value, adjusted for the number of models. only_model, only_baseline: the rows that
    only one of the two has right, of metrics that are yes or no.
    """

    model: str
    baseline: str
    only_model: int | None = None
    only_baseline: int | None = None
    p_holm: float | None = None
    method: str = ""


class Pair(msgspec.Struct):
    """Two models: the differences of all metrics, model minus baseline."""

    model: str
    baseline: str
    metrics: dict[str, Difference]


class Export(msgspec.Struct, omit_defaults=True):
    """An exported file, compared with the model that it was made from if that is judged, too."""

    model: str
    file: str
    size: int
    comparison: Comparison | None = None


class Slice(msgspec.Struct):
    """The scores of some of the rows: model → metric → value, and interval if there is one."""

    rows: int
    scores: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, Interval]]

    def score(self, model: str, metric: str) -> Score | None:
        """A score; None if the metric applies to no row."""
        value = self.scores[model].get(metric)
        return None if value is None else Score(value, self.intervals[model].get(metric))


class ReportTable(msgspec.Struct):
    """A table that is shown wherever scores are: cells are text, numbers or None.

    units: column → unit of its numbers, else they are plain. The columns `95 % CI low` and `95 % CI
    high` after a number are its interval. model: the only one that the table is about, if so.
    is_private: whether it has texts of rows or answers, or names of documents; Markdown and model
    cards leave it out.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    units: Mapping[str, str] = {}
    model: str | msgspec.UnsetType = msgspec.UNSET
    is_private: bool | msgspec.UnsetType = msgspec.UNSET


class Axis(msgspec.Struct, frozen=True, omit_defaults=True):
    """An axis of a plot. has_zero: whether it begins at 0.

    scale: `auto` is logarithmic for a vertical axis whose values are far apart and no shares. For
    the plot's own vertical axis, `choice` is the same, and a page offers both scales.
    """

    label: str = ""
    unit: Unit = ""
    scale: Literal["auto", "linear", "log", "choice"] = "auto"
    has_zero: bool = False


class Series(msgspec.Struct, frozen=True, omit_defaults=True):
    """A series of a plot, as (x, y) by ascending x. A report with values that aren't numbers is
    refused; other views leave them out.

    style: a line, dots, both, a thin line below others, or steps, each from its x to the next.
    band: (x, low, high), around a line or as the interval of each dot. y: its axis, if that isn't
    the plot's: series with the same one share a panel of the page, and of a terminal the right
    axis. colour: its number on pages; by default its place in the plot.
    """

    label: str
    points: Sequence[tuple[float, float]]
    style: Literal["line", "dots", "both", "faint", "steps"] = "line"
    band: Sequence[tuple[float, float, float]] = ()
    y: Axis | None = None
    colour: int | None = None


class Plot(msgspec.Struct, frozen=True, omit_defaults=True):
    """A plot. at: an x that is marked, and what it is."""

    series: Sequence[Series]
    x: Axis = Axis()
    y: Axis = Axis()
    title: str = ""
    at: tuple[float, str] | None = None
    note: str = ""


class Remark(msgspec.Struct):
    """A remark about an output, which `show` and `build` print. advice: how to do better.

    verdict: of step types that measure what was forgotten, `lost` or `unclear`: the answer of a
    report rests on these.
    """

    text: str
    advice: str = ""
    severity: Literal["info", "warning"] = "info"
    verdict: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def paragraph(self) -> str:
        """Both as sentences."""
        return " ".join(f"{part.rstrip('.')}." for part in (self.text, self.advice) if part)


class Report(msgspec.Struct, kw_only=True):
    """The result of an evaluation. Models are in the order in which they are shown.

    more: scores that conditions may name, and that aren't in the tables of scores. unbounded: the
    metrics that aren't from 0 to 1. units: of those that have one, e.g. `seconds`. statistics: of
    those that aren't shares of rows, `module:name` of the function that computed it. definitions:
    the digests of these functions' code, as keys count it, if they have one. probes: what they
    compute of some values alone, by value as JSON, which shows whether two evaluations computed it
    alike, since a function can also use data that isn't in its code. headline: the metrics to show;
    all if empty. applies: model → metric → the rows that it applies to, if not all. references:
    models that were only added to compare with. baselines: cheap ones. bundles: of models without
    weights, the step type that ships them. truncated: answers that were cut off. words: what the
    evaluator says about the result. legend: about the metrics. intervals_cover: what the intervals
    account for. extra: what only the evaluator and its views know, by name, see `part`.
    """

    rows: int = 0
    scores: Scores = {}
    more: Scores = {}
    unbounded: list[str] = []
    units: dict[str, str] = {}
    statistics: dict[str, str] = {}
    definitions: dict[str, str] = {}
    probes: dict[str, dict[str, float]] = {}
    headline: list[str] = []
    applies: dict[str, dict[str, int]] = {}
    comparisons: list[Comparison] = []
    pairs: list[Pair] = []
    exports: list[Export] = []
    slices: dict[str, dict[str, Slice]] = {}
    tables: list[ReportTable] = []
    plots: list[Plot] = []
    remarks: list[Remark] = []
    words: list[str] = []
    references: list[str] = []
    baselines: list[str] = []
    bundles: dict[str, str] = {}
    truncated: dict[str, int] = {}
    legend: str = ""
    intervals_cover: str = ""
    extra: dict[str, Any] = {}

    def is_share(self, metric: str) -> bool:
        """Whether a metric is from 0 to 1."""
        return metric not in self.unbounded

    def unit(self, metric: str) -> str:
        """The unit of a metric, as in a table."""
        return "share" if self.is_share(metric) else self.units.get(metric, "")

    def score(self, model: str, metric: str) -> Score | None:
        """A score; None if the metric applies to no row."""
        return self.scores.get(model, {}).get(metric)

    def rows_of(self, model: str, metric: str) -> int:
        """The number of rows behind a score."""
        return self.applies.get(model, {}).get(metric, self.rows)

    def with_more(self) -> "Report":
        """The same, with the further scores among the others."""
        names = dict.fromkeys([*self.scores, *self.more])
        scores = {n: self.scores.get(n, {}) | self.more.get(n, {}) for n in names}
        return msgspec.structs.replace(self, scores=scores)

    def part(self, name: str, kind: type[T]) -> T | None:
        """What the evaluator itself keeps under a name; None if it keeps nothing."""
        value = self.extra.get(name)
        return None if value is None else msgspec.convert(value, kind)

    def data(self) -> dict[str, Any]:
        """The report as `--json` prints it: `rows`, `scores`, `intervals`, `details`."""
        same = {name: getattr(self, name) for name in _SAME} | {
            "exports": [_flat(export) for export in self.exports]
        }
        details = {n: of for n, of in same.items() if of or n in _ALWAYS} | self.extra
        data = {"rows": self.rows, **values_and_intervals(self.scores), "details": details}
        plain: dict[str, Any] = json.loads(json.dumps(msgspec.to_builtins(data)))
        return plain


_SAME = (
    "headline", "applies", "comparisons", "pairs", "tables", "plots", "remarks", "words",
    "references", "baselines", "bundles", "truncated", "legend", "intervals_cover", "more",
    "slices", "unbounded", "units", "statistics", "definitions",
)  # fmt: skip
"""What `details` has in the same form."""
_ALWAYS = ("headline", "comparisons", "pairs", "tables", "remarks", "unbounded", "units")
"""Entries of `details` that are there even if they are empty."""


def values_and_intervals(scores: Scores) -> dict[str, Any]:
    """Values and intervals apart."""
    return {
        "scores": {name: {m: s.value for m, s in of.items()} for name, of in scores.items()},
        "intervals": {
            name: {m: s.interval for m, s in of.items() if s.interval}
            for name, of in scores.items()
        },
    }


def _flat(export: Export) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(export)
    comparison: dict[str, Any] = facts.pop("comparison", {})
    return facts | comparison


# -- the file ------------------------------------------------------------------------------------


def write_report(folder: Path, report: Report) -> None:
    """Write `metrics.json`: what `--json` prints, and the draws and probes of statistics.

    Raises `PluginError` for a table or a plot that couldn't be shown.
    """
    for problem in _problems(report):
        raise PluginError(problem, fix="correct it in the evaluator")
    folder.mkdir(parents=True, exist_ok=True)
    draws = {
        model: {m: b64encode(array("d", s.draws)).decode() for m, s in of.items() if s.draws}
        for model, of in report.scores.items()
    }
    stored = {"version": VERSION, **report.data(), "draws": draws, "probes": report.probes}
    text = json.dumps(stored, indent=2, ensure_ascii=False)
    (folder / METRICS).write_text(text + "\n", encoding="utf-8")


def _problems(report: Report) -> Iterator[str]:
    """Which table, plot or remark is wrong in which field."""
    for metric, unit in report.units.items():
        if unit not in UNITS:
            yield f"`units` of the metric '{metric}': {_unknown_unit(unit)}"
    parts: list[ReportTable | Plot | Remark] = [*report.tables, *report.plots, *report.remarks]
    for part in parts:
        kind = {ReportTable: "table", Plot: "plot", Remark: "remark"}[type(part)]
        title = f"{kind} '{part.text if isinstance(part, Remark) else part.title!s:.80}'"
        try:
            msgspec.convert(msgspec.to_builtins(part), type(part))
        except (TypeError, ValueError) as error:
            yield f"{title}: {error}"
            continue
        if isinstance(part, ReportTable):
            yield from (f"{title}: {problem}" for problem in _in_table(part))
        elif isinstance(part, Plot):
            yield from (f"{title}: {problem}" for problem in _in_plot(part))


def _unknown_unit(unit: str) -> str:
    return f"'{unit}' isn't a unit; {did_you_mean(unit, filter(None, UNITS))}"


def _in_table(table: ReportTable) -> Iterator[str]:
    for column, unit in table.units.items():
        if unit not in UNITS:
            yield f"`units` of '{column}': {_unknown_unit(unit)}"
    for number, row in enumerate(table.rows, 1):
        if len(row) != len(table.columns):
            cells, columns = counted(len(row), "cell"), counted(len(table.columns), "column")
            yield f"row {number} of `rows` has {cells}, and the table {columns}"
        for column, cell in zip(table.columns, row, strict=False):
            if not (cell is None or isinstance(cell, str) or _is_finite(cell)):
                problem = "neither a text, a finite number nor None"
                yield f"row {number} of `rows`, column '{column}': {cell!r:.80} is {problem}"


def _in_plot(plot: Plot) -> Iterator[str]:
    for series in plot.series:
        for field, points in (("points", series.points), ("band", series.band)):
            for point in points:
                if not all(map(_is_finite, point)):
                    yield f"`{field}` of the series '{series.label}': {point} isn't finite"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def read_report(folder: Path) -> Report:
    """The content of `metrics.json`. Raises `DataError` for a file that no evaluator wrote."""
    file = folder / METRICS
    try:
        return parsed_report(file.read_bytes())
    except (*READ_ERRORS, KeyError, TypeError, AttributeError) as error:
        raise unusable_file_error(
            str(file), f"this file doesn't contain scores ({error})"
        ) from error


class _Stored(TypedDict):
    """`metrics.json`. Before reports were typed, it had no version, draws and probes."""

    version: NotRequired[int]
    rows: int
    scores: dict[str, dict[str, float | None]]
    intervals: dict[str, dict[str, Interval | None]]
    draws: NotRequired[dict[str, dict[str, bytes]]]
    probes: NotRequired[dict[str, dict[str, float]]]
    details: dict[str, Any]


def parsed_report(content: bytes) -> Report:
    """A report from the bytes of its file, of this or an earlier version of finery."""
    found: Any = json.loads(content)
    json.dumps(found, ensure_ascii=False).encode()  # half a character can't be written
    stored = msgspec.convert(found, _Stored)
    if (version := stored.get("version", 1)) > VERSION:
        raise ValueError(f"a newer finery wrote it, in version {version}")
    details = dict(stored["details"])
    exports = [
        {**export, "comparison": export if "interval" in export else None}
        for export in details.pop("exports", ())
    ]
    same = {name: details.pop(name) for name in _SAME if details.get(name) is not None}
    scores = _in_one(stored["scores"], stored["intervals"])
    facts = {"rows": stored["rows"], "scores": scores, "probes": stored.get("probes", {})}
    report = msgspec.convert(facts | same | {"exports": exports, "extra": details}, Report)
    for model, draws in stored.get("draws", {}).items():
        for metric, drawn in draws.items():
            report.scores[model][metric].draws = array("d", drawn).tolist()
    return report


def _in_one(
    scores: Mapping[str, Mapping[str, float | None]],
    intervals: Mapping[str, Mapping[str, Interval | None]],
) -> dict[str, Any]:
    return {
        name: {
            metric: {"value": value, "interval": intervals.get(name, {}).get(metric)}
            for metric, value in of.items()
            if value is not None
        }
        for name, of in scores.items()
    }
