"""Accepted changes: their lines in `recipe.lock`, and which earlier keys they lead to."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from finery.artifact.manifest import Parts, key_of
from finery.builder.keys import MISSING, Acceptances, group_changes
from finery.recipe.lock import ACCEPTABLE_PARTS, ACCEPTABLE_PREFIXES, Accepted, Lock, is_acceptable

VALUES = st.one_of(
    st.text(), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(),
    st.lists(st.text(), max_size=2), st.sampled_from(["2.10", "1e5", "no", "~", "2024-01-01"]),
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(ACCEPTABLE_PARTS),
    st.builds(str.__add__, st.sampled_from(ACCEPTABLE_PREFIXES), st.text()),
)
CHANGES = st.builds(
    Accepted, part=NAMES, old=VALUES, new=VALUES, use=st.text(min_size=1), group=st.text()
)


@given(st.lists(CHANGES, unique_by=Accepted.line), st.dictionaries(st.text(), st.text()))
def test_each_change_is_one_line_that_is_read_as_it_was(
    changes: list[Accepted], pins: dict[str, str]
) -> None:
    pins.pop("accepted", None)
    with TemporaryDirectory() as folder:
        lock = Lock(Path(folder) / "recipe.yaml")
        for name, pin in pins.items():
            lock.set(name, pin)
        lock.accept([c for c in changes if (c.use, c.part, c.new, c.old) not in
                     [(d.use, d.part, d.old, d.new) for d in changes]])  # fmt: skip
        written = lock.accepted()
        read = Lock(Path(folder) / "recipe.yaml")
        assert sorted(map(Accepted.line, read.accepted())) == sorted(map(Accepted.line, written))
        assert all(len(change.line().splitlines()) == 1 for change in read.accepted())
        assert dict(read.pins()) == pins


A, B, C = (letter * 64 for letter in "abc")


def parts(code: str, package: str | None = "1", setting: int = 1, use: str = "w.read") -> Parts:
    """The parts of a key."""
    listed = [
        ("step type", use),
        ("code x.py", code),
        ("setting n", setting),
        ("package p", package),
    ]
    return [(name, value) for name, value in listed if value is not None]


def change(old: Any, new: Any, part: str = "code x.py", use: str = "w.read") -> Accepted:
    """An accepted change."""
    return Accepted(part=part, old=old, new=new, use=use)


def keys(accepted: list[Accepted], now: Parts) -> list[str]:
    """The keys that are looked up for a step, after its own."""
    found = map(key_of, Acceptances(accepted).earlier(now))
    return [key for key in dict.fromkeys(found) if key != key_of(now)]


def test_nothing_accepted_leads_nowhere() -> None:
    assert keys([], parts(B)) == []
    assert keys([change(A, C)], parts(B)) == []
    assert keys([change(A, B, use="w.other")], parts(B)) == []


def test_chains_and_circles() -> None:
    chain = [change(A, B), change(B, C)]
    assert keys(chain, parts(C)) == [key_of(parts(B)), key_of(parts(A))]
    circle = [*chain, change(C, A)]
    assert keys(circle, parts(C)) == [key_of(parts(B)), key_of(parts(A))]
    assert Acceptances(circle).applied_changes(parts(C)) == [chain[1], chain[0], circle[2]]


def test_parts_that_came_or_went() -> None:
    assert keys([change(UNSET, "1", "package p")], parts(A)) == [key_of(parts(A, None))]
    assert keys([change("1", UNSET, "package p")], parts(A, None)) == [key_of(parts(A))]


def test_a_group_is_taken_back_as_a_whole() -> None:
    together = group_changes("w.read", [("code x.py", A, B), ("package p", "1", "2")])
    assert keys(together, parts(B, "2")) == [key_of(parts(A, "1"))]
    assert keys(together, parts(B, "1")) == keys(together, parts(A, "2")) == []
    assert keys(together, parts(B, None)) == [key_of(parts(A, None))]  # it has no such part


def test_many_chains_end() -> None:
    lines = [change(str(n), str(m)) for n in range(40) for m in range(40) if n != m]
    assert len(keys(lines, parts("0"))) == 39


@given(st.data())
def test_other_parts_stay_the_same(data: st.DataObject) -> None:
    """Whatever is accepted, a result that serves a step differs in accepted values only."""
    values = st.sampled_from([A, B, C, UNSET])
    name = st.sampled_from(["code x.py", "package p", "read q"])
    lines = data.draw(
        st.lists(st.builds(change, values, values, name, st.sampled_from(["w.read", "w.other"])))
    )
    now = parts(data.draw(st.sampled_from([A, B, C])), data.draw(st.sampled_from([A, B, None])))
    changed = {(c.part, c.old) for c in lines if c.use == "w.read"}
    for before in Acceptances(lines).earlier(now):
        old, new = dict(before), dict(now)
        differing = [p for p in {*old, *new} if old.get(p, UNSET) != new.get(p, UNSET)]
        assert all((p, old.get(p, UNSET)) in changed for p in differing)
        assert (old["setting n"], old["step type"]) == (1, "w.read")


@pytest.mark.parametrize(
    "part",
    [
        "setting n", "input rows[0]", "name of rows[0]", "file path x", "seed", "pinned", "outputs",
        "environment", "key format", "step type", "version", "version of x", "provenance x",
    ],
)  # fmt: skip
def test_what_a_user_chose_is_never_acceptable(part: str) -> None:
    assert not is_acceptable(part)


def test_the_order_of_parts_is_not_in_a_key() -> None:
    assert key_of(parts(A)) == key_of(parts(A)[::-1]) != key_of(parts(B))


def test_a_missing_part_is_written_as_missing() -> None:
    (line,) = group_changes("w.read", [("package p", MISSING, "1")])
    assert line.line() == "- {part: package p, new: '1', for: w.read}\n"
