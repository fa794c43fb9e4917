"""What code counts of files that belong to no distribution: all that they can import, whole."""

import importlib
import itertools
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from finery.builder.code.closure import Closure
from finery.builder.code.index import CodeIndex
from finery.errors import PluginError
from finery.store.database import Store

Edit = tuple[str, str]
numbers = itertools.count()


def closure(folder: Path, name: str = "plugin.py", store: Store | None = None) -> Closure:
    return Closure(CodeIndex([str(folder)], store), [(folder / name, None)])


def write(folder: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "files", "counted"),
    [
        ("import a", {"a.py": "", "b.py": ""}, {"a.py"}),
        ("import a.b", {"a/__init__.py": "", "a/b.py": "", "a/c.py": ""},
         {"a/__init__.py", "a/b.py"}),
        ("from a import b", {"a/__init__.py": "", "a/b.py": ""}, {"a/__init__.py", "a/b.py"}),
        ("from a import f", {"a/__init__.py": "from .c import f", "a/c.py": "f = 1"},
         {"a/__init__.py", "a/c.py"}),
        ("import a.b.c", {"a/b/__init__.py": "", "a/b/c.py": "from ..d import f", "a/d.py": ""},
         {"a/b/__init__.py", "a/b/c.py", "a/d.py"}),
        ("from a.b import f", {"a/__init__.py": "", "a/b.py": "from . import d", "a/d.py": ""},
         {"a/__init__.py", "a/b.py", "a/d.py"}),
        ("from a import *", {"a/__init__.py": "__all__ = ['b']", "a/b.py": "", "a/c.py": ""},
         {"a/__init__.py", "a/b.py", "a/c.py"}),
        ("from a import b", {"a/b.py": "x = 1"}, {"a/b.py"}),  # a namespace package
        ("def f():\n    if False:\n        import a", {"a.py": ""}, {"a.py"}),
        ("try:\n    import a\nexcept ImportError:\n    import b", {"a.py": "", "b.py": ""},
         {"a.py", "b.py"}),
        ("class C:\n    import a", {"a.py": "import b", "b.py": "import plugin"}, {"a.py", "b.py"}),
        ("from importlib import import_module\nimport_module('a.b')",
         {"a/__init__.py": "", "a/b.py": ""}, {"a/__init__.py", "a/b.py"}),
        ("TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import a", {"a.py": ""}, {"a.py"}),
        ("import json, os.path, sys", {"b.py": ""}, set()),
        ("from __future__ import annotations", {"b.py": ""}, set()),
        ("import a", {"a/__init__.py": "", "a.py": ""}, {"a/__init__.py"}),  # a package comes first
    ],
)  # fmt: skip
def test_all_that_a_file_can_import_counts(
    tmp_path: Path, source: str, files: dict[str, str], counted: set[str]
) -> None:
    write(tmp_path, {"plugin.py": source, **files})
    assert {*closure(tmp_path).code} == {"plugin.py", *counted}


@pytest.mark.parametrize(
    ("edit", "changes"),
    [
        (("# a comment", "# another"), False),
        (("x = 1", "x   =  1  # new"), False),
        (("x = 1", "x = (1)"), False),
        (("'''Text.'''", "'''Other.'''"), True),
        (("n: int", "n: float"), True),
        (("x = 1", "x = 1.0"), True),
        (("x = 1", "x = True"), True),
        (("return n", "return -n"), True),
        (("raise ValueError('bad')", "raise ValueError('worse')"), True),
    ],
)
def test_the_whole_syntax_tree_of_a_file_counts(tmp_path: Path, edit: Edit, changes: bool) -> None:
    source = "# a comment\nx = 1\ndef f(n: int):\n    '''Text.'''\n    if n:\n        return n\n"
    source += "    raise ValueError('bad')\n"
    write(tmp_path, {"plugin.py": "import a", "a.py": source})
    before = closure(tmp_path).code
    write(tmp_path, {"a.py": source.replace(*edit)})
    assert (closure(tmp_path).code != before) == changes


@pytest.mark.parametrize(
    "source",
    [
        "if x == 0:\n    pass\n" + "".join(f"elif x == {i}:\n    pass\n" for i in range(3_000)),
        f"x = {' + '.join(['1'] * 20_000)}",
        f"x = y{'.f()' * 3_000}",
        f"x = {'-' * 5_000}1",
        f"x = {'(' * 1_000}1{')' * 1_000}",
        f"x = 0x{'f' * 6_000}",
        "def f[T: int = str](x): pass",  # of a newer Python
        "x = 1\0",
        "x = '\ud800'",
        "def f(:",
        "\N{BOM}x = 1",
        "x = '\\d'",
    ],
    ids=range(12),
)
def test_a_file_that_python_cannot_parse_counts_by_its_bytes_with_its_imports(
    tmp_path: Path, source: str, recwarn: pytest.WarningsRecorder
) -> None:
    write(tmp_path, {"plugin.py": "import a", "b.py": "y = 2"})
    content = f"import b\n{source}\n".encode(errors="surrogatepass")
    (tmp_path / "a.py").write_bytes(content)
    first = closure(tmp_path).code
    assert {*first} == {"plugin.py", "a.py", "b.py"}
    (tmp_path / "a.py").write_bytes(content.replace(b"import b", b"import b, b as c"))
    assert closure(tmp_path).code["a.py"] != first["a.py"]
    assert not recwarn.list


def deep(levels: int, folder: Path) -> Closure:
    return deep(levels - 1, folder) if levels else closure(folder)


def test_a_digest_does_not_depend_on_who_asks_for_it(tmp_path: Path) -> None:
    write(tmp_path, {"plugin.py": f"x = {' + '.join(['1'] * 900)}"})
    assert deep(700, tmp_path).code == closure(tmp_path).code


def test_compiled_modules_and_archives_count_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"plugin.py": "import compiled, other, zipped"})
    (tmp_path / "compiled.pyc").write_bytes(b"code")
    (tmp_path / "other.abi3.so").write_bytes(b"code")
    archive = tmp_path / "modules.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped.py", "x = 1")
    monkeypatch.syspath_prepend(archive)
    first = closure(tmp_path)
    assert {*first.code} == {"plugin.py", "compiled.pyc", "other.abi3.so", "modules.zip"}
    archive.write_bytes(archive.read_bytes() + b" ")
    (tmp_path / "compiled.pyc").write_bytes(b"edoc")
    changed = closure(tmp_path).code.items() - first.code.items()
    assert {name for name, _ in changed} == {"compiled.pyc", "modules.zip"}


@pytest.mark.parametrize(
    ("files", "new"),
    [
        ({"lib/a.py": ""}, "early/a.py"),
        ({"lib/a.py": ""}, "lib/a/__init__.py"),
        ({"lib/a.py": ""}, "lib/a.abi3.so"),
        ({"lib/a/b.py": ""}, "lib/a/__init__.py"),
        ({"lib/a/b.py": ""}, "early/a/__init__.py"),
        ({}, "lib/a.py"),
    ],
)
def test_a_new_file_that_an_import_would_read_is_watched_and_changes_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], new: str
) -> None:
    write(tmp_path, {"plugin.py": "import a.b", "early/x.py": "", "lib/x.py": "", **files})
    for folder in ("lib", "early"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    before = closure(tmp_path)
    watched = before._index.absent
    assert not any(map(os.path.exists, watched))
    write(tmp_path, {new: "new = 1"})
    assert any(map(os.path.exists, watched))
    after = closure(tmp_path)
    assert (after.code, after.packages) != (before.code, before.packages)


def test_an_import_that_nobody_has_is_a_part(tmp_path: Path) -> None:
    write(
        tmp_path, {"plugin.py": "try:\n    import nobody_has_this\nexcept ImportError:\n    pass"}
    )
    assert closure(tmp_path).packages == {"nobody_has_this"}


def test_the_same_name_beside_two_plugin_files_counts_twice(tmp_path: Path) -> None:
    write(
        tmp_path, {"a/plugin.py": "import helper", "a/helper.py": "x = 1", "b/helper.py": "x = 2"}
    )
    index = CodeIndex([str(tmp_path / "b"), str(tmp_path / "a")], None)
    code = Closure(index, [(tmp_path / "a/plugin.py", None)]).code
    assert {*code} == {"plugin.py", "helper.py", "helper.py'"}


def test_what_a_file_of_key_code_imports_beside_it_counts(tmp_path: Path) -> None:
    write(tmp_path, {"plugin.py": "", "tools/calls.py": "import helper", "tools/helper.py": ""})
    index = CodeIndex([str(tmp_path)], None)
    assert {*Closure(index, [(tmp_path / "plugin.py", None)]).code} == {"plugin.py"}
    found = Closure(index, [(tmp_path / "tools/calls.py", None)])
    assert {*found.code} == {"calls.py", "helper.py"}
    assert not found.packages
    assert any(map(str(tmp_path).__eq__, map(os.path.dirname, index.absent)))


def test_a_module_that_hides_one_of_python_acts_on_all_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "statistics.py" not in _labels_at_start()
    write(tmp_path, {"statistics.py": "x = 1", "fresh_name.py": "x = 1", "yaml/__init__.py": ""})
    monkeypatch.syspath_prepend(tmp_path)
    assert {"statistics.py", "__init__.py"} <= _labels_at_start()
    assert "fresh_name.py" not in _labels_at_start()


def _labels_at_start() -> set[str]:
    return {os.path.basename(module.path) for module in CodeIndex([], None).startup_modules()}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of this source."""

    def load(source: str) -> Any:
        name = f"closure_probe_{next(numbers)}"
        write(tmp_path, {f"{name}.py": source})
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        loaded = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, name, loaded)
        return loaded

    return load


def test_own_code_counts_by_definition_and_imports_of_it_by_module(module: Any) -> None:
    loaded = module(
        "from finery import Step\nfrom finery_eval.evaluator import Evaluator\n"
        "class Mine(Evaluator):\n    pass\n"
    )
    code = Closure(CodeIndex([], None), [(loaded.Mine, None)]).code
    assert {f"{loaded.__name__}.py", "finery_eval/evaluator.py", "finery/rows/row.py"} <= {*code}
    assert not any(label.startswith(("finery/step", "finery/builder")) for label in code)


@pytest.mark.parametrize(
    ("statement", "counted"),
    [
        ("from finery import rows", "finery/rows/row.py"),
        ("import finery", "finery/rows/row.py"),
        ("import finery.rows.row as r", "finery/rows/row.py"),
        ("from finery.rows import *", "finery/rows/row.py"),
        ("from finery_data import *", "finery"),
        ("from finery_data.steps.split import Split", "finery"),
    ],
)
def test_what_the_table_does_not_list_counts_as_all_of_finery(
    module: Any, statement: str, counted: str
) -> None:
    loaded = module(f"{statement}\nclass C:\n    pass\n")
    assert counted in Closure(CodeIndex([], None), [(loaded.C, None)]).code


def test_a_public_module_that_is_imported_from_its_package_counts_alone(module: Any) -> None:
    loaded = module("from finery_eval import asking\nclass C:\n    pass\n")
    code = Closure(CodeIndex([], None), [(loaded.C, None)]).code
    assert "finery_eval/asking.py" in code
    assert "finery" not in code


def test_the_bases_of_a_class_count_wherever_they_are(module: Any) -> None:
    base = module("from finery import Step\nclass Base(Step):\n    pass\n")
    factory = module(
        "def make(base):\n    return type('Made', (base,), {'__module__': __name__})\n"
    )
    code = Closure(CodeIndex([], None), [(factory.make(base.Base), None)]).code
    assert {f"{base.__name__}.py", f"{factory.__name__}.py"} <= {*code}


def test_a_class_without_a_file_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(sys)("without_a_file")
    monkeypatch.setitem(sys.modules, "without_a_file", kind)
    cls = type("C", (), {"__module__": "without_a_file"})
    with pytest.raises(PluginError, match="isn't in a file"):
        Closure(CodeIndex([], None), [(cls, None)])


def test_facts_about_files_are_kept_in_the_store_and_recover_from_damage(tmp_path: Path) -> None:
    write(tmp_path, {"plugin.py": "import a", "a.py": "x = 1"})
    for name in ("plugin.py", "a.py"):
        os.utime(tmp_path / name, ns=(10**18 + 1, 10**18 + 1))
    store = Store(tmp_path / ".finery")
    first = closure(tmp_path, store=store).code
    store._db.write(("UPDATE remembered SET content = ?", [(b"\xc1",)]))
    assert closure(tmp_path, store=store).code == first
    store.close()
