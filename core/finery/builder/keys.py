"""Keys: the hash of everything that can change a step's output.

A key is BLAKE3 over the canonical encoding of a list of named parts, in the order of their names.
The parts are stored with the key, so that finery can name what changed since the last build.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3
from msgspec import UNSET

from finery.artifact.manifest import READ, Parts, encode, key_of
from finery.builder.code.closure import Code
from finery.builder.code.imports import unique_label
from finery.builder.code.steps import Wrapper
from finery.fields import File, Files, Settings
from finery.key import Key
from finery.recipe.environments import Environment
from finery.recipe.graph import Node
from finery.recipe.lock import Accepted
from finery.recipe.yaml import redact_secrets
from finery.step.inspect import (
    entries,
    files_of,
    full_name,
    inputs_of,
    slots_of,
    steps_inside,
    tag_of,
)
from finery.step.step import Step
from finery.util.installed import package_version
from finery.util.text import shortened, some_of, visible

FORMAT_PART = "key format"
FORMAT = 7
"""Stands for finery's own code except the kit, whose files are parts. Bump it when a change of that
code changes outputs, or the meaning of parts."""


class EngineKey(NamedTuple):
    """The parts of an engine in keys: its class, digests of its code, what it adds itself.

    imported: distributions that its code imports.
    """

    name: str
    code: Mapping[str, str]
    own: Key
    imported: Sequence[str] = ()


def key_parts(
    node: Node,
    *,
    own: Key,
    code: Mapping[str, str],
    wrappers: Sequence[Wrapper],
    inputs: Mapping[tuple[str, int], str],
    files: Mapping[str, Sequence[tuple[str, str]]],
    pinned: str | None,
    provenance: Mapping[str, Any],
    engines: Mapping[str, EngineKey],
    gpus: int,
    environment: Environment | None = None,
    imported: Sequence[str] = (),
    variables: Mapping[str, str] = {},
) -> Parts:
    """All parts of a step's key, in order.

    own: what the step and those inside it add. code: file → digest of the step's code. wrappers:
    the hooks around it, in the order of their calls. inputs: (field, index) → digest of the
    artifact. files: setting → (name, digest) of each outside file. provenance: see
    `Step.provenance`. engines: by model format. gpus: how many the step gets. environment: the
    step's own, whose Python and packages count instead of these. imported: the distributions that
    the step's code imports. variables: of the environment, by plugins of others.
    """
    step = node.step
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if environment is not None:
        version = environment.python
    parts: Parts = [
        (FORMAT_PART, FORMAT),
        # With `-O`, steps run without assertions.
        ("python", f"{version} -{'O' * sys.flags.optimize}" if sys.flags.optimize else version),
        *([("environment", environment.digest)] if environment is not None else []),
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
            unique_label(around, f"code {file} {label}", digest)
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
        if isinstance(setting, File) and not files.get(field)
    ]
    if pinned is not None:
        parts.append(("pinned", pinned))
    for subject, facts in provenance.items():
        parts.append((f"provenance {subject}", blake3(encode(facts)).hexdigest()))
    if own.seeded:
        parts.append(("seed", node.seed))
    packages = [*own.packages, *imported]
    packages += [name for wrapper in wrappers for name in wrapper.packages]
    parts += [(f"variable {name}", _digested(name, value)) for name, value in variables.items()]
    parts += [(f"version of {f}", type(s).__spec__.version) for f, s in steps_inside(step)]
    for model_format, engine in engines.items():
        parts.append((f"engine {model_format}", engine.name))
        label = f"(engine {model_format})"
        parts += [(f"code {file} {label}", digest) for file, digest in engine.code.items()]
        packages += [*engine.own.packages, *engine.imported]
        own |= engine.own
    if gpus > 1 and own.gpus:
        own |= Key(facts={"gpus": gpus})
    parts += [(f"machine {name}", value) for name, value in sorted(own.facts.items())]
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
        if isinstance(value, list) and any(isinstance(entry, Step) for entry in value):
            for path, inner in entries(f"{prefix}{field}", value):
                yield f"setting {path}", [inner.use, full_name(type(inner))]
                yield from _setting_parts(inner, f"{path}.")
            continue
        if isinstance(value, Step):
            yield f"setting {prefix}{field}", full_name(type(value))
        if isinstance(value, Settings):
            for tag_field, tag in tag_of(value).items():
                yield f"setting {prefix}{field}.{tag_field}", tag
            yield from _setting_parts(value, f"{prefix}{field}.")
        else:
            is_set = isinstance(value, set | frozenset)  # whose own order varies by process
            order: Any = "deterministic" if is_set else None
            part, plain = f"setting {prefix}{field}", msgspec.to_builtins(value, order=order)
            yield part, _digested(part, plain)


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


NOT_BUILT = "(not built yet)"
"""Stands for the digest of an input that isn't built yet."""
NAMED = 3
"""Maximum number of changed functions that a line names."""
LONGEST, LEAD = 60, 20
"""Length of a value in a change, and how much of it before the first difference, in characters."""
OF_INPUTS = ("engine ", "provenance ", "machine ", "package ")
"""Prefixes of parts that a key may get from built inputs."""
TOP = "top level"
"""Name in explanations of a file's statements that execute on import."""
FindNames = Callable[[str], Mapping[str, str] | None]
"""Digest of code → digest of each function, method and variable; None if unknown."""


class Change(NamedTuple):
    """A part of a key that was changed, added or removed (old or new is then MISSING).

    names: of the functions, methods and variables of a file whose code changed, or of the files of
    a package.
    """

    part: str
    old: Any
    new: Any
    names: "Names"

    def __str__(self) -> str:
        """As text: `setting epochs: 3 → 2`, `code steps.py: Copy.run changed`."""
        is_read = self.part.startswith(READ) and {*map(len, map(str, (self.old, self.new)))} == {64}
        if not is_read and not self.part.startswith(("code ", "file ", "input ", "provenance ")):
            return f"{self.part}: {' → '.join(self.values())}"
        if self.new == NOT_BUILT:
            return f"{self.part} not built yet"
        kind = "gone" if self.new is MISSING else "new" if self.old is MISSING else "changed"
        return f"{self.part}: {self.names}" if any(self.names) else f"{self.part} {kind}"

    def values(self) -> list[str]:
        """Old and new value for display, long texts shortened around their first difference."""
        texts = [_in_line(self.old, self.part), _in_line(self.new, self.part)]
        same = next((i for i, pair in enumerate(zip_longest(*texts)) if len({*pair}) > 1), 0)
        start = same - LEAD if max(map(len, texts)) > LONGEST and same > LEAD else 0
        shown = (f"…{text[start:]}" if start else text or '""' for text in texts)
        return [shortened(text, LONGEST) for text in shown]


class Names(NamedTuple):
    """Functions, methods and variables of a file: which are changed, new or gone."""

    changed: list[str] = []
    new: list[str] = []
    gone: list[str] = []

    def __str__(self) -> str:
        return ", ".join(
            f"{some_of(names, NAMED)} {kind}" for kind, names in self._asdict().items() if names
        )


def changes_between(before: Parts, after: Parts, names_of: FindNames) -> list[Change]:
    """Every part that differs, see `comparable`."""
    return [
        Change(visible(part), a, b, _names(part, a, b, names_of))
        for part, a, b in comparable(before, after)
    ]


def comparable(before: Parts, after: Parts) -> list[tuple[str, Any, Any]]:
    """The differences; no code if the format of keys differs, since all of it does then.

    Before all inputs are built, a key lacks the parts of their engines. These didn't change.
    """
    differing = differences(before, after)
    if any(value == NOT_BUILT for _, value in (*before, *after)):
        differing = [
            (part, a, b) for part, a, b in differing
            if MISSING not in (a, b) or not (part.startswith(OF_INPUTS) or "(engine " in part)
        ]  # fmt: skip
    if any(part == FORMAT_PART for part, _, _ in differing):
        differing = [each for each in differing if not each[0].startswith("code ")]
    return differing


def _digested(part: str, value: Any) -> Any:
    """The value; of one with a secret the digest, since the store keeps the parts of keys."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = f"{part}: {json.dumps(value, ensure_ascii=False)}"
    return value if redact_secrets(text) == text else blake3(encode(value)).hexdigest()


def short(value: Any, part: str, limit: int = LONGEST) -> str:
    """The beginning of a part's value for display, with digests shortened, and without secrets."""
    return shortened(_in_line(value, part), limit)


def _in_line(value: Any, part: str) -> str:
    if value is MISSING:
        return "—"
    text = visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return redact_secrets(f"{part}: {' '.join(text.split())}").removeprefix(f"{part}: ")


def _names(part: str, old: Any, new: Any, names_of: FindNames) -> Names:
    if not part.startswith("code ") or MISSING in (old, new):
        return Names()
    before, after = names_of(old), names_of(new)
    if before is None or after is None:
        return Names()
    changed = [n for n in after if n in before and before[n] != after[n]]
    new_ones = [n for n in after if n not in before]
    gone = [n for n in before if n not in after]
    return Names(*(  # without methods of classes that are among them
        [n or TOP for n in names if not any(n.startswith(f"{other}.") for other in names)]
        for names in (changed, new_ones, gone)
    ))  # fmt: skip


# -- accepted changes -----------------------------------------------------------------------------


STEP_TYPE_PART = "step type"
"""The part of a key with the type that an accepted change is for."""
MAX_STATES = 64
"""How many earlier keys of a step are looked up."""


class Acceptances:
    """The accepted changes of a recipe, with which a result serves a step although parts changed.

    A result is looked up under the step's own key first, so what is accepted never hides one. Then
    the accepted changes are taken back: changed parts get their old values, and the key of these
    parts is looked up. So a result serves a step only if all other parts are the same. Those that
    were accepted together are taken back together: nothing serves a step after a half of what
    somebody looked at.
    """

    def __init__(self, accepted: Iterable[Accepted]) -> None:
        groups: dict[tuple[str, str], list[Accepted]] = defaultdict(list)
        for change in accepted:
            groups[change.use, change.name].append(change)
        self._groups: dict[str, list[list[Accepted]]] = defaultdict(list)
        for (use, _), group in groups.items():
            self._groups[use].append(group)

    def earlier(self, parts: Parts) -> Iterator[Parts]:
        """The parts of earlier keys whose results serve a step with these parts, nearest first."""
        yield from (earlier_parts for _, earlier_parts in self._undone_changes(parts))

    def applied_changes(self, parts: Parts) -> list[Accepted]:
        """The accepted changes that led to values which these parts have."""
        return [change for group, _ in self._undone_changes(parts) for change in group]

    def _undone_changes(self, parts: Parts) -> Iterator[tuple[Sequence[Accepted], Parts]]:
        """(changes, the parts before them) for all chains of changes that end at these parts."""
        groups = self._groups.get(dict(parts)[STEP_TYPE_PART], ())
        states, visited = [parts], {key_of(parts)}
        for state in states:  # which grows
            values_now = dict(state)
            for group in (
                candidate for candidate in groups if _matches_new_values(candidate, values_now)
            ):
                values = values_now | {
                    c.part: c.old for c in group if c.part in values_now or c.new is UNSET
                }
                earlier_parts = [
                    (part, value) for part, value in values.items() if value is not UNSET
                ]
                yield group, earlier_parts
                if (key := key_of(earlier_parts)) not in visited and len(states) < MAX_STATES:
                    visited.add(key)
                    states.append(earlier_parts)


def _matches_new_values(group: Sequence[Accepted], values_now: dict[str, Any]) -> bool:
    """Whether a step has the new values of these changes, without parts that it doesn't have."""
    relevant = [change for change in group if change.part in values_now or change.new is UNSET]
    return bool(relevant) and all(
        _value_bytes(values_now.get(c.part, UNSET)) == _value_bytes(c.new) for c in relevant
    )


def _value_bytes(value: Any) -> bytes:
    """A value's bytes; empty for an absent part."""
    return b"" if value is UNSET else encode(value)


def group_changes(use: str, differences: Iterable[tuple[str, Any, Any]]) -> list[Accepted]:
    """Changes of parts (part, old, new) of one step's key, as a group."""
    changes = [
        Accepted(part=part, old=UNSET if old is MISSING else old,
                 new=UNSET if new is MISSING else new, use=use)
        for part, old, new in differences
    ]  # fmt: skip
    if len(changes) < 2:
        return changes
    name = blake3("".join(sorted(c.line() for c in changes)).encode()).hexdigest()[:12]
    return [msgspec.structs.replace(change, group=name) for change in changes]
