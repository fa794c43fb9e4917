"""What a distribution provides: `python -m finery.cli.catalog.probe DISTRIBUTION FILE`.

Runs in the environment of the distribution and writes JSON into the file.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finery import API
from finery.cli.commands.plugins import setting_tables
from finery.errors import PluginError
from finery.plugin.discovery import GROUP, known_hooks
from finery.plugin.manager import Plugins, load_plugins
from finery.recipe.schema import step_schema
from finery.step.inspect import sections_of
from finery.util.installed import EntryPoint, entry_points


class SettingFacts(NamedTuple):
    """An input or a setting: its name, what it accepts, and its help."""

    name: str
    accepts: str
    help: str


class StepFacts(msgspec.Struct):
    """A step type. settings: title of a group → its settings. error: why it can't be loaded."""

    name: str
    sections: list[str] = []
    about: str = ""
    settings: dict[str, list[SettingFacts]] = {}
    error: str = ""


class PluginFacts(msgspec.Struct):
    """A plugin. provided: `engines`, `commands` … → names. broken: the error, by `to_dict`."""

    name: str
    apis: list[str]
    about: str = ""
    hooks: list[str] = []
    steps: list[StepFacts] = []
    provided: dict[str, list[str]] = {}
    broken: dict[str, Any] | None = None
    problems: list[dict[str, str]] = []


class DistributionFacts(msgspec.Struct):
    """A distribution by its metadata. requires: the versions of finery that it accepts."""

    name: str
    version: str
    summary: str
    licence: str
    requires: str
    plugins: list[PluginFacts]


def distribution_facts(name: str) -> DistributionFacts:
    """What an installed distribution says and provides. name: normalised."""
    of: Any = metadata(name)
    plugins = load_plugins()
    ranges = (re.match(r"finery(?![\w.-]*\w)(\[.*?\])?\s*(.*)", line) for line in requirements(of))
    return DistributionFacts(
        of["Name"],
        of["Version"],
        of.get("Summary") or "",
        licence_of(of),
        ", ".join(match[2].partition(";")[0].strip(" ()") for match in ranges if match),
        [plugin_facts(plugins, entry) for entry in entries_of(name)],
    )


def entries_of(distribution: str) -> list[EntryPoint]:
    """The plugins of a distribution, whose name is normalised."""
    return [entry for entry in entry_points(GROUP) if entry.distribution.name == distribution]


def requirements(of: Any) -> list[str]:
    """The requirements of a distribution, by its metadata."""
    return [str(line) for line in of.get_all("Requires-Dist") or []]


def licence_of(of: Any) -> str:
    """The licence by its SPDX expression, the old field in a line, or the classifier."""
    classifiers = [str(line) for line in of.get_all("Classifier") or []]
    named = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::")]
    text = str(of.get("License-Expression") or of.get("License") or ", ".join(named))
    return text.strip().partition("\n")[0]


def plugin_facts(plugins: Plugins, entry: EntryPoint) -> PluginFacts:
    """What a plugin provides, or why finery can't use it."""
    facts = PluginFacts(entry.name, [*entry.apis] or [API] * entry.is_own)
    for plugin in plugins.plugins:
        if plugin.name == entry.name:
            facts.about = (plugin.module.__doc__ or "").strip()
            callers = plugins.manager.get_hookcallers(plugin.module) or []
            facts.hooks = [name for name in known_hooks() if name in {c.name for c in callers}]
    facts.broken = next((b.error.to_dict() for b in plugins.broken if b.name == entry.name), None)
    tables = {
        "engines": plugins.engines, "executors": plugins.executors, "commands": plugins.commands,
        "views": plugins.views, "notes": plugins.notes, "servers": plugins.servers,
    }  # fmt: skip
    for kind, table in tables.items():
        if names := sorted(n for n, (_, owner) in table.items() if owner.name == entry.name):
            facts.provided[kind] = names
    facts.steps = [*_steps_of(plugins, entry.name)]
    return facts


def _steps_of(plugins: Plugins, plugin: str) -> Iterator[StepFacts]:
    for name, (_, owner) in sorted(plugins.step_types.items()):
        if owner.name != plugin:
            continue
        try:
            cls = plugins.step_type(name)
        except PluginError as error:
            yield StepFacts(name, error=error.what)
            continue
        schema = step_schema(cls)
        settings = {
            title: [SettingFacts(*row) for row in rows]
            for title, rows in setting_tables(cls, schema)
            if title != "every step"
        }
        yield StepFacts(name, [*sections_of(cls)], schema["description"], settings)


if __name__ == "__main__":
    facts = distribution_facts(sys.argv[1])
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(facts))
