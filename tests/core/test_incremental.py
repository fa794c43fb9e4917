"""What a second build redoes: only what a change really reaches. Through the real command."""

import json
import os

import pytest
from conftest import MakeProject, Project, until

RECIPE = """
finery: 1
name: t
seed: 3
plugins: [./steps.py]
data:
  a: {use: steps.source, path: rows.txt}
  few: {use: steps.limit, rows: a, most: 50}
  b: {use: steps.copy, rows: [a, few], tag: 1}
  mixed: {use: steps.shuffle, rows: b}
  halves: {use: steps.halve, rows: mixed}
  last: {use: steps.copy, rows: halves.second}
"""
ALL = ["a", "b", "few", "halves", "last", "mixed"]
COPIES = ["b", "last"]


FILES = {"recipe.yaml": RECIPE, "rows.txt": "one\ntwo\nthree\nfour\n"}


@pytest.fixture(name="built")
def _built(built: MakeProject) -> Project:
    """A built project."""
    return built(FILES)


def test_a_moved_project_has_nothing_to_do(built: Project) -> None:
    assert built.ran() == []
    assert [r["prompt"] for r in built.rows("a")] == ["one", "two", "three", "four"]


def test_a_changed_setting_reruns_its_step_and_what_follows(built: Project) -> None:
    built.edit("recipe.yaml", "tag: 1", "tag: 2")
    assert built.ran() == ["b", "halves", "last", "mixed"]


def test_a_changed_setting_that_changes_no_output_stops_there(built: Project) -> None:
    built.edit("recipe.yaml", "most: 50", "most: 60")
    assert built.ran() == ["few"]


def test_a_setting_written_as_its_default_is_the_default(built: Project) -> None:
    built.edit("recipe.yaml", "halves.second}", "halves.second, tag: 0}")
    assert built.ran() == []


def test_a_setting_that_cannot_change_the_output_reruns_nothing(built: Project) -> None:
    built.edit("recipe.yaml", "tag: 1", "tag: 1, note: hello")
    assert built.ran() == []


def test_two_inputs_swapped_are_another_input(built: Project) -> None:
    built.edit("recipe.yaml", "[a, few]", "[few, a]")
    assert built.ran() == []  # the two have the same content here
    built.edit("recipe.yaml", "most: 50", "most: 2")
    assert "b" in built.ran()
    built.edit("recipe.yaml", "[few, a]", "[a, few]")
    assert "b" in built.ran()
    assert [r["prompt"] for r in built.rows("b")] == ["one", "two", "three", "four", "one", "two"]


def test_the_recipes_seed_reruns_only_steps_that_use_one(built: Project) -> None:
    built.edit("recipe.yaml", "seed: 3", "seed: 4")
    assert built.ran() == ["halves", "last", "mixed"]


def test_a_steps_own_seed(built: Project) -> None:
    built.edit("recipe.yaml", "{use: steps.shuffle", "{seed: 5, use: steps.shuffle")
    assert built.ran() == ["halves", "last", "mixed"]
    assert {r["seed"] for r in built.rows("mixed")} == {5}


def test_a_renamed_step_without_a_seed_is_not_rerun(built: Project) -> None:
    built.edit("recipe.yaml", "  few:", "  couple:")
    built.edit("recipe.yaml", "[a, few]", "[a, couple]")
    assert built.ran() == []
    assert (built.folder / "build/t/couple/rows-00000.jsonl").exists()


def test_a_renamed_step_with_a_seed_is_not_rerun(built: Project) -> None:
    """Its seed derives from the step type, so that two names are as good as one."""
    built.edit("recipe.yaml", "  mixed:", "  mixture:")
    built.edit("recipe.yaml", "rows: mixed", "rows: mixture")
    assert built.ran() == []


def test_steps_that_left_the_recipe_leave_no_links(built: Project) -> None:
    mine = built.folder / "build/t/notes.txt"
    mine.write_text("a person's own file")
    built.edit("recipe.yaml", "  last: {use: steps.copy, rows: halves.second}\n", "")
    built.edit("recipe.yaml", "  halves: {use: steps.halve, rows: mixed}\n", "")
    assert built.ran() == []
    assert sorted(p.name for p in mine.parent.iterdir()) == ["a", "b", "few", "mixed", "notes.txt"]


def test_build_of_one_step_leaves_the_other_links(built: Project) -> None:
    assert built.ran("--step", "a") == []
    assert sorted(p.name for p in (built.folder / "build/t").iterdir()) == ALL


def test_comments_and_layout_of_a_plugin_do_not_count(built: Project) -> None:
    built.edit("steps.py", '"""The rows in two halves."""', '"""The rows in two halves."""\n\n')
    built.edit(
        "steps.py", "middle = len(rows) // 2", "middle = (  # in the middle\n  len(rows)//2)"
    )
    assert built.ran() == []


def test_a_changed_line_of_a_plugin_reruns_its_steps_and_stops_at_equal_output(
    built: Project,
) -> None:
    # A file that runs texts counts as a whole, since a text may use any class.
    built.edit("steps.py", "exec(code, names)", '(job.out / "made").write_text(code)')
    assert built.ran() == ALL
    built.edit("steps.py", "len(rows) // 2", "int(len(rows) / 2)")
    assert built.ran() == ["halves"]  # it gives what it gave; others in the file don't reach it
    built.edit("steps.py", 'made.second = Dataset.write(job.out / "second", rows[middle:])',
               'made.second = Dataset.write(job.out / "second", rows[1:])')  # fmt: skip
    assert built.ran() == ["halves", "last"]
    assert len(built.rows("last")) == 7


def test_a_touched_file_changes_nothing(built: Project) -> None:
    os.utime(built.folder / "rows.txt")
    assert built.ran() == []


def test_same_size_and_restored_time_do_not_hide_a_change(built: Project) -> None:
    rows = built.folder / "rows.txt"
    assert built.ran() == []  # its digest is remembered now
    before = rows.stat()
    rows.write_text(rows.read_text().replace("one", "uno"))
    os.utime(rows, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert rows.stat().st_size == before.st_size
    assert built.ran() == ALL
    assert built.rows("a")[0]["prompt"] == "uno"


def test_a_change_within_the_clocks_grain_is_seen(built: Project) -> None:
    rows = built.folder / "rows.txt"
    for word in ("abc", "abd", "abe"):
        rows.write_text(word)
        assert "a" in built.ran("--step", "a")
        assert built.rows("a")[0]["prompt"] == word


def test_appended_rows_rerun_what_reads_them(built: Project) -> None:
    with (built.folder / "rows.txt").open("a") as out:
        out.write("five\nsix\n")
    assert built.ran() == ALL
    assert len(built.rows("last")) == 6


def test_two_recipes_of_a_project_share_results(built: Project) -> None:
    built.write(
        {
            "other/recipe.yaml": RECIPE.replace("name: t", "name: o")
            .replace("./steps", "../steps")
            .replace("rows.txt", "../rows.txt")
        }
    )
    assert built.ran("other/recipe.yaml") == ["a"]  # the file has another name there
    built.write({"second.yaml": RECIPE.replace("name: t", "name: second")})
    assert built.ran("second.yaml") == []
    assert built.rows("last", "second") == built.rows("last", "t")


def test_a_copy_of_a_recipe_needs_a_name_of_its_own(built: Project) -> None:
    before = built.rows("last")
    built.write({"copy.yaml": RECIPE.replace("tag: 1", "tag: 7")})
    ran = built.run("build", "copy.yaml")
    assert ran.code == 2
    line = RECIPE[: RECIPE.index("name: t")].count("\n") + 1
    assert (
        f"copy.yaml:{line}:7: error: recipe.yaml has the name 't' too, and builds into" in ran.err
    )
    assert "fix: give one of them another name, such as name: t-copy" in ran.err
    assert built.rows("last") == before
    assert built.run("build", "copy.yaml", "--set", "name=t-copy").code == 0


def test_set_builds_another_variant_and_back(built: Project) -> None:
    assert built.ran("--set", "data.b.tag=9") == ["b", "halves", "last", "mixed"]
    assert built.rows("b")[0]["tag"] == 9
    assert built.ran() == []
    assert built.rows("b")[0]["tag"] == 1


MODELS = """
models: {base: {use: steps.outside, path: weights}}
train: {adapter: {use: steps.adapter, model: base}}
"""


def test_what_refers_to_an_outside_file_is_not_redone_when_that_is_touched_or_moved(
    built: Project,
) -> None:
    built.write({"recipe.yaml": RECIPE + MODELS, "weights": "w"})
    assert built.ran() == ["adapter", "base"]
    os.utime(built.folder / "weights")
    assert built.ran() == ["base"]
    assert built.run("plan").out.endswith("8 steps: 8 cached\n")
    assert built.ran() == []
    (built.folder / "weights").rename(built.folder / "elsewhere")
    built.edit("recipe.yaml", "path: weights", "path: elsewhere")
    assert built.ran() == ["base"]
    assert built.ran() == []
    assert (built.folder / "build/t/base/weights").read_text() == "w"


WAITING = """
  early: {use: steps.alone, code: "rows.append({'prompt': 'early'})"}
  wait:
    use: steps.script
    rows: early
    code: |
      import time; Path('go').touch()
      while not Path('edited').exists(): time.sleep(.01)
  late: {use: steps.alone, rows: wait, code: "rows.append({'prompt': 'old'})"}
"""


def test_code_edited_during_a_build_is_not_run_under_the_old_key(built: Project) -> None:
    old, new = 'names["rows"]', '[{"prompt": "new"}]'
    built.write({"recipe.yaml": RECIPE + WAITING})
    process = built.start("build")
    until(lambda: (built.folder / "go").exists())
    built.edit("steps.py", old, new)
    (built.folder / "edited").touch()
    assert "its code changed since the build began: steps.py" in process.communicate(timeout=120)[1]
    built.edit("steps.py", new, old)
    assert built.ran("--step", "late") == ["late", "wait"]  # which ran while its code changed
    assert built.rows("late")[0]["prompt"] == "old"


def test_explain_and_plan_name_the_function_that_changed(built: Project) -> None:
    built.edit("steps.py", "len(rows) // 2", "int(len(rows) / 2)")
    assert "code steps.py: Halve changed" in built.run("plan").out
    explained = built.run("explain", "halves").out
    assert "code steps.py" in explained
    assert "Halve changed" in explained
    built.edit("steps.py", "def execute(", "TURNS = 3\n\n\ndef execute(")
    built.edit("steps.py", "int(len(rows) / 2)", "int(len(rows) / 2) + TURNS - 3")
    lines = [json.loads(x) for x in built.run("explain", "halves", "--json").out.splitlines()]
    line = next(line for line in lines if line["part"] == "code steps.py")
    assert line["names"] == {"changed": ["Halve"], "new": ["TURNS"], "gone": []}
    assert "Halve changed, TURNS new" in built.run("explain", "halves").out
