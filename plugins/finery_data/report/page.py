"""A report on data sets as sections of a page."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from finery import Dataset
from finery.rows import Row, snippet
from finery.util.text import counted, percent, some_of
from finery.views import (
    Cell,
    Field,
    Part,
    Record,
    Records,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    record_of,
)
from finery_data.duplicates import Overlap
from finery_data.report.facts import SPOKEN, Facts, Listed, Report
from finery_data.report.plots import counts_table, cut_to, histogram_of
from finery_data.report.rowfacts import Lengths

LONGEST_TEXT = 3_000
"""Characters of a turn that are shown."""
LONGEST_LABEL = 60
"""Characters of a row's label that are shown."""
LONGEST_MISSING = 40
"""Characters of a class that a data set has no row of."""
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
    glance = [[name, *(measure(f) for f in facts)] for name, measure in _measures(report)]
    rows = [row for row in glance if any(cell is not None for cell in row[1:])]
    tiles = Tiles(_tiles(report))
    subtitle = Text(f"{counted(total, 'row')}{several}", "soft")
    yield Section("At a glance", [subtitle, tiles, Table(["", *names], rows)])
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


def _tiles(report: Report) -> list[Tile]:
    if len(report.facts) > 1:
        rows = max(1, sum(f.rows for f in report.facts))
        return [Tile(f.name, f.rows, f"rows, {percent(f.rows / rows)}") for f in report.facts]
    (facts,) = report.facts
    tiles = [Tile("rows", facts.rows, _shape(facts))]
    for part, lengths in facts.lengths.items():
        if len(lengths):
            note = f"{report.unit}, at most {lengths.at(1):,}"
            tiles.append(Tile(f"median {part}", lengths.at(0.5), note))
    for name, counts in list(facts.classes.items())[:2]:
        tiles.append(Tile(f"classes of {name}", len(counts), _balance(counts)))
    gone = sum(one.count for one in facts.dropped.values())
    if gone:
        tiles.append(Tile("dropped", gone, f"of {facts.rows + gone:,} rows"))
    return tiles


def _shape(facts: Facts) -> str:
    """A description of the rows."""
    shapes = (shape for column, shape in _SHAPES if facts.columns[column])
    return next(shapes, "other rows")


def _measures(report: Report) -> Iterator[tuple[str, Callable[[Facts], Cell]]]:
    yield "rows", lambda f: f.rows
    yield "kind", _shape
    for part in _parts(report.facts):
        yield f"median {part}, {report.unit}", partial(_at, part=part, share=0.5)
        yield f"longest {part}, {report.unit}", partial(_at, part=part, share=1)
    for name in _class_names(report.facts):
        yield f"classes of {name}", partial(_classes_of, name=name)
    yield "rows with a system prompt", lambda f: _part(f.systems, f.rows)
    yield "different system prompts", lambda f: _count(len(f.system_prompts))
    yield "rows with tools", lambda f: _part(f.tools, f.rows)
    yield "made from other rows", lambda f: _part(f.parents, f.rows)
    yield "copies of earlier rows", lambda f: _part(f.copies.exact, f.rows)
    yield "near copies", lambda f: _part(f.copies.near, f.copies.searched)
    yield "conflicting labels", lambda f: _part(f.copies.conflicts, f.copies.searched)
    yield "garbled text, such as Ã¶ for ö", lambda f: _part(f.garbled, f.rows)
    yield "dropped", lambda f: _count(sum(one.count for one in f.dropped.values()))
    yield "found fault with", lambda f: _count(sum(one.count for one in f.found.values()))


def _classes_of(facts: Facts, name: str) -> Cell:
    return _count(len(facts.classes.get(name, ())))


def _at(facts: Facts, part: str, share: float) -> Cell:
    lengths = facts.lengths.get(part)
    return lengths.at(share) if lengths else None


def _count(count: int) -> Cell:
    return count or None


def _part(count: int, whole: int) -> Cell:
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
            names = [cut_to(name, LONGEST_MISSING) for name in missing]
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


# -- copies, drops, findings ---------------------------------------------------------------------


def _copies(report: Report) -> Iterator[Part]:
    """Repetitions within a data set and between two; one line for all that have none."""
    several = len(report.facts) > 1
    clean = []
    for facts in report.facts:
        copies = facts.copies
        name = f"{facts.name}: " if several else ""
        if copies.exact or copies.near:
            yield Text(f"{name}{_repeat(copies.exact)}, {copies.near or 'none'} nearly")
            yield _listing(copies.examples)
        else:
            clean.append(facts.name)
        if count := copies.conflicts:
            verb = "contradicts" if count == 1 else "contradict"
            text = "another label for the same prompt, or nearly the same"
            yield Text(f"{name}{counted(count, 'row')} {verb} others: {text}", "warning")
            yield _listing(copies.conflict_examples)
    for overlap in report.overlaps:
        yield from _overlap(overlap) if overlap.counts else ()
    if clean:
        of = f" of {', '.join(clean)}" if several else ""
        yield Text(f"No row{of} repeats the prompt and answer of an earlier one, not even nearly.")
    apart = [f"{o.one} and {o.other}" for o in report.overlaps if not o.counts]
    if apart:
        yield Text(f"No prompt is shared, not even nearly, by {', '.join(apart)}.")
    cut = [f.copies.searched for f in report.facts if f.copies.searched < f.rows]
    if cut:
        rows = counted(max(cut), "row")
        yield Text(f"Near copies were looked for in the first {rows} of each data set.", "soft")


def _listing(lines: Sequence[str]) -> Table:
    return Table([""], [[line] for line in lines])


def _overlap(overlap: Overlap) -> Iterator[Part]:
    total = overlap.counts.total()
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in overlap.counts.most_common())
    verb = "gives" if total == 1 else "give"
    what = f"{counted(total, 'row')} of {overlap.one} {verb} rows of {overlap.other} away"
    yield Text(f"{what}: {reasons}", "warning")
    yield _listing(overlap.examples)


def _repeat(count: int) -> str:
    if not count:
        return "no row repeats an earlier one"
    return f"{counted(count, 'row')} {'repeats' if count == 1 else 'repeat'} an earlier one"


def _losses(facts: Sequence[Facts]) -> Iterator[Section]:
    """Dropped rows and findings by reason, with examples."""
    for title, lists in (
        ("Dropped rows", [f.dropped for f in facts]),
        ("Findings", [f.found for f in facts]),
    ):
        if not any(lists):
            continue
        counts = [Counter({reason: one.count for reason, one in of.items()}) for of in lists]
        names = [f.name for f in facts]
        reasons = [
            Section(
                _summary(f.name if len(facts) > 1 else "", reason, one),
                [Table(["", ""], [
                    (detail, Text(snippet(row, 200) if row else "", "soft"))
                    for detail, row in one.examples
                ])],
                is_folded=True,
            )
            for f, of in zip(facts, lists, strict=True)
            for reason, one in of.items()
        ]  # fmt: skip
        note = Text("by the step that made the data set", "soft")
        yield Section(title, [note, counts_table("", names, counts, has_shares=False), *reasons])


def _summary(of: str, reason: str, one: Listed) -> str:
    title = f"{of}: {reason}" if of else reason
    few = len(one.examples) < one.count
    return f"{title}, {one.count:,}{f', the first {len(one.examples)}' if few else ''}"


# -- rows ----------------------------------------------------------------------------------------


def _samples(facts: Facts, *, is_named: bool) -> Records:
    """The sampled rows and the longest."""
    longest = facts.longest
    rows = [_sample(row, "the longest" if row == longest else "") for row in facts.samples]
    if longest is not None and longest not in facts.samples:
        rows.append(_sample(longest, "the longest"))
    return Records(rows, len(rows), facts.name if is_named else "")


def _sample(row: Row, note: str) -> Record:
    label = f"label: {cut_to(str(row['label']), LONGEST_LABEL)}" if "label" in row else ""
    head = " · ".join(part for part in (str(row.get("id", "")), label, note) if part)
    turns = [field for field in record_of(row, LONGEST_TEXT).fields if field.label != "id"]
    cut = [field._replace(text=cut_to(field.text, LONGEST_TEXT)) for field in turns]
    return Record([Field("id", head, "soft"), *cut])
