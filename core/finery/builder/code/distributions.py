"""What installed distributions hold and require.

Read of all of them at once, which takes a tenth of a second.
"""

import os
import re
from collections.abc import Collection, Iterator

import msgspec
from blake3 import blake3

from finery.util.installed import Distribution, distributions, module_owners, normalise_name

_REQUIREMENT = re.compile(r"Requires-Dist: *([\w.-]+) *(?:\[([^]]*)\])?([^;]*)(?:;(.*))?$")
_EXTRA = re.compile(r"""extra *== *['"]([\w.-]+)['"]""")


class Installed(msgspec.Struct, frozen=True, array_like=True):
    """The contents of an environment.

    owners: top-level module → the distributions with a part of it. requires: distribution → what it
    requires: (name, extras of that, the extra of its own that this belongs to, or empty). records:
    distribution that isn't from an index → digest of its files, since its version may stay.
    """

    owners: dict[str, list[str]]
    requires: dict[str, list[tuple[str, list[str], str]]]
    records: dict[str, str]


def read_installed() -> Installed:
    """What is installed in this environment."""
    everything = distributions().values()
    digests = {distribution.name: distribution.record_digest() for distribution in everything}
    return Installed(
        module_owners(),
        {distribution.name: [*_requirements(distribution)] for distribution in everything},
        {name: digest for name, digest in digests.items() if digest},
    )


def distribution_files(distribution: Distribution) -> Iterator[tuple[str, str]]:
    """(label, path) of the files of a distribution by its own list, without metadata and caches."""
    parent, metadata_folder = os.path.split(distribution.folder)
    for label in distribution.files():
        path = f"{parent}/{label}"
        is_excluded = label.startswith(("..", metadata_folder)) or label.endswith((".pth", ".pyc"))
        if not is_excluded and os.path.isfile(path):
            yield label, path


def registry_digest() -> str:
    """A digest of the names, versions and entry points of all distributions."""
    everything = sorted(distributions().values(), key=lambda distribution: distribution.name)
    facts = [
        (distribution.name, distribution.version, distribution.read("entry_points.txt"))
        for distribution in everything
    ]
    return blake3(msgspec.msgpack.encode(facts)).hexdigest()


def unlisted_files(files: Collection[str]) -> list[str]:
    """The files among these that belong to no distribution."""
    unowned = {*files}
    for distribution in distributions().values():
        parent, record = os.path.dirname(distribution.folder), distribution.read("RECORD")
        # Most lists name none of them, and to search a text takes less than to split it.
        if any(file.removeprefix(f"{parent}/") in record for file in unowned):
            unowned -= {os.path.join(parent, file) for file in distribution.files()}
    return sorted(unowned)


def _requirements(distribution: Distribution) -> Iterator[tuple[str, list[str], str]]:
    text = distribution.read("METADATA") or distribution.read("PKG-INFO")
    for line in text.partition("\n\n")[0].splitlines():
        if requirement := _REQUIREMENT.match(line):
            name, extras, _, marker = requirement.groups()
            extra_marker = _EXTRA.search(marker or "")
            needed_extras = [
                normalise_name(e.strip()) for e in (extras or "").split(",") if e.strip()
            ]
            yield (
                normalise_name(name),
                needed_extras,
                normalise_name(extra_marker[1]) if extra_marker else "",
            )
