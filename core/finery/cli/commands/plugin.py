"""`finery plugin`: commands for authors of plugins."""

import importlib.util
import json
import keyword
import re
import shlex
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from finery.cli.commands import catalog
from finery.cli.commands.scaffold import filled, template, write_texts, writing
from finery.cli.console import print_result
from finery.cli.options import json_option
from finery.errors import UsageError
from finery.util.paths import shown
from finery.util.text import did_you_mean

PREFIX = "finery_"
"""The prefix of the names of plugin packages."""
KINDS = (
    "transform", "source", "evaluator", "generator", "trainer", "exporter", "engine", "executor"
)  # fmt: skip
"""Folders of `templates/plugin`; that of all kinds is `shared`."""
PLACES = {"package": "src/{package}", "github": ".github", "gitignore": ".gitignore"}
"""File or folder in these → where it is in a package."""


@click.group("plugin")
def command() -> None:
    """Write your own plugin, or a catalogue of plugins."""


command.add_command(catalog.command)


@command.command("new")
@click.argument("name")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
@click.option("--kind", metavar="KIND", help=f"One of {', '.join(KINDS)}. [default: {KINDS[0]}]")
@click.option("--author", metavar="NAME", help="Your name, for LICENSE and pyproject.toml.")
@click.option("--repository", metavar="URL", help="Where the package's code is, for its metadata.")
@json_option
def new(
    name: str,
    folder: Path | None,
    kind: str | None,
    author: str | None,
    repository: str | None,
    as_json: bool,
) -> None:
    """Write a package with the plugin NAME into DIR.

    It has an example of its KIND, tests, a recipe, a licence, CI and publishing. DIR is finery-NAME
    by default. NAME is the prefix of the plugin's step types, e.g. `shop` of `shop.orders`.
    """
    _check_kind(kind or KINDS[0])
    _check_name(name)
    _check_about(author, repository)
    folder = folder or Path(_project(name))
    # A new repository is fine: it has nothing to lose.
    if folder.exists() and (
        not folder.is_dir() or any(path.name != ".git" for path in folder.iterdir())
    ):
        problem = "isn't empty" if folder.is_dir() else "already exists"
        raise UsageError(
            f"{shown(folder)} {problem}",
            fix=f"choose another folder: finery plugin new {name} DIR",
        )
    facts = _facts(name, kind or KINDS[0], author=author or "", repository=repository or "")
    texts = _texts(facts)
    with writing(folder):
        write_texts(folder, texts)
    text = f"""{click.style(shown(folder), bold=True)}: {", ".join(texts)}

  cd {shlex.quote(shown(folder))}
  python -m pip install -e '.[test]'
  python -m pytest
  finery plugins {name} --check
  finery {facts["build"]}

Then edit src/{PREFIX}{name}/{facts["module"]}.py."""
    if kind is None:
        others = "".join(f"\n  {line}" for line in _described_kinds()[1:])
        text += f"\n\nThis is a {KINDS[0]}. Other kinds, with --kind:{others}"
    data = {"folder": str(folder), "files": [*texts], "plugin": name, "kind": facts["kind"]}
    print_result(data, text, as_json=as_json)


def _described_kinds() -> list[str]:
    return [f"{kind:<10} {_read_kind(kind)['about']}" for kind in KINDS]


def _read_kind(kind: str, **facts: str) -> dict[str, Any]:
    """What `kind.yaml` says. facts: to fill in; without them only `about` is right."""
    import yaml  # not for --help

    text = filled(template("plugin") / kind / "kind.yaml", **{"name": "", **facts})
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UsageError(
            f"there is no kind '{kind}' of plugin",
            where="--kind",
            details=_described_kinds(),
            fix=did_you_mean(kind, KINDS),
        )


def _check_about(author: str | None, repository: str | None) -> None:
    """Raise `UsageError` for texts that would make invalid metadata."""
    if author is not None and not author.strip().isprintable():
        raise UsageError(
            "the name has control characters", where="--author", fix="write it plainly"
        )
    if repository is not None and not re.fullmatch(
        r"https://[\w.-]+\.\w+(/[\w./~+-]+)?", repository
    ):
        raise UsageError(
            f"'{repository}' isn't the address of a repository",
            where="--repository",
            fix="write all of it, e.g. https://github.com/NAME/REPOSITORY",
        )


def _check_name(name: str) -> None:
    """Raise `UsageError` for a name that is invalid or taken."""
    from finery.plugin.manager import load_plugins

    if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", name) or keyword.iskeyword(name):
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


def _project(name: str) -> str:
    """The name of the distribution."""
    return f"finery-{name}".replace("_", "-")


def _facts(name: str, kind: str, **about: str) -> dict[str, Any]:
    """What the templates of a kind are filled in with."""
    from finery import API, __version__

    major, minor = map(int, __version__.split(".")[:2])
    next_version = f"{major}.{minor + 1}" if major == 0 else f"{major + 1}"
    values = _read_kind(kind, name=name)
    (reference, *_) = (r for provided in values["hooks"].values() for r in provided.values())
    facts = {
        "kind": kind,
        "name": name,
        "project": _project(name),
        "package": f"{PREFIX}{name}",
        "module": reference.partition(":")[0],
        "api": API,
        "versions": f">={major}.{minor},<{next_version}",
        "year": datetime.now(UTC).year,
        "quote": partial(json.dumps, ensure_ascii=False),
        **values,
        **about,
    }
    recipe = filled(template("plugin") / kind / "example" / "recipe.yaml.jinja", **facts)
    build = " ".join(filter(None, ["build example", values.get("build")]))
    return {**facts, "recipe": recipe, "build": build}


def _texts(facts: dict[str, Any]) -> dict[str, str]:
    """The package's files: path → text."""
    texts = {}
    for folder in (template("plugin") / "shared", template("plugin") / facts["kind"]):
        for source in filter(Path.is_file, folder.rglob("*")):
            place, *rest = source.relative_to(folder).parts
            place = PLACES.get(place, place).format(**facts)
            texts["/".join([place, *rest]).removesuffix(".jinja")] = filled(source, **facts)
    del texts["kind.yaml"]
    return dict(sorted(texts.items()))
