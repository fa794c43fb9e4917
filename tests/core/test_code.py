"""The code in a step's key: what of a file counts, and which files."""

import itertools
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest

from finery.builder.code.names import Names
from finery.builder.code.parse import parse_file
from finery.builder.code.reach import Reach
from finery.builder.code.resolve import Modules, Place
from finery.errors import PluginError

# What of a file counts

STEP = '''
from typing import NamedTuple
from finery import DataError, Job, Step, StepError, setting

LIMIT: int = 3

class X(Step, seeded=False):
    """X."""

    size: int = setting(1, help="Size.")
    """How large."""

    def run(self, job: Job) -> Dataset:
        """Run."""
        rows: list[int] = []
        if not rows:
            raise StepError(f"no rows in {self.size}", fix="add some") from ValueError("none")
        self.job.log(f"{len(rows)} rows of {self.size}")
        job.progress(1, 2, text="half of it")
        assert rows, "it has rows"
        return 1 + 2
'''


def digest(tmp_path: Path, text: str) -> list[tuple[str, str]]:
    """What counts of a file with this text: the name and digest of each statement."""
    path = tmp_path / "module.py"
    path.write_text(text)
    return [(piece.name, piece.digest) for piece in parse_file(path).pieces]


def test_a_file_that_is_no_python_counts_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    digests = set()
    for text in ("It's a text.", "It's  a text."):
        path.write_text(text)
        digests.add(parse_file(path).pieces[0].digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return 1 + 2", "return (  # three\n            1\n            + 2\n        )"),
        ('"""X."""', '"""Something else."""'),
        ('"""How large."""', '"""How large it is."""'),
        ("job: Job) -> Dataset", 'job: "Job") -> "Dataset"'),
        ("job: Job) -> Dataset", "job: Job)"),
        ("no rows in {self.size}", "nothing at all in '{self.size}'"),
        ("add some", "add some, or take the step out"),
        ("rows of {", "rows found, of {"),
        ('help="Size."', 'help="How large it is.", examples=[3]'),
        ("from typing import NamedTuple\n", "from typing import NamedTuple, TYPE_CHECKING\n"
         "if TYPE_CHECKING:\n    from elsewhere import Row\n"),
    ],
)  # fmt: skip
def test_what_cannot_change_an_output_is_no_code(tmp_path: Path, old: str, new: str) -> None:
    assert old in STEP
    changed = STEP.replace(old, new)
    if "TYPE_CHECKING" in new:
        changed = changed.replace("NamedTuple, TYPE_CHECKING\n", "TYPE_CHECKING, NamedTuple\n")
        before = STEP.replace("import NamedTuple", "import TYPE_CHECKING, NamedTuple")
        assert digest(tmp_path, changed) == digest(tmp_path, before)
    else:
        assert digest(tmp_path, changed) == digest(tmp_path, STEP)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1 + 2", "2 + 2"),
        ("1 + 2", "1 - 2"),
        ("LIMIT: int = 3", "LIMIT: int = 4"),
        ("size: int", "size: float"),  # the fields of a class are its annotations
        ("seeded=False", "seeded=True"),
        ("StepError(f", "DataError(f"),
        ("if not rows", "if rows"),
        ("self.job.log(f", "self.log(f"),
        ("job: Job)", "job)"),  # which may be of another class, and keep what it logs
        ("assert rows", "assert not rows"),
    ],
)
def test_every_other_change_is_code(tmp_path: Path, old: str, new: str) -> None:
    assert old in STEP
    assert digest(tmp_path, STEP.replace(old, new)) != digest(tmp_path, STEP)


@pytest.mark.parametrize(
    ("text", "new"),
    [
        # Whoever catches an exception that isn't finery's may keep its text.
        ('raise Found("{}")', "text"),
        ('from own import StepError\nraise StepError("{}")', "text"),
        ('def f():\n    from own import StepError\n    raise StepError("{}")', "text"),
        ('class StepError(Exception): ...\nraise StepError("{}")', "text"),
        ('raise StepError(Found("{}"))', "text"),
        ('raise StepError() from Found("{}")', "text"),
        ('def setting(default, help): ...\nclass X:\n    x: int = setting(1, help="{}")', "text"),
        # A string that decides something is a value, also within an error or a log line.
        ('raise StepError(label="{}")', "label"),
        ('raise StepError(kind == "{}")', "kind"),
        ('raise StepError(rows["{}"])', "column"),
        ('raise StepError(lookup("{}"))', "name"),
        ('job.log(f"{{write("{}")}} rows")', "path"),
        ('raise StepError(word := "{}")', "word"),
        # What isn't a job's log may do anything with a text.
        ('report.log("{}")', "text"),
        ('job.write("{}")', "text"),
        ('def f(job):\n    job.log("{}")', "text"),
        ('from finery import Job\ndef f(job: Job):\n    job = Kept()\n    job.log("{}")', "text"),
        ('from own import Job\ndef f(job: Job):\n    job.log("{}")', "text"),
        # A decorator may read annotations and docstrings.
        ('from own import cache\n@cache\ndef f(x: "{}"): ...', "int"),
        ('def cache(f): ...\n@cache\ndef f(x: "{}"): ...', "int"),
        ('@tool\ndef f(x: "{}"): ...', "int"),
        ('@tool\ndef f():\n    """{}"""\n    return 1', "Find it."),
        ('@f.register\ndef _(x: "{}"): ...', "int"),
        # A class body in a function is one, too.
        ('def f():\n    class Row(NamedTuple):\n        x: "{}"', "int"),
        # `TYPE_CHECKING` is only what `typing` has under that name.
        ('TYPE_CHECKING = True\nif TYPE_CHECKING:\n    x = "{}"', "value"),
        ('from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    x = "{}"', "v"),
    ],
)
def test_strings_and_annotations_that_do_something_are_code(
    tmp_path: Path, text: str, new: str
) -> None:
    text = f"from finery import StepError\n{text}"
    old = digest(tmp_path, text.format(new).replace('"path"', "'path'"))
    assert digest(tmp_path, text.format("x").replace('"x")}', "'x')}")) != old


def test_a_name_that_is_only_declared_is_local_to_its_function(tmp_path: Path) -> None:
    declared = digest(tmp_path, "def f():\n    x: int\n    return x\n")
    assert declared != digest(tmp_path, "def f():\n    return x\n")
    assert declared == digest(tmp_path, "def f():\n    x: float\n    return x\n")


def test_a_file_is_taken_apart_into_functions(tmp_path: Path) -> None:
    before = dict(digest(tmp_path, STEP))
    imports = ["NamedTuple", "DataError", "Job", "Step", "StepError", "setting"]
    assert [*before] == [*imports, "LIMIT", "X", "X.(seeded)", "X.size", "X.run"]
    after = dict(digest(tmp_path, STEP.replace("1 + 2", "3") + "def more(): ...\n"))
    assert {name for name in after if after[name] != before.get(name)} == {"X.run", "more"}


def test_a_class_and_its_methods_are_not_mixed_up(tmp_path: Path) -> None:
    inside = digest(tmp_path, "class A:\n    x = 1\n    def f(self): ...\n")
    assert inside != digest(tmp_path, "class A:\n    x = 1\ndef f(self): ...\n")
    assert inside != digest(tmp_path, "class A:\n    def f(self): ...\n    x = 1\n")


def test_a_syntax_error_names_its_place(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="syntax error") as caught:
        digest(tmp_path, "\nx = (\n")
    assert str(caught.value.where).endswith("module.py:2")


# Which definitions count

Reached = Callable[..., dict[str, set[str]]]
_names = (f"probe_package_{n}" for n in itertools.count())
CLASS = "class X:\n    def run(self):\n        return 1 + 2\n"


@pytest.fixture
def reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reached:
    """Make and import two packages of one file each or more; what `step.py`'s class X reaches."""
    monkeypatch.syspath_prepend(tmp_path)

    def definitions(files: dict[str, str]) -> dict[str, set[str]]:
        """File → definitions; `own` and `other` stand for the packages' names."""
        own, other = next(_names), next(_names)
        for name, text in {"own/__init__.py": "", "other/__init__.py": "", **files}.items():
            path = tmp_path / name.replace("own", own).replace("other", other)
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(text.replace("own", own).replace("other", other))
        module = __import__(f"{own}.step", fromlist=["X"])
        __import__(other)
        reach = Reach(Names(Modules({other}), cache(parse_file)), [(module.X, None)])
        for name in [n for n in sys.modules if n.startswith((own, other))]:
            del sys.modules[name]
        return {
            label.replace(own, "own").replace(other, "other"): {*names}
            for label, names in reach.units().items()
        }

    return definitions


FILES = {
    "own/__init__.py": "VERSION = 1\nOTHER = 2\n",
    "own/help.py": "def f(): return 1\ndef g(): return 2\n",
    "own/deep/__init__.py": "from own.deep import inner\n",
    "own/deep/inner.py": "def f(): return 1\ndef g(): return 2\n",
    "other/tool.py": "from .under import g\ndef f(): return g()\ndef h(): return 1\n",
    "other/under.py": "def g(): return 1\ndef h(): return 1\n",
}
WHOLE_HELP = {"own/help.py": {"f", "g"}}


@pytest.mark.parametrize(
    ("line", "read", "others"),
    [
        ("from own.help import f", "f", {"own/help.py": {"f"}}),
        ("from own.help import f as h", "h", {"own/help.py": {"f"}}),
        ("from own import help", "help.f", {"own/help.py": {"f"}}),
        ("import own.help", "1", {}),
        ("import own.help", "own.help.f", {"own/help.py": {"f"}}),
        ("import own.help", "own.VERSION", {"own/__init__.py": {"VERSION"}}),
        ("import own.deep as d", "d.inner.f",
         {"own/deep/__init__.py": set(), "own/deep/inner.py": {"f"}}),
        ("from . import help", "help.f", {"own/help.py": {"f"}}),
        ("from .help import f", "f", {"own/help.py": {"f"}}),
        ("from own import *", "VERSION", {"own/__init__.py": {"VERSION"}}),
        ("from other.tool import f", "f", {"other/tool.py": {"f"}, "other/under.py": {"g"}}),
        ("from own import help", "getattr(help, 'f')", WHOLE_HELP),
        ("import importlib", "importlib.import_module('own.help')", WHOLE_HELP),
        ("from importlib import import_module as im", "im('own.help')", WHOLE_HELP),
        ("import importlib", "importlib.import_module(name='own.help')", WHOLE_HELP),
        ("import importlib", "importlib.import_module(str('own.help'))", {}),
        ("import importlib", "importlib.import_module('.help', 'own')", WHOLE_HELP),
        ("import importlib", "importlib.import_module('.help', __package__)", WHOLE_HELP),
        ("", "__import__('own.help')", WHOLE_HELP),
        ("", "'own.help:f'", {}),
        ("from own.help import f", "[f for f in ()]", {}),
        ("from own.help import f", "(lambda f: f)", {}),
        ("import json, finery, msgspec.json", "json.dumps", {}),
        ("from finery import Dataset, Step", "(Dataset, Step)", {}),
        ("from finery.rows.row import NOT_CONTENT", "NOT_CONTENT",
         {"finery/rows/row.py": {"NOT_CONTENT"}}),
        ("import finery", "finery.rows.row.NOT_CONTENT",
         {"finery/rows/row.py": {"NOT_CONTENT"}}),
        ("from finery.rows import row_id", "row_id",
         {"finery/rows/row.py": {"row_id", "NOT_CONTENT"}, "finery/rows/__init__.py": set()}),
    ],
)  # fmt: skip
def test_names_are_followed_into_plugins_and_the_kit(
    reached: Reached, line: str, read: str, others: dict[str, set[str]]
) -> None:
    at_top = f"{line}\n{CLASS.replace('1 + 2', read)}"
    inside = CLASS.replace("return 1 + 2", f"{line or 'pass'}\n        return {read}")
    for step in (at_top, inside):
        if step is at_top or "*" not in line:
            assert reached({**FILES, "own/step.py": step}) == {"own/step.py": {"X"}, **others}


LIB = """
class Pipe(dict):
    __or__ = __rmatmul__ = __gt__ = __getitem__ = __add__ = __class_getitem__ = get
    def get(self, other): ...
    def __neg__(self): ...
pipe = Pipe()
def cache(f): return f
""".replace("= get\n    def get(self, other): ...", "= get = lambda self, other: ...")


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("A = 1\nB = 2", {"A"}),
        ("A = [1]\nA.append(2)\nB = 2", {"A", ""}),
        ("A = 1\nfor A in (2, 3): pass", {"A", ""}),
        ("def A(): return B\nB = 1\nC = 2", {"A", "B"}),
        ("def A(x=B): ...", None),
        ("B = 1\ndef A(x=B): ...", {"A", "B"}),
        ("def deco(f): return f\n@deco\ndef A(): ...\n@deco\ndef B(): ...", {"A", "B", "deco"}),
        ("from functools import cache\n@cache\ndef A(): ...\n@cache\ndef B(): ...", {"A"}),
        (
            "from functools import singledispatch\n@singledispatch\ndef A(x): ...\n"
            "@A.register\ndef _(x: int): ...",
            {"A", "_"},
        ),
        (
            "class Base:\n    def __init_subclass__(cls): ...\nclass B(Base): ...\nA = 1",
            {"A", "B", "Base"},
        ),
        ("class Base: ...\nclass B(Base): ...\nA = 1", {"A"}),
        (
            "class Base: ...\nclass B(Base): ...\ndef A(): return Base.__subclasses__()",
            {"A", "Base", "B"},
        ),
        ("import re\nA = re.compile('a')\nB = re.compile('b')", {"A"}),
        ("def make(): ...\nA = 1\nB = make()", {"A", "B", "make"}),
        ("def A(): return globals()['B']\nB = 1", {"A", "B"}),
        ("def A(): return eval('B')\nB = 1", {"A", "B"}),
        ("import sys\ndef A(): return sys.modules[__name__].B\nB = 1", {"A", "B"}),
        (
            "from typing import NamedTuple\nclass C: ...\nclass A(NamedTuple):\n    x: 'C'",
            {"A", "C"},
        ),
        ("class C: ...\ndef A(x: 'C') -> C: ...", {"A"}),
        (
            "def A():\n    B = 1\n    def f():\n        global B\n        return B\nB = 1",
            {"A", "B"},
        ),
        ("A = []\ndef finery_steps():\n    A.append(1)\n    return {}", {"A", "finery_steps"}),
        ("A = []\ndef finery_steps():\n    return {}", {"A"}),
        ("import sys\ndef A(): return sys.modules.get(__name__).B\nB = 1", {"A", "B"}),
        ("import inspect\ndef A(): return inspect.getmodule(A).B\nB = 1", {"A", "B"}),
        ("def A(): return A.__globals__['B']\nB = 1", {"A", "B"}),
        ("A = []\ndef f(x): A.append(x)\nB = list(map(f, [1]))", {"A", "B", "f"}),
        ("A = 1\nB = list(map(str, [1]))", {"A"}),
        ("A = [2]\nB = sorted(A)", {"A"}),
        ("from operator import setitem\nA = {}\nB = setitem(A, 1, 2)", {"A", "B"}),
        (
            "class Base:\n    class In:\n        def __init_subclass__(cls): ...\n"
            "class B(Base.In): ...\nA = 1",
            {"A", "B", "Base"},
        ),
        (
            "def f(cls): ...\nclass Base:\n    __init_subclass__ = classmethod(f)\n"
            "class B(Base): ...\nA = 1",
            {"A", "B", "Base", "f"},
        ),
        # A decorator is plain by what it is bound to.
        ("from own.lib import cache\n@cache\ndef A(): ...\n@cache\ndef B(): ...", {"A", "B"}),
        ("def wraps(f): ...\n@wraps\ndef B(): ...\nA = 1", {"A", "B", "wraps"}),
        (
            "from functools import cache\ndef cache(f): ...\nA = 1\n@cache\ndef B(): ...",
            {"A", "B", "cache"},
        ),
        (
            "class B:\n    def property(f): ...\n    @property\n    def b(self): ...\nA = 1",
            {"A", "B"},
        ),
        (
            "class B:\n    @property\n    def b(self): ...\n    @b.setter\n"
            "    def b(self, value): ...\nA = 1",
            {"A"},
        ),
        # Operators and methods of objects from elsewhere may have effects.
        ("from own.lib import pipe\nA = 1\nB = pipe | 2", {"A", "B"}),
        ("from own.lib import pipe\nA = 1\nB = 2 @ pipe", {"A", "B"}),
        ("from own.lib import pipe\nA = 1\nB = pipe[2]", {"A", "B"}),
        ("from own.lib import pipe\nA = 1\nB = -pipe", {"A", "B"}),
        ("from own.lib import pipe\nA = 1\nB = 1 < pipe", {"A", "B"}),
        ("from own.lib import pipe\nA = 1\nB = pipe.get(1)", {"A", "B"}),
        ("from own.lib import pipe\nA = 1\nC = pipe\ndef B(x=C + 1): ...", {"A", "B", "C"}),
        ("A = [1]\nA += [2]\nB = 1", {"A", ""}),
        ("import re, math\nA = {1}\nC = [1, *A]\nB = -1 + 2, {1} | A, re.I | re.M, C * 2", {"A"}),
        ("A = 1\nclass C: ...\nB = C | None | dict[str, C], 'a, b'.split() + []", {"A"}),
        # So may descriptors and what a class is derived from.
        ("from own.lib import pipe\nA = 1\nclass B:\n    b = pipe", {"A", "B"}),
        ("A = 1\nclass B:\n    def b(self): ...\n    c = b\n    d: int = A", {"A"}),
        (
            "class C:\n    def __class_getitem__(cls, x): return cls\nclass B(C[1]): ...\nA = 1",
            {"A", "B", "C"},
        ),
        ("def f(): ...\nclass B(list[f()]): ...\nA = 1", {"A", "B", "f"}),
        (
            "from finery import outside_key\n@outside_key\ndef f(): return B\n"
            "def A(): return f()\nB = 1",
            {"A"},
        ),
        (
            "import finery\nclass A:\n    @finery.outside_key\n    def f(self): return B\n"
            "    def g(self): return C\nB = 1\nC = 2",
            {"A", "C"},
        ),
        (
            "from finery import outside_key as quiet\nB = 1\n@quiet\nclass C:\n    x = B\n"
            "def A(): return C",
            {"A"},
        ),
        (
            "def outside_key(f): return f\n@outside_key\ndef A(): return B\nB = 1",
            {"A", "B", "outside_key"},
        ),
    ],
)
def test_what_a_name_needs_counts(reached: Reached, text: str, counts: set[str] | None) -> None:
    step = f"from own.part import A\n{CLASS.replace('1 + 2', 'A')}"
    files = {"own/lib.py": LIB, "own/part.py": text, "own/step.py": step}
    if counts is None:
        with pytest.raises(NameError):
            reached(files)
    else:
        assert reached(files)["own/part.py"] == counts


@pytest.mark.parametrize(
    "read",
    [
        "sys.modules[type(self).__module__].B", "sys._getframe(1).f_globals['B']",
        "inspect.currentframe().f_back.f_globals['B']", "vars(sys.modules[self.__module__])['B']",
        "type(self).run.__globals__.get('B')", "inspect.getmodule(type(self)).B",
    ],
)  # fmt: skip
def test_what_reads_the_names_of_other_files_makes_them_count(reached: Reached, read: str) -> None:
    files = {
        "own/step.py": "from own.lib import read\nB = 1\nclass X:\n    def run(self): read(self)\n",
        "own/lib.py": f"import sys, inspect\nfrom own import help\ndef read(self): return {read}\n",
        "own/help.py": "def f(): return 1\n",
    }
    every = {"own/help.py": {"f"}, "own/lib.py": {"read"}, "own/step.py": {"X", "B"}}
    assert reached(files) == every


@pytest.mark.parametrize("read", ["getattr(own.deep, 'x')", "own.deep.__dict__['x']"])
def test_of_a_package_all_modules_count_that_any_file_imports(reached: Reached, read: str) -> None:
    step = f"import own.lib\nimport own.deep\n{CLASS.replace('1 + 2', read)}"
    files = {
        "own/lib.py": "import own.deep.x.y\n", "own/deep/__init__.py": "", "own/step.py": step,
        "own/deep/x/__init__.py": "A = 1\n", "own/deep/x/y.py": "B = 1\n", "own/deep/z.py": "C = 1",
    }  # fmt: skip
    counted = {"own/deep/x/__init__.py": {"A"}, "own/deep/x/y.py": {"B"}, "own/step.py": {"X"}}
    assert reached(files) == counted


STEP_TYPE = """
from finery import Step
class Told: ...
class X(Step, forecast=Told):
    def run(self): return f()
    def check(self): return g()
    def key_packages(self): return (g(),)
    def static_meta(self): return h()
def f(): return 1
def g(): return 2
def h(): return 3
"""


def test_methods_of_a_step_type_that_cannot_change_its_output_do_not_count(
    reached: Reached,
) -> None:
    assert reached({"own/step.py": STEP_TYPE})["own/step.py"] == {"X", "f", "h"}
    plain = STEP_TYPE.replace("(Step, forecast=Told)", "")
    assert reached({"own/step.py": plain})["own/step.py"] == {"X", "f", "g", "h"}


def test_where_a_name_is_passed_on_from_is_in_the_key(tmp_path: Path) -> None:
    write(tmp_path, {
        "step_probe.py": f"from pass_probe import f\nimport a_probe, b_probe\n{CLASS}X.f = f, "
        "a_probe.f, b_probe.f\n",
        "a_probe.py": "def f(): return 1\n", "b_probe.py": "def f(): return 2\n",
    })  # fmt: skip
    codes = []
    for module in ("a_probe", "b_probe"):
        (tmp_path / "pass_probe.py").write_text(f"from {module} import f\n")
        codes.append(project_code(tmp_path, tmp_path / "step_probe.py"))
    assert codes[0] != codes[1]
    assert codes[0].keys() == codes[1].keys()


@pytest.mark.parametrize(
    "init",
    [
        "from own.a import f\nfrom own.b import f\n",
        "try:\n    from own.a import f\nexcept ImportError:\n    from own.b import f\n",
        "from own.a import *\nfrom own.b import *\n",
    ],
)
def test_every_module_that_a_name_may_come_from_counts(reached: Reached, init: str) -> None:
    files = {
        "own/step.py": f"from own.deep import f\n{CLASS.replace('1 + 2', 'f')}",
        "own/deep/__init__.py": init,
        "own/a.py": "def f(): return 1\n", "own/b.py": "def f(): return 2\n",
    }  # fmt: skip
    assert {"own/a.py", "own/b.py", "own/deep/__init__.py"} < {*reached(files)}


def test_a_name_that_only_type_checkers_see_passed_on_counts_with_its_package(
    reached: Reached,
) -> None:
    init = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from own.a import f
def __getattr__(name):
    import own.a
    return getattr(own.a, name)
def other(): ...
"""
    files = {
        "own/step.py": CLASS.replace("return", "from own.deep import f\n        return f"),
        "own/deep/__init__.py": init, "own/a.py": "def f(): return 1\n",
    }  # fmt: skip
    files["own/step.py"] = files["own/step.py"].replace("f 1 + 2", "f")
    assert reached(files) == {
        "own/a.py": {"f"}, "own/deep/__init__.py": {"__getattr__"}, "own/step.py": {"X"},
    }  # fmt: skip


def test_packages_in_several_folders_are_read_in_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {
        "one/acme_probe/a/step.py": f"from acme_probe.b import f\n{CLASS.replace('1 + 2', 'f')}",
        "two/acme_probe/b.py": "def f(): return 1\n",
    })  # fmt: skip
    for folder in ("one", "two"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    module = __import__("acme_probe.a.step", fromlist=["X"])
    code = Reach(Names(Modules({"acme_probe"}), cache(parse_file)), [(module.X, None)]).code
    assert list(code) == ["acme_probe/a/step.py", "acme_probe/b.py"]


def test_the_path_to_a_definition_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {
        "path_probe/step.py": f"from path_probe.mid import f\n{CLASS.replace('1 + 2', 'f()')}",
        "path_probe/mid.py": "from path_probe import low\ndef f(): return low.LOW\n",
        "path_probe/low.py": "LOW = 1\nprint(end='')\n",
    })  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("path_probe.step", fromlist=["X"])
    reach = Reach(Names(Modules({"path_probe"}), cache(parse_file)), [(module.X, None)])
    assert reach.path_to("path_probe/low.py", "LOW") == ["X.run", "mid.f", "low.LOW"]
    assert reach.path_to("path_probe/low.py", "") == [
        "step on import", "mid on import", "low on import"
    ]  # fmt: skip
    assert reach.path_to("path_probe/step.py", "X.run") == ["X.run"]


# Of a project


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, each by its path in the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def project_code(project: Path, file: Path) -> dict[str, str]:
    """File → digest of what a file reaches in a project."""
    modules = Modules([], project=[project], search=[project])
    return Reach(Names(modules, cache(parse_file)), [(file, None)]).code


@pytest.mark.parametrize(
    ("read", "counts"),
    [
        ("lib_probe.g.__doc__.strip()", True),
        ("getattr(lib_probe.g, '__doc__')", True),
        ("inspect.getsource(lib_probe.g)", True),
        ("inspect.signature(lib_probe.g)", True),
        ("hints(lib_probe.g)", True),
        ("lib_probe.__doc__", True),
        ("'x' in inspect.signature(lib_probe.g).parameters", False),
        ("lib_probe.g(1)", False),
    ],
)
def test_text_counts_in_all_files_if_any_reads_it(tmp_path: Path, read: str, counts: bool) -> None:
    top = "import inspect, lib_probe\ndef f():\n    from typing import "
    imported = "get_type_hints as hints" if "hints" in read else "Any"
    write(tmp_path, {"step_probe.py": f"{top}{imported}\n    {read}\n"})
    codes = []
    for text in ("Old.", "New."):
        (tmp_path / "lib_probe.py").write_text(f'"""{text}"""\ndef g(x: int):\n    """{text}"""\n')
        codes.append(project_code(tmp_path, tmp_path / "step_probe.py"))
    assert (codes[0] != codes[1]) is counts


PROJECT = {
    "helper_probe.py": "from lower_probe import LOW\ndef f(): return LOW\n",
    "lower_probe.py": "LOW = 1\n",
    "pack_probe/__init__.py": "SIZE = 1\n",
    "pack_probe/sub.py": "from . import other\nfrom .deep import x\nX = x.X, other.X\n",
    "pack_probe/other.py": "X = 1\n",
    "pack_probe/deep/x.py": "X = 1\n",
    "venv/lib/site-packages/installed_probe.py": "X = 1\n",
}


@pytest.mark.parametrize(
    ("line", "followed"),
    [
        ("import helper_probe; helper_probe.f()", ["helper_probe.py", "lower_probe.py"]),
        ("from helper_probe import f", ["helper_probe.py", "lower_probe.py"]),
        ('__import__("lower_probe")', ["lower_probe.py"]),
        ("import pack_probe.other as o", ["pack_probe/other.py"]),
        ("from pack_probe import SIZE", ["pack_probe/__init__.py"]),
        ("from pack_probe import sub", [f"pack_probe/{n}.py" for n in ("deep/x", "other", "sub")]),
        ("import installed_probe", []),
        ("import json, yaml, finery, not_there_probe", []),
    ],
)
def test_what_a_file_of_a_project_reads_from_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, followed: list[str]
) -> None:
    write(tmp_path, {**PROJECT, "plugin.py": line})
    monkeypatch.syspath_prepend(tmp_path / "venv/lib/site-packages")
    modules = Modules([], project=[tmp_path], search=[tmp_path])
    reach = Reach(Names(modules, cache(parse_file)), [(tmp_path / "plugin.py", None)])
    assert sorted(reach.code) == sorted(["plugin.py", *followed])
    assert str(tmp_path / "not_there_probe.py") in modules.candidates or "not_there" not in line


def test_a_file_imports_what_is_beside_it_and_in_the_project(tmp_path: Path) -> None:
    write(tmp_path, {
        "shop.py": "import near_probe, twin_probe\n", "near_probe.py": "import far_probe as f\n",
        "far_probe.py": "X = 1\n", "twin_probe.py": "X = 1\n", "project/twin_probe.py": "X = 2\n",
    })  # fmt: skip
    assert list(project_code(tmp_path / "project", tmp_path / "shop.py")) == [
        "far_probe.py", "near_probe.py", "shop.py", "twin_probe.py", "twin_probe.py'"
    ]  # fmt: skip


def test_two_files_that_are_imported_by_one_name_both_count(tmp_path: Path) -> None:
    write(tmp_path, {"a/twice_probe.py": "import twice_probe\n", "b/twice_probe.py": "X = 1\n"})
    modules = Modules([], project=[tmp_path], search=[tmp_path / "b"])
    reach = Reach(Names(modules, cache(parse_file)), [(tmp_path / "a/twice_probe.py", None)])
    assert list(reach.code) == ["twice_probe.py", "twice_probe.py'"]


@pytest.mark.parametrize(
    "part",
    [
        "A = 1\nfrom own.more import *",
        "try:\n    from own.more import *\nexcept ImportError: ...",
        "A = 1\nif True:\n    from own.more import *",
    ],
)
def test_a_star_import_may_override_a_name(reached: Reached, part: str) -> None:
    step = f"from own.part import A\n{CLASS.replace('1 + 2', 'A')}"
    files = {"own/more.py": "A = 2\nB = 3", "own/part.py": part, "own/step.py": step}
    assert reached(files)["own/more.py"] == {"A"}


def test_the_packages_around_a_step_are_imported(reached: Reached) -> None:
    files = {"own/__init__.py": "import decimal\ndecimal.getcontext().prec = 4\nB = 1"}
    assert reached({**files, "own/step.py": CLASS})["own/__init__.py"] == {""}


def test_a_package_that_a_method_imports_a_module_of_is_passed_on(reached: Reached) -> None:
    step = CLASS.replace("return 1 + 2", "import own.help\n        return own")
    assert reached({**FILES, "own/step.py": step})["own/help.py"] == {"f", "g"}


@pytest.mark.parametrize(
    ("lines", "order"),
    [
        ("import own.a, own.b", ["own.a", "own.b"]),
        ("import own.b, own.a", ["own.b", "own.a"]),
        ("import own.a, own.c, own.b", ["own.a", "own.b"]),  # importing c has no effect
        ("import own.a\nA.append(1)", ["own.a", ""]),
        ("import own.a, own.c", []),
    ],
)
def test_the_order_of_imports_counts_if_they_have_effects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, order: list[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    own = next(_names)
    adding = f"from {own} import A\nA.append(1)"
    files = {
        "__init__": "A = []",
        "a": adding,
        "b": adding,
        "c": "C = 1",
        "step": "A = []\n" + lines,
    }
    (tmp_path / own).mkdir()
    for name, text in files.items():
        (tmp_path / own / f"{name}.py").write_text(text.replace("own", own))
    __import__(own)
    names = Names(Modules({own}), cache(parse_file))
    found = names.order(Place(f"{own}.step", str(tmp_path / own / "step.py")))
    assert [each.partition(" ")[0].replace(own, "own") for each in found] == order


@pytest.mark.parametrize(
    ("call", "counts"),
    [
        ("return self.check()", True),
        ("self.check()", True),
        ("self.check.__call__()", True),
        ("prepare(self)", True),
        ("return [getattr(self, 'check')]", True),
        ("return part.check(self)", False),
        ("from own.part import check; return check()", False),
        ("return random.choices(self)", False),
    ],
)
def test_a_method_that_run_calls_counts(reached: Reached, call: str, counts: bool) -> None:
    """Also if the caller isn't a method, or drops what it returns: it may change the step."""
    step = f"import random\nfrom own import part\n{STEP_TYPE}def prepare(step): step.check()\n"
    files = {"own/part.py": "def check(x): ...", "own/step.py": step.replace("return f()", call)}
    assert reached(files)["own/step.py"] - {"prepare"} == {"X", "h", *"g" * counts}
