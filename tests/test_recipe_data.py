"""The data of the recipes: valid, and the test rows apart from what is trained on."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import MakeProject
from jsonschema import Draft202012Validator

from finery import Dataset
from finery.builder.project import open_graph
from finery.rows import Row
from finery.rows.near import normalise_text
from finery.rows.similar import SimilarIndex
from finery.testing import dataset, run_step
from finery_data.steps.copies import Decontaminate
from finery_data.steps.split import SPLITS, Split, Splits
from finery_eval.steps.dialog import Dialog
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
ROUTER = RECIPES / "intent-router"
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
    return normalise_text(text)


def parts(folder: Path) -> dict[str, Dataset]:
    """The rows of the step `split` of tool-calls, by part, with the recipe's seed."""
    node = open_graph(TOOL_CALLS / "recipe.yaml").nodes["split"]
    assert isinstance(node.step, Split)
    labelled = [{**row, "label": row["kind"]} for row in rows(TOOL_CALLS, "conversations.jsonl")]
    node.step.rows = [dataset(folder / "rows", labelled)]
    splits: Splits = run_step(node.step, folder / "split", seed=node.seed)
    return {name: getattr(splits, name) for name in SPLITS}


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
    [TOOL_CALLS, SUPPORT_CHAT, EXTRACTION, DOCS_ASSISTANT, ROUTER],
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


def test_no_phrasing_of_the_test_is_in_training(tmp_path: Path) -> None:
    split = parts(tmp_path)
    train = {phrasing(row) for row in split["train"]}
    assert len(split["train"]) >= 400
    assert not train & {phrasing(row) for row in split["test"]}
    assert not train & {phrasing(row) for row in rows(TOOL_CALLS, "unseen.jsonl")}
    groups = [{row["group"] for row in split[name]} for name in ("train", "validation", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_every_reply_follows_the_rules() -> None:
    voice = open_graph(SUPPORT_CHAT / "recipe.yaml").nodes["voice"].step
    assert isinstance(voice, Dialog)
    rules = voice.inner().evaluator
    assert isinstance(rules, Rules)
    chats = rows(SUPPORT_CHAT, "conversations.jsonl") + rows(SUPPORT_CHAT, "facts.jsonl")
    replies = [reply for row in chats for reply in texts(row, "assistant")]
    assert len(replies) > 600
    assert [reply for reply in replies if not all(rules.kept(reply).values())] == []


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


def test_no_ad_of_the_test_is_nearly_one_of_the_training(tmp_path: Path) -> None:
    """At a lower similarity than that of the recipe."""
    tested, others = (
        dataset(tmp_path / name, [{"prompt": row["ad"]} for row in rows(EXTRACTION, name)])
        for name in ("test.jsonl", "ads.jsonl")
    )
    assert len(tested) == 101
    step = Decontaminate(rows=[others], against=[tested], threshold=0.5)
    assert len(run_step(step, tmp_path / "clean")) == len(others)


def test_no_message_resembles_one_of_another_part_and_intents_are_even() -> None:
    parts = {name: rows(ROUTER, f"{name}.jsonl") for name in ("train", "validation", "test")}
    for name, least in (("train", 24), ("validation", 6), ("test", 10)):
        counts = Counter(row["intent"] for row in parts[name])
        assert len(counts) == 12
        assert min(counts.values()) >= least
    index = SimilarIndex([row["text"] for row in parts["test"]])
    for row in parts["train"] + parts["validation"]:
        near = index.nearest(row["text"], 1)
        assert not near or near[0][1] < 0.65, row["text"]
