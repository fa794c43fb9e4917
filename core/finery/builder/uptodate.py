"""Detects quickly that there is nothing to do, by a stamp of everything that the last build read.

A stamp lists all files that the answer depends on, with their stats: the recipe and its lock,
plugin files and what they import, outside files, blobs, views, the links under `build/`, and the
folders of `sys.path` (which change when a distribution is installed, removed or upgraded). If all
are unchanged, there is nothing to do, and finery needs to read neither plugins nor the recipe.
After any change, the build makes a full plan, which alone decides what runs.

This module imports little, so a build with nothing to do takes hardly longer than starting Python.
"""

import json
import os
import sqlite3
import sys
import time
import zlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from glob import escape, glob
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finery.execute.gpu import CHOICES, DRIVER_FILES
from finery.util.files import FileState, file_state, hash_file, is_settled
from finery.util.paths import plain_path, store_folder

if TYPE_CHECKING:
    from finery.builder.scheduler import Build
    from finery.execute.entries import Places
    from finery.store.database import Store
    from finery.util.events import Event

FORMAT = 9
STATE_TYPECODE, STATE_NUMBERS = "Q", 5
"""The encoding of states in a stamp: 64 bits for each part."""
SMALL_FILE_BYTES = 1 << 20
"""Bytes of a file whose content a build with nothing to do may compare."""
COMPARED_BLOCK = 256
"""Number of files after which states are compared."""
OWN_PREFIX = "FINERY_"
"""The prefix of finery's own variables, with dtypes, and with programs that engines start."""
_PATH = tuple(sys.path)
"""`sys.path` at the start, since plugin files extend it."""
_RUN, _TIME, _SECONDS = "<run>", "<time>", '"<seconds>"'
"""Placeholders in a stamp's events for values that differ from run to run."""


class Finished(NamedTuple):
    """Facts in the stamp of a build: the number of steps, of those whose changes are accepted, and
    what their answers cost."""

    steps: int
    accepted: int
    dollars: float


class Sources(NamedTuple):
    """What a build depends on outside the store.

    used: files and folders that it read. absent: others that may be missing. patterns: for more.
    """

    used: set[str]
    absent: set[str]
    patterns: set[str]

    def states(self) -> dict[str, FileState]:
        """The current states of all of them."""
        matches = chain.from_iterable(map(_pattern_matches, self.patterns))
        return {path: file_state(path) for path in (*self.used, *self.absent, *matches)}

    def changed_since(self, began: int, written: Collection[str] = ()) -> bool:
        """Whether a file may have changed, appeared or gone since then, in nanoseconds.

        written: files that finery itself wrote since.
        """
        from finery.recipe.files import is_output

        matches = chain.from_iterable(map(_pattern_matches, self.patterns))
        files = {path for path in (*self.used, *self.absent, *matches) if os.path.isfile(path)}
        changed = (path for path in files - set(written) if not is_output(path))
        gone = not all(map(os.path.exists, self.used))
        return gone or not all(is_settled(*file_state(path)[3:], began) for path in changed)


def finished_if_done(
    recipe: Path, steps: Sequence[str], overrides: Sequence[str]
) -> Finished | None:
    """The results, if a build would certainly find nothing to do; otherwise None."""
    return _read_stamp(recipe, steps, overrides, events=False)[0]


def events_if_done(
    recipe: Path, steps: Sequence[str], overrides: Sequence[str], began: float
) -> str | None:
    """The output of `--json` if there is nothing to do; None if there may be something.

    The events are those of a full plan. began: start of the command, by `time.perf_counter`.
    """
    finished, events = _read_stamp(recipe, steps, overrides, events=True)
    if finished is None or events is None:
        return None
    from finery.util.events import new_run_id, now

    seconds = time.perf_counter() - began
    replacements = {_RUN: new_run_id(), _TIME: now(), _SECONDS: f"{seconds:.6f}"}
    for mark, text in replacements.items():
        events = events.replace(mark, text)
    return events


def _read_stamp(
    recipe: Path, steps: Sequence[str], overrides: Sequence[str], *, events: bool
) -> tuple[Finished | None, str | None]:
    """(what is built, events if they are wanted) of a stamp that holds; else (None, None)."""
    database = store_folder(recipe) / "finery.db"
    if not database.is_file():
        return None, None
    name = _stamp_name(recipe, steps, overrides)
    fact_names = [
        f"stamp of {name}",
        f"states of {name}",
        *([f"events of {name}"] if events else []),
    ]
    query = (
        f"SELECT content FROM facts WHERE name IN ({','.join('?' * len(fact_names))}) ORDER BY name"
    )
    try:
        db = sqlite3.connect(database, timeout=1, isolation_level=None)
        try:
            contents = [content for (content,) in db.execute(query, fact_names)]
        finally:
            db.close()
        if len(contents) < len(fact_names):
            return None, None
        *events_of, stamp, states = contents  # in the order of their names
        finished = _finished_if_same(database.parent, stamp.decode(), states)
        return finished, (events_of[0].decode() or None) if events_of else None
    except (sqlite3.Error, ValueError, KeyError, TypeError, OverflowError):
        return None, None  # a missing table, a stamp of another version, a busy database


def _finished_if_same(root: Path, stamp: str, states: bytes) -> Finished | None:
    head, *paths = stamp.split("\n")
    facts = json.loads(head)
    is_same = (
        facts["format"] == FORMAT
        and facts["python"] == _python_facts(sys.path)
        and facts["machine"] == _machine_facts()
        and facts["folder"] in ("", os.getcwd())
        and facts["path"] in (None, os.environ.get("PATH", ""))
        and _are_same(root, paths, states)
        and all(os.path.exists(path) == existed for path, existed in facts["recipes"])
        and all(_pattern_matches(pattern) == paths for pattern, paths in facts["patterns"])
        and all(_content_digest(path) == digest for path, digest in facts["contents"])
    )
    return Finished(facts["steps"], facts["accepted"], facts["dollars"]) if is_same else None


def _are_same(root: Path, paths: Sequence[str], states: bytes) -> bool:
    states_before = array(STATE_TYPECODE, states)
    folder = os.open(root, os.O_RDONLY)
    try:
        for start in range(0, len(paths), COMPARED_BLOCK):
            current = _pack_states(
                file_state(path, folder) for path in paths[start : start + COMPARED_BLOCK]
            )
            if (
                current
                != states_before[start * STATE_NUMBERS : (start + COMPARED_BLOCK) * STATE_NUMBERS]
            ):
                return False
    finally:
        os.close(folder)
    return True


def _pack_states(states: Iterable[FileState]) -> "array[int]":
    return array(STATE_TYPECODE, chain.from_iterable(states))


def write_stamp(
    build: "Build",
    steps: Sequence[str],
    overrides: Sequence[str],
    verdicts: "Sequence[Event] | None" = (),
) -> None:
    """Write the stamp of a complete build, unless something that it read has changed since.

    Such a change may have come after the build read it, so the next build must look again.
    verdicts: what `--json` prints before the last event. If that isn't known (None), the next
    `--json` looks again.
    """
    from finery.artifact.manifest import reads_in
    from finery.builder.reads import why_not_reusable

    plugins, results = build.graph.plugins, build.outcome.results.values()
    if plugins.hook.finery_build_event.get_hookimpls():  # to be called in every build
        return
    adding = plugins.hook.finery_worker_environment.get_hookimpls()
    if not {hook_impl.plugin for hook_impl in adding} <= {
        p.module for p in plugins.plugins if p.is_own
    }:
        return  # the variables may be from a file that it read here
    if plugins.broken:  # its repair might not change anything in the stamp
        return
    if any(why_not_reusable(result.parts) for result in results):
        return
    if not _are_reads_current(build):  # a step removed what it had read, for example
        return
    used, absent, patterns = sources_of(build)
    matches = {pattern: _pattern_matches(pattern) for pattern in sorted(patterns)}
    sources = {path: file_state(path) for path in (*used, *absent)}
    if not _are_those_used(used, chain.from_iterable(matches.values())):
        return
    # Later than the states, so that they are those before a change that is missed here.
    all_paths = (*sources, *_PATH)
    unsettled = [path for path in all_paths if not is_settled(*file_state(path)[3:], build.began)]
    contents = _content_digests(build, unsettled) if unsettled else {}
    stored = None if contents is None else _stored_states(build)
    if contents is None or stored is None or any("\n" in path for path in (*sources, *stored)):
        return
    facts = {
        "format": FORMAT,
        "python": _python_facts(_PATH),
        "steps": len(build.graph.nodes),
        "accepted": len(build.outcome.accepted),
        "dollars": build.outcome.dollars_kept,
        "machine": _machine_facts(),
        # Plugin files may import from the working directory, and steps may read files there.
        "folder": os.getcwd()
        if any(p.path for p in plugins.plugins) or any(reads_in(r.parts) for r in results)
        else "",
        "path": os.environ.get("PATH", "") if build.planner.outside else None,
        "recipes": [[str(path), path.exists()] for path in build.store.recipes().values()],
        "patterns": [*matches.items()],
        "contents": [*contents.items()],
    }
    watched = {path: state for path, state in sources.items() if path not in contents}
    states = watched | stored  # the most likely changes first
    try:
        packed = _pack_states(states.values()).tobytes()
    except OverflowError:  # a time before 1970
        return
    paths = [path.removeprefix(f"{build.store.root}/") for path in states]
    name = _stamp_name(build.graph.recipe.path, steps, overrides)
    build.store.keep_facts({
        f"stamp of {name}": "\n".join([json.dumps(facts), *paths]).encode(),
        f"states of {name}": packed,
        f"events of {name}": b"" if verdicts is None else _events(build, verdicts).encode(),
    })  # fmt: skip


def _content_digests(build: "Build", paths: Sequence[str]) -> dict[str, str] | None:
    """Path → digest of files that changed just before the build; None if one can't be stamped.

    The time of such a file is no proof, in either direction. A change after the stamp could leave
    it as it is, so the stamp has the digest, and the next build compares the content itself. A
    change between the moment when the build read the file and this one could also have left it,
    and the digest of what is there now would then be that of a content which no key has. So it
    counts only if it is the digest of what was read: of the text that the recipe was parsed from,
    of what is in the key of the step with the file, or of code, both as its key has it and as this
    process has imported it. Whatever a clock says, a file whose content isn't that of the build has
    another digest here, or when the stamp is compared. There is no such proof for other files and
    for folders. What has certainly changed since the build began may have been read before, for
    example by a check of the recipe's files.
    """
    from blake3 import blake3

    graph, planner = build.graph, build.planner
    text = graph.recipe.text.encode()
    digests_read: dict[str, set[Any]] = {
        str(plain_path(graph.recipe.path)): {blake3(text).hexdigest()}
    }
    for node in graph.nodes.values():
        parts = dict(build.outcome.results[node.name].parts)
        for setting, files in graph.files(node).items():
            for name, path in files:
                digests_read.setdefault(str(path), set()).add(parts.get(f"file {setting} {name}"))
    for file in paths:
        if (digest := planner.code.index.files.digests.get(file)) is not None:
            digests_read.setdefault(file, set()).update({digest}, _imported_digests(file))
    contents = {path: _content_digest(path) for path in paths if path in digests_read}
    is_proven = all(contents.get(path) and {contents[path]} == digests_read[path] for path in paths)
    newest = (max(file_state(path)[3:]) for path in paths)
    return contents if is_proven and all(time <= build.began for time in newest) else None


def _imported_digests(path: str) -> set[str]:
    """The digest of what this process has imported of a file, if any; empty if it isn't known."""
    from finery.plugin.discovery import COMPILED

    real = os.path.realpath(path)
    if real in COMPILED:
        return {COMPILED[real].digest}
    files = (getattr(module, "__file__", None) for module in [*sys.modules.values()])
    return {""} if any(file and os.path.realpath(file) == real for file in files) else set()


def _content_digest(path: str) -> str:
    """The digest of a small file; empty if it is large or no file, or can't be read."""
    try:
        is_small = os.path.isfile(path) and os.path.getsize(path) <= SMALL_FILE_BYTES
        return hash_file(Path(path)) if is_small else ""
    except OSError:
        return ""


def states_before(
    store: "Store", recipe: Path, steps: Sequence[str], overrides: Sequence[str]
) -> dict[str, FileState]:
    """Path → state after the last stamped build."""
    name = _stamp_name(recipe, steps, overrides)
    stamp, states = store.fact(f"stamp of {name}"), store.fact(f"states of {name}")
    if stamp is None or states is None:
        return {}
    try:
        paths = (os.path.join(store.root, path) for path in stamp.decode().split("\n")[1:])
        numbers = iter(array(STATE_TYPECODE, states))
        return dict(zip(paths, zip(*[numbers] * STATE_NUMBERS, strict=True), strict=False))
    except ValueError:  # a damaged database
        return {}


def _events(build: "Build", verdicts: "Sequence[Event]") -> str:
    """The output of `--json` for a build with nothing to do, as JSON lines."""
    import msgspec

    from finery.util.events import make_event

    nodes, outcome = build.graph.nodes.values(), build.outcome
    steps = [{"step": n.name, "use": n.use, "section": n.section} for n in nodes]
    recipe = build.graph.recipe.name
    events = [
        make_event("build_started", run=_RUN, recipe=recipe, steps=steps),
        *(
            make_event(
                "step_cached", step=n.name, use=n.use, key=outcome.results[n.name].key,
                reason=outcome.accepted.get(n.name, ""),
            )
            for n in nodes
        ),
        *verdicts,
        make_event(
            "build_finished", ok=True, ran=0, cached=len(steps), failed=0, blocked=0,
            seconds=_SECONDS.strip('"'), exit_code=0,
        ),
    ]  # fmt: skip
    return "".join(f"{msgspec.json.encode(e | {'time': _TIME}).decode()}\n" for e in events)


def sources_of(build: "Build") -> Sources:
    """What a build depends on outside the store."""
    from finery.recipe.releases import RELEASES_FILE
    from finery.step.inspect import files_of

    graph, planner = build.graph, build.planner
    used = {str(plain_path(graph.recipe.path))}
    for plugin in graph.plugins.plugins:
        used.add(str(plugin.path or plugin.module.__file__))
    code = planner.code.present()
    used |= code
    absent = {str(plain_path(planner.lock.path))} | planner.code.index.absent | planner.outside
    if graph.unreleased or any(node.release for node in graph.nodes.values()):
        absent.add(str(plain_path(graph.recipe.folder / RELEASES_FILE)))
    patterns, folder = set(), plain_path(graph.recipe.folder)
    for node in graph.nodes.values():
        for files in files_of(node.step).values():
            used |= {str(path) for path in files.paths}
            named = {str(folder / Path(p).expanduser()) for p in files.patterns}
            patterns |= {_absolute_pattern(p, folder) for p in files.patterns}
            if files.may_be:  # so that a new one is noticed
                absent |= named
    for place in read_places(build, code):
        (used if os.path.exists(place) else absent).add(place)
    return Sources(used, absent - used, patterns)


def read_places(build: "Build", code: Iterable[str]) -> Iterator[str]:
    """The files and folders that steps of a build read besides their inputs. code: its files."""
    from finery.artifact.manifest import READ, reads_in

    entries = {part for r in build.outcome.results.values() for part, _ in reads_in(r.parts)}
    if entries:
        places = _entry_places(build, code)
        for entry in entries:
            yield from places.paths(entry.removeprefix(READ))


def _entry_places(build: "Build", code: Iterable[str]) -> "Places":
    from finery.execute.entries import entry_places

    folder, root = build.graph.recipe.folder, build.planner.store.root
    files = tuple(sorted(path for path in code if os.path.splitext(path)[1]))
    return entry_places(str(build.project), str(folder), str(root), files)


def _are_reads_current(build: "Build") -> bool:
    """Whether everything that steps read is as they read it."""
    from finery.artifact.manifest import READ, reads_in
    from finery.builder.reads import current_values
    from finery.execute.entries import LAYOUT_ENTRY

    every = {(n, v) for r in build.outcome.results.values() for n, v in reads_in(r.parts)}
    reads = {pair for pair in every if pair[0] != f"{READ}{LAYOUT_ENTRY}"}  # it differs by step
    if not reads:
        return True
    places = _entry_places(build, build.planner.code.present())
    return {*current_values(build.planner.store, places, [name for name, _ in reads])} == reads


def _are_those_used(used: Collection[str], matches: Iterable[str]) -> bool:
    """Whether all files that the build used still exist, and no further ones match its patterns."""
    from finery.recipe.files import is_output

    return all(map(os.path.exists, used)) and all(
        path in used or not os.path.isfile(path) or is_output(path) for path in matches
    )


def _stored_states(build: "Build") -> dict[str, FileState] | None:
    """Path → state of blobs, links, views and external files; None if one is damaged."""
    from finery.artifact.manifest import with_references
    from finery.store.blobs import is_unchanged

    states = dict(build.outputs.states)
    store = build.store
    outputs = (m for r in build.outcome.results.values() for m in r.outputs.values())
    artifacts = {artifact.view: artifact for m in outputs for artifact in with_references(m)}
    for manifest in artifacts.values():
        if not all(store.is_intact(*b) or store.shared.has(b[0]) for b in manifest.files.values()):
            return None
        if not all(is_unchanged(*file) for file in manifest.external.values()):
            return None
        blobs = [store.blob_path(digest) for digest, _ in manifest.files.values()]
        for path in (*blobs, *(path for path, *_ in manifest.external.values())):
            states[path] = file_state(path)
    return states


def _absolute_pattern(pattern: str, folder: Path) -> str:
    """A recipe's pattern for `_pattern_matches`. folder: the recipe's, which isn't a pattern."""
    path = folder / Path(pattern).expanduser()
    return str(path if path.is_dir() else Path(escape(str(folder))) / Path(pattern).expanduser())


def _pattern_matches(pattern: str) -> list[str]:
    """Current matches of a pattern; for a folder, everything in it."""
    if os.path.isdir(pattern):
        return sorted(
            os.path.join(root, name) for root, _, names in os.walk(pattern) for name in names
        )
    return sorted(glob(pattern, recursive=True)) if any(c in pattern for c in "*?[") else []


def _python_facts(path: Iterable[str]) -> list[Any]:
    """This Python, and the states of `sys.path` and of the module with the format of keys."""
    folders = [[entry, *file_state(entry)] for entry in path]
    own_folder = os.path.dirname(os.path.abspath(__file__))
    format_of_keys = [*file_state(f"{own_folder}/keys.py")]
    home = os.path.expanduser("~")  # what `~` in a path of the recipe means
    version = [*sys.version_info[:3], sys.flags.optimize]
    return [version, folders, format_of_keys, os.path.realpath(sys.prefix), home]


def _machine_facts() -> list[Any]:
    """What the facts of the machine in keys depend on (see `finery.Key`), if that is cheap."""
    drivers = [*map(os.path.exists, DRIVER_FILES)]
    own_variables = sorted(pair for pair in os.environ.items() if pair[0].startswith(OWN_PREFIX))
    # A checksum, since a value may be a secret.
    checksum = zlib.crc32(json.dumps(own_variables).encode())
    return [os.uname().nodename, drivers, *map(os.environ.get, CHOICES), checksum]


def _stamp_name(recipe: Path, steps: Sequence[str], overrides: Sequence[str]) -> str:
    digest = ""
    if overrides:  # which may have secrets
        from blake3 import blake3

        digest = blake3(json.dumps(list(overrides)).encode()).hexdigest()
    # A copied project contains the stamps of the original.
    return json.dumps([str(plain_path(recipe)), sorted(steps), digest])
