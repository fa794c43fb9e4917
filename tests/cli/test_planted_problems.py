"""Problems planted in a data set: the command finds each of them and names its row."""

import json
import random
import re
from typing import Any

import pytest
from conftest import Project, Ran

pytest.importorskip("py3langid", reason="needs finery[data]")

LABELS = ["billing", "shipping", "technical"]
TEXT = """
account invoice parcel refund login password delivery charge window printer update order tracking
address courier payment card screen battery router signal contract upgrade statement cancel return
exchange warranty repair broken late missing wrong double garden kitchen
"""
WORDS = TEXT.split()
BIG = 2_000_000
RECIPE = """\
finery: 1
name: t
models:
  base: {use: hub.model, repo: org/model}
data:
  rows: {use: data.file, path: rows.jsonl, format: messages, bad_rows: skip}
  valid:
    use: data.validate
    rows: rows
    languages: [en]
    actions: {size: report, language: report}
  unique: {use: data.dedup, rows: valid}
  split: {use: data.split, rows: unique, test: 0.2}
  uncleaned: {use: data.split, rows: rows, test: 0.2, decontaminate: false}
  held: {use: data.file, path: held.jsonl}
  cleaned: {use: data.decontaminate, rows: rows, against: held}
  pairs: {use: data.file, path: pairs.jsonl}
  parted: {use: data.split, rows: pairs, test: 0.3}
  bookings: {use: data.file, path: bookings.jsonl}
  checked: {use: data.validate, rows: bookings}
train:
  sft: {use: trl.sft, model: base, rows: uncleaned.train}
evaluate:
  test: {use: eval.exact, models: [sft], rows: uncleaned.test}
"""
DATA = ("rows", "valid", "unique", "split", "cleaned", "parted", "checked")


def text(number: int) -> str:
    chosen = random.Random(number).choices(WORDS, k=18)
    return f"Customer {number} writes: {' '.join(chosen)}"


def near(number: int) -> str:
    return text(number).replace("writes", "wrote") + "!"


def row(user: str, label: str = "billing") -> dict[str, Any]:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": label}]
    return {"messages": turns, "label": label}


def encoded(made: dict[str, Any], encoding: str = "utf-8") -> bytes:
    return (json.dumps(made, ensure_ascii=False) + "\n").encode(encoding)


def turned(made: dict[str, Any]) -> dict[str, Any]:
    return {**made, "messages": made["messages"][::-1]}


def planted() -> dict[str, bytes]:
    """What is wrong → the line that has it."""
    big = " ".join(random.Random(0).choices(WORDS, k=BIG // 7))
    return {
        "copy": encoded(row(text(5), LABELS[2])),
        "near copy": encoded(row(near(7), LABELS[1])),
        "typo": encoded(row(text(900), "biling")),
        "email": encoded(row(f"Write to anna.meier@posteo.de: {text(901)}")),
        "phone": encoded(row(f"Call +49 30 1234567: {text(902)}")),
        "garbled": encoded(row(f"CafÃ© {text(903)}")),
        "german": encoded(row("Die Rechnung ist falsch, ich möchte mein Geld bitte zurück haben.")),
        "big": encoded(row(big)),
        "broken": b'{"messages": [{"role": "user", "content": "brok\n',
        "empty": encoded(row("  ")),
        "order": encoded(turned(row(text(904)))),
        "latin-1": encoded(row("Le café est fermé"), "latin-1"),
        "utf-16": encoded(row("wide"), "utf-16"),
        "mark": b"\xef\xbb\xbf" + encoded(row(text(905))),
    }


BROKEN = ("broken", "empty", "order", "latin-1", "utf-16", "mark")
"""What makes a row that can't be used at all."""


@pytest.fixture(scope="module")
def lines() -> dict[str, int]:
    """What is wrong → the number of its line."""
    return {name: 151 + i for i, name in enumerate(planted())}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the problems in it."""
    found = Project(tmp_path_factory.mktemp("planted"))
    (found.folder / ".git").mkdir()
    good = [encoded(row(text(n), LABELS[n % 3])) for n in range(150)]
    (found.folder / "rows.jsonl").write_bytes(b"".join([*good, *planted().values()]))
    bookings = [{"prompt": f"p {n}", "completion": f'{{"room": {n}}}'} for n in range(20)]
    bookings[11]["completion"] = '{"room": 11'
    found.write({"bookings.jsonl": "".join(json.dumps(b) + "\n" for b in bookings)})
    held = [row(text(20)), row(near(21)), row(text(999))]
    (found.folder / "held.jsonl").write_bytes(b"".join(map(encoded, held)))
    pairs = [row(made) for n in range(300, 340) for made in (text(n), near(n))]
    (found.folder / "pairs.jsonl").write_bytes(b"".join(map(encoded, pairs)))
    found.write({"recipe.yaml": RECIPE})
    return found


@pytest.fixture(scope="module")
def built(made: Project) -> Ran:
    """What the build of all but the training says."""
    ran = made.run("build", *(f"--step={name}" for name in DATA), timeout=120)
    assert ran.code == 0, ran.err
    return ran


def ids(made: Project, lines: dict[str, int]) -> dict[str, str]:
    """What is wrong → the id of its row, of those that can be used."""
    rows = iter(made.rows("rows"))
    usable = [name for name in lines if name not in BROKEN]
    return dict(zip(usable, [r["id"] for r in rows][150:], strict=True))


def findings(made: Project, step: str) -> dict[str, list[dict[str, Any]]]:
    """Check → its findings."""
    found: dict[str, list[dict[str, Any]]] = {}
    path = made.folder / "build" / "t" / step / "findings.jsonl"
    for line in path.read_text().splitlines():
        finding = json.loads(line)
        found.setdefault(finding["check"], []).append(finding)
    return found


def test_check_tells_of_rows_that_train_and_test_share(made: Project) -> None:
    ran = made.run("check")
    assert ran.code == 0, ran.err
    assert "sft trains on uncleaned.train" in ran.out
    assert "train-test-overlap" in ran.out


def test_rows_that_cannot_be_used_are_named_by_line(
    made: Project, built: Ran, lines: dict[str, int]
) -> None:
    reasons = {
        "broken": "invalid JSON",
        "empty": "turn 1 (user) is empty",
        "order": "the first turn is 'assistant'",
        "latin-1": "byte 50 (0xe9) isn't UTF-8",
        "utf-16": "the line is UTF-16",
        "mark": "the row starts with a byte order mark",
    }
    shown = made.run("show", "rows", "--dropped").out
    for name, reason in reasons.items():
        assert f"skipped rows.jsonl:{lines[name]}: {reason}" in built.err
        assert f"record {lines[name]}: {reason}" in shown
    assert "skipped 6 of 164 rows" in built.err


def test_a_build_that_should_skip_nothing_stops_and_names_them(
    made: Project, lines: dict[str, int]
) -> None:
    ran = made.run("build", "--step=rows", "--set", "data.rows.bad_rows=error")
    assert ran.code == 2
    assert "6 bad rows of 164" in ran.err
    assert all(f"rows.jsonl:{lines[name]}" in ran.err for name in BROKEN)


@pytest.mark.parametrize(
    ("check", "name", "detail"),
    [
        ("label-typo", "typo", "'biling' (1 row) looks like 'billing'"),
        ("email", "email", "an…de"),
        ("phone", "phone", "a phone number"),
        ("encoding", "garbled", "'Ã©' for 'é'"),
        ("size", "big", "more than 1,000,000"),
        ("language", "german", "the prompt is in de"),
    ],
)
@pytest.mark.usefixtures("built")
def test_rows_with_findings_are_named_by_id(
    made: Project, lines: dict[str, int], check: str, name: str, detail: str
) -> None:
    found = findings(made, "valid")[check]
    assert [f["id"] for f in found] == [ids(made, lines)[name]]
    assert detail in found[0]["detail"]
    shown = made.run("show", "valid").out
    assert re.search(rf"row \d+ {found[0]['id']}  .*{re.escape(detail)}", shown)


@pytest.mark.usefixtures("built")
def test_copies_of_test_rows_are_named_with_what_they_copy(made: Project) -> None:
    rows, held = made.rows("rows"), [r["id"] for r in made.rows("held")]
    shown = made.run("show", "cleaned", "--dropped").out
    copy = rf"copy +{rows[20]['id']} +has the same prompt as the test row {held[0]}"
    assert re.search(copy, shown)
    close = rf"near-copy +{rows[21]['id']} +has a prompt 0\.\d+ similar to the test row {held[1]}"
    assert re.search(close, shown)
    assert len(made.rows("cleaned")) == len(rows) - 2


@pytest.mark.usefixtures("built")
def test_a_split_leaves_no_near_copy_of_a_test_row_to_train_on(made: Project) -> None:
    def customers(part: str) -> set[str]:
        found = (r["messages"][0]["content"] for r in made.rows(f"parted/{part}"))
        return {prompt.split()[1] for prompt in found}

    assert customers("test")
    assert not customers("train") & customers("test")
    assert "near-copy" in made.run("show", "parted", "--dropped").out


@pytest.mark.usefixtures("built")
def test_an_answer_that_is_broken_json_is_named(made: Project) -> None:
    (found,) = findings(made, "checked")["json"]
    assert found["row"] == 12
    assert found["id"] == made.rows("bookings")[11]["id"]
