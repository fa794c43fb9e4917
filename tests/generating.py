"""Projects whose generators are tested: built in this process, against a server on loopback."""

import json
from collections import Counter
from typing import Any

from conftest import Project
from in_process import InProcess

from finery.artifact.manifest import MANIFEST
from finery.builder.project import open_graph, open_store
from finery.builder.runs import Outcome
from finery.builder.scheduler import Build


class Here(Project):
    """A project that is built without processes of its own, which takes a tenth of the time."""

    def build(self, *overrides: str) -> Outcome:
        """Build all steps."""
        recipe = self.folder / "recipe.yaml"
        store = open_store(recipe)
        try:
            return Build(open_graph(recipe, overrides, store), store, InProcess()).run()
        finally:
            store.close()

    def ran(self, *overrides: str) -> list[str]:
        """Build, and be well; the steps that ran, sorted."""
        outcome = self.build(*overrides)
        assert not outcome.errors, [str(error) for error in outcome.errors.values()]
        return sorted(outcome.ran)

    def failure(self) -> tuple[int, str]:
        """Build, and fail; the exit code and the error."""
        outcome = self.build()
        (error,) = outcome.errors.values()
        return outcome.exit_code, str(error)

    def lines(self, step: str, name: str) -> list[dict[str, Any]]:
        """The lines of a file of a step's dataset; none where it isn't there."""
        path = self.folder / "build" / "t" / step / name
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    def reasons(self, step: str) -> Counter[str]:
        """How many rows a step dropped for which reason."""
        return Counter(drop["reason"] for drop in self.lines(step, "dropped.jsonl"))

    def meta(self, step: str) -> dict[str, Any]:
        """The facts about a step's dataset."""
        manifest = self.folder / "build" / "t" / step / MANIFEST
        found: dict[str, Any] = json.loads(manifest.read_text())["meta"]
        return found

    def accounted(self, step: str, source: str = "rows") -> int:
        """Rows that a step made something of, after making sure that none is lost or doubled.

        Each row of `source` is either a parent of some row, or was dropped, once and with a reason.
        """
        made, drops = self.rows(step), self.lines(step, "dropped.jsonl")
        used = {parent for row in made for parent in row["parents"]}
        dropped = [drop["row"].get("parents", [drop["id"]])[0] for drop in drops]
        assert sorted([*used, *dropped]) == sorted(row["id"] for row in self.rows(source))
        assert [o["id"] for o in self.lines(step, "generated.jsonl")] == [r["id"] for r in made]
        assert len({row["id"] for row in made}) == len(made)
        assert all(drop["reason"] and drop["detail"] for drop in drops)
        return len(used)
