"""What people see, as values: sections, and the parts that they consist of.

A view returns these, and finery shows them in a terminal, on a page and as Markdown. A part knows
nothing of where it is shown. Texts may be hostile: whatever shows them escapes them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast, get_args

from finery.util.text import (
    duration,
    in_line,
    in_points,
    likely,
    p_text,
    percent,
    quantity,
    shortened,
    signed,
    size,
)

if TYPE_CHECKING:
    from finery.rows import Row
    from finery.rows.report import Plot as ReportPlot

Tone = Literal["", "good", "bad", "warning", "soft", "strong"]
"""How a text looks, by what it means."""
Unit = Literal[
    "", "count", "share", "likely", "difference", "change", "p", "seconds", "dollars", "bytes",
    "duration",
]  # fmt: skip
"""Of a number: `count` is whole; `share` is from 0 to 1 and `likely` is a probability that may be
near 1, both shown in percent; `difference` is one of two shares, in points, and `change` one of
other numbers; `p` is a p-value; `seconds` may be milliseconds, and `duration` hours."""
Interval = tuple[float, float]
MOST_CLASSES = 6
"""Maximum number of classes that are all listed. Of more, only the most and least frequent."""
LONGEST_VALUE = 40
"""Maximum characters of a class or of a changed fact."""
LONGEST_FACT = 300
"""Maximum characters of a fact."""
MOST_PAIRS = 10
"""Maximum number of confused pairs of classes that are listed."""
MISSING = "–"


# -- texts and numbers -----------------------------------------------------------------------------


class Text(NamedTuple):
    """A text with a tone; a part, or a cell of a table.

    is_code: it keeps its line breaks and spaces. A page shows what is between backticks as code.
    """

    text: str
    tone: Tone = ""
    is_code: bool = False


class Hint(NamedTuple):
    """What a command shows in addition. Only a terminal shows it, since pages run no commands."""

    text: str


class Quantity(NamedTuple):
    """A number with its unit, and its 95 % interval if there is one."""

    value: float
    unit: Unit = ""
    interval: Interval | None = None
    tone: Tone = ""


Cell: TypeAlias = str | int | float | Text | list[Text] | Quantity | None
"""A cell of a table: a text, also one in several tones, a number, or None for a missing value.

Floats are shown to three decimals, numbers with a unit as `Quantity`.
"""


class Facts(NamedTuple):
    """Names and what is known of them: cells or JSON values, which are shown in words."""

    facts: Mapping[str, Any]


class Tile(NamedTuple):
    """One of the most important numbers."""

    name: str
    value: Cell
    note: str = ""


class Tiles(NamedTuple):
    """The most important numbers, which a page shows large."""

    tiles: Sequence[Tile]


# -- tables ----------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A column of a table.

    priority: where there is too little room, columns with a higher number are left out first; those
    with 1 never are. has_interval: whether a column next to it shows the intervals of its numbers;
    a page always shows them below the numbers. has_bars: whether a page draws the numbers as bars,
    or as dots on their intervals.
    """

    title: str
    priority: int = 1
    has_interval: bool = True
    has_bars: bool = False


class Table(NamedTuple):
    """A table. Columns without titles are shown without a head.

    note: below it. tones: of its rows. shown: rows that a page shows at once; the others are
    folded.
    """

    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    note: str = ""
    tones: Sequence[Tone] = ()
    shown: int = 300


class Pair(NamedTuple):
    """`rows` rows of class `right` were answered with class `answered`."""

    right: str
    answered: str
    rows: int


class Matrix(NamedTuple):
    """How often each class is answered, by column, where each is expected, by row.

    examples: (right, answered) → an example of it, which may be left out.
    """

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    title: str = ""
    examples: Mapping[tuple[str, str], str] = {}

    def pairs(self) -> list[Pair]:
        """The confused pairs, the most frequent first; ties in the order of labels."""
        pairs = [
            Pair(self.labels[i], self.labels[j], rows)
            for i, line in enumerate(self.counts)
            for j, rows in enumerate(line)
            if rows and i != j
        ]
        return sorted(pairs, key=lambda pair: -pair.rows)

    def pairs_title(self, shown: int) -> str:
        """The title of a list of the first `shown` pairs."""
        count = len(self.pairs())
        more = f", {shown} of {count:,} pairs" if count > shown else ""
        return f"{self.title}, most often confused{more}"


# -- plots -----------------------------------------------------------------------------------------


class Axis(NamedTuple):
    """An axis of a plot. has_zero: whether it begins at 0.

    scale: `auto` is logarithmic for a vertical axis whose values are far apart and no shares. For
    the plot's own vertical axis, `choice` is the same, and a page offers both scales.
    """

    label: str = ""
    unit: Unit = ""
    scale: Literal["auto", "linear", "log", "choice"] = "auto"
    has_zero: bool = False


class Series(NamedTuple):
    """A series of a plot, as (x, y) by ascending x; values that aren't numbers are left out.

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


class Plot(NamedTuple):
    """A plot. at: an x that is marked, and what it is."""

    series: Sequence[Series]
    x: Axis = Axis()
    y: Axis = Axis()
    title: str = ""
    at: tuple[float, str] | None = None
    note: str = ""


def plot_of(stored: "ReportPlot") -> Plot:
    """A plot that an evaluator keeps in its report."""
    series = [Series(of.label, of.points, of.style, of.band) for of in stored.series]
    x = Axis(stored.x, scale="log" if stored.is_x_log else "linear")
    unit = cast("Unit", stored.unit if stored.unit in get_args(Unit) else "")
    y = Axis(stored.y, unit, "log" if stored.is_y_log else "linear")
    return Plot(series, x, y, stored.title)


# -- rows and answers ------------------------------------------------------------------------------


class Field(NamedTuple):
    """A labelled text of a record.

    side: which of the compared models it is about; empty: all. is_folded: a page shows it on
    demand, a terminal the beginning of it.
    """

    label: str
    text: str
    tone: Tone = ""
    side: str = ""
    is_folded: bool = False


class Record(NamedTuple):
    """A row, or an answer to one, as its fields.

    verdicts: side → whether it is right; None: not judged. tags: what a page filters by. data: the
    same as JSON values, for `--jsonl`. title: the row in a line, where a `Change` shows no more.
    """

    fields: Sequence[Field]
    verdicts: Mapping[str, bool | None] = {}
    tags: Mapping[str, str] = {}
    data: Mapping[str, Any] = {}
    title: str = ""


class Records(NamedTuple):
    """Rows or answers, read when they are shown, and once.

    total: how many there are. shown: maximum number in a terminal. side: the one whose wrong
    answers a terminal shows. more: how to see the others there. A page has filters by verdicts and
    tags, if records have any. Markdown has no records: a report may be public.
    """

    records: Iterable[Record]
    total: int
    title: str = ""
    shown: int = 3
    side: str = ""
    more: str = ""


class Tree(NamedTuple):
    """A line of texts, and the trees below it. Markdown has none, as of records."""

    texts: Sequence[Text]
    branches: "Sequence[Tree]" = ()


class Change(NamedTuple):
    """A row that differs between two builds; None where it was added or removed."""

    before: Record | None
    after: Record | None


ROLES: Mapping[str, Tone] = {"assistant": "good", "chosen": "good", "rejected": "bad"}
"""Tones of a row's turns."""


def record_of(row: "Row", longest: int = 300) -> Record:
    """A row as its id and turns, or as its columns if it isn't a conversation.

    longest: characters of a column.
    """
    from finery.rows.parts import is_conversation, labelled_turns

    turns = [
        Field(role, text if is_conversation(row) else shortened(text, longest), ROLES.get(role, ""))
        for role, text in labelled_turns(row)
    ]
    return Record([Field("id", str(row["id"]), "soft"), *turns] if "id" in row else turns)


# -- statements ------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """An answer to a reader's question, for the beginning of a page.

    Its first sentence is the summary. tone: `open` for what wasn't measured, `info` for a figure
    that is neither good nor bad. rank: low ones come first. A page and a report shows one for each
    question, and a terminal shows none: a `Remark` does.
    """

    question: str
    answer: str
    tone: Literal["good", "bad", "open", "info"] = "open"
    rank: int = 5


class Remark(NamedTuple):
    """A remark about an output, also at the end of a build; advice: how to do better."""

    text: str
    advice: str = ""
    severity: Literal["info", "warning"] = "info"

    @property
    def paragraph(self) -> str:
        """Both as sentences."""
        return " ".join(f"{part.rstrip('.')}." for part in (self.text, self.advice) if part)


class Section(NamedTuple):
    """A titled group of parts. A part may be a section, with a smaller title.

    rank: on pages of several views, low ones come first. note: after the title. is_folded: a page
    shows its parts on demand. parts may be a generator: what it raises is shown in its place.
    """

    title: str
    parts: "Iterable[Part]"
    rank: int = 50
    note: str = ""
    is_folded: bool = False


Part: TypeAlias = (
    Text | Hint | Facts | Tiles | Table | Matrix | Plot | Record | Records | Tree | Change
    | Finding | Remark | Section
)  # fmt: skip


def every_part(parts: Iterable[Part]) -> Iterator[Part]:
    """All parts, also those of sections in them."""
    for part in parts:
        yield part
        if isinstance(part, Section):
            yield from every_part(part.parts)


# -- cells as text ---------------------------------------------------------------------------------


def cell_text(cell: Cell) -> str:
    """A cell in words, without its interval."""
    match cell:
        case None:
            return MISSING
        case Text():
            return cell.text
        case list():
            return "".join(text.text for text in cell)
        case Quantity():
            return number_text(cell.value, cell.unit)
        case bool():
            return "yes" if cell else "no"
        case int():
            return f"{cell:,}"
        case float():
            return quantity(cell) if 0 < abs(cell) < 0.01 else f"{cell:z.3f}"
    return str(cell)


def interval_text(cell: Cell) -> str:
    """The interval of a cell; empty if it has none."""
    if not isinstance(cell, Quantity) or cell.interval is None:
        return ""
    ends = [number_text(end, cell.unit) for end in cell.interval]
    if cell.unit in ("share", "likely"):
        ends = [end.removesuffix(" %") for end in ends]
    return (" to " if cell.unit in ("difference", "change") else " – ").join(ends)


def number_text(value: float, unit: Unit = "") -> str:
    """A number in words: `91.7 %`, `+1.2`, `< 0.001`, `12.3 ms`, `1.5 MiB`."""
    match unit:
        case "share":
            return percent(value)
        case "likely":
            return likely(value)
        case "difference":
            return in_points(value)
        case "p":
            return p_text(value)
        case "change":
            return signed(value, ".4g")
        case "count":
            return f"{value:,.0f}"
        case "bytes":
            return size(value)
        case "duration":
            return duration(value)
        case "seconds" | "dollars":
            return quantity(value, unit)
    return f"{value:,}" if isinstance(value, int) else quantity(value)


def cell_tone(cell: Cell) -> Tone:
    """The tone of a cell."""
    return cell.tone if isinstance(cell, Text | Quantity) else ""


def is_number(cell: Cell) -> bool:
    """Whether a cell is a number or missing."""
    return cell is None or isinstance(cell, int | float | Quantity)


def as_column(column: Column | str) -> Column:
    """A column that may only be its title."""
    return Column(column) if isinstance(column, str) else column


def columns_with_intervals(part: Table) -> Iterator[tuple[Column, list[Cell], bool]]:
    """(column, cells, whether all are numbers); after some, a column of their intervals."""
    for index, column in enumerate(map(as_column, part.columns)):
        cells = [row[index] for row in part.rows]
        yield column, cells, all(map(is_number, cells))
        intervals: list[Cell] = [Text(interval_text(cell), "soft") for cell in cells]
        if column.has_interval and any(map(interval_text, cells)):
            yield column._replace(title="95 % CI"), intervals, True


def as_text(value: Any) -> str:
    """A JSON value or a cell in words: `yes`, `a, b`, `rows 20, seeds (rows 4, distinct_1 0.8)`."""
    if isinstance(value, Text | Quantity):
        interval = interval_text(value)
        return f"{cell_text(value)}{f' (95 % CI {interval})' if interval else ''}"
    if isinstance(value, list | Mapping):
        named = value.items() if isinstance(value, Mapping) else [("", each) for each in value]
        parts = [(name, as_text(of), isinstance(of, list | Mapping)) for name, of in named]
        words = (f"{name} ({of})" if is_nested else f"{name} {of}" for name, of, is_nested in parts)
        return ", ".join(word.strip() for word in words) or "none"
    if value is None or isinstance(value, bool):
        return {None: MISSING, True: "yes", False: "no"}[value]
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"{text[:12]}…" if is_digest else text


def fact_text(value: Any) -> str:
    """The value of a fact in words; of many counts, the most and the least frequent."""
    is_long = isinstance(value, dict) and len(value) > MOST_CLASSES
    if is_long and all(isinstance(number, int) for number in value.values()):
        return shortened(counts_in_words(value, "kinds"), LONGEST_FACT)
    return shortened(as_text(value), LONGEST_FACT)


def counts_in_words(counts: Mapping[str, int], noun: str = "classes") -> str:
    """The number of classes with the most and the least frequent ones: `3 classes: a 9, b 5`."""
    often = Counter(counts).most_common()
    listed = often if len(often) <= MOST_CLASSES else [*often[:3], ("…", 0), *often[-2:]]
    words = [
        f"{shortened(in_line(name), LONGEST_VALUE)} {count:,}" if count else name
        for name, count in listed
    ]
    return f"{len(often):,} {noun}: {', '.join(words)}" if len(often) > 1 else ", ".join(words)
