"""`finery show --row ID`: the story of a row as a tree, from its source to the answers to it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finery.cli.views import stdout
from finery.lineage.story import Event, Story, StoryRow
from finery.recipe.graph import Graph
from finery.rows import snippet
from finery.util.text import counted, shortened, some_of, visible
from finery.views.parts import as_text, record_of
from finery.views.terminal import STYLES, print_fields

SHOWN = 20
"""Relatives that are shown. The others are counted."""
LISTED = 3
"""Places of a row, or equal rows, that are listed."""
NEAR = 5
"""Maximum number of rows dropped because of this row that are shown."""
LONGEST = 400
"""Maximum characters of an answer or a reason that are shown."""
LONGEST_PROMPT = 4_000
"""Maximum characters of a turn of a prompt that are shown."""
_STYLES = {"dropped": "yellow", "found": "yellow", "generated": "magenta", "taken": "cyan"}


def show_story(graph: Graph, story: Story) -> None:
    """Print the row, the tree of the rows of its origin, and the trainings that use them."""
    console = stdout()
    asked = story.row_with_id(story.id)
    assert asked is not None
    turns = record_of(asked.row or {}).fields
    print_fields(console, [field for field in turns if field.label != "id"])
    console.print()
    _Trees(graph, story).print(console)
    for line in _trained(story):
        console.print(line)
    for near in story.near[:NEAR]:
        where = f"{near.step}.{near.output}" if near.output else near.step
        console.print(_text((f"{where} dropped {near.id}", "yellow"), (f"  {near.detail}", "dim")))
    if len(story.near) > NEAR:
        console.print(f"… and {len(story.near) - NEAR} more rows because of this one", style="dim")
    for note in story.notes:
        console.print(_text((f"note: {note}", "yellow")))
    if story.stale:
        console.print(
            f"not up to date: {', '.join(story.stale)} (shown as of the last build)", style="yellow"
        )


class _Trees:
    """The rows of a story as trees, one for each row without parents."""

    def __init__(self, graph: Graph, story: Story) -> None:
        self.graph = graph
        self.story = story
        self.ids = {told.id for told in story.rows}
        self.shown: set[str] = set()
        self.left = SHOWN
        steps = [e for told in story.rows for e in told.events]
        self.widths = [max((len(s) for s in column), default=0) for column in (
            [_place(e) for e in steps], [e.use for e in steps])]  # fmt: skip
        self.children: dict[str, list[StoryRow]] = {}
        for told in story.rows:
            for parent in told.parents:
                self.children.setdefault(parent, []).append(told)

    def print(self, console: Any) -> None:
        """Print all trees, with at most `SHOWN` relatives."""
        from rich.tree import Tree

        roots = [told for told in self.story.rows if self.ids.isdisjoint(told.parents)]
        # The others are rows that were made of each other.
        for told in (*roots, *(t for t in self.story.rows if t.relation != "relative")):
            if told.id not in self.shown:
                root = Tree(self._label(told), guide_style="dim", highlight=False)
                self._fill(root, told)
                console.print(root)
                console.print()
        hidden = len(self.ids - self.shown)
        if hidden:
            console.print(f"… and {counted(hidden, 'more row')} of this origin (--json)\n",
                          style="dim")  # fmt: skip

    def _fill(self, tree: Any, told: StoryRow) -> None:
        self.shown.add(told.id)
        for events in _alike(told.events):
            tree.add(self._line(told, events))
        for child in self.children.get(told.id, ()):
            if child.id in self.shown:
                tree.add(_text((child.id, "dim"), ("  (above)", "dim")))
                continue
            if child.relation == "relative":
                self.left -= 1
            if child.relation != "relative" or self.left >= 0:
                self._fill(tree.add(self._label(child)), child)

    def _label(self, told: StoryRow) -> Any:
        asked = told.relation == "asked"
        parts = [(told.id, "bold green" if asked else "bold")]
        origins = [p for e in told.events if _is_origin(told, e) for p in e.places]
        if origins:
            parts.append((f"  {some_of(origins, LISTED)}", "cyan"))
        if asked:
            parts.append(("  ◀ this row", "green"))
        elif not told.events:
            parts.append(("  in nothing that is built", "dim"))
        elif told.row:
            parts.append((f"  {snippet(told.row, 60)}", "dim"))
        return _text(*parts)

    def _line(self, told: StoryRow, events: Sequence[Event]) -> Any:
        """What a step did with a row; for a generated row, with its prompt."""
        event = events[0]
        head = (f"{_place(event):<{self.widths[0]}}  {event.use:<{self.widths[1]}}  ", "")
        style = _STYLES.get(event.what, "")
        places = [] if _is_origin(told, event) else [p for e in events for p in e.places]
        tail = [(f"  {some_of(places, LISTED)}", "cyan")] if places else []
        if event.what == "answered":  # as the view of the evaluation shows it
            kind = self.graph.nodes[event.step].outputs[event.output].kind
            view = self.graph.plugins.view(kind)
            shown = [(of.text, STYLES[of.tone]) for of in view.event(event.facts)]
            return _text(head, *((f"{_short(text)}  ", style) for text, style in shown), *tail)
        origin = event.facts if event.what == "generated" else event.facts.get("made")
        if not origin:
            return _text(head, (_said(events), style), *tail)
        parts = [(_generated(origin), style)]
        if event.what == "dropped":
            parts = [(_said(events), style), (f"\n  {_generated(origin)}", "magenta")]
        exchange = _exchange(origin) if told.relation != "relative" else ()
        lines = [(f"\n  {name}: {_short(text, LONGEST_PROMPT)}", "dim") for name, text in exchange]
        return _text(head, *parts, *tail, *lines)


def _is_origin(told: StoryRow, event: Event) -> bool:
    """Whether the row was read from these places, i.e. the step is its source."""
    return event.step == told.events[0].step and event.what in ("read", "dropped")


def _is_trained(event: Event) -> bool:
    """Whether a training learns from the row."""
    return event.what == "taken" and event.facts["role"] == "train"


def _place(event: Event) -> str:
    return f"{event.step}.{event.output}" if event.output else event.step


def _alike(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Groups of events that differ only in the row's number."""
    groups: dict[tuple[Any, ...], list[Event]] = {}
    for index, event in enumerate(events):
        key = (event.step, event.output, event.what, None if event.number else index)
        groups.setdefault(key, []).append(event)
    yield from groups.values()


def _said(events: Sequence[Event]) -> str:
    what, facts = events[0].what, events[0].facts
    if what == "dropped":
        return f"dropped: {facts.get('reason')}: {facts.get('detail')}"
    if what == "found":
        return f"found: {facts.get('check')}: {facts.get('detail')}"
    if what == "taken":
        return "trained on" if _is_trained(events[0]) else f"taken as {facts['as']}"
    numbers = some_of([str(event.number) for event in events], LISTED)
    return f"{what}, {'rows' if len(events) > 1 else 'row'} {numbers}"


def _generated(facts: Mapping[str, Any]) -> str:
    """The teacher, attempt, template, checks and judge of a generated or judged row."""
    judge, checks = facts.get("judge") or {}, facts.get("checks") or ()
    by = facts.get("model") or judge.get("model")
    parts = [f"by {as_text(by)}"] if by else []
    if facts.get("attempt"):
        parts.append(f"attempt {facts['attempt'] + 1}")
    template = facts.get("template")
    if isinstance(template, dict) and template.get("name") != "default":
        parts.append(f"template {template.get('name')}")
    for check in checks:
        # A check that passed may only repeat the judge's score.
        is_score = check.get("check") == "judge" and "score" in judge
        if not (is_score and check.get("passed") is True):
            parts.append(_checked(check))
    parts += _judged(judge, told="" if facts.get("model") else by, checks=checks)
    verb = "generated" if facts.get("model") or not judge else "judged"
    return f"{verb} {', '.join(parts)}"


def _checked(check: Mapping[str, Any]) -> str:
    """A check and its result: `regex ✓`."""
    passed = {True: " ✓", False: " ✗"}.get(check.get("passed", ""), "")
    value = f" {as_text(check['value'])}" if check.get("value") is not None else ""
    detail = f" ({_short(str(check['detail']))})" if check.get("detail") else ""
    return f"{check.get('check')}{value}{passed}{detail}"


def _judged(
    judge: Mapping[str, Any], told: Any, checks: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """A judge's score and reason, or its verdict on a pair, without what the checks repeat.

    told: the judge, if the text already names it.
    """
    by = f" of {judge['model']}" if judge.get("model") and not told else ""
    if "score" in judge:
        reason = f" ({_short(str(judge['reason']))})" if judge.get("reason") else ""
        yield f"score {as_text(judge['score'])}{by}{reason}"
    if judge.get("scores") and not any(str(c.get("check")).startswith("judge.") for c in checks):
        yield f"scores {as_text(judge['scores'])}{by}"
    for seen in judge.get("orders") or ():
        side = str(seen.get("side") or seen.get("problem") or "no verdict")
        better = f"{side} is better" if side in ("chosen", "rejected") else side
        reason = f" ({_short(str(seen['reason']))})" if seen.get("reason") else ""
        shown = ("chosen first", "rejected first")[bool(seen.get("order"))]
        yield f"{shown}: {better}{reason}"


def _exchange(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(label, text) of the prompt of a generated row, and of answers that the row doesn't hold."""
    for message in facts.get("prompt") or ():
        yield f"prompt, {message.get('role', '')}", as_text(message.get("content") or "")
    if facts.get("answer"):
        yield "answer", as_text(facts["answer"])
    for answer in (facts.get("more") or {}).get("answers") or ():
        checks = ", ".join(_checked(check) for check in answer.get("checks") or ())
        text = as_text(answer.get("answer") or answer.get("problem") or "")
        yield f"answer{f' ({checks})' if checks else ''}", text


def _trained(story: Story) -> Iterator[Any]:
    """A line for each training with the rows of the origin that it learns from."""
    taken: dict[tuple[str, str], list[StoryRow]] = {}
    for told in story.rows:
        for event in told.events:
            if _is_trained(event):
                taken.setdefault((event.step, event.use), []).append(told)
    for (step, _), rows in taken.items():
        names = some_of(["this row" if t.relation == "asked" else t.id for t in rows])
        yield _text((f"{step} trains on {counted(len(rows), 'row')} of this origin: ", ""),
                    (names, "cyan"))  # fmt: skip


def _short(text: str, longest: int = LONGEST) -> str:
    return shortened(" ".join(text.split()), longest)


def _text(*parts: tuple[str, str]) -> Any:
    from rich.text import Text

    return Text.assemble(*((visible(text), style) for text, style in parts))
