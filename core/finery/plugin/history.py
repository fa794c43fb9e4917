"""The built outputs of a recipe, and earlier builds of the project."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from finery.artifact.kinds import Artifact

if TYPE_CHECKING:
    from finery.artifact.kinds import Model
    from finery.artifact.manifest import Manifest, Result
    from finery.inference.engine import Identity, Request
    from finery.store.database import Store


LOOKED_UP = 512
"""Records per lookup."""


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """A step as it was built earlier in this project.

    use: its step type. settings: those in its key, by name (`lora.r`). seconds: its run time. meta:
    and runtime: of its only output; empty if it has several. inputs: names of those that it had
    (`model`).
    """

    key: str
    use: str
    settings: dict[str, Any]
    seconds: float
    meta: dict[str, Any]
    runtime: dict[str, Any] = {}
    inputs: frozenset[str] = frozenset()


class Results:
    """The built outputs of a recipe, and earlier builds of the project."""

    def __init__(
        self,
        store: "Store | None" = None,
        results: "Mapping[str, Result | None] | None" = None,
        latest: Mapping[str, tuple[str, str | None]] | None = None,
        engines: "Mapping[str, Mapping[str, Identity]] | None" = None,
    ) -> None:
        self._store = store
        self._results = results or {}
        self._latest = latest or {}
        self._engines = engines or {}

    def artifact(self, step: str, output: str = "") -> Artifact | None:
        """An output of a step; None if it isn't built for the current recipe."""
        manifest = self._manifest(step, output)
        return self._store.artifact(manifest) if self._store is not None and manifest else None

    def meta(self, step: str, output: str = "") -> dict[str, Any] | None:
        """The facts about an output; None if it isn't built."""
        manifest = self._manifest(step, output)
        return manifest.meta if manifest else None

    def _manifest(self, step: str, output: str) -> "Manifest | None":
        result = self._results.get(step)
        return result.outputs.get(output) if result else None

    def last(self, step: str) -> Past | None:
        """The step as it was last built in this recipe, even if it changed since."""
        key = self._latest.get(step, ("", None))[0]
        result = self._store.finished(key) if self._store is not None and key else None
        return _past(result) if result else None

    def answered(
        self, step: str, model: "Model", requests: "Iterable[Request]", sampling: Mapping[str, Any]
    ) -> int | None:
        """How many of the requests that a step sends to a model are in the record cache.

        For engines that answer requests one by one. None if the step's engines aren't known yet.
        sampling: see `finery.Requests`.
        """
        from finery.inference.records import SqliteRecords, identity_of, make_sampling, record_key

        engines = self._engines.get(step, {})
        if self._store is None or not model.formats <= engines.keys():
            return None
        identity, source = identity_of(model, engines), iter(requests)
        drawn = make_sampling(**sampling)
        records, count = SqliteRecords(self._store.database), 0
        while keys := [record_key(identity, [r], drawn) for r in islice(source, LOOKED_UP)]:
            count += len(records.get(keys))
        return count

    def history(self, use: str) -> list[Past]:
        """All builds of a step type in the project, newest first."""
        return [] if self._store is None else [_past(r) for r in self._store.history(use)]


def _past(result: "Result") -> Past:
    parts, outputs = dict(result.parts), [*result.outputs.values()]
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
        meta=outputs[0].meta if len(outputs) == 1 else {},
        runtime=outputs[0].runtime if len(outputs) == 1 else {},
        inputs=frozenset(
            name.removeprefix("input ").rpartition("[")[0]
            for name in parts
            if name.startswith("input ")
        ),
    )
