"""data.dedup, data.decontaminate and what both stand on: near copies."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery import Dataset
from finery.rows import Row, with_id
from finery.rows.dropped import read_dropped
from finery.rows.near import (
    CROWDED_BUCKET,
    LONG_CHARACTERS,
    NearIndex,
    TemplateFinder,
    make_entry,
    normalise_or_keep,
    normalise_text,
    row_entry,
    rows_per_band,
    similarity,
)
from finery.testing import TestJob, dataset
from finery_data.duplicates import WHOLE, _Whole
from finery_data.steps.copies import Decontaminate, Dedup

CARD = "I still have not received my new card, I ordered it over a week ago"
LONG_TEXT = " ".join(f"{w}{i}" for i in range(40) for w in ("the", "crew", "waits", "for", "bolts"))


def row(prompt: str, answer: str = "a", **more: Any) -> Row:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return with_id({"messages": turns, **more})


def dedup(folder: Path, rows: list[Row], **given: Any) -> Dataset:
    made: Dataset = Dedup(rows=[dataset(folder / "in", rows)], **given).run(TestJob(folder))
    return made


def clean(folder: Path, rows: list[Row], against: list[Row], **given: Any) -> Dataset:
    inputs = [dataset(folder / "rows", rows)], [dataset(folder / "test", against)]
    made = Decontaminate(rows=inputs[0], against=inputs[1], **given).run(TestJob(folder / "job"))
    assert isinstance(made, Dataset)
    return made


def reasons(made: Dataset) -> list[str]:
    return [line["reason"] for line in read_dropped(made)]


# similarity


@pytest.mark.parametrize(
    ("other", "low", "high"),
    [
        (CARD.upper() + "!!", 1.0, 1.0),
        (CARD.replace("received", "recieved"), 0.7, 0.95),
        (CARD + " already", 0.8, 0.99),
        ("Why was my top-up reverted when I used another phone?", 0.0, 0.1),
    ],
)
def test_similarity(other: str, low: float, high: float) -> None:
    assert low <= similarity(normalise_text(CARD), normalise_text(other)) <= high


def test_numbers_tell_short_texts_apart() -> None:
    short = [normalise_text(f"What is {n} plus seventeen, please?") for n in (112, 113)]
    assert similarity(*short) == 0
    dated = [normalise_text(f"{LONG_TEXT} on day {n}") for n in (112, 113)]
    assert similarity(*dated) > 0.9


@given(st.text(max_size=40), st.text(max_size=40))
def test_similarity_is_symmetric_and_one_only_for_equal_texts(one: str, other: str) -> None:
    a, b = normalise_or_keep(one), normalise_or_keep(other)
    assert similarity(a, b) == similarity(b, a)
    assert (similarity(a, b) == 1) == (a == b)


def test_candidates_at_the_threshold_are_found() -> None:
    for threshold, band in ((0.5, 3), (0.7, 5), (0.8, 6), (0.95, 15)):
        assert rows_per_band(threshold) == band
        assert 1 - (1 - threshold**band) ** (120 // band) >= 0.98


def test_texts_too_long_for_exact_sets_are_compared_by_their_signatures(tmp_path: Path) -> None:
    text = "".join(f"word{i * i % 9973}" for i in range(LONG_CHARACTERS // 7))
    index = NearIndex(0.8, tmp_path)
    index.add(0, make_entry([text]))
    match = index.find(make_entry([text[:-200]]))
    assert match is not None
    assert 0.9 < match.similarity < 1


# data.dedup


def test_the_first_of_copies_and_near_copies_stays(tmp_path: Path) -> None:
    rows = [row(CARD), row("Something else"), row(f"  {CARD.lower()} "), row(CARD + " already")]
    made = dedup(tmp_path, rows)
    assert list(made) == rows[:2]
    assert made.meta["dropped"] == {"duplicate": 1, "near-duplicate": 1}
    lines = list(read_dropped(made))
    assert [line["row"] for line in lines] == rows[2:]
    assert lines[0]["detail"] == f"repeats the row {rows[0]['id']}"
    assert lines[1]["detail"].endswith(f"similar to the row {rows[0]['id']}")


@pytest.mark.parametrize(
    ("other", "on_row"),
    [
        (row(CARD, "quite another answer"), 2),
        (row(CARD, label="x"), 2),
        (row(CARD, tools=[{"type": "function", "function": {"name": "f"}}]), 2),
        (row(CARD, source="elsewhere"), 1),
    ],
)
def test_what_is_row_entry(tmp_path: Path, other: Row, on_row: int) -> None:
    assert len(dedup(tmp_path / "a", [row(CARD), other])) == on_row
    assert len(dedup(tmp_path / "b", [row(CARD), other], on="prompt")) == 1


WORDS = st.sampled_from(["where", "is", "my", "new", "card", "please", "cancel", "the", "order"])
TEXTS = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)
ROWS = st.lists(st.builds(row, TEXTS, st.sampled_from("ab")), min_size=1, max_size=25)


@given(rows=ROWS, on=st.sampled_from(["row", "prompt"]))
def test_every_dropped_row_is_like_the_kept_one_that_it_names(
    tmp_path_factory: Any, rows: list[Row], on: Any
) -> None:
    folder, common = tmp_path_factory.mktemp("dedup"), TemplateFinder()
    made = dedup(folder / "a", rows, on=on)
    for one in rows:
        common.add(row_entry(one, on))
    kept = {r["id"]: row_entry(r, on) for r in made}
    lines = list(read_dropped(made))
    assert len(made) + len(lines) == len(rows)
    for line in lines:
        mine, its = row_entry(line["row"], on), kept[line["detail"].rpartition(" ")[2]]
        index = NearIndex(0.8, folder, common.pieces())
        index.add(0, its)
        assert index.find(mine) is not None or mine == its
    assert len({e.digest() for e in kept.values()}) == len(kept)


@given(rows=ROWS.map(lambda rows: rows[:5]), more=ROWS.map(lambda rows: rows[:4]))
def test_added_rows_do_not_change_what_becomes_of_those_before(
    tmp_path_factory: Any, rows: list[Row], more: list[Row]
) -> None:
    folder = tmp_path_factory.mktemp("dedup")
    made, longer = dedup(folder / "a", rows), dedup(folder / "b", [*rows, *more])
    assert list(longer)[: len(made)] == list(made)
    before = list(read_dropped(made))
    assert list(read_dropped(longer))[: len(before)] == before


def test_what_all_rows_share_is_not_row_entry(tmp_path: Path) -> None:
    task = "Translate the sentence into French, keep names as they are and be brief: "
    animals = ["cat", "dog", "ewe", "hen", "cow", "pig", "owl", "emu", "fox", "bee", "ant"]
    rows = [row(f"{task}the {animal} sleeps") for animal in animals]
    near = row(f"{task}the old grey crocodile that lives in the zoo of our town sleeps", "b")
    copies = [row(f"{task}The old gray crocodile that lives in the zoo of our town sleeps", "b")]
    copies.append(row(task))
    made = dedup(tmp_path / "a", [*rows, near, *copies])
    assert [line["row"] for line in read_dropped(made)] == copies[:1]
    assert list(clean(tmp_path / "b", [*rows, *copies], [near, row(task + "the yak sleeps")])) == [
        *rows,
        copies[1],
    ]


# data.decontaminate


def test_copies_near_copies_and_texts_with_the_test_prompt_inside_go(tmp_path: Path) -> None:
    rows = [
        row(CARD, "x"),
        row(CARD + " already"),
        row("Hi!\nHello? " + CARD + LONG_TEXT),
        row("?"),
    ]
    test = [row(CARD, "the test's own answer")]
    made = clean(tmp_path, rows, test)
    assert list(made) == rows[3:]
    assert reasons(made) == ["copy", "near-copy", "contains-copy"]
    assert all(test[0]["id"] in line["detail"] for line in read_dropped(made))


def test_rows_made_from_a_test_row_go(tmp_path: Path) -> None:
    test = row(CARD)
    made = clean(tmp_path, [row("quite different", parents=[test["id"]]), row("mine")], [test])
    assert reasons(made) == ["made-from-test"]


def test_a_crowd_of_near_copies_is_bounded_and_counted(tmp_path: Path) -> None:
    index = NearIndex(0.7, tmp_path)
    for number in range(CROWDED_BUCKET + 100):
        assert index.add(number, make_entry(["a" * (600 + number)]))
    assert index.crowded == 100
    assert index.find(make_entry(["a" * (600 + CROWDED_BUCKET + 50)])) == (
        CROWDED_BUCKET + 50,
        1.0,
    )  # as a copy
    near = index.find(make_entry(["a" * 2000]))
    assert near is not None
    assert near.number == 0


@given(st.lists(st.text("ab", min_size=1, max_size=6), max_size=12), st.text("ab", max_size=40))
def test_what_has_a_text_inside_is_found_however_texts_start(drawn: list[str], text: str) -> None:
    start = "c" * WHOLE
    texts, whole = [start + end for end in drawn], _Whole()
    for number, one in enumerate(texts):
        whole.add(one, number)
    for tried in (f"cc{start}{text}", f"x{text}{start}{text}{start}b", text):
        inside = whole.inside(tried)
        assert (inside is not None) == any(one in tried for one in texts)
        assert inside is None or texts[inside] in tried
