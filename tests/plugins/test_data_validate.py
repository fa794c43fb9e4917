"""data.validate: planted problems, each found and named by its row."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery import DataError, Dataset, File, UsageError
from finery.rows import Row, with_id
from finery.rows.dropped import read_dropped, read_findings
from finery.rows.spelling import one_edit_apart
from finery.rows.templates import limits
from finery.testing import TestJob, dataset
from finery_data.checks import encoding, personal
from finery_data.steps.validate import Validate


def row(prompt: str, answer: str = "fine", **more: Any) -> Row:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return with_id({"messages": turns, **more})


def turns(*said: str) -> Row:
    """A row of turns written as `role: text`."""
    parts = [one.partition(":") for one in said]
    return with_id({"messages": [{"role": r, "content": c.strip()} for r, _, c in parts]})


def validate(folder: Path, rows: list[Row], **given: Any) -> Dataset:
    step = Validate(rows=[dataset(folder / "in", rows)], **given)
    step.check()
    made: Dataset = step.run(TestJob(folder / "job"))
    return made


def found(made: Dataset) -> list[tuple[str, str]]:
    return [(line["id"], line["check"]) for line in read_findings(made)]


def refused(folder: Path, rows: list[Row], **given: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        validate(folder, rows, **given)
    assert caught.value.fix
    return caught.value.details


GOOD = [
    row(f"A question about subject number {i}, with words of its own: {i * 7}") for i in range(9)
]


# each problem, planted


PERSONAL = {
    "email": "write to jan.kowalski@firma.pl today",
    "phone": "call +48 22 123 45 67 please",
    "iban": "pay to DE89 3704 0044 0532 0130 00 now",
    "card": "my card is 4111 1111 1111 1111",
    "ip": "the server is at 8.8.8.8 I think",
}
BROKEN: dict[str, Row] = {
    "empty": turns("user: hi", "assistant:"),
    "turns": turns("assistant: hello", "user: hi", "assistant: ho"),
    "encoding": row("Das ist ein schÃ¶ner Tag fÃ¼r uns"),
    **{kind: row(text) for kind, text in PERSONAL.items()},
}


@pytest.mark.parametrize("check", BROKEN)
def test_each_problem_is_found_and_named_by_its_row(tmp_path: Path, check: str) -> None:
    bad = BROKEN[check]
    rows = [*GOOD[:4], bad, *GOOD[4:]]
    made = validate(tmp_path / "a", rows, actions={check: "report"})
    assert found(made) == [(bad["id"], check)]
    assert [line["row"] for line in read_findings(made)] == [5]
    assert made.meta["findings"] == {check: 1}
    assert list(made) == rows
    made = validate(tmp_path / "b", rows, actions={check: "drop"})
    assert [(line["id"], line["reason"]) for line in read_dropped(made)] == [(bad["id"], check)]
    assert list(made) == GOOD
    lines = refused(tmp_path / "c", rows, actions={check: "error"})
    assert [line.partition(": ")[0] for line in lines] == [f"row 5 (id {bad['id']})"]


def test_a_row_of_ten_megabytes_is_found_at_once(tmp_path: Path) -> None:
    big = row("word " * 2_000_000)
    started = time.process_time()
    lines = refused(tmp_path, [*GOOD, big])
    assert time.process_time() - started < 5
    assert lines == [f"row 10 (id {big['id']}): size: has 10,000,105 bytes, more than 1,000,000"]


@pytest.mark.parametrize(
    "text", ["a" * 2_000_000, "1 " * 1_000_000, "a.b@" * 500_000, "A1" * 999_999]
)
def test_long_texts_take_time_in_proportion(text: str) -> None:
    started = time.process_time()
    list(personal.personal_data(text, personal.KINDS))
    list(encoding.garbled(text))
    assert time.process_time() - started < 20


def test_wrong_label_for_the_same_prompt(tmp_path: Path) -> None:
    prompt = "Where is my card? I have waited for it since last week"
    rows = [row(prompt, label="arrival"), row(prompt.upper(), label="payment")]
    rows += [row(prompt + "!", label="arrival"), row(prompt + " now", label="refund")]
    made = validate(tmp_path, [*GOOD, *rows])
    assert found(made) == [(rows[i]["id"], "label-conflict") for i in (1, 3)]
    first, second = (line["detail"] for line in read_findings(made))
    assert first.startswith("the label is 'payment', and 'arrival' in 2 rows with the same prompt")
    assert "'refund', and 'arrival' in row 10" in second


def test_misspelt_label(tmp_path: Path) -> None:
    rows = [row(f"{g['messages'][0]['content']}", label="card_arrival") for g in GOOD]
    rows[4] = {**rows[4], "label": "card_arival"}
    made = validate(tmp_path, rows)
    assert found(made) == [(rows[4]["id"], "label-typo")]
    detail = next(read_findings(made))["detail"]
    assert detail == "the label 'card_arival' (1 row) looks like 'card_arrival' (8 rows)"


def test_label_that_is_not_allowed_or_missing(tmp_path: Path) -> None:
    rows = [row("a", label="billing"), row("b", label="biling"), row("c")]
    lines = refused(tmp_path / "a", rows, labels=["billing", "shipping"])
    assert [line.partition("): ")[2] for line in lines] == [
        "label: the label 'biling' isn't allowed; did you mean 'billing'?",
        "label: there is no label (label)",
    ]
    spoken = [row(str(i), "yes") for i in range(3)]
    assert len(validate(tmp_path / "b", spoken, label="output", labels=["yes", "no"])) == 3


def test_broken_json(tmp_path: Path) -> None:
    rows = [row(f"q{i}", f'{{"kind": "flat", "rent": {i}}}') for i in range(6)]
    rows[2] = row("q2", '{"kind": "flat", "rent": 3')
    made = validate(tmp_path / "a", rows)
    assert found(made) == [(rows[2]["id"], "json")]
    assert "ends too early" in next(read_findings(made))["detail"]
    assert (
        "json: the answer is JSON that ends too early"
        in refused(tmp_path / "b", rows, json=True)[0]
    )
    assert not found(validate(tmp_path / "c", rows, json=False))
    assert not found(validate(tmp_path / "d", [row("q", "{"), *GOOD]))  # few are JSON


def test_answers_that_break_a_schema(tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["rent"], "properties": {"rent": {"type": "integer"}}}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema), encoding="utf-8")
    rows = [row("a", '{"rent": 3}'), row("b", '{"rent": "3"}'), row("c", "none")]
    lines = refused(tmp_path, rows, schema=File(["schema.json"], [path]))
    assert [line.partition("): ")[2].partition(":")[0] for line in lines] == ["schema", "json"]
    assert "rent: '3' is not of type 'integer'" in lines[0]


def test_a_pattern_of_a_schema_without_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"items": {"pattern": "(a+)+$"}}), encoding="utf-8")
    bad = row("list", json.dumps(["a" * 40 + "b"]))
    with pytest.raises(DataError, match=r"one of its patterns takes more than 0\.2 s") as caught:
        validate(tmp_path, [bad], schema=File(["schema.json"], [schema]))
    assert bad["id"] in str(caught.value.where)


def test_languages(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    german = row("Meine Karte ist noch nicht angekommen, ich warte schon zwei Wochen darauf", "ok")
    rows = [row("I still have not received my card, I ordered it over a week ago", "ok"), german]
    lines = refused(tmp_path / "a", rows, languages=["en"])
    assert [line.partition(" is")[0] for line in lines] == [
        f"row 2 (id {german['id']}): language: the prompt"
    ]
    assert len(validate(tmp_path / "b", rows, languages=["en", "de"])) == 2
    with pytest.raises(UsageError, match="doesn't know the language 'english'"):
        validate(tmp_path / "c", rows, languages=["english"])


# turns

FUNCTION = {"name": "f", "arguments": "{"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": FUNCTION}]}


@pytest.mark.parametrize(
    ("bad", "check", "what"),
    [
        (turns("user: a", "user: b", "assistant: c"), "turns", "turn 2 is 'user' after 'user'"),
        (turns("usr: a", "assistant: c"), "turns", "unknown role 'usr'"),
        ({"messages": []}, "turns", "'messages' has no turns"),
        ({"prompt": "", "completion": "c"}, "empty", "'prompt' is empty"),
        (
            {"messages": [{"role": "user", "content": "a"}, CALL]},
            "turns",
            "holds invalid JSON",
        ),
    ],
)  # fmt: skip
def test_broken_turns(tmp_path: Path, bad: Row, check: str, what: str) -> None:
    lines = refused(tmp_path, [GOOD[0], bad])
    assert f"): {check}: " in lines[0]
    assert what in lines[0]


CALLED = [{"role": "user", "content": "a"}, {**CALL, "tool_calls": [
    {"function": {"name": "find", "arguments": {}}}
]}]  # fmt: skip


@pytest.mark.parametrize(
    ("tools", "what"),
    [
        (["fetch", "fond"], "the tool 'find' is called but not declared; did you mean 'fond'?"),
        ([], "the tool 'find' is called but not declared; the row declares none"),
    ],
)
def test_tools_that_are_called_and_not_declared(
    tmp_path: Path, tools: list[str], what: str
) -> None:
    declared = [{"type": "function", "function": {"name": name}} for name in tools]
    row = with_id({"messages": CALLED} | ({"tools": declared} if declared else {}))
    assert refused(tmp_path, [row]) == [f"row 1 (id {row['id']}): tools: {what}"]


def test_tools_that_are_declared_are_fine_and_so_is_a_wrong_call_that_is_rejected(
    tmp_path: Path,
) -> None:
    tools = [{"type": "function", "function": {"name": "find"}}]
    row = {"prompt": CALLED[:1], "chosen": "hello", "rejected": CALLED[1:]}
    assert not found(validate(tmp_path, [{"messages": CALLED, "tools": tools}, row]))


# the step


def test_personal_data_is_masked(tmp_path: Path) -> None:
    made = validate(tmp_path, [row(text) for text in PERSONAL.values()])
    text = "\n".join(line["detail"] for line in read_findings(made))
    assert "turn 1 (user): an e-mail address, ja…pl" in text
    assert not any(secret in text for secret in ("kowalski", "123", "3704", "1111", "8.8"))


def test_all_failing_rows_are_counted_and_the_first_listed(tmp_path: Path) -> None:
    rows = [turns("user: a", f"assistant: {' ' * n}") for n in range(30)]
    with pytest.raises(DataError, match=r"30 of 30 rows fail \(empty 30\)") as caught:
        validate(tmp_path, rows)
    assert len(caught.value.details) == 21
    assert caught.value.details[-1] == "… and 10 more, in the step's log"
    assert "actions: {empty: drop}" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"actions": {"emial": "drop"}}, "actions.emial"),
        ({"json": False, "schema": File(["s"])}, "json"),
        ({"languages": ["en", "klingon"]}, "languages"),
    ],
)
def test_settings_that_can_not_work(given: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError) as caught:
        Validate(rows=[], **given).check()
    assert caught.value.where == where


PARCEL = "where is the parcel that I ordered on monday"


@pytest.mark.parametrize(
    ("rows", "conflicts"),
    [
        ([row(PARCEL, label="a"), row(PARCEL, label="b")], 1),
        ([row(PARCEL, "a"), row(PARCEL, "b"), row("hi", "a"), row("ho", "b")], 1),
        ([row(PARCEL, "a"), row(PARCEL, "b"), row("hi", "c")], 0),  # answers, not classes
        ([row(PARCEL, "a", label="x"), row(PARCEL, "b", label="x")], 0),
    ],
)
def test_labels_are_those_of_the_column_or_else_answers_that_repeat(
    tmp_path: Path, rows: list[Row], conflicts: int
) -> None:
    made = validate(tmp_path, rows)
    assert made.meta["findings"].get("label-conflict", 0) == conflicts


# forms of personal data


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "müller@übung.de"),
        ("phone", "0049 30 1234567"),
        ("phone", "(555) 867-5309"),
        ("iban", "GB82WEST12345698765432"),
        ("iban", "gb82 west 1234 5698 7654 32"),
        ("card", "5500-0000-0000-0004"),
        ("ip", "2001:4860:4860::8888"),
    ],
)
def test_personal_data(kind: str, text: str) -> None:
    met = list(personal.personal_data(f"so {text} it is", personal.KINDS))
    assert [name for name, _ in met] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "mail a@example.com or b@test.example",
        "on 2026-11-25 at 10:15, or 25.11.2026, or 01-02-2026",
        "order 123456789, article 4711-0815, 1,234,567.89 EUR, 0.123456789",
        "version 1.2.3.4 and 10.0.0.1 and 192.168.178.20 and ::1 and 12:34:56",
        "4111 1111 1111 1112",
        "DE89 3704 0044 0532 0130 01",
        "the ab12 code has been used more than once",
        "SELECT 1 + 2 FROM t WHERE a = 1000000 AND b = 2000000",
        "É” and „Ä“ and 10 £ and naïve café",
    ],
)  # fmt: skip
def test_no_personal_data(text: str) -> None:
    met = [found for _, found in personal.personal_data(text, personal.KINDS)]
    if "1.2.3.4" in text:
        assert [f.text for f in met] == ["1.2.3.4"]  # by its form an address like any other
    else:
        assert not met
    assert not list(encoding.garbled(text))


@pytest.mark.parametrize(
    "text", ["schÃ¶n", "Itâ€™s", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "caf\ufffd", "a\x81b", "\x00", "10Â°"]
)
def test_garbled(text: str) -> None:
    assert list(encoding.garbled(f"a {text} b"))


@given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), min_size=1))
def test_utf8_read_as_latin_1_is_found_wherever_a_letter_of_europe_is(text: str) -> None:
    garbled = text.encode("utf-8").decode("latin-1")
    if text.isascii():
        assert not list(encoding.garbled(garbled))
    else:
        assert list(encoding.garbled(garbled))


# labels


LETTERS = st.text("abc", min_size=1, max_size=6)


@given(LETTERS, st.integers(0, 5), st.sampled_from("abcd"))
def test_one_edit(word: str, at: int, letter: str) -> None:
    at = min(at, len(word) - 1)
    edits = [
        word[:at] + letter + word[at:],
        word[:at] + word[at + 1 :],
        word[:at] + letter + word[at + 1 :],
    ]
    edits.append(word[:at] + word[at : at + 2][::-1] + word[at + 2 :])
    assert all(one_edit_apart(word, edit) and one_edit_apart(edit, word) for edit in edits)
    assert not one_edit_apart(word, word + "xy")
    assert not one_edit_apart("ab" + word, "ba" + word + "x")
