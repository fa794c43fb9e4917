"""The story of a row: its origin, its related rows, and what each step did with it.

A row's id is a hash of its content, and a row that is made from others lists them in `parents`. So
the story follows from the artifacts of a build: back from the row, then forward from its origin.
The places where a source read a row come from the step (`Step.trace_rows`). Artifacts don't hold
them, because a blank line above a row must not cause a rebuild.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finery.artifact.kinds import Dataset
from finery.artifact.manifest import Result
from finery.builder.dispatch import job_without_run
from finery.builder.keys import differences
from finery.builder.plan import Planner, StepPlan, make_plan
from finery.errors import FineryError, UsageError
from finery.lineage import scan
from finery.recipe.graph import Graph, Node
from finery.rows import Row, snippet
from finery.rows.difference import first_difference
from finery.step.step import is_overridden
from finery.store.database import Store

MAX_CANDIDATES = 8
"""Number of rows that an error lists for an ambiguous or unknown id."""


class Event(msgspec.Struct, omit_defaults=True):
    """What a step did with a row.

    what: `read` (from outside), `made` (from its parents, or new), `kept`, `dropped`, `found` (a
    check reported it), `generated` (with a model), `answered` (by an evaluated model), `taken` (by
    a step that makes no rows, i.e. a training). number: its position in the step's output, from 1.
    places: where the step read it, or something about it, outside. facts: the step's own record.
    """

    step: str
    use: str
    what: str
    output: str = ""
    number: int = 0
    places: list[str] = []
    facts: dict[str, Any] = {}


class StoryRow(msgspec.Struct):
    """A row of the story. relation: `asked`, `ancestor`, `descendant` or `relative`."""

    id: str
    relation: str = "relative"
    parents: list[str] = []
    events: list[Event] = []
    row: Row | None = None

    def at(self, step: str) -> list[Event]:
        """What a step did with it."""
        return [event for event in self.events if event.step == step]


class NearDuplicate(msgspec.Struct):
    """A row that a step dropped because it repeats, or nearly repeats, the requested row."""

    id: str
    step: str
    output: str
    reason: str
    detail: str


class Story(msgspec.Struct):
    """A row, its ancestors, and all rows of the same origin. Parents come first.

    near: rows that were dropped because of it. notes: caveats, e.g. that a file changed. stale:
    steps that aren't up to date.
    """

    id: str
    rows: list[StoryRow]
    near: list[NearDuplicate] = []
    notes: list[str] = []
    stale: list[str] = []

    def row_with_id(self, row_id: str) -> StoryRow | None:
        """The row with an id."""
        return next((t for t in self.rows if t.id == row_id), None)


class _BuiltStep(NamedTuple):
    """A step that is built: its node and plan, the result to read, and its files by output."""

    node: Node
    plan: StepPlan
    result: Result
    files: list[tuple[str, scan.RowFile]]


def story_of(graph: Graph, store: Store, row_id: str, *, step: str = "", output: str = "") -> Story:
    """The story of the row with an id that begins with `row_id`.

    step, output: limit the story to what leads to the row there and what that step did with it.
    Raises `UsageError` if there is no such row, or more than one.
    """
    builder = _StoryBuilder(graph, store)
    scope = (step, output) if step else None
    return builder.story(builder.resolve(row_id, scope), scope)


class _StoryBuilder:
    """Reads one story from the built artifacts."""

    def __init__(self, graph: Graph, store: Store) -> None:
        self.store = store
        self.graph = graph
        self.built = {b.node.name: b for b in _built_steps(graph, store)}
        if not self.built:
            raise UsageError("nothing is built yet", fix="finery build")

    # -- which row -------------------------------------------------------------------------------

    def resolve(self, start: str, scope: tuple[str, str] | None) -> str:
        """The full id of the only row with an id that begins with `start`."""
        if scope and scope[0] not in self.built:
            raise UsageError(
                f"step '{scope[0]}' isn't built yet",
                fix=f"finery build {self.graph.recipe.argument}--step {scope[0]}",
            )
        matches: dict[str, str] = {}
        for place, file in self._files(scope):
            for line in scan.lines_starting(file, start):
                if line.id == start:
                    return start
                if len(matches) <= MAX_CANDIDATES:
                    text = f"{place}: {snippet(_row_of(file.kind, line) or {})}"
                    matches.setdefault(line.id, text)
        if not matches:
            raise self._unknown_error(start, scope)
        if len(matches) > 1:
            listed = [f"{row} in {place}" for row, place in list(matches.items())[:MAX_CANDIDATES]]
            more = [f"… and more than {MAX_CANDIDATES}"] if len(matches) > MAX_CANDIDATES else []
            raise UsageError(
                f"several ids begin with '{start}'",
                where="--row",
                details=[*listed, *more],
                fix="write more of the id",
            )
        return next(iter(matches))

    def _unknown_error(self, start: str, scope: tuple[str, str] | None) -> UsageError:
        nearest: dict[str, str] = {}
        best = 2
        for place, file in self._files(scope):
            for line in scan.lines_starting(file, ""):
                common = first_difference(start, line.id)
                if common > best:
                    nearest, best = {}, common
                if common == best and len(nearest) < MAX_CANDIDATES:
                    nearest.setdefault(line.id, place)
        where = f" of {'.'.join(filter(None, scope))}" if scope else ""
        return UsageError(
            f"no row{where} has an id that begins with '{start}'",
            where="--row",
            details=[f"{row} in {place}" for row, place in nearest.items()],
            fix="did you mean one of these?" if nearest else
            "`finery show STEP` prints ids of its rows, wrong answers and dropped rows",
        )  # fmt: skip

    def _files(self, scope: tuple[str, str] | None) -> Iterator[tuple[str, scan.RowFile]]:
        """(name of the output, file) of all files about rows."""
        outputs = [scope] if scope else []
        if scope and scope[0] in self.built and not self.built[scope[0]].files:
            sources = self.built[scope[0]].node.row_sources  # of a training, the rows it takes
            outputs = [(source.step, source.output) for source in sources]
        for name, step in self.built.items():
            for output, file in step.files:
                if scope is None or (name, output) in outputs or (name, "") in outputs:
                    yield ".".join(filter(None, (name, output))), file

    # -- its story -------------------------------------------------------------------------------

    def story(self, row_id: str, scope: tuple[str, str] | None) -> Story:
        """The story of a row. With a scope, its ancestors and what that step did with it."""
        ancestors = self._ancestors(row_id)
        family = ancestors if scope else self._related_rows(ancestors)
        rows = {i: StoryRow(i) for i in family}
        ids_by_output: dict[tuple[str, str], set[str]] = {}
        for step in self.built.values():
            self._add_step(step, rows, ids_by_output)
        if scope:
            _restrict_to_scope(rows, self.graph, scope, row_id)
        ordered, lineage = _parents_first(rows), {row_id}
        for row in ordered:
            if row.id in ancestors:
                row.relation = "asked" if row.id == row_id else "ancestor"
            elif not lineage.isdisjoint(row.parents):
                row.relation = "descendant"
                lineage.add(row.id)
        notes = [n for b in self.built.values() for n in self._fill_places(b, rows)]
        stale = [n for n, b in self.built.items() if b.plan.result is None]
        near = [
            NearDuplicate(
                line.id, name, output, *(str(line.data()[f]) for f in ("reason", "detail"))
            )
            for name, step in self.built.items()
            for output, file in step.files
            if file.kind == "dropped" and not scope
            for line in scan.drops_mentioning(file, row_id)
            for drop in [line.data()]
        ]
        return Story(row_id, ordered, near, notes, stale)

    def _ancestors(self, row_id: str) -> set[str]:
        """The row, its parents, theirs, and so on."""
        ids = {row_id}
        for line in self._lines_about(ids, reversed(self.built.values())):
            ids.update(line.parents if line.id in ids else ())
        return ids

    def _related_rows(self, ancestors: set[str]) -> set[str]:
        """These rows, all rows made from them, and so on."""
        ids = set(ancestors)
        for line in self._lines_about(ids, self.built.values()):
            ids.add(line.id)
        return ids

    def _lines_about(self, ids: set[str], steps: Iterable[_BuiltStep]) -> Iterator[scan.RowLine]:
        """The lines about rows, to which the caller adds; of each step until it adds no more."""
        for step in steps:
            size = -1
            while size != len(ids):
                size = len(ids)
                for _, file in step.files:
                    yield from list(scan.lines_about(file, ids))

    def _add_step(
        self,
        built: _BuiltStep,
        rows: dict[str, StoryRow],
        ids_by_output: dict[tuple[str, str], set[str]],
    ) -> None:
        """Add what one step did with the rows. ids_by_output: which of the rows each has."""
        node, sources = built.node, built.node.row_sources
        earlier_ids = {i for s in sources for i in ids_by_output.get((s.step, s.output), ())}
        for output, file in built.files:
            for line in scan.lines_about(file, rows):
                if line.id in rows:
                    row = rows[line.id]
                    row.events.append(
                        _line_event(node, output, file.kind, line, earlier_ids, bool(sources))
                    )
                    row.parents += [p for p in line.parents if p not in row.parents and p != row.id]
                    row.row = _row_of(file.kind, line) if row.row is None else row.row
                    if file.kind == "row":
                        ids_by_output.setdefault((node.name, output), set()).add(line.id)
        if not issubclass(next(iter(node.outputs.values())), Dataset):
            for source in sources:
                for i in sorted(ids_by_output.get((source.step, source.output), ())):
                    if not rows[i].at(node.name):  # else it is judged
                        facts = {"as": source.field, "from": source.ref, "role": source.role}
                        rows[i].events.append(Event(node.name, node.use, "taken", facts=facts))

    # -- places outside --------------------------------------------------------------------------

    def _fill_places(self, built: _BuiltStep, rows: Mapping[str, StoryRow]) -> list[str]:
        """Fill in the places that a step knows. Returns notes about what it can't find."""
        name, step = built.node.name, built.node.step
        own_rows = [t for t in rows.values() if t.relation in ("asked", "ancestor") and t.at(name)]
        if not own_rows or not is_overridden(type(step), "trace_rows"):
            return []
        if built.plan.gone:
            return [f"{name} can't find where rows were read: {built.plan.gone}"]
        after = built.plan.all_parts if built.plan.result is None else built.result.parts
        changed = [part for part, _, _ in differences(built.result.parts, after)]
        files = [part.split(" ", 2)[2] for part in changed if part.startswith("file ")]
        notes = [f"{name}: {file} changed since it was read" for file in files]
        try:
            self._ask_step(built, rows, own_rows)
        except FineryError as error:
            where = f"{error.where}: " if error.where else ""
            return [*notes, f"{name} can't find where rows were read: {where}{error.what}"]
        missing = [t.id for t in own_rows if not any(e.places for e in t.at(name))]
        if notes and missing and not built.node.row_sources:
            notes.append(f"{name}: no longer in the file: {', '.join(missing)}")
        return notes

    def _ask_step(
        self, built: _BuiltStep, rows: Mapping[str, StoryRow], own_rows: Sequence[StoryRow]
    ) -> None:
        """Ask the step. It may know a row that it changed by its old id."""
        name = built.node.name
        events = {t.id: t.at(name) for t in own_rows}
        for t in own_rows:
            for parent in t.parents:
                if parent not in rows or not rows[parent].at(name):
                    events.setdefault(parent, []).extend(t.at(name))
        expected = Counter({i: len(row_events) for i, row_events in events.items()})
        step = self.graph.with_files(built.node, built.plan.files)
        with tempfile.TemporaryDirectory(prefix="finery-trace-") as folder:
            job = job_without_run(built.node, Path(folder), self.store, pinned=built.plan.pinned)
            source = not built.node.row_sources
            for row_id, place in step.trace_rows(set(events), job):
                own_events = events.get(row_id)
                if own_events is None:  # it wasn't asked for
                    continue
                # A source reads equal rows in the order in which they are in its output.
                for event in [own_events[-max(expected[row_id], 1)]] if source else own_events:
                    event.places.append(place)
                expected[row_id] -= 1
                if source and not +expected:
                    break  # each was found as often as it is in the output


def _built_steps(graph: Graph, store: Store) -> Iterator[_BuiltStep]:
    """The built steps of a recipe: their current results, otherwise those of the last build."""
    planner = Planner(graph, store)
    for plan in make_plan(planner, without_files=True):
        result = plan.result
        if result is None and plan.node.name in planner.latest:
            result = store.lookup(planner.latest[plan.node.name][0])
        if result is not None:
            files = [
                (output, file)
                for output, manifest in result.outputs.items()
                if output or len(result.outputs) == 1  # the unnamed one may repeat a named one
                for file in scan.row_files(store.artifact(manifest), manifest)
            ]
            yield _BuiltStep(plan.node, plan, result, files)


def _line_event(
    node: Node, output: str, kind: str, line: scan.RowLine, earlier_ids: set[str], takes_rows: bool
) -> Event:
    """The event that a line records."""
    if kind == "row":
        made = "kept" if line.id in earlier_ids and line.id not in line.parents else "made"
        action = made if takes_rows else "made" if line.parents else "read"
        return Event(node.name, node.use, action, output, line.number)
    action = {"answer": "answered", "finding": "found"}.get(kind, kind)
    facts = {k: v for k, v in line.data().items() if k not in ("id", "row", "parents")}
    return Event(node.name, node.use, action, output, facts=facts)


def _row_of(kind: str, line: scan.RowLine) -> Row | None:
    """The row in a line, if it holds one."""
    if kind == "row":
        return line.data()
    row = line.data().get("row") if kind == "dropped" else None
    return row if isinstance(row, dict) else None


def _parents_first(rows: Mapping[str, StoryRow]) -> list[StoryRow]:
    """The rows, with parents before their children as far as possible."""
    ordered: dict[str, StoryRow] = {}
    children: dict[str, list[str]] = {}
    for row in rows.values():
        for parent in row.parents:
            children.setdefault(parent, []).append(row.id)
    waiting = {i: sum(p in rows for p in row.parents) for i, row in rows.items()}
    ready = sorted(i for i, n in waiting.items() if not n)
    while len(ordered) < len(rows):
        if not ready:  # rows that are each other's parents
            ready = [min(i for i in rows if i not in ordered)]
        i = ready.pop(0)
        if i in ordered:
            continue
        ordered[i] = rows[i]
        for child in sorted(children.get(i, ())):
            waiting[child] -= 1
            if not waiting[child] and child not in ordered:
                ready.append(child)
    return list(ordered.values())


def _restrict_to_scope(
    rows: dict[str, StoryRow], graph: Graph, scope: tuple[str, str], row_id: str
) -> None:
    """Keep only the events up to a step, and the rows with such events."""
    step, output = scope
    steps_before = set(graph.select([step]).nodes)
    for row in rows.values():
        row.events = [
            e for e in row.events
            if e.step in steps_before and (e.step != step or output in ("", e.output))
        ]  # fmt: skip
    for i in [i for i, row in rows.items() if not row.events and i != row_id]:
        del rows[i]
