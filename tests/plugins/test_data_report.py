"""data.report: what it counts, and the page in a real browser with hostile rows."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, chromium
from hypothesis import given
from hypothesis import strategies as st
from tiny_llama import tiny_tokenizer

from finery import Bundle, Dataset, Model, UsageError
from finery.rows import Row, with_id
from finery.rows.dropped import Drops
from finery.testing import TestJob, dataset
from finery.views import Quantity, render_sections
from finery_data.duplicates import overlap_of
from finery_data.report.facts import Classes, Counting, Lengths, Report, measure
from finery_data.report.page import bins_of, counts_table, report_sections
from finery_data.steps.report import DataReport
from finery_data.steps.validate import Validate
from finery_data.view import dataset as pages

HOSTILE = (
    "</style></title></script><script>document.title='broken'</script>"
    "<img src=x onerror=\"document.title='broken'\"><b>$title</b> {{7*7}} &amp;"
)


def row(prompt: str, answer: str = "a", **more: Any) -> Row:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return with_id({"messages": turns, **more})


def described(folder: Path, near_rows: int = 1_000, **data: list[Row]) -> Report:
    named = {name: dataset(folder / name, rows) for name, rows in data.items()}
    return measure(named, folder, counting=Counting(), near_rows=near_rows, samples=3)


def page_of(report: Report, title: str = "t") -> str:
    return render_sections(title, report_sections(report))


# what is counted


@given(st.lists(st.integers(0, 3_000), min_size=1), st.lists(st.integers(0, 3_000), min_size=1))
def test_every_length_lies_in_one_bin(first: list[int], second: list[int]) -> None:
    both = []
    for values in (first, second):
        lengths = Lengths()
        for value in values:
            lengths.add(value)
        both.append(lengths)
    bins = bins_of(both)
    assert bins.edges == sorted(set(bins.edges))
    for lengths, values in zip(both, (first, second), strict=True):
        expected = [sum(low <= v < high for v in values) for low, high in pairwise(bins.edges)]
        assert lengths.counts(bins.edges) == expected
        assert sum(expected) == len(values)


def test_classes_are_the_label_or_the_answer_or_its_fields() -> None:
    def found(rows: list[Row]) -> dict[str, dict[str, int]]:
        classes = Classes()
        for r in rows:
            classes.add(r)
        return {name: dict(counts) for name, counts in Classes.found([classes])[0].items()}

    assert found([row(f"p{i}", "yes" if i < 7 else "no") for i in range(10)]) == {
        "answer": {"yes": 7, "no": 3}
    }
    labelled = [row(f"p{i}", f"answer {i}", label=f"l{i % 2}") for i in range(10)]
    assert found(labelled) == {"label": {"l0": 5, "l1": 5}}
    lines = [row(f"p{i}", f"category: c{i % 2}\npriority: high") for i in range(10)]
    assert found(lines) == {"category": {"c0": 5, "c1": 5}, "priority": {"high": 10}}
    records = [row(f"p{i}", json.dumps({"paid": i % 2 == 0, "name": f"n{i}"})) for i in range(10)]
    assert found(records) == {"paid": {"True": 5, "False": 5}}
    assert found([row(f"p{i}", f"a free answer {i}") for i in range(10)]) == {}


def test_a_part_too_small_to_repeat_its_classes_has_them(tmp_path: Path) -> None:
    names = ["billing"] * 7 + ["shipping"] * 6 + ["technical"] * 5
    train = [row(f"p{i}", name) for i, name in enumerate(names)]
    small = [row(f"q{i}", name) for i, name in enumerate(["billing", *sorted({*names})])]
    free = [row(f"r{i}", f"a free answer {i}") for i in range(10)]
    report = described(tmp_path, train=train, validation=small, chats=free, copy_of_chats=free)
    assert [f.classes.get("answer") for f in report.facts] == [
        Counter(names), {"billing": 2, "shipping": 1, "technical": 1}, None, None
    ]  # fmt: skip
    counts = [f.classes.get("answer", Counter()) for f in report.facts]
    rows = counts_table("class", [f.name for f in report.facts], counts).rows
    assert [row[1::2] for row in rows] == [
        [7, 2, None, None], [6, 1, None, None], [5, 1, None, None],
    ]  # fmt: skip
    assert rows[0][2::2] == [Quantity(7 / 18, "share"), Quantity(0.5, "share"), None, None]


PROMPT = "my parcel was due on monday and it still has not come, where is it now?"


@pytest.mark.parametrize(
    ("most", "place", "tone", "answer"),
    [
        (9, 3, "bad", "Yes: 1 of 4 rows of train copy or nearly copy a prompt of test."),
        (2, 3, "open", "Only partly measured: no copies or near copies of prompts in train and "
         "test (compared: the first 2 of 4 rows of train and the first 2 of 3 rows of test)."),
        (2, 1, "bad", "Yes: 1 of 2 rows of train copy or nearly copy a prompt of test (compared: "
         "the first 2 of 4 rows of train and the first 2 of 3 rows of test)."),
    ],
)  # fmt: skip
def test_a_report_calls_no_rows_clean_that_it_did_not_compare(
    tmp_path: Path, most: int, place: int | None, tone: str, answer: str
) -> None:
    """place: of the training row that copies the first test row."""
    train = [row(PROMPT if n == place else f"question {n} of the training") for n in range(4)]
    test = [row(PROMPT), row("is it open?"), row("what does it cost?")]
    data = [dataset(tmp_path / name, rows) for name, rows in (("a", train), ("b", test))]
    sides = ("train", data[0]), ("test", data[1])
    pair = overlap_of(*sides, most, tmp_path, lambda what, done, total: None)
    found = pages.finding([pair])
    assert (found.answer, found.tone) == (answer, tone)
    html = render_sections("t", [pages.overlap_section([pair])])
    assert ("compared:" in html) == ("compared:" in answer)


def test_rows_that_contradict_earlier_ones_are_counted_as_data_validate_does(
    tmp_path: Path,
) -> None:
    prompts = [f"{word}: {PROMPT}" for word in ("Hello", "Hallo", "Good morning", "Dear all")]
    one, other = ["billing", "shipping", "billing", "account"], ["yes", "no", "yes", "no"]
    for name, rows in (
        ("label", [row(p, "x", label=c) for p, c in zip(prompts, one, strict=True)]),
        ("answer", [row(p, a) for p, a in zip(prompts, other, strict=True)]),
    ):
        report = described(tmp_path / name, a=rows)
        valid = Validate(rows=[dataset(tmp_path / name / "in", rows)])
        found = valid.run(TestJob(tmp_path / name)).meta["findings"]
        copies = report.facts[0].copies
        assert (copies.exact, copies.near) == (
            0,
            len(rows) - len({str(r.get("label", "")) + str(r["messages"][1]) for r in rows}),
        )
        assert copies.conflicts == found["label-conflict"] == 3
        assert "3 rows contradict others" in page_of(report)


def test_drops_and_findings_are_told_with_examples(tmp_path: Path) -> None:
    with Drops(tmp_path / "a") as drops:
        made = Dataset.write(tmp_path / "a", [row("kept")])
        for number in range(5):
            drops.add(row(f"gone {number}"), "too-long", "has 9 characters")
    made.meta |= drops.meta()
    report = measure({"a": made}, tmp_path, counting=Counting(), near_rows=9, samples=1)
    assert report.facts[0].counts("dropped") == {"too-long": 5}
    page = page_of(report)
    assert "dropped: too-long 5" in page
    assert "gone 2" in page
    assert "gone 3" not in page


def test_lengths_are_told_in_tokens_of_a_model(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    model = Model(tmp_path / "model", meta={"format": "transformers"})
    model.ref = "base"
    rows = dataset(tmp_path / "rows", [row("where is my card", "card_arrival")])
    rows.ref = "split.train"
    made = DataReport(rows=[rows], tokenizer=model).run(TestJob(tmp_path / "job"))
    found = json.loads((made.path / "report.json").read_text())
    tokens = len(tiny_tokenizer()("where is my card")["input_ids"])
    assert found["unit"] == "tokens"
    assert found["data"]["split.train"]["lengths"]["prompt"]["max"] == tokens
    assert "in tokens of base" in (made.path / "report.html").read_text()


def test_the_step_leaves_a_page_and_its_numbers(tmp_path: Path) -> None:
    rows = []
    for name in ("split.train", "split.test"):
        made = dataset(tmp_path / name, [row(f"{name} {i}", "ab"[i % 2]) for i in range(6)])
        made.ref = name
        rows.append(made)
    step = DataReport(rows=rows, title="Tickets")
    step.check()
    bundle = step.run(TestJob(tmp_path / "job"))
    assert isinstance(bundle, Bundle)
    found = json.loads((bundle.path / "report.json").read_text())
    assert list(found["data"]) == ["train", "test"]
    assert found["data"]["train"]["classes"] == {"answer": {"a": 3, "b": 3}}
    again = DataReport(rows=rows, title="Tickets").run(TestJob(tmp_path / "again"))
    for name in ("report.html", "report.json"):
        assert (bundle.path / name).read_bytes() == (again.path / name).read_bytes()
    with pytest.raises(UsageError, match="each once"):
        DataReport(rows=[rows[0], rows[0]]).check()


# the page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(width=1200) as opened:
        yield opened


def hostile_rows() -> list[Row]:
    rows = [row(f"{HOSTILE} {i}", HOSTILE, label=f"{HOSTILE[:60]}{i % 2}", source=HOSTILE)
            for i in range(8)]  # fmt: skip
    control = "\x1b[31m \u202e bell \x07"
    return [*rows, row(control, "x" * 200_000, label="b")]


def show(browser: Browser, folder: Path, report: Report, title: str = "t") -> Path:
    page = folder / "page.html"
    page.write_text(page_of(report, title), encoding="utf-8")
    browser.open(page)
    return page


def test_hostile_rows_are_text(tmp_path: Path, browser: Browser) -> None:
    report = described(tmp_path, a=hostile_rows(), b=hostile_rows()[4:])
    page = show(browser, tmp_path, report, f"t {HOSTILE}")
    assert browser.run("return document.title") == f"t {HOSTILE}"
    assert browser.run("return document.querySelectorAll('script, img, b b').length") == 0
    assert browser.errors() == []
    assert browser.requests() == [page.resolve().as_uri()]
    texts = "return [...document.querySelectorAll('.turn.user .text')].map(e => e.textContent)"
    assert any(text.startswith(HOSTILE) for text in browser.run(texts))
    assert any("␛[31m" in text for text in browser.run(texts))
    assert len(page.read_bytes()) < 150_000, "long texts are cut"


def fits(browser: Browser) -> bool:
    """Whether nothing makes the page wider than the window."""
    found: bool = browser.run(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    return found


def test_the_page_fits_any_width(tmp_path: Path, browser: Browser) -> None:
    report = described(tmp_path, a=hostile_rows(), b=hostile_rows()[4:])
    page = show(browser, tmp_path, report)
    assert fits(browser)
    with chromium(width=500) as narrow:
        narrow.open(page)
        assert fits(narrow)
