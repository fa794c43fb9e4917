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
from finery.util.files import read_plain
from finery.util.paths import shown
from finery.util.text import counted, did_you_mean

RELEASES_FILE = "releases.json"
VERSION = 1
MAX_BYTES = 16 << 20
"""Maximum size of the file, in bytes."""
CONFLICT_MARKS = ("<<<<<<< ", "=======", ">>>>>>> ")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
NUMBERS = re.compile(r"\[\n([^\[\]{}\"]+)\]")
"""A list of numbers on several lines."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation said of a release. digest: of the `Metrics`.

    scores: metric → value, and the ends of its interval if it has one.
    """

    digest: str
    rows: int
    scores: dict[str, Annotated[list[float], msgspec.Meta(min_length=1, max_length=3)]]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the file. output: its name in the recipe, e.g. `gguf.q8_0`. size: in bytes.

    facts: those of its `meta` that are texts, numbers or yes and no. proof: what its step verified,
    e.g. of prompts. dirty: whether tracked files differed from the commit. rollback: the number of
    the release that it repeats.
    """

    digest: str
    kind: str
    output: str
    recipe: str
    date: str
    size: int
    run: str | None = None
    commit: str | None = None
    dirty: bool = False
    finery: str | None = None
    facts: dict[str, Any] = {}
    proof: Any = None
    evaluations: dict[str, Evaluation] = {}
    rollback: int | None = None

    @property
    def revision(self) -> str:
        """The commit in a few characters; empty where the project wasn't in git."""
        return f"{(self.commit or '')[:8]}{' + changes' if self.dirty else ''}"


def check_tag(tag: str) -> None:
    """Raise `UsageError` for a tag that can't be one."""
    if not TAG.fullmatch(tag):
        raise UsageError(
            f"'{tag}' can't be a tag",
            where="--as",
            fix="use letters, digits, '.', '_' and '-', e.g. production",
        )


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


def lost_release(release: Release, tag: str) -> tuple[str, str]:
    """(what is wrong, how to fix it) where the files of a release can't be had."""
    step, output = release.output.partition(".")[0], release.output
    commit = f"git checkout {release.commit[:12]}; " if release.commit else ""
    return (
        f"the files of the {release.kind} {release.digest[:12]}, which was released as '{tag}', "
        "are neither in the store nor in a shared store",
        f"connect to the shared store that has them; or build them again: {commit}finery build "
        f"{step}; finery release {output} --as {tag}",
    )


class Releases:
    """The releases beside a recipe. Raises `UsageError` for a file that can't be one."""

    def __init__(self, recipe: Path) -> None:
        self.path = recipe.parent / RELEASES_FILE
        self._written: dict[str, list[dict[str, Any]]] = {}
        self.tags: dict[str, list[Release]] = {}
        self._load()

    def current(self, tag: str) -> Release | None:
        """The last release under a tag; None if there is none."""
        return self.tags[tag][-1] if tag in self.tags else None

    def numbered(self, tag: str, number: int | None = None) -> Release:
        """A release by its number, the first is 1; by default the current one.

        Raises `UsageError` if there is none.
        """
        if tag not in self.tags:
            fix = did_you_mean(tag, self.tags) if self.tags else "finery release STEP --as TAG"
            raise UsageError(f"there is no release '{tag}'", where=shown(self.path), fix=fix)
        releases = self.tags[tag]
        if number is not None and not 1 <= number <= len(releases):
            raise UsageError(
                f"'{tag}' has {counted(len(releases), 'release')}, and none with the number "
                f"{number}",
                where=shown(self.path),
                fix=f"finery release list {tag}",
            )
        return releases[-1 if number is None else number - 1]

    def keys(self) -> set[str]:
        """The keys of everything that the file names."""
        releases = [release for of in self.tags.values() for release in of]
        digests = {release.digest for release in releases}
        digests |= {e.digest for release in releases for e in release.evaluations.values()}
        return {*map(release_key, digests)}

    def add(self, tag: str, release: Release) -> int:
        """Add a release, replacing the file atomically; its number.

        The file is read again before, since another process may have added one.
        """
        with changing(self.path, "names what is released"):
            self._load()
            entry = {
                name: value
                for name, value in msgspec.to_builtins(release).items()
                if not (value is None or value is False or value == {})
            }
            self._written.setdefault(tag, []).append(entry)
            releases = dict(sorted(self._written.items()))
            text = json.dumps({"version": VERSION, "releases": releases}, indent=2)
            text = NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text)
            replace_text(self.path, f"{text}\n")
        self._load()
        return len(self.tags[tag])

    def _load(self) -> None:
        try:
            text = read_plain(self.path, MAX_BYTES).decode()
        except FileNotFoundError:
            self._written, self.tags = {}, {}
            return
        except (OSError, UnicodeError) as error:
            raise self._error(f"can't be read: {getattr(error, 'strerror', error)}") from None
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith(CONFLICT_MARKS):
                raise self._error(
                    "has a conflict of git: two people released under one tag", number,
                    "keep both entries, the one that is current last, and remove the marks",
                )  # fmt: skip
        try:
            content = json.loads(text, object_pairs_hook=_without_repeats)
        except json.JSONDecodeError as error:
            raise self._error(f"isn't JSON: {error.msg}", error.lineno) from None
        except (ValueError, RecursionError) as error:
            raise self._error(str(error)) from None
        version = content.get("version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > VERSION:
            fix = "pip install --upgrade finery"
            raise self._error(f"a newer finery wrote it, in version {version}", 0, fix)
        written = content.get("releases") if version == VERSION else None
        if not isinstance(written, dict) or not all(isinstance(e, list) for e in written.values()):
            raise self._error("must map tags to lists of releases, in version 1")
        self._written = written
        self.tags = {
            tag: [self._parse(text, tag, number, entry) for number, entry in enumerate(entries)]
            for tag, entries in written.items()
            if entries
        }

    def _parse(self, text: str, tag: str, number: int, entry: Any) -> Release:
        problem = "" if TAG.fullmatch(tag) else "its tag has other characters than a tag can have"
        try:
            release = msgspec.convert(entry, Release)
            digests = [release.digest, *(e.digest for e in release.evaluations.values())]
            if not all(map(DIGEST.fullmatch, digests)):
                problem = "a digest must have 64 hexadecimal digits"
        except msgspec.ValidationError as error:
            problem = str(error)
        if problem:
            line = _line_of(text, tag, number)
            raise self._error(f"release {number + 1} of {tag!r:.80}: {problem}", line)
        return release

    def _error(
        self, problem: str, line: int = 0, fix: str = "restore it from git: git checkout FILE"
    ) -> UsageError:
        where = f"{shown(self.path)}:{line}" if line else shown(self.path)
        return UsageError(problem, where=where, fix=fix.replace("FILE", shown(self.path)))


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises `ValueError` for a name that is there twice, of which one would win."""
    made = dict(pairs)
    if len(made) < len(pairs):
        name = next(name for name in made if sum(other == name for other, _ in pairs) > 1)
        raise ValueError(f"{name!r:.80} is there twice in one object")
    return made


def _line_of(text: str, tag: str, number: int) -> int:
    """The line in which an entry begins; 0 if that isn't known."""
    try:
        node: Any = yaml.compose(text, yaml.SafeLoader)  # JSON is YAML
        whole = {key.value: value for key, value in node.value}
        tags = {key.value: value for key, value in whole["releases"].value}
        return int(tags[tag].value[number].start_mark.line) + 1
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        return 0
