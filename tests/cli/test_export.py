"""`finery export`: an output as plain files, to hand to someone else."""

import json
import os
from pathlib import Path

import pytest
from conftest import MakeProject, Project

RECIPE = """\
finery: 1
plugins: [steps.py]
name: t
data:
  lines: {use: steps.source, path: lines.txt}
  halves: {use: steps.halve, rows: lines}
models:
  base: {use: steps.outside, path: weights.txt}
train:
  adapter: {use: steps.adapter, model: base}
"""
FILES = {"recipe.yaml": RECIPE, "lines.txt": "x\ny\n", "weights.txt": "some words"}


@pytest.fixture
def made(built: MakeProject) -> Project:
    """A project that is built."""
    return built(FILES)


def below(folder: Path) -> dict[str, str]:
    """The files in a folder, none of which may be a link."""
    files = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert all(os.access(path, os.W_OK) and path.stat().st_mode & 0o200 for path in files)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_an_output_is_copied_as_plain_files(made: Project) -> None:
    ran = made.run("export", "lines", "copies/lines")
    assert (ran.code, ran.out) == (0, "lines: 1 file, 78 B, in copies/lines\n"), ran
    stored = made.folder / "build" / "t" / "lines" / "rows-00000.jsonl"
    copy = made.folder / "copies" / "lines"
    assert below(copy) == {"rows-00000.jsonl": stored.read_text()}
    (copy / "rows-00000.jsonl").write_text("mine")
    assert made.ran() == []  # the copy shares nothing with the store
    assert [path.name for path in copy.parent.iterdir()] == ["lines"]


def test_several_outputs_get_a_folder_each_and_one_can_be_named(made: Project) -> None:
    made.run("export", "halves", "all")
    assert [*below(made.folder / "all")] == ["first/rows-00000.jsonl", "second/rows-00000.jsonl"]
    line = json.loads(made.run("export", "halves.second", "one", "--json").out)
    assert (line["name"], line["files"]) == ("halves.second", 1)
    assert [*below(made.folder / "one")] == ["rows-00000.jsonl"]


def test_files_outside_and_bases_are_copied_on_request(made: Project) -> None:
    made.run("export", "base", "base")
    assert below(made.folder / "base") == {"weights": "some words"}
    made.run("export", "adapter", "alone")
    assert below(made.folder / "alone") == {"adapter": "SOME WORDS"}
    made.run("export", "adapter", "whole", "--with-base")
    files = {"adapter": "SOME WORDS", "base/weights": "some words"}
    assert below(made.folder / "whole") == files


def test_what_is_there_is_replaced_only_by_force(made: Project) -> None:
    made.write({"out/mine.txt": "mine", "out/rows-00000.jsonl": "old"})
    refused = made.run("export", "lines", "out")
    assert refused.code == 2
    assert "the folder isn't empty" in refused.err
    assert "--force" in refused.err
    assert below(made.folder / "out") == {"mine.txt": "mine", "rows-00000.jsonl": "old"}
    assert made.run("export", "lines", "out", "--force").code == 0
    assert [*below(made.folder / "out")] == ["mine.txt", "rows-00000.jsonl"]
    assert below(made.folder / "out")["rows-00000.jsonl"] != "old"
    assert not list(made.folder.rglob(".*.partial"))


@pytest.mark.parametrize(("target", "says"), [
    ("build/t/lines", "belongs to finery's store"),
    (".finery/out", "belongs to finery's store"),
    ("lines.txt", "is a file"),
    ("lines.txt/out", "can't be copied: Not a directory"),
])  # fmt: skip
def test_where_no_copy_may_be(made: Project, target: str, says: str) -> None:
    ran = made.run("export", "lines", target, "--force")
    assert ran.code == 2
    assert says in ran.err
    assert made.ran() == []


def test_a_copy_does_not_follow_links_in_its_target(made: Project) -> None:
    (made.folder / "out").mkdir()
    (made.folder / "elsewhere").mkdir()
    (made.folder / "out" / "first").symlink_to(made.folder / "elsewhere")
    ran = made.run("export", "halves", "out", "--force")
    assert ran.code == 2
    assert "a file or a link is in the way" in ran.err
    assert list((made.folder / "elsewhere").iterdir()) == []
