"""The output of `finery diff`, as text and as JSON lines."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from finery.builder.keys import Change
from finery.builder.plan import Planner
from finery.cli.commands.explain import change_data
from finery.cli.views import context_of
from finery.compare.differences import StepDifference, differences
from finery.compare.outputs import output_of, view_of
from finery.compare.sides import Side, sides_of
from finery.recipe.graph import Graph
from finery.store.database import Store
from finery.util.text import duration, size, some_of, visible
from finery.views.html import findings_in
from finery.views.terminal import print_sections
from finery.views.view import Detail, Output, View, comparison_of, returns_values

if TYPE_CHECKING:
    from rich.console import Console

    from finery.views.parts import Section

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
        found = []
        for step in self.of_kind("changed"):
            for pair in step.outputs:
                if not pair.missing:
                    before, after = (
                        output_of(self.graph.plugins, self.store, pair.title, manifest)
                        for manifest in (pair.before, pair.after)
                    )
                    view = view_of(self.graph.plugins, pair.after)
                    found.append((view, before, after))
        return found

    def sections(self, most: int) -> "dict[str, list[Section]]":
        """Output → what differs in it, of views that return sections."""
        context = context_of(self.graph, self.store, detail=Detail(most))
        return {
            after.title: list(comparison_of(view, before, after, context))
            for view, before, after in self.outputs
            if returns_values(view)
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
        found = self.differences
        for step in self.steps:
            if step.kind != "same":
                yield _step_data(step, found)


def print_difference(console: "Console", compared: Comparison, most: int) -> None:
    """Print a comparison. most: rows of each kind."""
    sections = compared.sections(most)
    _print_headline(console, compared, sections)
    _print_sides(console, compared.sides)
    changed = compared.of_kind("changed")
    rows = [(step.name, change, "") for step in changed for change in step.of_recipe]
    if rows:
        console.print("\n[bold]Settings and files[/]")
        _print_changes(console, rows)
    _print_around(console, changed)
    _print_steps(console, compared)
    _print_outputs(console, compared, sections, most)
    _print_costs(console, changed)
    if not any(step.kind != "same" for step in compared.steps):
        console.print(
            "\nno difference: every step has the same key. What isn't in keys, such as `require`, "
            "isn't compared."
        )


def _print_headline(
    console: "Console", compared: Comparison, sections: "Mapping[str, Sequence[Section]]"
) -> None:
    """What is better or worse in B, in a line; scores that may differ by chance are unclear."""
    changes: dict[str, list[str]] = {"worse": [], "better": [], "unclear": []}
    kinds = {"bad": "worse", "good": "better", "open": "unclear"}
    for _, _, after in compared.outputs:
        for section in sections.get(after.title, ()):
            for finding in findings_in(section):
                changes[kinds[finding.tone]].append(f"{finding.answer} ({after.title})")
        if after.title not in sections:
            for kind, texts in compared.differences[after.title].get("changes", {}).items():
                changes[kind] += [f"{text} ({after.title})" for text in texts]
    parts = [f"{kind}: {some_of(of, STEPS_NAMED)}" for kind, of in changes.items() if of]
    is_partial = any(step.missing for step in compared.steps)
    none = f"no score changed{' in what both sides have built' if is_partial else ''}"
    console.print(visible("; ".join(parts) or none), style="bold", markup=False)


def _print_outputs(
    console: "Console",
    compared: Comparison,
    sections: "Mapping[str, Sequence[Section]]",
    most: int,
) -> None:
    """The differences in each output. Of outputs that differ in the same way, only the first."""
    seen: dict[str, str] = {}
    for view, before, after in compared.outputs:
        data: Any = sections.get(after.title)
        data = compared.differences[after.title] if data is None else data
        console.print()
        console.print(f"[bold]{after.title}[/]  [dim]{after.manifest.kind}[/]")
        first = seen.setdefault(repr(data), after.title)
        if data and first != after.title:
            console.print(f"  the same difference as in {first}", markup=False)
        elif after.title in sections:
            print_sections(console, data)
        else:
            view.print_difference(console, before, after, data, most)


def _print_sides(console: "Console", sides: Sequence[Side]) -> None:
    from rich.text import Text

    width = max(len(side.label) for side in sides)
    for letter, side in zip("AB", sides, strict=True):
        label = (f"{visible(side.label):<{width}}  ", "bold")
        console.print(Text.assemble((f"{letter}  ", "cyan"), label, (side.about, "dim")))
        for note in side.notes:
            console.print(Text(f"   {visible(note)}", style="yellow"))


def _print_around(console: "Console", steps: Sequence[StepDifference]) -> None:
    """The differences in code, packages and the machine, each once, with the affected steps."""
    reached: dict[str, tuple[Change, list[str]]] = {}
    for step in steps:
        for change in step.around:
            reached.setdefault(str(change), (change, []))[1].append(step.name)
    if not reached:
        return
    console.print("\n[bold]Code, packages and machine[/]")
    rows = []
    for change, names in reached.values():
        rows.append(("", change, some_of(names, STEPS_NAMED)))
    _print_changes(console, rows)


def _print_changes(console: "Console", rows: Sequence[tuple[str, Change, str]]) -> None:
    """Print (step, change, steps that it reaches)."""
    from rich.table import Table
    from rich.text import Text

    with_steps = any(name for name, *_ in rows)
    grid = Table.grid(padding=(0, 2))
    if with_steps:
        grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold", ratio=1)
    last = ""
    for name, change, reaches in rows:
        value = _value(change)
        if reaches:
            value.append(f"  ({reaches})", "dim")
        first = [Text(f"  {name}" if name != last else "")] if with_steps else []
        grid.add_row(*first, Text(visible(f"{'' if with_steps else '  '}{change.part}")), value)
        last = name
    console.print(grid)


def _value(change: Change) -> Any:
    from rich.text import Text

    if change.part.startswith(("code ", "file ")):
        return Text(visible(str(change).removeprefix(change.part).lstrip(": ")))
    old, new = map(visible, change.values())
    return Text.assemble((old, "red"), " → ", (new, "green"))


def _print_steps(console: "Console", compared: Comparison) -> None:
    """Which steps are new, removed, unchanged, or not comparable."""
    from rich.text import Text

    changed = compared.of_kind("changed")
    steps = {
        "same": compared.of_kind("same"),
        "only in A": compared.of_kind("removed"),
        "only in B": compared.of_kind("added"),
        "built anew with the same result": [step for step in changed if step.same_result],
    }
    lines = [(label, ", ".join(step.name for step in of)) for label, of in steps.items() if of]
    lines += [(step.name, "; ".join(step.missing)) for step in changed if step.missing]
    if lines:
        console.print("\n[bold]Steps[/]")
    for label, text in lines:
        console.print(Text.assemble((f"  {label}: ", "cyan"), text))


def _print_costs(console: "Console", steps: Sequence[StepDifference]) -> None:
    """Time and size of the steps that differ."""
    from rich import box
    from rich.table import Table

    known = [s for s in steps if not s.same_result and None not in (*s.seconds, *s.size)]
    if not known:
        return
    console.print("\n[bold]Time and size[/]")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("step", no_wrap=True)
    for name in ("time A", "time B", "size A", "size B"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in known:
        times = [duration(value) for value in step.seconds if value is not None]
        table.add_row(step.name, *times, *(size(value) for value in step.size if value is not None))
    console.print(table)


def _step_data(step: StepDifference, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": step.name,
        "use": step.use,
        "kind": step.kind,
        "changes": [change_data(change) for change in step.changes],
        "same_result": step.same_result,
        "missing": step.missing,
        "seconds": list(step.seconds),
        "bytes": list(step.size),
        "outputs": [
            {
                "name": pair.title,
                "digests": [pair.before.digest, pair.after.digest],
                **({"missing": pair.missing} if pair.missing else {}),
                **({"difference": found[pair.title]} if pair.title in found else {}),
            }
            for pair in step.outputs
        ],
    }
