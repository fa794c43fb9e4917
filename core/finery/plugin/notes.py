"""The kinds of notes that plugins declare, and those of finery itself."""

import msgspec


class About(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of note: `when` it is given, as half a sentence, and `why` it matters."""

    when: str
    why: str


OWN_NOTES = {
    "unset-variable": About(
        when="a step's `env:` names an environment variable that isn't set here",
        why="The build stops when it reaches the step.",
    ),
    "missing-gpu": About(
        when="a step's `gpus:` names a GPU that isn't visible here",
        why="The build stops when it reaches the step.",
    ),
    "missing-packages": About(
        when="a step needs Python packages that aren't installed here",
        why="The build stops when the step starts.",
    ),
    "plugin-version": About(
        when="another version of a plugin is installed than `recipe.lock` has",
        why="Its steps may give other results than those of whoever built them last.",
    ),
    "selected-on-test": About(
        when="the variants of a matrix are compared on the rows that then judge the best one",
        why="The best of many scores is partly luck, so on the rows that it was chosen by it is "
        "too high. Rows that had no part in the choice give an honest one.",
    ),
    "different-rows": About(
        when="an axis of a matrix changes the rows that the variants are judged on",
        why="Scores on different rows can't be compared: one set of rows may be easier. Keep the "
        "rows to judge on apart, and let the axis change only the rows to train on.",
    ),
    "unreleased": About(
        when="a model comes from a release that doesn't exist yet",
        why="Steps that list it run without it, and requirements that name it aren't checked.",
    ),
    "not-reusable": About(
        when="a running step reads something that changes before it ends, or that finery can't "
        "compare later",
        why="What a step reads is part of its result. Nobody knows which state of it this result "
        "was made from, so the next build runs the step again.",
    ),
}
"""The kinds of notes that finery itself gives."""
