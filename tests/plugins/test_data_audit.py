"""data.audit: planted mistakes, and what follows from them."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject
from hypothesis import given
from hypothesis import strategies as st
from needs import need

from finery import Dataset
from finery.rows import Row, with_id
from finery.rows.dropped import read_findings
from finery.testing import TestJob, dataset
from finery_data.checks.audits import Doubt, corrected, pairs_of, read_audit
from finery_data.checks.suspects import (
    copies_in,
    folds_of,
    noise_in,
    out_of_fold,
    verdicts_on,
    with_copies,
)
from finery_data.steps.audit import Audit

need("sklearn")
WORDS = {
    "billing": ["invoice", "charged", "refund", "payment", "price", "card", "bill", "money"],
    "delivery": ["parcel", "courier", "late", "tracking", "arrived", "box", "shipped", "address"],
    "account": ["password", "login", "profile", "email", "locked", "name", "reset", "username"],
}
FILLER = ["please", "my", "the", "hello", "thanks", "again", "today", "about", "with", "order"]


def texts(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label): words of the class, of another one, and of none."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        label = draw.choice(sorted(WORDS))
        words = draw.sample(WORDS[label], 3) + draw.sample(FILLER, 4)
        words += draw.sample(WORDS[draw.choice(sorted(WORDS))], 1)
        draw.shuffle(words)
        made.append((f"{' '.join(words)} {number}", label))
    return made


def flipped(pairs: list[tuple[str, str]], count: int, seed: int = 0) -> dict[int, str]:
    """Row → another label, for some rows."""
    draw = random.Random(f"flip {seed}")
    return {
        number: draw.choice([label for label in sorted(WORDS) if label != pairs[number][1]])
        for number in sorted(draw.sample(range(len(pairs)), count))
    }


def audit(folder: Path, rows: list[Row], **settings: Any) -> Dataset:
    step = Audit(rows=[dataset(folder / "in", rows)], **settings)
    step.check()
    made: Dataset = step.run(TestJob(folder / "job"))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_most_flipped_labels_are_among_twice_as_many_suspicious_rows(
    tmp_path: Path, seed: int
) -> None:
    pairs = texts(200, seed)
    wrong = flipped(pairs, 12, seed)
    rows = [
        {"prompt": text, "completion": wrong.get(n, label)} for n, (text, label) in enumerate(pairs)
    ]
    made = audit(tmp_path, rows)
    assert [row["prompt"] for row in made] == [text for text, _ in pairs]  # all rows, in order
    doubts = list(read_audit(made))
    assert sorted(doubt.row for doubt in doubts) == list(range(1, 201))
    assert [d.suspicion for d in doubts] == sorted((d.suspicion for d in doubts), reverse=True)
    first = {doubt.row - 1 for doubt in doubts[:24]}
    assert len(first & wrong.keys()) >= 10
    suspects = [doubt for doubt in doubts if doubt.check]
    assert 6 <= len(suspects) <= 24
    assert {line["row"] for line in read_findings(made)} == {doubt.row for doubt in suspects}
    right = [d for d in suspects if d.row - 1 in wrong and d.proposed == pairs[d.row - 1][1]]
    assert len(right) >= 8
    for doubt in suspects:  # the similar rows have the proposed label, and aren't the row itself
        near = {row["id"]: row["completion"] for row in made}
        assert doubt.nearest
        assert {near[name] for name, _ in doubt.nearest} == {doubt.proposed}
        assert doubt.margin < 0


def test_the_bytes_dont_depend_on_when_it_runs(tmp_path: Path) -> None:
    rows = [{"prompt": text, "label": label} for text, label in texts(60)]
    made = [audit(tmp_path / name, rows).file("audit.jsonl").read_bytes() for name in "ab"]
    assert made[0] == made[1]


def test_texts_that_share_no_letters_are_audited(tmp_path: Path) -> None:
    rows = [{"prompt": text, "label": "ab"[n % 2]} for n, text in enumerate("bcdfgh")]
    assert len(list(read_audit(audit(tmp_path, rows)))) == 6


def test_near_copies_are_witnesses_and_never_apart(tmp_path: Path) -> None:
    pairs = texts(80)
    said = "my parcel with the blue garden chair never arrived at our house in Leeds"
    rows = [{"prompt": text, "completion": label} for text, label in pairs]
    rows += [{"prompt": f"{said}{end}", "completion": "delivery"} for end in (".", "!", ", please")]
    rows.append({"prompt": f"Hi, {said}", "completion": "account"})
    doubts = list(read_audit(audit(tmp_path, rows)))
    assert doubts[0].row == 84
    assert (doubts[0].label, doubts[0].proposed) == ("account", "delivery")
    assert "and 3 near copies have the label" in doubts[0].detail
    copies = copies_in([with_id(row) for row in rows], tmp_path)
    assert len({copies.group[n] for n in range(80, 84)}) == 1
    assert copies.near[83] == [80, 81, 82]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=2, max_size=60),
    st.integers(2, 6),
)
def test_groups_stay_in_one_fold_unless_they_are_huge(
    rows: list[tuple[int, int]], count: int
) -> None:
    labels, groups = [label for label, _ in rows], [group for _, group in rows]
    folds = folds_of(labels, groups, count)
    assert set(folds) <= set(range(count))
    for group in set(groups):
        numbers = [n for n, each in enumerate(groups) if each == group]
        if len(numbers) <= len(rows) / count / 2:
            assert len({folds[n] for n in numbers}) == 1


def test_each_class_is_dealt_out_evenly() -> None:
    labels = [0] * 50 + [1] * 10
    folds = folds_of(labels, range(60), 5)
    assert [
        sum(f == one and y for f, y in zip(folds, labels, strict=True)) for one in range(5)
    ] == [2] * 5


def test_no_model_sees_the_rows_that_it_judges() -> None:
    """With random vectors, probabilities of unseen rows say nothing about their labels."""
    import numpy as np

    vectors = np.random.default_rng(0).normal(size=(120, 400))
    labels = [n % 2 for n in range(120)]
    probabilities = out_of_fold(vectors, labels, folds_of(labels, range(120), 5), c=10)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-3)
    right = (probabilities.argmax(axis=1) == labels).mean()
    assert 0.3 < right < 0.7


def test_verdicts_follow_from_probabilities_by_hand() -> None:
    import numpy as np

    probabilities = np.array([[0.9, 0.1]] * 30 + [[0.2, 0.8]] * 30)
    labels = np.array([0] * 29 + [1] * 31)
    temperature, rate = noise_in(probabilities, labels)
    verdict = verdicts_on(probabilities, labels.tolist(), [[]] * 60)[29]
    own = 0.1 ** (1 / temperature) / (0.1 ** (1 / temperature) + 0.9 ** (1 / temperature))
    least = max(rate, 0.01)
    wrong = least * (1 - own)
    assert verdict.suspicion == pytest.approx(wrong / (wrong + (1 - least) * own), abs=1e-3)
    assert verdict.proposed == 0
    assert verdict.margin == pytest.approx(2 * own - 1, abs=1e-3)
    # By Bayes' theorem, a copy that is right with 0.8 multiplies the odds of two classes by 4.
    informed = with_copies(np.array([[0.5, 0.5], [0.5, 0.5]]), [0, 1], [[1], [0]])
    assert informed[0].tolist() == pytest.approx([0.2, 0.8])


def test_fields_of_json_answers_are_audited_one_by_one(tmp_path: Path) -> None:
    pairs = texts(120)
    answers: list[dict[str, Any]] = [
        {"team": label, "number": int(text.split()[-1]), "urgent": "today" in text}
        for text, label in pairs
    ]
    answers[7]["team"] = "account" if pairs[7][1] != "account" else "billing"
    answers[9]["number"] = 4711
    rows = [
        {"prompt": text, "completion": json.dumps(answer)}
        for (text, _), answer in zip(pairs, answers, strict=True)
    ]
    rows[11]["completion"] = "no JSON"
    made = audit(tmp_path, rows)
    doubts = list(read_audit(made))
    team = next(doubt for doubt in doubts if doubt.field == "team" and doubt.check)
    assert (team.row, team.proposed) == (8, json.dumps(pairs[7][1]))
    (number,) = (doubt for doubt in doubts if doubt.check == "not-in-prompt")
    assert (number.row, number.field, number.label) == (10, "number", "4711")
    assert 12 not in {doubt.row for doubt in doubts}
    row = next(row for n, row in enumerate(made, 1) if n == 8)
    assert json.loads(corrected(row, [team])["completion"]) == answers[7] | {"team": pairs[7][1]}


def test_free_text_is_compared_with_that_of_equal_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {n}?", "completion": f"A longer answer {n}."} for n in range(40)]
    rows += [{"prompt": "question 3", "completion": "a longer answer 3"}]  # the same, but for form
    rows += [{"prompt": "Question 5", "completion": "Something else."}]
    rows += [
        {"prompt": "QUESTION 7!", "completion": text} for text in ("Other.", "A longer answer 7")
    ]
    doubts = list(read_audit(audit(tmp_path, rows)))
    assert {doubt.row: doubt.proposed for doubt in doubts} == {
        6: "", 42: "", 43: "A longer answer 7.",
    }  # fmt: skip
    assert {doubt.check for doubt in doubts} == {"answer-conflict"}


@pytest.mark.parametrize(("rows", "count"), [
    ([{"prompt": "a", "completion": "x"}] * 3, 0),  # one class
    ([{"prompt": "a", "completion": "x"}, {"prompt": "b", "completion": "y"}], 2),
    ([{"prompt": "a"}, {"text": "a document"}], 0),  # no label
    ([{"prompt": "", "completion": "x"}, {"prompt": "b", "completion": "y"}] * 2, 0),
    ([{"prompt": "🙂", "completion": "x"}, {"prompt": "🙁", "completion": "y"}] * 4, 8),
    ([{"prompt": "same", "completion": label} for label in "xyxyxyxy"], 8),
    ([{"prompt": "p", "chosen": "a", "rejected": "b"}] * 2, 0),
    ([{"messages": [{"role": "assistant", "content": "x"}]}] * 2, 0),
    ([{"prompt": f"p {n}", "label": n % 2 == 0} for n in range(9)], 9),
    ([{"prompt": f"p {n}", "label": {"a": "x" if n % 2 else "z", "b": "y"}} for n in range(9)], 9),
])  # fmt: skip
def test_odd_rows_pass(tmp_path: Path, rows: list[Row], count: int) -> None:
    made = audit(tmp_path, [with_id(row) for row in rows])
    assert len(made) == len(rows)
    assert len(list(read_audit(made))) == count


@pytest.mark.parametrize(("row", "doubt", "changed"), [
    ({"label": "x", "completion": "x"}, {"column": "label"}, {"label": "y", "completion": "y"}),
    ({"label": "x", "completion": "of x"}, {"column": "label"}, {"label": "y"}),
    ({"completion": "x"}, {"column": "output"}, {"completion": "y"}),
    ({"prompt": "p", "completion": "a: x\nb: 1"}, {"field": "a", "form": "lines"},
     {"completion": "a: y\nb: 1"}),
    ({"prompt": "p", "completion": '{"a": "x"}'},
     {"field": "a", "form": "object", "proposed": '"ü"'}, {"completion": '{"a": "ü"}'}),
    ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}]},
     {}, {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "y"}]}),
    ({"completion": "x"}, {"proposed": ""}, {}),
])  # fmt: skip
def test_a_proposal_changes_only_the_label(
    row: Row, doubt: dict[str, Any], changed: dict[str, Any]
) -> None:
    given = {"id": "1", "row": 1, "column": "output", "label": "x", "proposed": "y", "suspicion": 1}
    row = row if "messages" in row else {"prompt": "p", **row}
    assert corrected(row, [Doubt(**{**given, **doubt})]) == changed


def test_pairs_of_classes_are_counted() -> None:
    doubts = [
        Doubt(
            id=str(n), row=1, column="output", label=pair[0], proposed=pair[1], suspicion=1.0,
            check="suspect-label",
        )
        for n, pair in enumerate(["xy", "ab", "xy"])
    ]  # fmt: skip
    assert [(pair, len(found)) for pair, found in pairs_of(doubts).items()] == [
        (("", "x", "y"), 2), (("", "a", "b"), 1),
    ]  # fmt: skip


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_the_rate_of_wrong_labels_is_found(share: float) -> None:
    import numpy as np

    draw = np.random.default_rng(1)
    probabilities = draw.dirichlet([0.1] * 5, size=2_000)
    labels = np.array([draw.choice(5, p=row) for row in probabilities])
    wrong = draw.random(2_000) < share
    labels[wrong] = (labels[wrong] + draw.integers(1, 5, size=wrong.sum())) % 5
    temperature, rate = noise_in(probabilities, labels)
    assert rate == pytest.approx(share, abs=0.02)
    assert temperature == pytest.approx(1, abs=0.15)
    verdicts = verdicts_on(probabilities, labels.tolist(), [[]] * 2_000)
    assert sum(v.suspicion for v in verdicts) == pytest.approx(wrong.sum(), rel=0.15)
    suspects = [n for n, verdict in enumerate(verdicts) if verdict.is_suspect]
    assert wrong[suspects].mean() > 0.7
    assert wrong[suspects].sum() > 0.5 * wrong.sum()


@pytest.mark.parametrize("seed", range(4))
def test_right_labels_that_are_hard_arent_suspects(seed: int) -> None:
    """Calibrated probabilities of a weak model: a right label is often improbable."""
    import numpy as np

    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet([0.7] * 4, size=300)
    labels = np.array([draw.choice(4, p=row) for row in probabilities])
    assert (probabilities.argmax(axis=1) == labels).mean() < 0.8
    verdicts = verdicts_on(probabilities, labels.tolist(), [[]] * 300)
    assert sum(verdict.is_suspect for verdict in verdicts) <= 6


RECIPE = """\
finery: 1
name: t
data:
  rows: {use: data.file, path: rows.csv, columns: {user: "{{ text }}", assistant: "{{ label }}"}}
  audit: {use: data.audit, rows: rows}
  reviewed: {use: review.apply, rows: audit, reviews: reviews/audit.jsonl}
"""


def test_suspects_are_noted_until_they_are_decided_on(project: MakeProject) -> None:
    pairs = texts(90)
    wrong = flipped(pairs, 4)
    lines = [f"{text},{wrong.get(n, label)}\n" for n, (text, label) in enumerate(pairs)]
    made = project({"recipe.yaml": RECIPE, "rows.csv": "".join(["text,label\n", *lines])})
    built = made.run("build")
    assert "whose labels or answers are probably wrong" in built.err
    shown = made.here("show", "audit").out
    assert "most suspicious" in shown
    assert "by pair of classes" in shown
    data = json.loads(made.here("show", "audit", "--json").out)
    suspects = [doubt for doubt in data["suspicious"] if doubt.get("check")]
    assert data["pairs"]
    checked = made.here("check").out
    assert "suspect-labels" in checked
    assert "finery review audit" in checked
    rows = {row["id"]: row for row in made.rows("audit")}
    every = [
        d
        for d in map(json.loads, (made.folder / "build/t/audit/audit.jsonl").open())
        if d.get("check")
    ]
    decided = [
        {"id": d["id"], "do": "edit", "set": {"messages": [
            *rows[d["id"]]["messages"][:-1], {"role": "assistant", "content": d["proposed"]},
        ]}}
        for d in every
    ]  # fmt: skip
    made.write({"reviews/audit.jsonl": "".join(f"{json.dumps(line)}\n" for line in decided)})
    assert made.ran() == ["reviewed"]
    answers = [row["messages"][-1]["content"] for row in made.rows("reviewed")]
    numbers = {d["row"] - 1: d["proposed"] for d in every}
    assert len(suspects) == len(every) or len(every) > 10
    assert [answers[n] for n in numbers] == list(numbers.values())
    again = made.here("check")
    assert "suspect-labels" not in again.err + again.out


def test_a_rehearsal_hands_on_all_rows(project: MakeProject) -> None:
    """Few of them are audited, but a split of few rows would be another split."""
    lines = [f"{text},{label}\n" for text, label in texts(240)]
    made = project({"recipe.yaml": RECIPE, "rows.csv": "".join(["text,label\n", *lines])})
    rehearsed = made.run("rehearse")
    assert "output: 80 rows" in rehearsed.err
    assert "all 240 rows kept" in rehearsed.err
