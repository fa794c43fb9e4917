"""From requests to a better model, all through the command line: docs/howto/requests.md."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import MakeProject, Project
from reviewing import reviewing
from serving import served

from finery import Dataset
from finery.rows import Row

pytestmark = pytest.mark.slow

RECIPE = """\
finery: 1
name: t
data:
  rows: {use: data.file, path: rows.jsonl}
  split: {use: data.split, rows: rows, test: 0.3, stratify: label}
models:
  linear: {use: baseline.linear, rows: split.train}
export:
  ship: {use: serve.bundle, model: linear, name: topics}
evaluate:
  test: {use: eval.classification, models: linear, rows: split.test}
"""
LOOP = """\
finery: 1
name: t
data:
  rows: {use: data.file, path: rows.jsonl}
  split: {use: data.split, rows: rows, test: 0.3, stratify: label}
  requests: {use: data.requests, path: "logs/*.jsonl", against: split.train}
  labelled: {use: review.apply, rows: requests, reviews: reviews/requests.jsonl, undecided: drop}
  asked: {use: data.split, rows: labelled, test: 0.5}
  train: {use: data.dedup, rows: [split.train, asked.train], threshold: 1}
models:
  linear: {use: baseline.linear, rows: train}
  released: {use: release.model, tag: production}
export:
  ship: {use: serve.bundle, model: linear, name: topics}
evaluate:
  test: {use: eval.classification, models: [linear, released], rows: split.test}
  requested:
    use: eval.classification
    models: [linear, released]
    rows: asked.test
    require: {linear.accuracy: "not worse than released by 0.05"}
"""
TOPICS = {
    "card": ["card", "terminal", "chip", "swallowed", "plastic"],
    "transfer": ["transfer", "sent", "money", "abroad", "iban"],
    "login": ["password", "login", "code", "locked", "app"],
}
NEW = ["mortgage", "house", "loan", "rate", "notary"]
FILLERS = ["please", "help", "why", "is", "my", "today", "again", "never", "works", "since"]
ODD = [
    "Größe – 5 µ",
    "😀",
    "two\nlines\n\n",
    "\ttab",
    "‮rtl‬",
    "a\u2028b",
    "日本語",
    '{"a": [1,  2]}',
]


def sentence(words: list[str], draw: random.Random) -> str:
    chosen = draw.sample(words, 2) + draw.sample(FILLERS, 3)
    draw.shuffle(chosen)
    return f"{' '.join(chosen)} {draw.randrange(100_000)}"


def requests(count: int) -> dict[str, tuple[str, list[dict[str, str]]]]:
    """Text → (topic, messages) of requests, a fifth of them about something new."""
    draw = random.Random(5)
    made: dict[str, tuple[str, list[dict[str, str]]]] = {}
    while len(made) < count:
        topic = "loan" if len(made) % 5 == 0 else draw.choice([*TOPICS])
        text = f"{sentence(TOPICS.get(topic, NEW), draw)} {ODD[len(made) % len(ODD)]}"
        system = [{"role": "system", "content": "Name the topic.\n"}] if len(made) % 2 else []
        made[text] = topic, [*system, {"role": "user", "content": text}]
    return made


def built(project: Project, *args: str) -> str:
    ran = project.run("build", *args)
    assert ran.code == 0, ran.err
    return " ".join((ran.out + ran.err).split())


def rows_of(project: Project, step: str) -> list[Row]:
    rows = Dataset(project.folder / "build/t" / step)
    return [row for row in rows]  # noqa: C416  # its `meta`, and so its length, isn't here


def label(project: Project, topics: dict[str, str], count: int) -> list[str]:
    """Label the first rows that the page shows; their topics."""
    labelled = []
    with reviewing(project, "requests", "--reviewer", "Ann") as review:
        overview = review.get("/api/review")
        assert overview["audited"]  # so the page begins with the order `suspicious`
        assert set(overview["labels"]) <= {*TOPICS}
        nothing = {"label": "", "text": "", "check": ""}
        listed = review.get("/api/list", status="undecided", order="suspicious", **nothing)
        for number in listed["rows"][:count]:
            row = review.get("/api/row", row=number)
            topic = topics[row["content"]["messages"][-1]["content"]]
            columns = row["proposal"]
            assert columns["messages"][-1]["role"] == "assistant"
            columns["messages"][-1]["content"] = topic
            assert review.decide(number, "edit", columns=columns).status == 200
            labelled.append(topic)
        review.end()
    return labelled


def test_requests_come_back_and_make_the_model_better(project: MakeProject) -> None:
    draw = random.Random(1)
    rows = [
        {"prompt": sentence(words, draw), "completion": topic, "label": topic}
        for topic, words in TOPICS.items()
        for _ in range(60)
    ]
    made = project({
        "recipe.yaml": RECIPE, "logs/.keep": "",
        "rows.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows),
    })  # fmt: skip
    built(made)
    assert made.run("release", "linear", "--as", "production").code == 0

    sent = requests(500)
    with served(made, "ship", "--port", "0", "--log", "logs/requests.jsonl") as (client, _, _):

        def ask(asked: tuple[int, tuple[str, list[dict[str, str]]]]) -> Any:
            number, (_, messages) = asked
            body = {"model": "topics", "messages": messages}
            if number % 3 == 0:
                return [*client.stream("/v1/chat/completions", body)]
            return client.send("/v1/chat/completions", body)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(ask, enumerate(sent.values())))

    made.write({"recipe.yaml": LOOP})
    assert "they differ from `against`" in built(made, "--step", "requests")
    came_back = sorted(json.dumps(row["messages"]) for row in rows_of(made, "requests"))
    assert came_back == sorted(json.dumps(messages) for _, messages in sent.values())
    checked = made.run("check")
    assert "the requests of requests differ" in " ".join((checked.out + checked.err).split())

    topics = {text: topic for text, (topic, _) in sent.items()}
    labelled = label(made, topics, 60)
    assert labelled.count("loan") > 30  # twice as many as in a random draw, at least
    built(made)
    assert len(rows_of(made, "labelled")) == 60
    parts = [len(rows_of(made, step)) for step in ("split/train", "asked/train", "train")]
    assert parts[0] + parts[1] == parts[2]
    assert parts[1] > 5
    report = json.loads(made.here("show", "requested", "--json").out)["metrics"]["scores"]
    assert report["linear"]["accuracy"] > report["released"]["accuracy"] + 0.3
    compared = made.run("release", "diff", "production")
    assert compared.code == 0, compared.err
    checked = made.run("check")
    assert "same-rows" not in checked.out + checked.err  # `against` gives `requests` no rows
    again = made.run("release", "linear", "--as", "production")
    assert again.code == 0, again.err
    releases = json.loads((made.folder / "releases.json").read_text())
    assert json.dumps(releases).count('"digest"') >= 2
