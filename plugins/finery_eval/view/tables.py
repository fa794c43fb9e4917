"""Tables of scores, and the tables that an evaluator keeps in its report."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from finery.rows.report import Report, Score
from finery.rows.report import Table as ReportTable
from finery.util.text import counted, in_points, likely, percent, quantity, visible
from finery_eval.steps.curve import CURVE, CurveResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

LOW, HIGH = "95 % CI low", "95 % CI high"
"""The columns that evaluators write the ends of an interval in."""
LEAST, GAP = 16, 3
"""The narrowest column of texts, and the space between two columns, in characters."""

WIDEST = 10_000
"""A terminal width that any table fits in."""
SMALLEST_P = 0.001
"""Smaller p-values are shown as `< 0.001`."""


# -- scores ----------------------------------------------------------------------------------------


def comparable(reports: Mapping[str, Report]) -> list[dict[str, Report]]:
    """Step → report, in groups: those with the same metrics on equally many rows."""
    groups: dict[Any, dict[str, Report]] = {}
    for step, report in reports.items():
        groups.setdefault((report.rows, tuple(headline(report))), {})[step] = report
    return list(groups.values())


def headline(report: Report) -> list[str]:
    """The metrics to show, in order: what the evaluator names, else all."""
    return report.headline or list(next(iter(report.scores.values()), {}))


def own_words(report: Report) -> list[str]:
    """Statements of the evaluator about its result, sentence by sentence."""
    curve = report.part(CURVE, CurveResult)
    return [*report.words, *(curve.words if curve else ())]


def print_scores(console: "Console", reports: Mapping[str, Report]) -> None:
    """Print the scores of some reports with the same metrics, by the step that judged.

    The first metric comes with its 95 % interval.
    """
    report = next(iter(reports.values()))
    title, metrics = counted(report.rows, "row"), headline(report)
    models = []
    for step, of in reports.items():
        for model, scores in of.scores.items():
            texts = [score_texts(scores.get(metric), metric, of) for metric in metrics]
            cells = [*(texts[0] if texts else ()), *(value for value, _ in texts[1:])]
            models.append((model, step, cells))
    names = [*metrics[:1], *(["95 % CI"] if metrics else []), *metrics[1:]]
    table = new_table(title)
    table.add_column("model", no_wrap=True)
    if is_named := "" not in reports:
        table.add_column("evaluation", style="dim", no_wrap=True)
    for index, name in enumerate(names):
        table.add_column(name, justify="right", style="dim" if index == 1 else None, no_wrap=True)
    for model, step, cells in models:
        table.add_row(model, *([step] if is_named else []), *cells)
    console.print(table if fits(console, table) else _by_metric(title, names, models, is_named))
    parts = [of for each in reports.values() for of in each.applies.values()]
    for metric in dict.fromkeys(metric for of in parts for metric in of):
        fewest, most = min(ns := [of[metric] for of in parts if metric in of]), max(ns)
        if not most:  # shown as missing
            continue
        rows = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        console.print(f"{metric}: applies to {rows} of {title}", style="dim", markup=False)
    for legend in dict.fromkeys(of.legend for of in reports.values() if of.legend):
        console.print(legend, style="dim", markup=False)


def print_interval_note(console: "Console", reports: Mapping[str, Report]) -> None:
    """Print what the intervals account for, if there are any."""
    with_intervals = [
        report
        for report in reports.values()
        if any(score.interval for of in report.scores.values() for score in of.values())
    ]
    what = "the choice of test rows only, not the seed of a training"
    for text in dict.fromkeys(report.intervals_cover or what for report in with_intervals):
        console.print(f"95 % CI: covers {text}", style="dim")


def score_texts(score: Score | None, metric: str, report: Report) -> tuple[str, str]:
    """(score, 95 % interval) in percent, or as numbers if the metric is no share."""
    if score is None:
        return "—", ""
    bounds, is_share, unit = "", report.is_share(metric), report.units.get(metric)
    if score.interval:
        low, high = score.interval
        bounds = (
            f"{100 * low:.1f} – {100 * high:.1f}"
            if is_share
            else f"{quantity(low, unit)} – {quantity(high, unit)}"
        )
    return percent(score.value) if is_share else quantity(score.value, unit), bounds


def fits(console: "Console", table: "Table", most: int = WIDEST) -> bool:
    """Whether a table is no wider than the terminal, and than `most` columns."""
    unlimited = console.options.update(max_width=WIDEST)
    return console.measure(table, options=unlimited).maximum <= min(console.width, most)


def _by_metric(
    title: str, names: Sequence[str], models: Sequence[tuple[str, str, list[str]]], is_named: bool
) -> "Table":
    """A row for each metric."""
    table = new_table(title)
    table.add_column("", no_wrap=True)
    for model, *_ in models:
        table.add_column(model, justify="right")
    if is_named:
        table.add_row("evaluation", *(step for _, step, _ in models), style="dim")
    for index, name in enumerate(names):
        table.add_row(name, *(of[index] for *_, of in models), style="dim" if index == 1 else None)
    return table


def new_table(title: str) -> "Table":
    """An empty table in the style of all these."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title, title_justify="left", title_style="dim", box=box.SIMPLE_HEAD, pad_edge=False
    )


# -- tables of evaluators --------------------------------------------------------------------------


class Column(NamedTuple):
    """A column as text. is_number: whether no cell may wrap."""

    head: str
    cells: list[str]
    is_number: bool

    @property
    def least(self) -> int:
        """The narrowest that it can be: only its head, and cells of text, wrap at words."""
        parts = [*self.head.split(), *(self.cells if self.is_number else [])]
        longest = max((len(cell) for cell in self.cells), default=0)
        return max([min(LEAST, longest), *map(len, parts)])


def print_table(console: "Console", data: ReportTable) -> None:
    """Print a table of text, numbers and None, see `finery_eval.evaluator.table`."""
    print_columns(console, data.title, _columns(data))


def print_columns(
    console: "Console", title: str, columns: Sequence[Column], styles: Sequence[str] = ()
) -> None:
    """Print columns as a table. styles: of its rows.

    Where it is too wide, heads wrap at words; then it is printed in parts with the same first
    column, so that no number wraps.
    """
    for part in _parts(columns, console.width):
        console.print(_table(title, part, _widths(part, console.width), styles))
        title = ""


def _columns(data: ReportTable) -> list[Column]:
    """The columns, with both ends of an interval in one."""
    columns, heads = [], data.columns
    for index, head in enumerate(heads):
        values, unit = [row[index] for row in data.rows], data.units.get(head)
        if head == HIGH and heads[index - 1] == LOW:
            continue
        if head == LOW and heads[index + 1 : index + 2] == [HIGH]:
            ends = [(row[index], row[index + 1]) for row in data.rows]
            columns.append(Column("95 % CI", [_interval(*of, unit) for of in ends], True))
            continue
        is_number = not any(isinstance(value, str) for value in values)
        cells = [visible(cell_text(value, unit)) for value in values]
        columns.append(Column(visible(head), cells, is_number))
    return columns


def _interval(low: Any, high: Any, unit: str | None) -> str:
    if low is None or high is None:
        return cell_text(None, unit)
    ends = [cell_text(end, unit).removesuffix(" %") for end in (low, high)]
    return (" to " if unit == "difference" else " – ").join(ends)


def _parts(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """The columns in as many parts as are necessary, each with the first column."""
    first, *others = columns
    part = [first]
    for column in others:
        if len(part) > 1 and _width([*part, column]) > width:
            yield part
            part = [first]
        part.append(column)
    yield part


def _width(columns: Sequence[Column]) -> int:
    return sum(column.least for column in columns) + GAP * len(columns)


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """The width of each column: what is left goes to cells first, then to heads."""
    widths = [column.least for column in columns]
    room = width - _width(columns)
    for wanted in ([max(map(len, c.cells), default=0) for c in columns],
                   [len(c.head) for c in columns]):  # fmt: skip
        for index, most in enumerate(wanted):
            more = max(0, min(most - widths[index], room))
            widths[index] += more
            room -= more
    return widths


def _table(
    title: str, columns: Sequence[Column], widths: Sequence[int], styles: Sequence[str]
) -> "Table":
    table = new_table(title)
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        justify: Literal["left", "right"] = "left" if index == 0 else "right"
        table.add_column(plain(column.head), justify=justify, width=width, overflow="fold")
    for number, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*map(plain, row), style=styles[number] if styles else None)
    return table


def plain(text: str) -> "Text":
    """Text from rows or models, without rich's markup."""
    from rich.text import Text

    return Text(visible(text))


def cell_text(value: Any, unit: str | None) -> str:
    """A cell as text. unit: of its numbers; None for plain ones."""
    if value is None:
        return "–"
    if isinstance(value, int | float) and unit:
        return _FORMATS[unit](value)
    if isinstance(value, float):
        return quantity(value) if 0 < abs(value) < 0.01 else f"{value:z.3f}"
    return str(value)


def p_text(value: float) -> str:
    """A p-value as text."""
    return f"< {SMALLEST_P}" if value < SMALLEST_P else f"{value:.3f}"


_FORMATS: Mapping[str, Callable[[float], str]] = {
    "share": percent, "difference": in_points, "p": p_text, "likely": likely,
    **{unit: partial(quantity, unit=unit) for unit in ("seconds", "dollars")},
}  # fmt: skip
