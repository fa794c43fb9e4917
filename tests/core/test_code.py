"""The code in a step's key: what of a file counts, and which files."""

import itertools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from finery.build.code.follow import CodeReader, Parsed
from finery.build.code.parse import parse_file
from finery.build.code.resolve import Modules
from finery.errors import PluginError

# What of a file counts

STEP = '''
from typing import NamedTuple

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


def digest(tmp_path: Path, text: str) -> str:
    """The digest of a file with this text."""
    path = tmp_path / "module.py"
    path.write_text(text)
    return parse_file(path)[0].digest


def test_a_file_that_is_no_python_counts_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    digests = set()
    for text in ("It's a text.", "It's  a text."):
        path.write_text(text)
        digests.add(parse_file(path)[0].digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return 1 + 2", "return (  # three\n            1\n            + 2\n        )"),
        ('"""X."""', '"""Something else."""'),
        ('        """Run."""\n', ""),
        ('"""How large."""', '"""How large it is."""'),
        ("job: Job) -> Dataset", 'job: "finery.Job") -> "Dataset"'),
        ("job: Job) -> Dataset", "job)"),
        ("rows: list[int] = []", "rows = []"),
        ("LIMIT: int = 3", "LIMIT = 3"),
        ("no rows in {self.size}", "nothing at all in '{self.size}'"),
        ("{self.size}", "{self.size:>10}"),
        ("add some", "add some, or take the step out"),
        ('"none"', '"there are none"'),
        ("rows of {", "rows found, of {"),
        ("half of it", "one of two"),
        ('help="Size."', 'help="How large it is.", examples=[3]'),
        (', help="Size."', ""),
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
        ("1 + 2", "1 + 2.0"),
        ("1 + 2", '"1 + 2"'),
        ("LIMIT: int = 3", "LIMIT: int = 4"),
        ("LIMIT: int = 3", "LIMIT: int"),
        ("size: int", "size: float"),  # the fields of a class are its annotations
        ("seeded=False", "seeded=True"),
        (', help="Size."', ', ge=1, help="Size."'),
        ("StepError(f", "DataError(f"),
        ("in {self.size}", "in {self.next()}"),
        ("if not rows", "if rows"),
        ("self.job.log(f", "self.log(f"),
        ("job.progress(1, 2,", "job.progress(2, 2,"),
        ("assert rows", "assert not rows"),
        ("it has rows", "it has some rows"),
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
        # What reads annotations or docstrings at run time makes them code.
        ('def f(x: "{}"): ...\nSCHEMA = get_type_hints(f)', "int"),
        ('def f():\n    """{}"""\nPROMPT = f.__doc__', "Answer."),
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
    old = digest(tmp_path, text.format(new).replace('"path"', "'path'"))
    assert digest(tmp_path, text.format("x").replace('"x")}', "'x')}")) != old


def test_a_name_that_is_only_declared_is_local_to_its_function(tmp_path: Path) -> None:
    declared = digest(tmp_path, "def f():\n    x: int\n    return x\n")
    assert declared != digest(tmp_path, "def f():\n    return x\n")
    assert declared == digest(tmp_path, "def f():\n    x: float\n    return x\n")


def test_a_file_is_taken_apart_into_functions(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(STEP)
    before = parse_file(path)[1]
    assert list(before) == ["", "LIMIT", "X", "X.size", "X.run"]
    path.write_text(STEP.replace("1 + 2", "3") + "def more(): ...\n")
    after = parse_file(path)[1]
    assert {name for name in after if after[name] != before.get(name)} == {"X.run", "more"}


def test_a_class_and_its_methods_are_not_mixed_up(tmp_path: Path) -> None:
    inside = digest(tmp_path, "class A:\n    x = 1\n    def f(self): ...\n")
    assert inside != digest(tmp_path, "class A:\n    x = 1\ndef f(self): ...\n")
    assert inside != digest(tmp_path, "class A:\n    def f(self): ...\n    x = 1\n")


def test_a_syntax_error_names_its_place(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="syntax error") as caught:
        digest(tmp_path, "\nx = (\n")
    assert str(caught.value.where).endswith("module.py:2")


# Which files count

Code = Callable[..., dict[str, str]]
_names = (f"probe_package_{n}" for n in itertools.count())
CLASS = "class X:\n    def run(self):\n        return 1 + 2\n"


def read(path: Path) -> Parsed:
    """What counts of one file."""
    return parse_file(path)[0]


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Code:
    """Make and import two packages of one file each or more; the code of `step.py`'s class."""
    monkeypatch.syspath_prepend(tmp_path)

    def digests_of(files: dict[str, str]) -> dict[str, str]:
        """Code of class X in `own/step.py`; `own` and `other` stand for the packages' names."""
        own, other = next(_names), next(_names)
        for name, text in {"own/__init__.py": "", "other/__init__.py": "", **files}.items():
            path = tmp_path / name.replace("own", own).replace("other", other)
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(text.replace("own", own).replace("other", other))
        module = __import__(f"{own}.step", fromlist=["X"])
        __import__(other)
        digests = CodeReader(Modules({other}), read).code_of(module.X)
        for name in [n for n in sys.modules if n.startswith((own, other))]:
            del sys.modules[name]
        return {
            label.replace(own, "own").replace(other, "other"): value.replace(own, "own")
            for label, value in digests.items()
        }

    return digests_of


FILES = {
    "own/__init__.py": "VERSION = 1\n",
    "own/help.py": "def f(): return 1\n",
    "own/deep/__init__.py": "from own.deep import inner\n",
    "own/deep/inner.py": "def f(): return 1\n",
    "other/tool.py": "from .under import g\ndef f(): return g()\n",
    "other/under.py": "def g(): return 1\n",
}


@pytest.mark.parametrize(
    ("line", "followed"),
    [
        ("from own.help import f", ["own/help.py"]),
        ("from own import help", ["own/help.py"]),
        ("import own.help", ["own/help.py"]),
        ("import own.help; own.help.f()", ["own/help.py"]),
        ("import own.help; own.VERSION", ["own/__init__.py", "own/help.py"]),
        ("import own; late = lambda: own.help.f()", ["own/__init__.py", "own/help.py"]),
        ("import own.deep as d; d.inner.f()", ["own/deep/__init__.py", "own/deep/inner.py"]),
        ("from . import help", ["own/help.py"]),
        ("from .help import f", ["own/help.py"]),
        ("from own.deep import inner", ["own/deep/inner.py"]),
        ("from own.deep.inner import f", ["own/deep/inner.py"]),
        ("from own import VERSION", ["own/__init__.py"]),
        ("from own import *", ["own/__init__.py"]),
        ("import other.tool", ["other/tool.py", "other/under.py"]),
        ("from other.tool import f", ["other/tool.py", "other/under.py"]),
        ('import importlib; importlib.import_module("own.help")', ["own/help.py"]),
        ('from importlib import import_module as im; im("own.help")', ["own/help.py"]),
        ('import importlib; importlib.import_module(name="own.help")', ["own/help.py"]),
        ("import importlib; importlib.import_module(str('own.help'))", []),
        ('import importlib; importlib.import_module(".help", "own")', ["own/help.py"]),
        ('import importlib; importlib.import_module(".help", __package__)', ["own/help.py"]),
        ('__import__("own.help")', ["own/help.py"]),
        ('REFERENCE = "own.help:f"', []),
        ("import json, finery, msgspec.json; json.dumps(1)", []),
        ("from finery import Dataset, Step", []),
        ("from finery.util.text import did_you_mean", []),
        ("from finery.rows.chosen import draw_of", ["finery/rows/chosen.py", "…"]),
        ("import finery; finery.rows.chosen.draw_of", ["finery/rows/chosen.py", "…"]),
    ],
)
def test_imports_are_followed_into_plugins_and_the_kit(
    code: Code, line: str, followed: list[str]
) -> None:
    inside = CLASS.replace("return", f"{line}\n        return")
    for step in (f"{line}\n{CLASS}", inside):
        if "*" in line and step is inside:
            continue
        labels = {label for label in code({**FILES, "own/step.py": step}) if ":" not in label}
        if "…" in followed:
            assert {*followed} - {"…"} <= labels
            assert "finery/__init__.py" not in labels
        else:
            assert sorted(labels) == sorted(["own/step.py", *followed])


def test_a_package_that_passes_a_name_on_does_not_count_as_a_whole(code: Code) -> None:
    files = {
        "own/step.py": f"from own.deep import f\n{CLASS}",
        "own/deep/__init__.py": "from own.deep.mid import f\nfrom own.deep.big import g\n",
        "own/deep/mid/__init__.py": "from .inner import f\n",
        "own/deep/mid/inner.py": "def f(): return 1\n",
        "own/deep/big.py": "def g(): return 1\n",
    }
    labels = code(files)
    assert list(labels) == [
        "own/deep/__init__.py:f", "own/deep/mid/__init__.py:f", "own/deep/mid/inner.py",
        "own/step.py",
    ]  # fmt: skip
    assert labels["own/deep/__init__.py:f"] == "own.deep.mid"


def test_where_a_name_is_passed_on_from_is_in_the_key(code: Code) -> None:
    files = {
        "own/step.py": f"from own import deep, a, b\nfrom own.deep import f\n{CLASS}",
        "own/a.py": "def f(): return 1\n",
        "own/b.py": "def f(): return 2\n",
    }
    one = code({**files, "own/deep/__init__.py": "from own.a import f\n"})
    other = code({**files, "own/deep/__init__.py": "from own.b import f\n"})
    assert one["own/deep/__init__.py:f"] != other["own/deep/__init__.py:f"]


@pytest.mark.parametrize(
    "init",
    [
        "from own.a import f\nf = f or None\n",
        "from own.a import f\nfrom own.b import f\n",
        "from own.a import g as f\n",
        "from own.a import *\n",
        "try:\n    from own.a import f\nexcept ImportError:\n    from own.b import f\n",
        "def __getattr__(name): ...\n",
    ],
)
def test_a_package_that_does_more_than_pass_a_name_on_counts(code: Code, init: str) -> None:
    files = {
        "own/step.py": f"from own.deep import f\n{CLASS}", "own/deep/__init__.py": init,
        "own/a.py": "def f(): return 1\ng = f\n", "own/b.py": "def f(): return 2\n",
    }  # fmt: skip
    assert "own/deep/__init__.py" in code(files)


def test_a_name_that_only_type_checkers_see_passed_on_counts_with_its_package(code: Code) -> None:
    init = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from own.a import f
def __getattr__(name):
    import own.a
    return getattr(own.a, name)
"""
    files = {
        "own/step.py": f"def late():\n    from own.deep import f\n{CLASS}",
        "own/deep/__init__.py": init, "own/a.py": "def f(): return 1\n",
    }  # fmt: skip
    assert list(code(files)) == [
        "own/a.py", "own/deep/__init__.py", "own/deep/__init__.py:f", "own/step.py",
    ]  # fmt: skip


def test_the_kit_is_read_through_its_face(code: Code) -> None:
    labels = code({"own/step.py": f"from finery.rows import split_turns\n{CLASS}"})
    assert labels["finery/rows/__init__.py:split_turns"] == "finery.rows.row"
    assert "finery/rows/row.py" in labels
    assert "finery/rows/__init__.py" not in labels


def test_modules_that_import_each_other_are_each_read_once(code: Code) -> None:
    files = {"own/step.py": f"from own import a\n{CLASS}", "own/a.py": "from own import step, a\n"}
    assert list(code(files)) == ["own/a.py", "own/step.py"]


def test_packages_in_several_folders_are_read_in_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {
        "one/acme_probe/a/step.py": f"from acme_probe.b import f\n{CLASS}",
        "two/acme_probe/b.py": "def f(): return 1\n",
    })  # fmt: skip
    for folder in ("one", "two"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    module = __import__("acme_probe.a.step", fromlist=["X"])
    labels = CodeReader(Modules({"acme_probe"}), read).code_of(module.X)
    assert list(labels) == ["acme_probe/a/step.py", "acme_probe/b.py"]


# Of a project


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, each by its path in the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


PROJECT = {
    "helper_probe.py": "import lower_probe\n",
    "lower_probe.py": "",
    "pack_probe/__init__.py": "SIZE = 1\n",
    "pack_probe/sub.py": "from . import other\nfrom .deep import x\n",
    "pack_probe/other.py": "",
    "pack_probe/deep/x.py": "",
    "venv/lib/site-packages/installed_probe.py": "",
}


@pytest.mark.parametrize(
    ("line", "followed"),
    [
        ("import helper_probe", ["helper_probe.py", "lower_probe.py"]),
        ("from helper_probe import x", ["helper_probe.py", "lower_probe.py"]),
        ('__import__("lower_probe")', ["lower_probe.py"]),
        ("import pack_probe.other", ["pack_probe/__init__.py", "pack_probe/other.py"]),
        ("from pack_probe import SIZE", ["pack_probe/__init__.py"]),
        (
            "from pack_probe import sub",
            [f"pack_probe/{n}.py" for n in ("__init__", "deep/x", "other", "sub")],
        ),
        ("import pack_probe; pack_probe.other", ["pack_probe/__init__.py", "pack_probe/other.py"]),
        ("import installed_probe", []),
        ("import json, yaml, finery, not_there_probe", []),
    ],
)
def test_what_a_file_of_a_project_imports_from_it_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, followed: list[str]
) -> None:
    write(tmp_path, {**PROJECT, "plugin.py": line})
    monkeypatch.syspath_prepend(tmp_path / "venv/lib/site-packages")
    modules = Modules([], project=[tmp_path], search=[tmp_path])
    labels = CodeReader(modules, read).code_of(tmp_path / "plugin.py")
    assert sorted(labels) == sorted(["plugin.py", *followed])
    assert str(tmp_path / "not_there_probe.py") in modules.candidates or "not_there" not in line


def test_a_file_imports_what_is_beside_it_and_in_the_project(tmp_path: Path) -> None:
    write(tmp_path, {
        "shop.py": "import near_probe, twin_probe\n", "near_probe.py": "import far_probe\n",
        "far_probe.py": "", "twin_probe.py": "X = 1\n", "project/twin_probe.py": "X = 2\n",
    })  # fmt: skip
    modules = Modules([], project=[tmp_path / "project"], search=[tmp_path / "project"])
    labels = CodeReader(modules, read).code_of(tmp_path / "shop.py")
    assert list(labels) == [
        "far_probe.py", "near_probe.py", "shop.py", "twin_probe.py", "twin_probe.py'"
    ]  # fmt: skip


def test_two_files_that_are_imported_by_one_name_both_count(tmp_path: Path) -> None:
    write(tmp_path, {"a/twice_probe.py": "import twice_probe\n", "b/twice_probe.py": "X = 1\n"})
    modules = Modules([], project=[tmp_path], search=[tmp_path / "b"])
    labels = CodeReader(modules, read).code_of(tmp_path / "a/twice_probe.py")
    assert list(labels) == ["twice_probe.py", "twice_probe.py'"]
