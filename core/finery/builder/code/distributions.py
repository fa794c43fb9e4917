"""What installed distributions hold and require.

Read of all of them at once, which takes a tenth of a second.
"""

import os
import re
from collections.abc import Collection, Iterator
from functools import lru_cache

import msgspec
from blake3 import blake3

from finery.util.installed import Distribution, distributions, entry_points, normalised

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
    owners: dict[str, list[str]] = {}
    for each in everything:
        for top in modules_of(each):
            owners.setdefault(top, []).append(each.name)
    requires = {each.name: [*_requirements(each)] for each in everything}
    return Installed(
        owners, requires, {d.name: _record_digest(d) for d in everything if _is_direct(d)}
    )


def modules_of(distribution: Distribution) -> set[str]:
    """The top-level modules of a distribution, by its list of files; incomplete if editable."""
    tops = {*_read(distribution, "top_level.txt").split()}
    for line in _read(distribution, "RECORD").splitlines():
        first, slash, _ = line.partition(",")[0].strip('"').partition("/")
        name, _, suffix = first.partition(".")
        is_module = (slash and not suffix) or suffix.endswith(("py", "so", "pyd", "pyc"))
        if is_module and name.isidentifier() and name != "__pycache__":
            tops.add(name)
    return tops


def files_of(distribution: Distribution) -> Iterator[tuple[str, str]]:
    """(label, path) of the files of a distribution by its own list, without metadata and caches."""
    parent, own = os.path.split(distribution.folder)
    for line in _read(distribution, "RECORD").splitlines():
        label = line.partition(",")[0].strip('"')
        path = f"{parent}/{label}"
        is_aside = label.startswith(("..", own)) or label.endswith((".pth", ".pyc"))
        if not is_aside and os.path.isfile(path):
            yield label, path


def registry() -> str:
    """A digest of the names, versions and entry points of all distributions."""
    everything = sorted(distributions().values(), key=lambda each: each.name)
    facts = [(each.name, each.version, _read(each, "entry_points.txt")) for each in everything]
    return blake3(msgspec.msgpack.encode(facts)).hexdigest()


def unlisted(files: Collection[str]) -> list[str]:
    """The files among these that belong to no distribution."""
    listed = {
        os.path.join(os.path.dirname(each.folder), line.partition(",")[0])
        for each in distributions().values()
        for line in _read(each, "RECORD").splitlines()
    }
    return sorted({*files} - listed)


@lru_cache(maxsize=1)
def plugin_modules() -> dict[str, Distribution]:
    """Top-level module → the distribution with plugins that it belongs to."""
    tops: dict[str, Distribution] = {}
    for entry in entry_points("finery"):
        names = {entry.value.partition(":")[0].partition(".")[0]}
        if entry.distribution.name != "finery":
            names |= modules_of(entry.distribution)
        tops |= dict.fromkeys(names, entry.distribution)
    return tops


def _read(distribution: Distribution, name: str) -> str:
    try:
        with open(f"{distribution.folder}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _is_direct(distribution: Distribution) -> bool:
    """Whether it comes from a folder, an archive or a repository, by PyPA's `direct_url.json`."""
    return os.path.exists(f"{distribution.folder}/direct_url.json")


def _record_digest(distribution: Distribution) -> str:
    """A digest of the digests of its files, without those that differ by environment."""
    lines = _read(distribution, "RECORD").splitlines()
    own = os.path.basename(distribution.folder)
    files = sorted(line for line in lines if not line.startswith(("..", own)))
    return blake3("\n".join(files).encode()).hexdigest()


def _requirements(distribution: Distribution) -> Iterator[tuple[str, list[str], str]]:
    text = _read(distribution, "METADATA") or _read(distribution, "PKG-INFO")
    for line in text.partition("\n\n")[0].splitlines():
        if found := _REQUIREMENT.match(line):
            name, extras, _, marker = found.groups()
            own = _EXTRA.search(marker or "")
            wanted = [normalised(e.strip()) for e in (extras or "").split(",") if e.strip()]
            yield normalised(name), wanted, normalised(own[1]) if own else ""
