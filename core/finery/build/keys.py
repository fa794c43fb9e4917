"""Keys: the hash of everything that can change a step's output.

A key is BLAKE3 over the canonical encoding of a list of named parts, in a fixed order. The parts
are kept beside the key, so that what changed since the last build can be named.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
import msgspec
from blake3 import blake3
from finery.recipe.graph import Node
from finery.util.installed import version_of
from finery.fields import Files, Settings
from finery.step.step import Step
from finery.step.inspect import full_name, nested_steps, inputs_of, slots_of
from finery.artifact.manifest import Parts
from finery.util.canonical import encode


FORMAT = 1
"""Bump when finery itself changes what steps produce from the same parts."""


def key_of(parts: Parts) -> str:
    """The key of these parts, 64 hex digits."""
    return blake3(encode(parts)).hexdigest()


def key_parts(
    node: Node,
    *,
    code: Mapping[str, str],
    inputs: Mapping[tuple[str, int], str],
    files: Mapping[str, Sequence[tuple[str, str]]],
    pinned: str | None,
    engines: Mapping[str, tuple[Mapping[str, str], Sequence[str]]],
) -> Parts:
    """All parts of a step's key, in order.

    code: file → digest of the step's code. inputs: (field, index) → digest of the artifact. files:
    setting → (name, digest) of each outside file. engines: model format → (code, packages).
    """
    step, spec = node.step, type(node.step).__spec__
    parts: Parts = [
        ("key format", FORMAT),
        ("python", f"{sys.version_info.major}.{sys.version_info.minor}"),
        ("step type", node.use),
        ("version", spec.version),
    ]
    parts += [(f"code {file}", digest) for file, digest in code.items()]
    parts += _setting_parts(step)
    slots = slots_of(step)
    for source in node.sources:
        parts.append((f"input {source.field}[{source.index}]", inputs[source.field, source.index]))
        if slots[source.field].uses_name:
            parts.append((f"name of {source.field}[{source.index}]", source.ref))
    for field, found in files.items():
        parts += [(f"file {field} {name}", digest) for name, digest in found]
    if pinned is not None:
        parts.append(("pinned", pinned))
    if step.uses_seed():
        parts.append(("seed", node.seed))
    packages = [*step.key_packages()]
    for within in nested_steps(step).values():
        packages += within.key_packages()
    for name, (engine_code, engine_packages) in engines.items():
        parts += [(f"code {file} (engine {name})", digest) for file, digest in engine_code.items()]
        packages += engine_packages
    parts += [(f"package {p}", package_version(p)) for p in dict.fromkeys(packages)]
    return parts


def _setting_parts(step: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    cls = type(step)
    inputs = inputs_of(cls) if issubclass(cls, Step) else {}
    for field in cls.__struct_fields__:
        value = getattr(step, field)
        if field in inputs or not cls.__finery_fields__[field].affects_output or isinstance(value, Files):
            continue
        if isinstance(value, Step):
            yield f"setting {prefix}{field}", full_name(type(value))
        if isinstance(value, Settings):
            yield from _setting_parts(value, f"{prefix}{field}.")
        else:
            yield f"setting {prefix}{field}", msgspec.to_builtins(value)


def package_version(distribution: str) -> str:
    """The installed version of a distribution, or `not installed`."""
    return version_of(distribution) or "not installed"


def differences(before: Parts, after: Parts) -> list[tuple[str, Any, Any]]:
    """(part, old, new) for each part that changed, came or went; MISSING where there is none."""
    old, new = dict(before), dict(after)
    names = [*new, *(n for n in old if n not in new)]
    changed = [(n, old.get(n, MISSING), new.get(n, MISSING)) for n in names]
    return [(n, a, b) for n, a, b in changed if MISSING in (a, b) or encode(a) != encode(b)]


class _Missing:
    def __repr__(self) -> str:
        return "—"
MISSING = _Missing()
"""Stands for a part that wasn't there."""
