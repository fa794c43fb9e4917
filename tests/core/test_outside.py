"""Files outside the store: which ones a setting names, and what they are called in keys."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import MakeProject
from hypothesis import given
from hypothesis import strategies as st
from in_process import build

from finery import Dataset, Job, Step, setting
from finery.errors import FineryError
from finery.fields import File, Files
from finery.recipe.document import load
from finery.recipe.files import find_files
from finery.step.inspect import files_of


def names(tmp_path: Path, *patterns: str, kind: Callable[..., Files] = Files) -> list[str]:
    recipe = tmp_path / "project" / "recipe.yaml"
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text("finery: 1\nname: t\n")
    return [name for name, _ in find_files(load(recipe), (), kind(patterns))]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder elsewhere with two files of one name."""
    for name in ("a", "b"):
        path = tmp_path / "elsewhere" / name / "x.md"
        path.parent.mkdir(parents=True)
        path.write_text(name)
    return tmp_path / "elsewhere"


def test_brackets_in_the_path_of_the_recipe_are_no_pattern(tmp_path: Path) -> None:
    top = tmp_path / "bot [v2]"
    (top / "project/rows/more").mkdir(parents=True)
    for name in ("rows/a.txt", "rows/more/b.txt"):
        (top / "project" / name).write_text(name)
    assert names(top, "rows/*.txt") == ["rows/a.txt"]
    assert names(top, "**/*.txt") == ["rows/a.txt", "rows/more/b.txt"]
    assert names(top, f"{tmp_path}/bot*/project/rows/*.txt") == ["rows/a.txt"]


def test_a_file_in_the_recipes_folder_keeps_a_name_that_one_elsewhere_has(
    tmp_path: Path, two: Path
) -> None:
    (tmp_path / "project" / "a").mkdir(parents=True)
    for name in ("x.md", "a/x.md"):
        (tmp_path / "project" / name).write_text("here")
    elsewhere = f"{two}/a/x.md"
    assert names(tmp_path, elsewhere, "x.md") == ["a/x.md", "x.md"]
    assert names(tmp_path, elsewhere, "x.md", "a/x.md") == ["elsewhere/a/x.md", "x.md", "a/x.md"]
    assert names(tmp_path, elsewhere, f"{two}/b") == ["x.md", "b/x.md"]


def test_a_pattern_does_not_find_the_outputs_of_earlier_builds(project: MakeProject) -> None:
    recipe = """\
finery: 1
name: t
plugins: [steps.py]
data:
  a: {use: steps.source, path: "**/*.jsonl"}
"""
    t = project({"recipe.yaml": recipe, "data/build/x.jsonl": "one\n"})
    store = build(t.folder / "recipe.yaml").store
    assert (t.folder / "build/t/a/rows-00000.jsonl").is_file()
    again = build(t.folder / "recipe.yaml")
    assert again.outcome.ran == []
    found = load(t.folder / "recipe.yaml")
    assert [n for n, _ in find_files(found, (), Files(["**/*.jsonl"]))] == ["data/build/x.jsonl"]
    named = [name for name, _ in find_files(found, (), Files(["build/t/a/*.jsonl"]))]
    assert named == ["build/t/a/rows-00000.jsonl"]
    for each in (store, again.store):
        each.close()


FOLDERS = st.lists(st.sampled_from("ab"), max_size=3).map("/".join)
PLACES = st.lists(st.tuples(st.sampled_from(["project", "other"]), FOLDERS), min_size=1, max_size=8)


@given(places=PLACES, whole=st.booleans())
def test_each_file_has_a_name_of_its_own(places: list[tuple[str, str]], whole: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        paths = list(dict.fromkeys(top / place / within / "x" for place, within in places))
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (top / "project").mkdir(exist_ok=True)
        (top / "project/recipe.yaml").write_text("finery: 1\nname: t\n")
        patterns = [str(path.parent if whole else path) for path in paths]
        files = find_files(load(top / "project/recipe.yaml"), (), Files(patterns))
    assert {path for _, path in files} >= set(paths)
    assert len({name for name, _ in files}) == len(files)
    for name, path in files:
        assert path.parts[-len(Path(name).parts) :] == Path(name).parts
        if path.is_relative_to(top / "project"):
            assert name == path.relative_to(top / "project").as_posix()


def test_an_edit_of_one_of_two_files_of_one_name_reruns_the_step(
    project: MakeProject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    files = [outside / year / "rows.txt" for year in ("2024", "2025")]
    for file in files:
        file.parent.mkdir()
        file.write_text("same\n")
    source = f"{{use: steps.source, path: [{files[0]}, {files[1]}]}}"
    t = project({"recipe.yaml": f"finery: 1\nname: t\nplugins: [steps.py]\ndata: {{a: {source}}}"})
    assert t.ran() == ["a"]
    for file, prompts in zip(files, (["one", "same"], ["one", "two"]), strict=True):
        file.write_text(f"{prompts[files.index(file)]}\n")
        assert t.ran() == ["a"]
        assert [row["prompt"] for row in t.rows("a")] == prompts
    assert t.ran() == []
    explained = t.run("explain", "a", "--all").out
    assert "file path 2024/rows.txt" in explained
    assert "file path 2025/rows.txt" in explained


def test_files_are_named_from_the_recipes_folder(tmp_path: Path, two: Path) -> None:
    assert names(tmp_path, "../elsewhere/a") == ["../elsewhere/a/x.md"]
    (tmp_path / "project" / "d").mkdir()
    (tmp_path / "project" / "d" / "y.md").write_text("y")
    assert names(tmp_path, "d", "d/y.md", "./d/*.md") == ["d/y.md"]


def test_a_file_or_a_name(tmp_path: Path) -> None:
    kind = partial(File, may_be="name")
    assert names(tmp_path, "llama3_1", kind=kind) == []
    (tmp_path / "project" / "own").write_text("a")
    assert names(tmp_path, "own", kind=kind) == ["own"]
    for missing in ("own.jinja", "./other", "a/b"):
        with pytest.raises(FineryError, match="there is no file"):
            names(tmp_path, missing, kind=kind)
    given = File(["own"], [tmp_path / "project" / "own"])
    assert (given.name, given.path.name) == ("", "own")
    assert File(["llama3_1"]).name == "llama3_1"
    assert File(["./llama3_1"]).name == ""


class Reads(Step):
    """A step with files of each kind."""

    must: Files = setting("a.txt", help="Must exist.")
    may: Files = setting("b.txt", may_be="missing", help="May be missing.")
    one: File = setting("c", may_be="name", help="A file or a name.")

    def run(self, job: Job) -> Dataset:
        """Do nothing."""
        raise NotImplementedError


def test_a_setting_says_what_its_files_may_be(tmp_path: Path) -> None:
    step = Reads(must=Files(["a.txt"]), may=Files(["b.txt"]), one=File(["c"]))
    assert {name: files.may_be for name, files in files_of(step).items()} == {
        "must": "", "may": "missing", "one": "name",
    }  # fmt: skip
    assert names(tmp_path, "b.txt", kind=partial(Files, may_be="missing")) == []
    for kind in (Files, File):
        with pytest.raises(FineryError, match="there is no file"):
            names(tmp_path, "llama3_1", kind=kind)


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("OneFile", "`File`"),
        ("OptionalFiles", '`Files`, and `setting(may_be="missing")`'),
        ("FileOrName", '`File`, and `setting(may_be="name")`'),
    ],
)
def test_an_old_name_is_an_error_that_names_the_new_form(name: str, new: str) -> None:
    with pytest.raises(ImportError) as error:
        exec(f"from finery import {name}", {})
    assert str(error.value) == f"finery.{name} no longer exists: write {new}"
