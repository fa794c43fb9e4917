"""Changes that don't matter, as `recipe.lock` lists them: a line for each changed part of a key.

Only what may change while a step means the same can be accepted: code, packages, the machine.
"""

from typing import Any

import msgspec
import yaml
from msgspec import UNSET

from finery.util.text import visible

ACCEPTED_KEY = "accepted"
"""The list's name in `recipe.lock`."""
ACCEPTABLE_PREFIXES = ("code ", "engine ", "machine ", "package ")
ACCEPTABLE_PARTS = ("class", "python", "wrappers")
"""Parts of keys that may be accepted, and the beginnings of others."""


class Accepted(
    msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A change that doesn't matter to the steps of a type (`use`): a part of their keys.

    old and new: its values; UNSET if the part is new, or is gone.
    group: a text that changes have in common which were accepted together; empty for a single one.
    """

    part: str
    old: Any = UNSET
    new: Any = UNSET
    use: str = msgspec.field(name="for")
    group: str = msgspec.field(name="with", default="")

    @property
    def name(self) -> str:
        """The same for all changes of its group."""
        return self.group or self.line()

    def line(self) -> str:
        """Its line in `recipe.lock`, whatever is in its texts."""
        written: str = yaml.dump(
            msgspec.to_builtins(self), Dumper=_LineDumper, default_flow_style=True,
            sort_keys=False, width=float("inf"), allow_unicode=True,
        )  # fmt: skip
        return f"- {written}"


def is_acceptable(part: str) -> bool:
    """Whether a change of this part of a key may be accepted."""
    return part in ACCEPTABLE_PARTS or part.startswith(ACCEPTABLE_PREFIXES)


def read_accepted(entry: Any) -> Accepted:
    """An entry of a lock file. Raises `ValueError` if it isn't one."""
    read = msgspec.convert(entry, Accepted)
    if not is_acceptable(read.part):
        raise ValueError(f"a change of '{visible(read.part)}' can't be accepted")
    if read.old is UNSET and read.new is UNSET:
        raise ValueError("an accepted change needs `old` or `new`")
    return read


class _LineDumper(yaml.SafeDumper):
    """Writes each text in one line."""


_LineDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"'
    ),
)
