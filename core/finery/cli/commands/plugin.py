"""`finery plugin`: commands for authors of plugins."""

import importlib.util
import keyword
import re
import shlex
from pathlib import Path

import click

from finery.cli.commands.scaffold import filled, template, write_texts, writing
from finery.cli.console import print_result
from finery.cli.options import json_option
from finery.errors import UsageError
from finery.util.paths import shown

PREFIX = "finery_"
"""The prefix of the names of plugin packages."""


@click.group("plugin")
def command() -> None:
    """Write your own plugin."""


@command.command("new")
@click.argument("name")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
@json_option
def new(name: str, folder: Path | None, as_json: bool) -> None:
    """Write a package with the plugin NAME into DIR.

    It has a step type, tests and CI. DIR is finery-NAME by default. NAME is the prefix of the
    plugin's step types, e.g. `shop` of `shop.orders`.
    """
    _check(name)
    folder = folder or Path(f"finery-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{shown(folder)} already exists",
            fix=f"choose another folder: finery plugin new {name} DIR",
        )
    texts = _texts(name)
    with writing(folder):
        write_texts(folder, texts)
    text = f"""{click.style(shown(folder), bold=True)}: {", ".join(texts)}

  cd {shlex.quote(shown(folder))}
  python -m pip install -e '.[test]'
  python -m pytest
  finery plugins {name} --check

Then edit src/{PREFIX}{name}/steps.py."""
    data = {"folder": str(folder), "files": [*texts], "plugin": name}
    print_result(data, text, as_json=as_json)


def _check(name: str) -> None:
    """Raise `UsageError` for a name that is invalid or taken."""
    from finery.plugin.manager import load_plugins

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        likely = re.sub(r"\W+", "_", name.lower().removeprefix("finery-")).strip("_0123456789")
        raise UsageError(
            f"'{name}' is not a valid plugin name",
            fix="use lower-case letters, digits and _, starting with a letter"
            + (f": {likely}" if likely.isidentifier() and not keyword.iskeyword(likely) else ""),
        )
    for plugin in load_plugins().plugins:
        if plugin.name == name:
            raise UsageError(
                f"plugin '{name}' already exists ({plugin.origin})",
                fix="choose another name: finery would load both",
            )
    if importlib.util.find_spec(f"{PREFIX}{name}") is not None:
        raise UsageError(f"package {PREFIX}{name} already exists", fix="choose another name")


def _texts(name: str) -> dict[str, str]:
    """The package's files: path → text."""
    from finery import API, __version__

    package = f"src/{PREFIX}{name}"
    sources = {
        "pyproject.toml": "pyproject.toml.jinja",
        "README.md": "README.md.jinja",
        ".gitignore": "gitignore",
        ".github/workflows/ci.yml": "ci.yml.jinja",
        f"{package}/__init__.py": "package.py.jinja",
        f"{package}/steps.py": "steps.py.jinja",
        "tests/test_steps.py": "test_steps.py.jinja",
    }
    texts = {
        path: filled(template("plugin") / source, name=name, version=__version__, api=API)
        for path, source in sources.items()
    }
    return {**texts, f"{package}/py.typed": ""}
