"""HTML pages of views: Jinja templates of any package, over the layout that all pages share.

A page is one file that loads nothing, and runs no script but those of `views.section`. A template
is named by its package and file, `my_plugin/page.html.jinja`, and extends
`finery.views/templates/page.html.jinja`. It needs no care for what rows hold: all that it
prints is escaped, with control characters as pictures.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from finery.util.text import counted, visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


LAYOUT = "finery.views/templates/page.html.jinja"
PARTS = "finery.views/templates/parts.html.jinja"


def render_page(template: str, **context: Any) -> str:
    """The page as HTML. template: `package/file`, the file's path in the package."""
    return _environment().get_template(template).render(context)


def templates_digest(*templates: str) -> str:
    """A digest of these templates and the layout, 16 digits.

    For the `version` of a step that leaves a page: its key can't see what a template says.
    """
    from blake3 import blake3

    texts = [_source(name) for name in (LAYOUT, PARTS, *templates)]
    return blake3("\0".join(texts).encode()).hexdigest()[:16]


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
    environment.filters |= {"breakable": _breakable, "code": _code}
    return environment


def _source(template: str) -> str:
    from importlib.resources import files

    package, _, path = template.partition("/")
    return files(package).joinpath(path).read_text(encoding="utf-8")


def _breakable(text: str) -> "Markup":
    """The text as HTML, which may break after an underscore, a slash or a dot."""
    from markupsafe import Markup, escape

    escaped = escape(visible(text))
    for mark in "_/.":
        escaped = escaped.replace(mark, Markup(f"{mark}<wbr>"))
    return escaped


def _code(text: str) -> "Markup":
    """The text as HTML, with what is between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))


TEMPLATE = "finery.views/templates/sections.html.jinja"
Tone = Literal["good", "bad", "open", "info"]
MARKS: Mapping[str, tuple[str, str]] = {
    "good": ("✓", "yes"), "bad": ("✗", "no"), "open": ("?", "open"), "info": ("i", "figures"),
}  # fmt: skip
"""Tone → its mark, and the mark in words."""


class Finding(NamedTuple):
    """An answer to a question that readers of a report ask first.

    tone: `open` if nothing was measured, or if the measurement is inconclusive; `info` for figures
    without a verdict. rank: findings are shown by rising rank. If several answer the same question,
    the lowest rank wins.
    """

    question: str
    answer: str
    tone: Tone
    rank: int = 5


class PageSection(NamedTuple):
    """A part of a page.

    html: of `render_page`, of a template without a layout. rank: sections are shown by rising rank.
    style: CSS. script: JavaScript that runs once the page is there. data: id → JSON values for it,
    which it finds as the text of the element with this id.
    """

    title: str
    html: str
    rank: int = 5
    findings: Sequence[Finding] = ()
    style: str = ""
    script: str = ""
    data: Mapping[str, Any] = {}


def render_sections(
    title: str,
    sections: Iterable[PageSection],
    *,
    intro: str = "",
    findings: Iterable[Finding] = (),
    reload_seconds: int = 0,
) -> str:
    """A page of sections, below the answers to the first questions.

    reload_seconds: how often browsers load it again, 0: never.
    """
    import base64
    import hashlib

    from markupsafe import Markup

    ordered = sorted(sections, key=lambda section: section.rank)
    answers = ranked(findings, ordered)
    scripts = list(dict.fromkeys(s.script for s in ordered if s.script))
    return render_page(
        TEMPLATE,
        title=title,
        intro=intro,
        verdict=summary(answers),
        findings=[(f, *MARKS[f.tone]) for f in answers],
        sections=[(section.title, Markup(section.html)) for section in ordered],
        styles=[Markup(s) for s in dict.fromkeys(section.style for section in ordered) if s],
        data=[(name, _json(value)) for s in ordered for name, value in s.data.items()],
        scripts=[Markup(script) for script in scripts],
        hashes=[
            f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
            for script in scripts
        ],
        reload=reload_seconds,
    )


def ranked(findings: Iterable[Finding], sections: Sequence[PageSection]) -> list[Finding]:
    """These findings and those of the sections, by rank, one for each question."""
    asked: dict[str, Finding] = {}
    every = [*findings, *(finding for section in sections for finding in section.findings)]
    for finding in sorted(every, key=lambda finding: finding.rank):
        asked.setdefault(finding.question, finding)
    return list(asked.values())


def summary(findings: Sequence[Finding]) -> str:
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
