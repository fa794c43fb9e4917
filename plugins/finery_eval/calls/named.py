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
        details = [f"found in {self.where}"] if self.where else []
        for name in names:
            # Other rows may offer other tools, but a tool has the same arguments there.
            is_known = not self.where or any(name.startswith(f"{tool}.") for tool in self.tools)
            if name not in self.lists and is_known:
                what = f"no tool of the rows has the argument '{name}'"
                fix = did_you_mean(name, self.lists)
                raise DataError(what, where=setting, fix=fix, details=details)
            if setting == "unordered" and not self.lists.get(name, True):
                what = f"'{name}' isn't a list, so it has no order to ignore"
                fix = "remove it, or name an argument of the type `array`"
                raise DataError(what, where=setting, fix=fix, details=details)


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
            offered = row.get("tools")
            offered = parse(offered) if isinstance(offered, str) else offered
            tools += toolbox.of({"tools": offered}).values()
        except (BadTools, NotJson):
            is_whole = False
    is_whole = is_whole and next(rest, None) is None
    where = "" if is_whole else f"the first {SAMPLED} rows"
    return arguments_of(tools, where) if tools else None


def _arguments(
    path: str, schema: Any, root: Mapping[str, Any], depth: int
) -> Iterator[tuple[str, bool]]:
    """(path, whether it may be a list) of all arguments, and of the members of objects."""
    for part in branches_of(schema, root) if depth else ():
        for name, member in part.get("properties", {}).items():
            types = types_of(facets_of(member, root, []))
            yield f"{path}.{name}", not types or "array" in types
            yield from _arguments(f"{path}.{name}", member, root, depth - 1)
        if "items" in part:
            yield from _arguments(path, part["items"], root, depth - 1)
