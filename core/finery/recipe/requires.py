"""`requires:` of a recipe: the distributions whose plugins it needs, and their versions.

`recipe.lock` has the versions of those that a build used, so that a colleague with others knows.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from finery.errors import FineryError
from finery.recipe.document import Recipe
from finery.step.inspect import steps_inside
from finery.util.installed import distributions, normalise_name

if TYPE_CHECKING:
    from finery.recipe.graph import Graph

PROVISION_VARIABLE = "FINERY_PROVISION"
"""Set, a command makes an environment with what the recipe requires, and goes on there."""
PLUGIN_PIN = "plugin "
"""How the names begin of what `recipe.lock` has of plugins."""


def check_requires(recipe: Recipe) -> Iterator[FineryError]:
    """An error for each requirement that the installed distributions don't meet."""
    requirements = recipe.data.get("requires")
    for index, text in enumerate(requirements if isinstance(requirements, list) else ()):
        if isinstance(text, str):  # else the schema refuses it
            problem, fix = _problem(text)
            if problem:
                yield recipe.error(problem, ("requires", index), fix=fix)


def _problem(text: str) -> tuple[str, str]:
    """(what is wrong with a requirement here, the fix); empty if nothing is."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        fix = "write a distribution and its versions as pip takes them, e.g. finery-spans>=1.2"
        return f"'{text}' isn't a requirement", fix
    if requirement.marker is not None and not requirement.marker.evaluate():
        return "", ""
    install = f"pip install '{text}', or {PROVISION_VARIABLE}=1 to run in an environment with it"
    found = distributions().get(normalise_name(requirement.name))
    if found is None:
        return f"the recipe requires {text}, which isn't installed", install
    try:
        is_met = requirement.specifier.contains(found.version, prereleases=True)
    except InvalidVersion:
        is_met = False
    if is_met:
        return "", ""
    return f"the recipe requires {text}, but {found.name} {found.version} is installed", install


def plugin_pins(graph: "Graph") -> dict[str, str]:
    """Name in `recipe.lock` → version, of the plugins whose step types a recipe uses.

    Without finery's own.
    """
    uses = {
        step.use
        for node in graph.nodes.values()
        for step in (node.step, *(within for _, within in steps_inside(node.step)))
    }
    return {f"{PLUGIN_PIN}{name}": v for name, v in graph.plugins.versions(uses).items()}
