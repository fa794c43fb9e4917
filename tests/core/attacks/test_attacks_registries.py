"""Code that nothing names: classes and functions that register themselves, or are found."""

from pathlib import Path

from attacking import Attack, attacks, both, edit, in_helper, in_step, put, step

BASE = """
class Base:
    pass
class One(Base):
    value = 1
"""
RULES = """
RULES = []
def rule(f):
    RULES.append(f)
    return f
@rule
def first(x): return x + 1
@rule
def second(x): return x * 2
"""
RUN_RULES = "answer = [f(3) for f in helper.RULES]"

CASES = [
    # -- __subclasses__
    in_helper("subclasses of a base", BASE,
              "answer = [c.value for c in helper.Base.__subclasses__()]",
              "value = 1", "value = 2", quick=True),
    in_helper("subclasses through a variable", BASE + "kind = Base\n",
              "k = helper.kind; answer = [c.value for c in k.__subclasses__()]",
              "value = 1", "value = 2"),
    in_helper("subclasses through the type of an object", BASE,
              "b = helper.Base(); answer = [c.value for c in type(b).__subclasses__()]",
              "value = 1", "value = 2"),
    in_helper("subclasses through a class method", """
              class Base:
                  @classmethod
                  def all(cls): return sorted(c.value for c in cls.__subclasses__())
              class One(Base):
                  value = 1
              """, "answer = helper.Base.all()", "value = 1", "value = 2"),
    in_helper("subclasses by a computed attribute", BASE,
              "answer = [c.value for c in getattr(helper.Base, '__sub' + 'classes__')()]",
              "value = 1", "value = 2"),
    in_helper("a new subclass", BASE, "answer = [c.value for c in helper.Base.__subclasses__()]",
              "    value = 1\n", "    value = 1\nclass Two(Base):\n    value = 2\n"),
    in_helper("subclasses of subclasses", BASE + "class Deep(One):\n    value = 5\n",
              "answer = [d.value for d in helper.Base.__subclasses__()[0].__subclasses__()]",
              "value = 5", "value = 6"),
    Attack("a subclass in a module imported for its effect",
           step("answer = [c.value for c in kinds.Base.__subclasses__()]", "import kinds, extra")
           | {"kinds.py": BASE,
           "extra.py": "from kinds import Base\nclass Two(Base):\n    value = 2"},
           edit("value = 2", "value = 3", "extra.py")),
    # -- __init_subclass__, metaclasses, descriptors
    in_helper("init_subclass registers", """
              KINDS = {}
              class Base:
                  def __init_subclass__(cls, name="", **more): KINDS[name] = cls
              class One(Base, name="one"):
                  def f(self): return 1
              """, "answer = helper.KINDS['one']().f()", "return 1", "return 2"),
    in_helper("init_subclass counts", """
              class Base:
                  count = 0
                  def __init_subclass__(cls): Base.count += cls.weight
              class One(Base):
                  weight = 1
              """, "answer = helper.Base.count", "weight = 1", "weight = 5"),
    in_helper("a metaclass registers", """
              KINDS = []
              class Meta(type):
                  def __init__(cls, *a): KINDS.append(cls)
              class One(metaclass=Meta):
                  value = 1
              """, "answer = [c.value for c in helper.KINDS]", "value = 1", "value = 2"),
    in_helper("a metaclass with prepare", """
              class Names(dict):
                  def __setitem__(self, k, v): super().__setitem__(k, v + 1 if v in (1, 2) else v)
              class Meta(type):
                  def __prepare__(*a): return Names()
                  def __new__(m, n, b, d): return super().__new__(m, n, b, dict(d))
              class One(metaclass=Meta):
                  value = 1
              """, "answer = helper.One.value", "v + 1", "v + 2"),
    in_helper("a descriptor's set_name registers", """
              ALL = []
              class Slot:
                  def __init__(self, n): self.n = n
                  def __set_name__(self, owner, name): ALL.append((owner.__name__, name, self.n))
              class One:
                  a = Slot(1)
              """, "answer = helper.ALL", "Slot(1)", "Slot(2)"),
    in_helper("class_getitem registers", """
              ALL = []
              class Reg:
                  def __class_getitem__(cls, n):
                      ALL.append(n)
                      return int
              class One:
                  x: Reg["a"]
              """, "answer = helper.ALL", 'Reg["a"]', 'Reg["b"]'),
    in_helper("a class built by a call of type", """
              def f(self): return 1
              One = type("One", (), {"f": f})
              """, "answer = helper.One().f()", "return 1", "return 2"),
    in_helper("a class decorator", """
              def marked(c):
                  c.value = len(c.__name__) + 1
                  return c
              @marked
              class One: ...
              """, "answer = helper.One.value", "+ 1", "+ 2"),
    # -- decorators and calls at the top
    in_helper("functions that a decorator collects", RULES, RUN_RULES, "x * 2", "x * 3"),
    in_helper("one more function that a decorator collects", RULES, RUN_RULES, "@rule\ndef second",
              "@rule\ndef third(x): return 0\n@rule\ndef second"),
    in_helper("the order of decorated functions", RULES, RUN_RULES,
              "def first(x): return x + 1\n@rule\ndef second(x): return x * 2",
              "def second(x): return x * 2\n@rule\ndef first(x): return x + 1"),
    in_helper("a decorator with an argument", """
              TABLE = {}
              def on(name):
                  return lambda f: TABLE.setdefault(name, f)
              @on("a")
              def f(x): return x
              """, "answer = [(k, f(2)) for k, f in helper.TABLE.items()]", 'on("a")', 'on("b")'),
    in_helper("singledispatch", """
              from functools import singledispatch
              @singledispatch
              def f(x): return "any"
              @f.register
              def _(x: int): return "int"
              """, "answer = helper.f(3)", '"int"', '"whole"'),
    in_helper("atexit and a list of callbacks", """
              AFTER = []
              AFTER.append(lambda x: x + 1)
              """, "answer = helper.AFTER[0](1)", "x + 1", "x + 2"),
    # -- functions that a builtin is given
    in_helper("starmap registers", """
              from itertools import starmap
              TABLE = {}
              def put(k, v): TABLE[k] = v
              list(starmap(put, [("a", 1)]))
              """, "answer = helper.TABLE", '("a", 1)', '("a", 2)', quick=True),
    in_helper("re.sub registers", """
              import re
              SEEN = []
              re.sub("[a-z]", lambda m: SEEN.append(m[0] * 1) or "", "abc")
              """, "answer = helper.SEEN", "* 1", "* 2"),
    in_helper("defaultdict registers", """
              from collections import defaultdict
              SEEN = []
              def make(): SEEN.append(1); return 0
              D = defaultdict(make)
              D["a"]
              """, "answer = helper.SEEN", "append(1)", "append(2)"),
    in_helper("takewhile registers", """
              from itertools import takewhile
              SEEN = []
              def note(x): SEEN.append(x); return x < 2
              FIRST = [*takewhile(note, range(9))]
              """, "answer = helper.SEEN", "x < 2", "x < 3"),
    in_helper("reduce registers", """
              from functools import reduce
              SEEN = []
              def add(a, b): SEEN.append(a + b); return a + b
              reduce(add, [1, 2, 3])
              """, "answer = helper.SEEN", "return a + b", "return a * b"),
    in_helper("the key of sorted registers", """
              SEEN = []
              sorted([3, 1], key=lambda x: SEEN.append(x + 0) or x)
              """, "answer = helper.SEEN", "x + 0", "x + 1"),
    in_helper("max with a key registers", """
              SEEN = []
              def key(x): SEEN.append(x); return x
              max([3, 1], key=key)
              """, "answer = helper.SEEN", "append(x)", "append(-x)"),
    in_helper("iter with a sentinel registers", """
              SEEN = []
              def pull(): SEEN.append(7); return len(SEEN)
              [*iter(pull, 3)]
              """, "answer = helper.SEEN", "append(7)", "append(8)"),
    in_helper("map and any", """
              SEEN = []
              any(map(SEEN.append, [1, 2]))
              """, "answer = helper.SEEN", "[1, 2]", "[1, 3]"),
    in_helper("a generator that nobody reads to its end", """
              SEEN = []
              def g():
                  SEEN.append(1)
                  yield
                  SEEN.append(2)
              next(g())
              """, "answer = helper.SEEN", "append(1)", "append(4)"),
    in_helper("a context manager at the top", """
              from contextlib import contextmanager
              SEEN = []
              @contextmanager
              def inside():
                  SEEN.append("in")
                  yield
              with inside(): ...
              """, "answer = helper.SEEN", '"in"', '"into"'),
    in_step("a registry in the plugin file", RULES, "answer = [f(3) for f in RULES]",
            "x * 2", "x * 3"),
    in_step("getattr with a computed name", "def f_one(): return 1\ndef f_two(): return 2",
            "answer = globals()['f_' + ['one', 'two'][self.tag]]()", "return 1", "return 3"),
    in_step("a function by the module's dictionary", "def f_one(): return 1",
            "answer = vars(sys.modules[__name__])['f_' + 'one']()", "return 1", "return 3"),
    Attack("a registry in a package whose modules are imported by name",
           step("answer = sorted(c.value for c in kinds.Base.__subclasses__())", "import kinds")
           | {"kinds/__init__.py": "from kinds.base import Base\nimport kinds.one\n",
              "kinds/base.py": "class Base: ...\n",
              "kinds/one.py": "from kinds.base import Base\nclass One(Base):\n    value = 1\n"},
           edit("value = 1", "value = 2", "kinds/one.py")),
    Attack("a new module of a package that imports all its modules",
           step("answer = sorted(kinds.ALL)", "import kinds")
           | {"kinds/__init__.py": "import importlib, pkgutil\nALL = [importlib.import_module("
              "f'kinds.{m.name}').V for m in pkgutil.iter_modules(__path__)]\n",
              "kinds/one.py": "V = 1\n"},
           put("kinds/two.py", "V = 2\n"), quick=True),
    Attack("a registry edited and edited back",
           step("answer = [f(3) for f in helper.RULES]", "import helper") | {"helper.py": RULES},
           edit("x * 2", "x * 3", "helper.py"), then=[edit("x * 3", "x * 2", "helper.py")]),
    Attack("a registry edited in two modules",
           step("answer = [f(3) for f in helper.RULES]", "import helper, extra")
           | {"helper.py": RULES, "extra.py": "from helper import rule\nrule(lambda x: x - 1)\n"},
           both(edit("x * 2", "x * 3", "helper.py"), edit("x - 1", "x - 2", "extra.py"))),
]  # fmt: skip


@attacks(CASES)
def test_a_registry(attack: Attack, tmp_path: Path) -> None:
    attack.run(tmp_path)
