"""Records what a build made, quick steps in groups: they share the cost of an fsync."""

import threading
import time
from collections.abc import Collection, Sequence

from finery.artifact.manifest import Result
from finery.builder.plan import Planner
from finery.builder.sharing import Sharing
from finery.errors import StepError

RECORD_SECONDS = 0.1
"""Steps faster than this are recorded in groups, at this interval."""
COMMIT_GROUP = 256
"""The most results of a group."""


class Recording:
    """Commits results, and releases the locks of their keys.

    A kill costs at most the work of the quick steps that aren't recorded yet.

    built: key of a step → its result of this build, recorded or not.
    keys: step → key of its current result, for those that aren't recorded yet.
    """

    def __init__(self, planner: Planner, sharing: Sharing, run: str) -> None:
        self.built: dict[str, Result] = {}
        self.keys: dict[str, str] = {}
        self._planner = planner
        self._sharing = sharing
        self._run = run
        self._new: dict[str, Result] = {}
        self._recorded_at = time.monotonic()
        self._cleaners: list[threading.Thread] = []

    def __bool__(self) -> bool:
        """Whether something isn't recorded yet."""
        return bool(self._new or self.keys)

    def add(self, result: Result, key: str) -> None:
        """Record a result, if its step is quick, with others. key: of the step."""
        self.built[key] = self._new[key] = result
        self.write(now=result.seconds > RECORD_SECONDS)

    def write(self, *, now: bool) -> None:
        """Commit what is finished, if it is time."""
        is_time = now or time.monotonic() - self._recorded_at > RECORD_SECONDS
        if not self or not (is_time or len(self._new) >= COMMIT_GROUP):
            return
        self._commit([*self._new.values()])
        self._sharing.push(self._new.values(), are_new=True)
        self._clear([*self._new])
        self._new.clear()
        self._recorded_at = time.monotonic()
        # During the build, since it may be killed.
        self._planner.store.remember(self._planner.recipe_id, self.keys)
        self.keys = {}

    def restore(self, results: Collection[Result]) -> None:
        """Record results with their files again: the database was replaced and may lack them."""
        is_intact = self._planner.store.is_intact
        intact = {
            result.key: result for result in (*self.built.values(), *results)
            if all(is_intact(*f) for m in result.outputs.values() for f in m.files.values())
        }  # fmt: skip
        self._commit([*intact.values()])

    def _commit(self, results: Sequence[Result]) -> None:
        try:
            self._planner.store.commit(results, run=self._run)
        except OSError as error:
            raise StepError(
                f"the outputs of steps can't be recorded: {error}",
                fix="free some disk space and build again: no data is lost",
            ) from error

    def _clear(self, keys: list[str]) -> None:
        """Remove the folders of recorded keys in the background, since a busy disk is slow.

        Each is unlocked afterwards, since another build may be waiting to run its step again.
        """
        store = self._planner.store

        def clear() -> None:
            for key in keys:
                try:
                    store.clear_work(key)
                finally:
                    store.unlock(key)

        thread = threading.Thread(target=clear)
        thread.start()
        self._cleaners.append(thread)

    def close(self) -> None:
        """Commit everything, and wait until all folders are removed and all keys unlocked."""
        try:
            self.write(now=True)
        finally:
            for thread in self._cleaners:
                thread.join()
