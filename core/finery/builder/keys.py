"""Keys: the hash of everything that can change a step's output.

A key is BLAKE3 over the canonical encoding of a list of named parts, in a fixed order. The parts
are stored with the key, so that finery can name what changed since the last build.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from finery.artifact.manifest import Parts
from finery.builder.code.reach import Code, add
from finery.builder.code.steps import Wrapper
from finery.fields import FileOrName, Files, Settings
from finery.recipe.graph import Node
from finery.step.inspect import files_of, full_name, inputs_of, slots_of, steps_inside, tag_of
from finery.step.step import Step
from finery.util.canonical import encode
from finery.util.installed import version_of

FORMAT_PART = "key format"
FORMAT = 3
"""Stands for finery's own code except the kit, whose files are parts. Bump it when a change of that
code changes outputs, or the meaning of parts."""


_BUILD = re.compile(r"\+(cpu|cu\d|rocm|xpu).*")


class EngineKey(NamedTuple):
    """The parts of an engine in keys: its class, digests of its code, its distributions.

    facts: of this machine, see `Engine.key_facts`.
    """

    name: str
    code: Mapping[str, str]
    packages: Sequence[str]
    facts: Mapping[str, Any] = {}


def key_of(parts: Parts) -> str:
    """The key of these parts, 64 hex digits."""
    return blake3(encode(parts)).hexdigest()


def key_parts(
    node: Node,
    *,
    code: Mapping[str, str],
    wrappers: Sequence[Wrapper],
    inputs: Mapping[tuple[str, int], str],
    files: Mapping[str, Sequence[tuple[str, str]]],
    pinned: str | None,
    provenance: Mapping[str, Any],
    engines: Mapping[str, EngineKey],
    gpus: int,
) -> Parts:
    """All parts of a step's key, in order.

    code: file → digest of the step's code. wrappers: the hooks around it, in the order of their
    calls. inputs: (field, index) → digest of the artifact. files: setting → (name, digest) of each
    outside file. provenance: see `finery.Provenance`. engines: by model format. gpus: how many the
    step gets.
    """
    step = node.step
    parts: Parts = [
        (FORMAT_PART, FORMAT),
        ("python", _python()),
        ("step type", node.use),
        ("class", full_name(type(step))),
        ("version", type(step).__spec__.version),
        ("outputs", {name: kind.kind for name, kind in node.outputs.items()}),
    ]
    parts += [(f"code {file}", digest) for file, digest in code.items()]
    if wrappers:
        parts.append(("wrappers", [wrapper.name for wrapper in wrappers]))
    around: Code = {}  # a plugin may wrap steps twice, from one file
    for wrapper in wrappers:
        label = f"(wrapper {wrapper.plugin})"
        for file, digest in wrapper.code.items():
            add(around, f"code {file} {label}", digest)
    parts += around.items()
    parts += _setting_parts(step)
    slots = slots_of(step)
    for source in node.sources:
        parts.append((f"input {source.field}[{source.index}]", inputs[source.field, source.index]))
        if slots[source.field].uses_name:
            parts.append((f"name of {source.field}[{source.index}]", source.ref))
    for field, named in files.items():
        parts += [(f"file {field} {name}", digest) for name, digest in named]
    parts += [
        (f"setting {field}", setting.patterns[0])
        for field, setting in files_of(step).items()
        if isinstance(setting, FileOrName) and not files.get(field)
    ]
    if pinned is not None:
        parts.append(("pinned", pinned))
    for subject, facts in provenance.items():
        parts.append((f"provenance {subject}", blake3(encode(facts)).hexdigest()))
    if step.uses_seed():
        parts.append(("seed", node.seed))
    packages = [*step.key_packages()]
    facts = dict(step.key_facts())
    for field, within in steps_inside(step):
        parts.append((f"version of {field}", type(within).__spec__.version))
        packages += within.key_packages()
        facts |= within.key_facts()
    for model_format, engine in engines.items():
        parts.append((f"engine {model_format}", engine.name))
        label = f"(engine {model_format})"
        parts += [(f"code {file} {label}", digest) for file, digest in engine.code.items()]
        packages += engine.packages
        facts |= engine.facts
    if gpus > 1 and step.depends_on_gpus():
        facts["gpus"] = gpus
    parts += [(f"machine {name}", value) for name, value in sorted(facts.items())]
    parts += [(f"package {p}", package_version(p)) for p in dict.fromkeys(packages)]
    assert len(dict(parts)) == len(parts), "two parts of a key have the same name"
    return parts


def _setting_parts(step: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    cls = type(step)
    inputs = inputs_of(cls) if issubclass(cls, Step) else {}
    for field in cls.__struct_fields__:
        value = getattr(step, field)
        if field in inputs or isinstance(value, Files):
            continue
        if not cls.__finery_fields__[field].affects_output:
            continue
        if isinstance(value, Step):
            yield f"setting {prefix}{field}", full_name(type(value))
        if isinstance(value, Settings):
            for tag_field, tag in tag_of(value).items():
                yield f"setting {prefix}{field}.{tag_field}", tag
            yield from _setting_parts(value, f"{prefix}{field}.")
        else:
            yield f"setting {prefix}{field}", _plain(value)


def _python() -> str:
    """The Python version; with `-O`, since steps then run without assertions."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{version} -{'O' * sys.flags.optimize}" if sys.flags.optimize else version


def _plain(value: Any) -> Any:
    """A setting's value as plain data. A set is ordered, since its own order varies by process."""
    if isinstance(value, set | frozenset):
        return msgspec.to_builtins(value, order="deterministic")
    return msgspec.to_builtins(value)


def package_version(distribution: str) -> str:
    """The installed version of a distribution, or `not installed`.

    Without the label of torch and its companions for the hardware that a build is for (`+cpu`,
    `+cu130`): a store is to serve machines with and without a GPU.
    """
    return _BUILD.sub("", version_of(distribution) or "not installed")


def differences(before: Parts, after: Parts) -> list[tuple[str, Any, Any]]:
    """(part, old, new) for each part that was changed, added or removed; MISSING if absent."""
    old, new = dict(before), dict(after)
    names = [*new, *(n for n in old if n not in new)]
    changed = [(n, old.get(n, MISSING), new.get(n, MISSING)) for n in names]
    return [(n, a, b) for n, a, b in changed if MISSING in (a, b) or encode(a) != encode(b)]


class _Missing:
    def __repr__(self) -> str:
        return "—"


MISSING = _Missing()
"""Stands for an absent part."""
