"""Text that code reads: docstrings, type hints, source; and methods that syntax calls."""

from pathlib import Path
from typing import Any

from attacking import Attack, attacks, both, edit, in_helper, in_step, put, step

TOOLS = '''
def weather(city: str, days: int = 1) -> str:
    """Forecast the weather."""
    return city
def clock(zone: str) -> str:
    """Tell the time."""
    return zone
TOOLS = (weather, clock)
def schemas():
    return [(f.__name__, f.__doc__, [*f.__annotations__]) for f in TOOLS]
'''
ROW = """
import msgspec
class Row(msgspec.Struct):
    size: int
    name: str = "x"
"""
DATA = """
from dataclasses import dataclass, fields
@dataclass
class Row:
    size: int = 1
    name: str = "x"
"""
CALLS = """
class Thing:
    def __bool__(self): return True
    def __len__(self): return 3
    def __iter__(self): return iter([1, 2])
    def __format__(self, spec): return "plain"
    def __contains__(self, x): return x == 1
    def __getattr__(self, name): return name.upper()
    def __getitem__(self, key): return key * 2
    def __call__(self, x): return x + 5
    def __enter__(self): return 8
    def __exit__(self, *a): return None
    def __eq__(self, other): return False
    def __hash__(self): return 77
    def __add__(self, other): return 40
    def __index__(self): return 4
    def __repr__(self): return "thing"
    def __del__(self): LOG.append("gone")
    def __missing__(self, k): return k
    def __instancecheck__(self, other): return True
LOG = []
thing = Thing()
"""


def called(name: str, body: str, old: str, new: str, **kind: Any) -> Attack:
    """An attack by the edit of a special method of an object in a module."""
    return in_helper(name, CALLS, f"t = helper.thing\n{body}", old, new, **kind)


CASES = [
    # -- docstrings
    in_helper("docstrings of functions in a tuple", TOOLS, "answer = helper.schemas()",
              "Tell the time", "Say the time", quick=True),
    in_helper("type hints of functions in a tuple", TOOLS,
              "answer = [str(f.__annotations__) for f in helper.TOOLS]", "days: int",
              "days: float"),
    in_helper("a default of a function in a tuple", TOOLS,
              "answer = [f.__defaults__ for f in helper.TOOLS]", "= 1)", "= 2)"),
    in_helper("a docstring by inspect", TOOLS,
              "import inspect; answer = inspect.getdoc(helper.clock)", "Tell", "Say"),
    in_helper("a docstring by pydoc", TOOLS,
              "import pydoc; answer = pydoc.plain(pydoc.render_doc(helper.clock))", "Tell", "Say"),
    in_helper("a docstring by eval", TOOLS, "answer = eval('helper.clock.__doc__')", "Tell", "Say"),
    in_helper("a docstring by a computed attribute", TOOLS,
              "answer = getattr(helper.clock, '__do' + 'c__')", "Tell", "Say"),
    in_helper("a docstring by attrgetter", TOOLS,
              "from operator import attrgetter\nanswer = attrgetter('__' + 'doc__')(helper.clock)",
              "Tell", "Say"),
    in_helper("a docstring by a format string", TOOLS,
              "answer = '{0.clock.__doc__}'.format(helper)", "Tell", "Say"),
    in_helper("the docstring of a module", '"""Old."""\n', "answer = helper.__doc__", "Old", "New"),
    in_helper("a docstring by the code object", TOOLS,
              "answer = helper.clock.__code__.co_consts", "Tell", "Say"),
    in_step("the docstring of run by argparse", "import argparse",
            "answer = argparse.ArgumentParser(description=self.run.__doc__).format_help()",
            '"""Answer."""', '"""Reply."""'),
    in_step("the docstring of the step", "", "answer = type(self).__doc__",
            "An answer as a row", "A reply as a row"),
    in_step("the help of a setting", "", "answer = str(type(self).__finery_fields__)",
            "Makes a step its own", "Keeps a step apart", same=True),
    in_helper("doctest runs a docstring", 'def f():\n    """\n    >>> 1 + 1\n    2\n    """\n',
              "import doctest; answer = doctest.testmod(helper)", "    2", "    3"),
    # -- type hints
    in_helper("msgspec.json.schema under an alias", ROW,
              "from msgspec import json as js\nanswer = js.schema(helper.Row)",
              "size: int", "size: float", quick=True),
    in_helper("fields of a msgspec struct decoded", ROW,
              "import msgspec\nanswer = msgspec.convert({'size': '3'}, helper.Row, strict=False)",
              "size: int", "size: str"),
    in_helper("fields of a dataclass", DATA,
              "answer = [(f.name, f.type) for f in helper.fields(helper.Row)]",
              "size: int", "size: float"),
    in_helper("typing.get_type_hints of a function", TOOLS,
              "import typing; answer = typing.get_type_hints(helper.weather)",
              "days: int", "days: float"),
    in_helper("hints of a variable of a module", "size: int = 1\n",
              "answer = helper.__annotations__", "size: int", "size: float"),
    in_helper("hints that are evaluated", "SEEN = []\ndef f(x: SEEN.append(1)): ...\n",
              "answer = helper.SEEN", "append(1)", "append(2)"),
    in_helper("the signature of a function", TOOLS,
              "import inspect; answer = str(inspect.signature(helper.weather))",
              "-> str:\n    \"\"\"Fore", "-> bytes:\n    \"\"\"Fore"),
    in_helper("from __future__ import annotations is added to a dataclass", DATA,
              "answer = [f.type for f in helper.fields(helper.Row)]",
              "from dataclasses", "from __future__ import annotations\nfrom dataclasses"),
    in_helper("from __future__ import annotations is added to tools", TOOLS,
              "answer = helper.weather.__annotations__",
              "\ndef weather", "from __future__ import annotations\ndef weather"),
    in_helper("a TypedDict", "import typing\nclass Row(typing.TypedDict):\n    size: int\n",
              "answer = helper.Row.__annotations__", "size: int", "size: float"),
    in_helper("a NamedTuple's default",
              "import typing\nclass Row(typing.NamedTuple):\n    size: int = 1\n",
              "answer = helper.Row()", "= 1", "= 2"),
    in_helper("the members of an enum",
              "import enum\nclass E(enum.Enum):\n    A = enum.auto()\n    B = enum.auto()\n",
              "answer = [(e.name, e.value) for e in helper.E]", "A = enum.auto()", "A = 7"),
    # -- source text
    in_helper("inspect.getsource with a comment", TOOLS + "# noted: 1\n",
              "import inspect; answer = inspect.getsource(helper)", "noted: 1", "noted: 2"),
    in_helper("inspect.getsource of a function with a comment", "def f():\n    return 1  # one\n",
              "import inspect; answer = inspect.getsource(helper.f)", "# one", "# uno"),
    in_helper("inspect.getcomments", "# one\ndef f(): ...\n",
              "import inspect; answer = inspect.getcomments(helper.f)", "# one", "# uno"),
    in_helper("linecache", "X = 1  # one\n",
              "import linecache; answer = linecache.getline(helper.__file__, 1)", "# one", "# uno"),
    in_helper("the loader's get_source", "X = 1  # one\n",
              "answer = helper.__loader__.get_source('helper')", "# one", "# uno"),
    in_helper("the loader's get_data", "X = 1  # one\n",
              "answer = helper.__loader__.get_data(helper.__file__)", "# one", "# uno"),
    in_helper("a file that reads itself", "X = open(__file__).read()  # one\n",
              "answer = helper.X", "# one", "# uno"),
    in_helper("tokenize.open", "X = 1  # one\n",
              "import tokenize; answer = tokenize.open(helper.__file__).read()", "# one", "# uno"),
    in_helper("runpy.run_path of a module that is imported, too", "X = 1\n",
              "import runpy; answer = runpy.run_path(helper.__file__)['X']", "X = 1", "X = 2"),
    in_step("inspect.getsource of the step", "# noted: 1",
            "import inspect; answer = inspect.getsource(sys.modules[__name__])",
            "noted: 1", "noted: 2"),
    Attack("inspect.getsource of another module than the imported ones",
           step("import inspect, helper; answer = inspect.getsource(inspect.getmodule(helper.f))")
           | {"helper.py": "from deep import f\n", "deep.py": "def f(): ...  # one\n"},
           edit("# one", "# uno", "deep.py")),
    in_helper("the line of a frame", "import sys\ndef f(): return sys._getframe().f_lineno\n",
              "answer = helper.f()", "import sys\n", "import sys\n\n\n", unseen="line numbers"),
    in_helper("the line of a function", "def f(): ...\n",
              "answer = helper.f.__code__.co_firstlineno", "def", "\n\n# two lines\ndef",
              unseen="line numbers"),
    in_step("an assertion's text in a traceback", "import traceback",
            "try:\n    assert self.tag  # one\nexcept AssertionError:\n"
            "    answer = traceback.format_exc()", "# one", "# uno", quick=True),
    # -- methods that syntax calls
    called("bool of an object", "answer = 1 if t else 2", "return True\n    def __len",
           "return False\n    def __len", quick=True),
    called("len of an object", "answer = len(t)", "return 3", "return 5"),
    called("iteration over an object", "answer = [*t]", "[1, 2]", "[1, 3]"),
    called("format of an object", "answer = f'{t}'", '"plain"', '"fancy"'),
    called("in an object", "answer = 1 in t", "x == 1", "x == 2"),
    called("an attribute of an object", "answer = t.abc", "name.upper()", "name.title()"),
    called("an index of an object", "answer = t[4]", "key * 2", "key * 3"),
    called("a call of an object", "answer = [*map(t, [1])]", "x + 5", "x + 6"),
    called("with an object", "with t as answer: ...", "return 8", "return 9"),
    called("equality of an object", "answer = t == 1", "return False", "return True"),
    called("a set of an object", "answer = hash(t)", "77", "78"),
    called("an operator of an object", "answer = t + 1", "return 40", "return 41"),
    called("an object as an index", "answer = 'abcdefgh'[t]", "return 4\n", "return 5\n"),
    called("repr of an object", "answer = f'{[t]}'", '"thing"', '"thang"'),
    called("del of an object", "x = helper.Thing(); del x; answer = helper.LOG", '"gone"',
           '"left"'),
    in_helper("bool of an object at the top", CALLS + "FLAG = 1 if thing else 2\n",
              "answer = helper.FLAG", "return True\n    def __len", "return False\n    def __len"),
    in_helper("unpacking of an object at the top", CALLS + "a, b = thing\n", "answer = helper.b",
              "[1, 2]", "[1, 3]"),
    in_helper("a loop over an object with an effect", """
              LOG = []
              class Thing:
                  def __iter__(self):
                      LOG.append(1)
                      return iter(())
              thing = Thing()
              for _ in thing: ...
              """, "answer = helper.LOG", "append(1)", "append(2)"),
    in_helper("an attribute with an effect", """
              LOG = []
              class Thing:
                  @property
                  def x(self): LOG.append(1)
              thing = Thing()
              y = thing.x
              """, "answer = helper.LOG", "append(1)", "append(2)"),
    in_helper("matching with __match_args__", """
              class P:
                  __match_args__ = ("x", "y")
                  x, y = 1, 2
              def f():
                  match P():
                      case P(a): return a
              """, "answer = helper.f()", '("x", "y")', '("y", "x")'),
    Attack("a module that replaces itself by an object",
           step("answer = helper.anything", "import helper")
           | {"helper.py": "import sys\nclass M:\n    def __getattr__(self, n): return n\n"
              "sys.modules[__name__] = M()\n"}, edit("return n", "return n * 2", "helper.py")),
    Attack("a module's getattr", step("answer = helper.anything", "import helper")
           | {"helper.py": "def __getattr__(n): return n\n"},
           edit("return n", "return n * 2", "helper.py")),
    Attack("a helper with a comment and with a change", step("answer = helper.X", "import helper")
           | {"helper.py": "X = 1\n"},
           put("helper.py", "# new\nX = 1\n"), then=[both(put("helper.py", "# new\nX = 3\n"))]),
]  # fmt: skip


@attacks(CASES)
def test_a_text(attack: Attack, tmp_path: Path) -> None:
    attack.run(tmp_path)
