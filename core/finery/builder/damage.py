"""Examines every record, blob and link of a store, and repairs what it can.

A damaged blob is removed, and so are the results that need it: their steps run again. A running
build isn't disturbed more than by the damage itself.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

from finery.artifact.manifest import Manifest, is_sound, with_references
from finery.builder.garbage import blob_sizes, blobs_in, take_stock
from finery.store.catalogue import Catalogue
from finery.store.database import Store
from finery.store.links import is_whole_view, open_view
from finery.store.uses import gate
from finery.util.files import hash_file
from finery.util.paths import project_folder


def repair(store: Store, progress: Callable[[str], None]) -> Iterator[str]:
    """What was damaged, in words, with what was done about it."""
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
