"""The checks of generated rows, one by one and in a generator."""

import json
from pathlib import Path
from typing import Any

import pytest

from finery import DataError, File, StepError, UsageError
from finery.rows import Row
from finery.rows.generated import CheckResult
from finery.rows.templates import limits
from finery_synth.checks import Checker, Checks, Functions, Similarity
from finery_synth.judges import Score, Unreadable
from finery_synth.similarity import Neighbours


def row(answer: str, user: str = "what?") -> Row:
    return {"id": f"{user}/{answer}", "prompt": user, "completion": answer}


def last(checks: Checks, answer: str, user: str = "what?") -> CheckResult:
    return Checker(checks).checked(row(answer, user))[-1]


def files(path: Path, text: str) -> File:
    path.write_text(text, encoding="utf-8")
    return File([path.name], [path])


@pytest.mark.parametrize(
    ("checks", "good", "bad", "detail"),
    [
        (Checks(matches={"assistant": "^a"}), "ab", "ba", "assistant doesn't match ^a"),
        (Checks(excludes={"assistant": "(?i)AI"}), "x", "an ai", "assistant matches (?i)AI: 'ai'"),
        (Checks(allowed=["a", "b"]), " a\n", "c", "the answer 'c' isn't allowed"),
        (
            Checks(fields={"p": ["high", "low"]}), "p: high\nq: x", "p: middle",
            "p is missing or has a value that isn't allowed",
        ),
        (Checks(fields={"p": ["1"], "q": ["true"]}), '{"p": 1, "q": true}', '{"p": 1}', "q is"),
        (Checks(min_characters={"assistant": 2}), "ab", "a", "1 characters, fewer than 2"),
        (Checks(schema={"required": ["a"]}), '{"a": 1}', "{}", "'a' is a required property"),
        (Checks(schema={}), '{"a": 1}', '{"a": 1', "the answer is JSON that ends too early"),
    ],
)  # fmt: skip
def test_each_check(checks: Checks, good: str, bad: str, detail: str) -> None:
    checks.check()
    assert last(checks, good).passed
    if bad:
        failed = last(checks, bad)
        assert not failed.passed
        assert detail in failed.detail


@pytest.mark.parametrize(
    "checks",
    [Checks(excludes={"assistant": "(a+)+$"}), Checks(schema={"items": {"pattern": "(a+)+$"}})],
)
def test_a_pattern_without_end_is_stopped(checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    text = "a" * 40 + "b"
    with pytest.raises(DataError, match=r"takes more than 0\.2 s") as caught:
        last(checks, json.dumps([text]) if checks.schema else text)
    assert "what?" in str(caught.value.where)


def test_all_checks_must_pass_and_the_first_that_does_not_is_told() -> None:
    checks = Checks(min_characters={"assistant": 3}, excludes={"assistant": "b"})
    found = Checker(checks).checked(row("ab"))
    assert [(c.check, c.passed) for c in found] == [("excludes.assistant", False)]
    found = Checker(checks).checked(row("aa"))
    assert [(c.check, c.passed) for c in found] == [
        ("excludes.assistant", True), ("min_characters.assistant", False),
    ]  # fmt: skip
    assert all(c.passed for c in Checker(checks).checked(row("aaa")))


def test_a_schema_in_a_file(tmp_path: Path) -> None:
    checks = Checks(json_schema=files(tmp_path / "s.json", '{"required": ["city"]}'))
    assert last(checks, '{"city": "Bonn"}').passed
    assert "doesn't fit the schema" in last(checks, "{}").detail
    broken = Checks(json_schema=files(tmp_path / "b.json", '{"type": "objekt"}'))
    with pytest.raises(DataError, match="not a JSON Schema"):
        Checker(broken)


def test_sql_must_run(tmp_path: Path) -> None:
    script = "CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1), (2);"
    checks = Checks(sql=files(tmp_path / "t.sql", script))
    found = last(checks, "SELECT a FROM t")
    assert (found.passed, found.value) == (True, 2)
    assert last(checks, "```sql\nSELECT 1\n```").passed
    assert "no such column: b" in last(checks, "SELECT b FROM t").detail
    assert "not authorized" in last(checks, "DROP TABLE t").detail
    assert not last(checks, "Sure! Here is the query.").passed


PYTHON = """
def polite(row):
    return None if "please" in row["prompt"] else "isn't polite"

def short(row):
    return len(row["completion"]) < 5

def broken(row):
    return row["nothing"]
"""


def test_functions_of_a_file(tmp_path: Path) -> None:
    file = files(tmp_path / "checks.py", PYTHON)
    checks = Checks(python=Functions(file=file, functions=["polite", "short"]))
    assert [c.check for c in Checker(checks).checked(row("yes", "please"))] == [
        "python.polite", "python.short",
    ]  # fmt: skip
    assert last(checks, "yes", "now").detail == "isn't polite"
    assert not last(checks, "much too long", "please").passed
    broken = Checks(python=Functions(file=file, functions=["broken"]))
    with pytest.raises(StepError, match="the check broken failed: KeyError: 'nothing'"):
        last(broken, "x")
    mistyped = Checks(python=Functions(file=file, functions=["polit"]))
    with pytest.raises(UsageError, match="has no function 'polit'") as raised:
        Checker(mistyped)
    assert raised.value.fix == "did you mean 'polite'?"


def test_functions_of_a_package() -> None:
    checks = Checks(python=Functions(functions=["finery.rows:answer_text"]))
    checks.check()
    assert last(checks, "it says this").detail == "it says this"
    with pytest.raises(UsageError, match="can't be imported"):
        Checker(Checks(python=Functions(functions=["no_such.module:f"])))


@pytest.mark.parametrize(
    ("checks", "where"),
    [
        (Checks(matches={"user": "("}), "checks.matches.user"),
        (Checks(schema={}, json_schema=File(["a"])), "checks.schema"),
        (Checks(min_characters={"user": 3}, max_characters={"user": 2}),
         "checks.min_characters.user"),
        (Checks(python=Functions(functions=["f"])), "checks.python.functions"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(checks: Checks, where: str) -> None:
    with pytest.raises(UsageError) as raised:
        checks.check()
    assert raised.value.where == where


# -- compared ------------------------------------------------------------------------------------

LONG = "my parcel from the shop in the next street hasn't come and nobody answers the phone"


def test_similar_rows(tmp_path: Path) -> None:
    seeds = [row("a", LONG), row("b", "something else entirely, about money")]
    near = Neighbours(Similarity(max=0.7), "prompt", tmp_path, lambda: seeds)
    found = near.checked(row("c", LONG.replace("phone", "door bell")), [])
    assert not found.passed
    assert "similar to the seed" in found.detail
    assert 0.7 <= found.value < 1
    new = row("d", "the invoice names another amount than the order that I placed on Monday")
    assert near.checked(new, [seeds[1]]).passed
    near.add(new)
    assert "repeats the generated row" in near.checked(new, []).detail


def test_similar_to_seeds_or_others_alone(tmp_path: Path) -> None:
    seeds = [row("a", LONG)]
    others = Neighbours(Similarity(to=["others"]), "prompt", tmp_path, lambda: seeds)
    assert others.checked(row("b", LONG), []).passed
    others.add(row("b", LONG))
    assert not others.checked(row("c", LONG), []).passed
    only_seeds = Neighbours(Similarity(to=["seeds"]), "prompt", tmp_path, lambda: seeds)
    assert not only_seeds.checked(row("b", LONG), []).passed
    only_seeds.add(row("b", "another one, which is long enough to be told apart"))
    assert only_seeds.checked(
        row("c", "another one, which is long enough to be told apart"), []
    ).passed


# -- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"reason": "good", "score": 4}', Score(4, "good")),
        ('Sure!\n```json\n{"score": 5}\n```\nThat is it.', Score(5, "")),
        ('{"score": 0}', "the judge's score 0 isn't between 1 and 5"),
        ('{"score": true}', "isn't an integer"),
        ("4", "doesn't contain a JSON object"),
    ],
)
def test_scores_are_read_strictly(text: str, found: Any) -> None:
    if isinstance(found, Score):
        assert Score.read(text, 5) == found
        return
    with pytest.raises(Unreadable, match=found):
        Score.read(text, 5)
