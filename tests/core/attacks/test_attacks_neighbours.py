"""Several step types in one file: an edit of one reruns others only if it may matter to them."""

from pathlib import Path
from typing import Any

from attacking import Attack, attacks, both, distribution, edit, in_file, more, put, step

OTHER = '''
class Other(Step, seeded=False):
    """Another step type."""

    rows: list[Dataset] = []
    size: int = setting(3, help="A size.")

    def run(self, job: Job) -> Dataset:
        """Answer something else."""
        return Dataset.write(job.out, [{"prompt": "first"}])

    def value(self):
        return 1
'''
ANSWERS = "answer = 0"


def files(body: str = ANSWERS, top: str = "", *, other: str = OTHER) -> dict[str, str | bytes]:
    """A plugin file with step types `a.answer` and `a.other`."""
    return in_file(
        step(body, top + other), '"a.answer": Answer', '"a.answer": Answer, "a.other": Other'
    )


def reached(name: str, body: str, top: str = "", old: str = "return 1", new: str = "return 2",
            **kind: Any) -> Attack:  # fmt: skip
    """An attack by an edit of the other class, which `body` reaches in some way.

    The step may fail instead, since finery leaves a class out that nothing names.
    """
    return Attack(name, files(body, top), edit(old, new), same=True, fails=True, **kind)


def effect(name: str, line: str, old: str, new: str, top: str, body: str = "answer = SEEN",
           **kind: Any) -> Attack:  # fmt: skip
    """An attack by an edit of the other class, whose body has an effect."""
    made = OTHER.replace('    size: int = setting(3, help="A size.")', f"    {line}")
    return Attack(name, files(body, top, other=made), edit(old, new), same=True, **kind)


def independent(name: str, old: str, new: str, **kind: Any) -> Attack:
    """An edit of the other class that must not rerun the step."""
    return Attack(name, files(), edit(old, new), precise=True, **kind)


def library(code: str) -> dict[str, str | bytes]:
    """An installed library."""
    return distribution("lib", "1.0", {"lib.py": code})


SPY = """
import gc, sys
import finery
def subclasses(): return {c.__name__: c for c in finery.Step.__subclasses__()}
def caller(name): return sys._getframe(1).f_globals[name]
def member(module, name): return getattr(sys.modules[module], name)
def everything(name):
    return next(o for o in gc.get_objects() if isinstance(o, type) and o.__name__ == name)
"""
SEEN = "SEEN = []\n"
NAME = "'Oth' + 'er'"

CASES = [
    # -- the step's own class, and what it shares
    Attack("the class itself", files(), edit(ANSWERS, "answer = 2")),
    Attack("a function that both use", files("answer = shared()", "def shared(): return 1\n",
           other=OTHER.replace('"first"', "str(shared())")), edit("def shared(): return 1",
           "def shared(): return 2")),
    Attack("a constant of the file", files("answer = LIMIT", "LIMIT = 1\n"), edit("= 1", "= 2")),
    Attack("an import of the file", {**files("answer = helper.X", "import helper\n"),
           "helper.py": "X = 1\n"}, edit("1", "2", "helper.py")),
    Attack("an import that only the other class has", {**files(other=OTHER.replace(
           "return 1", "import helper; return helper.X")), "helper.py": "SEEN = 1\n"},
           edit("1", "2", "helper.py"), same=True),
    Attack("a base of both", in_file(files("answer = self.base()", "class Mine(Step, seeded=False):"
           "\n    def base(self): return 1\n", other=OTHER.replace("(Step", "(Mine")),
           "class Answer(Step", "class Answer(Mine"),
           edit("def base(self): return 1", "def base(self): return 2")),
    # -- the other class by its name
    reached("the other class by name", "answer = Other.value(None)", quick=True),
    reached("the other class by getattr",
            f"answer = getattr(sys.modules[__name__], {NAME}).value(None)"),
    reached("the other class by a string", "answer = globals()['Other'].value(None)"),
    reached("the other class by a computed string", f"answer = globals()[{NAME}].value(None)"),
    reached("the other class by vars", f"answer = vars(sys.modules[__name__])[{NAME}].value(None)"),
    reached("the other class by eval", f"answer = eval({NAME}).value(None)"),
    reached("the other class by the globals of a method",
            f"answer = self.run.__func__.__globals__[{NAME}].value(None)"),
    reached("the other class by a format string",
            "answer = '{0.run.__func__.__globals__[Other].value.__code__.co_consts}'.format(self)"),
    reached("the other class by a computed format string",
            "answer = ('{0.run.__func__.__glob' + 'als__[Oth' + 'er].value.__code__.co_consts}')"
            ".format(self)"),
    reached(
            "the other class by subclasses",
            "answer = [c for c in Step.__subclasses__() if c.__name__[:2] == 'Ot'][0].value(None)"),
    reached("the other class by methodcaller", "from operator import methodcaller\n"
            "answer = [c for c in methodcaller('__subclasses__')(Step) if c.__name__[:2] == 'Ot']"
            "[0].value(None)"),
    reached("the other class by a computed methodcaller", "from operator import methodcaller\n"
            "answer = [c for c in methodcaller('__sub' + 'classes__')(Step) if c.__name__[:2] == "
            "'Ot'][0].value(None)"),
    reached("the other class by attrgetter", "from operator import attrgetter\n"
            "answer = attrgetter('run.__func__.__glo' + 'bals__')(self)[" + NAME + "].value(None)"),
    reached("the other class by builtins", f"answer = __builtins__['glo' + 'bals']()[{NAME}]"
            ".value(None)"),
    reached("the other class by getattribute", "answer = object.__getattribute__(self.run.__func__,"
            f" '__glo' + 'bals__')[{NAME}].value(None)"),
    reached("the other class by gc", "import gc\nanswer = [o for o in gc.get_objects() if "
            "isinstance(o, type) and o.__name__[:5] == 'Oth' + 'er'][0].value(None)"),
    reached("the other class by its module imported", "import importlib\nm = importlib."
            f"import_module(__name__)\nanswer = m.__dict__[{NAME}].value(None)"),
    reached("the other class by its module's name", "m = __import__(__name__)\n"
            f"answer = getattr(m, {NAME}).value(None)"),
    reached("the other class by pkgutil", "import pkgutil\n"
            f"answer = pkgutil.resolve_name(__name__ + ':' + {NAME}).value(None)"),
    reached("the other class by pickle",
            "import pickle\nanswer = pickle.loads(b'c' + __name__.encode() + b'\\nOth' + b'er\\n.')"
            ".value(None)"),
    reached("the other class by a frame",
            f"answer = sys._getframe().f_globals[{NAME}].value(None)"),
    reached("the other class by a traceback", "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n"
            f"    answer = e.__traceback__.tb_frame.f_globals[{NAME}].value(None)"),
    reached("the other class by inspect", "import inspect\nanswer = [c for n, c in inspect."
            "getmembers(sys.modules[__name__]) if n[:3] == 'Oth'][0].value(None)"),
    reached("the other class by the table of step types", "table = finery_steps()\n"
            "answer = table['a.oth' + 'er'].value(None)"),
    reached("the other class by the values of the table",
            "answer = [c.value(None) for c in finery_steps().values() if c is not type(self)]"),
    reached("the other class by finery's plugins",
            "from finery.plugin.manager import load_plugins\n"
            "answer = load_plugins((HERE / 'steps.py',)).step_type('a.oth' + 'er').value(None)"),
    reached("the other class by runpy", "import runpy\n"
            f"answer = runpy.run_path(str(HERE / 'steps.py'))[{NAME}].value(None)"),
    reached("the other class by spec_from_file_location", "import importlib.util as u\n"
            "s = u.spec_from_file_location('again', HERE / 'steps.py')\n"
            "m = u.module_from_spec(s)\ns.loader.exec_module(m)\n"
            f"answer = getattr(m, {NAME}).value(None)"),
    reached("the other class by exec of the file", "d = {'__name__': 'x', '__file__': __file__}\n"
            f"exec(open(__file__).read(), d)\nanswer = d[{NAME}].value(None)"),
    reached("the other class in the source", "import inspect; answer = inspect.getsource("
            "sys.modules[__name__])"),
    reached("the other class in the file", "answer = Path(__file__).read_text()"),
    Attack("the other class by an alias", in_file(files("answer = K.value(None)"),
           "\n\nclass Answer", "\n\nK = Other\n\n\nclass Answer"), edit("return 1", "return 2")),
    Attack("the other class by a helper that imports the file", {**files("import helper\n"
           "answer = helper.find()"), "helper.py": "def find():\n    import steps\n"
           "    return getattr(steps, 'Oth' + 'er').value(None)\n"}, edit("return 1", "return 2")),
    Attack("the other class by a helper's star import", {**files("import helper\n"
           "answer = helper.find()"), "helper.py": "from steps import *\ndef find():\n"
           "    return globals()['Oth' + 'er'].value(None)\n"}, edit("return 1", "return 2")),
    # -- through a library, whose text isn't looked at
    Attack("a library that lists subclasses", {**files("import lib\n"
           f"answer = lib.subclasses()[{NAME}].value(None)"), **library(SPY)},
           edit("return 1", "return 2"), same=True, fails=True, quick=True),
    Attack("a library that reads its caller's globals", {**files("import lib\n"
           f"answer = lib.caller({NAME}).value(None)"), **library(SPY)},
           edit("return 1", "return 2"), same=True, fails=True),
    Attack("a library that is given the module's name", {**files("import lib\n"
           f"answer = lib.member(__name__, {NAME}).value(None)"), **library(SPY)},
           edit("return 1", "return 2"), same=True, fails=True),
    Attack("a library that looks through all objects", {**files("import lib\n"
           f"answer = lib.everything({NAME}).value(None)"), **library(SPY)},
           edit("return 1", "return 2"), same=True, fails=True),
    # -- effects of the other class's body
    effect("a call in the body", "SEEN.append(1)", "(1)", "(2)", SEEN),
    effect("a default that registers", "def f(self, x=SEEN.append(1)): ...", "(1)", "(2)", SEEN),
    Attack("a hint of a method that registers", files("answer = SEEN", SEEN,
           other=OTHER.replace("def value(self)", "def value(self) -> SEEN.append(1)")),
           edit("(1)", "(2)")),
    effect("an index of a class with an effect", "def f(self, x: Reg['a']): ...", "'a'", "'b'",
           SEEN + "class Reg:\n    def __class_getitem__(c, n):\n        SEEN.append(n)\n"
           "        return int\n"),
    effect("an assignment to an element", "SEEN[0] = 1", "[0] = 1", "[0] = 2", "SEEN = [0]\n"),
    effect("an assignment to an attribute", "Box.x = 1", "Box.x = 1", "Box.x = 2",
           "class Box: ...\n", "answer = Box.x"),
    effect("an addition in place", "SEEN += [1]", "[1]", "[2]", SEEN),
    effect("a global name in the body", "global LIMIT; LIMIT = 1", "T = 1", "T = 2", "LIMIT = 0\n",
           "answer = LIMIT", quick=True),
    effect("a deletion in the body", "del SEEN[0]", "[0]", "[1]", "SEEN = ['a', 'b']\n"),
    effect("a loop in the body", "for SEEN[0] in (1, 2): ...", "(1, 2)", "(1, 3)", "SEEN = [0]\n"),
    Attack("an import in the body", {**files("import box; answer = box.SEEN", "import box\n",
           other=OTHER.replace("    size: int", "    import one\n    size: int")),
           "box.py": SEEN, "one.py": "import box\nbox.SEEN.append(1)\n",
           "two.py": "import box\nbox.SEEN.append(2)\n"}, edit("import one", "import two")),
    Attack("a module that the body imports", {**files("import box; answer = box.SEEN",
           "import box\n", other=OTHER.replace('    size: int', "    import one\n    size: int")),
           "box.py": SEEN, "one.py": "import box\nbox.SEEN.append(1)\n"},
           edit("(1)", "(2)", "one.py")),
    effect("a descriptor by a name", "slot = SLOT", "slot = SLOT", "spot = SLOT", SEEN
           + "class Slot:\n    def __set_name__(self, o, n): SEEN.append(n)\nSLOT = Slot()\n"),
    effect("an operator in the body", "x = BOX + 1", "+ 1", "+ 2", SEEN
           + "class Box:\n    def __add__(self, n): SEEN.append(n)\nBOX = Box()\n"),
    effect("an attribute in the body", "x = BOX.a", "BOX.a", "BOX.b", SEEN
           + "class Box:\n    def __getattr__(self, n): SEEN.append(n)\nBOX = Box()\n"),
    effect("a format string in the body", "x = f'{BOX:a}'", ":a}", ":b}", SEEN
           + "class Box:\n    def __format__(self, n): SEEN.append(n); return n\nBOX = Box()\n"),
    effect("unpacking in the body", "x = [*BOX, 1]", "[*BOX, 1]", "[*BOX, *BOX]", SEEN
           + "class Box:\n    def __iter__(self): SEEN.append(1); return iter(())\nBOX = Box()\n"),
    effect("a comprehension in the body", "x = [SEEN.append(n) for n in (1, 2)]", "(1, 2)",
           "(1, 3)", SEEN),
    effect("a decorator of a method", "@SEEN.append\n    def f(self): return 7",
           "return 7", "return 8", SEEN, "answer = [f(0) for f in SEEN]"),
    Attack("a decorator of the class", files("answer = SEEN[0].value(0)", SEEN
           + "def keep(c): SEEN.append(c); return c\n",
           other=OTHER.replace("class Other", "@keep\nclass Other")), edit("return 1", "return 2")),
    Attack("a keyword of the class", files("answer = SEEN", SEEN, other=OTHER.replace(
           "seeded=False", "seeded=bool(SEEN.append(1))")), edit("(1)", "(2)")),
    Attack("a base that registers", files("answer = SEEN",
           SEEN + "class Mine(Step, seeded=False):\n"
           "    def __init_subclass__(c, **k):\n        SEEN.append(c.word)\n"
           "        super().__init_subclass__(**k)\n",
           other=OTHER.replace("(Step", "(Mine").replace("    size", "    word = 'one'\n    size")),
           edit("'one'", "'two'")),
    Attack("a setting function of its own", files("answer = SEEN", SEEN
           + "real = setting\ndef setting(*a, **k):\n    SEEN.append(k['help'])\n"
           "    return real(*a, **k)\n"), edit("A size", "The size")),
    Attack("the other class is also a function's name", files("answer = choose()",
           "def choose(): return 1\n"), edit("\n\nclass Answer", "\n\ndef choose(): return 2\n\n\n"
           "class Answer")),
    Attack("another class hides a name", files("answer = str(LIMIT)[:6]", "LIMIT = 1\n"),
           edit("class Other", "class LIMIT(Step, seeded=False): ...\n\n\nclass Other")),
    Attack("a table that does more", in_file(files("answer = [*SEEN, *finery_steps()]", SEEN),
           "    return {", "    SEEN.append(1)\n    return {"), edit("append(1)", "append(2)")),
    Attack("the other class gets an effect", files("answer = SEEN", SEEN),
           edit('    size: int', "    SEEN.append(1)\n    size: int")),
    Attack("the other class gets a decorator", files("answer = SEEN", SEEN
           + "def keep(c): SEEN.append(c.__name__); return c\n"),
           edit("class Other", "@keep\nclass Other")),
    Attack("the other class gets a base", files("answer = SEEN", SEEN
           + "class Mine(Step, seeded=False):\n    def __init_subclass__(c, **k):\n"
           "        SEEN.append(1); super().__init_subclass__(**k)\n"),
           edit("class Other(Step", "class Other(Mine")),
    Attack("the other class becomes nested in the step", {**files("answer = 1"), **more(
           "a: {use: a.answer}", "b: {use: a.other, rows: [a]}")}, edit('"first"', '"second"')),
    Attack("an input's step type in the same file", {**in_file(files(
           "answer = [r['prompt'] for d in self.rows for r in d]"),
           '    tag: int = setting(0, help="Makes a step its own.")',
           "    rows: list[Dataset] = []"),
           **more("b: {use: a.other}", "a: {use: a.answer, rows: [b]}")},
           edit('"first"', '"second"')),
    Attack("the other class in the middle of two edits", files(), both(edit("return 1", "return 2"),
           edit(ANSWERS, "answer = 3"))),
    Attack("two classes, edited in turn", {**files(), **more(
           "a: {use: a.answer}", "b: {use: a.other}")}, edit('"first"', '"second"'),
           then=[edit(ANSWERS, "answer = 2"), edit('"second"', '"first"')]),
    # -- edits that don't matter
    independent("precise: a method of the other class", "return 1", "return 2"),
    independent("precise: run of the other class", '"first"', '"second"', quick=True),
    independent("precise: the docstring of the other class", "Another step", "One more step"),
    independent("precise: a default of the other class", "setting(3", "setting(4"),
    independent("precise: the help of the other class", "A size", "The size"),
    independent("precise: a new method of the other class", "    def value",
                "    def more(self): ..."
                "\n\n    def value"),
    independent("precise: a new setting of the other class", "    def value",
                '    wide: int = setting(1, help="A width.")\n\n    def value'),
    independent("precise: an import in a function of the other class", "return 1",
                "import json; return json"),
    Attack("precise: a comment", files(), edit("class Answer", "# a comment\nclass Answer"),
           precise=True, quick=True),
    Attack("precise: blank lines", files(), edit("\n\nclass Answer", "\n\n\n\n\nclass Answer"),
           precise=True),
    Attack("precise: a readme", files() | {"README.md": "a"}, put("README.md", "b"), precise=True),
    Attack("precise: a test in the project", files() | {"test_steps.py": "import steps\n"},
           put("test_steps.py", "import steps, os\n"), precise=True),
    Attack("precise: a module that nothing imports", files() | {"tool.py": "X = 1\n"},
           put("tool.py", "X = 2\n"), precise=True),
    Attack("precise: a comment in a helper", {**files("answer = helper.X", "import helper\n"),
           "helper.py": "X = 1\n"}, put("helper.py", "# x\nX = 1  # y\n"), precise=True),
    Attack("precise: the other class, with a helper of its own", {**files(other=OTHER.replace(
           "return 1", "import deep; return deep.X"), body=ANSWERS), "deep.py": "X = 1\n"},
           edit("return deep.X", "return deep.X + 1"), precise=True),
]  # fmt: skip


@attacks(CASES)
def test_a_neighbour(attack: Attack, tmp_path: Path) -> None:
    attack.run(tmp_path)
