"""`finery show --row ID`: from an answer back to the file and line, and forward again."""

import json
from typing import Any

import pytest
from conftest import MakeProject, Project

STEPS = '''\
import json

from finery import Dataset, Job, Metrics, Model, Step, hookimpl, setting, takes
from finery.rows.report import Report, Score
from finery.rows.dropped import Drops
from finery.rows.generated import CheckResult, Origin, Origins
from finery.rows import answer_text, row_id


class Generate(Step, seeded=False, sections=("generate",)):
    """Two rows of each row; the second fails its check."""

    rows: Dataset
    broken: bool = setting(False, help="Whether parents are left out.")

    def run(self, job: Job) -> Dataset:
        with Origins(job.out) as origins, Drops(job.out) as drops:
            made = Dataset.write(job.out, self.made(drops, origins))
        made.meta |= drops.meta()
        return made

    def made(self, drops, origins):
        for row in self.rows:
            for number in (0, 1):
                content = {"prompt": f"{row['prompt']} please {number}", "completion": "yes"}
                new = {"id": row_id(content), **content, "parents": [row["id"]]}
                prompt = [{"role": "user", "content": f"Say otherwise: {row['prompt']}"}]
                made = Origin(
                    id=new["id"], use="s.generate", parents=new["parents"], model="big-teacher",
                    prompt=prompt, attempt=number, answer="Sure: yes" if number else None,
                    checks=[CheckResult(check="regex", passed=not number)],
                    judge={"model": "judge", "score": 4, "reason": "good"},
                )
                if number:
                    drops.add(new, "regex", "no match", made)
                else:
                    origins.add(made)
                    yield new


class Train(Step, seeded=False, sections=("train",)):
    """Learns nothing."""

    rows: list[Dataset] = takes(role="train", help="Rows to learn from.")
    validation: Dataset | None = takes(None, role="validation", help="Rows to watch.")

    def run(self, job: Job) -> Model:
        return Model(job.out, meta={"format": "light"})


class Judge(Step, seeded=False):
    """The first model is wrong, the second right."""

    models: list[Model] = takes(uses_name=True, help="Models.")
    rows: Dataset

    def run(self, job: Job) -> Metrics:
        lines = []
        for row in self.rows:
            right = answer_text(row)
            for model, answer in zip(self.models, ("never", right)):
                lines.append({"id": row["id"], "model": model.name, "answer": answer,
                              "expected": right, "correct": answer == right,
                              "error": None if answer == right else "no such table"})
        scores = {m.name: {"accuracy": Score(0.5, (0, 1))} for m in self.models}
        return Metrics.write(job.out, Report(rows=len(self.rows), scores=scores), lines)


class Elsewhere(Step, seeded=False):
    """Rows from a table that only this step knows."""

    table: str = setting(help="Its name.")

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, ({"prompt": f"p{i}", "completion": "x"} for i in range(9)))

    def trace_rows(self, ids, job):
        if self.table == "gone":
            from finery import StepError
            raise StepError("no such table", fix="look")
        for i in range(9):
            found = row_id({"prompt": f"p{i}", "completion": "x"})
            if found in ids:
                yield found, f"{self.table}, key {i}"


@hookimpl
def finery_steps():
    return {"s.generate": Generate, "s.train": Train, "s.judge": Judge, "s.elsewhere": Elsewhere}
'''
RECIPE = """\
finery: 1
name: t
plugins: [./s.py]
data:
  rows: {use: data.file, path: rows.jsonl, format: completion, bad_rows: skip}
  loud: {use: data.map, rows: rows, user: "{{ user | upper }}"}
  split: {use: data.split, rows: loud, validation: 0.1, test: 0.3, decontaminate: false}
generate:
  more: {use: s.generate, rows: split.train}
train:
  base: {use: s.train, rows: split.validation}
  sft: {use: s.train, rows: [split.train, more], validation: split.validation}
evaluate:
  test: {use: s.judge, models: [base, sft], rows: split.test}
"""
WORDS = ("apple", "bread", "chair", "dance", "eagle", "flute", "grape", "house", "index", "joker")


def line(number: int) -> str:
    answer = ("yes", "no")[number % 2]
    prompt = f"is {WORDS[number % 10]} number {number} for sale?"
    return json.dumps({"prompt": prompt, "completion": answer})


LINES = [line(n) for n in range(40)]
FILES = {"recipe.yaml": RECIPE, "s.py": STEPS, "rows.jsonl": "\n".join(LINES) + "\n"}


@pytest.fixture
def story(built: Any) -> Project:
    made: Project = built(FILES)
    return made


def told(project: Project, *args: str) -> dict[str, Any]:
    ran = project.run("show", *args, "--json")
    assert ran.code == 0, ran.err
    loaded: dict[str, Any] = json.loads(ran.out)
    return loaded


def row_of(story: dict[str, Any], relation: str) -> dict[str, Any]:
    (found,) = [r for r in story["rows"] if r["relation"] == relation]
    return dict(found)


def events(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(e["step"], e["what"]) for e in row["events"]]


def lines_of(project: Project, step: str, name: str) -> list[dict[str, Any]]:
    path = project.folder / "build/t" / step / name
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_a_wrong_answer_leads_back_to_the_file_and_line(story: Project) -> None:
    printed = story.run("show", "test", "--model", "base").out
    wrong = next(p for p in lines_of(story, "test", "predictions.jsonl") if not p["correct"])
    assert "why        no such table" in printed
    assert wrong["id"] in printed, "the id can be copied from the list of wrong answers"
    found = told(story, "--row", wrong["id"])
    asked, source = row_of(found, "asked"), row_of(found, "ancestor")
    assert events(asked) == [
        ("loud", "made"), ("split", "kept"), ("test", "answered"), ("test", "answered"),
    ]  # fmt: skip
    assert [e["facts"]["correct"] for e in asked["events"][2:]] == [False, True]
    assert asked["parents"] == [source["id"]]
    ((place,),) = [e["places"] for e in source["events"]]
    file, number = place.split(":")
    assert file == "rows.jsonl"
    assert json.loads(LINES[int(number) - 1])["prompt"].upper() == asked["row"]["prompt"]


def test_the_story_is_told_as_a_tree(story: Project) -> None:
    row = story.rows("split/test")[0]
    out = story.run("show", "--row", row["id"][:8]).out
    assert row["prompt"] in out
    assert "rows.jsonl:" in out
    assert f"{row['id']}  ◀ this row" in out
    assert "base  ✗ wrong  never  (expected" in out
    assert "why: no such table" in out
    assert "sft  ✓ right" in out


def test_relatives_are_told_with_what_became_of_them(story: Project) -> None:
    row = story.rows("more")[0]
    found = told(story, "--row", row["id"])
    asked = row_of(found, "asked")
    assert events(asked) == [("more", "generated"), ("more", "made"), ("sft", "taken")]
    assert asked["events"][0]["facts"]["model"] == "big-teacher"
    sister = row_of(found, "relative")
    assert events(sister) == [("more", "dropped")]
    facts = sister["events"][0]["facts"]
    assert (facts["reason"], facts["detail"]) == ("regex", "no match")
    assert facts["made"]["answer"] == "Sure: yes"
    out = story.run("show", "--row", row["id"]).out
    assert "generated by big-teacher, regex ✓, score 4 of judge (good)" in out
    assert "dropped: regex: no match" in out
    assert "generated by big-teacher, attempt 2, regex ✗" in out
    assert f"prompt, user: Say otherwise: {row['prompt'].removesuffix(' please 0')}" in out
    assert f"sft trains on 2 rows of this origin: {row['parents'][0]}, this row" in out


def test_a_dropped_row_has_its_story_too(story: Project) -> None:
    dropped = lines_of(story, "more", "dropped.jsonl")[0]
    listed = story.run("show", "more").out
    assert dropped["id"] in listed
    assert "answer: Sure: yes" in listed
    found = told(story, "--row", dropped["id"])
    assert events(row_of(found, "asked")) == [("more", "dropped")]
    out = story.run("show", "--row", dropped["id"]).out
    assert "prompt, user: Say otherwise: " in out
    assert "answer: Sure: yes" in out
    assert len([r for r in found["rows"] if r["relation"] == "ancestor"]) == 2


def test_a_source_row_tells_what_was_made_of_it(story: Project) -> None:
    source = story.rows("rows")[0]
    found = told(story, "--row", source["id"])
    assert {r["relation"] for r in found["rows"]} <= {"asked", "descendant"}
    assert len(found["rows"]) >= 2


def test_a_step_limits_the_story_to_what_leads_there(story: Project) -> None:
    row = story.rows("split/train")[0]
    found = told(story, "split.train", "--row", row["id"])
    assert {e["step"] for r in found["rows"] for e in r["events"]} == {"rows", "loud", "split"}
    found = told(story, "sft", "--row", row["id"])
    assert events(row_of(found, "asked"))[-1] == ("sft", "taken")
    assert story.run("show", "test", "--row", row["id"]).code == 2


def test_equal_rows_are_told_with_every_place(project: MakeProject) -> None:
    made = project({**FILES, "rows.jsonl": "\n".join([*LINES, "", LINES[3], LINES[3]]) + "\n"})
    assert made.run("build").code == 0
    row = made.rows("rows")[3]
    found = told(made, "--row", row["id"])
    read = [e for e in row_of(found, "asked")["events"] if e["what"] == "read"]
    assert [(e["number"], e["places"]) for e in read] == [
        (4, ["rows.jsonl:4"]), (41, ["rows.jsonl:42"]), (42, ["rows.jsonl:43"]),
    ]  # fmt: skip
    out = made.run("show", "--row", row["id"]).out
    assert "rows.jsonl:4, rows.jsonl:42, rows.jsonl:43" in out
    assert "read, rows 4, 41, 42" in out


def test_a_bad_record_leads_to_its_line(project: MakeProject) -> None:
    bad = '{"prompt": "no answer", "completion": ""}'
    made = project({**FILES, "rows.jsonl": "\n".join([*LINES, bad]) + "\n"})
    assert made.run("build").code == 0
    dropped = lines_of(made, "rows", "dropped.jsonl")[0]
    out = made.run("show", "--row", dropped["id"]).out
    assert "rows.jsonl:41  ◀ this row" in out
    assert "dropped: bad-row: line 41: 'completion' is empty" in out
    assert "no answer" in out


def test_a_file_that_changed_since_is_told(story: Project) -> None:
    row = story.rows("rows")[0]
    story.edit("rows.jsonl", LINES[0], LINES[0].replace("sale", "rent"))
    found = told(story, "--row", row["id"])
    assert "rows" in found["stale"]
    assert found["notes"] == [
        "rows: rows.jsonl changed since it was read", f"rows: no longer in the file: {row['id']}",
    ]  # fmt: skip
    out = story.run("show", "--row", row["id"]).out
    assert "not up to date: rows" in out


@pytest.mark.parametrize(("args", "says"), [
    (["--row", "zzzz"], "no row has an id that begins with 'zzzz'"),
    (["tset", "--row", "zzzz"], "did you mean 'test'?"),
    (["test", "--row", "zzzz", "--html"], "has no HTML page"),
])  # fmt: skip
def test_a_call_that_cannot_be_answered_is_an_error_with_a_fix(
    story: Project, args: list[str], says: str
) -> None:
    code, _, err = story.run("show", *args)
    assert code == 2
    assert says in err
    assert "fix:" in err
    assert "Traceback" not in err


def test_a_third_party_says_where_its_rows_are_from(project: MakeProject) -> None:
    recipe = """\
finery: 1
name: t
plugins: [./s.py]
data:
  far: {use: s.elsewhere, table: orders}
  loud: {use: data.map, rows: far, user: "{{ user | upper }}"}
"""
    made = project({"recipe.yaml": recipe, "s.py": STEPS})
    assert made.run("build").code == 0
    row = made.rows("loud")[5]
    assert "orders, key 5" in made.run("show", "--row", row["id"]).out
    made.edit("recipe.yaml", "orders", "gone")
    assert made.run("build").code == 0
    ran = made.run("show", "--row", row["id"])
    assert ran.code == 0
    assert "far can't find where rows were read: no such table" in ran.out


def test_rows_that_were_dropped_as_its_copies_are_told(project: MakeProject) -> None:
    recipe = RECIPE.replace("  split:", "  clean: {use: data.dedup, rows: loud}\n  split:")
    made = project({**FILES, "recipe.yaml": recipe, "rows.jsonl": "\n".join(
        [*LINES, LINES[0].replace("for sale?", "for sale!!")]) + "\n"})  # fmt: skip
    assert made.run("build").code == 0
    (dropped,) = lines_of(made, "clean", "dropped.jsonl")
    first = made.rows("loud")[0]
    (near,) = told(made, "--row", first["id"])["near"]
    assert (near["id"], near["step"], near["reason"]) == (dropped["id"], "clean", "duplicate")
    out = made.run("show", "--row", first["id"]).out
    assert f"clean dropped {dropped['id']}  repeats the row {first['id']}" in out


def test_markup_in_rows_is_shown_as_it_is(project: MakeProject) -> None:
    text = "[bold]not bold[/bold] \x1b[31m [/]"
    record = json.dumps({"prompt": text, "completion": "[red]x[/red]"})
    made = project({**FILES, "rows.jsonl": "\n".join([*LINES, record]) + "\n"})
    assert made.run("build").code == 0
    row = made.rows("rows")[-1]
    out = made.run("show", "--row", row["id"]).out
    assert "[bold]not bold[/bold]" in out
    assert "\x1b[31m" not in out
