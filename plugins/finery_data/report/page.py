"""A report as one HTML page that loads nothing and runs nothing; what rows hold is escaped."""

import html
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from finery.rows import Row, snippet, split_turns
from finery.rows.parts import as_turns, compact, is_conversation, text_of
from finery_data.report.facts import EXAMPLES, SPOKEN, Facts, Listed, Overlap, Report
from finery_data.report.histogram import histogram
from finery_data.report.page_style import POLICY, STYLE
from finery_data.report.rowfacts import Lengths

BARS = 24
"""Bars of a list that are shown at once; the others are folded away."""
MOST_BARS = 300
"""Bars of a list that are on the page at all."""
MANY = 12
"""Bars from which on a list has two columns."""
LONGEST_TEXT = 3_000
"""Characters of a turn that are shown."""
LONGEST_NAME = 80
"""Characters of a class or a source that are shown."""
_SHAPES = (
    ("rejected", "preferences"),
    ("messages", "conversations"),
    ("completion", "prompts and answers"),
    ("prompt", "prompts"),
    ("text", "documents"),
)
_CONTROLS = {i: chr(0x2400 + i) for i in range(32) if chr(i) not in "\n\t"} | {127: "␡"}
_CONTROLS |= dict.fromkeys(range(128, 160), "�")


def render(title: str, report: Report) -> str:
    """The page. title: the recipe's and the step's name."""
    sections = "".join(_sections(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<title>{_text(title)}</title><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n<body><main>\n<h1>{_text(title)}</h1>"
        f"<p>{_text(_subtitle(report))}</p>\n{sections}"
        "<footer>Made by finery. The page loads nothing from the network and runs no script."
        "</footer>\n</main></body></html>\n"
    )


def _sections(report: Report) -> Iterator[str]:
    yield _tiles(report)
    yield _card("At a glance", _glance(report))
    yield _card("Lengths", _lengths(report), _unit_note(report))
    yield from _classes(report)
    yield _card("Copies", _copies(report))
    yield from _dropped(report)
    yield from _kinds(report)
    yield _card("Rows", _samples(report), "drawn by chance, and the longest of all")


def _card(title: str, body: str, note: str = "") -> str:
    small = f" <small>{_text(note)}</small>" if note else ""
    return f'<section class="card"><h2>{_text(title)}{small}</h2>{body}</section>\n'


def _subtitle(report: Report) -> str:
    total = sum(facts.rows for facts in report.facts)
    several = f" in {len(report.facts)} data sets" if len(report.facts) > 1 else ""
    return f"{_rows(total)}{several}"


def _unit_note(report: Report) -> str:
    if report.unit == "tokens":
        return f"in tokens of {report.tokenizer}, without its chat template"
    return "in characters: no model's tokenizer was named"


# -- numbers -------------------------------------------------------------------------------------


def _tiles(report: Report) -> str:
    """A tile for each data set; of a single one its few numbers."""
    total = max(1, sum(facts.rows for facts in report.facts))
    if len(report.facts) > 1:
        made = [
            _tile(f"{_key(i)}{_text(f.name)}", f"{f.rows:,}", f"rows, {f.rows / total:.1%}")
            for i, f in enumerate(report.facts)
        ]
        return f'<div class="tiles">{"".join(made)}</div>\n'
    (facts,) = report.facts
    made = [_tile("rows", f"{facts.rows:,}", _shape(facts))]
    for part, lengths in facts.lengths.items():
        if len(lengths):
            note = f"{report.unit}, at most {lengths.at(1):,}"
            made.append(_tile(f"median {part}", f"{lengths.at(0.5):,}", note))
    for name, counts in list(facts.classes.items())[:2]:
        made.append(_tile(_text(f"classes of {name}"), f"{len(counts):,}", _balance(counts)))
    gone = sum(one.count for one in facts.dropped.values())
    if gone:
        made.append(_tile("dropped", f"{gone:,}", f"of {facts.rows + gone:,} rows"))
    return f'<div class="tiles">{"".join(made)}</div>\n'


def _tile(name: str, value: str, note: str) -> str:
    return f'<div class="tile"><span>{name}</span><b>{value}</b><small>{_text(note)}</small></div>'


def _shape(facts: Facts) -> str:
    """What the rows are."""
    shapes = (shape for column, shape in _SHAPES if facts.columns[column])
    return next(shapes, "other rows")


def _glance(report: Report) -> str:
    rows = [(name, [_text(of(f)) for f in report.facts]) for name, of in _measures(report)]
    told = [(name, cells) for name, cells in rows if set(cells) != {"–"}]
    return f'<div class="glance">{_table([f.name for f in report.facts], told)}</div>'


def _measures(report: Report) -> Iterator[tuple[str, Callable[[Facts], str]]]:
    """(name, what it is of a data set) of what is compared at a glance; – : there is none."""
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
    return f"{count:,} ({count / whole:.1%})" if count else "–"


def _parts(facts: Sequence[Facts]) -> list[str]:
    return list(dict.fromkeys(part for f in facts for part in f.lengths if len(f.lengths[part])))


def _lengths(report: Report) -> str:
    plots = []
    for part in _parts(report.facts):
        # The colour is the data set's, whatever others lack the part.
        every = [(f.name, f.lengths[part]) if part in f.lengths else None for f in report.facts]
        named = dict(one for one in every if one is not None)
        plot = histogram(every, report.unit, part) if _differ(list(named.values())) else ""
        table = _quantiles(report.facts, named)
        plots.append(f"<div><h3>{_text(part)}</h3>{plot}{table}</div>")
    return f"{_legend(report.facts)}<div class=plots>{''.join(plots)}</div>"


def _differ(several: Sequence[Lengths]) -> bool:
    """Whether there is more than one length, and so something to plot."""
    return min(v.at(0) for v in several) < max(v.at(1) for v in several)


def _quantiles(facts: Sequence[Facts], named: Mapping[str, Lengths]) -> str:
    head = ["shortest", "5 %", "median", "95 %", "longest", "all"]
    rows = [
        (name, [f"{v.at(s):,}" for s in (0, 0.05, 0.5, 0.95, 1)] + [f"{v.total():,}"])
        for name, v in named.items()
    ]
    return _table(head, rows, keys=[f.name for f in facts] if len(facts) > 1 else None)


def _table(
    head: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
    keys: Sequence[str] | None = None,
) -> str:
    """A table; the cells are HTML. keys: data sets whose colours stand before the rows."""
    titles = "".join(f'<th scope="col">{_text(h)}</th>' for h in head)
    lines = "".join(
        f'<tr><th scope="row">{_key(keys.index(name)) if keys else ""}{_text(name)}</th>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return (f'<div class="scroll"><table><thead><tr><th scope="col"></th>{titles}</tr></thead>'
            f"<tbody>{lines}</tbody></table></div>")  # fmt: skip


def _legend(facts: Sequence[Facts]) -> str:
    if len(facts) < 2:
        return ""
    names = " &ensp; ".join(f"{_key(i)}{_text(f.name)}" for i, f in enumerate(facts))
    return f'<p class="soft">{names}</p>'


def _key(index: int) -> str:
    return f'<span class="key k{index % 6}" aria-hidden="true"></span>'


# -- classes and other counts --------------------------------------------------------------------


def _class_names(facts: Sequence[Facts]) -> list[str]:
    return list(dict.fromkeys(name for f in facts for name in f.classes))


def _classes(report: Report) -> Iterator[str]:
    names = _class_names(report.facts)
    if not names:
        return
    short, long = list[str](), list[str]()
    for name in names:
        counts = [f.classes.get(name, Counter()) for f in report.facts]
        note = _class_note(report.facts, counts)
        made = f"<div><h3>{_text(name)}</h3>{note}{_bars(counts)}</div>"
        (short if len(set().union(*counts)) < MANY else long).append(made)
    side_by_side = (
        f'<div class="plots">{"".join(short)}</div>' if len(short) > 1 else "".join(short)
    )
    body = f"{_legend(report.facts)}{side_by_side}{''.join(long)}"
    yield _card("Classes", body, _share_note(report))


def _share_note(report: Report) -> str:
    return "share of the rows of each data set" if len(report.facts) > 1 else "rows of each"


def _class_note(facts: Sequence[Facts], counts: Sequence[Counter[str]]) -> str:
    """How balanced they are, and what one data set lacks that another has."""
    every = set().union(*counts)
    notes = []
    for one, found in zip(facts, counts, strict=True):
        if not found:
            continue
        of = f"{one.name}: " if len(facts) > 1 else ""
        notes.append(f"<li>{_text(f'{of}{len(found):,} classes, {_balance(found)}')}</li>")
        missing = sorted(every - set(found))
        if missing:
            more = f" and {len(missing) - 8:,} more" if len(missing) > 8 else ""
            named = ", ".join(_cut(m, 40) for m in missing[:8])
            notes.append(f"<li><span class=warn>{_text(f'{of}no row of')}</span> "
                         f"{_text(f'{named}{more}')}</li>")  # fmt: skip
    return f'<ul class="plain">{"".join(notes)}</ul>'


def _balance(counts: Counter[str]) -> str:
    most, least = max(counts.values()), min(counts.values())
    if len(counts) == 1:
        return "only one"
    return f"{most:,} to {least:,} rows" if most != least else f"{most:,} rows each"


def _bars(counts: Sequence[Counter[str]], *, of_all: bool = True) -> str:
    """A bar for each value and data set; the less frequent ones folded away.

    of_all: as long as its share of the data set's rows, so that data sets can be compared; else as
    its number.
    """
    totals = [max(1, c.total()) if of_all else 1 for c in counts]
    every = sum(counts, Counter[str]())
    values = [v for v, _ in sorted(every.items(), key=lambda item: (-item[1], item[0]))]
    shares = {v: [c[v] / t for c, t in zip(counts, totals, strict=True)] for v in values}
    top = max((share for found in shares.values() for share in found), default=1) or 1
    lines = [_bar(v, [c[v] for c in counts], shares[v], top, of_all) for v in values[:MOST_BARS]]
    first, rest = lines[:BARS], lines[BARS:]
    more = len(values) - len(lines)
    left = f"<p class=soft>… and {more:,} more values</p>" if more else ""
    folded = (
        f"<details><summary>{len(rest):,} more</summary>{_bar_list(rest)}{left}</details>"
        if rest
        else ""
    )
    return _bar_list(first) + folded


def _bar_list(lines: Sequence[str]) -> str:
    many = " many" if len(lines) >= MANY else ""
    return f'<ul class="bars{many}">{"".join(lines)}</ul>'


def _bar(
    value: str, counts: Sequence[int], shares: Sequence[float], top: float, of_all: bool
) -> str:
    several = len(counts) > 1
    told = [f"{n:,}, {s:.1%}" if of_all else f"{n:,}" for n, s in zip(counts, shares, strict=True)]
    bars = "".join(
        f'<i class="k{i % 6}" style="{_width(share / top)}" title="{told[i]}"></i>'
        for i, share in enumerate(shares)
    )
    numbers = " · ".join(f"{n:,}" for n in counts) if several else told[0]
    track = "track of3" if several else "track"
    return (f'<li><span class="name">{_name(value)}</span>'
            f'<span class="{track}" aria-hidden="true">{bars}</span>'
            f'<span class="n">{numbers}</span></li>')  # fmt: skip


def _width(part: float) -> str:
    return f"width:{100 * part:.1f}%" if part else "width:0;min-width:0"


def _name(value: str) -> str:
    """A class's name, which may break behind an underscore or a slash."""
    text = _text(_cut(value, LONGEST_NAME)) or "<i>empty</i>"
    return text.replace("_", "_<wbr>").replace("/", "/<wbr>") if "&" not in text else text


def _kinds(report: Report) -> Iterator[str]:
    """Turns, roles, languages, sources: where there is more than one kind of them."""
    facts = report.facts
    parts = [
        ("Turns of a row", "without the system prompt",
         [Counter({_turns(n): c for n, c in sorted(f.turns.items())}) for f in facts]),
        ("Roles", "turns of each", [f.roles for f in facts]),
        ("Languages", f"guessed of {SPOKEN:,} prompts at most", [f.languages for f in facts]),
        ("Sources", "what the column `source` names", [f.sources for f in facts]),
    ]  # fmt: skip
    if all(len(f.turns) < 2 for f in facts):  # then the roles, too, are of one kind
        parts = parts[2:]
    shown = [
        f"<div><h3>{title} <small>{_text(note)}</small></h3>{_bars(counts)}</div>"
        for title, note, counts in parts
        if any(counts)
    ]
    if shown:
        yield _card("What rows are made of",
                    f'{_legend(facts)}<div class="plots">{"".join(shown)}</div>')  # fmt: skip


def _turns(count: int) -> str:
    return "1 turn" if count == 1 else f"{count:,} turns"


# -- copies, drops, findings ---------------------------------------------------------------------


def _copies(report: Report) -> str:
    """What repeats within a data set, and what is in two; what doesn't in a line for all."""
    parts, clean, apart = [], [], []
    for facts in report.facts:
        found = facts.copies
        of = f"<b>{_text(facts.name)}</b>: " if len(report.facts) > 1 else ""
        if not found.exact and not found.near:
            clean.append(facts.name)
        else:
            what = f"{_repeat(found.exact)}, {found.near or 'none'} nearly"
            parts.append(f"<p>{of}{_text(what)}</p>{_examples(found.examples)}")
    for overlap in report.overlaps:
        if overlap.counts:
            parts.append(_overlap(overlap))
        else:
            apart.append(f"{overlap.one} and {overlap.other}")
    if clean:
        of = f" of {', '.join(clean)}" if len(report.facts) > 1 else ""
        parts.append(f"<p>{_text(f'No row{of} repeats an earlier one, not even nearly.')}</p>")
    if apart:
        pairs = ", ".join(apart)
        parts.append(f"<p>{_text(f'No prompt is shared, not even nearly, by {pairs}.')}</p>")
    cut = [f.copies.searched for f in report.facts if f.copies.searched < f.rows]
    if cut:
        note = f"Near copies were looked for in the first {_rows(max(cut))} of each data set."
        parts.append(f'<p class="soft">{_text(note)}</p>')
    return "".join(parts)


def _overlap(overlap: Overlap) -> str:
    total = overlap.counts.total()
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in overlap.counts.most_common())
    give = "gives" if total == 1 else "give"
    what = f"{_rows(total)} of {overlap.one} {give} rows of {overlap.other} away"
    return (
        f'<p><span class="warn">{_text(what)}</span>: {_text(reasons)}</p>'
        f"{_examples(overlap.examples)}"
    )


def _repeat(count: int) -> str:
    if not count:
        return "no row repeats an earlier one"
    return f"{_rows(count)} {'repeats' if count == 1 else 'repeat'} an earlier one"


def _examples(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f'<ul class="plain">{"".join(f"<li>{_text(line)}</li>" for line in lines)}</ul>'


def _dropped(report: Report) -> Iterator[str]:
    """What was dropped and what was found, by reason, with the first few rows."""
    for title, lists in (
        ("Dropped rows", [f.dropped for f in report.facts]),
        ("Findings", [f.found for f in report.facts]),
    ):
        if not any(lists):
            continue
        counts = [Counter({reason: one.count for reason, one in found.items()}) for found in lists]
        bars = _legend(report.facts) + _bars(counts, of_all=False)
        shown = "".join(
            _reason(f.name if len(report.facts) > 1 else "", reason, one)
            for f, found in zip(report.facts, lists, strict=True)
            for reason, one in found.items()
        )
        yield _card(title, bars + shown, "by the step that made the data set")


def _reason(of: str, reason: str, one: Listed) -> str:
    lines = "".join(
        f"<li>{_text(detail)}{f'<br><small>{_text(snippet(row, 200))}</small>' if row else ''}</li>"
        for detail, row in one.examples
    )
    title = f"{of}: {reason}" if of else reason
    first = f", the first {EXAMPLES}" if one.count > EXAMPLES else ""
    return (f"<details><summary>{_text(f'{title}, {one.count:,}{first}')}</summary>"
            f'<ul class="plain">{lines}</ul></details>')  # fmt: skip


# -- rows ----------------------------------------------------------------------------------------


def _samples(report: Report) -> str:
    parts = []
    for facts in report.facts:
        title = f"<h3>{_text(facts.name)}</h3>" if len(report.facts) > 1 else ""
        longest = facts.longest
        rows = [_article(row, "the longest" if row == longest else "") for row in facts.samples]
        if longest is not None and longest not in facts.samples:
            rows.append(_article(longest, "the longest"))
        parts.append(f'{title}<div class="samples">{"".join(rows)}</div>')
    return "".join(parts)


def _article(row: Row, note: str = "") -> str:
    turns = "".join(_turn(role, text) for role, text in _said(row))
    label = f"label: {_cut(str(row['label']), 60)}" if "label" in row else ""
    facts = " · ".join(part for part in (label, note) if part)
    return (f"<article><header><code>{_text(str(row.get('id', '')))}</code>"
            f"<span>{_text(facts)}</span></header>{turns}</article>")  # fmt: skip


def _turn(role: str, text: str) -> str:
    kind = role if role in ("system", "user", "assistant", "tool", "chosen", "rejected") else ""
    return (f'<div class="turn {kind}"><b>{_text(role)}</b>'
            f"<div>{_text(_cut(text, LONGEST_TEXT))}</div></div>")  # fmt: skip


def _said(row: Row) -> Iterator[tuple[str, str]]:
    """(role, text) of each turn; of a row that is no conversation each column."""
    if not is_conversation(row):
        for column, value in row.items():
            if column not in ("id", "parents"):
                yield column, value if isinstance(value, str) else compact(value)
        return
    asked, answer = split_turns(row)
    for turn in [*asked, *(answer if "rejected" not in row else [])]:
        yield str(turn["role"]), text_of(turn)
    if "rejected" in row:
        yield "chosen", "\n".join(map(text_of, answer))
        yield "rejected", "\n".join(map(text_of, as_turns(row["rejected"])))


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most - 1]}… ({len(text) - most + 1:,} more characters)"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _text(text: str) -> str:
    """Text as HTML that shows it as it is, control characters as pictures."""
    return html.escape(text.translate(_CONTROLS))
