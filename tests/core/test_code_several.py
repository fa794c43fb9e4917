"""Files with several step types: an edit of one reruns the others, whatever they share."""

from pathlib import Path

import pytest

from finery.builder.code.closure import Closure
from finery.builder.code.index import CodeIndex

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


def code(folder: Path, *sources: str) -> dict[str, str]:
    path = folder / "steps.py"
    path.write_text("".join(sources), encoding="utf-8")
    return Closure(CodeIndex([str(folder)], None), [(path, None)]).code


@pytest.mark.parametrize(
    "more",
    [
        "",
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
        "import re\nA = re.compile('a')\ndef f(model):\n    model.eval()\n",
        "import neighbour\n",
        "from neighbour import *\n",
        "from neighbour import Step\n",
        "def f():\n    global setting\n    setting = None\n",
        "if LIMIT:\n    from neighbour import setting\n",
    ],
)
def test_an_edit_of_another_step_type_counts(tmp_path: Path, more: str) -> None:
    (tmp_path / "neighbour.py").write_text("def f(m): return m.Other\n")
    edited = OTHER.replace("return self.rows", "return None")
    first = code(tmp_path, HEAD, more, MINE, OTHER, TABLE)
    assert code(tmp_path, HEAD, more, MINE, edited, TABLE) != first
    assert code(tmp_path, HEAD, more, OTHER, MINE, TABLE) != first
    assert code(tmp_path, HEAD, more, MINE, OTHER, "# the same\n", TABLE) == first


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
        ("return self.rows", "return None"),
        ("most: int = LIMIT", "most: int = 4"),
    ],
)
def test_whatever_another_class_does_counts(tmp_path: Path, old: str, new: str) -> None:
    source = OTHER.replace(old, new)
    assert source != OTHER
    first = code(tmp_path, HEAD, MINE, OTHER, TABLE)
    assert code(tmp_path, HEAD, MINE, source, TABLE) != first


def test_a_line_that_moves_between_definitions_counts(tmp_path: Path) -> None:
    first = code(tmp_path, HEAD, "print(1)\n", MINE, "print(2)\n", TABLE)
    assert code(tmp_path, HEAD, "print(1)\nprint(2)\n", MINE, TABLE) != first
