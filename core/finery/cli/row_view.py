"""`finery show --row ID`: the story of a row as a tree, from its source to the answers to it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finery.lineage.story import Event, Story, StoryRow
from finery.recipe.graph import Graph
from finery.rows import snippet
from finery.util.text import counted, shortened, some_of
from finery.views.parts import Hint, Part, Record, Text, Tone, Tree, as_text, record_of

MOST_RELATIVES = 20
"""Relatives that are shown. The others are counted."""
MOST_PLACES = 3
"""Places of a row, or equal rows, that are listed."""
MOST_NEAR = 5
"""Maximum number of rows dropped because of this row that are shown."""
LONGEST = 400
"""Maximum characters of an answer or a reason that are shown."""
LONGEST_PROMPT = 4_000
"""Maximum characters of a turn of a prompt that are shown."""
_TONES: Mapping[str, Tone] = {"dropped": "warning", "found": "warning"}


def story_parts(graph: Graph, story: Story) -> Iterator[Part]:
    """The row, the trees of the rows of its origin, and the trainings that use them."""
    target = story.row_with_id(story.id)
    assert target is not None
    yield Record([field for field in record_of(target.row or {}).fields if field.label != "id"])
    yield from _Trees(graph, story).parts()
    trained: dict[str, list[StoryRow]] = {}
    for row in story.rows:
        for event in row.events:
            if _is_trained(event):
                trained.setdefault(event.step, []).append(row)
    for step, rows in trained.items():
        names = some_of(["this row" if row.relation == "asked" else row.id for row in rows])
        yield Text(f"{step} trains on {counted(len(rows), 'row')} of this origin: {names}")
    for near in story.near[:MOST_NEAR]:
        yield Text(f"{_place(near)} dropped {near.id}  {near.detail}", "warning")
    if len(story.near) > MOST_NEAR:
        yield Text(f"… and {len(story.near) - MOST_NEAR} more rows because of this one", "soft")
    yield from (Text(f"note: {note}", "warning") for note in story.notes)
    if story.stale:
        text = f"not up to date: {', '.join(story.stale)} (shown as of the last build)"
        yield Text(text, "warning")


class _Trees:
    """The rows of a story as trees, one for each row without parents."""

    def __init__(self, graph: Graph, story: Story) -> None:
        self.graph = graph
        self.rows = story.rows
        self.shown: set[str] = set()
        self.room = MOST_RELATIVES
        events = [event for row in story.rows for event in row.events]
        self.place_width = max((len(_place(event)) for event in events), default=0)
        self.use_width = max((len(event.use) for event in events), default=0)
        self.children: dict[str, list[StoryRow]] = {}
        for row in story.rows:
            for parent in row.parents:
                self.children.setdefault(parent, []).append(row)

    def parts(self) -> Iterator[Part]:
        """All trees, with at most `MOST_RELATIVES` relatives."""
        ids = {row.id for row in self.rows}
        roots = [row for row in self.rows if ids.isdisjoint(row.parents)]
        # The others are rows that were made of each other.
        for row in (*roots, *(row for row in self.rows if row.relation != "relative")):
            if row.id not in self.shown:
                yield self._tree(row)
        if hidden := len(ids - self.shown):
            yield Hint(f"… and {counted(hidden, 'more row')} of this origin (--json)")

    def _tree(self, row: StoryRow) -> Tree:
        """A row, with what each step did with it and the rows that were made from it."""
        self.shown.add(row.id)
        groups: dict[tuple[Any, ...], list[Event]] = {}  # equal but for the row's number
        for index, event in enumerate(row.events):
            key = (event.step, event.output, event.what, None if event.number else index)
            groups.setdefault(key, []).append(event)
        branches = [self._event(row, events) for events in groups.values()]
        for child in self.children.get(row.id, ()):
            if child.id in self.shown:
                branches.append(Tree([Text(f"{child.id}  (above)", "soft")]))
                continue
            self.room -= child.relation == "relative"
            if child.relation != "relative" or self.room >= 0:
                branches.append(self._tree(child))
        is_asked = row.relation == "asked"
        texts = [Text(row.id, "good" if is_asked else "strong")]
        origins = [p for event in row.events if _is_origin(row, event) for p in event.places]
        texts += _places(origins)
        if is_asked:
            texts.append(Text("◀ this row", "good"))
        elif not row.events:
            texts.append(Text("in nothing that is built", "soft"))
        elif row.row:
            texts.append(Text(snippet(row.row, 60), "soft"))
        return Tree(texts, branches)

    def _event(self, row: StoryRow, events: Sequence[Event]) -> Tree:
        """What a step did with a row; for a generated row, with its prompt."""
        event = events[0]
        head = Text(f"{_place(event):<{self.place_width}}  {event.use:<{self.use_width}}")
        places = [] if _is_origin(row, event) else [p for each in events for p in each.places]
        if event.what == "answered":  # as the view of the evaluation shows it
            view = self.graph.plugins.view(self.graph.nodes[event.step].outputs[event.output].kind)
            texts = [text._replace(text=_short(text.text)) for text in view.event(event.facts)]
            return Tree([head, *texts, *_places(places)])
        is_generated = event.what == "generated"
        origin: Mapping[str, Any] = event.facts if is_generated else event.facts.get("made") or {}
        text = _origin_text(origin) if is_generated else _event_text(events)
        below = [_origin_text(origin)] if origin and event.what == "dropped" else []
        if origin and row.relation != "relative":
            below += [f"{name}: {_short(text, LONGEST_PROMPT)}" for name, text in _exchange(origin)]
        line = [head, Text(text, _TONES.get(event.what, "")), *_places(places)]
        return Tree(line, [Tree([Text(each, "soft")]) for each in below])


def _is_origin(row: StoryRow, event: Event) -> bool:
    """Whether the row was read from these places, i.e. the step is its source."""
    return event.step == row.events[0].step and event.what in ("read", "dropped")


def _is_trained(event: Event) -> bool:
    """Whether a training learns from the row."""
    return event.what == "taken" and event.facts["role"] == "train"


def _place(event: Any) -> str:
    return f"{event.step}.{event.output}" if event.output else event.step


def _places(places: Sequence[str]) -> list[Text]:
    return [Text(some_of(places, MOST_PLACES), "soft")] if places else []


def _event_text(events: Sequence[Event]) -> str:
    kind, facts = events[0].what, events[0].facts
    if kind == "dropped":
        return f"dropped: {facts.get('reason')}: {facts.get('detail')}"
    if kind == "found":
        return f"found: {facts.get('check')}: {facts.get('detail')}"
    if kind == "taken":
        return "trained on" if _is_trained(events[0]) else f"taken as {facts['as']}"
    numbers = some_of([str(event.number) for event in events], MOST_PLACES)
    return f"{kind}, {'rows' if len(events) > 1 else 'row'} {numbers}"


def _origin_text(facts: Mapping[str, Any]) -> str:
    """The teacher, attempt, template, checks and judge of a generated or judged row."""
    judge, checks = facts.get("judge") or {}, facts.get("checks") or ()
    author = facts.get("model")
    by = author or judge.get("model")
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
            parts.append(_check_text(check))
    of_judge = f" of {judge['model']}" if author and judge.get("model") else ""
    if "score" in judge:
        parts.append(f"score {as_text(judge['score'])}{of_judge}{_reason(judge)}")
    if judge.get("scores") and not any(str(c.get("check")).startswith("judge.") for c in checks):
        parts.append(f"scores {as_text(judge['scores'])}{of_judge}")
    for verdict in judge.get("orders") or ():
        side = str(verdict.get("side") or verdict.get("problem") or "no verdict")
        better = f"{side} is better" if side in ("chosen", "rejected") else side
        order = ("chosen first", "rejected first")[bool(verdict.get("order"))]
        parts.append(f"{order}: {better}{_reason(verdict)}")
    return f"{'generated' if author or not judge else 'judged'} {', '.join(parts)}"


def _check_text(check: Mapping[str, Any]) -> str:
    """A check and its result: `regex ✓`."""
    passed = {True: " ✓", False: " ✗"}.get(check.get("passed", ""), "")
    value = f" {as_text(check['value'])}" if check.get("value") is not None else ""
    return f"{check.get('check')}{value}{passed}{_reason(check, 'detail')}"


def _reason(facts: Mapping[str, Any], name: str = "reason") -> str:
    return f" ({_short(str(facts[name]))})" if facts.get(name) else ""


def _exchange(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(label, text) of the prompt of a generated row, and of answers that the row doesn't hold."""
    for message in facts.get("prompt") or ():
        yield f"prompt, {message.get('role', '')}", as_text(message.get("content") or "")
    if facts.get("answer"):
        yield "answer", as_text(facts["answer"])
    for answer in (facts.get("more") or {}).get("answers") or ():
        checks = ", ".join(_check_text(check) for check in answer.get("checks") or ())
        text = as_text(answer.get("answer") or answer.get("problem") or "")
        yield f"answer{f' ({checks})' if checks else ''}", text


def _short(text: str, longest: int = LONGEST) -> str:
    return shortened(" ".join(text.split()), longest)
