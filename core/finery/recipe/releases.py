"""`releases.json`, meant for git: what was released under which tag, and how good it was then.

A release is an artifact by its digest. The store keeps it as a result with a key of its own, which
follows from the digest alone, so it can be found whatever recipe or version of finery made it.

The file has a block of lines for each release, and tags in order. So releases under different tags
merge without a conflict, and those of one tag that were made at once are a conflict for people.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from finery.artifact.manifest import Manifest, Parts, Result, key_of
from finery.errors import UsageError
from finery.recipe.lock import changing, replace_text
from finery.rows.answers.jsonvalues import object_with_unique_keys
from finery.util.files import read_plain
from finery.util.paths import shown
from finery.util.text import counted, did_you_mean

RELEASES_FILE = "releases.json"
VERSION = 1
MAX_BYTES = 16 << 20
"""Maximum size of the file, in bytes."""
CONFLICT_MARKS = ("<<<<<<< ", "=======", ">>>>>>> ")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NUMBERS = re.compile(r"\[\n([^\[\]{}\"]+)\]")
"""A list of numbers on several lines."""
Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation said of a release. digest: of the `Metrics`.

    scores: metric → value, and the ends of its interval if it has one.
    """

    digest: Digest
    rows: int
    scores: dict[str, Annotated[list[float], msgspec.Meta(min_length=1, max_length=3)]]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the file. output: its name in the recipe, e.g. `gguf.q8_0`. size: in bytes.

    facts: those of its `meta` that are texts, numbers or yes and no. proof: what its step verified,
    e.g. of prompts. dirty: whether tracked files differed from the commit. unmet: requirements that
    weren't met, for it was forced. rollback: the number of the release that it repeats.
    """

    digest: Digest
    kind: str
    output: str
    recipe: str
    date: Annotated[str, msgspec.Meta(pattern=r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]
    size: int
    run: str | None = None
    commit: str | None = None
    dirty: bool = False
    finery: str | None = None
    facts: dict[str, Any] = {}
    proof: Any = None
    evaluations: dict[str, Evaluation] = {}
    unmet: list[str] = []
    rollback: Annotated[int, msgspec.Meta(ge=1)] | None = None


def check_tag(tag: str) -> None:
    """Raise `UsageError` for a tag that can't be one."""
    if not TAG.fullmatch(tag):
        fix = "use letters, digits, '.', '_' and '-', e.g. production"
        raise UsageError(f"'{tag}' can't be a tag", where="--as", fix=fix)


def release_parts(digest: str) -> Parts:
    """The parts of the key under which the store keeps an artifact that was released."""
    return [("release", digest)]


def release_key(digest: str) -> str:
    """That key."""
    return key_of(release_parts(digest))


def release_result(manifest: Manifest) -> Result:
    """An artifact as the store keeps it for a release."""
    parts = release_parts(manifest.digest)
    return Result(key_of(parts), {"": manifest}, 0.0, parts)


class Releases:
    """The releases beside a recipe. Raises `UsageError` for a file that can't be one.

    tags: tag → its releases, the current one last.
    """

    def __init__(self, recipe: Path) -> None:
        self.path = recipe.parent / RELEASES_FILE
        self.tags: dict[str, list[Release]] = {}
        self._read()

    def current(self, tag: str) -> Release | None:
        """The last release under a tag; None if there is none."""
        return self.tags[tag][-1] if tag in self.tags else None

    def numbered(self, tag: str, number: int | None = None) -> Release:
        """A release by its number, the first is 1; by default the current one.

        Raises `UsageError` if there is none.
        """
        where, releases = shown(self.path), self.tags.get(tag, [])
        if not releases:
            fix = did_you_mean(tag, self.tags) if self.tags else "finery release STEP --as TAG"
            raise UsageError(f"there is no release '{tag}'", where=where, fix=fix)
        if number is not None and not 1 <= number <= len(releases):
            has = f"'{tag}' has {counted(len(releases), 'release')}, and none with the number"
            raise UsageError(f"{has} {number}", where=where, fix=f"finery release list {tag}")
        return releases[-1 if number is None else number - 1]

    def repeated(self, tag: str, number: int) -> int:
        """The number of the release that a release repeats, after a rollback; else its own."""
        release = self.numbered(tag, number)
        earlier = release.rollback  # in a merged file, the number may be that of another release
        if earlier is None or self.numbered(tag, earlier).digest != release.digest:
            return number
        return self.repeated(tag, earlier)

    def previous(self, tag: str) -> int:
        """The number of the last other release before the current one. A rollback isn't one.

        Raises `UsageError` if there is none.
        """
        current = self.numbered(tag)
        for number in range(self.repeated(tag, len(self.tags[tag])) - 1, 0, -1):
            if self.numbered(tag, number).digest != current.digest:
                return self.repeated(tag, number)
        fix = "name one with --to N, or release another output"
        where = shown(self.path)
        raise UsageError(f"'{tag}' has no earlier release to go back to", where=where, fix=fix)

    def lost(self, release: Release, tag: str) -> tuple[str, str]:
        """(what is wrong, how to fix it) where the files of a release can't be had."""
        step, number = release.output.partition(".")[0], self.tags[tag].index(release) + 1
        build = f"finery build --step {step}"
        if release.commit:
            build = f"git checkout {release.commit[:12]}; {build}; git checkout -"
        return (
            f"the files of the {release.kind} {release.digest[:12]}, which was released as "
            f"'{tag}', are neither in the store nor in a shared store",
            f"connect to the shared store that has them; or build the same files again: {build}; "
            f"finery release rollback {tag} --to {number}",
        )

    def keys(self) -> set[str]:
        """The keys of everything that the file names."""
        releases = [release for each in self.tags.values() for release in each]
        digests = {release.digest for release in releases}
        digests |= {e.digest for release in releases for e in release.evaluations.values()}
        return {*map(release_key, digests)}

    def add(self, tag: str, release: Release) -> int:
        """Add a release, replacing the file atomically; its number.

        The file is read again before, since another process may have added one. What a newer
        version of finery wrote in it stays.
        """
        with changing(self.path, "names what is released"):
            content = self._read()
            entry: dict[str, Any] = msgspec.to_builtins(release)
            entry = {
                k: v for k, v in entry.items() if not (v is None or v is False or v in ({}, []))
            }
            content["releases"].setdefault(tag, []).append(entry)
            content["releases"] = dict(sorted(content["releases"].items()))
            text = NUMBERS.sub(
                lambda match: f"[{' '.join(match[1].split())}]", json.dumps(content, indent=2)
            )
            replace_text(self.path, f"{text}\n")
        self._read()
        return len(self.tags[tag])

    def _read(self) -> dict[str, Any]:
        """Read the file; its content as it is written."""
        try:
            text = read_plain(self.path, MAX_BYTES).decode()
        except FileNotFoundError:
            text = json.dumps({"version": VERSION, "releases": {}})
        except (OSError, UnicodeError) as error:
            raise self._error(f"can't be read: {getattr(error, 'strerror', error)}") from None
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith(CONFLICT_MARKS):
                problem = "has a conflict of git: two people released under one tag"
                fix = "keep both entries, the one that is current last, and remove the marks"
                raise self._error(problem, number, fix)
        try:
            content = json.loads(text, object_pairs_hook=object_with_unique_keys)
        except (ValueError, RecursionError) as error:
            raise self._error(f"isn't JSON: {error}", getattr(error, "lineno", 0)) from None
        version = content.get("version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > VERSION:
            problem = f"a newer finery wrote it, in version {version}"
            raise self._error(problem, fix="pip install --upgrade finery")
        written = content.get("releases") if version == VERSION else None
        if not isinstance(written, dict) or not all(isinstance(e, list) for e in written.values()):
            raise self._error("must map tags to lists of releases, in version 1")
        self.tags = {
            tag: [self._parse(text, tag, number, entry) for number, entry in enumerate(entries)]
            for tag, entries in written.items()
            if entries
        }
        return {"version": version, **content}

    def _parse(self, text: str, tag: str, number: int, entry: Any) -> Release:
        try:
            if not TAG.fullmatch(tag):
                raise ValueError("its tag has other characters than a tag can have")
            release = msgspec.convert(entry, Release)
            if (release.rollback or 0) > number:
                raise ValueError("`rollback` must be the number of an earlier release")
        except ValueError as error:
            problem = f"release {number + 1} of {tag!r:.80}: {error}"
            raise self._error(problem, _line_of(text, tag, number)) from None
        return release

    def _error(self, problem: str, line: int = 0, fix: str = "") -> UsageError:
        where = f"{shown(self.path)}:{line}" if line else shown(self.path)
        fix = fix or f"restore it from git: git checkout {shown(self.path)}"
        return UsageError(problem, where=where, fix=fix)


def _line_of(text: str, tag: str, number: int) -> int:
    """The line in which an entry begins; 0 if that isn't known."""
    try:
        node: Any = yaml.compose(text, yaml.SafeLoader)  # JSON is YAML
        for name in ("releases", tag):
            node = next(value for key, value in node.value if key.value == name)
        return int(node.value[number].start_mark.line) + 1
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, StopIteration):
        return 0
