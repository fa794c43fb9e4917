"""review.apply, by itself and in real builds: what is reviewed rebuilds only what follows."""

from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject, Project
from reviewing import RECIPE, chat, decisions, files_of, pair, reviewing

from finery import DataError, Dataset, Files
from finery.rows import Row
from finery.rows.dropped import read_dropped
from finery.testing import TestJob, dataset
from finery_review.apply import Apply
from finery_review.decisions import Decision, as_line, prompt_hash

ROWS = [chat(f"question {n}", f"answer {n}", label="x") for n in range(6)]


def line(row: Row, do: str, **more: Any) -> bytes:
    return as_line(Decision(id=row["id"], do=do, **more))  # type: ignore[arg-type]


def run(
    folder: Path, rows: list[Row], lines: list[bytes], undecided: Any = "keep"
) -> tuple[Dataset, list[str]]:
    """(what the step makes, what it logs)."""
    file = folder / "reviews.jsonl"
    if lines:
        file.write_bytes(b"".join(lines))
    given = dataset(folder / "in", rows)
    given.ref = "candidates"
    reviews = Files(["reviews/candidates.jsonl"], [file] if lines else [])
    step, job = Apply(rows=given, reviews=reviews, undecided=undecided), TestJob(folder / "job")
    return step.run(job), [e["message"] for e in job.events if e["event"] == "log"]


def test_decisions_are_applied_and_rejections_reported(tmp_path: Path) -> None:
    rows = [*ROWS[:4], pair(1)]
    lines = [
        line(rows[0], "accept"),
        line(rows[1], "reject", by="Ann", reason="too vague"),
        line(rows[2], "edit", set={"label": "y"}),
        line(rows[4], "swap"),
    ]
    made, log = run(tmp_path, rows, lines)
    kept = list(made)
    assert kept[0] == rows[0]
    assert kept[2] == rows[3]
    assert (kept[1]["label"], kept[1]["parents"]) == ("y", [rows[2]["id"]])
    assert (kept[3]["chosen"], kept[3]["parents"]) == ("bad 1", [rows[4]["id"]])
    gone = list(read_dropped(made))
    assert [(d["id"], d["reason"], d["detail"]) for d in gone] == [
        (rows[1]["id"], "rejected", "by Ann: too vague")
    ]
    assert made.meta["dropped"] == {"rejected": 1}
    assert log[0] == "rows: 1 accepted, 1 rejected, 1 edited, 1 swapped, 1 undecided (keep)"


def test_labels_that_contradict_each_other_are_looked_for_after_decisions(tmp_path: Path) -> None:
    rows = [chat(f"where is parcel {n}", "shipping") for n in (1, 1, 2, 3)]
    rows[1] = chat("where is parcel 1", "billing")
    still, _ = run(tmp_path / "still", rows, [])
    assert still.meta["findings"] == {"label-conflict": 1}
    gone, _ = run(tmp_path, rows, [line(rows[1], "reject")])
    assert gone.meta["findings"] == {}


def test_undecided_rows_stay_go_or_stop(tmp_path: Path) -> None:
    lines = [line(ROWS[0], "accept"), line(ROWS[1], "note", reason="hm"), line(ROWS[2], "undo")]
    assert len(run(tmp_path / "a", ROWS, lines)[0]) == 6
    made, _ = run(tmp_path / "b", ROWS, lines, "drop")
    assert list(made) == [ROWS[0]]
    assert made.meta["dropped"] == {"undecided": 5}
    with pytest.raises(DataError) as caught:
        run(tmp_path / "c", [*ROWS, chat("one", "more")], lines, "stop")
    assert caught.value.what == "6 of 7 rows are undecided"
    assert caught.value.details[0] == f"row 2 (id {ROWS[1]['id']})"
    assert caught.value.details[-1] == "… and 1 more"
    assert "finery review candidates" in str(caught.value.fix)
    assert len(run(tmp_path / "d", ROWS[:1], lines, "stop")[0]) == 1


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).mkdir()


def test_a_decision_on_a_row_that_changed_does_not_count_and_is_told(tmp_path: Path) -> None:
    old = ROWS[0]
    new = chat("question 0", "another answer")
    lines = [line(old, "reject", prompt=prompt_hash(old)), line(ROWS[1], "reject")]
    made, log = run(tmp_path, [new, *ROWS[1:]], lines)
    assert new in list(made)
    assert "1 of these have changed since their decision" in log[0]
    assert "1 decision is on a row that no longer exists" in log[0]
    with pytest.raises(DataError) as caught:
        run(tmp_path / "a", [new], lines, "stop")
    assert "changed since" in caught.value.details[0]
    made, _ = run(tmp_path / "b", [new, ROWS[2]], [*lines, line(ROWS[2], "accept")], "drop")
    assert [d["detail"] for d in read_dropped(made)] == ["has changed since its decision"]


def test_a_decision_that_does_not_fit_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no `chosen`") as caught:
        run(tmp_path, ROWS, [line(ROWS[1], "swap")])
    assert caught.value.where == f"row 2 (id {ROWS[1]['id']})"


# -- builds ---------------------------------------------------------------------------------------


FOLLOWS = """\
  limited: {use: data.filter, rows: reviewed, max_characters: {user: 900}}
"""


@pytest.fixture
def made(built: MakeProject) -> Project:
    return built(files_of(ROWS, RECIPE + FOLLOWS))


def decide(project: Project, *lines: bytes) -> None:
    (project.folder / "reviews").mkdir(exist_ok=True)
    with (project.folder / "reviews/rows.jsonl").open("ab") as out:
        out.writelines(lines)


def test_reviewing_more_rows_rebuilds_only_what_follows(made: Project) -> None:
    assert made.ran() == []
    assert "nothing to do" in made.run("build").err  # and there is a stamp
    decide(made, line(ROWS[0], "accept"))  # the file comes
    assert made.ran() == ["reviewed"]  # it is redone with the same result: that's all
    decide(made, line(ROWS[1], "reject"))
    assert made.ran() == ["limited", "reviewed"]
    assert len(made.rows("limited")) == 5
    decide(made, line(ROWS[2], "accept"), line(ROWS[3], "note", reason="look again"))
    assert made.ran() == ["reviewed"]
    decide(made, line(ROWS[1], "undo"))
    assert made.ran() == ["reviewed"]  # as at the beginning: what follows is there
    assert len(made.rows("limited")) == 6
    (made.folder / "reviews/rows.jsonl").unlink()
    assert made.ran() == []  # and this, too, was built


def test_a_file_that_is_not_there_is_a_note_with_the_likely_name(made: Project) -> None:
    found = made.run("check")
    assert found.code == 0
    assert "reviews/rows.jsonl doesn't exist yet" in found.out + found.err
    assert "fix: finery review rows" in found.out + found.err
    decide(made, line(ROWS[0], "accept"))
    assert "there is no" not in made.run("check").out
    made.edit("recipe.yaml", "reviews/rows.jsonl", "reviews/row.jsonl")
    found = made.run("check")
    assert "did you mean rows.jsonl?" in found.out + found.err


def test_a_finished_merge_that_was_not_is_an_error_with_its_line(made: Project) -> None:
    decide(made, b"<<<<<<< HEAD\n", line(ROWS[0], "accept"), b"=======\n")
    found = made.run("build")
    assert found.code == 2
    assert "reviews/rows.jsonl:1" in found.err
    assert "a git merge wasn't finished here" in found.err


# -- the command, without a page ------------------------------------------------------------------


def test_the_status_counts(made: Project) -> None:
    decide(made, line(ROWS[0], "accept"), line(ROWS[1], "reject"), line(pair(1), "accept"))
    found = made.run("review", "rows", "--status")
    assert found.out.startswith("2 of 6 rows decided: 1 accepted, 1 rejected; 4 undecided\n")
    assert "1 decision is on a row that no longer exists" in found.out
    assert made.run("review", "reviewed", "--status").out == found.out
    told = made.run("review", "rows", "--status", "--json").out
    assert '"rows":6,"decided":2,' in told


OTHERS = """\
  halves: {use: light.halve, rows: rows}
evaluate:
  score: {use: light.score, rows: rows}
"""


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["row"], "did you mean 'rows'?"),
        (["halves.frst"], "did you mean 'first'?"),
        (["rows", "--json"], "--status --json"),
    ],
)
def test_a_wrong_call_is_an_error_with_a_fix(
    built: MakeProject, args: list[str], says: str
) -> None:
    recipe = RECIPE.replace("[./steps.py]", "[./steps.py, ./light.py]") + OTHERS
    light = Path(__file__).parent.parent.joinpath("light_steps.py").read_text("utf-8")
    files = files_of(ROWS, recipe) | {"light.py": light.replace('"steps.', '"light.')}
    found = built(files)
    found.edit("recipe.yaml", "evaluate:", "  unbuilt: {use: light.limit, rows: rows}\nevaluate:")
    ran = found.run("review", *args)
    assert ran.code == 2, ran
    assert says in ran.err
    assert "Traceback" not in ran.err


def test_decisions_made_on_the_page_are_applied(made: Project) -> None:
    with reviewing(made, "reviewed", "--reviewer", "Ann") as review:
        assert review.decide(0, "reject", reason="no").status == 200
        assert review.decide(1, "edit", columns={"label": "y"}).status == 200
        code, out, err = review.end()
    assert (code, err) == (0, "")
    assert "2 of 6 rows decided (2 now): 1 rejected, 1 edited; 4 undecided" in out
    assert "finery build" in out
    assert [d["do"] for d in decisions(made)] == ["reject", "edit"]
    assert made.ran() == ["limited", "reviewed"]
    assert [r.get("label") for r in made.rows("limited")] == ["y", *"xxxx"]
