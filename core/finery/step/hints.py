"""What people write who come from other tools, and what to write instead."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from finery.errors import PluginError
from finery.step.inspect import full_name
from finery.util.references import load_reference

if TYPE_CHECKING:
    from finery.step.step import Step


class Hints(msgspec.Struct, frozen=True, kw_only=True):
    """Fixes for mistakes that the users of a step type are likely to make.

    A step type names its hints with a class keyword, `class Sft(Step, hints="shop.hints:SFT")`.
    They are read only after a mistake, change no output, and stay out of the step's key.

    settings: another name of a setting → the setting, e.g. `{"lr": "learning_rate"}`. A setting
    inside a group is written with a dot: `{"lora_r": "lora.r"}`.
    absent: a setting that other tools have and this step type lacks → what to do instead.
    called: other names of the step type, e.g. `("csv", "jsonl")`.
    value: (setting, wrong value) → the fix; None where it can't guess what was meant.
    text: text in the place of the whole step → the settings that it stands for, e.g.
    `"Qwen/Qwen3-4B"` → `{"repo": "Qwen/Qwen3-4B"}`; None where the text means something else.
    """

    settings: Mapping[str, str] = {}
    absent: Mapping[str, str] = {}
    called: tuple[str, ...] = ()
    value: Callable[[str, Any], str | None] | None = None
    text: Callable[[str], Mapping[str, str] | None] | None = None


def hints_of(cls: "type[Step]") -> Hints:
    """The hints of a step type. Raises `PluginError` where they can't be loaded."""
    reference = cls.__spec__.hints
    if not reference:
        return Hints()
    what = f"hints={reference!r} of {full_name(cls)}"
    try:
        hints = load_reference(reference)
    except Exception as error:
        raise PluginError(
            f"{what} can't be loaded: {type(error).__name__}: {error}",
            fix='name an object as "module:NAME"',
        ) from error
    if not isinstance(hints, Hints):
        raise PluginError(f"{what} is not a finery.Hints", fix="make it one: Hints(settings={…})")
    return hints
