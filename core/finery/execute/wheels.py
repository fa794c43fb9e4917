"""finery and its plugins as wheels, so that another environment gets the code that runs here."""

import csv
import os
from pathlib import Path
from zipfile import ZipFile

from blake3 import blake3

from finery.plugin.discovery import GROUP
from finery.util.installed import Distribution, distributions, entry_points

_EXCLUDED_METADATA = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json")
"""Files of metadata that an installer writes."""


def own_distributions() -> list[Distribution]:
    """finery's distribution and those of installed plugins, sorted by name."""
    plugin_distributions = {entry.distribution for entry in entry_points(GROUP)}
    return sorted({*plugin_distributions, *filter(None, [distributions().get("finery")])})


def own_digest() -> str:
    """Changes when one of them is installed anew with other files."""
    records = (distribution.read("RECORD") for distribution in own_distributions())
    return blake3("\0".join(records).encode()).hexdigest()


def make_requirement(distribution: Distribution, folder: Path) -> str:
    """How pip and uv get exactly this distribution: `finery @ file:///…`, a wheel in `folder`.

    It has the installed files. Of an editable installation, that is the link to its source, and
    the wheel makes such a link, too. One whose installer left no list of files must be on an index.
    """
    name, version = distribution.name, distribution.version
    metadata = Path(distribution.folder)
    rows = [row for row in csv.reader(distribution.read("RECORD").splitlines()) if row]
    if not rows:
        return f"{name}=={version}"
    lines = (metadata / "WHEEL").read_text(encoding="utf-8").splitlines()
    tag = next(line.removeprefix("Tag:").strip() for line in lines if line.startswith("Tag:"))
    path = folder / f"{metadata.name.removesuffix('.dist-info')}-{tag}.whl"
    record = f"{metadata.name}/RECORD"
    with ZipFile(path, "w", strict_timestamps=False) as wheel:
        packed = [file for file, *_ in rows if _is_packed(file, metadata.name)]
        for file in packed:
            wheel.write(metadata.parent / file, file)
        wheel.writestr(record, "".join(f'"{file}",,\n' for file in (*packed, record)))
    return f"{name} @ {path.as_uri()}"


def _is_packed(file: str, metadata: str) -> bool:
    """Whether a wheel has a file: not scripts, which are made anew, nor compiled code."""
    written_later = [f"{metadata}/{name}" for name in _EXCLUDED_METADATA]
    outside = file.startswith("..") or os.path.isabs(file)
    return not outside and not file.endswith(".pyc") and file not in written_later
