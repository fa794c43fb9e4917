"""Manifests: artifacts as the store records them, without their bytes."""

import json
from collections.abc import Collection, Iterator, Mapping
from itertools import takewhile
from operator import itemgetter
from typing import Any

import msgspec
from blake3 import blake3


def encode(value: Any) -> bytes:
    """Canonical bytes of plain data, as MessagePack: type-tagged, length-prefixed, in order.

    Distinct values give distinct bytes: 1, 1.0, True and "1" differ, and so do [["a"], "b"] and
    [["a", "b"]]. Mappings keep their order, which matters for some settings.
    """
    return msgspec.msgpack.encode(value)


MANIFEST = "manifest.json"
"""The file in an artifact's folder that describes it."""
Parts = list[tuple[str, Any]]
"""(name, value), e.g. `("setting epochs", 3)`, `("input rows[0]", "4f…")`."""


READ, CHANGING = "read ", "not reusable: "
"""Beginnings of the parts that say what a step read besides its inputs, see
`finery.execute.observed`. They come after all others."""


def key_of(parts: Parts) -> str:
    """The key of these parts, 64 hex digits. Their names differ, and their order doesn't count."""
    return blake3(encode(sorted(parts, key=itemgetter(0)))).hexdigest()


def reads_in(parts: Parts) -> Parts:
    """Those of the parts that say what the step read."""
    last = takewhile(lambda part: part[0].startswith((READ, CHANGING)), reversed(parts))
    return [*last][::-1]


def result_key(key: str, reads: Parts) -> str:
    """The key of a result: that of the step if it read nothing."""
    return key_of([("key", key), *reads]) if reads else key


class Manifest(msgspec.Struct, frozen=True):
    """An artifact as the store records it, without its bytes. Created by `manifest`."""

    kind: str
    meta: dict[str, Any]
    files: dict[str, tuple[str, int]]  # name → (digest, size in bytes)
    digest: str  # identity: everything except runtime and paths of external files
    view: str  # folder of links; also depends on runtime and paths of external files
    refs: "dict[str, Manifest]" = {}
    external: dict[str, tuple[str, int, int]] = {}  # name → (absolute path, bytes, mtime in ns)
    runtime: dict[str, Any] = {}
    executable: list[str] = []  # names of files, sorted

    def size(self) -> int:
        """Size of its files in the store, in bytes."""
        return sum(size for _, size in self.files.values())


def manifest(
    kind: str,
    meta: Mapping[str, Any],
    files: Mapping[str, tuple[str, int]],
    refs: Mapping[str, Manifest] | None = None,
    external: Mapping[str, tuple[str, int, int]] | None = None,
    runtime: Mapping[str, Any] | None = None,
    executable: Collection[str] = (),
) -> Manifest:
    """A manifest with its digests. `meta` is converted to JSON values with sorted keys."""
    made = Manifest(
        kind, _plain(meta), dict(files), "", "", dict(refs or {}),
        dict(sorted((external or {}).items())), _plain(runtime or {}), sorted(executable),
    )  # fmt: skip
    digest, view = _digests(made)
    return msgspec.structs.replace(made, digest=digest, view=view)


def is_sound(made: Manifest) -> bool:
    """Whether a manifest, and those that it refers to, have the digests of their content."""
    try:
        digests = _digests(made)
    except (OverflowError, RecursionError):  # from outside: more than 64 bits, or deep
        return False
    is_right = (made.digest, made.view) == digests and {*made.executable} <= made.files.keys()
    return is_right and all(map(is_sound, made.refs.values()))


def _digests(made: Manifest) -> tuple[str, str]:
    """(digest, view) of a manifest's content."""
    contents = sorted((name, digest) for name, (digest, _) in made.files.items())
    under = sorted((role, m.digest) for role, m in made.refs.items())
    whole = [made.kind, made.meta, contents, under, list(made.external)]
    digest = blake3(encode([*whole, made.executable] if made.executable else whole)).hexdigest()
    lies = [digest, list(made.external.items()), sorted(m.view for m in made.refs.values())]
    view = blake3(encode([*lies, made.runtime] if made.runtime else lies)).hexdigest()
    return digest, view


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as the store returns them. NaN and Infinity, which JSON lacks, are null there."""
    text = json.dumps(facts, sort_keys=True)
    plain: dict[str, Any] = json.loads(text, parse_constant=lambda name: None)
    return plain


def with_references(artifact: Manifest) -> Iterator[Manifest]:
    """The artifact and all artifacts that it refers to, directly or indirectly."""
    yield artifact
    for ref in artifact.refs.values():
        yield from with_references(ref)


def referring(artifact: Manifest, known: Mapping[str, Manifest]) -> Manifest:
    """The artifact with references replaced by those in `known` with the same digest."""
    if not artifact.refs:
        return artifact
    refs = {role: known.get(m.digest) or referring(m, known) for role, m in artifact.refs.items()}
    return manifest(
        artifact.kind, artifact.meta, artifact.files, refs, artifact.external, artifact.runtime,
        artifact.executable,
    )  # fmt: skip


class Result(msgspec.Struct, frozen=True):
    """A finished key: its outputs by name, how long they took, and the parts of the key.

    request, made_with: of a result to record, see `finery.builder.versions`.
    """

    key: str
    outputs: dict[str, Manifest]
    seconds: float
    parts: Parts
    request: str = ""
    made_with: dict[str, str] = {}
