"""The table of the definitions that finery's own steps reach: tools/definitions."""

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from tools.definitions.parse import parse
from tools.definitions.reach import Reach
from tools.definitions.refused import EXCEPTIONS, refused_on_import
from tools.definitions.sources import TABLE, Node, Sources
from tools.definitions.table import Refused, table

from finery.step.inspect import OUTSIDE_KEYS

HOME = Path(__file__).parents[1]


@cache
def committed() -> str:
    return (HOME / "core" / TABLE).read_text(encoding="utf-8")


def test_the_table_is_that_of_the_code() -> None:
    assert table(HOME) == committed(), "write it anew: python -m tools.definitions"


# What of the real code counts


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of finery's packages."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in ("core/finery", "plugins"):
        shutil.copytree(HOME / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(HOME / ".importlinter", folder / ".importlinter")
    return folder


def changed_steps(checkout: Path, *edits: tuple[str, str, str]) -> set[str]:
    """The step types, engines and functions with other digests after edits.

    edits: (label, old text, new text).
    """
    originals: dict[Path, str] = {}
    try:
        for label, old, new in edits:
            path = checkout / ("core" if label.startswith("finery/") else "plugins") / label
            text = path.read_text(encoding="utf-8")
            assert text.count(old) == 1, (label, old)
            originals.setdefault(path, text)
            path.write_text(text.replace(old, new), encoding="utf-8")
        before, after = (json.loads(t)["subjects"] for t in (committed(), table(checkout)))
        changed = {name for name, files in after.items() if files != before[name]}
        return {name for name in changed if not name.startswith("module:")}
    finally:
        for path, text in originals.items():
            path.write_text(text, encoding="utf-8")


def test_words_for_users_are_not_in_any_digest(checkout: Path) -> None:
    split, notes = "finery_data/steps/split.py", "finery_advice/notes.py"
    edits = [
        (split, '"""The splits asked for."""', '"""Its outputs."""'),
        (split, "there are no rows to split", "no rows are left to split"),
        (split, "check the steps that `rows` names", "look at the steps that `rows` names"),
        (split, "rows: {', '.join(parts)}", "rows in {', '.join(parts)}"),
        (split, "(self, job: Job) -> Splits:", '(self, job: "Job") -> "Splits":'),
        ("finery_data/view/dataset.py", "def row_facts(", "def facts_of_rows("),
        (notes, "def few_rows(t: Training)", "def fewer_rows(t: Training)"),
        ("finery_trl/preflight.py", "learned after every document", "learned after documents"),
    ]
    assert changed_steps(checkout, *edits) == set()


def test_a_line_of_a_step_changes_that_step(checkout: Path) -> None:
    line = "if split == index and number - 1 in leaks:"
    edit = ("finery_data/steps/split.py", line, line.replace("- 1", "+ 1"))
    assert changed_steps(checkout, edit) == {"finery_data.steps.split:Split"}


def test_a_line_of_the_kit_changes_the_steps_that_reach_it(checkout: Path) -> None:
    changed = changed_steps(checkout, ("finery/rows/near.py", "_SEED = 1", "_SEED = 2"))
    assert {"finery_data.steps.copies:Dedup", "finery_data.steps.split:Split"} < changed
    assert "finery_data.steps.sample:Mix" not in changed


def test_a_template_changes_the_step_that_fills_it_in(checkout: Path) -> None:
    path, label = (
        "core/finery/views/templates/section.html.jinja",
        "finery/views/templates/section.html.jinja",
    )
    text = (checkout / path).read_text(encoding="utf-8")
    first = text.splitlines()[0]
    edit = (label, text, f"{first} {text}")
    assert changed_steps(checkout, edit) == {"finery_data.steps.report:DataReport"}


def test_files_that_are_not_code_belong_to_steps_or_to_what_is_not_in_keys() -> None:
    """A file that a step reads by a computed name would be missing."""
    reached = {label for files in json.loads(committed())["subjects"].values() for label in files}
    data = {label for label in Sources(HOME).files if not label.endswith((".py", ".pyi", ".typed"))}
    assert {label.rpartition("/")[0] for label in data - reached if "aliases" not in label} == {
        "finery/cli/catalog/templates",
        "finery/plugin",  # distributions for fixes
        "finery_review/page",
        *(label.rpartition("/")[0] for label in data if label.startswith("finery/templates/")),
    }  # fmt: skip


# What of a file counts

STEP = '''
from typing import NamedTuple, TYPE_CHECKING
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


def digests(text: str) -> list[tuple[str, str]]:
    """What counts of a file with this text: the name and digest of each statement."""
    units = parse(text.encode(), "step.py").units.values()
    pieces = sorted((piece for unit in units for piece in unit.pieces), key=lambda p: p.line)
    return [(piece.name, piece.digest) for piece in pieces]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return 1 + 2", "return (  # three\n            1\n            + 2\n        )"),
        ('"""X."""', '"""Something else."""'),
        ('"""How large."""', '"""How large it is."""'),
        ("job: Job) -> Dataset", 'job: "Job") -> "Dataset"'),
        ("no rows in {self.size}", "nothing at all in '{self.size}'"),
        ("add some", "add some, or take the step out"),
        ("rows of {", "rows found, of {"),
        ('help="Size."', 'help="How large it is.", examples=[3]'),
        ("LIMIT:", "if TYPE_CHECKING:\n    from elsewhere import Row\nLIMIT:"),
    ],
)  # fmt: skip
def test_what_cannot_change_an_output_is_no_code(old: str, new: str) -> None:
    assert old in STEP
    assert digests(STEP.replace(old, new)) == digests(STEP)


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
        ("assert rows", "assert not rows"),
    ],
)
def test_every_other_change_is_code(old: str, new: str) -> None:
    assert old in STEP
    assert digests(STEP.replace(old, new)) != digests(STEP)


@pytest.mark.parametrize(
    ("text", "new"),
    [
        # Whoever catches an exception that isn't finery's may keep its text.
        ('def f(): raise Found("{}")', "text"),
        ('def f():\n    from own import StepError\n    raise StepError("{}")', "text"),
        ('def f(): raise StepError(Found("{}"))', "text"),
        ('def f(): raise StepError() from Found("{}")', "text"),
        # A string that decides something is a value, also within an error or a log line.
        ('def f(): raise StepError(label="{}")', "label"),
        ('def f(): raise StepError(kind == "{}")', "kind"),
        ('def f(): raise StepError(rows["{}"])', "column"),
        ('def f(): raise StepError(lookup("{}"))', "name"),
        ('def f(): raise StepError(word := "{}")', "word"),
        # What isn't a job's log may do anything with a text.
        ('def f(): report.log("{}")', "text"),
        ('def f(): job.write("{}")', "text"),
        # A decorator may read annotations and docstrings.
        ('from own import cache\n@cache\ndef f(x: "{}"): ...', "int"),
        ('@tool\ndef f():\n    """{}"""\n    return 1', "Find it."),
        # A class body in a function is one, too.
        ('def f():\n    class Row(NamedTuple):\n        x: "{}"', "int"),
    ],
)
def test_strings_and_annotations_that_do_something_are_code(text: str, new: str) -> None:
    text = f"from finery import StepError\n{text}"
    assert digests(text.format(new)) != digests(text.format("x"))


def test_a_class_and_its_methods_are_not_mixed_up() -> None:
    inside = digests("class A:\n    x = 1\n    def f(self): ...\n")
    assert inside != digests("class A:\n    x = 1\ndef f(self): ...\n")
    assert inside != digests("class A:\n    def f(self): ...\n    x = 1\n")
    assert digests("def f(*, x): ...\n") != digests("def f(*, x=None): ...\n")
    assert digests("A = {None: B}\n") != digests("A = {**B}\n")
    assert digests("def f():\n    x: int\n    return x\n") != digests("def f():\n    return x\n")


# Which definitions count

RUN = "class X:\n    def run(self):\n        return {}\n"
FILES = {
    "help.py": "def f(): return 1\ndef g(): return 2\n",
    "tool.py": "from finery_own.deep.under import g\ndef f(): return g()\ndef h(): return 1\n",
    "deep/__init__.py": "from finery_own.deep import under\n",
    "deep/under.py": "def g(): return 1\ndef h(): return 1\n",
}


def sources_of(folder: Path, files: Mapping[str, str]) -> Sources:
    """A checkout with a plugin `finery_own`."""
    for name, text in {"__init__.py": "", **files}.items():
        path = folder / "plugins" / "finery_own" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")
    rows = folder / "core/finery/rows"
    rows.mkdir(parents=True)
    (rows / "__init__.py").write_text("from finery.rows.row import row_id\n")
    (rows / "row.py").write_text("OWN = 1\ndef row_id(): return OWN\ndef other(): ...\n")
    return Sources(folder)


def reach_of(folder: Path, files: Mapping[str, str]) -> Reach:
    """What class X in `step.py` reaches."""
    return Reach(sources_of(folder, files), [Node("finery_own.step", "X")])


def definitions(reach: Reach) -> dict[str, set[str]]:
    """File → units that count, without imports."""
    units: dict[str, set[str]] = {}
    for label, pieces in reach.files().items():
        names = {p.name.partition(".")[0] for p in pieces if not p.name.startswith("import ")}
        if names:
            units[label.removeprefix("finery_own/")] = names
    return units


@pytest.mark.parametrize(
    ("line", "read", "others"),
    [
        ("from finery_own.help import f", "f", {"help.py": {"f"}}),
        ("from finery_own.help import f as h", "h", {"help.py": {"f"}}),
        ("from finery_own import help", "help.f", {"help.py": {"f"}}),
        ("import finery_own.help", "1", {}),
        ("import finery_own.help", "finery_own.help.f", {"help.py": {"f"}}),
        ("import finery_own.deep as d", "d.under.g", {"deep/under.py": {"g"}}),
        ("from finery_own.tool import f", "f", {"tool.py": {"f"}, "deep/under.py": {"g"}}),
        ("from finery_own import help", "getattr(help, 'f')", {"help.py": {"f", "g"}}),
        ("from finery_own.help import f", "[f for f in ()]", {}),
        ("from finery_own.help import f", "(lambda f: f)", {}),
        ("import json, finery, msgspec.json", "json.dumps", {}),
        ("import importlib", "importlib.import_module('yaml')", {}),
        ("from finery import Dataset, Step", "(Dataset, Step)", {}),
        ("import finery", "finery.rows.row.OWN", {"finery/rows/row.py": {"OWN"}}),
        ("from finery.rows import row_id", "row_id", {"finery/rows/row.py": {"OWN", "row_id"}}),
    ],
)
def test_names_are_followed_into_plugins_and_the_kit(
    tmp_path: Path, line: str, read: str, others: dict[str, set[str]]
) -> None:
    at_top = f"{line}\n{RUN.format(read)}"
    inside = RUN.format(read).replace("return", f"{line}\n        return")
    for number, step in enumerate((at_top, inside)):
        reach = reach_of(tmp_path / str(number), {**FILES, "step.py": step})
        assert not reach.refused
        assert definitions(reach) == {"step.py": {"X"}, **others}


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("A = 1\nB = 2", {"A"}),
        ("def A(): return B\nB = 1\nC = 2", {"A", "B"}),
        ("B = 1\ndef A(x=B): ...", {"A", "B"}),
        ("from functools import cache\n@cache\ndef A(): ...\n@cache\ndef B(): ...", {"A"}),
        ("class Base: ...\nclass A(Base): ...\nclass B(Base): ...", {"A", "Base"}),
        ("import re\nA = re.compile('a')\nB = re.compile('b')", {"A"}),
        ("class C: ...\nA = C()", {"A", "C"}),
        ("import typing\nclass C: ...\nclass A(typing.NamedTuple):\n    x: 'C'", {"A", "C"}),
        ("class C: ...\ndef A(x: 'C') -> C: ...", {"A"}),
        ("def A():\n    def f():\n        global B\n        B = 1\nB = 2", {"A", "B"}),
        ("A = 1\nif __name__ == '__main__': A()", {"A", ""}),
        ("from finery import outside_key\n@outside_key\ndef f(): return B\n"
         "def A(): return f()\nB = 1", {"A"}),
        ("import finery\nclass A:\n    @finery.outside_key\n    def f(self): return B\n"
         "    def g(self): return C\nB = 1\nC = 2", {"A", "C"}),
        ("def outside_key(f): return f\n@outside_key\ndef A(): return B\nB = 1",
         {"A", "B", "outside_key"}),
    ],
)  # fmt: skip
def test_what_a_name_needs_counts(tmp_path: Path, text: str, counts: set[str]) -> None:
    step = f"from finery_own.part import A\n{RUN.format('A')}"
    reach = reach_of(tmp_path, {"part.py": text, "step.py": step})
    assert definitions(reach)["part.py"] == counts


STEP_TYPE = """
import random
from finery import Step
from finery_own import part
class Told: ...
class X(Step, metrics=Told):
    def run(self): return f()
    def check(self): return g()
    def cache_key(self): return (g(),)
    def outputs(self): return h()
def f(): return 1
def g(): return 2
def h(): return 3
def prepare(step): step.check()
"""


@pytest.mark.parametrize(
    ("call", "counts"),
    [
        ("return f()", False),
        ("self.check()", True),
        ("self.check.__call__()", True),
        ("prepare(self)", True),
        ("return [getattr(self, 'check')]", True),
        ("return part.check(self)", False),
        ("return random.choices(self)", False),
    ],
)
def test_a_method_outside_keys_counts_if_run_names_it(
    tmp_path: Path, call: str, counts: bool
) -> None:
    step = STEP_TYPE.replace("return f()", call)
    reach = reach_of(tmp_path, {"part.py": "def check(x): ...", "step.py": step})
    assert definitions(reach)["step.py"] - {"f", "prepare"} == {"X", "h", *"g" * counts}


@pytest.mark.parametrize("method", sorted(name for name in OUTSIDE_KEYS if name.isidentifier()))
def test_rewording_a_method_outside_keys_leaves_the_key(tmp_path: Path, method: str) -> None:
    text = STEP_TYPE.replace("def check(", f"def {method}(")
    reach = reach_of(tmp_path, {"part.py": "", "step.py": text})
    assert definitions(reach)["step.py"] == {"X", "f", "h"}


def test_what_a_job_has_is_no_method_of_the_step(tmp_path: Path) -> None:
    step = STEP_TYPE.replace("def run(self): return f()", "def run(self, job): job.provenance")
    step = step.replace("def check(self)", "def provenance(self)")
    reach = reach_of(tmp_path, {"part.py": "", "step.py": step})
    assert definitions(reach)["step.py"] == {"X", "h"}


def test_for_code_of_others_methods_outside_keys_and_marked_functions_count(tmp_path: Path) -> None:
    step = STEP_TYPE.replace("return f()", "return i()")
    step += "from finery import outside_key\n@outside_key\ndef i(): return f()\n"
    sources = sources_of(tmp_path, {"part.py": "", "step.py": step})
    own, theirs = (
        definitions(Reach(sources, [Node("finery_own.step", "X")], by_others=by_others))["step.py"]
        for by_others in (False, True)
    )
    assert (own, theirs) == ({"X", "h"}, {"X", "f", "g", "h", "i"})


def test_a_file_that_a_definition_names_counts_by_its_bytes(tmp_path: Path) -> None:
    page = "from pathlib import Path\nPAGE = Path(__file__).with_name('page.jinja')\n"
    step = f"from finery_own.deep.page import PAGE\n{RUN.format('PAGE')}"
    parts = {
        "page.jinja": '{% include "finery_own/part.jinja" %}',
        "part.jinja": "a",
        "b.jinja": "",
    }
    files = {"deep/page.py": page, "deep/page.jinja": parts["page.jinja"], **parts}
    data = {"finery_own/deep/page.jinja", "finery_own/part.jinja"}
    assert reach_of(tmp_path, {**files, "step.py": step}).data == data


def test_a_program_that_a_definition_names_counts_with_what_it_reaches(tmp_path: Path) -> None:
    program = "from finery_own.help import f\nif __name__ == '__main__': f()\n"
    step = f"PROGRAM = 'program.py'\n{RUN.format('PROGRAM')}"
    reach = reach_of(tmp_path, {**FILES, "program.py": program, "step.py": step})
    assert definitions(reach) == {
        "help.py": {"f"}, "program.py": {""}, "step.py": {"X", "PROGRAM"}
    }  # fmt: skip
    assert reach.data == {"finery_own/program.py"}


def test_a_module_that_is_a_value_counts_as_a_whole_and_by_its_bytes(tmp_path: Path) -> None:
    step = f"from finery_own import help\n{RUN.format('help')}"
    reach = reach_of(tmp_path, {**FILES, "step.py": step})
    assert definitions(reach)["help.py"] == {"f", "g"}
    assert reach.data == {"finery_own/help.py"}


# What is refused


@pytest.mark.parametrize(
    ("line", "read", "construct"),
    [
        ("import importlib", "importlib.import_module(str('a'))", "importlib.import_module"),
        ("import importlib as i", "i.import_module('finery_own.help')", "importlib.import_module"),
        ("", "__import__('a')", "builtins.__import__"),
        ("", "eval('B')", "builtins.eval"),
        ("", "globals()['B']", "builtins.globals"),
        ("", "vars(self)", "builtins.vars"),
        ("", "type(self).__subclasses__()", ".__subclasses__"),
        ("", "getattr(self, '__doc__')", ".__doc__"),
        ("", "self.run.__globals__", ".__globals__"),
        ("import sys", "sys.modules[__name__]", "sys.modules"),
        ("import sys", "sys._getframe(1)", "sys._getframe"),
        ("import inspect", "inspect.getsource(self)", "inspect.getsource"),
        ("from typing import get_type_hints as h", "h(self)", "typing.get_type_hints"),
        ("import gc", "gc.get_objects()", "gc.get_objects"),
        ("import pickle", "pickle.loads(b'')", "pickle.loads"),
        ("import msgspec", "msgspec.json.schema(int)", "msgspec.json.schema"),
        ("import finery.advanced as f", "f.load_plugins()", "finery.advanced.load_plugins"),
        ("", "'finery_own.help:f'", '"finery_own.help:f"'),
        ("from finery_own import deep", "print(deep)", "finery_own.deep"),
        ("from finery_own.help import missing", "missing", "finery_own.help.missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(
    tmp_path: Path, line: str, read: str, construct: str
) -> None:
    step = f"{line}\n{RUN.format(read)}"
    refused = reach_of(tmp_path, {**FILES, "step.py": step}).refused
    place = "finery_own/step.py:4", "finery_own.step:X.run"
    assert (*place, construct) in {refusal[:3] for refusal in refused}


def test_what_run_does_not_reach_may_do_anything(tmp_path: Path) -> None:
    step = f"def f(): return eval('1')\n{RUN.format(1)}"
    assert not reach_of(tmp_path, {"step.py": step}).refused


@pytest.mark.parametrize(
    "text",
    [
        "A = []\nA.append(1)", "A = {}\nA[1] = 2", "A = 1\nA += 1", "print(1)", "for A in (): ...",
        "A = {}\nclass B:\n    A[1] = 2",
        "try:\n    import a\nexcept ImportError:\n    a = None", "if 1:\n    A = 1",
        "from finery_own.help import *", "from . import help",
        "def add(f): return f\n@add\ndef A(): ...", "def make(): ...\nA = make()",
        "def make(): ...\nclass A:\n    a = make()", "def make(): ...\ndef A(x=make()): ...",
        "class A:\n    def __init_subclass__(cls): ...", "class A(metaclass=type): ...",
        "class A:\n    def __class_getitem__(cls, x): ...",
        "from functools import singledispatch\n@singledispatch\ndef f(x): ...\n"
        "@f.register\ndef _(x: int): ...",
        "def f(job): ...", "from finery_own.help import Job\ndef f(job: Job): ...",
    ],
)  # fmt: skip
def test_a_module_with_an_effect_is_refused(tmp_path: Path, text: str) -> None:
    refused = refused_on_import(sources_of(tmp_path, {**FILES, "part.py": text}))
    assert {refusal.place.partition(":")[0] for refusal in refused} == {"finery_own/part.py"}


@pytest.mark.parametrize(
    "text",
    [
        "import re\nA = re.compile('a')\nB = 'a b'.split(), [*map(str, [1])], len('')",
        "class C: ...\nA = C()\nclass B:\n    c = C()",
        "import functools\n@functools.cache\ndef A(): eval('1')",
        "class B:\n    @property\n    def b(self): ...\n    @b.setter\n    def b(self, x): ...",
        "from finery import Job\ndef f(job: 'Job'): ...",
        "if __name__ == '__main__':\n    print(1)",
    ],
)
def test_a_module_without_an_effect_is_not_refused(tmp_path: Path, text: str) -> None:
    assert refused_on_import(sources_of(tmp_path, {"part.py": text})) == []


def test_every_exception_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = {(what, where) for what, names in EXCEPTIONS.items() for where in names}
    monkeypatch.setattr("tools.definitions.refused.EXCEPTIONS", {"calls on import": {}})
    with pytest.raises(Refused) as caught:
        table(HOME)
    refused = {(each.construct, each.definition) for each in caught.value.refusals}
    assert {pair for pair in exceptions if pair[0] != "calls on import"} <= refused
