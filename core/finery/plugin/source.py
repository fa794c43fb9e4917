"""Python files of a project, run from their current source."""

import importlib.util
import os
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType


class _Source(SourceFileLoader):
    """Always compiles the current source and ignores `.pyc` files.

    Python trusts a `.pyc` by the size of the source and its time in whole seconds. After a quick
    edit, or one that keeps the time, it would run other code than the code in the key.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def load_source(path: Path, name: str) -> ModuleType:
    """Run a Python file as the module `name`. It can import neighbouring modules.

    The folder comes last in `sys.path`. The key of a step follows such imports for the files that
    `Step.key_code` returns. Raises what the file raises.
    """
    read_from_source(path.parent)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    loader = _Source(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def read_from_source(folder: Path) -> None:
    """Always compile modules in a folder, and in its subfolders, when they are imported."""
    root = str(folder.absolute())
    if root in _FROM_SOURCE:
        return
    _FROM_SOURCE.add(root)
    if len(_FROM_SOURCE) == 1:
        sys.path_hooks.insert(0, _finder)
    sys.path_importer_cache.clear()


_FROM_SOURCE: set[str] = set()


def _finder(path: str) -> FileFinder:
    """A finder for a folder of a project. Raises `ImportError` for other folders."""
    here = os.path.abspath(path or ".")
    is_installed = here.startswith(sys.prefix + os.sep)  # an environment inside the project
    if is_installed or not any(here == r or here.startswith(r + os.sep) for r in _FROM_SOURCE):
        raise ImportError
    return FileFinder(
        path,
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (_Source, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )
