"""Digests of the functions behind metrics, which say whether two results were computed alike."""

import dis
import sys
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import resolve_name
from types import (
    BuiltinFunctionType,
    CodeType,
    EllipsisType,
    FunctionType,
    ModuleType,
    NoneType,
)
from typing import Any

from blake3 import blake3

from finery import outside_key

CONSTANTS = (NoneType, EllipsisType, bool, int, float, complex, str, bytes, range)
UNCOUNTED = ("__doc__", "__module__", "__firstlineno__", "__annotations__", "__orig_bases__")
"""Attributes of a class that don't change what it computes."""
FIELDS = ("_tuplegetter", "member_descriptor", "getset_descriptor")
"""The types of attributes that a name says all about."""


@outside_key  # it depends on nothing but what the statistic reads, which is in the key
def definition_of(function: Any) -> str | None:
    """A digest of a function with all that it reads: helpers, constants, defaults, its closure.

    It is made of bytecode: comments don't change it, another version of Python does. Of the
    standard library it has names, and of other packages than plugins their versions, too. None if
    the function reads what can't be followed, such as an instance of a plugin's class.
    """
    try:
        return blake3(repr(_content(function, {}, set())).encode()).hexdigest()[:16]
    except (ImportError, RecursionError, TypeError, ValueError):
        return None


def _content(value: Any, seen: dict[Any, int], names: set[str]) -> Any:
    """The content of a value as lists and texts. names: what is read of it if it is a module."""

    def inside(*values: Any) -> list[Any]:
        return [_content(each, seen, names) for each in values]

    if type(value) in CONSTANTS:
        return repr(value)
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, value.co_varnames, *inside(*value.co_consts)]
    if type(value) in (set, frozenset):
        return sorted(map(repr, inside(*value)))
    if type(value) is dict:
        return inside(*value.items())
    if type(value) in (tuple, list):
        return inside(*value)
    if isinstance(value, ModuleType):
        variables = {name: of for name, of in vars(value).items() if name in names}
        return _library(value.__name__) or inside(dict(sorted(variables.items())))
    if isinstance(value, property):
        return inside(value.fget)
    if isinstance(value, staticmethod | classmethod):
        return inside(type(value), value.__func__)
    if isinstance(value, BuiltinFunctionType):
        return inside(value.__qualname__, value.__self__)
    if not isinstance(value, FunctionType | type):
        raise TypeError(repr(value))
    if library := _library(value.__module__):
        return library, value.__qualname__
    if value in seen:
        return seen[value]
    seen[value] = len(seen)
    if isinstance(value, type):
        own = {name: of for name, of in vars(value).items() if name not in UNCOUNTED}
        fields = [name for name, of in own.items() if type(of).__name__ in FIELDS]
        return inside({n: n if n in fields else of for n, of in own.items()}, value.__bases__)
    code, variables = value.__code__, value.__globals__
    names, imports = _read_by(code, variables.get("__package__"))
    used = {name: variables[name] for name in sorted(names & variables.keys())}
    code = code.replace(co_consts=tuple(None if c == value.__doc__ else c for c in code.co_consts))
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    return inside(code, value.__defaults__, value.__kwdefaults__, cells, used, *imports)


def _read_by(code: CodeType, package: str | None) -> tuple[set[str], list[ModuleType]]:
    """The names of variables and attributes in code and the functions inside, and its imports."""
    names, imports, steps = {*code.co_names}, [], list(dis.get_instructions(code))
    for before, step in zip(steps, steps[2:], strict=False):
        if step.opname == "IMPORT_NAME":
            name = resolve_name("." * before.argval + step.argval, package)
            imports.append(import_module(name))
    for inner in (each for each in code.co_consts if isinstance(each, CodeType)):
        more, modules = _read_by(inner, package)
        names, imports = names | more, imports + modules
    return names, imports


def _library(module: str) -> str:
    """What stands for a module's code, e.g. `numpy 2.3.1`; empty if the code itself counts."""
    package = sys.modules.get(module.partition(".")[0])
    file, version = (getattr(package, n, None) for n in ("__file__", "__version__"))
    if module.partition(".")[0] in sys.stdlib_module_names:
        return module
    if not version or "-packages" not in str(file):
        return ""
    plugins = {each.value.partition(".")[0] for each in entry_points(group="finery")}
    return "" if module.partition(".")[0] in {"finery", *plugins} else f"{module} {version}"
