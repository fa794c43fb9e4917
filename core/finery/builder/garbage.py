"""What the store contains, for whom, and how to remove what nobody needs.

**Needed** are the results of the last builds of each recipe, the last result of each of its steps,
pinned results, and all that running builds use (`finery.store.uses`), with the scratch of steps
that those builds started. A recipe whose file is gone counts for another 30 days after its last
build, since it may be on another branch.

**Killed at any moment**, a collection leaves a valid store: it removes old runs, then the results
that nobody needs in one transaction, and then files that no result has. The next one continues.

It takes time linear in the number of results, views and blobs. A shared store has its own rule, by
age: `finery.store.expiry`.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from finery.artifact.manifest import MANIFEST, Manifest, with_references
from finery.builder.runs import Run, read_run, run_ids
from finery.errors import FineryError, UsageError
from finery.execute.venv import remove_environment, unused_environments
from finery.recipe.document import load
from finery.store.catalogue import Catalogue
from finery.store.database import ABANDONED_DAYS, HEX, KEY_DIGITS, Store
from finery.store.links import prune_links
from finery.store.uses import InUse, gate, is_quiet, read_uses
from finery.util.files import size_of
from finery.util.paths import PINNED, project_folder

T = TypeVar("T")
BATCH = 200
"""Files that are removed at once while no build passes the gate: some milliseconds."""
ALONE = "0" * KEY_DIGITS
"""The key that the one collection of a store locks."""


class Owner(NamedTuple):
    """Whose result it is: the recipe and the step by name, and when a build last used it."""

    recipe: str
    step: str
    used: str = ""


@dataclass
class Stock:
    """What the store contains, and what of it is needed.

    results: key → its outputs. owners: key → its owner. needed: keys. started: keys of steps that
    builds started which are kept. runs: those to keep, and old_runs those to remove, by id.
    gone: recipes to forget. locks: text of all lock files. builds: running builds.
    """

    results: dict[str, dict[str, Manifest]] = field(default_factory=dict)
    owners: dict[str, Owner] = field(default_factory=dict)
    needed: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    runs: list[str] = field(default_factory=list)
    old_runs: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    recipes: dict[str, Path] = field(default_factory=dict)
    builds: int = 0

    def unneeded(self) -> list[str]:
        """The keys whose results nobody needs."""
        return [key for key in self.results if key not in self.needed]

    def owner(self, key: str) -> Owner:
        """Whose result it is, as far as that is known."""
        return self.owners.get(key) or Owner("", "")


def blobs_of(outputs: Mapping[str, Manifest]) -> dict[str, int]:
    """Digest → bytes of all blobs of some outputs, and of what they refer to."""
    every = (m for output in outputs.values() for m in with_references(output))
    return {digest: size for m in every for digest, size in m.files.values()}


def held_bytes(store: Store, stock: Stock, on_disk: dict[str, int]) -> dict[str, int]:
    """Key → bytes of the blobs that count as its own, those that were used last first.

    A blob counts once: for a result that is needed, if one has it, and there for one that made it
    instead of taking it from an input. on_disk: digest → bytes; blobs of results are removed.
    """
    built = {m.digest: m for outputs in stock.results.values() for m in outputs.values()}
    held = dict.fromkeys(sorted(stock.results, key=lambda k: stock.owner(k).used, reverse=True), 0)
    own = {}
    for key in held:
        parts = store.parts_of(key) or ()
        inputs = {value for name, value in parts if name.startswith("input ")} & built.keys()
        taken = blobs_of({digest: built[digest] for digest in inputs})
        own[key] = blobs_of(stock.results[key]).keys() - taken.keys()
    for are_needed, every in ((True, False), (True, True), (False, False), (False, True)):
        for key in held:
            if (key in stock.needed) is are_needed:
                digests = blobs_of(stock.results[key]) if every else own[key]
                held[key] += sum(on_disk.pop(digest, 0) for digest in digests)
    return held


def take_stock(store: Store, keep: int, using: InUse | None = None) -> Stock:
    """What the store contains. keep: how many builds of each recipe are needed."""
    catalogue = Catalogue(store)
    stock = Stock(dict(catalogue.everything()), recipes=store.recipes())
    runs: dict[str, list[Run]] = {}
    for run_id in run_ids(store.root):
        run = read_run(store.root, run_id)
        if run is None:  # it has just begun, or was killed then
            state = (store.root / "runs" / run_id).stat()
            is_old = using is not None and state.st_mtime_ns < using.since
            (stock.old_runs if is_old else stock.runs).append(run_id)
            continue
        recipe = run.path or run.recipe
        if run.path:
            stock.recipes.setdefault(run.path, store.root.parent / run.path)
        runs.setdefault(recipe, []).append(run)
        for step in run.steps.values():
            if step.key:
                stock.owners.setdefault(step.key, Owner(run.recipe, step.name, run.started))
    since = (datetime.now(UTC) - timedelta(days=ABANDONED_DAYS)).isoformat()
    for recipe, newest_first in runs.items():
        path = stock.recipes.get(recipe)
        if newest_first[0].started < since and path is not None and not path.exists():
            stock.gone.append(recipe)
        count = 0 if recipe in stock.gone else keep
        for number, run in enumerate(newest_first):
            if number >= count and run.ending != "running":
                stock.old_runs.append(run.id)
                continue
            stock.runs.append(run.id)
            stock.needed |= {step.key for step in run.steps.values()}
            stock.started |= {step.started for step in run.steps.values()}
    for recipe, path in stock.recipes.items():
        if recipe not in stock.gone:
            name = runs[recipe][0].recipe if recipe in runs else _name_of(path)
            for step_name, (key, _) in store.latest(recipe).items():
                stock.needed.add(key)
                stock.owners.setdefault(key, Owner(name, step_name))
    stock.needed |= catalogue.pins().keys()
    if using is not None:
        stock.needed |= using.keys
        stock.started |= using.keys
        stock.builds = using.builds
    return stock


def _name_of(recipe: Path) -> str:
    """The name of a recipe without recorded builds, or its file if that can't be read."""
    try:
        return load(recipe).name
    except (OSError, FineryError):
        return recipe.name


class Blob(NamedTuple):
    """A blob on the disk. changed: its ctime in ns."""

    digest: str
    path: str
    size: int
    changed: int


def blobs_in(store: Store) -> Iterator[Blob]:
    """All blobs on the disk, in no order."""
    for folder in os.scandir(store.objects):
        if len(folder.name) == 2 and folder.is_dir():
            for entry in os.scandir(folder):
                if len(entry.name) == KEY_DIGITS - 2 and HEX.issuperset(entry.name):
                    with suppress(OSError):  # it is being replaced
                        s = entry.stat(follow_symlinks=False)
                        digest = folder.name + entry.name
                        yield Blob(digest, entry.path, s.st_size, s.st_ctime_ns)


@dataclass
class Collected:
    """What was removed, or would be.

    steps: owner, without a time → number of results and bytes of blobs that no needed one has.
    unfinished: number and bytes of blobs that no result has. scratch: of unfinished steps.
    environments: those that no lock file names. runs: of builds. views, links and pinned: numbers.
    answers: number and bytes. is_disturbed: whether builds ran, so that views, pinned data and
    answers stay. kept: bytes of blobs that stay.
    """

    steps: dict[Owner, list[int]] = field(default_factory=dict)
    unfinished: list[int] = field(default_factory=lambda: [0, 0])
    scratch: tuple[int, int] = (0, 0)
    environments: tuple[int, int] = (0, 0)
    runs: tuple[int, int] = (0, 0)
    views: int = 0
    pinned: tuple[int, int] = (0, 0)
    answers: tuple[int, int] = (0, 0)
    builds: int = 0
    is_disturbed: bool = False
    kept: int = 0

    def bytes(self) -> int:
        """The bytes of all that was removed."""
        others = (self.unfinished, self.scratch, self.environments, self.runs, self.pinned)
        return sum(size for _, size in (*self.steps.values(), *others, self.answers))


def collect(
    store: Store, keep: int, *, answers: bool = False, dry_run: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Collected:  # fmt: skip
    """Remove what nobody needs. keep: how many builds of each recipe are needed.

    answers: also the stored answers of models. dry_run: only say what would be removed. Raises
    `UsageError` if another process does the same.
    """
    store.check_writable()
    if not store.try_lock(ALONE):
        raise UsageError(f"{store.holder(ALONE)} is making room in this store", fix="wait for it")
    try:
        return _collect(store, keep, answers, dry_run, progress)
    finally:
        store.unlock(ALONE)


def _collect(
    store: Store, keep: int, answers: bool, dry_run: bool, progress: Callable[[str], None]
) -> Collected:
    catalogue, collected = Catalogue(store), Collected()
    runs = store.root / "runs"
    progress("looking at the store")
    with gate(store.root, alone=True) as alone:
        using = read_uses(store.root, alone)
        stock = take_stock(store, keep, using)
        collected.builds = stock.builds
        collected.runs = len(stock.old_runs), sum(size_of(runs / run) for run in stock.old_runs)
        unneeded = stock.unneeded()
        if not dry_run:
            for run in stock.old_runs:  # first, since a full disk has no room for a transaction
                shutil.rmtree(runs / run, ignore_errors=True)
            catalogue.forget(unneeded, stock.gone)
    kept = [outputs for key, outputs in stock.results.items() if key in stock.needed]
    kept.append({m.digest: m for m in using.inputs})
    needed = {digest for outputs in kept for digest in blobs_of(outputs)}
    owners: dict[str, Owner] = {}
    for key in unneeded:
        owner = stock.owner(key)._replace(used="")
        collected.steps.setdefault(owner, [0, 0])[0] += 1
        owners.update(dict.fromkeys(blobs_of(stock.results[key]), owner))
    old: list[Blob] = []
    for blob in blobs_in(store):
        if blob.digest in needed or blob.changed >= using.since:
            collected.kept += blob.size
            continue
        old.append(blob)
        counts = collected.steps[owners[blob.digest]] if blob.digest in owners else None
        if counts is None:
            counts = collected.unfinished
            counts[0] += 1
        counts[1] += blob.size
    for start in range(0, 0 if dry_run else len(old), BATCH):
        progress(f"removing files, {start:,} of {len(old):,}")
        some = old[start : start + BATCH]
        with gate(store.root, alone=True):
            _each_of(some, lambda blob: _remove_blob(blob, using.since))
        catalogue.forget_blobs(blob.digest for blob in some)
    if not dry_run:
        catalogue.forget_remote()
    collected.scratch = store.sweep_scratch(stock.started, remove=not dry_run)
    recipes = [path for name, path in stock.recipes.items() if name not in stock.gone]
    for folder in unused_environments(recipes, store.root):
        held = size_of(folder)
        if dry_run or remove_environment(folder):
            count, total = collected.environments
            collected.environments = count + 1, total + held
    _collect_quietly(store, stock, collected, answers=answers, dry_run=dry_run, progress=progress)
    return collected


def _each_of(some: Sequence[T], remove: Callable[[T], None]) -> None:
    """Remove some files. Several at once, since some disks take milliseconds for each."""
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(remove, some))


def _remove_blob(blob: Blob, since: int) -> None:
    with suppress(FileNotFoundError):
        if os.stat(blob.path, follow_symlinks=False).st_ctime_ns < since:
            os.unlink(blob.path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _collect_quietly(
    store: Store, stock: Stock, collected: Collected, *, answers: bool, dry_run: bool,
    progress: Callable[[str], None],
) -> None:  # fmt: skip
    """Remove what nobody can be seen to use, as long as no build has started."""
    catalogue = Catalogue(store)
    collected.is_disturbed = stock.builds > 0
    artifacts = {
        m.digest
        for key in stock.needed & stock.results.keys()
        for output in stock.results[key].values()
        for m in with_references(output)
    }
    views = [p for p in (store.root / "views").iterdir() if _digest_of(p) not in artifacts]
    locks = [_text(path.with_suffix(".lock")) for path in stock.recipes.values()]
    pinned = [p for p in (store.root / PINNED).glob("*") if not _is_pinned(p, locks)]
    collected.views = len(views)
    collected.pinned = len(pinned), sum(map(size_of, pinned))
    if answers:
        collected.answers = catalogue.answers()
    if dry_run:
        return
    paths = [*views, *pinned]
    for start in range(0, len(paths), BATCH):
        progress(f"removing links, {start:,} of {len(views):,}")
        with gate(store.root, alone=True) as alone:
            collected.is_disturbed |= not is_quiet(alone)
            if not collected.is_disturbed:
                _each_of(paths[start : start + BATCH], _remove)
    with gate(store.root, alone=True) as alone:
        collected.is_disturbed |= not is_quiet(alone)
        if not collected.is_disturbed:
            _prune_links(store.root, stock)
            if answers:
                catalogue.forget_answers()
            catalogue.shrink()
    if collected.is_disturbed:
        collected.views, collected.pinned, collected.answers = 0, (0, 0), (0, 0)


def _digest_of(view: Path) -> str:
    """The digest of the artifact that a view shows; empty if it shows none."""
    try:
        return msgspec.json.decode((view / MANIFEST).read_bytes(), type=Manifest).digest
    except (OSError, msgspec.DecodeError, UnicodeError):
        return ""


def _is_pinned(path: Path, locks: Collection[str]) -> bool:
    """Whether a lock file names pinned data, or it is new and may be of a check."""
    age = datetime.now(UTC).timestamp() - path.lstat().st_mtime
    return age < ABANDONED_DAYS * 86_400 or any(path.stem in text for text in locks)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _prune_links(root: Path, stock: Stock) -> None:
    """Remove links under `build/` whose outputs are gone, of all recipes of the store."""
    for folder in {project_folder(path) / "build" for path in stock.recipes.values()}:
        for entry in (each for recipe in folder.glob("*") for each in recipe.glob("*")):
            links = [entry] if entry.is_symlink() or not entry.is_dir() else [*entry.iterdir()]
            if not all(link.exists() for link in links):
                others = {path.name for path in entry.parent.iterdir()} - {entry.name}
                prune_links(root, entry.parent, others)
