"""Numbers and texts as people read them."""

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery.util.paths import linked, shown
from finery.util.text import (
    counted,
    did_you_mean,
    duration,
    in_line,
    in_points,
    percent,
    range_in_points,
    redacted,
    redacted_data,
    rough_duration,
    signed,
    size,
    visible,
)


@pytest.mark.parametrize(("seconds", "exact", "rough"), [
    (0.04, "0.0 s", "0 s"),
    (9.96, "10.0 s", "10 s"),
    (42.4, "42 s", "42 s"),
    (185, "3 min 05 s", "3 min"),
    (3725, "1 h 02 min", "62 min"),
    (9000, "2 h 30 min", "2.5 h"),
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


@pytest.mark.parametrize("value", [0.0, -0.0, 0.0004, -0.0004])
def test_what_rounds_to_zero_has_no_sign(value: float) -> None:
    assert in_points(value) == "0.0"
    assert percent(value) == "0.0 %"
    assert signed(value, ".2f") == "0.00"
    assert range_in_points((value, 0.02)) == "0.0 to +2.0"


@given(st.floats(), st.sampled_from([".1f", ".3f", ".4g"]))
def test_other_differences_have_a_sign(value: float, form: str) -> None:
    text = signed(value, form)
    assert (text[0] in "+-") == (float(text) != 0)
    assert float(text) == float(f"{value:{form}}") or math.isnan(value)


def test_nothing_that_is_printed_steers_a_terminal() -> None:
    assert visible("a\x1b[2J\x07\x7f\x9b\tb\nc") == "a␛[2J␇␡\\x9b\tb\nc"
    assert visible("a\tb", tabs=True) == "a␉b"


def test_marks_that_reorder_a_text_are_shown() -> None:
    assert visible("pay\u202e001\u202c \u2066a\u2069\u200b") == (
        "pay\\u202e001\\u202c \\u2066a\\u2069\\u200b"
    )
    assert visible("👩\u200d💻 שלום") == "👩\u200d💻 שלום"


def test_a_fix_lists_no_more_names_than_one_can_read() -> None:
    names = [f"column_{i}" for i in range(50_000)]
    listed = did_you_mean("zzz", names) or ""
    assert listed.endswith("(50,000 in all)")
    assert len(listed) < 2_000
    assert did_you_mean("colum_17", names) is not None
    assert in_line(" a\r\nb \x1b ") == "a b ␛"


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


def test_a_path_is_shown_as_a_person_would_type_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "outside").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    os.symlink(tmp_path / "outside", "link")
    assert shown(tmp_path / "here" / "link") == "link"
    assert shown(Path("link")) == str(Path("link"))
    assert shown(tmp_path / "outside") == str(tmp_path / "outside")


def test_folders_of_the_store_are_named_by_their_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, other = "a" * 64, "b" * 64
    (tmp_path / "build/t").mkdir(parents=True)
    (tmp_path / "build/t/sft").symlink_to(f"../../.finery/views/{view}")
    monkeypatch.chdir(tmp_path)
    assert linked(f".finery/views/{view}/config.json: error") == "build/t/sft/config.json: error"
    whole = f"in '{tmp_path}/.finery/views/{view}'"
    assert linked(whole) == f"in '{tmp_path}/build/t/sft'"
    assert linked(f".finery/views/{other}/x") == f".finery/views/{other}/x"
