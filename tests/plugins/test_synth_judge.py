"""synth.judge: scores by rubrics, and pairs judged in both orders."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from generating import Here
from hostile_server import Body, Reply, Server, said, serving
from hypothesis import given
from hypothesis import strategies as st
from needs import need

from finery import UsageError
from finery_synth.judges import Positions, Score, Seen, Unreadable, Verdict, outcome
from finery_synth.steps.judge import JudgeRows

need("openai")

RECIPE = """
finery: 1
name: t
models:
  critic: {use: openai.model, model: m, base_url: "%(url)s", api_key: null, timeout: 5}
data:
  rows: {use: data.file, path: rows.jsonl}
generate:
  judged: {use: synth.judge, rows: rows, model: critic, %(settings)s}
"""
Make = Callable[..., Here]


def score(body: Body) -> str:
    """The number at the answer's end."""
    answer = said(body).partition("Answer:\n")[2].split("\n")[0]
    return json.dumps({"reason": f"because of {answer}", "score": int(answer.split()[-1])})


def longer(body: Body) -> str:
    """The longer answer of a pair."""
    a, b = (len(answer) for answer in sides(body))
    return json.dumps({"reason": "longer", "better": "tie" if a == b else "A" if a > b else "B"})


def sides(body: Body) -> tuple[str, str]:
    found = re.findall(r"Answer [AB]:\n(.*)", said(body))
    return found[0], found[1]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(score) as running:
        yield running


def answers(*texts: str) -> str:
    rows = [{"prompt": f"question {i}", "completion": text} for i, text in enumerate(texts)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def pairs(*both: tuple[str, str]) -> str:
    rows = [
        {"prompt": f"question {i}", "chosen": chosen, "rejected": rejected}
        for i, (chosen, rejected) in enumerate(both)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def making(tmp_path: Path, server: Server) -> Make:
    """A project with rows and a judge."""

    def make(rows: str, settings: str) -> Here:
        recipe = RECIPE % {"url": server.url, "settings": settings}
        made = Here(tmp_path)
        made.write({"recipe.yaml": recipe, ".git/x": "", "rows.jsonl": rows})
        return made

    return make


def drops(made: Here) -> list[tuple[str, str]]:
    return [(drop["reason"], drop["detail"]) for drop in made.lines("judged", "dropped.jsonl")]


# scores


def test_rows_get_a_score_and_low_ones_go(making: Make, server: Server) -> None:
    made = making(answers("a 5", "b 2", "c 4"), "rubric: It is good., min_score: 3")
    made.ran()
    rows = made.rows("judged")
    assert [(r["completion"], r["score"], r["score_reason"]) for r in rows] == [
        ("a 5", 5, "because of a 5"), ("c 4", 4, "because of c 4"),
    ]  # fmt: skip
    assert [r["parents"] for r in rows] == [[made.rows("rows")[i]["id"]] for i in (0, 2)]
    assert drops(made) == [("low-score", "scored 2 of 5, below 3: because of b 2")]
    (drop,) = made.lines("judged", "dropped.jsonl")
    assert drop["made"]["judge"]["scores"] == {"score": 2}
    assert "b 2" in drop["made"]["prompt"][-1]["content"]
    facts = made.meta("judged")
    assert (facts["verdicts"], facts["mean_score"]) == (3, 3.667)
    assert facts["scores"] == {"2": 1, "4": 1, "5": 1}
    origins = made.lines("judged", "generated.jsonl")
    assert [o["id"] for o in origins] == [r["id"] for r in rows]
    assert origins[0]["judge"] == {"model": "m", "scores": {"score": 5}, "scale": 5}
    assert "model" not in origins[0], "the judge wrote nothing"
    assert "It is good." in origins[0]["prompt"][-1]["content"]
    assert len(server.calls) == 3
    schema = server.calls[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["score"] == {"type": "integer", "minimum": 1, "maximum": 5}


def test_several_rubrics_are_asked_by_themselves(making: Make, server: Server) -> None:
    def answer(body: Body) -> str:
        value = 5 if "It is polite." in said(body) else 2
        return json.dumps({"reason": f"{value}!", "score": value})

    server.answer = answer
    made = making(answers("a"), "rubric: {right: It is right.}, column: grade")
    made.ran()
    made.edit(
        "recipe.yaml", "{right: It is right.}", "{right: It is right., polite: It is polite.}"
    )
    made.ran()
    assert len(server.calls) == 2  # the first rubric isn't asked again
    (row,) = made.rows("judged")
    assert row["grade"] == 3.5
    assert row["grades"] == {"right": 2, "polite": 5}
    assert row["grade_reasons"] == {"right": "2!", "polite": "5!"}


def test_an_unreadable_judgement_is_asked_again_then_reported(making: Make, server: Server) -> None:
    texts = {0: "no JSON", 1: '{"score": 9}', 2: '{"score": "good"}', 3: "[4]"}

    def answer(body: Body) -> str | Reply:
        number = int(re.findall(r"question (\d+)", said(body))[0])
        if number == 4:
            return Reply(None, refusal="no")
        if number == 5 and body["seed"] == 0:
            return "at first nothing"
        return texts.get(number) or '```json\n{"reason": "r", "score": 4.0}\n``` as I see it'

    server.answer = answer
    made = making(answers(*"abcdefg"), "rubric: good")
    made.ran()
    assert [row["completion"] for row in made.rows("judged")] == ["f", "g"]
    assert [reason for reason, _ in drops(made)] == ["no-score"] * 5
    assert [d["row"]["completion"] for d in made.lines("judged", "dropped.jsonl")] == list("abcde")
    assert "between 1 and 5" in drops(made)[1][1]
    assert len(server.calls) == 4 * 3 + 1 + 2 + 1
    assert {body["temperature"] for body in server.calls if body["seed"]} == {0.7}


# pairs


def test_pairs_count_where_both_orders_agree(making: Make, server: Server) -> None:
    def answer(body: Body) -> str:
        a, b = sides(body)
        if "first" in a + b:
            return json.dumps({"reason": "the first", "better": "A"})
        return longer(body)

    server.answer = answer
    rows = pairs(
        ("long one", "short"), ("x", "longer"), ("first", "other"), ("ab", "cd"), ("e", "e#")
    )
    made = making(rows, "what: pairs, rubric: long")
    mapped = "  same: {use: data.map, rows: rows, rejected: \"{{ rejected | replace('#', '') }}\"}"
    made.edit("recipe.yaml", "generate:", f"{mapped}\ngenerate:")
    made.edit("recipe.yaml", "synth.judge, rows: rows", "synth.judge, rows: same")
    made.ran()
    assert len(server.calls) == 8  # the pair of one answer isn't asked about
    (row,) = made.rows("judged")
    assert (row["chosen"], row["better"], row["better_reason"]) == ("long one", "chosen", "longer")
    assert drops(made) == [
        ("lost", "the rejected answer is better: longer"),
        ("undecided", "the judge picks the first answer in both orders"),
        ("undecided", "the judge calls a tie in both orders"),
        ("identical", "chosen and rejected are the same"),
    ]
    facts = made.meta("judged")
    assert facts["pairs"] == {"chosen": 1, "rejected": 1, "undecided": 2}
    assert facts["positions"] == {
        "first": 4, "second": 2, "tie": 2, "first_twice": 1, "second_twice": 0, "bias": 0.333,
    }  # fmt: skip
    (origin,) = made.lines("judged", "generated.jsonl")
    assert [one["position"] for one in origin["judge"]["orders"]] == ["first", "second"]


# settings, and what is read


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rubric": " "}, "a rubric is empty"),
        ({"min_score": 6}, "min_score is 6"),
        ({"lost": "swap"}, "lost applies only to"),
        ({"what": "pairs", "min_score": 2}, "min_score applies only to"),
        ({"column": "label"}, "overwrite the column 'label'"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    step = JudgeRows(model=None, rows=[], **{"rubric": "good", **settings})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        step.check()


@given(st.text())
def test_any_text_is_read_or_unreadable(text: str) -> None:
    for read_it in (lambda: Score.read(text, 5), lambda: Verdict.read(text)):
        with contextlib.suppress(Unreadable):
            read_it()


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ('{"better": "A"}', "first"),
        ('Well: {"reason": "x", "better": " b "}.', "second"),
        ('{"better": "Tie"}', "tie"),
        ('{"better": "C"}', None),
    ],
)
def test_verdicts_are_read(text: str, position: str | None) -> None:
    if position is None:
        with pytest.raises(Unreadable):
            Verdict.read(text)
    else:
        assert Verdict.read(text).position == position


sided = st.sampled_from(["first", "second", "tie"])


@given(st.lists(st.tuples(sided, sided)))
def test_only_agreement_counts(verdicts: list[tuple[str, str]]) -> None:
    positions = Positions()
    for one, two in verdicts:
        names = {"first": ("chosen", "rejected"), "second": ("rejected", "chosen")}
        seen = [
            Seen(order, names[p][order] if p in names else "tie", p)
            for order, p in enumerate((one, two))
        ]
        positions.add(seen)
        better = outcome(seen).better
        agreed = {("first", "second"): "chosen", ("second", "first"): "rejected"}
        assert better == agreed.get((one, two), "undecided")
    facts = positions.facts()
    assert sum(facts[name] for name in ("first", "second", "tie")) == 2 * len(verdicts)
    assert -1 <= facts["bias"] <= 1
