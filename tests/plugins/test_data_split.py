"""data.split: rows never move, copies stay together, sizes are as asked up to chance."""

import math
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finery import DataError
from finery.rows import Row, with_id
from finery.rows.dropped import read_dropped
from finery.rows.near import normalise_text
from finery.testing import TestJob, dataset
from finery_data.steps.split import SPLITS, Split, draw, prompt_key, split_index, unit_of
from finery_data.steps.strata import Unit, divide, strata_of


def row(prompt: str, answer: str = "a", **more: Any) -> Row:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return with_id({"messages": turns, **more})


def numbered(n: int, **more: Any) -> list[Row]:
    return [row(f"question {i}", f"answer {i % 3}", label=f"l{i % 3}", **more) for i in range(n)]


def split(rows: list[Row], seed: int = 0, **given: Any) -> tuple[dict[str, list[Row]], str, Any]:
    """(rows by split, log, outputs)."""
    job = TestJob(seed=seed)
    step = Split(rows=[dataset(job.scratch / "in", rows)], **given)
    made = step.run(job)
    parts = {name: list(getattr(made, name)) for name in step.outputs()}
    return parts, "\n".join(e["message"] for e in job.events if e["event"] == "log"), made


def refused(rows: list[Row], **given: Any) -> str:
    with pytest.raises(DataError) as caught:
        split(rows, **given)
    assert caught.value.fix
    return str(caught.value)


def places(
    rows: list[Row], seed: int, group: str | None = None, validation: float = 0.2, test: float = 0.3
) -> list[str]:
    """The split of each row, by the functions that the step uses."""
    return [SPLITS[split_index(draw(unit_of(r, group), seed), validation, test)] for r in rows]


def by_id(parts: dict[str, list[Row]]) -> dict[str, str]:
    return {r["id"]: name for name, rows in parts.items() for r in rows}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ROWS = st.lists(st.builds(row, TEXT, TEXT, label=st.sampled_from("abc")), max_size=20)
PLENTY = numbered(60)
THIRDS: dict[str, Any] = {"validation": 0.3, "test": 0.3}  # so that no split is empty by bad luck


@given(old=ROWS, new=ROWS, at=st.integers(0, 60), seed=st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=60)
def test_added_rows_move_no_old_row(old: list[Row], new: list[Row], at: int, seed: int) -> None:
    before = [*old, *PLENTY]
    after = [*before[:at], *new, *before[at:]]
    first, second = (split(rows, seed, **THIRDS)[2] for rows in (before, after))
    for name in SPLITS:
        gone = {r["id"] for r in getattr(first, name)} - {r["id"] for r in getattr(second, name)}
        assert gone <= {line["id"] for line in read_dropped(getattr(second, name))}
        again = {line["id"] for line in read_dropped(getattr(first, name))}
        assert again <= {line["id"] for line in read_dropped(getattr(second, name))}


@given(rows=ROWS, data=st.data())
@settings(deadline=None, max_examples=40)
def test_order_does_not_matter(rows: list[Row], data: st.DataObject) -> None:
    mixed = data.draw(st.permutations([*rows, *PLENTY]))
    assert by_id(split([*rows, *PLENTY], **THIRDS)[0]) == by_id(split(mixed, **THIRDS)[0])


@given(rows=ROWS, seed=st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=40)
def test_splits_are_disjoint_complete_and_in_order(rows: list[Row], seed: int) -> None:
    whole = [*rows, *PLENTY]
    parts, _, made = split(whole, seed, **THIRDS)
    ids = {name: {r["id"] for r in part} for name, part in parts.items()}
    assert not ids["train"] & ids["test"] | ids["train"] & ids["validation"]
    assert not ids["test"] & ids["validation"]
    gone = [line["id"] for n in parts for line in read_dropped(getattr(made, n))]
    assert Counter([*gone, *(r["id"] for p in parts.values() for r in p)]) == Counter(
        r["id"] for r in whole
    )
    for part in parts.values():
        kept = {r["id"] for r in part}
        assert part == [r for r in whole if r["id"] in kept]


@given(text=TEXT.filter(normalise_text), seed=st.integers(0, 2**31 - 1))
@settings(deadline=None)
def test_near_copies_stay_together(text: str, seed: int) -> None:
    copies = [row(text), row(f"  {text} !", "b"), row(text, "c", label="x")]
    copies += [row(text.casefold()), row("?" + text)]
    assert len(set(places(copies, seed))) == 1


@given(text=TEXT.filter(str.strip))
@settings(deadline=None)
def test_answers_and_labels_do_not_separate_copies(text: str) -> None:
    assert unit_of(row(text)) == unit_of(row(text, "other")) == unit_of(row(text, label="x"))


@given(n=st.integers(200, 800), seed=st.integers(0, 2**31 - 1), share=st.floats(0.05, 0.45))
@settings(deadline=None, max_examples=60)
def test_sizes_are_within_binomial_bounds(n: int, seed: int, share: float) -> None:
    units = [unit_of(row(f"{i}")) for i in range(n)]
    sizes = Counter(split_index(draw(u, seed), share, share) for u in units)
    bound = 6 * math.sqrt(n * share * (1 - share))
    assert abs(sizes[2] - n * share) < bound
    assert abs(sizes[1] - n * share) < bound


@given(group=st.integers() | TEXT, texts=st.lists(TEXT, min_size=2), seed=st.integers(0, 9))
@settings(deadline=None)
def test_groups_stay_together(group: int | str, texts: list[str], seed: int) -> None:
    assert len(set(places([row(t, customer=group) for t in texts], seed, "customer"))) == 1


# what a row's place is made of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is my card?", "where is my CARD"),
        ("e-mail me,please", "Email me please!"),
        ("ＡＢＣ ①", "abc 1"),
        ("Straße", "STRASSE"),
        ("a\u0301", "\u00e1"),
    ],
)
def test_normalised_texts_that_are_equal(one: str, other: str) -> None:
    assert normalise_text(one) == normalise_text(other)


def test_system_prompts_do_not_separate_copies() -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    rows = [{"messages": [{"role": "system", "content": s}, *turns]} for s in "ab"]
    assert prompt_key(rows[0]) == prompt_key(rows[1]) == prompt_key(row("hi"))
    only_system = [{"prompt": [{"role": "system", "content": s}], "completion": []} for s in "ab"]
    assert prompt_key(only_system[0]) != prompt_key(only_system[1])


def test_tool_calls_are_part_of_the_prompt() -> None:
    def calling(name: str) -> Row:
        call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": name}}]}
        end = [{"role": "tool", "content": "1"}, {"role": "assistant", "content": "x"}]
        return {"messages": [{"role": "user", "content": "go"}, call, *end]}

    assert prompt_key(calling("a")) != prompt_key(calling("b"))


def test_place_is_fixed_for_all_versions() -> None:
    found = " ".join(p[:2] for p in places(numbered(16), seed=17))
    assert found == "va tr va te te tr tr va tr tr tr tr te va te te"


# the step


def test_split_of_size_zero_is_no_output() -> None:
    parts, log, made = split(PLENTY, validation=0, test=0.5)
    assert list(parts) == ["train", "test"]
    assert not hasattr(made, "validation")
    assert "validation" not in log


@pytest.mark.parametrize("stratify", ["output", "answer"])
def test_strata_by_the_text_of_the_answer(stratify: str) -> None:
    _, log, made = split(PLENTY, stratify=stratify)
    assert set(made.train.meta["strata"]) == {"answer 0", "answer 1", "answer 2"}
    assert f"{stratify} 'answer 0': train " in log


def test_missing_stratum_is_a_warning_with_a_seed_that_helps() -> None:
    rows = [*PLENTY, *(row(f"rare {i}", label="rare") for i in range(6))]
    given = {"stratify": "label", "sizes": "stable"}
    seed = next(s for s in range(99) if "warning" in split(rows, s, **given)[1])
    log = split(rows, seed, **given)[1]
    assert "has no row with label 'rare'" in log
    better = int(log.partition("`seed: ")[2].partition("`")[0])
    assert "warning" not in split(rows, better, **given)[1]


def test_every_stratum_is_divided_by_the_shares() -> None:
    rows = [row(f"{label} {i}", label=label) for label in "abcdef" for i in range(30)]
    parts, log, _ = split(rows, stratify="label", decontaminate=False)
    for name, size in (("train", 21), ("validation", 3), ("test", 6)):
        assert Counter(r["label"] for r in parts[name]) == dict.fromkeys("abcdef", size)
    assert "warning" not in log


def test_sizes_can_be_exact_without_strata() -> None:
    parts, _, _ = split(numbered(101), sizes="exact", decontaminate=False)
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train": 71,
        "validation": 10,
        "test": 20,
    }


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from("abc")), min_size=30, max_size=200),
    st.integers(0, 99),
)
@settings(max_examples=20)
def test_strata_and_groups_are_respected_in_any_order(
    drawn: list[tuple[int, str]], seed: int
) -> None:
    units, strata = [u for u, _ in drawn], [s for _, s in drawn]

    def chosen(order: list[int]) -> dict[int, int]:
        of = strata_of([units[i] for i in order], [strata[i] for i in order])
        rows = Counter(units)
        points = {u: draw(u, seed) for u in rows}
        split_of = divide([Unit(points[u], rows[u], of[u]) for u in rows], (0.7, 0.1, 0.2))
        return {u: split_of[points[u]] for u in rows}

    forward = chosen(list(range(len(drawn))))
    assert forward == chosen(list(range(len(drawn)))[::-1])
    if len(set(strata_of(units, strata).values())) == 1 and len(set(units)) >= 3:
        assert set(forward.values()) == {0, 1, 2}


def test_added_rows_move_few_rows_of_exact_splits() -> None:
    before = split(numbered(1000), stratify="label", decontaminate=False)[0]
    after = split(numbered(1100), stratify="label", decontaminate=False)[0]
    place = {r["id"]: name for name, rows in after.items() for r in rows}
    moved = sum(place[r["id"]] != name for name, rows in before.items() for r in rows)
    assert moved < 30


def test_empty_split_is_an_error_with_a_seed_that_helps() -> None:
    rows = numbered(6)
    seed = next(s for s in range(99) if len(set(map(str, by_places(rows, s)))) < 3)
    text = refused(rows, seed=seed)
    assert "no rows are in the split" in text
    assert "6 rows with 6 different prompts were split" in text
    better = int(text.partition("`seed: ")[2].partition("`")[0])
    assert all(split(rows, better)[0].values())


def by_places(rows: list[Row], seed: int) -> list[int]:
    return [split_index(draw(unit_of(r), seed), 0.1, 0.2) for r in rows]


def test_rows_with_one_prompt_can_not_be_split() -> None:
    text = refused([row("Same text.", str(i)) for i in range(40)])
    assert "40 rows with 1 different prompts" in text
    assert "rows with the same text stay together" in text


def test_same_prompt_in_two_groups_is_an_error() -> None:
    rows = [row(f"q {i}", customer=i) for i in range(60)]
    copies = [row("hello", customer=i) for i in range(60)]
    assert not split(rows, group="customer")[1].count("error")
    text = refused([*rows, *copies], group="customer")
    assert "rows have the same prompt as a row in another split" in text
    assert "  … and " in text


def test_rows_made_from_a_row_in_another_split_are_an_error() -> None:
    made = [row(f"paraphrase {i}", parents=[r["id"]]) for i, r in enumerate(PLENTY)]
    assert "rows were made from a row in another split" in refused([*PLENTY, *made])
    assert split(made)[0]["train"]


# near copies of held-out rows

WAITING = "I still have not received my new card, I ordered it over a week ago"


def placed(texts: list[str], seed: int, split_name: str) -> Row:
    """The first of these texts that falls in a split, as a row."""
    return next(r for t in texts if places([r := row(t)], seed, None, 0.1, 0.2) == [split_name])


def plant(seed: int = 3) -> dict[str, Row]:
    """A test row, and rows elsewhere that nearly repeat it or have it inside."""
    held = placed([f"{WAITING}{' really' * n}" for n in range(40)], seed, "test")
    text = held["messages"][0]["content"]
    others = ["so", "ok", "now", "then", "please", "help", "urgent", "hello", "thanks", "sir"]
    return {
        "held": held,
        "near": placed([f"{text} {w}" for w in others], seed, "train"),
        "inside": placed([f"{w} {w} hear me! {text}, {others}" for w in others], seed, "train"),
        "validation": placed([f"{w} {text}" for w in others * 3], seed, "validation"),
    }


def test_near_copies_of_test_rows_are_dropped_and_named() -> None:
    rows = plant()
    parts, log, made = split([*PLENTY, *rows.values()], 3)
    assert rows["held"] in parts["test"]
    found = {
        line["id"]: line for n in ("train", "validation") for line in read_dropped(getattr(made, n))
    }
    assert {i: line["reason"] for i, line in found.items()} == {
        rows["near"]["id"]: "near-copy",
        rows["inside"]["id"]: "contains-copy",
        rows["validation"]["id"]: "near-copy",
    }
    assert all(f"the test row {rows['held']['id']}" in line["detail"] for line in found.values())
    assert made.train.meta["dropped"] == {"contains-copy": 1, "near-copy": 1}
    assert "train: dropped 2 of " in log


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (0.9, 0.2)])
def test_shares_must_leave_something_to_train_on(validation: float, test: float) -> None:
    shares: dict[str, Any] = {"validation": validation, "test": test}
    with pytest.raises(ValueError, match="leave nothing to train on"):
        Split(rows=[], **shares)
    with pytest.raises(msgspec.ValidationError, match="leave nothing to train on"):
        msgspec.convert({"rows": [], **shares}, Split)
