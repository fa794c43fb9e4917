"""Environments of steps: the packages that a recipe declares for some steps, and their versions.

    environments:
      old: {packages: ["transformers<5"], python: "3.12", for: [trl.sft]}

`for` lists sections and step types, or says `all`; a step can name its environment itself. The name
of a step type beats a section, and both beat `all`. recipe.lock has what the packages are resolved
to, which takes the place of this machine's packages in the steps' keys.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from blake3 import blake3

from finery.errors import FineryError
from finery.recipe.document import Recipe
from finery.recipe.lock import Lock
from finery.step.inspect import SECTIONS
from finery.util.installed import normalise_name
from finery.util.text import did_you_mean

_VERSION = r"(===?|~=|!=|<=?|>=?)\s*[\w.*+!-]+"
_REQUIREMENT = re.compile(
    r"(https?://|git\+)\S+|[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?\s*(\[[^\]]*\])?\s*"
    rf"(@\s*\S.*|\(?{_VERSION}(\s*,\s*{_VERSION})*,?\s*\)?)?\s*(;.*)?"
)
"""What pip takes from an index, by its beginning: PEP 508."""
SAME_VARIABLES = {
    "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "TZ": "UTC",
}  # fmt: skip
"""Environment variables that every step has, on every machine: outputs may depend on them."""
ALL_STEPS = "all"
"""In `for`: every step."""
ENVIRONMENT_PIN = "environment "
"""Before the name of an environment, in names of recipe.lock."""


class Environment(msgspec.Struct, frozen=True):
    """An environment with resolved packages.

    python: its version, e.g. `3.12`. requirements: a line for each package, `trl==1.16.0`. wheels:
    the folder on this machine that has them all; empty: an index.
    """

    name: str
    python: str
    requirements: tuple[str, ...]
    wheels: str = ""

    @property
    def digest(self) -> str:
        """Stands for the packages in keys."""
        return blake3("\n".join([self.python, *self.requirements]).encode()).hexdigest()

    @property
    def versions(self) -> dict[str, str]:
        """Normalised name of each package → its version, or versions for several platforms."""
        versions: dict[str, list[str]] = {}
        for line in self.requirements:
            name, _, version = line.partition(";")[0].replace(" @ ", "==").partition("==")
            versions.setdefault(normalise_name(name.strip()), []).append(version.strip())
        return {name: " or ".join(alternatives) for name, alternatives in versions.items()}


def environment_of(recipe: Recipe, section: str, step: str) -> str:
    """The name of a step's environment; empty if it has none."""
    written = recipe.data[section][step]
    if "environment" in written:
        return written["environment"] or ""
    users = {
        user: name
        for name, declared in (recipe.data.get("environments") or {}).items()
        for user in _declared_users(declared)
    }
    return next((users[user] for user in (written["use"], section, ALL_STEPS) if user in users), "")


def _declared_users(declared: Mapping[str, Any]) -> list[str]:
    users = declared.get("for", [])
    return [users] if isinstance(users, str) else users


def pin_text(recipe: Recipe, environment: Environment) -> str:
    """What recipe.lock has of an environment: how it is declared, and a line for each package."""
    lines = [_declaration_line(recipe, environment.name), f"python {environment.python}"]
    return "\n".join([*lines, *environment.requirements])


def pinned_environment(recipe: Recipe, name: str, lock: Lock) -> Environment | None:
    """An environment as recipe.lock has it; None if it isn't resolved as it is declared now."""
    text = lock.get(f"{ENVIRONMENT_PIN}{name}")
    if text is None or text.partition("\n")[0] != _declaration_line(recipe, name):
        return None
    return _parse_pin(name, text)


def pinned_environments(lock: Lock) -> Iterator[Environment]:
    """All environments in a lock file, whether or not they are declared in this way now."""
    for pin, text in lock.pins().items():
        if pin.startswith(ENVIRONMENT_PIN) and (
            environment := _parse_pin(pin.removeprefix(ENVIRONMENT_PIN), text)
        ):
            yield environment


def _declaration_line(recipe: Recipe, name: str) -> str:
    declared = recipe.data["environments"][name]
    python = f"python {declared['python']}: " if "python" in declared else ""
    return f"# {python}{', '.join(declared['packages'])}"


@lru_cache(maxsize=64)
def _parse_pin(name: str, text: str) -> Environment | None:
    _, *lines = text.split("\n")
    python, *requirements = lines or [""]
    if not python.startswith("python "):
        return None
    return Environment(name, python.removeprefix("python "), tuple(requirements))


def check_environments(recipe: Recipe, step_types: Iterable[str]) -> Iterator[FineryError]:
    """An error for each wrong name in `environments`, and each step that names none of them.

    The schema has found what isn't a mapping, a list or a text.
    """
    environments = recipe.data.get("environments") or {}
    if not isinstance(environments, dict) or not all(
        isinstance(declared, dict) for declared in environments.values()
    ):
        return
    users_allowed, owner_of_user = [*SECTIONS, *step_types, ALL_STEPS], dict[str, str]()
    for name, declared in environments.items():
        place = ("environments", name)
        for index, package in enumerate(declared.get("packages") or []):
            if isinstance(package, str) and not _REQUIREMENT.fullmatch(package.strip()):
                yield recipe.error(
                    f"'{package}' is not a package with a version",
                    (*place, "packages", index),
                    fix="name packages of an index, or of the folder that `wheels` of finery.toml "
                    'names: "trl==1.16.0"',
                )
        users = _declared_users(declared)
        for index, user in enumerate(users if isinstance(users, list) else []):
            where = (*place, "for", *([index] if isinstance(declared["for"], list) else []))
            if user not in users_allowed:
                problem = f"there is no section or step type '{user}'"
                yield recipe.error(problem, where, fix=did_you_mean(str(user), users_allowed))
            elif user in owner_of_user:
                problem = f"'{user}' has the environment '{owner_of_user[user]}', too"
                yield recipe.error(problem, where, fix="remove it from one of them")
            owner_of_user.setdefault(str(user), str(name))
    for section in SECTIONS:
        steps = recipe.data.get(section)
        for step, settings in steps.items() if isinstance(steps, dict) else ():
            environment = settings.get("environment") if isinstance(settings, dict) else None
            if isinstance(environment, str) and environment not in environments:
                yield recipe.error(
                    f"there is no environment '{environment}'",
                    (section, step, "environment"),
                    fix=did_you_mean(environment, environments)
                    or f"declare it: environments: {{{environment}: {{packages: [...]}}}}",
                )
