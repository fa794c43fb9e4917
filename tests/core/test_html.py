"""Pages: whatever a part holds is text, and the layout lets nothing load or run."""

import re
from typing import Any

from finery.views import (
    Axis,
    Change,
    Column,
    Facts,
    Field,
    Finding,
    Matrix,
    Part,
    Plot,
    Quantity,
    Record,
    Records,
    Remark,
    Section,
    Series,
    Table,
    Text,
    Tile,
    Tiles,
    render_sections,
)
from finery.views.html import MARKS
from finery.views.parts import Tree

EVIL = "</title></style><script>alert(1)</script>\" onload='x' {{ 7 * 7 }} &amp; \x1b[2J"


def test_what_a_part_holds_is_text() -> None:
    record = Record([Field("id", EVIL), Field(EVIL, EVIL), Field(EVIL, EVIL, is_folded=True)])
    judged = Record([Field("prompt", EVIL, side=EVIL)], {EVIL: False}, {EVIL: EVIL})
    series = Series(EVIL, [(1, 1.0), (2, 2.0)], "both")
    parts: list[Part] = [
        Text(EVIL, "good"),
        Text(EVIL, is_code=True),
        Facts({EVIL: EVIL}),
        Tiles([Tile(EVIL, EVIL, EVIL)]),
        Table([Column(EVIL), EVIL], [[EVIL, [Text(EVIL, "bad")]], [EVIL, Quantity(1)]], EVIL, EVIL),
        Matrix([EVIL, "b"], [[1, 2], [0, 1]], EVIL, {(EVIL, "b"): EVIL}),
        Plot([series], Axis(EVIL), Axis(EVIL), EVIL, (2, EVIL), EVIL),
        record,
        Records([record], 1, EVIL),
        Records([judged], 1, EVIL),
        Change(record, record),
        Tree([Text(EVIL)], [Tree([Text(EVIL, "soft")])]),
        Remark(EVIL, EVIL),
        Section(EVIL, [Text(EVIL)], note=EVIL, is_folded=True),
        Finding(EVIL, EVIL),
    ]
    page = render_sections(EVIL, [Section(EVIL, parts, note=EVIL)], intro=EVIL)
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert "<" not in data
    assert "alert" not in script
    assert page.count("<script") == 2
    assert "\x1b" not in page
    assert "49" not in page
    assert "onload='x'" not in page.replace(data, "")
    assert "default-src 'none'" in page
    assert page.count("&lt;script&gt;alert(1)") >= 30


def test_a_page_without_lists_runs_no_script() -> None:
    page = render_sections("t", [Section("s", [Text("x")])])
    assert "<script" not in page
    assert "script-src" not in page
    assert "runs no script" in page


def test_a_page_shows_findings_of_every_tone_by_rank() -> None:
    tones: list[Any] = list(MARKS)
    findings = [Finding(tone, "So", tone, -number) for number, tone in enumerate(tones)]
    page = render_sections("Page", [], findings=findings)
    assert re.findall(r'<li class="(\w+)">', page) == [*reversed(tones)]


def test_what_is_between_backticks_is_code_in_findings() -> None:
    finding = Finding("Which?", "Add it to `models`. Or `<b>`, not one ` alone.", "open")
    page = render_sections("t", [], findings=[finding])
    assert "<b>Add it to <code>models</code>.</b>" in page
    assert "Or <code>&lt;b&gt;</code>, not one ` alone." in page
