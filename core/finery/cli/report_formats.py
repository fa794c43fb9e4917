"""A report as Markdown, for a pull request or the summary of a CI job, and as JUnit XML.

Neither has text of rows. The Markdown reuses what views print in a terminal: tables become Markdown
tables, and all other output becomes blocks of text, in which nothing is a mention, a link or HTML.
"""

import io
import re
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table
from rich.text import Text

from finery.cli.diff_view import Comparison, print_difference
from finery.cli.views import sharing, summary_of
from finery.compare.outputs import titled
from finery.report.page import Reported, gates_of, intro_of, title_of, verdict
from finery.report.steps import groups_of
from finery.report.variants import steps_shown
from finery.util.text import in_line, visible
from finery.views.html import MARKS, summary
from finery.views.markdown import render_markdown
from finery.views.view import Context, returns_values

MARKER = "<!-- finery report -->"
"""The first line of the Markdown, by which a bot finds its comment."""
WIDTH = 100
"""Columns of text that isn't a table."""
_SYNTAX = re.compile(r"[\\`*\[\]<>|~&#]|(?<!\w)_|_(?!\w)|(?<!\w)@")


def markdown_of(reported: Reported, context: Context, compared: Comparison | None) -> str:
    """The verdict, scores, requirements, differences and steps as Markdown.

    compared: a build, with the reported one as its second side.
    """
    answers = verdict(reported, context)
    findings = [(MARKS[f.tone][0], f.question, f.answer) for f in answers]
    parts = [
        f"{MARKER}\n## {_escaped(title_of(reported))}",
        _escaped(intro_of(reported)),
        f"**{_escaped(summary(answers))}**",
        _table(["", "question", "answer"], findings),
        *_section("Scores", _scores(reported)),
    ]
    gates = []
    for gate in gates_of(reported):
        remarks = gate.error.details or [gate.error.what] if gate.error else gate.doubts
        name, mark = gate.step.node.name, MARKS[gate.tone][0]
        gates.append((mark, name, gate.required, " ".join(remarks)))
    if gates:
        parts += _section("Requirements", _table(["", "step", "required", "remark"], gates))
    if compared is not None:
        console = _Markdown()
        print_difference(console, compared, 0)
        parts += _section(f"What changed since {compared.sides[0].label}", console.text())
    steps = [(g.title, g.use, g.state, g.time, g.detail) for g in groups_of(reported.steps)]
    table = _table(["step", "type", "state", "time", ""], steps)
    parts.append(f"<details><summary>Steps</summary>\n\n{table}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def _section(title: str, text: str) -> list[str]:
    return [f"### {_escaped(title)}", text] if text else []


def _scores(reported: Reported) -> str:
    console, parts = _Markdown(), []
    graph, steps = reported.graph, steps_shown(reported.variants, reported.steps)
    outputs = (
        output
        for step in steps
        if step.result
        for output in titled(step.node.name, step.result.outputs).items()
    )
    for view, shown in sharing(graph.plugins, reported.store, outputs):
        if returns_values(view):
            sections = summary_of(graph, reported.store, view, shown)
            parts.append(render_markdown(section._replace(title="") for section in sections))
        else:
            view.print_together(console, shown)
    return "\n\n".join(filter(None, [console.text(), *parts]))


class _Markdown(Console):
    """A console that collects Markdown of what is printed on it."""

    def __init__(self) -> None:
        self._written = io.StringIO()
        super().__init__(file=self._written, width=WIDTH, color_system=None, highlight=False)
        self._parts: list[str] = []

    def print(self, *objects: Any, **options: Any) -> None:
        """Collect a table with a head as a table, and anything else as text."""
        table = objects[0] if objects else None
        if not (isinstance(table, Table) and table.show_header):
            super().print(*objects, **options)
            return
        self._end_text()
        if table.title:
            self._parts.append(_escaped(self._plain(table.title)))
        columns = [[*map(self._plain, column.cells)] for column in table.columns]
        heads = [self._plain(column.header) for column in table.columns]
        right = [column.justify == "right" for column in table.columns]
        self._parts.append(_table(heads, list(zip(*columns, strict=True)), right))

    def text(self) -> str:
        """All of it."""
        self._end_text()
        return "\n\n".join(self._parts)

    def _end_text(self) -> None:
        lines = [line.rstrip() for line in self._written.getvalue().splitlines()]
        self.file = self._written = io.StringIO()
        text = "\n".join(lines).strip("\n")
        if text:
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            self._parts.append(f"{fence}text\n{text}\n{fence}")

    def _plain(self, cell: Any) -> str:
        return cell.plain if isinstance(cell, Text) else self.render_str(str(cell)).plain


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> str:
    """right: which columns are numbers."""
    marks = ["---:" if each else "---" for each in right or [False] * len(heads)]
    cells = [[*map(_escaped, heads)], marks, *([*map(_escaped, row)] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _escaped(text: str) -> str:
    """Text in a line of Markdown. A zero-width space keeps @names from being notified."""
    return _SYNTAX.sub(lambda m: "@\u200b" if m[0] == "@" else f"\\{m[0]}", in_line(text))


def junit_of(reported: Reported) -> str:
    """The steps and the requirements as test cases of JUnit XML.

    A step that isn't built is skipped, and so is what it requires.
    """
    name = reported.graph.recipe.name
    root = ElementTree.Element("testsuites", name=name)
    suites = {"steps": list(_steps(reported)), "requirements": list(_gates(reported))}
    for suite, cases in suites.items():
        counts = {
            kind: str(sum(case.find(tag) is not None for case in cases))
            for kind, tag in (("failures", "failure"), ("skipped", "skipped"))
        }
        facts = {"name": f"{name}.{suite}", "tests": str(len(cases)), "errors": "0", **counts}
        element = ElementTree.SubElement(root, "testsuite", facts)
        element.extend(cases)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, "unicode")}\n'


def _steps(reported: Reported) -> Iterator[ElementTree.Element]:
    for step in reported.steps:
        seconds = step.result.seconds if step.result else 0.0
        kind = "failure" if step.state == "failed" else "skipped"
        text = "" if step.result else step.detail or step.state
        place = f"{reported.graph.recipe.name}.{step.node.section}"
        yield _case(step.node.name, place, seconds, kind if text else "", text)


def _gates(reported: Reported) -> Iterator[ElementTree.Element]:
    for gate in gates_of(reported):
        name = ": ".join(filter(None, [gate.step.node.name, gate.required]))
        place = f"{reported.graph.recipe.name}.require"
        if gate.error:
            yield _case(name, place, 0.0, "failure", gate.error.what, str(gate.error))
        else:
            skipped = "" if gate.step.result else f"{gate.step.node.name} isn't built"
            yield _case(name, place, 0.0, "skipped" if skipped else "", skipped)


def _case(
    name: str, place: str, seconds: float, kind: str = "", message: str = "", text: str = ""
) -> ElementTree.Element:
    """A test case. kind: `failure` or `skipped`; empty if it passed."""
    case = ElementTree.Element(
        "testcase", name=visible(name), classname=place, time=f"{seconds:.3f}"
    )
    if kind:
        ElementTree.SubElement(case, kind, message=in_line(message)).text = visible(text)
    return case
