"""Which versions a step was made with: `finery explain` names those of a step that has no result.

The key of a step says nothing about keys that other code would give it. So the store also has the
versions under a digest of what the recipe asks of the step, whatever code does it. Only `explain`
reads them, and nothing is served because of them: a wrong entry costs a wrong line of text.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from finery.artifact.manifest import Result, key_of
from finery.step.step import Step
from finery.store.layout import Digest
from finery.store.objects import public_url
from finery.util.installed import package_version, version_of

if TYPE_CHECKING:
    from finery.builder.plan import StepPlan
    from finery.store.database import Store
    from finery.store.remote import Remote

PACKAGE = "package "
REQUEST_PARTS = (
    "step type", "setting ", "file ", "input ", "name of ", "pinned", "provenance ", "seed",
)  # fmt: skip
"""Beginnings of the names of parts that the recipe decides about, not code."""
Versions = dict[str, str]
"""Distribution, or Python → version."""
FOLDER = "versions"
"""Of the shared store."""


def request_of(plan: "StepPlan") -> str:
    """A digest of what the recipe asks of a step whose inputs are built.

    Without settings that have their defaults, since another version may have other ones.
    """
    step = plan.node.step
    defaults = tuple(
        f"setting {name}" for name, default in _defaults(type(step))
        if getattr(step, name) == default
    )  # fmt: skip
    asked = [
        (name, value) for name, value in plan.parts
        if name.startswith(REQUEST_PARTS)
        and not (name.startswith(defaults) and re.split(r"[.\[]", name)[0] in defaults)
    ]  # fmt: skip
    return key_of(asked)


@cache
def _defaults(cls: type[Step]) -> list[tuple[str, Any]]:
    return [
        (f.name, f.default if f.default_factory is msgspec.NODEFAULT else f.default_factory())
        for f in msgspec.structs.fields(cls)
    ]


def versions_of(plan: "StepPlan") -> Versions:
    """The versions of finery, of Python, and of the plugins and packages in a step's key."""
    parts = dict(plan.parts)
    distributions = (name.split(" ")[1] for name in parts if name.startswith("code "))
    plugins = {name: version for name in distributions if (version := version_of(name))}
    packages = {n.removeprefix(PACKAGE): v for n, v in parts.items() if n.startswith(PACKAGE)}
    return {"finery": package_version("finery"), "Python": parts["python"]} | plugins | packages


def with_versions(result: Result, plan: "StepPlan") -> Result:
    """A result with what it was asked for and made with."""
    made_with = versions_of(plan)
    return msgspec.structs.replace(result, request=request_of(plan), made_with=made_with)


def push_versions(remote: "Remote", result: Result) -> None:
    """Say in a shared store what a result was made with. The newest counts, to save a request."""
    if result.request:
        value = msgspec.json.encode([result.key, result.made_with])
        remote.put_value(FOLDER, bytes.fromhex(result.request), value)


class Elsewhere(NamedTuple):
    """A step's result under other versions: the store that has it, its key, and what differs.

    versions: name → (version there, version here).
    """

    store: str
    key: str
    versions: dict[str, tuple[str, str]]


def other_versions(store: "Store", plan: "StepPlan") -> Iterator[Elsewhere]:
    """The step's results under other versions, in this store and in the shared stores it uses.

    Wrong entries, and those whose result is gone, are left out.
    """
    request, here = request_of(plan), versions_of(plan)
    entries = [("this store", *entry) for entry in store.versions_of(request)]
    for remote in store.shared.remotes.values():
        name = f"the shared store {public_url(remote.url)}"
        for value in remote.values(FOLDER, [bytes.fromhex(request)]).values():
            with suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
                key, versions = msgspec.json.decode(value, type=tuple[Digest, Versions])
                if remote.records([key]):
                    entries.append((name, key, versions))
    for name, key, versions in entries:
        others = {
            each: (version, now) for each, version in versions.items()
            if version != (now := here.get(each) or package_version(each))
        }  # fmt: skip
        if others:
            yield Elsewhere(name, key, others)
