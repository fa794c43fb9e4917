"""Which word of a command line names the recipe, and which a step."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import FINERY, LIGHT_STEPS, TWO_STEPS, Project


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built project, with another recipe in the folder `ext`."""
    made = Project(tmp_path_factory.mktemp("template"))
    (made.folder / ".git").mkdir()
    mine, other = TWO_STEPS, TWO_STEPS.replace("name: t", "name: other")
    other = other.replace("./", "../").replace("rows.txt", "../rows.txt").replace("b:", "sft:")
    made.write({
        "recipe.yaml": mine, "rows.txt": "one\n", "ext/recipe.yaml": other,
        "more.yaml": mine.replace("name: t", "name: more").replace("tag: 1", "tag: 7"),
        "steps.py": LIGHT_STEPS.read_text(encoding="utf-8"),
    })  # fmt: skip
    made.ran()
    assert made.run("build", "ext").code == 0
    return made.folder


@pytest.fixture
def t(template: Path, tmp_path: Path) -> Project:
    """A copy of the built project."""
    shutil.copytree(template, tmp_path / "built", symlinks=True)
    return Project(tmp_path / "built")


@pytest.mark.parametrize("args", [
    ["ext", "sft"], ["sft", "ext"], ["ext/", "sft"], ["sft", "ext/recipe.yaml"],
    ["-r", "ext", "sft"], ["sft", "-r", "ext/recipe.yaml"],
])  # fmt: skip
def test_recipe_and_step_come_in_either_order(t: Project, args: list[str]) -> None:
    assert "sft (steps.copy) is up to date" in t.run("explain", *args).out
    assert t.run("show", *args).out.startswith("sft  Dataset")
    assert t.run("plan", *args).out.endswith("2 steps: 2 cached\n")
    assert t.run("review", "--status", *args).out == "0 of 1 rows decided; 1 undecided\n"
    ran = t.run("build", *args)
    assert (ran.code, ran.out) == (0, "")


def test_without_a_recipe_words_are_steps_of_the_one_here(t: Project) -> None:
    assert t.run("show", "b").out.startswith("b  Dataset")
    assert "b (steps.copy) is up to date" in t.run("explain", "b").out
    t.write({"rows.txt": "two\n"})
    events = t.events("a")
    assert [e["step"] for e in events if e["event"] == "step_finished"] == ["a"]
    t.write({"rows.txt": "three\n"})
    assert "only a and what it needs (--step a)\n" in t.run("build", "a").err


def test_a_folder_named_like_a_step_is_the_recipe_and_finery_says_so(t: Project) -> None:
    (t.folder / "ext").rename(t.folder / "b")
    ran = t.run("plan", "b", "--json")
    assert [json.loads(line)["step"] for line in ran.out.splitlines()] == ["a", "sft"]
    assert ran.err == (
        "note: 'b' is read as the recipe b/recipe.yaml; for the step of that name: "
        "finery plan -r recipe.yaml b\n"
    )
    assert t.run("show", "-r", "recipe.yaml", "b").out.startswith("b  Dataset")
    assert t.run("show", "sft", "b").out.startswith("sft  Dataset")
    assert t.run("show", "./b", "sft").err == ""


@pytest.mark.parametrize(("args", "says"), [
    (["show", "./ext", "more.yaml"], "two recipes are named: ./ext and more.yaml"),
    (["show", "ext", "a", "b"], "show takes one step, not 2: a, b"),
    (["explain", "ext"], "explain needs STEP\n  fix: finery explain ext/recipe.yaml STEP"),
    (["check", "ext", "sft"], "'sft' is not a recipe, and check takes no step"),
    (["check", "nowhere"], "there is no recipe 'nowhere'"),
    (["build", "ext", "stf"], "ext/recipe.yaml has no step 'stf'\n  fix: did you mean 'sft'?"),
])  # fmt: skip
def test_what_names_nothing_is_an_error(t: Project, args: list[str], says: str) -> None:
    ran = t.run(*args)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


def test_a_missing_recipe_names_the_only_other_one_or_one_above(t: Project) -> None:
    t.write({"other/mine.yaml": TWO_STEPS, "other/data.yaml": "a: 1\n", "ext/deep/rows.txt": ""})
    here = Project(t.folder / "other")
    assert "fix: name mine.yaml, or create one: finery init DIR" in here.here("build").err
    assert "fix: name the recipe: finery show mine.yaml b" in here.here("show", "b").err
    above = t.folder / "ext/recipe.yaml"
    assert f"name {above}, or create" in Project(t.folder / "ext/deep").here("plan").err


def completed(t: Project, line: str) -> list[str]:
    """What a bash completes at the end of a line."""
    words = line.split(" ")
    env = {
        **t.environment(), "_FINERY_COMPLETE": "bash_complete", "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    out = subprocess.run([FINERY], cwd=t.folder, env=env, capture_output=True, text=True)
    assert out.stderr == ""
    return [entry.partition(",")[2] for entry in out.stdout.splitlines() if entry]


@pytest.mark.parametrize(("line", "words"), [
    ("finery show ", ["ext", "more.yaml", "recipe.yaml", "a", "b"]),
    ("finery show ext ", ["a", "sft"]),
    ("finery build -r ext --step s", ["sft"]),
    ("finery plugins data.spl", ["data.split"]),
    ("finery exp", ["explain"]),
])  # fmt: skip
def test_a_shell_completes_recipes_steps_and_types(t: Project, line: str, words: list[str]) -> None:
    assert completed(t, line)[: len(words)] == words
    (t.folder / "ext/recipe.yaml").write_bytes(b"\xff: [")
    assert completed(t, "finery show ext ") == [], "a broken recipe has no steps"


def test_what_is_printed_to_be_pasted_names_the_recipe(t: Project) -> None:
    shutil.copytree(t.folder / "ext", t.folder / "a b")
    error = t.run("show", "a b", "--html").err
    assert "fix: finery show 'a b/recipe.yaml' STEP --html\n" in error
    assert "fix: finery show STEP --html\n" in t.run("show", "--html").err
    t.edit("ext/recipe.yaml", "tag: 1", "tag: 2")
    assert "(see `finery plan ext/recipe.yaml`)" in t.run("show", "ext", "sft").err
