"""Checks arguments that settings name as `tool.argument` against the tools in rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from finery import DataError
from finery.rows import Row
from finery.rows.answers.jsonvalues import NotJson, parse
from finery.util.text import did_you_mean
from finery_eval.calls.arguments import branches_of, facets_of, types_of
from finery_eval.calls.calls import BadTools, Tool, Toolbox

SAMPLED = 200
"""Rows that are looked at before they are built."""
PATHS = 4
"""Levels of objects in each other whose members can be named."""


class Arguments(NamedTuple):
    """The arguments of tools.

    lists: `tool.argument` → whether it may be a list. tools: names. where: the rows that were
    examined, if there are more of them, because those may offer other tools.
    """

    lists: Mapping[str, bool]
    tools: frozenset[str]
    where: str = ""

    def check(self, setting: str, names: Sequence[str]) -> None:
        """Raise `DataError` for a name that isn't one of an argument, or not one of a list."""
        for name in names:
            if name not in self.lists and self._is_known(name):
                raise self._error(
                    f"no tool of the rows has the argument '{name}'",
                    setting,
                    did_you_mean(name, self.lists),
                )
            if setting == "unordered" and not self.lists.get(name, True):
                raise self._error(
                    f"'{name}' isn't a list, so it has no order to ignore",
                    setting,
                    "remove it, or name an argument of the type `array`",
                )

    def _is_known(self, name: str) -> bool:
        """Whether the examined rows show that there is no such argument."""
        return not self.where or any(name.startswith(f"{tool}.") for tool in self.tools)

    def _error(self, what: str, setting: str, fix: str | None) -> DataError:
        details = [f"found in {self.where}"] if self.where else []
        return DataError(what, where=setting, fix=fix, details=details)


def arguments_of(tools: Iterable[Tool], where: str = "") -> Arguments:
    """The arguments of these tools."""
    lists: dict[str, bool] = {}
    names = set()
    for tool in tools:
        names.add(tool.name)
        for path, is_list in _arguments(tool.name, tool.schema, tool.schema, PATHS):
            lists[path] = lists.get(path, False) or is_list
    return Arguments(lists, frozenset(names), where)


def sampled_arguments(rows: Iterable[Row]) -> Arguments | None:
    """The arguments of the tools in the first rows; None if no tool can be read.

    The rows may still be the records of a file, in which tools may be JSON text.
    """
    toolbox, tools, rest = Toolbox(), list[Tool](), iter(rows)
    is_whole = True
    for row in islice(rest, SAMPLED):
        try:
            tools += _offered(row, toolbox)
        except (BadTools, NotJson):
            is_whole = False
    is_whole = is_whole and next(rest, None) is None
    where = "" if is_whole else f"the first {SAMPLED} rows"
    return arguments_of(tools, where) if tools else None


def _offered(row: Row, toolbox: Toolbox) -> Iterable[Tool]:
    offered = row.get("tools")
    return toolbox.of({"tools": parse(offered) if isinstance(offered, str) else offered}).values()


def _arguments(
    path: str, schema: Any, root: Mapping[str, Any], depth: int
) -> Iterator[tuple[str, bool]]:
    """(path, whether it may be a list) of all arguments, and of the members of objects."""
    for part in branches_of(schema, root) if depth else ():
        for name, member in part.get("properties", {}).items():
            yield f"{path}.{name}", _may_be_list(member, root)
            yield from _arguments(f"{path}.{name}", member, root, depth - 1)
        if "items" in part:
            yield from _arguments(path, part["items"], root, depth - 1)


def _may_be_list(schema: Any, root: Mapping[str, Any]) -> bool:
    types = types_of(facets_of(schema, root, []))
    return not types or "array" in types
