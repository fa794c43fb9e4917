"""The house: layers, no circles, and plugins that use only what is public.

`.importlinter` holds the layers; `make lint` checks them.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import finery
import finery.advanced

HOME = Path(__file__).parents[1]
PLUGINS = sorted(path.name for path in (HOME / "plugins").iterdir() if path.is_dir())
PUBLIC = ("finery.advanced", "finery.rows", "finery.testing", "finery.views")
"""Beside `finery` itself, what plugins may import of the core."""


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph(
        "finery", *PLUGINS, exclude_type_checking_imports=True, cache_dir=None
    )
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugins_import_only_what_is_public(plugin: str) -> None:
    """Also where only type checkers look, which `lint-imports` leaves out."""
    files = sorted((HOME / "plugins" / plugin).rglob("*.py"))
    private = [(path.name, name) for path in files for name in _core_imports(path)]
    assert private == []


def _core_imports(path: Path) -> Iterator[str]:
    """What a file imports of the core that isn't public, as `module` or `finery.name`."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "finery":
            names = [f"finery.{a.name}" for a in node.names if a.name not in dir(finery)]
        elif isinstance(node, ast.ImportFrom) and node.module == "finery.advanced":
            face = dir(finery.advanced)
            names = [f"finery.private.{a.name}" for a in node.names if a.name not in face]
        else:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.startswith("finery.") and not name.startswith(PUBLIC):
                yield name


def test_every_setting_is_read_and_no_alias_leads_to_another_setting() -> None:
    """A field that nothing reads would pass the schema and do nothing."""
    plugins = finery.advanced.load_plugins()
    files = (path for part in ("core", "plugins") for path in (HOME / part).rglob("*.py"))
    reads = re.compile(r"(?<=\.)\w+|(?<=[\"'])\w+(?=[\"'])")
    read = {name for path in files for name in reads.findall(path.read_text("utf-8"))}
    for use in plugins.step_types:
        fields = {*plugins.step_type(use).__struct_fields__}
        assert (use, fields - read) == (use, set())
        if "args" in fields:
            file = HOME / "plugins" / "finery_trl" / "aliases.yaml"
            passed = re.findall(r"\bargs\.(\w+):", file.read_text("utf-8"))
            assert not fields & set(passed)


def test_signed_numbers_are_formatted_in_one_place() -> None:
    """So that no difference is shown as `-0.0`."""
    files = (path for part in ("core", "plugins") for path in (HOME / part).rglob("*.py"))
    places = {path.name for path in files if re.search(r"\{[^{}\"]+:\+", path.read_text("utf-8"))}
    assert places == {"text.py"}  # finery.util.text.signed


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and their contracts, to break."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("core", "plugins"):
        shutil.copytree(HOME / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HOME / ".importlinter", folder)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """`lint-imports` on a copy of the packages."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    paths = os.pathsep.join(str(folder / name) for name in ("core", "plugins"))
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "200"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_house_keeps_its_contracts(house: Path) -> None:
    linted = lint(house)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(("file", "line", "broken"), [
    ("core/finery/util/text.py", "import finery.cli.main", "The core's packages are layers"),
    ("core/finery/recipe/lock.py", "import finery_data.steps.map", "The core imports no plugin"),
    ("plugins/finery_sql/query.py", "import finery.store.database", "nothing of the core but"),
    ("plugins/finery_sql/query.py", "import finery_hub.card", "only public modules of each other"),
    ("plugins/finery_synth/asking.py", "import finery_synth.judges", "finery_synth are layers"),
])  # fmt: skip
def test_a_wrong_import_breaks_a_contract(house: Path, file: str, line: str, broken: str) -> None:
    before = (house / file).read_text(encoding="utf-8")
    (house / file).write_text(f"{before}\n{line}\n", encoding="utf-8")
    try:
        linted = lint(house)
    finally:
        (house / file).write_text(before, encoding="utf-8")
    assert linted.returncode == 1
    assert [line for line in linted.stdout.splitlines() if broken in line and "BROKEN" in line]
    module, imported = file.partition("/")[2].removesuffix(".py").replace("/", "."), line[7:]
    assert f"{module} -> {imported}" in linted.stdout
