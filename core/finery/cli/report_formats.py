"""A report as Markdown, for a pull request or the summary of a CI job, and as JUnit XML.

Neither has text of rows.
"""

from collections.abc import Iterator
from xml.etree import ElementTree

from finery.cli.diff_view import Comparison, difference_parts
from finery.cli.views import context_of
from finery.report.page import (
    Reported,
    gates_of,
    in_short,
    intro_of,
    outputs_shown,
    steps_section,
    title_of,
)
from finery.util.text import in_line, visible
from finery.views.html import MARKS, summary
from finery.views.markdown import escaped, markdown_table, render_markdown
from finery.views.parts import Section, Table
from finery.views.view import Context, sections_of

MARKER = "<!-- finery report -->"
"""The first line of the Markdown, by which a bot finds its comment."""


def markdown_of(reported: Reported, context: Context, compared: Comparison | None) -> str:
    """The verdict, scores, requirements, differences and steps as Markdown.

    compared: a build, with the reported one as its second side.
    """
    verdict, answers = in_short(reported, context)
    findings = [(MARKS[f.tone][0], f.question, f.answer) for f in answers]
    in_summary = context_of(reported.graph, reported.store, scope="summary", medium="markdown")
    scores = [
        part
        for view, outputs in outputs_shown(reported)
        for section in sections_of(view, outputs, in_summary)
        for part in section.parts
    ]
    sections = [Section("Scores", scores), _requirements(reported)]
    if compared is not None:
        title = f"What changed since {compared.sides[0].label}"
        sections.append(Section(title, difference_parts(compared, 0)))
    sections.append(steps_section(reported)._replace(is_folded=True))
    parts = [
        f"{MARKER}\n## {escaped(title_of(reported))}",
        escaped(intro_of(reported)),
        *([f"**{escaped(verdict.text)}**"] if verdict else []),
        escaped(summary(answers)) if verdict else f"**{escaped(summary(answers))}**",
        markdown_table(["", "question", "answer"], findings),
        render_markdown(sections),
    ]
    return "\n\n".join(parts) + "\n"


def _requirements(reported: Reported) -> Section:
    gates = []
    for gate in gates_of(reported):
        remarks = gate.error.details or [gate.error.what] if gate.error else gate.doubts
        name, mark = gate.step.node.name, MARKS[gate.tone][0]
        gates.append((mark, name, gate.required, " ".join(remarks)))
    table = Table(["", "step", "required", "remark"], gates)
    return Section("Requirements", [table] if gates else [])


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
