"""Terms of other tools, and what a recipe calls them: `aliases.yaml`.

A plugin package can have such a file next to its `__init__.py`, with an entry for each step type's
class or base class. It is read only after a mistake, and isn't part of any key:

    Sft:
      settings: {learning_rate: [lr], lora.r: [lora_r]}
      absent: {"remove it: outputs are in build/": [output_dir]}
      called: [finetune]
      values: {dtype: {"write dtype: bf16": [bfloat16]}}
      text: {path: '\\S+\\.csv'}
"""

import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import yaml

from finery.errors import PluginError
from finery.step.step import Step

FILE = "aliases.yaml"


class Aliases(msgspec.Struct, forbid_unknown_fields=True):
    """Fixes for likely mistakes of the users of a step type.

    settings: setting → its names elsewhere; one inside a group is written with a dot, `lora.r`.
    absent: what to do instead → settings of other tools that this step type lacks.
    called: other names of the step type.
    values: setting, or `setting.*` → what to do instead → patterns of its wrong values. `\\1` in
    the text is the first group of the pattern.
    text: setting → pattern of a text that gives this setting when it replaces the whole step.
    """

    settings: dict[str, list[str]] = {}
    absent: dict[str, list[str]] = {}
    called: list[str] = []
    values: dict[str, dict[str, list[str]]] = {}
    text: dict[str, str] = {}

    def setting_meant(self, name: str) -> str | None:
        """The setting that is called `name` elsewhere."""
        return next((s for s, names in self.settings.items() if name in names), None)

    def instead_of(self, name: str) -> str | None:
        """The fix for a setting that only other tools have."""
        return next((fix for fix, names in self.absent.items() if name in names), None)

    def value_fix(self, label: str, value: Any) -> str | None:
        """The fix for a wrong value of a setting, e.g. `lora.r` or `quantization[0]`."""
        name = re.sub(r"\[\d+\]", "", label)
        for key in (name, f"{name.partition('.')[0]}.*"):
            for fix, patterns in self.values.get(key, {}).items():
                for pattern in patterns:
                    if match := re.fullmatch(pattern, str(value), re.IGNORECASE):
                        return match.expand(fix)
        return None

    def settings_of(self, text: str) -> dict[str, str] | None:
        """The settings that a bare text in place of a step means."""
        for setting, pattern in self.text.items():
            if match := re.fullmatch(pattern, text):
                return {setting: match[1] if match.re.groups else text}
        return None


def aliases_of(cls: type[Step] | None) -> Aliases:
    """The aliases of a step type and its bases. Raises `PluginError` for a file that is wrong."""
    merged = Aliases()
    for base in cls.__mro__ if cls is not None else ():  # the class first: its entries count first
        entry = _entries(base.__module__.partition(".")[0]).get(base.__name__)
        if entry is None:
            continue
        own = {n for names in (*merged.settings.values(), *merged.absent.values()) for n in names}
        for mine, theirs in ((merged.settings, entry.settings), (merged.absent, entry.absent)):
            for meant, names in theirs.items():
                mine[meant] = [*mine.get(meant, ()), *(n for n in names if n not in own)]
        merged.called = merged.called or entry.called
        merged.values = entry.values | merged.values
        merged.text = merged.text or entry.text
    return merged


@lru_cache
def _entries(package: str) -> dict[str, Aliases]:
    """Class → its aliases, from the file of a package."""
    for folder in getattr(sys.modules.get(package), "__path__", ()):
        file = Path(folder, FILE)
        if file.is_file():
            try:
                content = yaml.safe_load(file.read_text(encoding="utf-8"))
                return msgspec.convert(content, dict[str, Aliases])
            except (ValueError, yaml.YAMLError) as error:
                raise PluginError(
                    f"can't read the aliases of {package}: {error}",
                    where=str(file),
                    fix="see finery.recipe.hints.aliases for its form",
                ) from error
    return {}
