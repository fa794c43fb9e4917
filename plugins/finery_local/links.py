"""Links in a model's folder: where they may lead.

A model from a stranger could link `tokenizer.json` to any file of this machine, which would then
be hashed, exported and shipped as a part of the model.
"""

from collections.abc import Iterable
from pathlib import Path

from finery import DataError


def check_links(root: Path, names: Iterable[str], *, follow: bool) -> None:
    """Raise `DataError` for a file that is a link to elsewhere, unless links are followed.

    Two places keep a model's own files elsewhere: the hub's cache, where a snapshot links to the
    blobs of its repository (`models--owner--name/blobs`), and a finery build, which links to its
    store.
    """
    if follow:
        return
    inside = _own_folders(root)
    for name in sorted(names):
        try:
            target = (root / name).resolve()
        except (OSError, RuntimeError):  # RuntimeError: links in a circle
            continue  # it isn't a file, as whoever opens it reports
        if not any(target.is_relative_to(folder) for folder in inside):
            raise DataError(
                f"{name} is a link to a file outside the model's folder: {target}",
                where=str(root / name),
                fix="copy the file into the folder; if you trust where the link leads, set "
                "follow_links: true",
            )


def _own_folders(root: Path) -> list[Path]:
    folder = root.resolve()
    parent, place = folder.parent, folder.parent.parent
    if parent.name == "snapshots" and place.name.startswith("models--"):
        return [folder, (place / "blobs").resolve()]
    return [folder, place] if (place.name, parent.name) == (".finery", "views") else [folder]
