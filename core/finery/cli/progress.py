"""What a person sees while a build runs: a live table on a terminal, plain lines elsewhere."""

import time
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from finery.cli.output import duration, is_terminal
from finery.events import Event
from finery.graph import Graph

QUIET_SECONDS = 20.0
"""On plain output, how long a running step stays silent between two lines on its progress."""
MOST_ROWS = 24
"""Steps in the live table; of larger recipes it shows what runs and what just ended."""


class View(Protocol):
    """Listens to a build and shows it."""

    def __call__(self, event: Event) -> None:
        """Take an event."""

    def close(self) -> None:
        """Leave the terminal as it was."""


@dataclass
class _Row:
    """A step as it is shown."""

    name: str
    use: str
    state: str = "waiting"
    started: float = 0.0
    seconds: float = 0.0
    done: float = 0.0
    total: float = 0.0
    text: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    said: float = 0.0

    def take(self, event: Event) -> None:
        """Bring the row up to date with an event of its step."""
        match event["event"]:
            case "step_started":
                self.state, self.started, self.text = "running", time.monotonic(), event["reason"]
                self.said = self.started
            case "step_progress":
                self.done, self.total = event["done"], event["total"]
                self.text = event["text"] or self.text
            case "step_metric":
                self.metrics[event["name"]] = event["value"]
            case "step_finished":
                self.state, self.seconds = "done", event["seconds"]
            case "step_cached":
                self.state = "cached"
            case "step_failed":
                self.state, self.text = "failed", event["error"]["what"]
                self.seconds = time.monotonic() - self.started if self.started else 0.0
            case "step_blocked":
                self.state, self.text = "blocked", f"waits for {event['by']}"

    def remaining(self) -> str:
        """How long it will still take, once that can be told."""
        spent = time.monotonic() - self.started
        if not self.total or self.done <= 0 or spent < 3 or self.done >= self.total:
            return ""
        return f"{duration(spent / self.done * (self.total - self.done))} left"


def listener(stream: IO[str], graph: Graph) -> View:
    """The view that fits the stream."""
    return LiveView(stream) if is_terminal(stream) else PlainView(stream)


class PlainView:
    """A line when a step starts, ends or fails, and now and then on its progress."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._rows: dict[str, _Row] = {}
        self._width = 0

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if event["event"] == "build_started":
            self._rows = {s["step"]: _Row(s["step"], s["use"]) for s in event["steps"]}
            self._width = max(map(len, self._rows), default=0)
            return
        row = self._rows.get(event.get("step", ""))
        if row is None:
            return
        row.take(event)
        match event["event"]:
            case "step_started":
                self._say(row, "run", event["reason"])
            case "step_finished":
                self._say(row, "done", duration(row.seconds))
            case "step_failed":
                self._say(row, "FAILED", row.text)
            case "step_log":
                self._say(row, "note", event["message"])
            case "step_progress" if time.monotonic() - row.said > QUIET_SECONDS:
                row.said = time.monotonic()
                self._say(
                    row,
                    "…",
                    f"{row.done:.0f}/{row.total:.0f} {row.text} {row.remaining()}".rstrip(),
                )

    def close(self) -> None:
        """Nothing to put back."""

    def _say(self, row: _Row, word: str, text: str) -> None:
        print(
            f"  {word:<6}  {row.name:<{self._width}}  {row.use}  {text}".rstrip(),
            file=self._stream,
            flush=True,
        )


class LiveView:
    """A table of all steps that is redrawn in place; started when the first step runs."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._rows: dict[str, _Row] = {}
        self._live: Any = None

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if event["event"] == "build_started":
            self._rows = {s["step"]: _Row(s["step"], s["use"]) for s in event["steps"]}
            return
        row = self._rows.get(event.get("step", ""))
        if row is None:
            return
        row.take(event)
        if event["event"] == "step_started" and self._live is None:
            self._start()
        if event["event"] == "step_log" and self._live is not None:
            self._live.console.print(
                f"[dim]{row.name}:[/] {_escaped(event['message'])}", highlight=False
            )

    def close(self) -> None:
        """Draw the table a last time and leave it standing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._stream)
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=8)
        self._live.start()

    def _table(self) -> Any:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, style="dim")
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column(justify="right", no_wrap=True, style="dim")
        for row in self._shown():
            table.add_row(*self._cells(row))
        table.expand = True
        return table

    def _shown(self) -> list[_Row]:
        rows = list(self._rows.values())
        if len(rows) <= MOST_ROWS:
            return rows
        active = [r for r in rows if r.state in ("running", "failed")]
        ended = sorted((r for r in rows if r.state == "done"), key=lambda r: r.started)
        return [*ended[-(MOST_ROWS - len(active)) :], *active][-MOST_ROWS:]

    def _cells(self, row: _Row) -> list[Any]:
        icon = {
            "waiting": "[dim]·[/]", "running": "[cyan]▸[/]", "done": "[green]✓[/]",
            "cached": "[dim]=[/]", "failed": "[red]✗[/]", "blocked": "[yellow]![/]",
        }[row.state]  # fmt: skip
        name = (
            f"[dim]{row.name}[/]"
            if row.state in ("waiting", "cached", "blocked")
            else f"[bold]{row.name}[/]"
        )
        if row.state == "running":
            clock = duration(time.monotonic() - row.started)
            return [icon, name, row.use, self._progress(row), clock]
        text = {
            "cached": "cached",
            "failed": f"[red]{_escaped(row.text)}[/]",
            "blocked": row.text,
        }.get(row.state, "")
        return [
            icon,
            name,
            row.use,
            f"[dim]{text}[/]" if row.state != "failed" else text,
            duration(row.seconds) if row.seconds else "",
        ]

    def _progress(self, row: _Row) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        if not row.total:
            return f"[dim]{_escaped(row.text)}[/]"
        cells = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=row.total, completed=min(row.done, row.total), width=20)
        text = f"{row.done:.0f}/{row.total:.0f} {row.text}"
        cells.add_row(bar, f"{_escaped(text)}  [dim]{row.remaining()}[/]")
        return cells


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
