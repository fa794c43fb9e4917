"""The data of the recipes: valid, and the test rows apart from what is trained on."""

import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import MakeProject
from jsonschema import Draft202012Validator

from finery import Dataset
from finery.builder.project import open_graph
from finery.rows import Row
from finery.rows.answers.reading import extracted
from finery.rows.near import normalised
from finery.rows.similar import SimilarIndex
from finery.testing import dataset, run_step
from finery_data.steps.decontaminate import Decontaminate
from finery_data.steps.split import SPLITS, Split, Splits
from finery_eval.steps.dialog import Dialog
from finery_eval.steps.exact import Exact
from finery_eval.steps.rules import Rules

RECIPES = Path(__file__).parents[1] / "recipes"
TOOL_CALLS = RECIPES / "tool-calls"
SUPPORT_CHAT = RECIPES / "support-chat"
DOCS_ASSISTANT = RECIPES / "docs-assistant"
TICKETS = RECIPES / "ticket-triage"
LABELS = {
    "category": {"billing", "account", "technical", "shipping", "product"},
    "priority": {"low", "medium", "high"},
    "sentiment": {"negative", "neutral", "positive"},
}
EXTRACTION = RECIPES / "extraction"
HELD_OUT = {"reserve_parking", "rent_locker", "borrow_device", "print_badge"}
ROLES_AFTER = {
    "system": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant", "tool"},
}
SLOTS = {
    r"\bb\d{3}\b": "booking",
    r"\b(mon|tues?|wed(nes)?|thu(rs)?|fri)(day)?\b": "day",
    r"\b\d+(:\d\d)?( ?[ap]m)?\b": "number",
}
"""What one phrasing may say differently from row to row."""


class Call(NamedTuple):
    """A tool's name and the arguments it is called with."""

    name: str
    arguments: dict[str, Any]


@cache
def rows(recipe: Path, name: str) -> list[Row]:
    """The rows of a file of a recipe's data."""
    return [json.loads(line) for line in (recipe / "data" / name).read_text("utf-8").splitlines()]


def tool_rows() -> list[Row]:
    """All rows of tool-calls."""
    return [*rows(TOOL_CALLS, "conversations.jsonl"), *rows(TOOL_CALLS, "unseen.jsonl")]


def calls(row: Row) -> Iterator[Call]:
    """All calls of a row."""
    for message in row["messages"]:
        for call in message.get("tool_calls", ()):
            function = call["function"]
            yield Call(function["name"], json.loads(function["arguments"]))


def schemas(row: Row) -> dict[str, dict[str, Any]]:
    """Tool → schema of its arguments, of the tools that a row offers."""
    return {t["function"]["name"]: t["function"]["parameters"] for t in row["tools"]}


def texts(row: Row, role: str) -> list[str]:
    """The texts of one role."""
    return [m["content"] for m in row["messages"] if m["role"] == role and m.get("content")]


def values(row: Row) -> set[str]:
    """The strings that calls are made with, in lower case."""
    arguments = [value for call in calls(row) for value in call.arguments.values()]
    single = [value for value in arguments if isinstance(value, str)]
    listed = [item for value in arguments if isinstance(value, list) for item in value]
    return {str(value).lower() for value in (*single, *listed)}


def phrasing(row: Row) -> str:
    """The first request, without what differs between rows of one phrasing."""
    text = texts(row, "user")[0].lower()
    for value in sorted(values(row), key=len, reverse=True):
        text = re.sub(rf"\b{re.escape(value)}\b", " value ", text)
    for pattern, slot in SLOTS.items():
        text = re.sub(pattern, f" {slot} ", text)
    return normalised(text)


def parts(folder: Path) -> dict[str, Dataset]:
    """The rows of the step `split` of tool-calls, by part, with the recipe's seed."""
    node = open_graph(TOOL_CALLS / "recipe.yaml").nodes["split"]
    assert isinstance(node.step, Split)
    labelled = [{**row, "label": row["kind"]} for row in rows(TOOL_CALLS, "conversations.jsonl")]
    node.step.rows = [dataset(folder / "rows", labelled)]
    splits: Splits = run_step(node.step, folder / "split", seed=node.seed)
    return {name: getattr(splits, name) for name in SPLITS}


def test_there_are_ten_tools_and_four_more() -> None:
    offered = {name for row in rows(TOOL_CALLS, "conversations.jsonl") for name in schemas(row)}
    called = {c.name for row in rows(TOOL_CALLS, "conversations.jsonl") for c in calls(row)}
    assert offered == called
    assert len(offered) == 10
    assert not offered & HELD_OUT
    assert {c.name for row in rows(TOOL_CALLS, "unseen.jsonl") for c in calls(row)} == HELD_OUT


def test_a_tool_has_one_schema() -> None:
    versions: dict[str, set[str]] = {}
    for row in tool_rows():
        for name, schema in schemas(row).items():
            Draft202012Validator.check_schema(schema)
            versions.setdefault(name, set()).add(json.dumps(schema))
    assert [name for name, texts in versions.items() if len(texts) > 1] == []


def test_calls_are_of_offered_tools_and_follow_their_schemas() -> None:
    for row in tool_rows():
        offered = schemas(row)
        assert 2 <= len(offered) <= 6
        for name, arguments in calls(row):
            strict = offered[name] | {"additionalProperties": False}
            assert list(Draft202012Validator(strict).iter_errors(arguments)) == [], texts(
                row, "user"
            )


def test_arguments_are_in_the_conversation() -> None:
    """Numbers of bookings, rooms and names come from the users or from what tools answered."""
    for row in tool_rows():
        text = "\n".join([*texts(row, "user"), *texts(row, "tool")]).casefold()
        for _, arguments in calls(row):
            for key in ("booking", "room", "name", "company", "plate", "title"):
                assert str(arguments.get(key, "")).casefold() in text, (key, text)


@pytest.mark.parametrize(
    "recipe",
    [TOOL_CALLS, SUPPORT_CHAT, EXTRACTION, DOCS_ASSISTANT],
    ids=lambda path: path.name,
)
def test_the_command_of_the_readme_finds_a_recipe_without_notes(
    project: MakeProject, recipe: Path
) -> None:
    readme = (recipe / "README.md").read_text("utf-8")
    assert re.findall(r"^\$ finery build (\S+)$", readme, re.M) == [f"recipes/{recipe.name}"]
    copied = project({})
    shutil.copytree(recipe, copied.folder / "recipes" / recipe.name)
    checked = copied.run("check", f"recipes/{recipe.name}")
    assert checked.code == 0
    assert checked.err == ""


@pytest.mark.parametrize("recipe", [TOOL_CALLS, SUPPORT_CHAT], ids=lambda path: path.name)
def test_turns_follow_each_other(recipe: Path) -> None:
    for row in rows(recipe, "conversations.jsonl"):
        roles = [message["role"] for message in row["messages"]]
        assert all(b in ROLES_AFTER[a] for a, b in pairwise(roles)), roles
        assert roles[-1] == "assistant"


def test_every_call_is_answered_once() -> None:
    """But for calls of the last turn, whose answers are still to come."""
    for row in tool_rows():
        turns = row["messages"][:-1]
        asked = [call["id"] for m in turns for call in m.get("tool_calls", ())]
        assert [m["tool_call_id"] for m in turns if m["role"] == "tool"] == asked


def test_no_phrasing_of_the_test_is_in_training(tmp_path: Path) -> None:
    split = parts(tmp_path)
    train = {phrasing(row) for row in split["train"]}
    assert len(split["train"]) >= 400
    assert not train & {phrasing(row) for row in split["test"]}
    assert not train & {phrasing(row) for row in rows(TOOL_CALLS, "unseen.jsonl")}
    groups = [{row["group"] for row in split[name]} for name in ("train", "validation", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_every_tool_and_kind_is_tested(tmp_path: Path) -> None:
    split = parts(tmp_path)
    tested = {call.name for row in split["test"] for call in calls(row)}
    assert tested == {call.name for row in split["train"] for call in calls(row)}
    assert {row["kind"] for row in split["test"]} == {row["kind"] for row in split["train"]}


def test_chats_have_two_to_four_replies() -> None:
    counts = {len(texts(row, "assistant")) for row in rows(SUPPORT_CHAT, "conversations.jsonl")}
    assert counts == {2, 3, 4}


def test_replies_begin_with_the_name_of_the_customer() -> None:
    for row in rows(SUPPORT_CHAT, "conversations.jsonl") + rows(SUPPORT_CHAT, "facts.jsonl"):
        (system,) = texts(row, "system")
        name = re.fullmatch(r"Customer: (\w+)\. Plan: (Brook|River|Ocean)\.", system)
        assert name
        assert all(reply.startswith(f"{name[1]}, ") for reply in texts(row, "assistant"))


def test_every_reply_follows_the_rules() -> None:
    voice = open_graph(SUPPORT_CHAT / "recipe.yaml").nodes["voice"].step
    assert isinstance(voice, Dialog)
    rules = voice.inner().evaluator
    assert isinstance(rules, Rules)
    chats = rows(SUPPORT_CHAT, "conversations.jsonl") + rows(SUPPORT_CHAT, "facts.jsonl")
    replies = [reply for row in chats for reply in texts(row, "assistant")]
    assert len(replies) > 600
    assert [reply for reply in replies if not all(rules.kept(reply).values())] == []


def test_each_question_about_a_fact_has_a_short_answer() -> None:
    known = open_graph(SUPPORT_CHAT / "recipe.yaml").nodes["known"].step
    assert isinstance(known, Exact)
    for row in rows(SUPPORT_CHAT, "facts.jsonl"):
        (reply,) = texts(row, "assistant")
        assert len(known.text(extracted(reply, known.extract))) <= len("orange"), reply


def test_questions_about_facts_are_in_no_chat() -> None:
    chats = {
        normalised(text)
        for row in rows(SUPPORT_CHAT, "conversations.jsonl")
        for text in texts(row, "user")
    }
    questions = [normalised(texts(row, "user")[0]) for row in rows(SUPPORT_CHAT, "facts.jsonl")]
    assert len(set(questions)) == len(questions) == 40
    assert not chats & set(questions)


@pytest.mark.parametrize("name", ["tickets.jsonl", "test.jsonl"])
def test_each_ticket_has_the_three_labels_of_the_guide(name: str) -> None:
    for row in rows(TICKETS, name):
        labels = dict(line.split(": ") for line in row["output"].splitlines())
        assert list(labels) == list(LABELS)
        assert all(labels[field] in LABELS[field] for field in LABELS), row


def test_no_ticket_resembles_a_test_ticket() -> None:
    texts = [row["input"] for row in rows(TICKETS, "tickets.jsonl")]
    index = SimilarIndex([row["input"] for row in rows(TICKETS, "test.jsonl")])
    nearest = {text: index.nearest(text, 1) for text in texts}
    assert len(nearest) == len(texts), "a ticket is there twice"
    assert {text: near for text, near in nearest.items() if near and near[0][1] > 0.37} == {}


def test_answers_about_ads_follow_the_schema_and_the_order_of_its_keys() -> None:
    schema = json.loads((EXTRACTION / "data" / "schema.json").read_text("utf-8"))
    validator = Draft202012Validator(schema)
    for row in rows(EXTRACTION, "ads.jsonl") + rows(EXTRACTION, "test.jsonl"):
        answer = json.loads(row["answer"])
        assert list(validator.iter_errors(answer)) == [], row["ad"]
        assert list(answer) == schema["required"]
        assert row["answer"] == json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def test_places_and_dates_are_words_of_the_ad() -> None:
    for row in rows(EXTRACTION, "ads.jsonl") + rows(EXTRACTION, "test.jsonl"):
        answer = json.loads(row["answer"])
        ad = row["ad"].casefold()
        assert answer["place"].casefold() in ad, ad
        assert answer["available"] in (None, "now") or answer["available"].casefold() in ad, ad


def test_no_ad_of_the_test_is_nearly_one_of_the_training(tmp_path: Path) -> None:
    """At a lower similarity than that of the recipe."""
    tested, others = (
        dataset(tmp_path / name, [{"prompt": row["ad"]} for row in rows(EXTRACTION, name)])
        for name in ("test.jsonl", "ads.jsonl")
    )
    assert len(tested) == 101
    step = Decontaminate(rows=[others], against=[tested], threshold=0.5)
    assert len(run_step(step, tmp_path / "clean")) == len(others)
