"""The distributions that step types name in their keys, in finery's own environment or another."""

from collections.abc import Iterator
from contextlib import suppress
from inspect import getsourcefile, getsourcelines
from pathlib import Path

from finery.builder.code.index import Installed, read_installed
from finery.errors import FineryError
from finery.recipe.document import Recipe
from finery.recipe.environments import Environment, pinned_environment
from finery.recipe.graph import Node
from finery.recipe.lock import Lock
from finery.step.inspect import full_name, steps_inside
from finery.util.installed import is_finery_module, normalise_name, use_versions, version_of
from finery.util.paths import shown
from finery.util.text import suggest_nearest


def wrong_distributions(recipe: Recipe, node: Node, lock: Lock) -> Iterator[FineryError]:
    """An error for each name in `packages=` of a step that no distribution has.

    finery's own step types also name those of extras that aren't installed. Nothing is wrong yet in
    an environment that isn't resolved.
    """
    environment = pinned_environment(recipe, node.environment, lock) if node.environment else None
    if node.environment and environment is None:
        return
    with use_versions(versions_in(environment)):
        absent = [
            (path, type(step), name) for path, step in (("", node.step), *steps_inside(node.step))
            for name in step.cache_key().packages
            if version_of(name) is None and not is_finery_module(type(step).__module__)
        ]  # fmt: skip
    installed = read_installed() if absent else Installed({}, {}, {})
    extras = {name for name, _, _ in installed.requires.get("finery", ())}
    for path, cls, name in [each for each in absent if normalise_name(each[-1]) not in extras]:
        owner = next(iter(installed.owners.get(name, ())), None)
        meant = f"did you mean '{owner}'?" if owner else suggest_nearest(name, installed.requires)
        error = recipe.error(
            f"{full_name(cls)} names the distribution '{name}' in its key, which isn't installed",
            (*node.place, *filter(None, path.split(".")), "use"),
            fix=meant or f"pip install {name}",
        )
        with suppress(OSError, TypeError):  # a class that isn't in a file
            lines, number = getsourcelines(cls)
            file = shown(Path(getsourcefile(cls) or ""))
            error.details.append(f"{file}:{number}: {lines[0].strip()}")
        yield error


def versions_in(environment: Environment | None) -> dict[str, str] | None:
    """The versions in a step's environment, finery and plugins included; None: it has none."""
    if environment is None:
        return None
    from finery.execute.wheels import own_distributions

    return environment.versions | {each.name: each.version for each in own_distributions()}
