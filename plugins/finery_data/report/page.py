"""What pages show of data sets: a report on some of them, with plots, and what was dropped."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from finery import Dataset
from finery.advanced import counted, in_line, percent, shortened, some_of
from finery.rows import Row, snippet
from finery.rows.dropped import read_dropped, read_findings
from finery.views import (
    Axis,
    Cell,
    Column,
    Field,
    Hint,
    Part,
    Plot,
    Quantity,
    Record,
    Records,
    Section,
    Series,
    Table,
    Text,
    record_of,
)
from finery_data.duplicates import EXAMPLES, Overlap
from finery_data.report.facts import SPOKEN, Facts, Lengths, Report

LONGEST_TEXT = 3_000
"""Characters of a turn that are shown."""
LONGEST_LABEL = 60
"""Characters of a row's label that are shown."""
LONGEST_CLASS = 80
"""Characters of a class that are shown."""
LONGEST_SNIPPET = 160
"""Characters of a dropped row that are shown."""
MOST_MISSING = 8
"""Classes that are named where a data set has no row of them."""
_SHAPES = (
    ("rejected", "preferences"),
    ("messages", "conversations"),
    ("completion", "prompts and answers"),
    ("prompt", "prompts"),
    ("text", "documents"),
)


def by_output(datasets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The data sets by name; outputs of one step by that of the output alone: `train`."""
    parts = {name: name.partition(".") for name in datasets}
    steps = {step for step, _, _ in parts.values()}
    if len(datasets) < 2 or len(steps) > 1 or not all(output for _, _, output in parts.values()):
        return dict(datasets)
    return {parts[name][2]: dataset for name, dataset in datasets.items()}


def report_sections(report: Report) -> Iterator[Section]:
    """The sections, from the most important numbers to sample rows."""
    facts = report.facts
    names = [f.name for f in facts]
    total = sum(f.rows for f in facts)
    several = f" in {len(facts)} data sets" if len(facts) > 1 else ""
    rows = [[name, *map(measure, facts)] for name, measure in _measures(report)]
    glance = Table(["", *names], [row for row in rows if any(cell is not None for cell in row[1:])])
    yield Section("At a glance", [Text(f"{counted(total, 'row')}{several}", "soft"), glance])
    unit = (
        f"in tokens of {report.tokenizer}, without its chat template"
        if report.unit == "tokens"
        else "in characters: no model's tokenizer was named"
    )
    yield Section("Lengths", [Text(unit, "soft"), *_lengths(report)])
    if classes := list(_classes(facts)):
        yield Section("Classes", classes)
    yield Section("Copies", _copies(report))
    yield from _losses(facts)
    if kinds := list(_kinds(facts)):
        yield Section("What rows are made of", kinds)
    note = Text("drawn by chance, and the longest of all", "soft")
    yield Section("Rows", [note, *(_samples(f, is_named=len(facts) > 1) for f in facts)])


# -- numbers -------------------------------------------------------------------------------------


def _measures(report: Report) -> Iterator[tuple[str, Callable[[Facts], Cell]]]:
    total = sum(f.rows for f in report.facts)
    yield "rows", lambda f: f.rows if f.rows == total else _share(f.rows, total)
    yield "kind", lambda f: next((s for column, s in _SHAPES if f.columns[column]), "other rows")
    for part in _parts(report.facts):
        yield f"median {part}, {report.unit}", partial(_length_at, part=part, share=0.5)
        yield f"longest {part}, {report.unit}", partial(_length_at, part=part, share=1)
    for name in _class_names(report.facts):
        yield f"classes of {name}", partial(_class_count, name=name)
    yield "rows with a system prompt", lambda f: _share(f.systems, f.rows)
    yield "different system prompts", lambda f: len(f.system_prompts) or None
    yield "rows with tools", lambda f: _share(f.tools, f.rows)
    yield "made from other rows", lambda f: _share(f.parents, f.rows)
    yield "copies of earlier rows", lambda f: _share(f.copies.exact, f.rows)
    yield "near copies", lambda f: _share(f.copies.near, f.copies.searched)
    yield "conflicting labels", lambda f: _share(f.copies.conflicts, f.copies.searched)
    yield "garbled text, such as Ã¶ for ö", lambda f: _share(f.garbled, f.rows)
    yield "dropped", lambda f: sum(f.counts("dropped").values()) or None
    yield "found fault with", lambda f: sum(f.counts("findings").values()) or None


def _class_count(facts: Facts, name: str) -> Cell:
    return len(facts.classes.get(name, ())) or None


def _length_at(facts: Facts, part: str, share: float) -> Cell:
    lengths = facts.lengths.get(part)
    return lengths.at(share) if lengths else None


def _share(count: int, whole: int) -> Cell:
    return f"{count:,} ({percent(count / whole)})" if count else None


def _parts(facts: Sequence[Facts]) -> list[str]:
    return list(dict.fromkeys(part for f in facts for part in f.lengths if len(f.lengths[part])))


def _lengths(report: Report) -> Iterator[Section]:
    """A plot and quantiles of each part; no plot where all lengths are the same."""
    for part in _parts(report.facts):
        # The colour is the data set's, whatever others lack the part.
        every = [(f.name, f.lengths[part]) if part in f.lengths else None for f in report.facts]
        named = dict(one for one in every if one is not None)
        differ = min(v.at(0) for v in named.values()) < max(v.at(1) for v in named.values())
        heads = ["", "shortest", "5 %", "median", "95 %", "longest", "all"]
        table = Table(heads, [[name, *_quantiles(v)] for name, v in named.items()])
        yield Section(part, [histogram_of(every, report.unit), table] if differ else [table])


def _quantiles(lengths: Lengths) -> list[int]:
    return [*map(lengths.at, (0, 0.05, 0.5, 0.95, 1)), lengths.total()]


# -- classes and other counts --------------------------------------------------------------------


def _class_names(facts: Sequence[Facts]) -> list[str]:
    return list(dict.fromkeys(name for f in facts for name in f.classes))


def _classes(facts: Sequence[Facts]) -> Iterator[Section]:
    for name in _class_names(facts):
        counts = [f.classes.get(name, Counter()) for f in facts]
        table = counts_table("class", [f.name for f in facts], counts)
        yield Section(name, [*_class_remarks(facts, counts), table])


def _class_remarks(facts: Sequence[Facts], counts: Sequence[Counter[str]]) -> Iterator[Text]:
    """The balance of the classes, and those that one data set has and another lacks."""
    every = set().union(*counts)
    for one, classes in zip(facts, counts, strict=True):
        if not classes:
            continue
        of = f"{one.name}: " if len(facts) > 1 else ""
        yield Text(f"{of}{len(classes):,} classes, {_balance(classes)}")
        missing = sorted(every - set(classes))
        if missing:
            names = [shortened(name, LONGEST_CLASS // 2) for name in missing]
            yield Text(f"{of}no row of {some_of(names, MOST_MISSING)}", "warning")


def _balance(counts: Counter[str]) -> str:
    most, least = max(counts.values()), min(counts.values())
    if len(counts) == 1:
        return "only one"
    return f"{most:,} to {least:,} rows" if most != least else f"{most:,} rows each"


def _kinds(facts: Sequence[Facts]) -> Iterator[Section]:
    """Turns, roles, languages, sources, each only if there are several."""
    kinds = [
        ("Languages", f"guessed of {SPOKEN:,} prompts at most", [f.languages for f in facts]),
        ("Sources", "what the column `source` names", [f.sources for f in facts]),
    ]
    if any(len(f.turns) > 1 for f in facts):  # else the roles, too, are of one kind
        turns = [
            Counter({counted(n, "turn"): c for n, c in sorted(f.turns.items())}) for f in facts
        ]
        kinds = [
            ("Turns of a row", "without the system prompt", turns),
            ("Roles", "turns of each", [f.roles for f in facts]),
            *kinds,
        ]
    for name, note, counts in kinds:
        if any(counts):
            yield Section(name, [counts_table("", [f.name for f in facts], counts)], note=note)


SHOWN = 24
"""Values that are shown at once; the others are folded away."""


def counts_table(title: str, names: Sequence[str], counts: Sequence[Counter[str]]) -> Table:
    """The counts of some data sets with bars and shares, the most frequent value first.

    title: what is counted. names: of the data sets.
    """
    every = sum(counts, Counter[str]())
    columns = [c for n in names for c in (Column(n, has_bars=True), Column("share", priority=2))]
    rows: list[list[Cell]] = []
    for value, _ in sorted(every.items(), key=lambda item: (-item[1], item[0])):
        row: list[Cell] = [shortened(value, LONGEST_CLASS) if value else Text("empty", "soft")]
        for count in counts:
            # A data set without any has none to count, which 0 would hide.
            total = count.total()
            share = Quantity(count[value] / total, "share") if total else None
            row += [count[value] if total else None, share]
        rows.append(row)
    return Table([title, *columns], rows, shown=SHOWN)


BINS = 28
"""Bins of a histogram, about."""
WIDE = 6
"""Times the median, from which on the longest makes the scale logarithmic."""


class Bins(NamedTuple):
    """Bins [edge, next edge) that all data sets share; the last one holds its end, too."""

    edges: list[int]
    log: bool


def bins_of(several: Sequence[Lengths]) -> Bins:
    """Bins for some lengths, all of which are looked at together."""
    found = [lengths for lengths in several if len(lengths)]
    least, most = min(v.at(0) for v in found), max(v.at(1) for v in found)
    middle = max(1, min(v.at(0.5) for v in found))
    if most > WIDE * middle:
        edges = [0, 1] if least == 0 else [least]  # those of 0 have no place on the axis
        edge, factor = float(edges[-1]), ((most + 1) / edges[-1]) ** (1 / BINS)
        while edges[-1] <= most:
            edge *= factor
            edges.append(max(edges[-1] + 1, math.ceil(edge)))
        return Bins(edges, True)
    step = math.ceil((most + 1 - least) / BINS)
    return Bins([*range(least, most + 1 + step, step)], False)


def histogram_of(named: Sequence[tuple[str, Lengths] | None], unit: str) -> Plot:
    """For each data set, the share of its rows in each bin.

    named: the data sets in the order of their colours; None for one without such lengths.
    """
    several = [(i, *one) for i, one in enumerate(named) if one is not None and len(one[1])]
    bins = bins_of([lengths for _, _, lengths in several])
    lines, empty = [], []
    for colour, name, lengths in several:
        counts = lengths.counts(bins.edges)
        shares = [count / sum(counts) for count in counts]
        points = [*zip(bins.edges, [*shares, shares[-1]], strict=True)]
        if bins.log and bins.edges[0] == 0:
            del points[0]
            empty += [f"{counted(counts[0], 'row')} of {name}"] if counts[0] else []
        lines.append(Series(name, points, "steps", colour=colour))
    across = Axis(unit, scale="log" if bins.log else "linear")
    note = f"Without {some_of(empty, len(empty))} of length 0." if empty else ""
    return Plot(lines, across, Axis("share of rows", "share", has_zero=True), note=note)


# -- copies, drops, findings ---------------------------------------------------------------------


def _copies(report: Report) -> Iterator[Part]:
    """Repetitions within a data set and between two; one line for all that have none."""
    several = len(report.facts) > 1
    clean = []
    for facts in report.facts:
        copies = facts.copies
        name = f"{facts.name}: " if several else ""
        if copies.exact or copies.near:
            verb = "repeats" if copies.exact < 2 else "repeat"
            exact = counted(copies.exact, "row") if copies.exact else "no row"
            yield Text(f"{name}{exact} {verb} an earlier one, {copies.near or 'none'} nearly")
            yield _listing(copies.examples)
        else:
            clean.append(facts.name)
        if count := copies.conflicts:
            verb = "contradicts" if count == 1 else "contradict"
            text = "another label for the same prompt, or nearly the same"
            yield Text(f"{name}{counted(count, 'row')} {verb} others: {text}", "warning")
            yield _listing(copies.conflict_examples)
    if clean:
        of = f" of {', '.join(clean)}" if several else ""
        yield Text(f"No row{of} repeats the prompt and answer of an earlier one, not even nearly.")
    cut = [f.copies.searched for f in report.facts if f.copies.searched < f.rows]
    if cut:
        rows = counted(max(cut), "row")
        yield Text(f"Near copies were looked for in the first {rows} of each data set.", "soft")
    yield from overlap_parts(report.overlaps)


def _listing(lines: Sequence[str]) -> Table:
    return Table([""], [[line] for line in lines])


def overlap_parts(overlaps: Iterable[Overlap]) -> Iterator[Part]:
    """How many rows of each pair copy prompts of the other, with examples."""
    for pair in overlaps:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in pair.counts.most_common())
        found = reasons or "no copies or near copies of prompts"
        text = f"{pair.one} against {pair.other}: {found}{pair.limits}"
        yield Text(text, "warning" if reasons else "")
        if pair.examples:
            yield _listing(pair.examples)


def _losses(facts: Sequence[Facts]) -> Iterator[Section]:
    parts: list[Part] = []
    for each in facts:
        of_one = list(drop_parts(each.dataset, every=False))
        parts += [Section(each.name, of_one)] if of_one and len(facts) > 1 else of_one
    if parts:
        note = Text("by the step that made the data set", "soft")
        yield Section("Dropped rows and findings", [note, *parts])


def drops_data(dataset: Dataset, *, every: bool) -> dict[str, Any]:
    """The dropped rows and the findings, the first few of each reason or all, for `--json`."""
    return {
        name: list(_first(lines, key, every=every))
        for name, lines, key in _lists(dataset)
        if name in dataset.meta
    }


def drop_parts(dataset: Dataset, *, every: bool) -> Iterator[Part]:
    """The dropped rows and the findings, if any.

    every: all of them in their order; otherwise the first few by reason.
    """
    for name, lines, key in _lists(dataset):
        counts = dataset.meta.get(name) or {}
        kind = "dropped" if name == "dropped" else "found"
        if every:
            records = map(partial(_record, key=key), lines)
            total = sum(counts.values())
            yield Records(records, total, kind, shown=total)
            continue
        by_reason = defaultdict[str, list[dict[str, Any]]](list)
        for line in _first(lines, key, every=False):
            by_reason[line[key]].append(line)
        for reason, first in by_reason.items():
            count = counts.get(reason, len(first))
            parts: list[Part] = []
            for line in first:
                parts.append(Text(f"  {_row_name(line)}  {line['detail']}"))
                parts += [Text(f"    {text}", "soft") for text in _texts(line)]
            if count > len(first):
                parts.append(Hint(f"  … and {count - len(first):,} more (--dropped)"))
            yield Section(f"{kind}: {reason} {count:,}", parts)


def _lists(dataset: Dataset) -> Iterator[tuple[str, Iterable[dict[str, Any]], str]]:
    """(what they are in `meta`, lines, what they are counted by)."""
    yield "dropped", read_dropped(dataset), "reason"
    yield "findings", read_findings(dataset), "check"


def _first(lines: Iterable[dict[str, Any]], key: str, *, every: bool) -> Iterator[dict[str, Any]]:
    seen = defaultdict[str, int](int)
    for line in lines:
        seen[line[key]] += 1
        if every or seen[line[key]] <= EXAMPLES:
            yield line


def _record(line: Mapping[str, Any], key: str) -> Record:
    head = Field(line[key], f"{_row_name(line)}  {line['detail']}", "warning")
    return Record([head, *(Field("", text, "soft") for text in _texts(line))])


def _row_name(line: Mapping[str, Any]) -> str:
    number = f"row {line['row']} " if isinstance(line.get("row"), int) else ""
    return f"{number}{line['id']}"


def _texts(line: Mapping[str, Any]) -> Iterator[str]:
    """The beginning of the row, and of the answer that was made for it."""
    if isinstance(line.get("row"), dict):
        yield snippet(line["row"], LONGEST_SNIPPET)
    if answer := (line.get("made") or {}).get("answer"):
        yield f"answer: {shortened(in_line(answer), LONGEST_SNIPPET)}"


# -- rows ----------------------------------------------------------------------------------------


def _samples(facts: Facts, *, is_named: bool) -> Records:
    """The sampled rows and the longest."""
    longest, rows = facts.longest, facts.samples
    if longest is not None and longest not in rows:
        rows = [*rows, longest]
    records = [_sample(row, "the longest" if row == longest else "") for row in rows]
    return Records(records, len(records), facts.name if is_named else "")


def _sample(row: Row, note: str) -> Record:
    label = f"label: {shortened(str(row['label']), LONGEST_LABEL)}" if "label" in row else ""
    head = " · ".join(part for part in (str(row.get("id", "")), label, note) if part)
    turns = [field for field in record_of(row, LONGEST_TEXT).fields if field.label != "id"]
    return Record([Field("id", head, "soft"), *map(_shorten, turns)])


def _shorten(turn: Field) -> Field:
    """The turn with at most `LONGEST_TEXT` characters, and how many are left out."""
    more = len(turn.text) - LONGEST_TEXT
    if more <= 0:
        return turn
    return turn._replace(text=f"{turn.text[:LONGEST_TEXT]}… ({more:,} more characters)")
