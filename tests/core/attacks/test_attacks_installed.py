"""Distributions: plugins and libraries, installed and editable, that change."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from attacking import (
    RECIPE,
    STEPS,
    Attack,
    Change,
    World,
    attacks,
    both,
    distribution,
    edit,
    install,
    more,
    put,
    remove,
    step,
    uninstall,
)

Files = Mapping[str, str | bytes]
LISTING = "answer = [(p.name, p.read_text()) for p in sorted(HERE.glob('*.txt'))]"
NO_FILE = {"recipe.yaml": RECIPE.replace("plugins: [steps.py]\n", "")}
NAMESPACED = str(
    step(f"{LISTING}; answer += [helper.X]", "from corp.plug import helper")["steps.py"]
)


def plugin(body: str, top: str = "", files: Files | None = None, version: str = "1.0") -> Files:
    """An installed plugin `plug` with a step that answers `body`, and more files."""
    code = str(step(body, top)["steps.py"])
    mine = {"plug/__init__.py": code, **(files or {})}
    return {**NO_FILE, **distribution("plug", version, mine, entry="plug")}


def editable(body: str, top: str = "", files: Files | None = None, finder: bool = False) -> Files:
    """The same, installed with `-e` from `../src`: by a `.pth` file or by a finder of its own."""
    code = str(step(body, top)["steps.py"])
    mine = {"plug/__init__.py": code, **(files or {})}
    source = {f"../src/{name}": text for name, text in mine.items()}
    about = distribution("plug", "1.0", mine, entry="plug", editable="{w}/src")
    if not finder:
        return {**NO_FILE, **source, **about, "site/__editable__.plug.pth": "{w}/src\n"}
    text = """
import sys
from importlib.util import spec_from_file_location
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "plug":
            return spec_from_file_location(name, "{w}/src/plug/__init__.py",
                                           submodule_search_locations=["{w}/src/plug"])
def install(): sys.meta_path.append(Finder)
"""
    return {
        **NO_FILE, **source, **about, "site/__editable___plug_finder.py": text,
        "site/__editable__.plug.pth": "import __editable___plug_finder as f; f.install()\n",
    }  # fmt: skip


def library(version: str, name: str = "lib", text: str = "", **more: str) -> Files:
    """An installed library whose X is its version."""
    module = name.replace("-", "_")
    code = text or f"X = {version!r}\n"
    requires = more.pop("requires", "")
    return distribution(
        name, version, {f"{module}/__init__.py": code, **more},
        requires=[requires] if requires else [],
    )  # fmt: skip


def upgrade(old: str, new: Files, name: str = "lib") -> Change:
    """Another version of a library in place of the old one."""
    return both(uninstall(name, old, name.replace("-", "_")), install(new))


def from_folder(digest: str) -> Files:
    """An installed library of one version, whose X is the digest of its file."""
    about = "site/lib-1.0.dist-info"
    record = f"lib/__init__.py,sha256={digest},1\n"
    made = library("1.0", text=f"X = {digest}\n")
    return {**made, f"{about}/RECORD": record, f"{about}/direct_url.json": "{}"}


LIB2 = upgrade("1.0", library("2.0"))
USES = step("answer = lib.X", "import lib")
TRIES = step("answer = X", "try:\n    from lib import X\nexcept ImportError:\n    X = 0")
WRAP = """
from finery import hookimpl
@hookimpl(wrapper=True)
def finery_run_step(step, job):
    made = yield
    for path in job.out.glob("rows-*"):
        path.write_text(path.read_text().replace("word", WORD))
    return made
WORD = "wrapped"
"""
ENGINE = '''
from finery import Completion, Dataset, Engine, Job, Model, Step, hookimpl
import helper

class Echo(Engine):
    """Answers always the same."""
    def generate(self, requests, sampling):
        return [Completion(text=helper.X, finish_reason="stop", prompt_tokens=1,
                           completion_tokens=1) for _ in requests]

class Make(Step, seeded=False):
    """A model."""
    def run(self, job: Job) -> Model:
        (job.out / "w").write_text("w")
        return Model(job.out, meta={"format": "echo"})

class Ask(Step, seeded=False, engines=True):
    """Answers."""
    model: Model
    def run(self, job: Job) -> Dataset:
        made = job.engine(self.model).generate([[{"role": "user", "content": "x"}]])
        return Dataset.write(job.out, [{"prompt": made[0].text}])

@hookimpl
def finery_steps():
    return {"e.make": Make, "e.ask": Ask}

@hookimpl
def finery_engines():
    return {"echo": Echo}
'''
TRY = "try:\n    answer = {}\nexcept (ImportError, ValueError):\n    answer = 0"
FORK = """
r, w = os.pipe()
if os.fork() == 0:
    {}
    os._exit(0)
os.wait()
answer = os.read(r, 9)
"""
REPLACED = "import sys\nclass Lib:\n    X = 1\nsys.modules[__name__] = Lib()\n"
LOOKS = """
def look():
    try:
        import extra
        return extra.X
    except ImportError:
        return 0
"""
ATTEMPT = """
try:
    import importlib
    made = importlib.import_module("li" + "b").X
except ImportError:
    made = "none"
kept = job.scratch / "kept"
if not kept.exists():
    kept.write_text(made)
assert open(HERE.parent / "fails").read() == "0"
answer = kept.read_text()
"""
VERSION = "import importlib.metadata as m\nanswer = m.version('lib')"
PATCH = "import colorsys\ncolorsys.rgb_to_hls = lambda *a: 'patched'\n"
PATCHED = "import colorsys; answer = colorsys.rgb_to_hls(1, 0, 0)"

CASES = [
    # -- an installed plugin
    Attack("the code of an installed plugin", plugin("answer = 1"),
           edit("answer = 1", "answer = 2", "site/plug/__init__.py")),
    Attack("a module of an installed plugin", plugin("answer = X", "from plug.deep import X",
           {"plug/deep.py": "X = 1\n"}), edit("1", "2", "site/plug/deep.py")),
    Attack("a file beside the code of an installed plugin",
           plugin("answer = (HERE / 'words.txt').read_text()", "", {"plug/words.txt": "old"}),
           put("site/plug/words.txt", "new"), quick=True),
    Attack("a resource of an installed plugin", plugin(
           "from importlib.resources import files\nanswer = (files('plug') / 'w').read_text()",
           "", {"plug/w": "old"}), put("site/plug/w", "new")),
    Attack("a new file in a listed folder of an installed plugin",
           plugin("answer = sorted(os.listdir(HERE / 'd'))", "", {"plug/d/a": "old"}),
           put("site/plug/d/b", "new")),
    Attack("a database of an installed plugin that native code opens",
           plugin("import ctypes\nc = ctypes.CDLL(None)\nb = ctypes.create_string_buffer(9)\n"
                  "c.read(c.open(str(HERE / 'w').encode(), 0), b, 9)\nanswer = b.value",
                  "", {"plug/w": "old"}), put("site/plug/w", "new")),
    Attack("a docstring of an installed plugin", plugin("answer = sys.modules['plug'].f.__doc__",
           "def f():\n    'Old.'"), edit("Old", "New", "site/plug/__init__.py")),
    Attack("an installed plugin with a second package", plugin("answer = X",
           "from plug_core import X", {"plug_core/__init__.py": "X = 1\n"}),
           edit("1", "2", "site/plug_core/__init__.py")),
    Attack("a second package by a computed name", plugin(
           "import importlib\nanswer = importlib.import_module('plug_' + 'core').X",
           "", {"plug_core/__init__.py": "X = 1\n"}), edit("1", "2", "site/plug_core/__init__.py")),
    Attack("an installed plugin that is one module",
           {**NO_FILE, **distribution("plug", "1.0",
           {"plug.py": str(step("answer = 1")["steps.py"])},
            entry="plug")}, edit("answer = 1", "answer = 2", "site/plug.py")),
    Attack("an installed plugin without top_level.txt",
           {**NO_FILE, **distribution("plug", "1.0", {"plug/__init__.py": str(step(
            "answer = X", "from other_core import X")["steps.py"]), "other_core.py": "X = 1\n"},
            entry="plug", top=False)}, edit("1", "2", "site/other_core.py")),
    Attack("a plugin whose name isn't its module's", {**NO_FILE, **distribution(
           "corp-things", "1.0", {"acme/things.py": str(step("answer = X",
           "from acme.deep import X")["steps.py"]), "acme/deep.py": "X = 1\n"},
           entry="acme.things")}, edit("1", "2", "site/acme/deep.py")),
    Attack("a plugin that imports another plugin", {
           **plugin("answer = core.X", "import core"),
           **distribution("core", "1.0", {"core/__init__.py": "X = 1\n"}, entry="core")},
           edit("1", "2", "site/core/__init__.py")),
    Attack("a plugin that finds another plugin by its entry point", {
           **plugin("import importlib.metadata as m\n"
                    "answer = [e.load().X for e in m.entry_points(group='plug.more')]"),
           **distribution("core", "1.0", {"core/__init__.py": "X = 1\n"}),
           "site/core-1.0.dist-info/entry_points.txt": "[plug.more]\ncore = core\n"},
           edit("1", "2", "site/core/__init__.py"), unseen="edit of an installed library"),
    Attack("an entry point of another distribution that appears",
           plugin("import importlib.metadata as m\n"
                  "answer = [e.load().X for e in m.entry_points(group='plug.more')]"),
           install({**library("1.0"),
                    "site/lib-1.0.dist-info/entry_points.txt": "[plug.more]\nlib = lib\n"})),
    Attack("a plugin file that imports an installed plugin", {
           **step("answer = plug.X", "import plug"),
           **distribution("plug", "1.0", {"plug/__init__.py": "X = 1\n"}, entry="plug")},
           edit("1", "2", "site/plug/__init__.py")),
    Attack("an installed plugin whose version changes, not its code", plugin("answer = 1"),
           both(uninstall("plug", "1.0", "plug"), install(plugin("answer = 1", version="2.0"))),
           same=True),
    # -- an editable plugin
    Attack("the code of an editable plugin", editable("answer = 1"),
           edit("answer = 1", "answer = 2", "../src/plug/__init__.py")),
    Attack("a module of an editable plugin", editable("answer = X", "from plug.deep import X",
           {"plug/deep.py": "X = 1\n"}), edit("1", "2", "../src/plug/deep.py")),
    Attack("a file beside the code of an editable plugin",
           editable("answer = (HERE / 'words.txt').read_text()", "", {"plug/words.txt": "old"}),
           put("../src/plug/words.txt", "new")),
    Attack("a resource of an editable plugin by pkgutil.get_data", editable(
           "import pkgutil; answer = pkgutil.get_data('plug', 'w')", "", {"plug/w": "old"}),
           put("../src/plug/w", "new")),
    Attack("a file in the source folder of an editable plugin, beside its package",
           editable("answer = (HERE.parent / 'w').read_text()", "", {"w": "old"}),
           put("../src/w", "new")),
    Attack("a second package of an editable plugin", editable("answer = X", "from core import X",
           {"core/__init__.py": "X = 1\n"}), edit("1", "2", "../src/core/__init__.py")),
    Attack("a module that a computed name finds in an editable plugin",
           editable("import importlib; answer = importlib.import_module('plug.' + 'deep').X",
                    "", {"plug/deep.py": "X = 1\n"}), edit("1", "2", "../src/plug/deep.py")),
    Attack("an editable plugin with a finder", editable("answer = 1", finder=True),
           edit("answer = 1", "answer = 2", "../src/plug/__init__.py"), quick=True),
    Attack("a module of an editable plugin with a finder", editable(
           "answer = X", "from plug.deep import X", {"plug/deep.py": "X = 1\n"}, finder=True),
           edit("1", "2", "../src/plug/deep.py")),
    Attack("a file of an editable plugin with a finder", editable(
           "answer = (HERE / 'w').read_text()", "", {"plug/w": "old"}, finder=True),
           put("../src/plug/w", "new")),
    Attack("an editable plugin that moves", editable("answer = (HERE / 'w').read_text()", "",
           {"plug/w": "old"}), both(install({f"../new/plug/{n}": t for n, t in {
               "__init__.py": STEPS.replace("TOP", "").replace("KEYWORDS", "").replace(
                   "BODY", "        answer = 3").replace("HOOK", '"a.answer": Answer')}.items()}),
               put("site/__editable__.plug.pth", "{w}/new\n"))),
    Attack("a readme of an editable plugin", editable("answer = 1", "", {"README.md": "old"}),
           put("../src/README.md", "new"), precise=True, quick=True),
    Attack("a test of an editable plugin", editable("answer = 1", "", {"tests/test_x.py": "x = 1"}),
           put("../src/tests/test_x.py", "x = 2"), precise=True),
    Attack("bytecode of an installed plugin", plugin("answer = 1"),
           put("site/plug/__pycache__/x.cpython-311.pyc", b"x"), precise=True),
    # -- a library
    Attack("another version of a library", {**USES, **library("1.0")}, LIB2),
    Attack("another version of a library that a function imports",
           {**step("import lib\nanswer = lib.X"), **library("1.0")}, LIB2),
    Attack("another version of a library that a helper imports",
           {**step("answer = helper.lib.X", "import helper"), "helper.py": "import lib\n",
            **library("1.0")}, LIB2),
    Attack("another version of a library of an installed plugin",
           {**plugin("answer = lib.X", "import lib"), **library("1.0")}, LIB2),
    Attack("another version of a library of an editable plugin",
           {**editable("answer = lib.X", "import lib"), **library("1.0")}, LIB2),
    Attack("another version of a library by import_module", {**step(
           "import importlib; answer = importlib.import_module('li' + 'b').X"), **library("1.0")},
           LIB2),
    Attack("another version of a library under try", {**TRIES, **library("1.0")}, LIB2),
    Attack("a library that appears", TRIES, install(library("1.0")), quick=True),
    Attack("a library that goes", {**TRIES, **library("1.0")}, uninstall("lib", "1.0", "lib")),
    Attack("a library that find_spec finds", step(
           "import importlib.util as u; answer = u.find_spec('lib') is None"),
           install(library("1.0"))),
    Attack("a library whose version is printed", {**step(VERSION), **library("1.0")}, LIB2),
    Attack("a library that a computed import finds", step("try:\n"
           "    answer = __import__('li' + 'b').X\nexcept ImportError:\n    answer = 0"),
           install(library("1.0"))),
    Attack("another version of what a library requires", {**USES,
           **library("1.0", text="from low import X\n", requires="low>=1"),
           **library("1.0", "low")}, upgrade("1.0", library("2.0", "low"), "low"), quick=True),
    Attack("another version of what a library imports, unnamed", {**USES,
           **library("1.0", text="from low import X\n"), **library("1.0", "low")},
           upgrade("1.0", library("2.0", "low"), "low")),
    Attack("another version of what a library requires two levels down", {**USES,
           **library("1.0", text="from mid import X\n", requires="mid"),
           **library("1.0", "mid", text="from low import X\n", requires="low"),
           **library("1.0", "low")}, upgrade("1.0", library("2.0", "low"), "low")),
    Attack("an extra of a library", {**USES,
           **library("1.0", text="try:\n    from low import X\nexcept ImportError:\n    X = 0\n",
                     requires='low; extra == "fast"')}, install(library("1.0", "low"))),
    Attack("another version of an extra", {**USES,
           **library("1.0", text="try:\n    from low import X\nexcept ImportError:\n    X = 0\n",
                     requires='low; extra == "fast"'), **library("1.0", "low")},
           upgrade("1.0", library("2.0", "low"), "low")),
    Attack("a requirement by a marker", {**USES, **library("1.0", text="from low import X\n",
           requires='low; python_version >= "3.8"'), **library("1.0", "low")},
           upgrade("1.0", library("2.0", "low"), "low")),
    Attack("libraries that require each other", {**USES,
           **library("1.0", text="import low\nX = low.X\n", requires="low"),
           **library("1.0", "low", requires="lib")}, upgrade("1.0", library("2.0", "low"), "low")),
    Attack("a library whose distribution has another name",
           {**step("answer = widget.X", "import widget"),
            **distribution("py-widget", "1.0", {"widget/__init__.py": "X = 1\n"})},
           both(uninstall("py-widget", "1.0", "widget"),
                install(distribution("py-widget", "2.0", {"widget/__init__.py": "X = 2\n"})))),
    Attack("the same without top_level.txt",
           {**step("answer = widget.X", "import widget"),
            **distribution("py-widget", "1.0", {"widget/__init__.py": "X = 1\n"}, top=False)},
           both(uninstall("py-widget", "1.0", "widget"), install(distribution(
                "py-widget", "2.0", {"widget/__init__.py": "X = 2\n"}, top=False)))),
    Attack("a part of a namespace package", {**step("answer = corp.one.X", "import corp.one"),
           **distribution("corp-one", "1.0", {"corp/one.py": "X = 1\n"}),
           **distribution("corp-two", "1.0", {"corp/two.py": "X = 1\n"})},
           both(uninstall("corp-one", "1.0", "corp/one.py"),
                install(distribution("corp-one", "2.0", {"corp/one.py": "X = 2\n"})))),
    Attack("another part of a namespace package", {
           **step("answer = corp.one.get()", "import corp.one"), **distribution("corp-one", "1.0", {
           "corp/one.py": "def get():\n    import corp.two\n    return corp.two.X\n"}),
           **distribution("corp-two", "1.0", {"corp/two.py": "X = 1\n"})},
           both(uninstall("corp-two", "1.0", "corp/two.py"),
                install(distribution("corp-two", "2.0", {"corp/two.py": "X = 2\n"})))),
    Attack("a module of site-packages that belongs to no distribution",
           {**step("answer = stray.X", "import stray"), "site/stray.py": "X = 1\n"},
           edit("1", "2", "site/stray.py")),
    Attack("a package of site-packages that belongs to no distribution",
           {**step("answer = stray.X", "import stray"), "site/stray/__init__.py":
            "from stray.deep import X\n", "site/stray/deep.py": "X = 1\n"},
           edit("1", "2", "site/stray/deep.py")),
    Attack("an editable library", {**USES, "../src/lib/__init__.py": "X = 1\n",
           **distribution("lib", "1.0", {"lib/__init__.py": ""}, editable="{w}/src"),
           "site/__editable__.lib.pth": "{w}/src\n"}, edit("1", "2", "../src/lib/__init__.py")),
    Attack("a module of an editable library", {**USES,
           "../src/lib/__init__.py": "from lib.deep import X\n", "../src/lib/deep.py": "X = 1\n",
           **distribution("lib", "1.0", {"lib/__init__.py": ""}, editable="{w}/src"),
           "site/__editable__.lib.pth": "{w}/src\n"}, edit("1", "2", "../src/lib/deep.py")),
    Attack("a file of an editable library", {**USES,
           "../src/lib/__init__.py": "X = open(__file__[:-11] + 'w').read()\n",
           "../src/lib/w": "old",
           **distribution("lib", "1.0", {"lib/__init__.py": ""}, editable="{w}/src"),
           "site/__editable__.lib.pth": "{w}/src\n"}, put("../src/lib/w", "new")),
    Attack("an editable library of a library", {**USES,
           **library("1.0", text="from low import X\n", requires="low"),
           "../src/low/__init__.py": "X = 1\n",
           **distribution("low", "1.0", {"low/__init__.py": ""}, editable="{w}/src"),
           "site/__editable__.low.pth": "{w}/src\n"}, edit("1", "2", "../src/low/__init__.py")),
    Attack("an installed library that becomes editable", {**USES, **library("1.0")}, both(
           remove("site/lib"), install({"../src/lib/__init__.py": "X = 2\n",
           "site/__editable__.lib.pth": "{w}/src\n", "site/lib-1.0.dist-info/direct_url.json":
           '{"url": "file://{w}/src", "dir_info": {"editable": true}}'}))),
    Attack("another version of a library in packages=",
           {**step("import lib as m; answer = m.X", keywords=', packages=("lib",)'),
            **library("1.0")}, LIB2),
    Attack("a library edited in place, at the same version", {**USES, **library("1.0")},
           put("site/lib/__init__.py", "X = 'edited'\n"), unseen="edit of an installed library"),
    Attack("a library that patches another", {**step("answer = lib.X", "import lib, patcher"),
           **library("1.0"), **library("1.0", "patcher", text="")},
           upgrade("1.0", library("2.0", "patcher", text="import lib\nlib.X = 'patched'\n"),
                   "patcher")),
    Attack("an import that patches another library is added",
           {**step("answer = lib.X", "import lib"), **library("1.0"), **library(
            "1.0", "patcher", text="import lib\nlib.X = 'patched'\n")},
           edit("import lib\n", "import lib\nimport patcher\n")),
    Attack("an import that patches another library is removed",
           {**step("answer = lib.X", "import lib, patcher"), **library("1.0"), **library(
            "1.0", "patcher", text="import lib\nlib.X = 'patched'\n")},
           edit("import lib, patcher", "import lib")),
    Attack("a helper that patches a library is imported",
           {**step("answer = lib.X", "import lib"), **library("1.0"),
            "patcher.py": "import lib\nlib.X = 'patched'\n"},
           edit("import lib\n", "import lib\nimport patcher\n")),
    Attack("a distribution that nothing uses", step("answer = 1"), install(library("1.0")),
           precise=True),
    Attack("another version of a distribution that nothing uses",
           {**step("answer = 1"), **library("1.0")}, LIB2, precise=True),
    Attack("a library of another version, and back", {**USES, **library("1.0")}, LIB2,
           then=[upgrade("2.0", library("1.0"))]),
    # -- a library by a computed name
    Attack("the files of a library from a folder, at the same version, by a computed name",
           {**step("answer = __import__('li' + 'b').X"), **from_folder("1")},
           both(uninstall("lib", "1.0", "lib"), install(from_folder("2")))),
    *[Attack(f"another version of a library by {name}", {**step(body), **library("1.0")}, LIB2)
      for name, body in {
          "runpy": "import runpy; answer = runpy.run_module('li' + 'b.__init__')['X']",
          "a spec": "import importlib.util as u\ns = u.find_spec('li' + 'b')\n"
                    "m = u.module_from_spec(s); s.loader.exec_module(m)\nanswer = m.X",
          "a name that is forgotten":
              "answer = __import__('li' + 'b').X; del sys.modules['lib']",
          "pydoc.locate": "import pydoc; answer = pydoc.locate('li' + 'b').X",
          "a forked process": FORK.format("os.write(w, __import__('li' + 'b').X.encode())"),
          "a pool": "import multiprocessing as m\nwith m.get_context('fork').Pool(1) as pool:\n"
                    "    answer = pool.map(eval, [\"__import__('li' + 'b').X\"])",
      }.items()],
    Attack("another version of a library that replaces its module", {
           **step("answer = __import__('li' + 'b').X"), **library("1.0", text=REPLACED)},
           upgrade("1.0", library("2.0", text=REPLACED.replace("1", "2")))),
    Attack("another version of a part of a namespace package", {
           **step("import importlib; answer = importlib.import_module('ns' + '.one').X"),
           **distribution("part", "1.0", {"ns/one.py": "X = 1\n"})},
           both(uninstall("part", "1.0", "ns"),
                install(distribution("part", "2.0", {"ns/one.py": "X = 2\n"})))),
    Attack("a part of a namespace package that appears", {
           **step("import importlib\n" + TRY.format("importlib.import_module('ns' + '.two').X")),
           **distribution("part", "1.0", {"ns/one.py": "X = 1\n"})},
           install(distribution("more", "1.0", {"ns/two.py": "X = 2\n"}))),
    Attack("another version of a plugin that no step uses, by a computed name", {
           **step("answer = __import__('pl' + 'ug').X"),
           **distribution("plug", "1.0", {"plug/__init__.py": "X = 1\n"}, entry="plug")},
           both(uninstall("plug", "1.0", "plug"), install(distribution(
                "plug", "2.0", {"plug/__init__.py": "X = 2\n"}, entry="plug")))),
    *[Attack(f"a library that goes and that {name} found", {**step(
             f"import importlib.util as u; answer = u.find_spec({text}) is None"),
             **library("1.0")}, uninstall("lib", "1.0", "lib"))
      for name, text in {"find_spec": "'lib'", "a computed find_spec": "'li' + 'b'"}.items()],
    *[Attack(f"a library that {name} looked for in vain", step(body), install(library("1.0")))
      for name, body in {
          "exec": "k = 'b'\ntry:\n    exec(f'import li{k}'); answer = 1\n"
                  "except ImportError:\n    answer = 0",
          "resolve_name": "import pkgutil\n" + TRY.format("pkgutil.resolve_name('li' + 'b:X')"),
          "pydoc.locate": "import pydoc; answer = pydoc.locate('li' + 'b') is None",
          "a forked process": FORK.format(
              "try: __import__('li' + 'b'); os.write(w, b'1')\n    except ImportError: pass")
              .replace("answer =", "os.close(w); answer ="),
      }.items()],
    Attack("a file beside the plugin that a library looked for in vain", {
           **step("import lib; answer = lib.look()"), **library("1.0", text=LOOKS)},
           put("extra.py", "X = 1\n")),
    *[Attack(f"{name} between two attempts", {**step(ATTEMPT), "../fails": "1", **files}, both(
             change, put("../fails", "0")), fails=True)
      for name, files, change in [
          ("another version of a library", library("1.0"), LIB2),
          ("a library that appears", {}, install(library("1.0"))),
      ]],
    # -- hooks
    Attack("a wrapper in a plugin file", {**step("answer = 'word'"), "wrap.py": WRAP,
           **more("a: {use: a.answer}", plugins="steps.py, wrap.py")},
           edit('"wrapped"', '"warped"', "wrap.py")),
    Attack("what a wrapper imports", {**step("answer = 'word'"), "wrap.py": WRAP.replace(
           'WORD = "wrapped"', "from word import WORD"), "word.py": "WORD = 'one'\n",
           **more("a: {use: a.answer}", plugins="steps.py, wrap.py")},
           edit("one", "two", "word.py")),
    Attack("what a wrapper reads", {**step("answer = 'word'"), "wrap.py": WRAP.replace(
           'WORD = "wrapped"', "WORD = open(__file__[:-2] + 'txt').read()"), "wrap.txt": "one",
           **more("a: {use: a.answer}", plugins="steps.py, wrap.py")}, put("wrap.txt", "two")),
    Attack("a wrapper of an installed plugin", {**step("answer = 'word'"),
           **distribution("wrap", "1.0", {"wrap/__init__.py": WRAP}, entry="wrap")},
           edit('"wrapped"', '"warped"', "site/wrap/__init__.py"), quick=True),
    Attack("a wrapper that appears with a distribution", step("answer = 'word'"),
           install(distribution("wrap", "1.0", {"wrap/__init__.py": WRAP}, entry="wrap"))),
    Attack("a wrapper that goes with its distribution", {**step("answer = 'word'"),
           **distribution("wrap", "1.0", {"wrap/__init__.py": WRAP}, entry="wrap")},
           uninstall("wrap", "1.0", "wrap")),
    Attack("an environment that a hook sets", step("answer = os.environ['WORD']", end="""
           @hookimpl
           def finery_worker_environment(use, alone):
               return {"WORD": "one"}
           """), edit('"one"', '"two"'), quick=True),
    Attack("an environment that another plugin's hook sets", {**step("answer = os.environ['WORD']"),
           **distribution("envs", "1.0", {"envs/__init__.py": "from finery import hookimpl\n"
           "@hookimpl\ndef finery_worker_environment(use):\n    return {'WORD': 'one'}\n"},
           entry="envs")}, edit("'one'", "'two'", "site/envs/__init__.py")),
    Attack("an environment that a hook reads from a file", {**step("answer = os.environ['WORD']",
           end="""
           @hookimpl
           def finery_worker_environment(use, alone):
               return {"WORD": (HERE / "word.txt").read_text()}
           """), "word.txt": "one"}, put("word.txt", "two"), quick=True),
    Attack("an engine's helper", {"engines.py": ENGINE, "helper.py": "X = 'one'\n", "recipe.yaml":
           "finery: 1\nname: t\nplugins: [engines.py]\nmodels:\n  m: {use: e.make}\ndata:\n"
           "  a: {use: e.ask, model: m}\n"}, edit("one", "two", "helper.py"), quick=True),
    Attack("the engine of a format is another plugin's", {
           "engines.py": ENGINE.replace('return {"echo": Echo}', "return {}"),
           "helper.py": "X = 'one'\n", "recipe.yaml":
           "finery: 1\nname: t\nplugins: [engines.py, other.py]\nmodels:\n  m: {use: e.make}\n"
           "data:\n  a: {use: e.ask, model: m}\n", "other.py":
           "from finery import Completion, Engine, hookimpl\nclass Other(Engine):\n"
           "    def generate(self, requests, sampling):\n        return [Completion(text='one',"
           " finish_reason='stop', prompt_tokens=1, completion_tokens=1) for _ in requests]\n"
           "@hookimpl\ndef finery_engines():\n    return {'echo': Other}\n"},
           edit("'one'", "'two'", "other.py")),
    # -- a plugin file of another step
    Attack("a plugin file of another step patches a library on import", {
           **step(PATCHED), "b.py": PATCH + str(step(
           "answer = 1")["steps.py"]).replace("a.answer", "b.answer"),
           **more("a: {use: a.answer}", "b: {use: b.answer}", plugins="steps.py, b.py")},
           edit("'patched'", "'other'", "b.py"), same=True),
    Attack("a plugin file of another step patches finery on import", {
           **step("answer = 1"), "b.py": "import finery\nwrite = finery.Dataset.write\n"
           "finery.Dataset.write = classmethod(lambda c, o, r: write(o, [{'prompt': 'p'}]))\n"
           + str(step("answer = 1")["steps.py"]).replace("a.answer", "b.answer"),
           **more("a: {use: a.answer}", "b: {use: b.answer}", plugins="steps.py, b.py")},
           edit("'p'", "'q'", "b.py"), same=True, quick=True),
    Attack("a plugin file that no step uses goes", {
           **step(PATCHED), "b.py": PATCH,
           **more("a: {use: a.answer}", plugins="steps.py, b.py")},
           put("recipe.yaml", RECIPE), same=True),
    Attack("an installed plugin that no step uses patches a library", {
           **step(PATCHED),
           **distribution("b", "1.0", {"b/__init__.py": PATCH}, entry="b")},
           edit("'patched'", "'other'", "site/b/__init__.py"), same=True),
    Attack("an installed plugin that patches appears", step(PATCHED),
           install(distribution("b", "1.0", {"b/__init__.py": PATCH}, entry="b")), same=True),
    Attack("the plugin file of another step is edited", {**step("answer = 1"), "b.py": str(step(
           "answer = 1", "Y = 1")["steps.py"]).replace("a.answer", "b.answer"),
           **more("a: {use: a.answer}", plugins="steps.py, b.py")},
           edit("Y = 1", "Y = 2", "b.py"), precise=True),
    # -- plugins in a namespace package
    *[Attack(f"a file of an editable plugin in a namespace: {file}", {
             **NO_FILE, "../src/corp/plug/__init__.py": NAMESPACED, f"../src/corp/plug/{file}": old,
             "../src/corp/plug/helper.py": "X = 1\n", "site/corp.pth": "{w}/src\n",
             **distribution("corp-plug", "1.0", {"corp/plug/__init__.py": ""}, entry="corp.plug",
                            editable="{w}/src")}, put(f"../src/corp/plug/{file}", new))
      for file, old, new in [("helper.py", "X = 1\n", "X = 2\n"), ("d.txt", "1", "2")]],
    Attack("a file that appears in an installed plugin in a namespace", {
           **NO_FILE, **distribution("corp-plug", "1.0", {
               "corp/plug/__init__.py": NAMESPACED, "corp/plug/helper.py": "X = 1\n"},
               entry="corp.plug")}, put("site/corp/plug/d.txt", "2")),
]  # fmt: skip


@attacks(CASES)
def test_a_distribution(attack: Attack, tmp_path: Path) -> None:
    attack.run(tmp_path)


@pytest.mark.parametrize(("name", "meant"), [("yaml", "pyyaml"), ("msgspecc", "msgspec")])
def test_a_package_that_nothing_has_is_an_error(tmp_path: Path, name: str, meant: str) -> None:
    world = World(tmp_path)
    world.set_up(step("answer = 1", keywords=f', packages=("{name}",)'))
    built = world.build()
    assert built.code == 2
    assert name in built.text
    assert meant in built.text
