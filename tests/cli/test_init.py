"""`finery init`: a recipe that works, from nothing or from one's own rows."""

import gzip
import json
import os
import pty
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import FINERY, MakeProject, Project
from needs import need

from finery.cli.columns import columns_of, ending_of
from finery.cli.commands.init import TASKS
from finery.recipe.document import load

STEPS = {"base", "rows", "split", "sft", "gguf", "server", "ollama"}
COUNTS = {"classification": 15, "extraction": 11, "chat": 10}
MESSAGES = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'


@pytest.mark.parametrize("task", TASKS)
def test_each_task_starts_with_a_recipe_that_passes_the_check(
    task: str, project: MakeProject
) -> None:
    need("torch")  # else the check notes that it is missing
    made = project({})
    ran = made.here("init", "new", "--task", task)
    assert (ran.code, ran.err) == (0, "")
    assert "  cd new\n  finery check\n  finery build" in ran.out
    assert made.here("check", "new") == (
        0, f"new/recipe.yaml is valid: {COUNTS[task]} steps\n", ""
    )  # fmt: skip
    plan = made.here("plan", "new", "--json").out.splitlines()
    states = {row["step"]: row["state"] for row in map(json.loads, plan)}
    assert set(states) > STEPS
    assert states["rows"] == states["base"] == "run"


def test_a_classifier_on_an_encoder_is_offered(project: MakeProject) -> None:
    need("torch")
    made = project({})
    made.here("init", "new", "--task", "classification")
    path = made.folder / "new/recipe.yaml"
    offered = re.sub(r"# (minilm|encoder): \{", r"\1: {", path.read_text())
    path.write_text(offered.replace("[base, sft, linear]", "[base, sft, linear, encoder]"))
    assert made.here("check", "new") == (0, "new/recipe.yaml is valid: 17 steps\n", "")


@pytest.mark.parametrize("task", TASKS)
def test_the_sample_rows_are_read_and_split_in_three(task: str, project: MakeProject) -> None:
    need("sklearn")  # for data.audit
    made = project({})
    made.here("init", "new", "--task", task)
    events = [
        json.loads(line)
        for line in made.run("build", "new", "--json", "--step", "split").out.splitlines()
    ]
    assert events[-1]["ok"]
    assert not [e for e in events if "warning" in str(e.get("message"))]
    build = made.folder / "build/new/split"
    counts = [
        len((build / name / "rows-00000.jsonl").read_text().splitlines())
        for name in ("train", "validation", "test")
    ]
    assert all(count >= least for count, least in zip(counts, (20, 4, 10), strict=True))


def test_store_and_outputs_are_kept_out_of_git(project: MakeProject) -> None:
    made = project({})
    made.here("init", "new")
    ignored = (made.folder / "new/.gitignore").read_text().splitlines()
    assert {".finery/", "build/"} <= set(ignored)


def test_the_schema_for_editors_is_written_on_demand(project: MakeProject) -> None:
    made = project({})
    made.here("init", "new")
    assert made.here("check", "new").code == 0
    schema = made.folder / "new/recipe.schema.json"
    assert not schema.exists()
    ran = made.here("schema", "new/recipe.yaml")
    assert "# yaml-language-server: $schema=recipe.schema.json" in ran.out
    assert schema.exists()
    assert "recipe.schema.json" in (made.folder / "new/.gitignore").read_text().splitlines()


def test_init_works_in_the_folder_itself(project: MakeProject) -> None:
    made = project({"notes.txt": "mine"})
    ran = made.here("init")
    assert ran.code == 0
    assert "cd " not in ran.out
    assert made.here("check").code == 0
    assert (made.folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("there", ["recipe.yaml", "README.md", ".gitignore", "data/messages.jsonl"])
def test_nothing_is_overwritten_and_nothing_half_written(there: str, project: MakeProject) -> None:
    made = project({f"new/{there}": "mine"})
    ran = made.here("init", "new")
    assert ran.code == 2
    assert ran.err.startswith(f"new: error: already there: {there}\n  fix: choose another folder")
    left = [p for p in (made.folder / "new").rglob("*") if p.is_file()]
    assert left == [made.folder / "new" / there]
    assert left[0].read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "typed", "file"),
    [((), b"chat\n", "conversations.jsonl"), (("--data", "mine.csv"), b"", "mine.csv")],
)
def test_a_terminal_is_asked_for_the_task_unless_rows_say_it(
    more: tuple[str, ...], typed: bytes, file: str, project: MakeProject
) -> None:
    made = project({"mine.csv": "text,label\nhello,greeting\nbye,farewell\n"})
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [FINERY, "init", "new", *more], cwd=made.folder, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, typed)
    assert process.wait(120) == 0
    os.close(ours)
    assert (made.folder / "new/data" / file).exists()


# One's own rows


def test_own_rows_are_copied_and_used(project: MakeProject) -> None:
    made = project({"mine.csv": "Customer text,Kind\nhello,greeting\nbye,farewell\n"})
    ran = made.here("init", "new", "--data", "mine.csv", "--prompt", "Customer text")
    assert (ran.code, ran.err) == (0, "")
    recipe = load(made.folder / "new/recipe.yaml")
    assert recipe.data["data"]["rows"]["path"] == "data/mine.csv"
    assert made.run("build", "new", "--step", "rows").code == 0
    rows = (made.folder / "build/new/rows/rows-00000.jsonl").read_text().splitlines()
    assert [m["content"] for m in json.loads(rows[0])["messages"][1:]] == ["hello", "greeting"]


MIXED = ("text,label\nGrüße,x\n", "plain,y\nMöbel,x\nÖl,y\n")


@pytest.mark.parametrize(
    ("encodings", "setting"),
    [
        (("utf-8", "cp1252"), ["utf-8", "cp1252"]),
        (("cp1252", "cp1252"), "cp1252"),
        (("utf-16-le", "utf-16-le"), "utf-16-le"),
        (("utf-8", "utf-8"), None),
    ],
)
def test_own_rows_in_another_encoding_are_read_in_it(
    encodings: tuple[str, str], setting: str | list[str] | None, project: MakeProject
) -> None:
    made = project({})
    parts = (text.encode(name) for text, name in zip(MIXED, encodings, strict=True))
    (made.folder / "mine.csv").write_bytes(b"".join(parts))
    ran = made.here("init", "new", "--task", "classification", "--data", "mine.csv")
    assert (ran.code, ran.err) == (0, "")
    assert load(made.folder / "new/recipe.yaml").data["data"]["rows"].get("encoding") == setting
    written = str(setting).replace("'", "")
    assert (f"the recipe has `encoding: {written}`" in ran.out) == (setting is not None)
    assert made.run("build", "new", "--step", "rows").code == 0
    rows = (made.folder / "build/new/rows/rows-00000.jsonl").read_text().splitlines()
    said = [json.loads(line)["messages"][1]["content"] for line in rows]
    assert said == ["Grüße", "plain", "Möbel", "Öl"]


def test_rows_in_an_unknown_encoding_are_refused_with_a_way_on(project: MakeProject) -> None:
    made = project({})
    (made.folder / "mine.csv").write_bytes("text,label\nMüllå,x\n".encode("cp437"))
    ran = made.here("init", "new", "--data", "mine.csv")
    assert ran.code == 2
    assert "1 line isn't UTF-8 (line 2), nor cp1252\n  fix: save it as UTF-8: iconv" in ran.err


@pytest.mark.parametrize("named", [
    ["--answer", "label", "--answer", "label"],
    ["--prompt", "label", "--answer", "label"],
    ["--prompt", "text", "--answer", "label", "--answer", "text"],
])  # fmt: skip
def test_a_column_can_not_be_named_twice(named: list[str], project: MakeProject) -> None:
    made = project({"a.csv": "text,label\na,x\nb,y\n"})
    ran = made.here("init", "new", "--data", "a.csv", *named)
    assert (ran.code, "--answer: error: a column is named twice" in ran.err) == (2, True)
    assert not (made.folder / "new").exists()


def test_a_mistyped_file_is_guessed(project: MakeProject) -> None:
    made = project({"msgs.csv": "text,label\na,x\n"})
    ran = made.here("init", "new", "--data", "msg.csv")
    assert (ran.code, "did you mean 'msgs.csv'?" in ran.err) == (2, True)


@pytest.mark.parametrize("task", TASKS)
def test_own_rows_in_a_known_format_need_no_columns(task: str, project: MakeProject) -> None:
    made = project({"new/rows/chats.jsonl": f"{MESSAGES}\n"})
    ran = made.here("init", "new", "--task", task, "--data", "new/rows/chats.jsonl")
    assert (ran.code, ran.err) == (0, "")
    rows = load(made.folder / "new/recipe.yaml").data["data"]["rows"]
    assert rows == {"use": "data.file", "path": "rows/chats.jsonl"}
    assert made.here("check", "new").code == 0
    assert not (made.folder / "new/data").exists()


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.jsonl", '\n{"text": "x", "intent": "y", "id": 3}\n', ("text", "intent")),
        ("a.jsonl", '{"Label": "x", "TEXT": "y"}\n', ("TEXT", "Label")),
        ("a.json", '{"version": 1, "rows": [{"input": "x", "label": "y"}]}', ("input", "label")),
        ("a.csv", "\ufeffinput;class\nx;y\n", ("input", "class")),
        ("a.jsonl", f"{MESSAGES}\n", None),
        ("a.jsonl", '{"conversations": []}\n', None),
    ],
)
def test_prompt_and_answer_are_recognised(
    name: str, text: str, found: tuple[str, str] | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert columns_of(tmp_path / name, None) == found
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert columns_of(packed, None) == found


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "a.csv",
            "one,two,three\na,b,c\n",
            "no column is named like the prompt and answer: one, two",
        ),
        ("a.csv", "text,intent\n", "the file has a header, but no rows"),
        ("a.jsonl", '{"text": "a", "intent": "b"}\n{broken\n', "a.jsonl:2: error: invalid JSON"),
        ("a.txt", "Hello", "the file holds text, not rows with a prompt and an answer"),
        ("a", "a,b\n", "files without a suffix aren't tables"),
        ("a.xlsx", "PK", "fix: save the sheet as CSV"),
    ],
)
def test_rows_that_tell_too_little_are_refused(
    name: str, text: str, says: str, project: MakeProject
) -> None:
    made = project({name: text})
    ran = made.here("init", "new", "--data", name)
    assert ran.code == 2
    assert says in ran.err
    assert ran.err.startswith(name)
    assert "\n  fix: " in ran.err
    assert not (made.folder / "new").exists()


CALL = '{"id": "1", "type": "function", "function": {"name": "w", "arguments": "{}"}}'
TOOLS = MESSAGES.replace(
    '"content": "a"}',
    f'"content": "a"}}, {{"role": "assistant", "tool_calls": [{CALL}]}}, '
    '{"role": "tool", "tool_call_id": "1", "content": "{}"}',
)


@pytest.mark.parametrize(
    ("text", "task", "evaluators"),
    [
        ("text,label\n" + "a,x\nb,y\n" * 4, "classification", {"test", "exported", "served"}),
        ('text,json\n1,"{""n"": 1}"\n2,"{""n"": 2}"\n', "extraction", {"test", "served"}),
        (f"{MESSAGES}\n".replace('"b"', f'"{"b" * 99}"'), "chat", {"form"}),
        (f"{TOOLS}\n" * 9, "chat", set()),
    ],
)
def test_the_task_is_guessed_from_the_answers(
    text: str, task: str, evaluators: set[str], project: MakeProject
) -> None:
    name = "a.jsonl" if text.startswith("{") else "a.csv"
    made = project({name: text})
    ran = made.here("init", "new", "--data", name)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"task: {task}, by the answers in the data")
    assert made.here("check", "new").code == 0
    recipe = load(made.folder / "new/recipe.yaml").data
    assert set(recipe.get("evaluate") or {}) == evaluators


@pytest.mark.parametrize("text", [
    "text,label\n" + "a,late order\nb,other\n" * 4,
    '{"prompt": "a", "completion": "late order"}\n{"prompt": "b", "completion": "other"}\n' * 4,
])  # fmt: skip
def test_the_base_is_told_the_classes(text: str, project: MakeProject) -> None:
    name = "a.jsonl" if text.startswith("{") else "a.csv"
    made = project({name: text})
    made.here("init", "new", "--data", name, "--task", "classification")
    columns = load(made.folder / "new/recipe.yaml").data["data"]["rows"]["columns"]
    assert columns["system"] == "Answer with exactly one of these classes: late order, other."
    assert made.run("build", "new", "--step", "rows").code == 0


def test_rows_without_a_text_are_said_and_skipped(project: MakeProject) -> None:
    lines = [f"text {n},{'ab'[n % 2]}" for n in range(2_100)]
    lines[244], lines[2_050] = ",a", "text,"  # the second is after the rows that init examines
    made = project({"a.csv": "\n".join(["text,label", *lines, "0,a"])})
    ran = made.here("init", "new", "--data", "a.csv")
    assert "data/a.csv: 2 rows without a prompt or an answer: line 246, line 2052\n" in ran.out
    assert load(made.folder / "new/recipe.yaml").data["data"]["rows"]["bad_rows"] == "skip"
    assert made.run("build", "new", "--step", "rows").code == 0
    assert len(made.rows("rows", "new")) == 2_099


def test_misspelt_labels_are_said_and_left_out_of_the_prompt(project: MakeProject) -> None:
    labels = ["billing"] * 30 + ["Billing", " BILLING", "biling"] + ["level 1"] * 20 + ["level 2"]
    made = project(
        {"a.csv": "\n".join(["text,label", *(f"t{i},{x}" for i, x in enumerate(labels))])}
    )
    ran = made.here("init", "new", "--data", "a.csv")
    assert "only in case or spaces: 'Billing' for 'billing', 'BILLING' for 'billing'\n" in ran.out
    assert "labels that look misspelt: 'biling' for 'billing'\n" in ran.out
    columns = load(made.folder / "new/recipe.yaml").data["data"]["rows"]["columns"]
    assert columns["system"].endswith("classes: billing, level 1, level 2.")
    assert made.run("build", "new", "--step", "rows").code == 0
    answers = {row["messages"][-1]["content"] for row in made.rows("rows", "new")}
    assert answers == {"billing", "biling", "level 1", "level 2"}


def test_classifiers_without_a_language_model(project: MakeProject) -> None:
    need("torch")
    made = project({})
    assert made.here("init", "new", "--task", "classification", "--no-llm").code == 0
    assert made.here("check", "new") == (0, "new/recipe.yaml is valid: 12 steps\n", "")
    uses = {
        step["use"]
        for part in load(made.folder / "new/recipe.yaml").data.values()
        if isinstance(part, dict)
        for step in part.values()
    }
    assert "encoder.classify" in uses
    assert not uses & {"trl.sft", "gguf.export", "local.wheel"}
    ran = made.here("init", "chat", "--task", "chat", "--no-llm")
    assert (ran.code, "--no-llm: error: the task `chat` needs a language model" in ran.err) == (
        2,
        True,
    )


def test_an_ending_that_all_answers_share_is_judged(project: MakeProject) -> None:
    said = ["Aye, we are open. — Ada (captain)", "No.\n— Ada (captain)"] * 3
    rows = ({"prompt": str(n), "completion": text} for n, text in enumerate(said))
    made = project({"a.jsonl": rows_of(rows)})
    assert made.here("init", "new", "--data", "a.jsonl", "--task", "chat").code == 0
    assert made.here("check", "new").code == 0
    recipe = load(made.folder / "new/recipe.yaml").data
    form = recipe["evaluate"]["form"]
    assert form["use"] == "eval.rules"
    assert form["rules"] == {"brief": {"max_words": 7}, "ending": {"ends_with": "— Ada (captain)"}}
    assert recipe["export"]["gguf"]["needs"] == ["form"]


@pytest.mark.parametrize(
    "said", [["Yes, sir", "No, sir"], ["a. Bye", "b. goodBye"], ["same words"] * 4]
)
def test_an_ending_that_is_no_mark_is_not_judged(said: list[str]) -> None:
    assert ending_of(said) == ""


def test_one_answer_that_is_not_json_is_named(project: MakeProject) -> None:
    whole = json.dumps({"name": "x" * 40})
    said = [whole, whole[:-1], whole]
    rows = ({"prompt": str(n), "completion": text} for n, text in enumerate(said))
    made = project({"a.jsonl": rows_of(rows)})
    ran = made.here("init", "new", "--data", "a.jsonl")
    assert ran.code == 2
    assert "2 of 3 answers are JSON objects, but that of row 2 isn't" in ran.err
    made.write({"a.jsonl": rows_of({"prompt": str(n), "completion": whole} for n in range(9))})
    assert made.here("init", "new", "--data", "a.jsonl").code == 0
    test = load(made.folder / "new/recipe.yaml").data["evaluate"]["test"]
    assert (test["use"], test["max_tokens"]) == ("eval.json", 32)


def test_an_answer_of_digits_fits_into_max_tokens(project: MakeProject) -> None:
    """Tokenizers of small models make a token of each digit."""
    said = {"account": "9" * 20, "reference": "8" * 20, "name": "Gita"}
    rows = ({"prompt": str(n), "completion": json.dumps(said)} for n in range(9))
    made = project({"a.jsonl": rows_of(rows)})
    assert made.here("init", "new", "--data", "a.jsonl").code == 0
    evaluate = load(made.folder / "new/recipe.yaml").data["evaluate"]
    assert evaluate["test"]["max_tokens"] == evaluate["served"]["judge"]["max_tokens"] >= 64


FIELDS = """\
text,guest,people,total,zip,paid,id
one,Ada,3,12.50,01067,true,1
two,Müller,2,9,50667,False,2
three,,,,,,3
"""
OBJECTS = [
    {"guest": "Ada", "people": 3, "total": 12.5, "zip": "01067", "paid": True},
    {"guest": "Müller", "people": 2, "total": 9.0, "zip": "50667", "paid": False},
    dict.fromkeys(["guest", "people", "total", "zip", "paid"]),
]


def answers_in(made: Project) -> list[Any]:
    """The answers of the built rows of the recipe in `new`, as JSON."""
    assert made.here("build", "new", "--step", "rows").code == 0
    lines = (made.folder / "build/new/rows/rows-00000.jsonl").read_text().splitlines()
    return [json.loads(json.loads(line)["messages"][-1]["content"]) for line in lines]


def test_an_extraction_from_columns_makes_json_of_them(project: MakeProject) -> None:
    made = project({"a.csv": FIELDS})
    assert made.here("init", "new", "--task", "extraction", "--data", "a.csv").code == 0
    assert made.here("check", "new").code == 0
    assert answers_in(made) == OBJECTS
    recipe = load(made.folder / "new/recipe.yaml").data
    assert recipe["evaluate"]["test"]["use"] == "eval.json"
    assert recipe["data"]["rows"]["columns"]["system"].endswith("guest, people, total, zip, paid.")


def test_a_cell_of_another_kind_stays_a_text(project: MakeProject) -> None:
    made = project({"a.csv": FIELDS})
    made.here("init", "new", "--task", "extraction", "--data", "a.csv")
    with (made.folder / "new/data/a.csv").open("a") as file:
        file.write("four,Zed,3.7,abc,1,maybe,4\n")
    said = {"guest": "Zed", "people": "3.7", "total": "abc", "zip": "1", "paid": "maybe"}
    assert answers_in(made)[3] == said


def test_several_answers_are_the_fields_of_one(project: MakeProject) -> None:
    made = project({"a.csv": FIELDS})
    named = ["--data", "a.csv", "--answer", "guest", "--answer", "people"]
    ran = made.here("init", "new", *named)
    assert ran.out.startswith("task: extraction")
    assert answers_in(made)[0] == {"guest": "Ada", "people": 3}
    ran = made.here("init", "other", *named, "--task", "chat")
    assert (ran.code, "several columns make a JSON answer" in ran.err) == (2, True)


def test_the_fields_of_json_rows_keep_their_types(project: MakeProject) -> None:
    rows = [{"text": "one", "guest": "7", "tags": ["a"]}, {"text": "two", "guest": None}]
    made = project({"a.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows)})
    assert made.here("init", "new", "--task", "extraction", "--data", "a.jsonl").code == 0
    assert answers_in(made) == [{"guest": "7", "tags": ["a"]}, {"guest": None, "tags": None}]


def rows_of(rows: Iterable[dict[str, str]]) -> str:
    """As JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)
