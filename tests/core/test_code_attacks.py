"""Ways around the key: each changes what `run` does, and so must change the key."""

import importlib
import itertools
import py_compile
import sys
from collections.abc import Mapping
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from finery.builder.code.names import Names
from finery.builder.code.parse import parse_file
from finery.builder.code.reach import Reach
from finery.builder.code.resolve import Modules

_packages = (f"attacked_{n}" for n in itertools.count())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a new package that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / next(_packages)


def code_of(package: Path, files: Mapping[str, str]) -> dict[str, str]:
    """The code in the key of class X in `step.py`; `own` stands for the package's name."""
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text.replace("own", package.name))
    importlib.invalidate_caches()
    module = importlib.import_module(f"{package.name}.step")
    reach = Reach(Names(Modules({package.name}), cache(parse_file)), [(module.X, None)])
    for name in [n for n in sys.modules if n.startswith(package.name)]:
        del sys.modules[name]
    return reach.code


RUN = "class X:\n    def run(self, job):\n        {}\n"


@pytest.mark.parametrize("inside", ["", "low/"])
@pytest.mark.parametrize("suffix", [".pyc", EXTENSION_SUFFIXES[0], ".so"])
def test_a_compiled_module(package: Path, inside: str, suffix: str) -> None:
    name = f"{inside}fast" if inside == "" else f"{inside}__init__"
    module = "low" if inside else "fast"
    step = RUN.format(f"from own.{module} import f\n        return f()")
    compiled, codes = package / f"{name}{suffix}", []
    for number in (1, 2):
        source = package.parent / "fast.py"
        source.write_text(f"def f(): return {number}\n")
        compiled.parent.mkdir(exist_ok=True, parents=True)
        py_compile.compile(str(source), str(compiled), doraise=True)
        codes.append(code_of(package, {"step.py": step}))
    assert codes[0] != codes[1]


@pytest.mark.parametrize(
    ("module", "run"),
    [
        # of a library's classes and decorators
        ("class A(outer.Model):\n    '''{}'''", "help.A"),
        ("class B(outer.Model): ...\nclass A(B):\n    x: int\n    '''{}'''", "help.A()"),
        ("class A(metaclass=outer.Meta):\n    def f(self): '''{}'''", "help.A()"),
        ("@outer.model\nclass A:\n    '''{}'''", "help.A()"),
        ("def a():\n    class B(outer.Model):\n        '''{}'''\n    return B", "help.a()"),
        # of what is given to a library
        ("def a(): '''{}'''", "outer.tool(help.a)"),
        ("def a(x: '{}'): ...", "job.agent(tools=[help.a])"),
        ("def a(x: '{}'): ...", "len(outer.agent(help.a))"),
        ("def a() -> '{}': ...\nTOOLS = {{'a': a}}", "help.TOOLS"),
        ("class A:\n    def f(self): '''{}'''", "outer.tool(help.A.f)"),
        (
            "class A:\n    def f(self): '''{}'''\n    def g(self): outer.tool(self.f)",
            "help.A().g()",
        ),
        ("def a():\n    def b(x: '{}'): ...\n    return outer.tool(b)", "help.a()"),
        ("def a(): '''{}'''", "help.a.__code__.co_consts"),
        ("def a(): '''{}'''", "outer.tool(getattr(help, job))"),
        ("a = functools.singledispatch(max)\ndef b(x: '{}'): ...\na.register(b)", "help.a(1)"),
        # of what isn't finery's job or error
        ("def a(job): job.log('{}')", "help.a([])"),
        ("class A:\n    _job = outer\n    def f(self): A._job.log('{}')", "help.A().f()"),
        (
            "class A:\n    def f(self):\n        self.job = outer\n        self.job.log('{}')",
            "help.A",
        ),
        ("from pandas.errors import DataError\ndef a(): raise DataError('{}')", "help.a()"),
        ("import finery\nfinery = outer\ndef a(): raise finery.DataError('{}')", "help.a()"),
    ],
)
def test_a_text_that_other_code_may_read(package: Path, module: str, run: str) -> None:
    before, after = codes_with_texts(package, module, run)
    assert before != after


@pytest.mark.parametrize(
    ("module", "run"),
    [
        ("def a(x: '{0}'): '''{0}'''", "outer.tool(help.a(1))"),
        ("class A(Exception):\n    '''{}'''\ndef a(): raise A", "help.a()"),
        ("class A(NamedTuple):\n    '''{0}'''\n    def f(self): '''{0}'''", "help.A()"),
        ("class A(Step):\n    '''{}'''", "isinstance(job, help.A)"),
        ("def a(x): '''{}'''\ndef b(): return sorted([], key=a)", "help.b()"),
        ("def a(job: Job): job.log('{}')", "help.a(job)"),
        (
            "class A:\n    job: Job\n    def f(self): self.job.progress(1, text='{}')",
            "help.A().f()",
        ),
    ],
)
def test_a_text_that_no_code_reads(package: Path, module: str, run: str) -> None:
    before, after = codes_with_texts(package, module, run)
    assert before == after


def codes_with_texts(package: Path, module: str, run: str) -> list[dict[str, str]]:
    """The code of a step that evaluates `run`, with one and with another text in module `help`."""
    step = RUN.format(f"import outer\n        from own import help\n        return {run}")
    imports = "import functools, outer\nfrom typing import NamedTuple\nfrom finery import Step\n"
    return [
        code_of(package, {"step.py": step, "help.py": imports + JOB + module.format(text)})
        for text in ("Old", "New")
    ]


JOB = "from finery import Job\ndef first(job: Job): ...\n"
