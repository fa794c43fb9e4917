"""What the store contains, for whom, and how to remove what nobody needs.

**Needed** are the results of the last builds of each recipe, the last result of each of its steps,
pinned results, and all that running builds use (`finery.store.uses`), with the scratch of steps
that those builds started. A recipe whose file is gone counts for another 30 days after its last
build, since it may be on another branch.

**Killed at any moment**, a collection leaves a valid store: it removes old runs, then the results
that nobody needs in one transaction, and then files that no result has. The next one continues.

It takes time linear in the number of results, views and blobs. A shared store has its own rule, by
age: `finery.store.remote.expire`.
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

from finery.artifact.manifest import MANIFEST, Manifest, is_sound, with_references
from finery.builder.runs import Run, read_run, run_ids
from finery.errors import FineryError, UsageError
from finery.execute.venv import remove_environment, unused_environments
from finery.recipe.document import load
from finery.recipe.releases import RELEASES_FILE, Releases
from finery.store.catalogue import Catalogue
from finery.store.database import ABANDONED_DAYS, HEX, KEY_DIGITS, Store
from finery.store.links import is_whole_view, open_view, prune_links
from finery.store.uses import InUse, gate, is_quiet, read_uses
from finery.util.files import hash_file, size_of, text_or_empty
from finery.util.paths import PINNED_FOLDER, project_folder

T = TypeVar("T")
REMOVAL_BATCH = 200
"""Files that are removed at once while no build passes the gate: some milliseconds."""
PRUNING_KEY = "0" * KEY_DIGITS
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
    gone: recipes to forget. recipes: name → its file. builds: running builds.
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

    def owner(self, key: str) -> Owner:
        """Whose result it is, as far as that is known."""
        return self.owners.get(key) or Owner("", "")


def blob_sizes(outputs: Mapping[str, Manifest]) -> dict[str, int]:
    """Digest → bytes of all blobs of some outputs, and of what they refer to."""
    artifacts = (m for output in outputs.values() for m in with_references(output))
    return {digest: size for m in artifacts for digest, size in m.files.values()}


def own_bytes(store: Store, stock: Stock, on_disk: dict[str, int]) -> dict[str, int]:
    """Key → bytes of the blobs that count as its own, those that were used last first.

    A blob counts once: for a result that is needed, if one has it, and there for one that made it
    instead of taking it from an input. on_disk: digest → bytes; blobs of results are removed.
    """
    built = {m.digest: m for outputs in stock.results.values() for m in outputs.values()}
    totals = dict.fromkeys(
        sorted(stock.results, key=lambda k: stock.owner(k).used, reverse=True), 0
    )
    own_digests = {}
    for key in totals:
        parts = store.parts_of(key) or ()
        inputs = {value for name, value in parts if name.startswith("input ")} & built.keys()
        input_blobs = blob_sizes({digest: built[digest] for digest in inputs})
        own_digests[key] = blob_sizes(stock.results[key]).keys() - input_blobs.keys()
    for is_needed, counts_inputs in ((True, False), (True, True), (False, False), (False, True)):
        for key in totals:
            if (key in stock.needed) is is_needed:
                digests = blob_sizes(stock.results[key]) if counts_inputs else own_digests[key]
                totals[key] += sum(on_disk.pop(digest, 0) for digest in digests)
    return totals


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
    for folder in {path.parent for path in stock.recipes.values()}:
        stock.needed |= Releases(folder / RELEASES_FILE).keys()
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
        categories = (self.unfinished, self.scratch, self.environments, self.runs, self.pinned)
        return sum(size for _, size in (*self.steps.values(), *categories, self.answers))


def collect(
    store: Store, keep: int, *, answers: bool = False, dry_run: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Collected:  # fmt: skip
    """Remove what nobody needs. keep: how many builds of each recipe are needed.

    answers: also the stored answers of models. dry_run: only say what would be removed. Raises
    `UsageError` if another process does the same.
    """
    store.check_writable()
    if not store.try_lock(PRUNING_KEY):
        raise UsageError(
            f"{store.holder(PRUNING_KEY)} is making room in this store", fix="wait for it"
        )
    try:
        return _collect(store, keep, answers, dry_run, progress)
    finally:
        store.unlock(PRUNING_KEY)


def _collect(
    store: Store, keep: int, answers: bool, dry_run: bool, progress: Callable[[str], None]
) -> Collected:
    catalogue, collected = Catalogue(store), Collected()
    runs = store.root / "runs"
    progress("looking at the store")
    with gate(store.root, alone=True) as gate_file:
        uses = read_uses(store.root, gate_file)
        stock = take_stock(store, keep, uses)
        collected.builds = stock.builds
        collected.runs = len(stock.old_runs), sum(size_of(runs / run) for run in stock.old_runs)
        unneeded = [key for key in stock.results if key not in stock.needed]
        if not dry_run:
            for run in stock.old_runs:  # first, since a full disk has no room for a transaction
                shutil.rmtree(runs / run, ignore_errors=True)
            catalogue.forget(unneeded, stock.gone)
    needed_outputs = [outputs for key, outputs in stock.results.items() if key in stock.needed]
    needed_outputs.append({m.digest: m for m in uses.inputs})
    needed = {digest for outputs in needed_outputs for digest in blob_sizes(outputs)}
    owners: dict[str, Owner] = {}
    for key in unneeded:
        owner = stock.owner(key)._replace(used="")
        collected.steps.setdefault(owner, [0, 0])[0] += 1
        owners.update(dict.fromkeys(blob_sizes(stock.results[key]), owner))
    unneeded_blobs: list[Blob] = []
    for blob in blobs_in(store):
        if blob.digest in needed or blob.changed >= uses.since:
            collected.kept += blob.size
            continue
        unneeded_blobs.append(blob)
        counts = collected.steps[owners[blob.digest]] if blob.digest in owners else None
        if counts is None:
            counts = collected.unfinished
            counts[0] += 1
        counts[1] += blob.size
    for start in range(0, 0 if dry_run else len(unneeded_blobs), REMOVAL_BATCH):
        progress(f"removing files, {start:,} of {len(unneeded_blobs):,}")
        batch = unneeded_blobs[start : start + REMOVAL_BATCH]
        with gate(store.root, alone=True):
            _remove_all(batch, lambda blob: _remove_blob(blob, uses.since))
        catalogue.forget_blobs(blob.digest for blob in batch)
    if not dry_run:
        catalogue.forget_remote()
    collected.scratch = store.sweep_scratch(stock.started, remove=not dry_run)
    recipes = [path for name, path in stock.recipes.items() if name not in stock.gone]
    for folder in unused_environments(recipes, store.root):
        folder_bytes = size_of(folder)
        if dry_run or remove_environment(folder):
            count, total = collected.environments
            collected.environments = count + 1, total + folder_bytes
    _collect_quietly(store, stock, collected, answers=answers, dry_run=dry_run, progress=progress)
    return collected


def _remove_all(files: Sequence[T], remove: Callable[[T], None]) -> None:
    """Remove some files. Several at once, since some disks take milliseconds for each."""
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(remove, files))


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
    locks = [text_or_empty(path.with_suffix(".lock")) for path in stock.recipes.values()]
    pinned = [p for p in (store.root / PINNED_FOLDER).glob("*") if not _is_pinned(p, locks)]
    collected.views = len(views)
    collected.pinned = len(pinned), sum(map(size_of, pinned))
    if answers:
        collected.answers = catalogue.answers()
    if dry_run:
        return
    paths = [*views, *pinned]
    for start in range(0, len(paths), REMOVAL_BATCH):
        progress(f"removing links, {start:,} of {len(views):,}")
        with gate(store.root, alone=True) as alone:
            collected.is_disturbed |= not is_quiet(alone)
            if not collected.is_disturbed:
                _remove_all(paths[start : start + REMOVAL_BATCH], _remove)
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


def _prune_links(root: Path, stock: Stock) -> None:
    """Remove links under `build/` whose outputs are gone, of all recipes of the store."""
    for folder in {project_folder(path) / "build" for path in stock.recipes.values()}:
        for entry in (
            step_folder for recipe in folder.glob("*") for step_folder in recipe.glob("*")
        ):
            links = [entry] if entry.is_symlink() or not entry.is_dir() else [*entry.iterdir()]
            if not all(link.exists() for link in links):
                other_names = {path.name for path in entry.parent.iterdir()} - {entry.name}
                prune_links(root, entry.parent, other_names)


# -- repairs --------------------------------------------------------------------------------------


def repair(store: Store, progress: Callable[[str], None]) -> Iterator[str]:
    """Examine every record, blob and link; what was damaged, in words, and what was done about it.

    A damaged blob is removed, and so are the results that need it: their steps run again. A running
    build isn't disturbed more than by the damage itself.
    """
    store.check_writable()
    catalogue = Catalogue(store)
    if damage := catalogue.damage():
        yield f"the database was damaged ({damage}) and replaced by one with all readable data"
    stock = take_stock(store, keep=1)
    [*catalogue.everything()]
    damaged = dict.fromkeys(catalogue.undecodable, "its record can't be read")
    for key, outputs in stock.results.items():
        if not all(map(is_sound, outputs.values())) or store.parts_of(key) is None:
            damaged[key] = "its record was changed"
    intact = set[str]()
    for number, blob in enumerate(blobs_in(store)):
        if number % 100 == 0:
            progress(f"reading files, {number:,}")
        try:
            if hash_file(store.blob(blob.digest)) == blob.digest:
                intact.add(blob.digest)
                continue
        except OSError as error:
            yield f"{blob.path} can't be read ({error.strerror})"
            continue
        with gate(store.root, alone=True), suppress(FileNotFoundError):
            if os.stat(blob.path, follow_symlinks=False).st_ctime_ns != blob.changed:
                intact.add(blob.digest)  # a build has just replaced it
                continue
            os.unlink(blob.path)
        yield f"{blob.path} had other content, and was removed"
    for key, outputs in stock.results.items():
        missing = [d for d in blob_sizes(outputs) if d not in intact and not store.shared.has(d)]
        if not all(store.blob(digest).exists() for digest in missing):
            damaged.setdefault(key, "a file of its output is missing or was damaged")
    for key, damage_reason in damaged.items():
        owner = stock.owner(key)
        name = f"{owner.recipe} {owner.step}".strip() or "a step"
        yield f"{name} ({key[:12]}): {damage_reason}; the step runs again when it is needed"
    catalogue.forget(damaged)
    yield from _repair_views(store, {k: m for k, m in stock.results.items() if k not in damaged})


def _repair_views(store: Store, results: dict[str, dict[str, Manifest]]) -> Iterator[str]:
    tops = {project_folder(path) / "build" for path in store.recipes().values()}
    paths = (path for top in tops for depth in ("*/*", "*/*/*") for path in top.glob(depth))
    linked_views, checked = (
        {os.path.basename(os.readlink(p)) for p in paths if p.is_symlink()},
        set[str](),
    )
    for outputs in results.values():
        for manifest in (m for output in outputs.values() for m in with_references(output)):
            folder = store.root / "views" / manifest.view
            is_missing = not os.path.lexists(folder)
            is_elsewhere = not store.shared.is_here([manifest])
            if (
                manifest.view in checked
                or is_elsewhere
                or (is_missing and manifest.view not in linked_views)
            ):
                continue
            checked.add(manifest.view)
            if not is_whole_view(store.root, manifest):
                open_view(store.root, manifest)
                yield f"{folder} {'was missing' if is_missing else 'was changed'}, and was restored"
