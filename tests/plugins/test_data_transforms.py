"""data.filter, data.map, data.mix and data.sample."""

import contextlib
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery import DataError, Dataset, UsageError
from finery.rows import Row, row_id, with_id
from finery.rows.chosen import apportion
from finery.rows.dropped import read_dropped
from finery.rows.templates import limits
from finery.testing import TestJob, dataset
from finery_data.steps.filter import Filter
from finery_data.steps.map import Map
from finery_data.steps.sample import Mix, Sample


def row(prompt: str, answer: str = "a", **more: Any) -> Row:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return with_id({"messages": turns, **more})


def numbered(n: int, **more: Any) -> list[Row]:
    return [row(f"question {i}", f"answer {i % 3}", label=f"l{i % 3}", **more) for i in range(n)]


def run(step: Any, folder: Path, rows: list[Row], seed: int = 0, **given: Any) -> Dataset:
    made = step(rows=[dataset(folder / "in", rows)], **given)
    made.check()
    result: Dataset = made.run(TestJob(folder / "job", seed=seed))
    return result


def reasons(made: Dataset) -> dict[str, int]:
    return dict(Counter(line["reason"] for line in read_dropped(made)))


# data.filter


@pytest.mark.parametrize(
    ("given", "kept", "reason"),
    [
        ({"where": 'label != "l0" and user | length > 5'}, 4, "where"),
        ({"matches": {"assistant": "^answer [01]$"}}, 4, "matches"),
        ({"excludes": {"user": "(?i)QUESTION [45]"}}, 4, "excludes"),
        ({"min_characters": {"assistant": 8, "user": 10}, "where": "label != 'l2'"}, 4, "where"),
    ],
)
def test_filter_keeps_rows_as_they_are(
    tmp_path: Path, given: dict[str, Any], kept: int, reason: str
) -> None:
    if not kept:
        with pytest.raises(DataError, match="no rows are left"):
            run(Filter, tmp_path, numbered(6), **given)
        return
    made = run(Filter, tmp_path, numbered(6), **given)
    assert len(made) == kept
    assert all(r in numbered(6) for r in made)
    assert reasons(made) == {reason: 6 - kept}


def test_filter_names_the_row_that_lacks_a_column(tmp_path: Path) -> None:
    rows = [row("a", topic="x"), row("b")]
    for condition in ({"where": "topic == 'x'"}, {"matches": {"topic": "x"}}):
        with pytest.raises(DataError) as caught:
            run(Filter, tmp_path, rows, **condition)
        assert caught.value.where == f"row 2 (id {rows[1]['id']})"
    assert len(run(Filter, tmp_path / "b", rows, where="topic is defined")) == 1


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"where": "label =="}, "where"),
        ({"matches": {"user": "("}}, "matches.user"),
        ({"min_characters": {"user": 5}, "max_characters": {"user": 4}}, "min_characters.user"),
    ],
)
def test_filter_refuses_broken_conditions(given: dict[str, Any], where: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        Filter(rows=[], **given).check()
    assert (caught.value.where, bool(caught.value.fix)) == (where, True)


@pytest.mark.parametrize(
    "where", ["''.__class__.__mro__", "row.clear()", "row.messages.append(1)", "1 / 0"]
)
def test_expressions_can_not_reach_out_of_the_sandbox(tmp_path: Path, where: str) -> None:
    with pytest.raises(DataError):
        run(Filter, tmp_path, [row("a")], where=where)


# data.map


def test_map_writes_the_last_turns_and_the_row_remembers_its_parent(tmp_path: Path) -> None:
    old = row(" hi ", "JA", label="Yes", source="here", parents=["0"])
    templates: dict[str, Any] = {
        "system": "Be brief.",
        "user": "{{ user | trim }}",
        "label": "{{ label | lower }}",
    }
    templates["assistant"] = "{{ assistant | lower }}"
    made = next(iter(run(Map, tmp_path, [old], **templates, columns={"was": "{{ user }}"})))
    said = [(t["role"], t["content"]) for t in made["messages"]]
    assert said == [("system", "Be brief."), ("user", "hi"), ("assistant", "ja")]
    assert (made["label"], made["was"], made["source"]) == ("yes", " hi ", "here")
    assert made["parents"] == [old["id"]]
    assert made["id"] == row_id(made) != old["id"]


@pytest.mark.parametrize(
    ("old", "given", "new"),
    [
        (
            {"prompt": "p", "chosen": "c", "rejected": "r"},
            {"assistant": "{{ chosen }}+", "rejected": "{{ rejected }}-"},
            {"prompt": "p", "chosen": "c+", "rejected": "r-"},
        ),
        ({"text": "t"}, {"user": "{{ text }}?", "assistant": "!"}, {"text": "t"}),
    ],
)
def test_map_of_rows_of_every_shape(
    tmp_path: Path, old: Row, given: dict[str, Any], new: Row
) -> None:
    made = next(iter(run(Map, tmp_path, [{**old, "label": "l"}], **given)))
    assert new.items() <= made.items()
    assert ("messages" in made) == ("text" in old)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"user": "{{ nme }}"}, "user: 'nme' is undefined"),
        ({"user": "  "}, "user gives an empty text"),
    ],
)
def test_map_names_the_row_that_a_template_fails_for(
    tmp_path: Path, given: dict[str, Any], what: str
) -> None:
    rows = [row("a", name="n", nothing=None)]
    with pytest.raises(DataError, match=what) as caught:
        run(Map, tmp_path, rows, **given)
    assert caught.value.where == f"row 1 (id {rows[0]['id']})"


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({}, None),
        ({"user": "{{ a"}, "user"),
    ],
)
def test_map_refuses_what_it_can_not_write(given: dict[str, Any], where: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        Map(rows=[], **given).check()
    assert caught.value.where == where


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{% set all = namespace(text=user) %}{% for i in range(40) %}"
        "{% set all.text = all.text ~ all.text %}{% endfor %}{{ all.text }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ user | center(10 ** 10) }}",
        "{{ [1] | batch(10 ** 9, 'x') | list }}",
        "{{ (user * 10 ** 6) | replace(user, user * 10 ** 6) }}",
        "{{ ('\\t' * 10 ** 6).expandtabs(10 ** 6) }}",
    ],
)
def test_no_template_takes_all_memory(tmp_path: Path, template: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(DataError, match="user: takes more than 512 MiB of memory") as caught:
        run(Map, tmp_path, [row("a")], user=template)
    assert "row 1" in str(caught.value.where)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_template_that_writes_without_end_is_stopped(tmp_path: Path) -> None:
    template = "{% for i in range(99999) %}{{ user * 10 ** 5 }}{% endfor %}"
    with pytest.raises(DataError, match="user: writes more than 67,108,864 characters"):
        run(Map, tmp_path, [row("a")], user=template)


@pytest.mark.parametrize("template", ["{{ 9 ** (9 ** 9) }}", "{{ 3 ** 500000 * 3 ** 500000 }}"])
def test_a_template_calculates_no_huge_integers(tmp_path: Path, template: str) -> None:
    with pytest.raises(DataError, match="user: calculates an integer of more than 1,048,576 bits"):
        run(Map, tmp_path, [row("a")], user=template)


def test_what_python_can_not_interrupt_ends_the_process() -> None:
    code = (
        "from finery.rows.templates import limits\n"
        "limits.GRACE_SECONDS = 0.2\n"
        "a, b = [], []\n"
        "for i in range(60): a, b = [a, a], [b, b]\n"
        "with limits.apply_limits(seconds=0.2): a == b"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=120)
    assert done.returncode == -signal.SIGPROF


def test_a_limit_that_is_caught_is_raised_again() -> None:
    def catches_two() -> None:
        for _ in range(2):
            with contextlib.suppress(limits.TimeExceeded):
                while True:
                    pass
        while True:
            pass

    with pytest.raises(limits.TimeExceeded), limits.apply_limits(seconds=0.1):
        catches_two()
    with limits.apply_limits():
        pass  # and the next one starts anew


def test_an_expression_does_not_take_all_memory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="where: takes more than 512 MiB of memory"):
        run(Filter, tmp_path, [row("a")], where="user * 10 ** 10 == 'a'")


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{{ [user, 'b'] | random }}", "No filter named 'random'"),
        ("{% include 'other.txt' %}", "loads another template"),
        ("{% from 'other.txt' import x %}", "loads another template"),
        ("{{" + "(" * 9999 + ")" * 9999 + "}}", "isn't valid Jinja"),
    ],
)
def test_a_template_depends_on_the_row_alone(template: str, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        Map(rows=[], user=template).check()
    assert (caught.value.where, bool(caught.value.fix)) == ("user", True)


@pytest.mark.parametrize("template", ["{{ user.upper }}", "{{ [user] | map('upper') }}"])
def test_a_template_never_writes_what_differs_between_runs(tmp_path: Path, template: str) -> None:
    with pytest.raises(DataError, match="not text"):
        run(Map, tmp_path, [row("a")], user=template)


def test_a_pattern_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    rows = [row("fine"), row("a" * 40 + "b")]
    with pytest.raises(DataError, match=r"matches\.user: .*'\(a\+\)\+\$.fine'") as caught:
        run(Filter, tmp_path, rows, matches={"user": "(a+)+$|fine"})
    assert "row 2" in str(caught.value.where)


@pytest.mark.parametrize(
    ("settings", "what", "fix"),
    [
        (
            {"user": "{{ lable | default('') }} {{ user }}"},
            "no row has a column 'lable'",
            "'label'",
        ),
        ({"columns": {"x": "{{ row['lable'] is defined }}"}}, "a column 'lable'", "'label'"),
        ({"remove": ["lable"]}, "no row has a column 'lable'", "'label'"),
    ],
)
def test_map_refuses_what_no_row_has(
    tmp_path: Path, settings: dict[str, Any], what: str, fix: str
) -> None:
    with pytest.raises(DataError, match=what) as caught:
        run(Map, tmp_path, [row("a", label="x"), row("b")], **settings)
    assert fix in str(caught.value.fix)
    assert caught.value.where == ("columns.x" if "columns" in settings else next(iter(settings)))


# data.mix


def mixed(folder: Path, sources: list[list[Row]], seed: int = 0, **given: Any) -> Dataset:
    inputs = [dataset(folder / f"in{i}", rows) for i, rows in enumerate(sources)]
    step = Mix(rows=inputs, **given)
    step.check()
    return step.run(TestJob(folder / "job", seed=seed))


SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@given(sizes=SIZES, data=st.data(), seed=st.integers(0, 2**31 - 1), shuffle=st.booleans())
def test_mix_takes_the_shares_and_no_row_twice(
    tmp_path_factory: Any, sizes: list[int], data: st.DataObject, seed: int, shuffle: bool
) -> None:
    weights = data.draw(
        st.lists(st.sampled_from([0.3, 1, 2.5]), min_size=len(sizes), max_size=len(sizes))
    )
    sources = [numbered(n, source=i) for i, n in enumerate(sizes)]
    made = mixed(tmp_path_factory.mktemp("mix"), sources, seed, weights=weights, shuffle=shuffle)
    parts = [[r for r in made if r["source"] == i] for i in range(len(sizes))]
    assert made.meta["sources"] == [len(p) for p in parts]
    for part, rows in zip(parts, sources, strict=True):
        assert part == [r for r in rows if r in part]  # in order, none twice
    rest = [line["row"] for line in read_dropped(made)]
    assert len(rest) + len(made) == sum(sizes)
    unit = min(n / w for n, w in zip(sizes, weights, strict=True))
    assert all(abs(len(p) - unit * w) <= 1 for p, w in zip(parts, weights, strict=True))
    if not shuffle:
        assert list(made) == [r for p in parts for r in p]


def test_mix_of_a_total_repeats_short_sources_if_asked(tmp_path: Path) -> None:
    sources = [numbered(3, source="a"), numbered(20, source="b")]
    with pytest.raises(DataError, match="source 1 of `rows` has 3 rows, but its part of 16"):
        mixed(tmp_path / "a", sources, total=16)
    made = mixed(tmp_path / "b", sources, total=16, short="repeat")
    counts = Counter(r["id"] for r in made if r["source"] == "a")
    assert sorted(counts.values()) == [2, 3, 3]
    assert made.meta["sources"] == [8, 8]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, float("inf")]])
def test_mix_refuses_weights_that_do_not_fit(tmp_path: Path, weights: list[float]) -> None:
    with pytest.raises(UsageError, match="weight"):
        mixed(tmp_path, [numbered(2), numbered(2)], weights=weights)


@given(total=st.integers(0, 1000), weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=9))
def test_parts_add_up_and_are_near_their_share(total: int, weights: list[float]) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == total
    exact = [total * w / sum(weights) for w in weights]
    assert all(abs(p - e) < 1 for p, e in zip(parts, exact, strict=True))


# data.sample


@given(n=st.integers(1, 30), seed=st.integers(0, 2**31 - 1), more=st.integers(0, 10))
def test_sample_is_in_order_and_changes_little_when_rows_are_added(
    tmp_path_factory: Any, n: int, seed: int, more: int
) -> None:
    folder, rows = tmp_path_factory.mktemp("sample"), numbered(30 + more)
    before = list(run(Sample, folder / "a", rows[:30], seed, n=n))
    made = run(Sample, folder / "b", rows, seed, n=n)
    after = list(made)
    assert len(after) == n
    assert after == [r for r in rows if r in after]
    assert sum(r in before for r in after) >= n - more
    assert {line["id"] for line in read_dropped(made)} == {r["id"] for r in rows if r not in after}


def skewed() -> list[Row]:
    return [row(f"q {i}", label="rare" if i % 10 == 0 else "usual") for i in range(40)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"n": 10, "by": "label"}, {"rare": 1, "usual": 9}),
        ({"by": "label", "balance": "down"}, {"rare": 4, "usual": 4}),
        ({"by": "label", "balance": "up"}, {"rare": 36, "usual": 36}),
    ],
)
def test_sample_balances_classes(
    tmp_path: Path, given: dict[str, Any], expected: dict[str, int]
) -> None:
    made = run(Sample, tmp_path, skewed(), **given)
    assert made.meta["classes"] == expected
    by = "label" if given["by"] == "label" else None
    assert Counter(r["label"] if by else r["label"][:1] for r in made) == expected


@pytest.mark.parametrize(
    ("given", "error", "what"),
    [
        ({}, UsageError, "would take all rows"),
        ({"n": 99}, DataError, "there are 40 rows, but n is 99"),
        ({"n": 3, "by": "labl"}, DataError, "the row has no 'labl'"),
    ],
)
def test_sample_refuses(tmp_path: Path, given: dict[str, Any], error: Any, what: str) -> None:
    with pytest.raises(error, match=what):
        run(Sample, tmp_path, skewed(), **given)


# tool calls
