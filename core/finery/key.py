"""What a step type or an engine adds to the keys of its results."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from finery.errors import PluginError


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a key beside settings, inputs and the code of a class. `|` joins two of them.

    packages: distributions whose version counts.
    code: more code: functions, classes, names of modules, and files as `Path`. Files that aren't
        Python, such as texts that the plugin ships, count by their bytes. For settings that select
        code.
    facts: of this machine, if they can change the output, e.g. the dtype that it computes in.
    watched: absolute paths of files and folders outside finery's environment that decide `facts`.
        They need not exist: a path where a program may be installed is one, too. If they, the PATH
        and all `FINERY_` variables are unchanged, finery takes the facts to be unchanged.
    seeded: whether the seed can change the output. If not, the step gets none.
    gpus: whether the output depends on how many GPUs the step gets, if these are more than one.
    schemas: whether its models may have to answer by a JSON Schema; only then are the packages that
        hold answers to one (`Engine.schema_packages`) in the key. False makes a request with one
        fail.
    """

    packages: Sequence[str] = ()
    code: Sequence[Any] = ()
    facts: Mapping[str, Any] = {}
    watched: Sequence[str] = ()
    seeded: bool = False
    gpus: bool = False
    schemas: bool = False

    def __or__(self, other: "Key") -> "Key":
        """Both; `PluginError` if they give a fact different values."""
        for name in self.facts.keys() & other.facts.keys():
            if self.facts[name] != other.facts[name]:
                raise PluginError(
                    f"two parts of a key give the fact '{name}' different values: "
                    f"{self.facts[name]!r:.60} and {other.facts[name]!r:.60}",
                    fix="give one of the facts another name in `cache_key`",
                )
        return Key(
            packages=(*self.packages, *other.packages),
            code=(*self.code, *other.code),
            facts={**self.facts, **other.facts},
            watched=(*self.watched, *other.watched),
            seeded=self.seeded or other.seeded,
            gpus=self.gpus or other.gpus,
            schemas=self.schemas or other.schemas,
        )
