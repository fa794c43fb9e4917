"""The display of a running build: a live table on a terminal, plain lines elsewhere."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from finery.cli.console import is_terminal, print_error, with_recipe
from finery.errors import PluginError
from finery.recipe.graph import Graph
from finery.util.events import Event
from finery.util.text import clip_at_word, counted, duration, in_dollars, in_line, size, visible
from finery.views.parts import Quantity, Tone, cell_text
from finery.views.terminal import STYLES
from finery.views.view import LiveMetric, declared_metric, metrics_of

QUIET_SECONDS, QUIETEST_SECONDS = 20.0, 300.0
"""Shortest and longest time between two progress lines of a step in plain output. In between, it is
a tenth of the time that the step has run."""
WINDOW = 20
"""The number of recent progress reports from which the remaining time is estimated."""
PAUSE = 3.0
"""A report that takes so many times as long as the others is a pause, e.g. a validation."""
NARROW = 100
"""Narrowest terminal, in columns, for which the table has a column of step types."""
GAP = 2
"""Columns between two parts of a line."""
MOST_ROWS = 24
"""Most steps in the live table. Of a larger recipe, it shows running and recent steps."""


Styles = Callable[[str], Mapping[str, LiveMetric]]
"""Step → the styles of its metrics, see `finery.views.LiveMetric`."""


class Pace:
    """Estimates the remaining time from recent reports and from all pauses between them."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)  # seconds each, newest last
        self._total = self._done = self._counted = self._paused = 0.0
        self._at: float | None = None

    def take(self, done: float, total: float, now: float) -> None:
        """Add a report: `done` of `total` at the time `now`, in seconds of any clock."""
        if total != self._total or done < self._done or self._at is None:  # another piece of work
            self._recent.clear()
            self._total, self._done, self._at = total, done, now
            self._counted = self._paused = 0.0
            return
        number = done - self._done
        if number <= 0:
            return
        each = (now - self._at) / number
        if len(self._recent) >= 3 and each > PAUSE * median(self._recent):
            self._paused += (each - median(self._recent)) * number
        self._recent.append(each)
        self._counted += number
        self._done, self._at = done, now

    def left(self, now: float) -> float | None:
        """Seconds left at the time `now`; None if there are too few reports.

        Without new reports, e.g. during a validation, it stops falling after the time of one step.
        """
        if len(self._recent) < 3 or self._at is None or self._done >= self._total:
            return None
        usual = median(self._recent)
        each = usual + self._paused / self._counted
        return max(0.0, each * (self._total - self._done) - min(now - self._at, usual))


def median(values: Collection[float]) -> float:
    """The median. (The module `statistics` takes 5 ms to import.)"""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


class LinePart(NamedTuple):
    """A part of a running step's line. rank: those with a low one are kept in a narrow terminal."""

    text: str
    tone: Tone
    rank: int


@dataclass
class _Row:
    """The state of a step in the display."""

    name: str
    use: str
    state: str = "waiting"
    started: float = 0.0
    seconds: float = 0.0
    dollars: float = 0.0
    done: float = 0.0
    total: float = 0.0
    text: str = ""
    styles: Mapping[str, LiveMetric] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    lowest: dict[str, float] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    printed: float = 0.0
    has_news: bool = False  # a validation that plain output hasn't printed

    def take(self, event: Event) -> None:
        """Update the row with an event of its step."""
        match event["event"]:
            case "step_started":
                self.state, self.started, self.text = "running", time.monotonic(), event["reason"]
                self.printed = self.started
            case "step_progress":
                self.done, self.total = event["done"], event["total"]
                self.text = in_line(event["text"])
                self.pace.take(self.done, self.total, time.monotonic())
            case "step_metric":
                name, value = event["name"], event["value"]
                self.values[name] = value
                self.lowest[name] = min(value, self.lowest.get(name, value))
                self.has_news |= declared_metric(name, self.styles).style.validation
            case "step_finished":
                self.state, self.seconds = "done", event["seconds"]
                self.dollars = event.get("dollars", 0.0)
            case "step_cached":
                self.state, self.text = "cached", event["reason"] or "cached"
            case "step_failed":
                self.state, self.text = "failed", in_line(event["error"]["what"])
                self.seconds = time.monotonic() - self.started if self.started else 0.0
            case "step_blocked":
                self.state, self.text = "blocked", f"blocked by {event['by']}"

    def parts(self) -> Iterator[LinePart]:
        """The parts of a running step's line, in order."""
        if self.total:
            yield LinePart(f"{self.done:.0f}/{self.total:.0f}", "", 0)
        if self.text:
            yield LinePart(visible(self.text), "" if self.total else "soft", 1)
        yield from self.measures()
        eta = self.pace.left(time.monotonic())
        if eta is not None:
            yield LinePart(f"{duration(eta) if eta >= 1 else 'a moment'} left", "soft", 3)

    def measures(self, *, lasting: bool = False) -> Iterator[LinePart]:
        """The newest metrics, in order. lasting: only those shown after the step ended."""
        declared = {name: declared_metric(name, self.styles) for name in self.values}
        hidden = {metric.style.hides for metric in declared.values()}
        for name in sorted(self.values, key=lambda n: (declared[n].place, n)):
            style, value = declared[name].style, self.values[name]
            if name in hidden or (lasting and not style.lasting):
                continue
            number = cell_text(Quantity(value, style.unit) if style.unit else value)
            text = visible(style.text.format(name=declared[name].label, value=number))
            if style.lower_is_better and value > self.lowest[name]:
                yield LinePart(f"{text}↑", "warning", style.rank)
            else:
                yield LinePart(text, style.tone, style.rank)

    def lasting(self) -> str:
        """The text for a finished step: its last metrics, and the cost of its answers."""
        words = [part.text for part in self.measures(lasting=True)]
        return "  ".join([*words, in_dollars(self.dollars)] if self.dollars else words)

    def is_due(self, now: float) -> bool:
        """Whether it is time for a progress line in plain output."""
        quiet = now - self.printed
        longest = min(max(QUIET_SECONDS, (now - self.started) / 10), QUIETEST_SECONDS)
        return quiet > longest or (self.has_news and quiet > QUIET_SECONDS / 4)


class Progress:
    """Listens to a build and shows it: the rows of all steps by name, updated by events."""

    def __init__(self, stream: IO[str], styles: Styles) -> None:
        self.stream = stream
        self.rows: dict[str, _Row] = {}
        self._styles = styles
        self._noted: set[tuple[str, str]] = set()

    def __call__(self, event: Event) -> None:
        """Update the display with an event."""
        if event["event"] == "build_started":
            self.rows = {s["step"]: _Row(s["step"], s["use"]) for s in event["steps"]}
        row = self.rows.get(event.get("step", ""))
        if row is not None:
            if event["event"] == "step_started":
                row.styles = self._styles(row.name)
            row.take(event)
        self.show(event, row)

    def show(self, event: Event, row: _Row | None) -> None:
        """Show an event. row: the updated row of its step."""
        raise NotImplementedError

    def close(self) -> None:
        """Restore the terminal."""

    def note(self, step: str, note: Event) -> tuple[str, str]:
        """(a note without the name of its step, how to fix it unless that was said before)."""
        kind = note["name"], note["fix"]
        fix = "" if kind in self._noted else in_line(with_recipe(note["fix"]))
        self._noted.add(kind)
        text = in_line(note["text"])
        for name in (step, step.partition("@")[0]):  # a note on all variants names the step
            text = text.removeprefix(f"{name} ").removeprefix(f"{name}: ")
        return f"{text} ({note['name']})", fix


def listener(stream: IO[str], graph: Graph) -> Progress:
    """The display that fits the stream."""

    def styles(step: str) -> Mapping[str, LiveMetric]:
        try:
            return metrics_of(type(graph.nodes[step].step))
        except PluginError as error:  # this doesn't fail the step
            print_error(error)
            return {}

    return LiveProgress(stream, styles) if is_terminal(stream) else PlainProgress(stream, styles)


class PlainProgress(Progress):
    """Prints a line when a step starts, ends or fails, and sometimes about its progress."""

    def __init__(self, stream: IO[str], styles: Styles) -> None:
        super().__init__(stream, styles)
        self._transferred = time.monotonic()  # when a transfer was last reported

    def show(self, event: Event, row: _Row | None) -> None:
        """Print a line about it, if there is something to say."""
        now = time.monotonic()
        if event["event"] == "transfer" and now - self._transferred > QUIET_SECONDS:
            self._transferred = now
            self._print("…", f"shared store: {transfer_words(event)}")
        if row is None:
            return
        match event["event"]:
            case "step_started":
                self._print_step(row, "run", event["reason"])
            case "step_cached" if event["reason"]:
                self._print_step(row, "cached", row.text)
            case "step_finished":
                self._print_step(row, "done", f"{duration(row.seconds)}  {row.lasting()}")
            case "step_failed":
                self._print_step(row, "FAILED", row.text)
            case "step_log":
                self._print_step(row, "log", event["message"])
            case "step_note":
                text, fix = self.note(row.name, event)
                self._print_step(row, "note", text)
                if fix:
                    self._print("", f"fix: {fix}")
            case "step_progress" if row.is_due(now):
                row.printed, row.has_news = now, False
                self._print_step(row, "…", "  ".join(part.text for part in row.parts()))

    def _print_step(self, row: _Row, word: str, text: str) -> None:
        self._print(word, f"{row.name:<{max(map(len, self.rows))}}  {row.use}  {text}")

    def _print(self, word: str, text: str) -> None:
        print(visible(f"  {word:<6}  {text}").rstrip(), file=self.stream, flush=True)


class LiveProgress(Progress):
    """A table of all steps, redrawn in place. It starts with the first step that runs."""

    def __init__(self, stream: IO[str], styles: Styles) -> None:
        super().__init__(stream, styles)
        self._live: Any = None
        self._console: Any = None
        self._transfer = ""

    def show(self, event: Event, row: _Row | None) -> None:
        """Print logs and notes above the table."""
        if event["event"] == "transfer":
            self._transfer = transfer_words(event)
        if event["event"] in ("step_started", "step_log", "transfer") and self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._console = console = Console(file=self.stream)
            self._live = Live(get_renderable=self._table, console=console, refresh_per_second=8)
            self._live.start()
        if row is None or self._live is None or event["event"] not in ("step_log", "step_note"):
            return
        from rich.markup import escape

        line = f"[dim]{row.name}:[/] {escape(event.get('message', ''))}"
        if event["event"] == "step_note":
            text, fix = self.note(row.name, event)
            line = f"[yellow]note:[/] {row.name} {escape(text)}"
            line += f"\n  [green]fix:[/] {escape(fix)}" if fix else ""
        self._console.print(visible(line), highlight=False)

    def close(self) -> None:
        """Draw the table one last time and leave it on the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> Any:
        from rich.table import Table

        width = self._console.width
        is_wide = width >= NARROW
        table = Table.grid(padding=(0, 2))
        table.width = width - len("^C")  # a break of the line would scroll the table
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        if is_wide:
            table.add_column(no_wrap=True, style="dim")
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column(justify="right", no_wrap=True, style="dim")
        rows = list(self.rows.values())
        if len(rows) > MOST_ROWS:
            active = [row for row in rows if row.state in ("running", "failed")]
            ended = sorted((r for r in rows if r.state == "done"), key=lambda row: row.started)
            rows = [*ended[-(MOST_ROWS - len(active)) :], *active][-MOST_ROWS:]
        for row in rows:
            style = "dim" if row.state in ("waiting", "cached", "blocked") else "bold"
            use = [row.use] if is_wide else []
            is_running = row.state == "running"
            seconds = time.monotonic() - row.started if is_running else row.seconds
            clock = duration(seconds) if seconds or is_running else ""
            table.add_row(ICONS[row.state], f"[{style}]{row.name}[/]", *use, _Line(row), clock)
        if len(self.rows) > table.row_count:  # how many are in each state
            states = Counter(row.state for row in self.rows.values())
            counts = ", ".join(f"{states[state]} {state}" for state in ICONS if states[state])
            table.add_row("", f"[dim]{counts}[/]")
        if self._transfer:
            table.add_row("", "[dim]shared store[/]", *([""] if is_wide else []), self._transfer)
        return table


ICONS = {
    "waiting": "[dim]·[/]", "running": "[cyan]▸[/]", "done": "[green]✓[/]",
    "cached": "[dim]=[/]", "failed": "[red]✗[/]", "blocked": "[yellow]![/]",
}  # fmt: skip


def transfer_words(event: Event) -> str:
    """What is being copied from and to a shared store."""
    words = []
    if event["wanted"]:
        words.append(f"fetched {size(event['fetched'])} of {size(event['wanted'])}")
    if event["pushed"]:
        words.append(f"pushed {size(event['pushed'])}")
    if event["waiting"]:
        words.append(f"{counted(event['waiting'], 'result')} to push")
    return ", ".join(words)


class _Line:
    """What a step does or did, in the width that is available."""

    def __init__(self, row: _Row) -> None:
        self._row = row

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """Draw it: of a running step, a bar and as many parts as fit, by rank."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row, width = self._row, options.max_width
        if row.state != "running":
            text = row.lasting() if row.state == "done" else row.text
            style = "red" if row.state == "failed" else "dim"
            yield Text(clip_at_word(text, width), style, no_wrap=True, overflow="ellipsis")
            return
        parts = fitting(list(row.parts()), width)
        line = clip_at_word("  ".join(part.text for part in parts), width)
        text_line = Text(line, no_wrap=True, overflow="ellipsis")
        start = 0
        for part in parts:
            text_line.stylize(STYLES[part.tone], start, start + len(part.text))
            start += len(part.text) + GAP
        bar = min(20, width - start) if row.total else 0
        if bar < 5:
            yield text_line
            return
        done = ProgressBar(total=row.total, completed=min(row.done, row.total), width=bar)
        cells = Table.grid(padding=(0, GAP, 0, 0))
        cells.add_row(done, text_line)
        yield cells


def fitting(parts: list[LinePart], width: int) -> list[LinePart]:
    """As many parts as fit in `width` columns, chosen by rank and kept in order."""
    shown_rows: set[int] = set()
    room = width + GAP  # the first has no gap before it
    for index in sorted(range(len(parts)), key=lambda i: parts[i].rank):
        needed = len(parts[index].text) + GAP
        if shown_rows and needed > room:
            break
        shown_rows.add(index)
        room -= needed
    return [part for index, part in enumerate(parts) if index in shown_rows]
