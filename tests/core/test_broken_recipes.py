"""Recipes with one mistake each: the real command says where, what, and how to repair it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import MakeProject
from mistakes import checked

HERE = "‸"
"""Marks the place in a recipe that the error must name; it isn't part of the recipe."""

ROWS = "".join(f'{{"prompt": "{n} + {n}?", "completion": "{2 * n}"}}\n' for n in range(9))
DATA = "finery: 1\ndata:\n  rows: {use: data.file, path: rows.jsonl}\n"
SPLIT = f"{DATA}  split: {{use: data.split, rows: rows}}\n"
EXACT = f"""\
{DATA}models:
  m: {{use: local.wheel, package: p, version: "1", file: m.gguf, sha256: "{"0" * 64}"}}
evaluate:
  e:
    use: eval.exact
    models: [m]
    rows: rows
"""


@dataclass
class Broken:
    """A broken recipe, and what the error must say."""

    recipe: str
    what: str
    fix: str
    where: str = ""  # default: where `HERE` stands
    files: Mapping[str, str] = field(default_factory=dict)
    args: tuple[str, ...] = ()

    def text(self) -> str:
        return self.recipe.replace(HERE, "")

    def must_be(self, code: int, message: str) -> None:
        """Fail unless a command ended so, and said so."""
        assert code == 2, message
        lines = message.splitlines()
        (error,) = [i for i, line in enumerate(lines) if "error: " in line]
        assert self.what in "\n".join(lines[error:]), message
        assert lines[error].startswith(self.place()), message
        assert any(line.startswith("  fix: ") and self.fix in line for line in lines), message
        assert "Traceback" not in message

    def place(self) -> str:
        if HERE not in self.recipe:
            return self.where
        before = self.recipe[: self.recipe.index(HERE)]
        line, start = before.count("\n") + 1, before.rfind("\n") + 1
        return f"recipe.yaml:{line}:{len(before) - start + 1}"


def step(text: str) -> str:
    """A recipe with one step, `rows`."""
    return f"finery: 1\ndata:\n  rows: {{{text}}}\n"


def plugin(text: str) -> dict[str, str]:
    """A plugin file `p.py`."""
    return {"p.py": f"from finery import *\n{text}"}


PLUGIN = f"{DATA}plugins: [p.py]\n"
OWN_TYPE = f"finery: 1\nplugins: [p.py]\ndata:\n  rows: {{use: {HERE}p.x}}\n"
PROVIDE = '@hookimpl\ndef finery_steps():\n    return {"p.x": X}\n'

YAML = {
    "tab after spaces": Broken(
        f"finery: 1\ndata:\n  rows:\n    use: x\n  {HERE}\tpath: x\n", "with a tab", "spaces"
    ),
    "wrong bracket": Broken(step(f"path: [a{HERE}"), "expected ',' or ']'", "brackets"),
    "aliases multiply": Broken(
        "finery: 1\nx-0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
        "aliases multiply to more than 200,000 parts",
        "remove aliases",
        where="recipe.yaml:2",
    ),
    "alias in itself": Broken(f"finery: 1\nx-a: {HERE}&a [*a]\n", "contains itself", "remove"),
    "Python tag": Broken(
        f"finery: 1\nx-a: {HERE}!!python/object:os.system {{}}\n",
        "the tag !!python/object:os.system is not allowed",
        "remove the tag",
    ),
    "own tag": Broken(
        f"finery: 1\nname: {HERE}!include a.yaml\n", "tag !include", "remove the tag"
    ),
    "deep lists": Broken(
        f"finery: 1\nx-a: {'[' * 99}{HERE}{'[' * 99}{']' * 198}\n",
        "nested too deeply",
        "flatten",
    ),
    "very deep lists": Broken(
        f"finery: 1\nx-a: {'[' * 9000}{']' * 9000}\n",
        "nested too deeply",
        "flatten",
        "recipe.yaml:2:",
    ),
    "NUL": Broken(f"finery: 1\nname: a{HERE}\0b\n", "character #x0000 is not allowed", "delete it"),
    "huge number": Broken(f"finery: 1\nseed: {HERE}{10**30}\n", "too large", "put it in quotes"),
    "5,000 digits": Broken(f"finery: 1\nseed: {HERE}{'9' * 5000}\n", "too large", "quotes"),
}

TOP = {
    "name is a number": Broken(f"{DATA}name: {HERE}3\n", "'name' can't be 3", "put it in quotes"),
    "seed below 0": Broken(f"{DATA}seed: {HERE}-1\n", "'seed' can't be -1", "at least 0, at most"),
}

STEPS = {
    "use as list": Broken(
        step(f"use: {HERE}[data.file]"), "must name one step type", "add `use:` with one of"
    ),
    "unset variable": Broken(
        step(f"use: data.file, path: rows.jsonl, env: [{HERE}FINERY_TEST_NOT_SET]"),
        "the environment variable FINERY_TEST_NOT_SET, which step 'rows' needs, isn't set",
        "export FINERY_TEST_NOT_SET=…",
    ),
}

SETTINGS = {
    "missing setting": Broken(
        f"finery: 1\ndata:\n  {HERE}rows: {{use: data.file}}\n",
        "data.file needs 'path'",
        "path: File",
    ),
    "missing input": Broken(
        f"{DATA}  {HERE}split: {{use: data.split}}\n", "data.split needs 'rows'", "makes a Dataset"
    ),
    "no such choice": Broken(
        step(f"use: data.file, path: a, bad_rows: {HERE}mend"),
        "can't be 'mend'",
        "one of: error, skip",
    ),
    "no input in the list": Broken(
        f"{DATA}  split: {{use: data.split, rows: {HERE}[]}}\n",
        "can't be an empty list",
        "at least 1",
    ),
    "settings that don't fit": Broken(
        step("use: data.file, path: rows.jsonl, format: alpaca, columns: {user: a, assistant: b}"),
        "`format` and `columns` exclude each other",
        "",
        where="recipe.yaml:3:",
    ),
    "bad regular expression": Broken(
        f"{EXACT}    extract: {HERE}'('\n", "not a regular expression", "correct it"
    ),
}

REFERENCES = {
    "output of a step with one": Broken(
        f"{DATA}  b: {{use: data.split, rows: {HERE}rows.train}}\n",
        "step 'rows' has a single output without a name",
        "write rows",
    ),
    "the same rows twice": Broken(
        f"{SPLIT}  b: {{use: data.dedup, rows: [split.train, rows, {HERE}split.train]}}\n",
        "'rows' has the rows of 'split.train' twice",
        "data.mix takes rows more often by `weights`",
    ),
}

FILES = {
    "file in no folder": Broken(
        step(f"use: data.file, path: {HERE}data/a.jsonl"),
        "there is no file data/a.jsonl",
        "relative to",
    ),
    "bad row": Broken(
        DATA,
        "invalid JSON",
        "repair the row; or skip bad rows with bad_rows: skip",
        "rows.jsonl:10",
        {"rows.jsonl": f'{ROWS}{{"prompt": \n'},
    ),
    "row without an answer": Broken(
        DATA,
        "no column",
        "bad_rows: skip",
        "rows.jsonl:10",
        {"rows.jsonl": f'{ROWS}{{"prompt": "a"}}\n'},
    ),
}

PLUGINS = {
    "plugins as text": Broken(
        f"{DATA}plugins: {HERE}p.py\n", "'plugins' must be a list", "[./checks.py]"
    ),
    "missing plugin file": Broken(
        f"{DATA}plugins: [{HERE}mine.py]\n", "there is no plugin file mine.py", "one of: steps.py"
    ),
    "plugin with a syntax error": Broken(
        PLUGIN, "fails on import: SyntaxError", "repair it", "p.py:2:5", plugin("def (:\n")
    ),
    "plugin that raises": Broken(
        PLUGIN,
        "ValueError: no luck",
        "repair it",
        "p.py:3",
        plugin("\nraise ValueError('no luck')\n"),
    ),
    "plugin without a library": Broken(
        PLUGIN, "No module named 'nosuchlib'", "repair it", "p.py:2", plugin("import nosuchlib\n")
    ),
    "hook mistyped": Broken(
        PLUGIN,
        "plugin 'p' implements the unknown hook 'finery_step'",
        "did you mean 'finery_steps'?",
        "p.py:2",
        plugin("@hookimpl\ndef finery_step():\n    return {}\n"),
    ),
    "hook of an early version": Broken(
        PLUGIN,
        "plugin 'p' implements the unknown hook 'finery_step_failed'",
        "implement finery_build_event(event, graph)",
        "p.py:2",
        plugin("@hookimpl\ndef finery_step_failed(name):\n    pass\n"),
    ),
    "hook with a wrong argument": Broken(
        PLUGIN,
        "takes 'recip', which this hook doesn't have",
        "one of: graph, results",
        files=plugin("@hookimpl\ndef finery_checks(recip, results):\n    return []\n"),
    ),
    "hook that raises": Broken(
        PLUGIN,
        "finery_steps of plugin 'p' fails: ZeroDivisionError",
        "repair it",
        "p.py",
        plugin("@hookimpl\ndef finery_steps():\n    return 1 / 0\n"),
    ),
    "step type of another plugin": Broken(
        PLUGIN,
        "'data.file' is provided twice: by plugin 'data' (finery ",
        "rename one",
        files=plugin("@hookimpl\ndef finery_steps():\n    return {'data.file': Step}\n"),
    ),
    "step type that isn't there": Broken(
        OWN_TYPE,
        "step type 'p.x' of plugin 'p' (p.py) can't be loaded from 'nosuch:X'",
        "repair the plugin",
        files=plugin("@hookimpl\ndef finery_steps():\n    return {'p.x': 'nosuch:X'}\n"),
    ),
    "step type of no step": Broken(
        OWN_TYPE, "p.py:X is not a step type", "subclass", files=plugin(f"class X: ...\n{PROVIDE}")
    ),
    "setting without help": Broken(
        OWN_TYPE,
        "setting 'n' has no help",
        'n = setting(…, help="…")',
        files=plugin(
            "class X(Step):\n    'X.'\n    n: int = 1\n"
            f"    def run(self, job: Job) -> Dataset: ...\n{PROVIDE}"
        ),
    ),
    "step type without run": Broken(
        OWN_TYPE,
        "step type 'p.x': p.py:X has no method `run` (p.py)",
        "def run(self, job: Job) -> Dataset",
        files=plugin(
            "class X(Step):\n    'X.'\n    def outputs(self): return {'': Dataset}\n"
            f"    def runs(self, job: Job) -> Dataset: ...\n{PROVIDE}"
        ),
    ),
    "unknown role": Broken(
        OWN_TYPE,
        "the role 'trian' of 'rows' must be one of train, validation, examples, calibrate",
        "docs/howto/plugins.md",
        files=plugin(
            "from finery import takes\nclass X(Step):\n    'X.'\n"
            "    rows: Dataset = takes(role='trian', help='Rows.')\n"
            f"    def run(self, job: Job) -> Dataset: ...\n{PROVIDE}"
        ),
    ),
    "unknown task": Broken(
        OWN_TYPE,
        "task='clasification' isn't known: did you mean 'classification'?",
        "docs/howto/plugins.md",
        files=plugin(
            "class X(Step, task='clasification'):\n    'X.'\n"
            f"    def run(self, job: Job) -> Dataset: ...\n{PROVIDE}"
        ),
    ),
    "method that finery called before": Broken(
        OWN_TYPE,
        "step type 'p.x': p.py:X has the method `gpu_count`, which finery doesn't call",
        "return it from `resources`",
        files=plugin(
            "class X(Step):\n    'X.'\n    def gpu_count(self): return 1\n"
            f"    def run(self, job: Job) -> Dataset: ...\n{PROVIDE}"
        ),
    ),
    "class keyword that is a method now": Broken(
        PLUGIN,
        "class X has the keyword 'traceable', which no longer exists: move its methods into the "
        "class, as `trace_rows`",
        "repair it",
        "p.py:2",
        plugin(
            "class X(Step, traceable='p:Places'):\n    'X.'\n"
            f"    def run(self, job: Job) -> Dataset: ...\n{PROVIDE}"
        ),
    ),
    "run with an unknown return type": Broken(
        OWN_TYPE,
        "name 'Datset' is not defined",
        "import the type",
        files=plugin(
            f"class X(Step):\n    'X.'\n    def run(self, job) -> 'Datset': ...\n{PROVIDE}"
        ),
    ),
}

OVERRIDES = {
    "--set without a value": Broken(
        DATA,
        "--set expects PATH=VALUE",
        "--set train.sft.epochs=1",
        "--set seed",
        args=("--set", "seed"),
    ),
    "--set of an unknown step": Broken(
        DATA,
        "'data.rowz' was not found in the recipe",
        "did you mean 'rows'?",
        "--set data.rowz.take=1",
        args=("--set", "data.rowz.take=1"),
    ),
    "--set of a wrong value": Broken(
        DATA,
        "'take' can't be 'x'",
        "a whole number",
        "--set data.rows.take=x",
        args=("--set", "data.rows.take=x"),
    ),
    "--step of an unknown step": Broken(
        DATA, "has no step 'row'", "did you mean 'rows'?", "error: ", args=("--step", "row")
    ),
}

BUILT = {name: STEPS.pop(name) for name in ("unset variable",)} | PLUGINS | OVERRIDES
CHECKED = YAML | TOP | STEPS | SETTINGS | REFERENCES | FILES


@pytest.mark.parametrize("name", CHECKED)
def test_a_mistake_has_a_place_and_a_fix(name: str, tmp_path: Path) -> None:
    broken = CHECKED[name]
    (tmp_path / ".git").mkdir()
    for file, text in {"rows.jsonl": ROWS, **broken.files, "recipe.yaml": broken.text()}.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    broken.must_be(*checked(tmp_path))


@pytest.mark.parametrize("name", BUILT)
def test_a_mistake_stops_a_build_with_its_place_and_a_fix(name: str, project: MakeProject) -> None:
    broken = BUILT[name]
    made = project({"rows.jsonl": ROWS, "recipe.yaml": broken.text(), **broken.files})
    ran = made.run("build", *broken.args)
    broken.must_be(ran.code, ran.err)


@pytest.mark.parametrize(("encoding", "place"), [("latin-1", "4:4"), ("utf-16", "1:1")])
def test_a_recipe_must_be_utf8(encoding: str, place: str, project: MakeProject) -> None:
    made = project({})
    (made.folder / "recipe.yaml").write_bytes(f"{DATA}# né\n".encode(encoding))
    ran = made.run("build")
    assert ran.code == 2
    assert ran.err.startswith(f"recipe.yaml:{place}: error: the recipe is not UTF-8 (byte 0x")


def test_mistakes_come_in_the_order_of_the_file_each_once(project: MakeProject) -> None:
    recipe = """\
seed: -1
finery: 1
x-shared: &shared
  tak: 1
generate:
  b: {use: data.file, <<: *shared, path: b}
data:
  a: {use: data.file, bad_rows: mend, pth: a, <<: *shared}
  c: {use: data.fil}
"""
    ran = project({"recipe.yaml": recipe}).run("check")
    errors = [line.partition(": error: ") for line in ran.err.splitlines() if " error: " in line]
    assert [where for where, _, _ in errors] == [
        f"recipe.yaml:{place}" for place in ("1:7", "4:3", "8:33", "8:39", "9:12")
    ]
    assert ran.err.endswith("5 mistakes\n")


@pytest.mark.parametrize("end", ["{a: 1", "{a: 1,\n", "{use: data.file, path: 'x'\n\n"])
def test_braces_that_end_with_the_file_are_an_error_in_words(
    end: str, project: MakeProject
) -> None:
    made = project({})
    (made.folder / "recipe.yaml").write_text(f"finery: 1\ndata:\n  rows: {end}", encoding="utf-8")
    ran = made.run("check")
    assert ran.code == 2
    assert ran.err.startswith("recipe.yaml:"), ran.err
