"""Sections as an HTML page, which is one file that loads nothing and runs no script but its own.

Everything that its templates print is escaped, with control characters as pictures, so they need no
care for what rows and models hold.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finery.rows.report import Plot, Remark, ReportTable
from finery.util.text import counted, in_line, visible
from finery.views import parts
from finery.views.svg import drawings_of

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from markupsafe import Markup


PAGE = "finery.views/templates/page.html.jinja"
STYLE, SCRIPT = "finery.views/templates/page.css", "finery.views/templates/records.js"


def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda v: visible(v) if isinstance(v, str) and not hasattr(v, "__html__") else v,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": _breakable, "code": _code, "texts": _texts, "tone": parts.cell_tone,
        "interval": parts.interval_text,
    }  # fmt: skip
    return environment


def load_template(name: str) -> "Template":
    """A template of a package, by `package/path`, which escapes what it prints."""
    return _environment().get_template(name)


def _source(template: str) -> str:
    from importlib.resources import files

    package, _, path = template.partition("/")
    return files(package).joinpath(path).read_text(encoding="utf-8")


def _breakable(text: str) -> "Markup":
    """The text as HTML, which may break after an underscore, a slash or a dot within a word."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([_/.])(?=[^\W\d])", r"\1<wbr>", str(escape(visible(text)))))


def _texts(cell: parts.Cell) -> list[parts.Text]:
    return cell if isinstance(cell, list) else [parts.Text(parts.cell_text(cell))]


def _code(text: str) -> "Markup":
    """The text as HTML, with what is between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))


MARKS: Mapping[str, tuple[str, str]] = {
    "good": ("✓", "yes"), "bad": ("✗", "no"), "open": ("?", "open"), "info": ("i", "figures"),
}  # fmt: skip
"""Tone → its mark, and the mark in words."""


def render_sections(
    title: str,
    sections: Iterable[parts.Section],
    *,
    intro: str = "",
    findings: Iterable[parts.Finding] = (),
    reload_seconds: int = 0,
    verdict: parts.Verdict | None = None,
    template: str = PAGE,
    script: str = "",
    values: Mapping[str, Any] = {},
) -> str:
    """A page of sections, below the verdict and the answers to the first questions.

    reload_seconds: how often browsers load it again, 0: never. template: one that extends that of
    pages, with a script and values of its own.
    """
    import base64
    import hashlib

    from markupsafe import Markup

    page = _Prepared()
    by_rank = sorted(sections, key=lambda section: section.rank)
    prepared = [(section.title, section.note, page.prepare(section.parts)) for section in by_rank]
    answers = ranked([*findings, *page.findings])
    script += _source(SCRIPT) if page.data else ""
    return load_template(template).render(
        title=title,
        intro=intro,
        verdict=verdict,
        summary=summary(answers),
        findings=[(f, *MARKS[f.tone]) for f in answers],
        sections=prepared,
        style=Markup(_source(STYLE)),
        data=[(name, _json(value)) for name, value in page.data.items()],
        script=Markup(script),
        hash=f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'",
        reload=reload_seconds,
        **values,
    )


def findings_in(section: parts.Section) -> list[parts.Finding]:
    """The findings of a section, wherever they are in it."""
    return [part for part in parts.every_part(section.parts) if isinstance(part, parts.Finding)]


def ranked(findings: Iterable[parts.Finding]) -> list[parts.Finding]:
    """The findings by rank, one for each question."""
    asked: dict[str, parts.Finding] = {}
    for finding in sorted(findings, key=lambda finding: finding.rank):
        asked.setdefault(finding.question, finding)
    return list(asked.values())


def summary(findings: Sequence[parts.Finding]) -> str:
    """All answers in a line: what is bad, or else how many questions are open."""
    bad = [
        f"{f.question} {f.answer.partition('. ')[0].rstrip('.')}."
        for f in findings
        if f.tone == "bad"
    ]
    unsure = sum(f.tone == "open" for f in findings)
    if bad:
        return " ".join([f"{counted(len(bad), 'problem')}.", *bad])
    asked = sum(f.tone != "info" for f in findings)
    some = f", but {unsure} of {counted(asked, 'question')} {'is' if unsure == 1 else 'are'} open"
    return f"No problem was found{some if unsure else ''}."


def _json(value: Any) -> "Markup":
    """JSON that can't end its element, with control characters as pictures."""
    from markupsafe import Markup

    text = json.dumps(_visible(value), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {str(name): _visible(of) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(each) for each in value]
    return value


# -- sections of values ----------------------------------------------------------------------------

MATRIX_LABELS = 14
"""Classes that a page shows a matrix of; of more, only the pairs that are confused."""
MOST_ROWS = 1_000
"""Rows of a table that a page has."""


class _Prepared:
    """The parts of sections, prepared for the template, and what the page needs besides."""

    def __init__(self) -> None:
        self.findings: list[parts.Finding] = []
        self.data: dict[str, Any] = {}

    def prepare(self, items: Iterable[parts.Part]) -> list[dict[str, Any]]:
        """Each as a mapping with its `kind`, without what a page doesn't show."""
        return [prepared for part in items if (prepared := self._part(part))]

    def _part(self, part: parts.Part) -> dict[str, Any] | None:
        match part:
            case parts.Text():
                return {"kind": "text", **part._asdict()}
            case Remark():
                tone: parts.Tone = "warning" if part.severity == "warning" else ""
                return self._part(parts.Text(part.paragraph, tone))
            case parts.Facts():
                facts = [(name, parts.fact_text(value)) for name, value in part.facts.items()]
                return {"kind": "facts", "facts": facts} if facts else None
            case parts.Tiles():
                tiles = [(of.name, parts.cell_text(of.value), of.note) for of in part.tiles]
                return {"kind": "tiles", "tiles": tiles}
            case parts.Table() | ReportTable():
                return _table(parts.as_table(part))
            case parts.Matrix():
                return _matrix(part)
            case Plot():
                if drawings := drawings_of(part):
                    at = part.at[1] if part.at else ""
                    drawn = {"title": part.title, "note": part.note, "at": at}
                    return {"kind": "plot", **drawn, "drawings": drawings}
            case parts.Record():
                return {"kind": "record", "fields": part.fields}
            case parts.Records():
                return self._records(part)
            case parts.Tree():
                return {"kind": "tree", "tree": part}
            case parts.Change():
                if (shown := part.as_part()) is not None:
                    return self._part(shown)
                rows = [record for record in part.records if record]
                return {"kind": "records", "title": "", "records": rows}
            case parts.Section():
                inner = {**part._asdict(), "parts": self.prepare(part.parts)}
                return {"kind": "section", **inner} if inner["parts"] else None
            case parts.Finding():
                self.findings.append(part)
            case parts.Hint() | parts.Verdict():
                pass
        return None

    def _records(self, part: parts.Records) -> dict[str, Any] | None:
        """As they are, or with filters if they have verdicts or tags."""
        records = list(part.records)
        sides = list(dict.fromkeys(side for record in records for side in record.verdicts))
        tags = list(dict.fromkeys(tag for record in records for tag in record.tags))
        if not records:
            return None
        if not sides and not tags:
            return {"kind": "records", "title": part.title, "records": records}
        name = f"records-{len(self.data)}"
        self.data[name] = {
            "sides": sides,
            "side": sides.index(part.side) if part.side in sides else -1,
            "tags": tags,
            "records": [
                {
                    "fields": [
                        [f.label, f.text, f.tone,
                         sides.index(f.side) if f.side in sides else -1, f.is_folded]
                        for f in record.fields
                    ],
                    "verdicts": [record.verdicts.get(side) for side in sides],
                    "tags": [record.tags.get(tag, "") for tag in tags],
                }
                for record in records
            ],
        }  # fmt: skip
        return {"kind": "browser", "id": name, "title": part.title, "total": f"{len(records):,}"}


def _table(part: parts.Table) -> dict[str, Any]:
    columns = [parts.as_column(column) for column in part.columns]
    cells = [[row[index] for row in part.rows] for index in range(len(columns))]
    bars = [
        _bars(of, index - 1) if column.has_bars else [None] * len(of)
        for index, (column, of) in enumerate(zip(columns, cells, strict=True))
    ]
    rows = [
        (
            part.tones[number] if part.tones else "",
            zip(row, (of[number] for of in bars), strict=True),
        )
        for number, row in enumerate(part.rows[:MOST_ROWS])
    ]
    heads = [
        (column, index == 0 or not all(map(parts.is_number, cells[index])))
        for index, column in enumerate(columns)
    ]
    return {
        "kind": "table", **part._asdict(), "columns": heads,
        "has_head": any(column.title for column in columns), "rows": rows[: part.shown],
        "folded": rows[part.shown :], "left": max(0, len(part.rows) - MOST_ROWS),
    }  # fmt: skip


def _bars(cells: Sequence[parts.Cell], colour: int) -> list[dict[str, Any] | None]:
    """What to draw of the numbers of a column: their intervals, or their lengths from 0."""
    numbers = [
        cell if isinstance(cell, parts.Quantity) else parts.Quantity(cell)
        for cell in cells
        if isinstance(cell, int | float | parts.Quantity)
    ]
    intervals = any(number.interval for number in numbers)
    ends = [end for n in numbers for end in (n.value, *(n.interval or ()))]
    low, high = (min(ends) if intervals else 0.0, max(ends)) if ends else (0.0, 0.0)
    if high <= low:
        return [None] * len(cells)

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    bars: list[dict[str, Any] | None] = []
    for cell in cells:
        number = parts.Quantity(cell) if isinstance(cell, int | float) else cell
        if not isinstance(number, parts.Quantity) or (intervals and not number.interval):
            bars.append(None)
            continue
        start, end = number.interval or (low, number.value)
        bar = {"left": place(start), "width": place(end) - place(start), "colour": colour % 4}
        bars.append(bar | {"at": place(number.value) if number.interval else None})
    return bars


def _matrix(part: parts.Matrix) -> dict[str, Any]:
    lines = []
    for index, (label, counts) in enumerate(zip(part.labels, part.counts, strict=True)):
        total = sum(counts) or 1
        cells = [
            (f"{n:,}" if n else "·", 0.5 * n / total, column == index)
            for column, n in enumerate(counts)
        ]
        lines.append((label, cells))
    pairs = part.pairs()
    first = [
        (pair, in_line(part.examples.get((pair.right, pair.answered), "")))
        for pair in pairs[: parts.MOST_PAIRS]
    ]
    return {
        "kind": "matrix", "title": part.title, "labels": part.labels, "pairs": first,
        "lines": lines if len(lines) <= MATRIX_LABELS else [],
        "more_pairs": max(0, len(pairs) - parts.MOST_PAIRS),
    }  # fmt: skip
