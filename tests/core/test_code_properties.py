"""No stale key: in generated packages, one changed value that changes an output changes the key.

The packages have definitions of many kinds that use each other through imports of every form. The
value of one definition is changed. If `run` then returns something else, the key must differ.
"""

import importlib
import itertools
import re
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from finery.builder.code.names import Names
from finery.builder.code.parse import parse_file
from finery.builder.code.reach import Reach
from finery.builder.code.resolve import Modules

MODULES = ("a", "b", "sub.c", "d")
PACKAGE = "keyed_probe"
outcomes: Counter[str] = Counter()
"""How many changes changed the key and the output, one of them, or none."""


class Symbol(NamedTuple):
    """A definition: its module, its name, and how to get plain data from it: `{}().m()`."""

    module: int
    name: str
    use: str


# Kinds of definitions, by what gets plain data from one. `$N` is a number, `$R` the data of another
# definition, and `$M` the same in what executes on import: its module must be imported by then.
KINDS = {
    "$x": [
        "$x = ($N, $M)", "$x = [$N]\n$x.append($N)", "$x: tuple = ($N, $M)",
        "$x, $x_other = ($N, $M), $N",
        "$x = [$N for _ in (1,)]", "$x = $N\nif $N: $x = ($N, $M)\nelse: $x = $N",
        "try:\n    $x = ($N, $M)\nexcept KeyError:\n    $x = $N", "$x = $M\n$x = ($x, $N)",
        "$x = ($N).__add__($N)", "for $x in ($N, $N): pass", "with open('/dev/null'): $x = $N, $M",
        "def $x_make(): return $N, $M\n$x = $x_make()", "$x = {$N: $M}", "$x = ($M if $N else $N)",
        "import enum\nclass $x_e(enum.IntEnum):\n    ONE = $N\n$x = int($x_e.ONE)",
    ],
    "$x()": [
        "def $x(): return ($N, $R)", "def $x(x=$M): return ($N, x)", "def $x(x=$N): return (x, $R)",
        "$x = lambda: ($N, $R)",
        "def $x():\n    def inner(): return ($N, $R)\n    return inner()",
        "def $x_w(f):\n    def w(): return ($N, f(), $R)\n    return w\n@$x_w\ndef $x(): return $N",
        "def $x_table(): return $N, $R\n$x = {'k': $x_table}['k']",
        "def $x_x(): return $N\ndef $x():\n    return globals()['$x_x']()",
        "def $x():\n    if $N < 0:\n        return $N\n    return [$R for _ in range(1)]",
        "def $x():\n    for size in (1,):\n        size = ($N, $R)\n    return size",
        "def $x_g(): yield $N, $R\ndef $x(): return list($x_g())",
        "$x_state = $N\ndef $x_set():\n    global $x_state\n    $x_state = ($N, $R)\n"
        "def $x():\n    $x_set()\n    return $x_state",
        "import functools\n@functools.singledispatch\ndef $x_d(x): return $N\n@$x_d.register\n"
        "def _(x: int): return ($N, $R)\ndef $x(): return $x_d(1)",
        "$x_all = []\ndef $x_add(f):\n    $x_all.append(f)\n    return f\n@$x_add\n"
        "def $x_one(): return ($N, $R)\ndef $x(): return [f() for f in $x_all]",
        "def $x(): return eval('$x_e()')\ndef $x_e(): return ($N, $R)",
        "def $x(): return exec('x = 1') or ($x_v, $R)\n$x_v = $N",
        "def $x_old(): return $N\ndef $x(): return $x_old()\ndef $x_new(): return ($N, $R)\n"
        "$x_old = $x_new",
        "def $x(*, x=(lambda: $N)): return (x(), $R)",
        "def $x():\n    import sys\n    return sys.modules[__name__].$x_v\n$x_v = ($N, $M)",
        "$x_all = []\ndef cache(f):\n    $x_all.append(f)\n    return f\n@cache\n"
        "def $x_one(): return ($N, $R)\ndef $x(): return [f() for f in $x_all]",
        "class DataError(Exception): pass\ndef $x():\n    try: raise DataError('$N')\n"
        "    except DataError as error: return str(error), $R",
        "class $x_p:\n    all = []\n    def __or__(self, other):\n        self.all.append(other)\n"
        "        return self\n$x_i = $x_p()\n$x_j = $x_i | ($N, $M)\ndef $x(): return $x_p.all",
        "$x_all = [$N]\n$x_all += [$M]\ndef $x(): return $x_all",
    ],
    "$x.__doc__": ["def $x(): '$N'", "class $x: '$N'"],
    "$x.__annotations__": ["def $x(y: '$N'): pass", "def $x(y: '$N') -> $N: '$N'"],
    "__import__('pydoc').render_doc($x)": [
        "def $x(): '$N'", "def $x(y: $N) -> $N: pass", "class $x:\n    def m(self, y: $N): '$N'",
    ],
    "$x().m()": [
        "class $x:\n    v = $N\n    def m(self): return (self.v, $N, $R)",
        "class $x_b:\n    def m(self): return ($N, self.n())\n    def n(self): return $N\n"
        "class $x($x_b):\n    def n(self): return ($N, $R)",
        "class $x:\n    @property\n    def p(self): return ($N, $R)\n"
        "    def m(self): return self.p",
        "class $x:\n    @staticmethod\n    def m(): return ($N, $R)\n    unused = $N",
        "def $x_f(): return ($N, $R)\nclass $x:\n    def m(self, f=$x_f): return f()",
        "import dataclasses\ndef $x_f(): return [$N, $R]\n@dataclasses.dataclass\nclass $x:\n"
        "    x: list = dataclasses.field(default_factory=$x_f)\n    def m(self): return self.x",
        "class $x_in:\n    def m(self): return ($N, $R)\ndef $x(): return $x_in()",
        "class $x_meta(type):\n    def m2(cls): return ($N, $R)\nclass $x(metaclass=$x_meta):\n"
        "    def m(self): return type(self).m2()",
        "class $x_base:\n    subs = []\n    def __init_subclass__(cls): $x_base.subs.append(cls)\n"
        "class $x_sub($x_base):\n    v = $N\nclass $x:\n"
        "    def m(self): return [c.v for c in $x_base.subs], $R",
        "class $x_root: v = $N\nclass $x_leaf($x_root): v = $N\nclass $x:\n"
        "    def m(self): return [c.v for c in $x_root.__subclasses__()], $R",
        "class $x: pass\ndef $x_m(self): return ($N, $R)\n$x.m = $x_m",
        "class $x_d:\n    def __set_name__(self, cls, name): cls.late = $N\n"
        "class $x:\n    x = $x_d()\n"
        "    def m(self): return (self.late, $R)",
        "class $x_d:\n    all = []\n    def __set_name__(self, cls, name): self.all.append(cls.v)\n"
        "$x_i = $x_d()\nclass $x_c:\n    v = $N\n    x = $x_i\n"
        "class $x:\n    def m(self): return $x_d.all, $R",
        "class $x_g:\n    all = []\n    def __class_getitem__(cls, x):\n"
        "        cls.all.append(x)\n        return cls\nclass $x_c($x_g[$N, $M]): pass\n"
        "class $x:\n    def m(self): return $x_g.all",
        "from typing import NamedTuple\nclass $x(NamedTuple):\n    x: int = $N\n"
        "    def m(self): return (self.x, $R)",
    ],
}  # fmt: skip
CHOICES = [(use, text) for use, texts in KINDS.items() for text in texts]
# Forms of imports: a statement, and what then reads the name.
CIRCULAR = [("import $p.$m", "$p.$m.$n"), ("import $p.$m as $a", "$a.$n")]
DIRECT = [
    *CIRCULAR,
    ("from $p.$m import $n", "$n"),
    ("from $p.$m import $n as $a", "$a"),
    ("from $up import $last as $a", "$a.$n"),
    ("import $p.$m as $a_m; $a = $a_m.$n", "$a"),
    ("import importlib; $a = importlib.import_module('$p.$m')", "$a.$n"),
    ("import $p.$m as $a", "getattr($a, ''.join(['$n']))"),
    ("try:\n    from $p.$m import $n as $a\nexcept ImportError:\n    $a = None", "$a"),
]
STAR = [("from $p.$m import *", "$n")]
FACES = (
    [(f"from $p.{face} import $n as $a", "$a") for face in ("face", "lazy", "star")]
    + [(f"from $p import {face} as $a", "$a.$n") for face in ("face", "lazy", "star")]
    + [("import $p.face, $up as $a", "getattr($a, '$last').$n")]
)
"""Through modules that import all others."""
LAZY = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    {imports}
def __getattr__(name):
    import importlib
    return getattr(importlib.import_module(PLACES[name]), name)
PLACES = {places}
"""


READERS = """
import sys
def of_class(step): return sys.modules[type(step).__module__].late
def of_caller(): return sys._getframe(1).f_globals["late"]
def checked(step): step.check()
"""
"""Functions of module `a` that read names of the file of their caller."""
RUNS = (
    "return [$R]", "return [$R, $R]", "return [$R, seen]", "return [of_class(self), $R]",
    "return [of_caller(), $R]", "self.check(); return [$R, seen]",
    "checked(self); return [$R, seen]",
)  # fmt: skip


class Package:
    """A package while it is generated."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.count = itertools.count(1000)
        self.modules: list[list[str]] = [[] for _ in (*MODULES, "step")]
        self.symbols: list[Symbol] = []
        self.late: list[tuple[int, str]] = []
        """(module, statement) of imports at the ends of modules, so that they can be circular."""

    def define(self, name: str, module: int) -> None:
        use, text = self.draw(st.sampled_from(CHOICES))
        self.add(module, text.replace("$x", name))
        self.symbols.append(Symbol(module, name, use.replace("$x", name)))

    def add(self, module: int, text: str) -> None:
        """Add code to a module, with numbers and references in it."""
        while "$M" in text:
            text = text.replace("$M", self.reference(module, on_import=True), 1)
        while "$R" in text:
            text = text.replace("$R", self.reference(module, on_import=False), 1)
        while "$N" in text:
            text = text.replace("$N", str(next(self.count)), 1)
        self.modules[module].append(text)

    def reference(self, module: int, *, on_import: bool) -> str:
        """An expression with the data of an earlier definition; a number if there is none."""
        symbols = [s for s in self.symbols if s.module <= module or not on_import]
        if not symbols:
            return str(next(self.count))
        symbol: Symbol = self.draw(st.sampled_from(symbols))
        is_local = not on_import and self.draw(st.booleans())
        if symbol.module == module:
            if not is_local:
                return symbol.use
            forms = DIRECT
        elif is_local:
            forms = [*DIRECT, *FACES]
        elif module == len(MODULES):
            forms = [*DIRECT, *STAR, *FACES]
        elif symbol.module < module:
            forms = [*DIRECT, *STAR]
        else:
            forms = CIRCULAR
        path, number = MODULES[symbol.module], next(self.count)
        package, _, last = f"{PACKAGE}.{path}".rpartition(".")
        statement: str
        reads: str
        statement, reads = self.draw(st.sampled_from(forms))
        names = {"$last": last, "$up": package, "$p": PACKAGE, "$m": path, "$n": symbol.name}
        for mark, value in {**names, "$a": f"x{number}"}.items():
            statement, reads = statement.replace(mark, value), reads.replace(mark, value)
        data = symbol.use.replace(symbol.name, reads, 1)
        if is_local:
            statement = statement.replace("\n", "\n    ")
            self.modules[module].append(f"def h{number}():\n    {statement}\n    return {data}")
            return f"h{number}()"
        if symbol.module < module:
            self.modules[module].append(statement)
        else:
            self.late.append((module, statement))
        return data

    def files(self) -> dict[str, str]:
        """The files of the package."""
        files = {
            f"{path.replace('.', '/')}.py": "\n".join(lines)
            for path, lines in zip((*MODULES, "step"), self.modules, strict=True)
        }
        imports = [f"from {PACKAGE}.{MODULES[s.module]} import {s.name}" for s in self.symbols]
        places = {s.name: f"{PACKAGE}.{MODULES[s.module]}" for s in self.symbols}
        lazy = LAZY.format(imports="\n    ".join(imports), places=places)
        stars = [f"from .{path} import *" for path in MODULES]
        return files | {
            "__init__.py": "", "sub/__init__.py": "", "face/__init__.py": "\n".join(imports),
            "lazy/__init__.py": lazy, "star.py": "\n".join(stars),
        }  # fmt: skip


@st.composite
def packages(draw: Any) -> tuple[dict[str, str], str]:
    """The files of a package, and the number in it that is to change."""
    package = Package(draw)
    for index in range(draw(st.integers(1, 6))):
        package.define(f"n{index}", draw(st.integers(0, len(MODULES) - 1)))
    lines = draw(st.sampled_from(RUNS))
    package.add(0, READERS)
    package.add(
        len(MODULES),
        f"from finery import Step\nfrom {PACKAGE}.a import checked, of_caller, of_class\n"
        f"late, seen = $N, []\nclass X(Step):\n    def run(self, job=None):\n        {lines}\n"
        "    def check(self): seen.append($R)",
    )
    for module, statement in package.late:
        package.modules[module].append(statement)
    return package.files(), str(draw(st.integers(1000, next(package.count) - 1)))


def outcome(folder: Path, files: dict[str, str]) -> tuple[dict[str, str], Any]:
    """The code in the key of a package's step, and what its `run` returns."""
    for name, text in files.items():
        path = folder / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        step = importlib.import_module(f"{PACKAGE}.step").X
        code = Reach(Names(Modules({PACKAGE}), cache(parse_file)), [(step, None)]).code
        return code, step().run()
    finally:
        sys.path.remove(str(folder))
        for name in [n for n in sys.modules if n.partition(".")[0] == PACKAGE]:
            del sys.modules[name]


def check_change(files: dict[str, str], number: str, folder: Path) -> None:
    """Change a number in a package: if the output changes, the key must."""
    changed = {name: text.replace(number, f"9{number}") for name, text in files.items()}
    failure: Exception | None = None
    try:
        before = outcome(folder / "before", files)
    except (AttributeError, ImportError, NameError) as error:
        failure = error
    if failure is not None:  # not raised as it is: to Hypothesis, each folder's is another one
        # On import, it reads what isn't imported by then, perhaps through `from … import *`.
        lazily = getattr(failure, "name", "") == f"{PACKAGE}.lazy"
        early = re.search(
            rf"circular import|module '{PACKAGE}\.\w+' has no attribute", str(failure)
        )
        assert lazily or early or isinstance(failure, NameError), failure
        reject()
    after = outcome(folder / "after", changed)
    is_used, is_keyed = before[1] != after[1], before[0] != after[0]
    outcomes[f"output changes: {is_used}, key changes: {is_keyed}"] += 1
    assert is_keyed or not is_used, "\n".join(f"# {n}\n{t}" for n, t in files.items())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(packages())
def test_what_changes_the_output_changes_the_key(package: tuple[dict[str, str], str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_change(*package, Path(folder))


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(packages())
def test_more_of_them(package: tuple[dict[str, str], str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_change(*package, Path(folder))
