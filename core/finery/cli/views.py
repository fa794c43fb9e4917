"""One view for each kind of artifact."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from finery.artifact.kinds import Artifact, Dataset, Metrics, Model
from finery.artifact.manifest import Manifest
from finery.cli.console import in_line, size, visible
from finery.cli.curve_view import curve_of, kept_step, show_curve
from finery.cli.drops_view import drops_data, show_drops
from finery.cli.tables import percent, scores_table, stdout
from finery.cli.verdicts import answer_of, compact, reasons
from finery.rows import NOT_CONTENT, Row, split_turns
from finery_data.report.rowfacts import Classes, Lengths, text_parts
from finery_trl.view.curves import verdict

COUNTED = 100_000
"""Rows of a data set that are read for its lengths and classes."""
MOST = 6
"""Classes that are all shown; of more the most and the least frequent are."""
SHOWN_TEXT = 2_000
"""Characters of a text file that is printed, e.g. a Modelfile."""


def as_data(
    artifact: Artifact, manifest: Manifest, rows: int, *, every_drop: bool = False
) -> dict[str, Any]:
    """The artifact as plain data, for `--json`."""
    data: dict[str, Any] = {
        "kind": manifest.kind,
        "digest": manifest.digest,
        "meta": manifest.meta,
        "bytes": manifest.size(),
        "files": {name: nbytes for name, (_, nbytes) in manifest.files.items()},
        "path": str(artifact.path),
    }
    if isinstance(artifact, Dataset):
        data["rows"] = list(itertools.islice(artifact, rows))
        data |= drops_data(artifact, every=every_drop)
    if isinstance(artifact, Metrics):
        data["metrics"] = artifact.report()
    points = curve_of(artifact, manifest)
    if points is not None:
        data["verdict"] = msgspec.to_builtins(verdict(points, kept_step(manifest)))
    return data


def show_artifact(
    title: str, artifact: Artifact, manifest: Manifest, rows: int, *, every_drop: bool = False
) -> None:
    """Print the artifact on stdout; of a dataset's dropped rows the first few, or all."""
    console = stdout()
    console.print(f"[bold]{title}[/]  [dim]{manifest.kind}, {size(manifest.size())}[/]")
    if isinstance(artifact, Dataset):
        _show_dataset(console, artifact, rows)
        show_drops(console, artifact, every=every_drop)
    elif isinstance(artifact, Metrics):
        _show_metrics(console, artifact, rows)
    elif isinstance(artifact, Model):
        _show_model(console, artifact, manifest)
    else:
        _show_facts(console, manifest.meta)
        _show_files(console, artifact, manifest)
        if any(name.endswith(".html") for name in manifest.files):
            console.print(f"  [dim]finery show {title} --html: a copy that browsers open[/]")
    console.print()


def _show_dataset(console: Any, dataset: Dataset, rows: int) -> None:
    _show_facts(console, {**dataset.meta, **_counted(dataset)})
    for row in itertools.islice(dataset, rows):
        console.print()
        for role, text in turns(row):
            console.print(labelled(role, text))
    left = len(dataset) - rows
    if left > 0:
        console.print(f"\n[dim]… and {left} more (--rows N)[/]")


def _counted(dataset: Dataset) -> dict[str, Any]:
    """Lengths and classes of the rows, in a line each."""
    lengths, classes = defaultdict[str, Lengths](Lengths), Classes()
    for row in itertools.islice(dataset, COUNTED):
        classes.add(row)
        for part, text in text_parts(row).items():
            lengths[part].add(len(text))
    first = f", of the first {COUNTED:,} rows" if len(dataset) > COUNTED else ""
    found = {
        part: f"{v.at(0):,} to {v.at(1):,} characters, median {v.at(0.5):,}{first}"
        for part, v in lengths.items()
    }
    return found | {f"by {name}": _classes(counts) for name, counts in classes.found().items()}


def _classes(counts: Counter[str], noun: str = "classes") -> str:
    """How many classes there are, and the most and the least frequent."""
    often = counts.most_common()
    shown = often if len(often) <= MOST else [*often[:3], ("…", 0), *often[-2:]]
    named = ", ".join(f"{_line(name)} {n:,}" if n else name for name, n in shown)
    return f"{len(often):,} {noun}: {named}" if len(often) > 1 else named


def _line(text: str) -> str:
    line = in_line(text)
    return line if len(line) <= 40 else f"{line[:39]}…"


def turns(row: Row) -> Iterator[tuple[str, str]]:
    """(role, text) of each turn of a row, preferences as `chosen` and `rejected`.

    Of a row that is no conversation, each column.
    """
    yield "id", str(row.get("id", ""))
    if "messages" not in row and "prompt" not in row:
        yield from ((k, _fact(v)) for k, v in row.items() if k not in NOT_CONTENT)
        return
    prompt, completion = split_turns(row)
    for message in prompt:
        yield str(message["role"]), _content(message)
    if "rejected" in row:
        rejected = row["rejected"]
        yield "chosen", "\n".join(_content(m) for m in completion)
        yield (
            "rejected",
            rejected if isinstance(rejected, str) else "\n".join(_content(m) for m in rejected),
        )
    else:
        for message in completion:
            yield str(message["role"]), _content(message)


def _content(message: Mapping[str, Any]) -> str:
    text = message.get("content") or ""
    calls = message.get("tool_calls")
    shown = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    return f"{shown}{json.dumps(calls, ensure_ascii=False)}" if calls else shown


def labelled(label: str, text: str) -> Any:
    """A text behind its label, in a column of its own."""
    from rich.table import Table
    from rich.text import Text

    colours = {
        "assistant": "green",
        "chosen": "green",
        "rejected": "red",
        "answered": "red",
        "user": "cyan",
        "id": "dim",
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(
        width=max(9, min(16, len(label))), style=colours.get(label, "yellow"), no_wrap=True
    )
    grid.add_column(ratio=1)
    grid.add_row(visible(label), Text(visible(text), style="dim" if label == "id" else ""))
    return grid


def _show_facts(console: Any, meta: Mapping[str, Any], skip: Sequence[str] = ()) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    shown = {key: _fact(value) for key, value in meta.items() if key not in skip}
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=max([14, *map(len, shown)]), style="cyan", no_wrap=True)
    grid.add_column(ratio=1)
    for key, text in shown.items():
        grid.add_row(key, Text(text))
    if shown:
        console.print(Padding(grid, (0, 0, 0, 2)))


def _fact(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
        text = ", ".join(map(str, value))
    elif value == {}:
        text = "none"
    elif isinstance(value, dict) and len(value) > MOST and _are_counts(value):
        text = _classes(Counter(value), "kinds")
    elif isinstance(value, dict) and all(isinstance(v, str | int | float) for v in value.values()):
        text = ", ".join(f"{k} {v}" for k, v in value.items())
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else text[:299] + "…"


def _are_counts(value: Mapping[str, Any]) -> bool:
    return all(isinstance(number, int) for number in value.values())


def _show_metrics(console: Any, metrics: Metrics, rows: int) -> None:
    report = metrics.report()
    console.print(scores_table({"": report}, f"{report['rows']} rows"))
    for table in report["details"].get("tables", []):
        console.print(_plain_table(table))
    for model, fields in report["details"].get("confusion", {}).items():
        for name, matrix in fields.items():
            console.print(_confusion_table(model, name, matrix))
    wrong = (p for p in metrics.predictions() if p.get("correct") is False)
    shown = list(itertools.islice(wrong, rows))
    if shown:
        console.print("wrong answers:", style="dim")
    for prediction in shown:
        console.print(labelled(str(prediction.get("model", ""))[:9], f"{prediction['id']}"))
        for label, text in _wrong(prediction):
            console.print(labelled(label, text))
    if shown:
        console.print("[dim](finery show --row ID: where a row comes from)[/]")


def _wrong(prediction: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(label, text) of what was expected, what was answered, and why that is wrong."""
    if "expected" in prediction:
        yield "expected", compact(prediction["expected"])
    if "answer" in prediction:
        yield "answered", answer_of(prediction)
    why = list(reasons(prediction))
    if why:
        yield "why", "\n".join(why)


def _plain_table(data: Mapping[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        title=data["title"],
        title_justify="left",
        title_style="dim",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for index, column in enumerate(data["columns"]):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in data["rows"]:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _confusion_table(model: str, field: str, data: Mapping[str, Any]) -> Any:
    """Rows are what was right, columns what was answered."""
    from rich import box
    from rich.table import Table

    labels, matrix = data["labels"], data["matrix"]
    title = f"{model}: {field} (right ↓, answered →)"
    table = Table(
        title=title, title_justify="left", title_style="dim", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("")
    for label in labels:
        table.add_column(str(label), justify="right")
    for index, (label, counts) in enumerate(zip(labels, matrix, strict=True)):
        cells = [_count(n, right=index == column) for column, n in enumerate(counts)]
        table.add_row(str(label), *cells)
    return table


def _count(number: int, *, right: bool) -> str:
    if not number:
        return "[dim]·[/]"
    return f"[green]{number}[/]" if right else f"[red]{number}[/]"


def _show_model(console: Any, model: Model, manifest: Manifest) -> None:
    meta = manifest.meta
    _show_facts(console, meta, skip=("messages",))
    total, trainable = meta.get("parameters"), meta.get("trainable_parameters")
    if total and trainable:
        console.print(
            f"  [cyan]trainable[/]      {percent(trainable / total)} of {total:,} parameters"
        )
    for role, ref in manifest.refs.items():
        facts = [
            str(ref.meta[k]) for k in ("format", "architecture", "quantization") if k in ref.meta
        ]
        console.print(f"  [cyan]{role:<14}[/] {', '.join([*facts, size(ref.size())])}")
    for message in meta.get("messages", [])[:6]:
        console.print(labelled(message["role"], _content(message)))
    _show_files(console, model, manifest)
    points = curve_of(model, manifest)
    if points is not None:
        show_curve(console, points, kept_step(manifest))


def _show_files(console: Any, artifact: Artifact, manifest: Manifest) -> None:
    from rich.text import Text

    console.print(f"  [cyan]files[/]          [dim]{artifact.path}[/]")
    for name, (_, nbytes) in manifest.files.items():
        console.print(Text.assemble(("    ", ""), f"{name}  ", (size(nbytes), "dim")))
    for name, (path, nbytes, _) in manifest.external.items():
        console.print(Text.assemble(("    ", ""), f"{name}  ", (f"{size(nbytes)} → {path}", "dim")))
    text = manifest.files.get("Modelfile")
    if text:
        console.print()
        console.print(Text(artifact.file("Modelfile").read_text(encoding="utf-8")[:SHOWN_TEXT]))
