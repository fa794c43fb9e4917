"""synth.preferences: which answers are chosen and rejected, and what is asked for it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from generating import Here
from hostile_server import Body, Reply, Server, said, serving
from needs import need

from finery.rows import split_turns
from finery_synth.steps.preferences import meaning

need("openai")

RECIPE = """
finery: 1
name: t
models:
  teacher: {use: openai.model, model: m, base_url: "%(url)s", api_key: null, timeout: 5}
  critic: {use: openai.model, model: m, base_url: "%(url)s", api_key: null, extra: {user: critic}}
data:
  rows: {use: data.file, path: rows.jsonl, %(columns)s}
generate:
  made: {use: synth.preferences, rows: rows, model: teacher, %(settings)s}
"""
JUDGED = 'judge: critic, checks: {judge: {rubric: "long is good", min: 3}}'
Make = Callable[..., Here]


def is_judging(body: Body) -> bool:
    return body.get("user") == "critic"


def judged(body: Body) -> str:
    """A score that is the number at the answer's end."""
    answer = said(body).partition("Answer:\n")[2].split("\n")[0]
    return json.dumps({"reason": f"of {answer}", "score": int(answer.split()[-1])})


def written(body: Body) -> str:
    """`<question> good <seed + 1>`: the first answer scores 1, the second 2, …"""
    return f"{said(body)} good {body['seed'] % 5 + 1}"


def both(answer: Callable[[Body], str | Reply] = written) -> Callable[[Body], str | Reply]:
    return lambda body: judged(body) if is_judging(body) else answer(body)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(both()) as running:
        yield running


def lines(count: int) -> str:
    rows = [
        {"prompt": f"question {i}", "completion": f"right {i}", "topic": f"t{i}"}
        for i in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def making(tmp_path: Path, server: Server) -> Make:
    """A project with rows and a generator."""

    def make(rows: int | str, settings: str, columns: str = "keep: [topic]") -> Here:
        recipe = RECIPE % {"url": server.url, "settings": settings, "columns": columns}
        made = Here(tmp_path)
        content = lines(rows) if isinstance(rows, int) else rows
        made.write({"recipe.yaml": recipe, ".git/x": "", "rows.jsonl": content})
        return made

    return make


def calls(server: Server) -> tuple[int, int]:
    """(answers asked for, judgements asked for)."""
    judgements = sum(map(is_judging, server.calls))
    return len(server.calls) - judgements, judgements


# the best and the worst


def test_best_and_worst_by_a_judge(making: Make, server: Server) -> None:
    made = making(3, f"n: 4, {JUDGED}")
    made.ran()
    assert calls(server) == (12, 12)
    assert made.accounted("made") == 3
    row = made.rows("made")[0]
    assert row["prompt"] == [{"role": "user", "content": "question 0"}]
    assert row["chosen"] == [{"role": "assistant", "content": "question 0 good 4"}]
    assert row["rejected"] == [{"role": "assistant", "content": "question 0 good 1"}]
    assert row["topic"] == "t0"
    assert row["parents"] == [made.rows("rows")[0]["id"]]
    origin = made.lines("made", "generated.jsonl")[0]
    assert origin["judge"] == {"model": "m", "scores": {"chosen": 4, "rejected": 1}}
    assert (origin["variant"], origin["more"]["rejected"]["variant"]) == (3, 0)


def test_one_answer_more_is_one_call_more_and_one_judgement(making: Make, server: Server) -> None:
    made = making(10, f"n: 3, {JUDGED}")
    made.ran()
    assert calls(server) == (30, 30)
    made.edit("recipe.yaml", "n: 3", "n: 4")
    made.ran()
    assert calls(server) == (40, 40)
    made.write({"rows.jsonl": lines(12)})
    made.ran()
    assert calls(server) == (48, 48)
    assert made.accounted("made") == 12


def test_ties_copies_and_failures_are_dropped_and_named(making: Make, server: Server) -> None:
    def answer(body: Body) -> str | Reply:
        number = int(said(body).split()[-1])
        special: dict[int, str | Reply] = {
            0: "the same 3",  # all answers say the same
            1: f"other {body['seed']} words 3",  # all answers get the same score
            2: f"bad {body['seed']} 2",  # none reaches the score
            3: Reply("half", finish="length"),
            4: Reply(None, refusal="no"),
        }
        return special.get(number) or written(body)

    server.answer = both(answer)
    made = making(6, f"n: 3, retries: 0, {JUDGED}")
    made.ran()
    assert made.accounted("made") == 1
    assert made.reasons("made") == {"identical": 1, "tie": 1, "none-good": 1, "too-few-answers": 2}
    drops = made.lines("made", "dropped.jsonl")
    details = [drop["detail"] for drop in drops]
    assert "scores 3, 3, 3" in details[1]
    assert details[3] == "0 of 3 answers are usable (cut-off 3)"
    assert details[4] == "0 of 3 answers are usable (refused 3)"
    assert [said["answer"] for said in drops[0]["made"]["more"]["answers"]] == ["the same 3"] * 3
    assert drops[1]["made"]["more"]["answers"][0]["checks"][0]["value"] == 3
    assert "truncated" in drops[3]["made"]["more"]["answers"][0]["problem"]
    assert drops[0]["made"]["prompt"][-1]["content"] == "question 0"


def test_best_and_worst_by_checks(making: Make, server: Server) -> None:
    server.answer = lambda body: f"{said(body)}? {'Yours' if body['seed'] else 'no'}"
    made = making(2, 'n: 2, checks: {matches: {assistant: "Yours$"}}')
    made.ran()
    row = made.rows("made")[0]
    assert row["chosen"][0]["content"] == "question 0? Yours"
    assert row["rejected"][0]["content"] == "question 0? no"
    origin = made.lines("made", "generated.jsonl")[0]
    assert origin["checks"] == [{"check": "matches.assistant", "passed": True}]
    assert origin["more"]["rejected"]["checks"][0]["passed"] is False


# the row's own answer


def test_the_models_own_wrong_answers_are_rejected(making: Make, server: Server) -> None:
    def answer(body: Body) -> str:
        number, seed = int(said(body).split()[-1]), body["seed"]
        if number == 0:
            return "Right  0."  # right, but for case, spaces and a full stop
        return f"right {number}" if seed == 0 else f"wrong {seed}"

    server.answer = answer
    made = making(3, "chosen: row, n: 3, pairs: 3")
    made.ran()
    assert made.accounted("made") == 2
    rows = made.rows("made")
    assert [r["chosen"][0]["content"] for r in rows] == ["right 1"] * 2 + ["right 2"] * 2
    assert [r["rejected"][0]["content"] for r in rows] == ["wrong 1", "wrong 2"] * 2
    assert made.reasons("made") == {"all-right": 1}


def test_rows_without_an_own_answer_stop_it_before_anything_is_asked(
    making: Make, server: Server
) -> None:
    rows = '{"prompt": "a"}\n{"prompt": "b"}\n'
    code, error = making(rows, "chosen: row", "prompts_only: true").failure()
    assert code == 2
    assert "row 1" in error
    assert "the row has no answer to choose" in error
    assert not server.calls


def test_dpo_learns_from_them(making: Make) -> None:
    """What the training makes of the rows: the very turns that were chosen and rejected."""
    made = making(3, f"n: 4, {JUDGED}")
    made.ran()
    rows = made.rows("made")
    assert {tuple(row) for row in rows} == {
        ("id", "prompt", "chosen", "rejected", "topic", "parents")
    }
    for row in rows:
        assert split_turns(row) == (row["prompt"], row["chosen"])
        assert [turn["role"] for side in ("chosen", "rejected") for turn in row[side]] == [
            "assistant"
        ] * 2


# settings


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Yes.", " yes ", True),
        ('{"a": 1, "b": [2]}', '```json\n{"b": [2], "a": 1}\n```', True),
        ('{"a": 1}', '{"a": 2}', False),
        ("1.5", "15", False),
        ("-5", "5", False),
        ("a b", "ab", False),
    ],
)
def test_what_says_the_same(one: str, other: str, same: bool) -> None:
    assert (meaning(one) == meaning(other)) == same
