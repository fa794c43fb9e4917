"""Which file an import reads: packages, paths, bytecode, archives, names that are computed."""

import importlib.util
import io
import os
import py_compile
import tempfile
import zipfile
from pathlib import Path

from attacking import (
    Attack,
    Change,
    World,
    attacks,
    both,
    distribution,
    edit,
    in_file,
    link,
    more,
    put,
    remove,
    step,
    variable,
)

X1, X2 = "X = 1\n", "X = 2\n"
HELPER = step("answer = helper.X", "import helper")
ON_PATH = {"PYTHONPATH": "{w}/lib"}
TRY = "try:\n    answer = {}\nexcept (ImportError, ValueError):\n    answer = 0"
INSERTED = "import sys\nsys.path.insert(0, str(HERE))\n"
DEEP = "import sys\nsys.path.insert(0, str(HERE / 'lib'))\n"


def compiled(text: str) -> bytes:
    """The bytecode of a module."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "m.py")
        source.write_text(text)
        os.utime(source, (1, 1))
        py_compile.compile(str(source), f"{folder}/m.pyc", doraise=True)
        return Path(folder, "m.pyc").read_bytes()


def zipped(**modules: str) -> bytes:
    """An archive of modules."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in modules.items():
            archive.writestr(f"{name}.py", text)
    return made.getvalue()


def at_once(file: str, text: str) -> Change:
    """Another text of the same size and mtime, as two edits in a second have it."""

    def change(world: World) -> None:
        path = world.path(file)
        before = path.stat()
        assert len(text) == before.st_size
        path.write_text(text)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def unchecked(world: World) -> None:
    """Bytecode that Python never compares with its source."""
    source = world.path("helper.py")
    cached = importlib.util.cache_from_source(str(source))
    os.makedirs(os.path.dirname(cached), exist_ok=True)
    py_compile.compile(
        str(source), cached, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


CASES = [
    # -- a module, a package, a namespace
    Attack("a module that becomes a package", HELPER | {"helper.py": X1},
           both(remove("helper.py"), put("helper/__init__.py", X2))),
    Attack("a package that appears beside a module", HELPER | {"helper.py": X1},
           put("helper/__init__.py", X2), quick=True),
    Attack("a package beside a module that goes",
           HELPER | {"helper.py": X1, "helper/__init__.py": X2}, remove("helper")),
    Attack("a namespace folder that appears beside a module", HELPER | {"helper.py": X1},
           put("helper/more.py", X2), same=True),
    Attack("a module in a namespace folder", step("answer = ns.one.X", "import ns.one")
           | {"ns/one.py": X1}, edit("1", "2", "ns/one.py")),
    Attack("a namespace folder that gets an __init__",
           step("answer = ns.one.X", "import ns.one") | {"ns/one.py": "X = 1\n"},
           put("ns/__init__.py", "import ns.one\nns.one.X = 2\n")),
    Attack("a namespace folder with a part earlier on the path",
           step("answer = ns.one.X", "import ns.one")
           | {"../lib/ns/one.py": X1, "../first/ns/two.py": X2}, put("../first/ns/one.py", X2),
           env={"PYTHONPATH": "{w}/first:{w}/lib"}),
    Attack("a package on the path in place of a namespace folder",
           step("answer = ns.one.X", "import ns.one") | {"../lib/ns/one.py": X1},
           both(put("../last/ns/__init__.py", ""), put("../last/ns/one.py", X2)),
           env={"PYTHONPATH": "{w}/lib:{w}/last"}),
    Attack("the __init__ of a package of a package", step("answer = a.b.c.X", "import a.b.c")
           | {"a/__init__.py": "Y = 1\n", "a/b/__init__.py": "",
              "a/b/c.py": "from a import Y\nX = Y\n"}, edit("1", "2", "a/__init__.py")),
    Attack("a submodule named like an attribute", step("answer = str(one)[:9]", "from p import one")
           | {"p/__init__.py": "", "p/one.py": X1}, put("p/__init__.py", "one = 7\n")),
    Attack("the list of a star import", step("answer = X", "from helper import *")
           | {"helper.py": "from deep import *\n", "deep.py": "__all__ = ['X']\nX = 1\nY = 2\n"},
           edit("Y = 2", "Y = 2\nX = Y", "deep.py")),
    Attack("a relative import", step("answer = p.one.X", "import p.one")
           | {"p/__init__.py": "", "p/one.py": "from .two import X\n", "p/two.py": X1},
           edit("1", "2", "p/two.py")),
    Attack("a path of a package that is extended", step("answer = p.two.X", "import p.two")
           | {"p/__init__.py": "import os\n__path__.append(os.path.join(__path__[0], 'deep'))\n",
              "p/deep/two.py": X1}, edit("1", "2", "p/deep/two.py")),
    Attack("a module that appears in a folder that a package puts before its own",
           step("answer = p.two.X", "import p.two")
           | {"p/__init__.py": "import os\n__path__.insert(0, os.path.abspath('alt'))\n",
              "p/two.py": X1, "alt/x.py": ""}, put("alt/two.py", X2)),
    Attack("modules that import each other", step("answer = one.f()", "import one")
           | {"one.py": "import two\ndef f(): return two.Y\n", "two.py": "import one\nY = 1\n"},
           edit("1", "2", "two.py")),
    # -- bytecode and archives
    Attack("a module without its source", HELPER | {"helper.pyc": compiled(X1)},
           put("helper.pyc", compiled(X2))),
    Attack("source that appears beside bytecode", HELPER | {"helper.pyc": compiled(X1)},
           put("helper.py", X2)),
    Attack("bytecode in place of source", HELPER | {"helper.py": X1},
           both(remove("helper.py"), put("helper.pyc", compiled(X2)))),
    Attack("an edit of the same size in the same second", HELPER | {"helper.py": X1},
           at_once("helper.py", X2), quick=True),
    Attack("an edit of a deeper module in the same second",
           HELPER | {"helper.py": "import deep\nX = deep.X\n", "deep.py": X1},
           at_once("deep.py", X2)),
    Attack("an edit of the plugin file in the same second", step("answer = 1"),
           lambda w: at_once("steps.py", w.path("steps.py").read_text().replace("= 1", "= 2"))(w)),
    Attack("bytecode that Python never checks", HELPER | {"helper.py": X1}, put("helper.py", X2),
           prepare=unchecked),
    Attack("an archive on the path", HELPER | {"../lib.zip": zipped(helper=X1)},
           put("../lib.zip", zipped(helper=X2)), env={"PYTHONPATH": "{w}/lib.zip"}, quick=True),
    Attack("a module before one in an archive", HELPER | {"../lib.zip": zipped(helper=X1)},
           put("helper.py", X2), same=True, env={"PYTHONPATH": "{w}/lib.zip"}),
    Attack("an archive that a plugin adds to the path",
           step("import helper; answer = helper.X", "sys.path.insert(0, str(HERE / 'lib.zip'))")
           | {"lib.zip": zipped(helper=X1)}, put("lib.zip", zipped(helper=X2))),
    Attack("get_data of an archive", step("answer = helper.__loader__.get_data('helper.py')",
           "sys.path.insert(0, str(HERE / 'lib.zip'))\nimport helper")
           | {"lib.zip": zipped(helper=X1)}, put("lib.zip", zipped(helper=X2))),
    # -- the search path
    Attack("a module in a folder of PYTHONPATH", HELPER | {"../lib/helper.py": X1},
           edit("1", "2", "../lib/helper.py"), env=ON_PATH),
    Attack("a file of the project before one of PYTHONPATH", HELPER | {"../lib/helper.py": X1},
           put("helper.py", X2), same=True, env=ON_PATH, quick=True),
    Attack("a new folder at the front of PYTHONPATH",
           HELPER | {"../lib/helper.py": X1, "../first/helper.py": X2},
           variable(PYTHONPATH="{w}/first:{w}/lib"), env=ON_PATH),
    Attack("the order of PYTHONPATH", HELPER | {"../lib/helper.py": X1, "../first/helper.py": X2},
           variable(PYTHONPATH="{w}/lib:{w}/first"), env={"PYTHONPATH": "{w}/first:{w}/lib"}),
    Attack("a new file in an earlier folder of PYTHONPATH",
           HELPER | {"../lib/helper.py": X1, "../first/other.py": X1},
           put("../first/helper.py", X2), env={"PYTHONPATH": "{w}/first:{w}/lib"}),
    Attack("a folder of PYTHONPATH that didn't exist", HELPER | {"../lib/helper.py": X1},
           put("../first/helper.py", X2), env={"PYTHONPATH": "{w}/first:{w}/lib"}),
    Attack("a link to a folder of PYTHONPATH, retargeted",
           HELPER | {"../v1/helper.py": X1, "../v2/helper.py": X2}, link("../lib", "{w}/v2"),
           prepare=link("../lib", "{w}/v1"), env=ON_PATH),
    Attack("a file named like a module of the standard library",
           step("answer = colorsys.__doc__", "import colorsys"),
           put("colorsys.py", '"""Mine."""\n'), same=True),
    Attack("a file named like a module that the library imports late",
           step("import calendar; answer = calendar.__doc__"), put("calendar.py", '"""Mine."""'),
           same=True),
    Attack("a module before an installed one",
           HELPER | {"site/helper.py": X1}, put("helper.py", X2), same=True),
    Attack("sitecustomize on the path", step("answer = getattr(sys, 'mine', 1)")
           | {"../lib/other.py": ""}, put("../lib/sitecustomize.py", "import sys\nsys.mine = 2\n"),
           env=ON_PATH, quick=True),
    Attack("an edit of sitecustomize", step("answer = getattr(sys, 'mine', 1)")
           | {"../lib/sitecustomize.py": "import sys\nsys.mine = 2\n"},
           edit("2", "3", "../lib/sitecustomize.py"), env=ON_PATH),
    Attack("what sitecustomize imports", step("answer = getattr(sys, 'mine', 1)")
           | {"../lib/sitecustomize.py": "import sys, mine\nsys.mine = mine.X\n",
              "../lib/mine.py": X1}, edit("1", "2", "../lib/mine.py"), env=ON_PATH),
    Attack("code of a .pth file", step("answer = getattr(sys, 'mine', 1)")
           | {"site/mine.pth": "import sys; sys.mine = 2\n"}, edit("2", "3", "site/mine.pth")),
    Attack("a folder of a .pth file", HELPER | {"site/mine.pth": "{w}/lib\n",
           "../lib/helper.py": X1, "../new/helper.py": X2}, put("site/mine.pth", "{w}/new\n")),
    Attack("a folder that the plugin inserts", step("answer = hidden.X", DEEP + "import hidden")
           | {"lib/hidden.py": X1}, edit("1", "2", "lib/hidden.py")),
    Attack("a folder that run inserts",
           step("sys.path.insert(0, str(HERE / 'lib'))\nimport hidden\nanswer = hidden.X")
           | {"lib/hidden.py": X1}, edit("1", "2", "lib/hidden.py")),
    Attack("a module that appears in a folder that run inserts", step(
           "sys.path.insert(0, 'lib')\nimport helper\nanswer = helper.X")
           | {"helper.py": X1, "lib/other.py": X1}, put("lib/helper.py", X2)),
    Attack("a module that appears in a new folder that run inserts", step(
           "sys.path.insert(0, 'lib')\nimport helper\nanswer = helper.X") | {"helper.py": X1},
           put("lib/helper.py", X2)),
    Attack("a module of the standard library that appears in a folder that run inserts", step(
           "sys.path.insert(0, 'lib')\nimport this\nanswer = this.__doc__")
           | {"lib/other.py": X1}, put("lib/this.py", '"""Mine."""\n')),
    Attack("a submodule that becomes a package in a folder that run inserts", step(
           "sys.path.insert(0, 'lib')\nimport p.one\nanswer = p.one.X")
           | {"lib/p/one.py": X1}, put("lib/p/one/__init__.py", X2)),
    Attack("a module that appears in a folder that the plugin inserts for a while", step(
           "answer = X", "sys.path.insert(0, str(HERE / 'lib'))\ntry:\n    from mine import X\n"
           "except ImportError:\n    X = 1\nfinally:\n    sys.path.pop(0)")
           | {"lib/other.py": X1}, put("lib/mine.py", X2)),
    Attack("a new file in an inserted folder before another", step("answer = hidden.X",
           "sys.path[:0] = [str(HERE / 'one'), str(HERE / 'two')]\nimport hidden")
           | {"two/hidden.py": X1, "one/other.py": X1}, put("one/hidden.py", X2)),
    Attack("a package in an inserted folder beside a module",
           step("answer = hidden.X", DEEP + "import hidden") | {"lib/hidden.py": X1},
           put("lib/hidden/__init__.py", X2)),
    Attack("what a module in an inserted folder imports",
           step("answer = hidden.X", DEEP + "import hidden")
           | {"lib/hidden.py": "from lower import X\n", "lib/lower.py": X1},
           edit("1", "2", "lib/lower.py")),
    Attack("site.addsitedir", step("answer = hidden.X",
           "import site; site.addsitedir(str(HERE / 'lib'))\nimport hidden")
           | {"lib/hidden.py": X1}, edit("1", "2", "lib/hidden.py")),
    Attack("an inserted folder beside the project", step("answer = hidden.X",
           "sys.path.insert(0, str(HERE.parent / 'beside'))\nimport hidden")
           | {"../beside/hidden.py": X1}, edit("1", "2", "../beside/hidden.py")),
    # -- names that are computed
    Attack("import_module of a computed name",
           step("import importlib\nanswer = importlib.import_module(f'mods.{[\"one\"][0]}').X")
           | {"mods/one.py": X1}, edit("1", "2", "mods/one.py")),
    Attack("import_module of a name in a setting", in_file(step(
           "import importlib\nanswer = importlib.import_module(self.module).X"),
           "tag: int = setting(0", "module: str = setting('mods.one'") | {"mods/one.py": X1},
           edit("1", "2", "mods/one.py")),
    Attack("pkgutil.resolve_name",
           step("import pkgutil; answer = pkgutil.resolve_name('mods' + '.one:X')")
           | {"mods/one.py": X1}, edit("1", "2", "mods/one.py")),
    Attack("__import__", step("answer = __import__('mods' + '.one').one.X")
           | {"mods/one.py": X1}, edit("1", "2", "mods/one.py")),
    Attack("a lazy loader", step("""
           import importlib.util
           spec = importlib.util.find_spec('lat' + 'er')
           spec.loader = importlib.util.LazyLoader(spec.loader)
           module = importlib.util.module_from_spec(spec)
           spec.loader.exec_module(module)
           answer = module.X
           """) | {"later.py": X1}, edit("1", "2", "later.py")),
    Attack("a module's getattr that imports",
           step("answer = mods.X", "import mods") | {"mods/__init__.py":
           "def __getattr__(n):\n    from importlib import import_module\n"
           "    return import_module('.x_' + n.lower(), __name__).X\n", "mods/x_x.py": X1},
           edit("1", "2", "mods/x_x.py")),
    Attack("spec_from_file_location", step("""
           from importlib.util import module_from_spec, spec_from_file_location
           spec = spec_from_file_location('mine', HERE / 'mods' / 'one.py')
           module = module_from_spec(spec)
           spec.loader.exec_module(module)
           answer = module.X
           """) | {"mods/one.py": X1}, edit("1", "2", "mods/one.py"), quick=True),
    Attack("SourceFileLoader at the top", step("answer = M.X",
           "from importlib.machinery import SourceFileLoader\n"
           "M = SourceFileLoader('mine', str(HERE / 'mods/one.py')).load_module()")
           | {"mods/one.py": X1}, edit("1", "2", "mods/one.py")),
    Attack("runpy.run_path", step("import runpy; answer = runpy.run_path(HERE / 'one.txt')['X']")
           | {"one.txt": X1}, edit("1", "2", "one.txt")),
    Attack("runpy.run_module",
           step("import runpy; answer = runpy.run_module('mods' + '.one')['X']")
           | {"mods/one.py": X1}, edit("1", "2", "mods/one.py")),
    Attack("exec of a file", step("d = {}; exec((HERE / 'one.py').read_text(), d); answer = d['X']")
           | {"one.py": X1}, edit("1", "2", "one.py")),
    Attack("exec of a file at the top", step("answer = X",
           "exec(compile(open(HERE / 'one.py').read(), 'one', 'exec'))")
           | {"one.py": X1}, edit("1", "2", "one.py")),
    Attack("an importer of its own", step("import magic_one; answer = magic_one.X", """
           import importlib.abc, importlib.util
           class Magic(importlib.abc.MetaPathFinder, importlib.abc.Loader):
               def find_spec(self, name, path, target=None):
                   if name.startswith('magic_'):
                       return importlib.util.spec_from_loader(name, self)
               def exec_module(self, module):
                   exec((HERE / f'{module.__name__}.txt').read_text(), module.__dict__)
           sys.meta_path.insert(0, Magic())
           """) | {"magic_one.txt": X1}, edit("1", "2", "magic_one.txt")),
    Attack("a table of backends by name", step("answer = back.get('one')", "import back")
           | {"back/__init__.py": "import importlib\nTABLE = {'one': 'back.one'}\n"
              "def get(n): return importlib.import_module(TABLE[n]).X\n", "back/one.py": X1},
           edit("1", "2", "back/one.py")),
    Attack("backends that are files of a folder", step("answer = sorted(back.ALL)", "import back")
           | {"back/__init__.py": "import importlib, os\nALL = [importlib.import_module("
              "'back.' + n[:-3]).X for n in os.listdir(__path__[0]) if n[0] in 'abcdefgh']\n",
              "back/b.py": X1}, put("back/c.py", X2)),
    Attack("a plugin file in another folder", more("a: {use: a.answer}", plugins="../far/steps.py")
           | {"../far/steps.py": step("answer = beside.X", "import beside")["steps.py"],
              "../far/beside.py": X1}, edit("1", "2", "../far/beside.py")),
    Attack("a module of the project before one beside the plugin file",
           more("a: {use: a.answer}", plugins="far/steps.py")
           | {"far/steps.py": step("answer = beside.X", "import beside")["steps.py"],
              "far/beside.py": X1}, put("beside.py", X2), same=True),
    Attack("a module that appears under try", step("answer = X",
           "try:\n    from local_settings import X\nexcept ImportError:\n    X = 1"),
           put("local_settings.py", X2), quick=True),
    Attack("a module under try that goes", step("answer = X",
           "try:\n    from local_settings import X\nexcept ImportError:\n    X = 1")
           | {"local_settings.py": X2}, remove("local_settings.py")),
    *[Attack(f"a module that {name} looked for in vain", step(body),
             put("mod_a.py", "import logging\nX = logging.NullHandler\n"))
      for name, body in {
          "exec": "k = 'a'\n" + TRY.format("exec(f'import mod_{k}') or sys.modules['mod_a'].X"),
          "eval": TRY.format("eval('__import__(\"mod\" + \"_a\").X')"),
          "resolve_name": "import pkgutil\n" + TRY.format("pkgutil.resolve_name('mod' + '_a:X')"),
          "pydoc.locate": "import pydoc; answer = pydoc.locate('mod' + '_a') is None",
          "runpy": "import runpy\n" + TRY.format("runpy.run_module('mod' + '_a')['X']"),
          "dictConfig": "import logging.config as c\n" + TRY.format(
              "c.dictConfig({'version': 1, 'handlers': {'h': {'()': 'mod' + '_a.X'}}}) or 1"),
      }.items()],
    *[Attack(f"a package beside a module that {name} found", step(body) | {"mod_a.py": X1},
             put("mod_a/__init__.py", X2))
      for name, body in {
          "exec": "k = 'a'; exec(f'import mod_{k}'); answer = sys.modules['mod_a'].X",
          "eval": "answer = eval('__import__(\"mod\" + \"_a\").X')",
          "a string": "import types\nanswer = types.FunctionType(compile(\n"
                      "    '__import__(\"mod\" + \"_a\").X', '<x>', 'eval'), {})()",
          "a template": "import jinja2\nanswer = jinja2.Template("
                        "'{{ i(\"mod\" + \"_a\").X }}').render(i=__import__)",
          "resolve_name": "import pkgutil; answer = pkgutil.resolve_name('mod' + '_a:X')",
      }.items()],
    Attack("a submodule that exec looked for in vain", step(
           "import importlib\nimportlib.import_module('pa' + 'ck')\n"
           + TRY.format("exec('from pack import two') or 1")) | {"pack/__init__.py": ""},
           put("pack/two.py", X2)),
    Attack("a module by a computed name that appears", step("""
           import importlib
           try:
               answer = importlib.import_module('local_' + 'settings').X
           except ImportError:
               answer = 1
           """), put("local_settings.py", X2)),
    Attack("find_spec of a module that appears",
           step("import importlib.util as u; answer = u.find_spec('local_' + 'settings') is None"),
           put("local_settings.py", X2)),
    Attack("a link to a module, retargeted", HELPER | {"v1.py": X1, "v2.py": X2},
           link("helper.py", "v2.py"), prepare=link("helper.py", "v1.py")),
    Attack("a link to a package, retargeted", HELPER | {"v1/__init__.py": X1, "v2/__init__.py": X2},
           link("helper", "v2"), prepare=link("helper", "v1")),
    # -- a library that is hidden
    *[Attack(f"a library hidden in a folder that the plugin inserts{name}", files
             | distribution("sound", "1.0", {"sound.py": X1}), put("sound.py", X2))
      for name, files in {
          "": step("answer = sound.X", INSERTED + "import sound"),
          ", imported by run": step("import sound; answer = sound.X", INSERTED),
          ", by exec": step("exec('import sound; answer = sound.X', d := {}); answer = d['answer']",
                            INSERTED)}.items()],
    Attack("a module of Python hidden in a folder that the plugin inserts", step(
           "answer = getattr(colorsys, 'X', 1)", INSERTED + "import colorsys"),
           put("colorsys.py", X2)),
    Attack("a library of a library, hidden by the project in PYTHONPATH",
           step("import lib; answer = lib.f()")
           | distribution("lib", "1.0", {
               "lib.py": "def f():\n    import sound\n    return sound.X"})
           | distribution("sound", "1.0", {"sound.py": X1}), put("sound.py", X2),
           env={"PYTHONPATH": "{w}/p"}),
    Attack("precise: a readme in a folder that the plugin inserts", step(
           "answer = sound.X", INSERTED + "import sound")
           | distribution("sound", "1.0", {"sound.py": X1}), put("README.md", ""), precise=True),
]  # fmt: skip


@attacks(CASES)
def test_a_module(attack: Attack, tmp_path: Path) -> None:
    attack.run(tmp_path)
