"""What code counts of installed distributions: plugins by content, others by version."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from finery.builder.code.closure import Closure
from finery.builder.code.imports import Imports
from finery.builder.code.index import CodeIndex
from finery.util.installed import (
    distributions,
    entry_points,
    module_owners,
    plugin_packages,
    search_path,
)

Site = Callable[..., None]
ENTRY = "[finery]\nacme = acme.plugin\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Installs a distribution in a folder of its own on `sys.path`."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def install(
        name: str, files: dict[str, str], *, version: str = "1.0", requires: tuple[str, ...] = (),
        entry_points: str = "", direct: bool = False, record: bool = True,
    ) -> None:  # fmt: skip
        for each in folder.glob(f"{name}-*.dist-info"):
            each.rename(tmp_path / f"old-{len(os.listdir(tmp_path))}")
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
        lines += [f"Requires-Dist: {each}" for each in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n\nRequires-Dist: in-the-text\n")
        (info / "entry_points.txt").write_text(entry_points)
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        if direct:
            (info / "direct_url.json").write_text("{}")
        rows = [f"{path},sha256={hash(text)},1" for path, text in files.items()]
        rows += [f"{info.name}/METADATA,,", f"../bin/{name},sha256=x,1"]
        (info / "RECORD").write_text("\n".join(rows) if record else "")
        forget()

    def forget() -> None:
        distributions.cache_clear()
        module_owners.cache_clear()
        search_path.cache_clear()
        plugin_packages.cache_clear()
        entry_points.cache_clear()
        importlib.invalidate_caches()

    forget()
    yield install
    monkeypatch.undo()
    forget()


@pytest.fixture
def closure(tmp_path: Path) -> Callable[[str], Closure]:
    def follow(source: str) -> Closure:
        (tmp_path / "steps.py").write_text(source)
        return Closure(CodeIndex([str(tmp_path)], None), [(tmp_path / "steps.py", None)])

    return follow


def test_distributions_count_by_version_with_what_they_require(
    site: Site, closure: Callable[[str], Closure]
) -> None:
    site("first_lib", {"first/__init__.py": "import anything"}, requires=(
        "Second-Lib[fast] >=1 ; python_version > '3'", "third_lib; extra == 'more'",
        "never-installed", "nvidia-cublas-cu12",
    ))  # fmt: skip
    site("second_lib", {"second.py": ""}, requires=("fourth_lib ; extra == 'fast'",))
    site("third_lib", {"third.py": ""})
    site("fourth_lib", {f"fourth{EXTENSION_SUFFIXES[0]}": ""}, requires=("first-lib",))
    site("nvidia_cublas_cu12", {"nvidia/__init__.py": ""})
    found = closure("import first.inner")
    assert found.packages == {"first-lib", "second-lib", "fourth-lib"}
    assert {*found.code} == {"steps.py"}
    assert closure("import fourth").packages >= {"fourth-lib"}


def test_a_namespace_package_counts_with_all_distributions_that_have_a_part_of_it(
    site: Site, closure: Callable[[str], Closure]
) -> None:
    site("part_one", {"shared_ns/one.py": ""})
    site("part_two", {"shared_ns/two/__init__.py": ""})
    assert closure("import shared_ns.one").packages == {"part-one", "part-two"}


def test_a_module_of_no_distribution_counts_by_content(
    site: Site, closure: Callable[[str], Closure]
) -> None:
    site("any_lib", {"any_lib.py": "", "by_hand.py": "import any_lib"})
    site("any_lib", {"any_lib.py": ""})
    found = closure("import by_hand")
    assert {*found.code} == {"by_hand.py", "steps.py"}
    assert found.packages == {"any-lib"}


def test_what_comes_from_a_folder_or_a_repository_counts_by_its_files(
    site: Site, closure: Callable[[str], Closure]
) -> None:
    site("own_lib", {"own_lib.py": "x = 1"}, direct=True)
    first = closure("import own_lib")
    site("own_lib", {"own_lib.py": "x = 2"}, direct=True)
    assert closure("import own_lib").code.keys() == {"steps.py", "own-lib (files)"}
    assert closure("import own_lib").code != first.code


def test_the_distribution_of_a_plugin_counts_by_all_its_files(
    site: Site, closure: Callable[[str], Closure], tmp_path: Path
) -> None:
    files = {"acme/__init__.py": "", "acme/plugin.py": "import lib_a, acme.other",
             "acme/other.py": "", "acme/data/words.txt": "a",
             "acme_texts/more.txt": "b", "acme/only/folders/x.txt": "x"}  # fmt: skip
    site("lib_a", {"lib_a.py": ""})
    site("acme", files, entry_points=ENTRY)
    first = closure("import acme")
    assert {*first.code} == {"acme", "steps.py"}
    assert first.packages == {"lib-a"}
    folder = tmp_path / "site-packages"
    assert {str(folder / name) for name in ("acme", "acme/data", "acme/only")} <= first.folders
    seen = {first.code["acme"]}
    for path, text in (
        ("acme/data/words.txt", "c"), ("acme_texts/more.txt", "c"), ("acme/new.bin", "d"),
        ("acme/other.py", "# a comment"),
    ):  # fmt: skip
        (folder / path).write_text(text)
        now = closure("import acme")
        assert now.code["acme"] not in seen
        seen.add(now.code["acme"])
    for path in ("acme/.cache/x", "acme/__pycache__/x.pyc", "acme.egg-info/x"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text("x")
    assert closure("import acme").code["acme"] in seen
    assert now.names()[now.code["acme"]].keys() == {*files, "acme/new.bin"}


def test_an_editable_plugin_counts_by_content_and_follows_its_imports(
    site: Site, closure: Callable[[str], Closure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "checkout" / "src"
    for path, text in {"acme/__init__.py": "", "acme/plugin.py": "import beside, lib_a",
                       "beside.py": "x = 1", "acme/texts/a.txt": "a",
                       "acme/venv/pyvenv.cfg": "", "acme/venv/big.py": ""}.items():  # fmt: skip
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    site("lib_a", {"lib_a.py": ""})
    site("acme", {"acme.pth": str(source)}, entry_points=ENTRY, direct=True)
    monkeypatch.syspath_prepend(source)
    found = closure("from acme.plugin import x")
    assert {*found.code} == {"acme", "beside.py", "steps.py"}
    assert found.packages == {"lib-a"}
    assert {*found.names()[found.code["acme"]]} == {
        "acme/__init__.py", "acme/plugin.py", "acme/texts/a.txt"
    }  # fmt: skip


def test_links_in_a_package_are_followed_once(
    site: Site, closure: Callable[[str], Closure], tmp_path: Path
) -> None:
    site("acme", {"acme/__init__.py": "", "acme/plugin.py": ""}, entry_points=ENTRY)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/data.txt").write_text("a")
    folder = tmp_path / "site-packages/acme"
    (folder / "loop").symlink_to(folder)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    names = closure("import acme").names()
    assert "acme/link/data.txt" in {name for each in names.values() for name in each}


def test_code_that_reads_entry_points_has_all_of_them_in_its_key(
    site: Site, closure: Callable[[str], Closure]
) -> None:
    source = "from importlib.metadata import entry_points\n"
    assert "installed distributions" not in closure("import json").code
    first = closure(source).code
    site("filters", {"filters.py": ""}, entry_points="[acme.filters]\na = filters:a\n")
    assert closure(source).code["installed distributions"] != first["installed distributions"]


@pytest.mark.parametrize("source", [
    "import importlib.metadata as m\nm.version('a')\n",
    "from importlib import metadata\n",
    "import importlib\nimportlib.metadata.version('a')\n",
    "import pkg_resources\n",
])  # fmt: skip
def test_code_that_reads_versions_has_all_of_them_in_its_key(
    site: Site, closure: Callable[[str], Closure], source: str
) -> None:
    first = closure(source).code["installed distributions"]
    site("plain", {"plain.py": ""})
    assert closure(source).code["installed distributions"] != first
    assert "installed distributions" not in closure("import importlib.util\n").code


def test_code_that_an_unlisted_file_runs_at_start_acts_on_all_steps(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "site-packages/patch.pth").write_text("import patch_all; patch_all.go()\n")
    (tmp_path / "site-packages/paths.pth").write_text("/nowhere\n")
    site("owned", {"owned.pth": "import owned\n"})
    index = CodeIndex([], None)
    modules = [module for module in index.startup_modules() if str(tmp_path) in module.path]
    assert [os.path.basename(module.path) for module in modules] == ["patch.pth"]
    (tmp_path / "site-packages/patch_all.py").write_text("x = 1")
    code = Closure(CodeIndex([], None), [(modules[0], None)]).code
    assert {*code} == {"patch.pth", "patch_all.py"}


def test_this_test_leaves_no_distribution_behind() -> None:
    assert "acme" not in sys.modules
    assert "acme" not in distributions()


@pytest.mark.parametrize(
    ("inherited", "folder"), [(None, "there"), ("", "there"), ("here", "here")]
)
def test_the_working_folder_counts_where_workers_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inherited: str | None, folder: str
) -> None:
    """`python -m` puts it into the path of this process alone."""
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shadowed_module.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path / name)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if inherited is not None:
        monkeypatch.setenv("PYTHONPATH", inherited and str(tmp_path / inherited))
    (module,) = Imports((), set(), set()).find("shadowed_module")
    assert Path(module.path).parent.name == folder
