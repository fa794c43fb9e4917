"""What plugins say about a recipe before it is built: notes, and estimates of what steps take."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from finery.artifacts import Artifact

if TYPE_CHECKING:
    from finery.artifacts import Model
    from finery.engine import Request, Sampling
    from finery.manifest import Manifest, Result
    from finery.plugins import Plugins
    from finery.store import Store

LOOKED_UP = 512
"""Records that are looked up together."""


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
    )
}
"""The kinds of notes that finery itself gives."""


def known_notes(plugins: "Plugins") -> dict[str, About]:
    """Every kind of note that may be given here, by name."""
    provided = {name: about for name, (about, _) in plugins.notes.items()}
    return OWN_NOTES | provided


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """A step as it was once built in this project.

    use: its step type. settings: those in its key, by name (`lora.r`). seconds: how long it took.
    meta: of its only output, empty where it has several.
    """

    key: str
    use: str
    settings: dict[str, Any]
    seconds: float
    meta: dict[str, Any]


class Results:
    """What of a recipe is built already, and what the project built before."""

    def __init__(
        self,
        store: "Store | None" = None,
        results: "Mapping[str, Result | None] | None" = None,
        latest: Mapping[str, tuple[str, str | None]] | None = None,
        engines: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._store = store
        self._results = results or {}
        self._latest = latest or {}
        self._engines = engines or {}

    def artifact(self, step: str, output: str = "") -> Artifact | None:
        """An output of a step, None where it isn't built as the recipe has it now."""
        result = self._results.get(step)
        found = result.outputs.get(output) if result else None
        return self._store.artifact(found) if self._store is not None and found else None

    def meta(self, step: str, output: str = "") -> dict[str, Any] | None:
        """The facts about an output, None where it isn't built."""
        result = self._results.get(step)
        found = result.outputs.get(output) if result else None
        return found.meta if found else None

    def last(self, step: str) -> Past | None:
        """The step as it was last built in this recipe, whatever changed since."""
        key = self._latest.get(step, ("", None))[0]
        found = self._store.finished(key) if self._store is not None and key else None
        return _past(found) if found else None

    def answered(
        self, step: str, model: "Model", requests: "Iterable[Request]", sampling: "Sampling"
    ) -> int | None:
        """How many of the requests that a step makes of a model are in the record cache.

        For engines that answer each request alone. None where the step's engines aren't known yet.
        """
        from finery.records import SqliteRecords, formats_of, identity_of, record_key

        engines = self._engines.get(step, {})
        if self._store is None or not formats_of(model) <= engines.keys():
            return None
        identity, source = identity_of(model, engines), iter(requests)
        records, found = SqliteRecords(self._store.database), 0
        while keys := [record_key(identity, [r], sampling) for r in islice(source, LOOKED_UP)]:
            found += len(records.get(keys))
        return found

    def history(self, use: str) -> list[Past]:
        """All steps of a type that the project built, newest first."""
        return [] if self._store is None else [_past(r) for r in self._store.history(use)]


def _past(result: "Result") -> Past:
    parts = dict(result.parts)
    settings = {
        name.removeprefix("setting "): value
        for name, value in parts.items()
        if name.startswith("setting ")
    }
    return Past(
        key=result.key,
        use=str(parts.get("step type", "")),
        settings=settings,
        seconds=result.seconds,
        meta=_only_meta(list(result.outputs.values())),
    )


def _only_meta(outputs: "Sequence[Manifest]") -> dict[str, Any]:
    return outputs[0].meta if len(outputs) == 1 else {}
