"""Files outside the store: which ones a setting names, and what they are called in keys."""

from pathlib import Path

import pytest

from finery.errors import FineryError
from finery.fields import FileOrName, Files
from finery.recipe.document import load
from finery.recipe.files import find_files


def names(tmp_path: Path, *patterns: str, kind: type[Files] = Files) -> list[str]:
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


def test_files_of_one_name_elsewhere_are_all_found(tmp_path: Path, two: Path) -> None:
    assert names(tmp_path, str(two)) == ["elsewhere/a/x.md", "elsewhere/b/x.md"]
    assert names(tmp_path, f"{two}/**/*.md") == ["elsewhere/a/x.md", "elsewhere/b/x.md"]
    assert names(tmp_path, f"{two}/a/x.md", f"{two}/b/x.md") == ["x.md", "x.md"]


def test_files_are_named_from_the_recipes_folder(tmp_path: Path, two: Path) -> None:
    assert names(tmp_path, "../elsewhere/a") == ["../elsewhere/a/x.md"]
    (tmp_path / "project" / "d").mkdir()
    (tmp_path / "project" / "d" / "y.md").write_text("y")
    assert names(tmp_path, "d", "d/y.md", "./d/*.md") == ["d/y.md"]


def test_a_file_or_a_name(tmp_path: Path) -> None:
    assert names(tmp_path, "llama3_1", kind=FileOrName) == []
    (tmp_path / "project" / "own").write_text("a")
    assert names(tmp_path, "own", kind=FileOrName) == ["own"]
    for missing in ("own.jinja", "./other", "a/b"):
        with pytest.raises(FineryError, match="there is no file"):
            names(tmp_path, missing, kind=FileOrName)
    given = FileOrName(["own"], [tmp_path / "project" / "own"])
    assert (given.name, given.path.name) == ("", "own")
    assert FileOrName(["llama3_1"]).name == "llama3_1"
