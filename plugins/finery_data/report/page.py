"""A report as one HTML page that loads no other files and runs no scripts.

This module computes the content of the page; `report.html.jinja` has the markup, and escapes it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from finery import Dataset
from finery.rows import Row, snippet
from finery.rows.parts import labelled_turns
from finery.util.text import counted, percent, some_of
from finery.views import render_page
from finery_data.duplicates import Overlap
from finery_data.report.facts import SPOKEN, Facts, Listed, Report
from finery_data.report.plots import Bars, Histogram, bars_of, cut_to, histogram_of
from finery_data.report.rowfacts import Lengths

PAGE = "finery_data.report/report.html.jinja"
MANY = 12
"""Number of classes from which on a list has two columns in a separate section."""
LONGEST_TEXT = 3_000
"""Characters of a turn that are shown."""
LONGEST_LABEL = 60
"""Characters of a row's label that are shown."""
LONGEST_MISSING = 40
"""Characters of a class that a data set has no row of."""
MOST_MISSING = 8
"""Classes that are named where a data set has no row of them."""
ROLES = ("system", "user", "assistant", "tool", "chosen", "rejected")
"""Roles that have a colour."""
_SHAPES = (
    ("rejected", "preferences"),
    ("messages", "conversations"),
    ("completion", "prompts and answers"),
    ("prompt", "prompts"),
    ("text", "documents"),
)
TableRow = tuple[str, list[str]]
"""(title, a cell for each column)."""


def by_output(datasets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The data sets by name; outputs of one step by that of the output alone: `train`."""
    parts = {name: name.partition(".") for name in datasets}
    steps = {step for step, _, _ in parts.values()}
    if len(datasets) < 2 or len(steps) > 1 or not all(output for _, _, output in parts.values()):
        return dict(datasets)
    return {parts[name][2]: dataset for name, dataset in datasets.items()}


def render(title: str, report: Report) -> str:
    """The page. title: the recipe's and the step's name."""
    facts = report.facts
    total = sum(facts.rows for facts in report.facts)
    several = f" in {len(report.facts)} data sets" if len(report.facts) > 1 else ""
    glance = [(name, [measure(f) for f in facts]) for name, measure in _measures(report)]
    return render_page(
        PAGE,
        title=title,
        subtitle=f"{counted(total, 'row')}{several}",
        names=[f.name for f in facts],
        keys=[f.name for f in facts] if len(facts) > 1 else [],
        tiles=_tiles(report),
        glance=[(name, cells) for name, cells in glance if set(cells) != {"–"}],  # – means none
        unit=f"in tokens of {report.tokenizer}, without its chat template"
        if report.unit == "tokens"
        else "in characters: no model's tokenizer was named",
        lengths=_lengths(report),
        classes=_classes(facts),
        copies=_copies(report),
        losses=list(_losses(facts)),
        kinds=list(_kinds(facts)),
        samples=[(f.name, _samples(f)) for f in facts],
        roles=ROLES,
        many=MANY,
    )


# -- numbers -------------------------------------------------------------------------------------


Tile = tuple[str, str, str]
"""(name, value, note)."""


def _tiles(report: Report) -> list[Tile]:
    if len(report.facts) > 1:
        rows = max(1, sum(f.rows for f in report.facts))
        return [(f.name, f"{f.rows:,}", f"rows, {percent(f.rows / rows)}") for f in report.facts]
    (facts,) = report.facts
    tiles = [("rows", f"{facts.rows:,}", _shape(facts))]
    for part, lengths in facts.lengths.items():
        if len(lengths):
            note = f"{report.unit}, at most {lengths.at(1):,}"
            tiles.append((f"median {part}", f"{lengths.at(0.5):,}", note))
    for name, counts in list(facts.classes.items())[:2]:
        tiles.append((f"classes of {name}", f"{len(counts):,}", _balance(counts)))
    gone = sum(one.count for one in facts.dropped.values())
    if gone:
        tiles.append(("dropped", f"{gone:,}", f"of {facts.rows + gone:,} rows"))
    return tiles


def _shape(facts: Facts) -> str:
    """A description of the rows."""
    shapes = (shape for column, shape in _SHAPES if facts.columns[column])
    return next(shapes, "other rows")


def _measures(report: Report) -> Iterator[tuple[str, Callable[[Facts], str]]]:
    yield "rows", lambda f: f"{f.rows:,}"
    yield "kind", _shape
    for part in _parts(report.facts):
        yield f"median {part}, {report.unit}", partial(_at, part=part, share=0.5)
        yield f"longest {part}, {report.unit}", partial(_at, part=part, share=1)
    for name in _class_names(report.facts):
        yield f"classes of {name}", partial(_classes_of, name=name)
    yield "rows with a system prompt", lambda f: _part(f.systems, f.rows)
    yield "different system prompts", lambda f: _many(len(f.system_prompts))
    yield "rows with tools", lambda f: _part(f.tools, f.rows)
    yield "made from other rows", lambda f: _part(f.parents, f.rows)
    yield "copies of earlier rows", lambda f: _part(f.copies.exact, f.rows)
    yield "near copies", lambda f: _part(f.copies.near, f.copies.searched)
    yield "conflicting labels", lambda f: _part(f.copies.conflicts, f.copies.searched)
    yield "garbled text, such as Ã¶ for ö", lambda f: _part(f.garbled, f.rows)
    yield "dropped", lambda f: _many(sum(one.count for one in f.dropped.values()))
    yield "found fault with", lambda f: _many(sum(one.count for one in f.found.values()))


def _classes_of(facts: Facts, name: str) -> str:
    return _many(len(facts.classes.get(name, ())))


def _at(facts: Facts, part: str, share: float) -> str:
    lengths = facts.lengths.get(part)
    return f"{lengths.at(share):,}" if lengths else "–"


def _many(count: int) -> str:
    return f"{count:,}" if count else "–"


def _part(count: int, whole: int) -> str:
    return f"{count:,} ({percent(count / whole)})" if count else "–"


def _parts(facts: Sequence[Facts]) -> list[str]:
    return list(dict.fromkeys(part for f in facts for part in f.lengths if len(f.lengths[part])))


def _lengths(report: Report) -> list[tuple[str, Histogram | None, list[TableRow]]]:
    """(part, plot, quantiles) of each part; no plot where all lengths are the same."""
    plots = []
    for part in _parts(report.facts):
        # The colour is the data set's, whatever others lack the part.
        every = [(f.name, f.lengths[part]) if part in f.lengths else None for f in report.facts]
        named = dict(one for one in every if one is not None)
        differ = min(v.at(0) for v in named.values()) < max(v.at(1) for v in named.values())
        plot = histogram_of(every, report.unit, part) if differ else None
        plots.append((part, plot, [(name, _quantiles(v)) for name, v in named.items()]))
    return plots


def _quantiles(lengths: Lengths) -> list[str]:
    return [*(f"{lengths.at(s):,}" for s in (0, 0.05, 0.5, 0.95, 1)), f"{lengths.total():,}"]


# -- classes and other counts --------------------------------------------------------------------


class Counted(NamedTuple):
    """A count by value: its name, remarks as (warning, text), and a bar for each value."""

    name: str
    bars: Bars
    remarks: list[tuple[str, str]] = []
    note: str = ""


def _class_names(facts: Sequence[Facts]) -> list[str]:
    return list(dict.fromkeys(name for f in facts for name in f.classes))


def _classes(facts: Sequence[Facts]) -> list[Counted]:
    classes = []
    for name in _class_names(facts):
        counts = [f.classes.get(name, Counter()) for f in facts]
        classes.append(Counted(name, bars_of(counts), list(_class_remarks(facts, counts))))
    return classes


def _class_remarks(
    facts: Sequence[Facts], counts: Sequence[Counter[str]]
) -> Iterator[tuple[str, str]]:
    """The balance of the classes, and those that one data set has and another lacks."""
    every = set().union(*counts)
    for one, classes in zip(facts, counts, strict=True):
        if not classes:
            continue
        of = f"{one.name}: " if len(facts) > 1 else ""
        yield "", f"{of}{len(classes):,} classes, {_balance(classes)}"
        missing = sorted(every - set(classes))
        if missing:
            names = [cut_to(name, LONGEST_MISSING) for name in missing]
            yield f"{of}no row of", some_of(names, MOST_MISSING)


def _balance(counts: Counter[str]) -> str:
    most, least = max(counts.values()), min(counts.values())
    if len(counts) == 1:
        return "only one"
    return f"{most:,} to {least:,} rows" if most != least else f"{most:,} rows each"


def _kinds(facts: Sequence[Facts]) -> Iterator[Counted]:
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
            yield Counted(name, bars_of(counts), note=note)


# -- copies, drops, findings ---------------------------------------------------------------------


class Finding(NamedTuple):
    """A paragraph: whose, a warning, the rest, examples; soft: of less weight."""

    text: str
    of: str = ""
    warning: str = ""
    examples: list[str] = []
    soft: bool = False


def _copies(report: Report) -> list[Finding]:
    """Repetitions within a data set and between two; one line for all that have none."""
    several = len(report.facts) > 1
    findings, clean = [], []
    for facts in report.facts:
        copies = facts.copies
        name = facts.name if several else ""
        if copies.exact or copies.near:
            text = f"{_repeat(copies.exact)}, {copies.near or 'none'} nearly"
            findings.append(Finding(text, name, examples=copies.examples))
        else:
            clean.append(facts.name)
        if count := copies.conflicts:
            warning = (
                f"{counted(count, 'row')} {'contradicts' if count == 1 else 'contradict'} others"
            )
            text = "another label for the same prompt, or nearly the same"
            findings.append(Finding(text, name, warning, copies.conflict_examples))
    findings += [_overlap(overlap) for overlap in report.overlaps if overlap.counts]
    if clean:
        of = f" of {', '.join(clean)}" if several else ""
        text = f"No row{of} repeats the prompt and answer of an earlier one, not even nearly."
        findings.append(Finding(text))
    apart = [f"{o.one} and {o.other}" for o in report.overlaps if not o.counts]
    if apart:
        text = f"No prompt is shared, not even nearly, by {', '.join(apart)}."
        findings.append(Finding(text))
    cut = [f.copies.searched for f in report.facts if f.copies.searched < f.rows]
    if cut:
        text = (
            f"Near copies were looked for in the first {counted(max(cut), 'row')} of each data set."
        )
        findings.append(Finding(text, soft=True))
    return findings


def _overlap(overlap: Overlap) -> Finding:
    total = overlap.counts.total()
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in overlap.counts.most_common())
    give = "gives" if total == 1 else "give"
    warning = f"{counted(total, 'row')} of {overlap.one} {give} rows of {overlap.other} away"
    return Finding(reasons, warning=warning, examples=overlap.examples)


def _repeat(count: int) -> str:
    if not count:
        return "no row repeats an earlier one"
    return f"{counted(count, 'row')} {'repeats' if count == 1 else 'repeat'} an earlier one"


def _losses(facts: Sequence[Facts]) -> Iterator[tuple[str, Bars, list[tuple[str, Any]]]]:
    """(title, bars, (summary, examples) by reason) of dropped rows, and of findings."""
    for title, lists in (
        ("Dropped rows", [f.dropped for f in facts]),
        ("Findings", [f.found for f in facts]),
    ):
        if not any(lists):
            continue
        counts = [Counter({reason: one.count for reason, one in of.items()}) for of in lists]
        reasons = [
            (
                _summary(f.name if len(facts) > 1 else "", reason, one),
                [(detail, snippet(row, 200) if row else "") for detail, row in one.examples],
            )
            for f, of in zip(facts, lists, strict=True)
            for reason, one in of.items()
        ]
        yield title, bars_of(counts, of_all=False), reasons


def _summary(of: str, reason: str, one: Listed) -> str:
    title = f"{of}: {reason}" if of else reason
    few = len(one.examples) < one.count
    return f"{title}, {one.count:,}{f', the first {len(one.examples)}' if few else ''}"


# -- rows ----------------------------------------------------------------------------------------


def _samples(facts: Facts) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(id, notes, turns) of the sampled rows and of the longest."""
    longest = facts.longest
    rows = [_sample(row, "the longest" if row == longest else "") for row in facts.samples]
    if longest is not None and longest not in facts.samples:
        rows.append(_sample(longest, "the longest"))
    return rows


def _sample(row: Row, note: str) -> tuple[str, str, list[tuple[str, str]]]:
    label = f"label: {cut_to(str(row['label']), LONGEST_LABEL)}" if "label" in row else ""
    turns = [(role, cut_to(text, LONGEST_TEXT)) for role, text in labelled_turns(row)]
    return str(row.get("id", "")), " · ".join(part for part in (label, note) if part), turns
