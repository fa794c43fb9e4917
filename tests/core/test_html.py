"""Pages: whatever a template prints is text, and the layout lets nothing load or run."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from finery.views import Finding, render_page, render_sections, templates_digest
from finery.views.html import MARKS

EVIL = "</title></style><script>alert(1)</script>\" onload='x' {{ 7 * 7 }} &amp; \x1b[2J"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with templates in it."""
    folder = tmp_path / "their_pages"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "page.html.jinja").write_text("""\
{% extends "finery.views/templates/page.html.jinja" %}
{% import "finery.views/templates/parts.html.jinja" as parts %}
{% block body %}
{% call parts.card(text, text) %}<a title="{{ text }}">{{ text }}</a>{% endcall %}
{{ parts.tiles([(text, text, text)], keyed=true) }}
{{ parts.table([text], [(text, [text])], [text]) }}
{{ parts.facts([(text, text)]) }}
{{ parts.legend([text]) }}
{{ text | breakable }}
{% endblock %}
""")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_pages", raising=False)
    return folder


def test_what_a_template_prints_is_text(package: Path) -> None:
    page = render_page("their_pages/page.html.jinja", title=EVIL, text=EVIL)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "49" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 12
    assert "&amp;amp;" in page
    assert set(re.findall(r'<a title="([^"]*)"', page)).pop().startswith("&lt;/title&gt;")
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_a_page_shows_findings_of_every_tone_by_rank() -> None:
    tones: list[Any] = list(MARKS)
    findings = [Finding(tone, "So", tone, -number) for number, tone in enumerate(tones)]
    page = render_sections("Page", [], findings=findings)
    assert re.findall(r'<li class="(\w+)">', page) == [*reversed(tones)]


def test_the_digest_is_of_the_templates_and_the_layout(package: Path) -> None:
    name = "their_pages/page.html.jinja"
    before = templates_digest(name)
    assert before == templates_digest(name) != templates_digest()
    (package / "page.html.jinja").write_text("other")
    assert templates_digest(name) != before


def test_what_is_between_backticks_is_code_in_findings() -> None:
    finding = Finding("Which?", "Add it to `models`. Or `<b>`, not one ` alone.", "open")
    page = render_sections("t", [], findings=[finding])
    assert "<b>Add it to <code>models</code>.</b>" in page
    assert "Or <code>&lt;b&gt;</code>, not one ` alone." in page
