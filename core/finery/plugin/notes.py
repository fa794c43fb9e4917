"""What plugins say about a recipe before it is built: notes, and estimates of what steps take."""

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from finery.plugin.manager import Plugins


class About(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of note: `when` it is given, as half a sentence, and `why` it matters."""

    when: str
    why: str


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Advice on a recipe.

    name: of this kind of note, declared in the plugin's `finery_notes`; recipes silence it by it.
    text: what there is to say, in a line. fix: what to write. step: the step it is about, if it is
    about one. place: where the recipe has it, e.g. `("train", "sft", "epochs")`; default: the step.
    reason: why it matters; default: the `why` of its kind.
    """

    name: str
    text: str
    fix: str = ""
    step: str = ""
    place: tuple[str | int, ...] = ()
    reason: str = ""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a step will take: `lines` for people, and the same as numbers in `facts`.

    warning: why it can't run here, e.g. for want of memory; fix: what to write instead.
    """

    step: str
    lines: list[str]
    facts: dict[str, Any] = {}
    warning: str = ""
    fix: str = ""


OWN_NOTES = {
    "unset-variable": About(
        when="a step's `env:` names an environment variable that isn't set here",
        why="The build stops where the step is about to start.",
    ),
    "missing-packages": About(
        when="a step needs Python packages that aren't installed here",
        why="The build stops when the step starts.",
    ),
    "undeclared-read": About(
        when="a running step opens a file of the project, or imports code beside the recipe, that "
        "isn't part of its key",
        why="When that file changes, the step doesn't rerun, and its output is out of date.",
    ),
}
"""The kinds of notes that finery itself gives."""


def known_notes(plugins: "Plugins") -> dict[str, About]:
    """Every kind of note that may be given here, by name."""
    return {name: about for name, (about, _) in plugins.notes.items()}
