"""Numbers and texts as people read them."""

import json

import pytest

from finery.util.text import (
    counted,
    duration,
    likely,
    percent,
    redacted,
    redacted_data,
    rough_duration,
    size,
    visible,
)


@pytest.mark.parametrize(("seconds", "exact", "rough"), [
    (0.04, "0.0 s", "0 s"),
    (185, "3 min 05 s", "3 min"),
    (3725, "1 h 02 min", "62 min"),
    (432000, "120 h 00 min", "5 days"),
])  # fmt: skip
def test_durations(seconds: float, exact: str, rough: str) -> None:
    assert (duration(seconds), rough_duration(seconds)) == (exact, rough)


def test_numbers() -> None:
    assert [size(n) for n in (0, 512, 1536, 300 * 2**20, 5 * 2**40)] == [
        "0 B", "512 B", "1.5 KiB", "300 MiB", "5120 GiB",
    ]  # fmt: skip
    assert [counted(n, "row") for n in (0, 1, 2, 1500)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "1,500 rows",
    ]
    assert percent(0.9167) == "91.7 %"
    assert [likely(p) for p in (0.0, 0.832, 0.99987, 0.9999999)] == [
        "0.0 %", "83.2 %", "99.987 %", "> 99.9999 %",
    ]  # fmt: skip


def test_nothing_that_is_printed_steers_a_terminal() -> None:
    assert visible("a\x1b[2J\x07\x7f\x9b\tb\nc") == "a␛[2J␇␡\\x9b\tb\nc"
    assert visible("a\tb", tabs=True) == "a␉b"


def test_marks_that_reorder_a_text_are_shown() -> None:
    assert visible("pay\u202e001\u202c \u2066a\u2069\u200b") == (
        "pay\\u202e001\\u202c \\u2066a\\u2069\\u200b"
    )
    assert visible("👩\u200d💻 שלום") == "👩\u200d💻 שלום"


SECRET = 'sk-a/secret"é😀'


@pytest.mark.parametrize(
    "spelled",
    [
        SECRET,
        json.dumps(SECRET),
        json.dumps(SECRET).replace("/", r"\/"),
        json.dumps({"arguments": json.dumps(SECRET)}),
        "".join(rf"\u{ord(c):04X}" for c in SECRET[:-1]) + json.dumps(SECRET[-1:]).strip('"'),
    ],
)
def test_a_secret_is_removed_however_json_writes_it(spelled: str) -> None:
    text = redacted(f"before {spelled} after", {"KEY": f" {SECRET}\n"})
    assert "***" in text
    assert "sk-a" not in text
    assert "0073" not in text
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert redacted_data({SECRET: [spelled, 1, None]}, {"KEY": SECRET}).keys() == {"***"}
