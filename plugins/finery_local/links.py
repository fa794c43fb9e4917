"""Links in a model's folder: where they may lead.

A model from a stranger could link `tokenizer.json` to any file of this machine, which would then
be hashed, exported and shipped as a part of the model.
"""

from collections.abc import Iterable
from pathlib import Path

from finery import DataError


def check_links(root: Path, names: Iterable[str], *, follow: bool) -> None:
    """Raise `DataError` for a file that is a link to elsewhere, unless links are followed.

    In the hub's cache a snapshot's files are links to the blobs of their repository,
    `models--owner--name/blobs`, which are the model's own.
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
    repository = folder.parent.parent
    is_cached = folder.parent.name == "snapshots" and repository.name.startswith("models--")
    return [folder, repository / "blobs"] if is_cached else [folder]
