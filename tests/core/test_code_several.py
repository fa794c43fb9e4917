"""Files with several step types: the others count out, unless code may find them."""

import os
from pathlib import Path

import pytest

from finery.builder.code.closure import Closure
from finery.builder.code.imports import Module, Parsed
from finery.builder.code.index import CodeIndex
from finery.builder.code.parse import parse_file
from finery.plugin.discovery import _LEFT_OUT, leave_out, load_file, load_source
from finery.step.inspect import FILE_MODULE

HEAD = """\
'''Some steps.'''
from finery import Dataset, Job, Step, hookimpl, setting, takes
from typing import Literal
LIMIT = 3
"""
MINE = """\
class Mine(Step):
    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, [])
"""
OTHER = """\
class Other(Step, seeded=False, packages=("blake3",)):
    '''Another step, unlike Mine.'''
    rows: Dataset = takes(uses_name=True)
    mode: Literal["a", "b"] | None = setting("a", help="How.")
    most: int = LIMIT
    def run(self, job: Job, most: int = 3) -> Dataset:
        return self.rows
    @property
    def label(self) -> str:
        return "x"
"""
TABLE = """\
@hookimpl
def finery_steps():
    return {"t.mine": Mine, "t.other": Other}
"""


def closure(folder: Path, *sources: str, name: str = "steps") -> Closure:
    path = folder / f"{name}.py"
    path.write_text("".join(sources), encoding="utf-8")
    module = load_source(path, f"{FILE_MODULE}{name}_{len(os.listdir(folder))}_{id(sources)}")
    return Closure(CodeIndex([str(folder)], None), [(module.Mine, module)])


def code(folder: Path, *sources: str) -> dict[str, str]:
    """The code of a plugin file, which doesn't run here, for a step type elsewhere."""
    path = folder / "steps.py"
    path.write_text("".join(sources), encoding="utf-8")
    file = Module(f"{FILE_MODULE}steps", str(path))
    return Closure(CodeIndex([str(folder)], None), [(file, None)]).code


def parsed(folder: Path, *sources: str) -> Parsed:
    return parse_file(folder / "steps.py", "".join([HEAD, *sources, TABLE]).encode())


def left_out(closure: Closure) -> list[str]:
    return [name for names in closure.left_out.values() for name in names]


def test_another_step_type_of_the_file_counts_out(tmp_path: Path) -> None:
    first = closure(tmp_path, HEAD, MINE, OTHER, TABLE)
    assert left_out(first) == ["Other"]
    more = "class More(Step):\n    def run(self, job: Job) -> Dataset:\n        pass\n"
    table = TABLE.replace("}", ', "t.more": More}')
    for sources in (
        (HEAD, MINE, OTHER.replace("return self.rows", "return None"), TABLE),
        (HEAD, MINE, OTHER, more, table),
        (HEAD, OTHER, MINE, TABLE.replace('"t.other"', '"t.another"')),
    ):
        assert closure(tmp_path, *sources).code == first.code
    for sources in (
        (HEAD.replace("3", "4"), MINE, OTHER, TABLE),
        (HEAD, MINE.replace("[]", "[1]"), OTHER, TABLE),
        (HEAD, MINE, OTHER, TABLE.replace('"t.mine"', '"t.my"')),
    ):
        assert closure(tmp_path, *sources).code != first.code


def test_a_worker_does_not_define_what_counts_out(tmp_path: Path) -> None:
    made = closure(tmp_path, HEAD, MINE, OTHER, TABLE)
    link = tmp_path / "link.py"
    link.symlink_to(tmp_path / "steps.py")
    leave_out(made.left_out)
    try:
        plugin = load_file(tmp_path / "steps.py")
        imported = load_source(link, "link_to_steps")
    finally:
        _LEFT_OUT.clear()
    assert not hasattr(plugin.module, "Other")
    assert [*plugin.module.finery_steps()] == ["t.mine"]
    assert not hasattr(imported, "Other")
    line = MINE.count("\n", 0, MINE.index("def run")) + HEAD.count("\n") + 1
    assert plugin.module.Mine.run.__code__.co_firstlineno == line


@pytest.mark.parametrize(
    "mention",
    [
        "x = Other\n",
        "def f():\n    return Other.run\n",
        "def f(x: 'Other'):\n    pass\n",
        "NAME = 'Other'\n",
        "class Third(Other):\n    pass\n",
        "def f(kind):\n    return globals()[kind]\n",
        "def f(self):\n    return Step.__subclasses__()\n",
        "def f(mod, name):\n    return getattr(mod, name)\n",
        "import inspect\n",
        "def f(name):\n    return eval(name)\n",
        "def f():\n    return [*finery_steps().values()]\n",
        "from sys import modules\n",
        "from finery.advanced import load_plugins\n",
    ],
)
def test_a_class_that_other_code_may_find_counts(tmp_path: Path, mention: str) -> None:
    assert "Other" not in left_out(closure(tmp_path, HEAD, MINE, OTHER, mention, TABLE))


def test_a_method_that_is_named_like_a_function_finds_no_class(tmp_path: Path) -> None:
    more = "import re\nA = re.compile('a')\ndef f(model):\n    model.eval()\n"
    assert left_out(closure(tmp_path, HEAD, MINE, OTHER, more, TABLE)) == ["Other"]


def test_a_class_that_an_imported_file_names_counts(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("def f(m): return m.Other\n")
    assert not left_out(closure(tmp_path, HEAD, "import neighbour\n", MINE, OTHER, TABLE))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class Other", "@str\nclass Other"),
        ("(Step, ", "(Step, object, "),
        ('packages=("blake3",)', "packages=tuple('a')"),
        ("most: int = LIMIT", "most: int = len('a')"),
        ("most: int = LIMIT", "LIMITS.a = 2"),
        ("most: int = LIMIT", "for x in (): pass"),
        ("most: int = LIMIT", "import json"),
        ("most: int = LIMIT", "class Inner: pass"),
        ("most: int = 3)", "most: int = len('a'))"),
        ("@property", "@job.property"),
        ("'''Another step, unlike Mine.'''", "print('x')"),
    ],
)
def test_a_class_that_does_more_than_exist_counts(tmp_path: Path, old: str, new: str) -> None:
    source = OTHER.replace(old, new)
    assert source != OTHER
    assert parsed(tmp_path, MINE, source).plain == ["Mine"]
    assert code(tmp_path, HEAD, MINE, source, TABLE) != code(tmp_path, HEAD, MINE, OTHER, TABLE)


@pytest.mark.parametrize(
    "first",
    [
        "from neighbour import *\n",
        "from neighbour import Step\n",
        "def f():\n    global setting\n    setting = None\n",
        "if LIMIT:\n    from neighbour import setting\n",
    ],
)
def test_names_that_may_not_be_those_of_finery_make_a_class_count(
    tmp_path: Path, first: str
) -> None:
    assert "Other" not in parsed(tmp_path, first, MINE, OTHER).plain
    edited = OTHER.replace("return self.rows", "return None")
    sources = (HEAD, first, MINE)
    assert code(tmp_path, *sources, OTHER, TABLE) != code(tmp_path, *sources, edited, TABLE)


def test_a_line_that_moves_between_definitions_counts(tmp_path: Path) -> None:
    first = closure(tmp_path, HEAD, "print(1)\n", MINE, OTHER, "print(2)\n", TABLE)
    moved = closure(tmp_path, HEAD, "print(1)\nprint(2)\n", MINE, OTHER, TABLE)
    assert left_out(first) == left_out(moved) == ["Other"]
    assert moved.code != first.code
    beyond = closure(tmp_path, HEAD, "print(1)\n", MINE, "print(2)\n", OTHER, TABLE)
    assert beyond.code == first.code


@pytest.mark.parametrize(
    "table",
    [
        'TYPES = {"t.mine": Mine, "t.other": Other}\n' + TABLE,
        TABLE.replace("return", "types =") + "    return types\n",
        TABLE.replace("return", "print(Other)\n    return"),
        TABLE.replace("return", "if LIMIT:\n        return {'t.my': Other}\n    return"),
        TABLE.replace("Other}", "str and Other}"),
        TABLE.replace("Other}", "'steps:Other'}"),
    ],
)
def test_a_class_that_more_than_a_table_names_counts(tmp_path: Path, table: str) -> None:
    edited = OTHER.replace("return self.rows", "return None")
    first = closure(tmp_path, HEAD, MINE, OTHER, table)
    assert not left_out(first)
    assert closure(tmp_path, HEAD, MINE, edited, table).code != first.code
