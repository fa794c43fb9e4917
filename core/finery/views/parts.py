"""What people see, as values: sections, and the parts that they consist of.

A view returns these, and finery shows them in a terminal, on a page and as Markdown. A part knows
nothing of where it is shown. Texts may be hostile: whatever shows them escapes them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

from msgspec.structs import replace

from finery.rows.report import Interval, Plot, Remark, ReportTable, Unit
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

Tone = Literal["", "good", "bad", "warning", "soft", "strong"]
"""How a text looks, by what it means."""
MOST_CLASSES = 6
"""Maximum number of classes that are all listed. Of more, only the most and least frequent."""
LONGEST_VALUE = 40
"""Maximum characters of a class or of a changed fact."""
LONGEST_FACT = 300
"""Maximum characters of a fact."""
MOST_PAIRS = 10
"""Maximum number of confused pairs of classes that are listed."""
MOST_CHANGED = 20
"""Maximum number of rows of a table that are shown as changed."""
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

    @classmethod
    def of_changes(cls, changes: Mapping[str, Sequence[Any]]) -> "Facts":
        """Facts that differ. changes: name → the old value and the new one."""
        return cls(
            {
                name: " → ".join(
                    shortened(in_line(as_text(value)), LONGEST_VALUE) for value in both
                )
                for name, both in changes.items()
            }
        )


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


INTERVAL_ENDS = ["95 % CI low", "95 % CI high"]
"""The columns of a `ReportTable` with the ends of an interval, after its number."""


def as_table(stored: Table | ReportTable) -> Table:
    """A table that may be one of a report, with the ends of an interval at its number."""
    if isinstance(stored, Table):
        return stored
    heads = stored.columns
    columns: list[list[Cell]] = []
    titles = []
    for number, head in enumerate(heads):
        if head in INTERVAL_ENDS:
            first = number - INTERVAL_ENDS.index(head)
            if first > 0 and heads[first : first + 2] == INTERVAL_ENDS:
                continue
        unit = cast(Unit, stored.units.get(head, ""))
        has_ends = heads[number + 1 : number + 3] == INTERVAL_ENDS
        titles.append(head)
        columns.append(
            [
                _stored_cell(row[number], unit, row[number + 1 : number + 3] if has_ends else ())
                for row in stored.rows
            ]
        )
    return Table(titles, list(zip(*columns, strict=True)), stored.title)


def _stored_cell(value: Any, unit: Unit, ends: Sequence[Any]) -> Cell:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None if value is None else str(value)
    low, high = ends or (None, None)
    interval = None if low is None or high is None else (low, high)
    return Quantity(value, unit, interval) if unit or interval else value


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
    """What differs between two builds: a row, which is None where it was added or removed, a table
    of a report with the same columns, or a plot."""

    before: Record | ReportTable | Plot | None
    after: Record | ReportTable | Plot | None

    @property
    def records(self) -> "tuple[Record | None, Record | None]":
        """The row on both sides."""
        before, after = (of if isinstance(of, Record) else None for of in self)
        return before, after

    def as_part(self) -> Table | Plot | None:
        """The rows of a table that differ, or a plot with both sides; None of a row."""
        if isinstance(self.before, ReportTable) and isinstance(self.after, ReportTable):
            return _changed_rows(self.before, self.after)
        if isinstance(self.before, Plot) and isinstance(self.after, Plot):
            sides = {"A": self.before.series, "B": self.after.series}
            series = [replace(s, label=f"{n}: {s.label}") for n, of in sides.items() for s in of]
            return replace(self.after, series=series)
        return None


def _changed_rows(before: ReportTable, after: ReportTable) -> Table:
    """The rows that differ, paired by their texts."""
    tables = as_table(before), as_table(after)
    old, new = (_by_texts(table.rows) for table in tables)
    rows: list[list[Cell]] = []
    for texts in dict.fromkeys([*new, *old]):
        one, other = old.get(texts), new.get(texts)
        if one != other:
            cells = zip(one or repeat(None), other or repeat(None), strict=False)
            rows.append([_changed_cell(*pair) for pair in cells])
    more = len(rows) - MOST_CHANGED
    note = f"… and {more:,} more rows that differ" if more > 0 else ""
    return Table(tables[1].columns, rows[:MOST_CHANGED], f"{after.title}, A → B", note)


def _by_texts(rows: Iterable[Sequence[Cell]]) -> dict[Any, Sequence[Cell]]:
    """The texts of a row, and how many rows before it have the same → the row."""
    seen: Counter[tuple[str, ...]] = Counter()
    keyed = {}
    for row in rows:
        texts = tuple(cell for cell in row if isinstance(cell, str))
        keyed[texts, seen[texts]] = row
        seen[texts] += 1
    return keyed


def _changed_cell(before: Cell, after: Cell) -> Cell:
    texts = cell_text(before), cell_text(after)
    if before == after or isinstance(before or after, str):
        return before if after is None else after
    return [Text(texts[0]), Text(" → "), Text(texts[1])]


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


class Verdict(NamedTuple):
    """What to do with what a build made, in a sentence that begins in lower case.

    A report, the end of a build and `finery show` begin with it, in bold, where
    `Context.gates` asks for one. tone: `good` to ship it, `open` to ship it with a reservation,
    `bad` not to. ship: the model, None for none yet.
    """

    text: str
    tone: Literal["good", "bad", "open"] = "open"
    ship: str | None = None


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
    Text | Hint | Facts | Tiles | Table | ReportTable | Matrix | Plot | Record | Records | Tree
    | Change | Finding | Verdict | Remark | Section
)  # fmt: skip
"""What a section may consist of."""


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
