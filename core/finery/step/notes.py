"""What a step, or a plugin, says of a recipe before it is built: notes and estimates."""

from typing import Any

import msgspec


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Advice on a recipe.

    name: the kind of note, declared in the plugin's `finery_notes`. Recipes silence it by this
        name.
    text: the note, in one line. fix: what to write.
    step: the step that it is about, if any; of a step's own notes, that step. place: its place in
        the recipe, e.g. `("train", "sft", "epochs")`; default: the step.
    reason: why it matters; default: the `why` of its kind.
    """

    name: str
    text: str
    fix: str = ""
    step: str = ""
    place: tuple[str | int, ...] = ()
    reason: str = ""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """The requirements of a step: `lines` for people, and the same numbers in `facts`.

    warning: why it can't run here, e.g. because memory is too small. fix: what to change. `|` joins
    two estimates of a step, with the first warning.
    """

    lines: list[str]
    facts: dict[str, Any] = {}
    warning: str = ""
    fix: str = ""

    def __or__(self, other: "Estimate") -> "Estimate":
        lines, facts = [*self.lines, *other.lines], {**self.facts, **other.facts}
        return msgspec.structs.replace(self if self.warning else other, lines=lines, facts=facts)
