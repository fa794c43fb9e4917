"""The output of `finery diff`, as text and as JSON lines."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from finery.builder.keys import Change
from finery.builder.plan import Planner
from finery.cli.commands.explain import change_data
from finery.cli.views import context_of
from finery.compare.differences import StepDifference, differences
from finery.compare.outputs import output_of, view_of
from finery.compare.sides import sides_of
from finery.recipe.graph import Graph
from finery.store.database import Store
from finery.util.text import some_of
from finery.views.html import findings_in
from finery.views.parts import Cell, Facts, Part, Quantity, Section, Table, Text
from finery.views.view import Detail, Output, View, comparison_of

STEPS_NAMED = 4
"""Steps that a changed file or package is listed with."""


class Comparison:
    """Two sides, and what differs between them. Raises `UsageError` if one names nothing."""

    def __init__(self, graph: Graph, store: Store, first: str, second: str | None) -> None:
        self.graph, self.store = graph, store
        self.sides = sides_of(graph, store, first, second)
        names_of = Planner(graph.select(list(graph.nodes)[:1]), store).code.names
        self.steps = differences(*self.sides, names_of)

    def of_kind(self, kind: str) -> list[StepDifference]:
        """The steps that are `same`, `changed`, `added` or `removed`."""
        return [step for step in self.steps if step.kind == kind]

    @cached_property
    def outputs(self) -> list[tuple[View, Output, Output]]:
        """(view, before, after) of each output whose files are on both sides."""
        plugins = self.graph.plugins
        return [
            (
                view_of(plugins, pair.after),
                output_of(plugins, self.store, pair.title, pair.before),
                output_of(plugins, self.store, pair.title, pair.after),
            )
            for step in self.of_kind("changed")
            for pair in step.outputs
            if not pair.missing
        ]

    def sections(self, most: int) -> dict[str, list[Section]]:
        """Output → what differs in it."""
        context = context_of(self.graph, self.store, detail=Detail(most))
        return {
            after.title: list(comparison_of(view, before, after, context))
            for view, before, after in self.outputs
        }

    @cached_property
    def differences(self) -> dict[str, dict[str, Any]]:
        """Output → what differs in it, as JSON values."""
        return {after.title: view.difference(before, after) for view, before, after in self.outputs}

    def data(self) -> Iterator[dict[str, Any]]:
        """The lines of `--json`: the sides, then a line for each step that isn't the same."""
        yield {
            "sides": [{"name": s.label, "about": s.about, "notes": s.notes} for s in self.sides],
            "same": [step.name for step in self.of_kind("same")],
        }
        for step in self.steps:
            if step.kind != "same":
                yield _step_data(step, self.differences)


def difference_parts(compared: Comparison, most: int) -> Iterator[Part]:
    """A comparison as values. most: rows of each kind."""
    sections = compared.sections(most)
    yield Text(_headline(compared, sections), "strong")
    sides: list[list[Cell]] = [
        [letter, side.label, Text(side.about, "soft")]
        for letter, side in zip("AB", compared.sides, strict=True)
    ]
    yield Table(["", "", ""], sides)
    yield from (Text(note, "warning") for side in compared.sides for note in side.notes)
    changed = compared.of_kind("changed")
    rows = [(step.name, change, "") for step in changed for change in step.of_recipe]
    if rows:
        yield Section("Settings and files", [_changes(rows)])
    yield from _around(changed)
    yield from _steps(compared)
    yield from _outputs(compared, sections)
    yield from _costs(changed)
    if not any(step.kind != "same" for step in compared.steps):
        yield Text(
            "no difference: every step has the same key. What isn't in keys, such as `require`, "
            "isn't compared."
        )


def _headline(compared: Comparison, sections: Mapping[str, Sequence[Section]]) -> str:
    """What is better or worse in B, in a line; scores that may differ by chance are unclear."""
    changes: dict[str, list[str]] = {"bad": [], "good": [], "open": [], "info": []}
    for title, parts_of_step in sections.items():
        for finding in (finding for section in parts_of_step for finding in findings_in(section)):
            changes[finding.tone].append(f"{finding.answer} ({title})")
    words = {"bad": "worse", "good": "better", "open": "unclear", "info": "changed"}
    parts = [
        f"{words[tone]}: {some_of(names, STEPS_NAMED)}" for tone, names in changes.items() if names
    ]
    is_partial = any(step.missing for step in compared.steps)
    none = f"no score changed{' in what both sides have built' if is_partial else ''}"
    return "; ".join(parts) or none


def _outputs(compared: Comparison, sections: Mapping[str, Sequence[Section]]) -> Iterator[Section]:
    """The differences in each output. Of outputs that differ in the same way, only the first."""
    answers: dict[str, str] = {}
    for _, _, after in compared.outputs:
        parts = [part for section in sections[after.title] for part in section.parts]
        first = answers.setdefault(repr(parts), after.title)
        if parts and first != after.title:
            parts = [Text(f"the same difference as in {first}")]
        yield Section(after.title, parts, note=after.manifest.kind)


def _around(steps: Sequence[StepDifference]) -> Iterator[Section]:
    """The differences in code, packages and the machine, each once, with the affected steps."""
    reached: dict[str, tuple[Change, list[str]]] = {}
    for step in steps:
        for change in step.around:
            reached.setdefault(str(change), (change, []))[1].append(step.name)
    if reached:
        rows = [("", change, some_of(names, STEPS_NAMED)) for change, names in reached.values()]
        yield Section("Code, packages and machine", [_changes(rows)])


def _changes(rows: Sequence[tuple[str, Change, str]]) -> Table:
    """A row for each (step, change, steps that it reaches)."""
    cells: list[list[Cell]] = []
    last = ""
    for name, change, reaches in rows:
        value = _value(change) + ([Text(f"  ({reaches})", "soft")] if reaches else [])
        cells.append([*([name if name != last else ""] if name else []), change.part, value])
        last = name
    return Table([""] * len(cells[0]), cells)


def _value(change: Change) -> list[Text]:
    if change.part.startswith(("code ", "file ")):
        return [Text(str(change).removeprefix(change.part).lstrip(": "))]
    old, new = change.values()
    return [Text(old, "bad"), Text(" → "), Text(new, "good")]


def _steps(compared: Comparison) -> Iterator[Section]:
    """Which steps are new, removed, unchanged, or not comparable."""
    changed = compared.of_kind("changed")
    steps = {
        "same": compared.of_kind("same"),
        "only in A": compared.of_kind("removed"),
        "only in B": compared.of_kind("added"),
        "built anew with the same result": [step for step in changed if step.same_result],
    }
    lines = {label: ", ".join(step.name for step in of) for label, of in steps.items() if of}
    inputs = []
    for step in [step for step in changed if step.inputs]:
        node = compared.graph.nodes.get(step.name)
        refs = {f"{of.field}[{of.index}]": of.ref for of in node.sources} if node else {}
        inputs.append(f"{step.name} ({', '.join(refs.get(each, each) for each in step.inputs)})")
    lines |= {"with another input": ", ".join(inputs)} if inputs else {}
    lines |= {step.name: "; ".join(step.missing) for step in changed if step.missing}
    if lines:
        yield Section("Steps", [Facts(lines)])


def _costs(steps: Sequence[StepDifference]) -> Iterator[Section]:
    """Time and size of the steps that differ."""
    rows: list[list[Cell]] = []
    for step in steps:
        cells: list[Cell] = [
            Quantity(value, "duration") for value in step.seconds if value is not None
        ]
        cells += [Quantity(value, "bytes") for value in step.size if value is not None]
        if not step.same_result and len(cells) == 4:
            rows.append([step.name, *cells])
    if rows:
        columns = ["step", "time A", "time B", "size A", "size B"]
        yield Section("Time and size", [Table(columns, rows)])


def _step_data(step: StepDifference, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": step.name,
        "use": step.use,
        "kind": step.kind,
        "changes": [change_data(change) for change in step.changes],
        "inputs": step.inputs,
        "same_result": step.same_result,
        "missing": step.missing,
        "seconds": list(step.seconds),
        "bytes": list(step.size),
        "outputs": [
            {
                "name": pair.title,
                "digests": [pair.before.digest, pair.after.digest],
                **({"missing": pair.missing} if pair.missing else {}),
                **({"difference": data[pair.title]} if pair.title in data else {}),
            }
            for pair in step.outputs
        ],
    }
