"""The classes that a model confuses: a matrix if it fits, and the most frequent pairs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from finery.rows.answers.reading import INVALID
from finery.util.text import counted, visible
from finery_eval.view.tables import WIDEST, new_table, plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PAIRS = 10
"""Pairs of classes that are listed."""
SMALL = 6
"""Classes that a matrix shows at a glance: only the first pairs are listed, for their examples."""
FEW = 3
EXAMPLE = 100
"""Characters of a prompt that are shown as an example."""


class Pair(NamedTuple):
    """`rows` rows of class `right` were answered with class `answered`."""

    right: str
    answered: str
    rows: int


def print_confusion(
    console: "Console",
    model: str,
    field: str,
    data: Mapping[str, Any],
    predictions: Iterable[Mapping[str, Any]],
) -> None:
    """Print the matrix, with numbers for labels in little room, and the top pairs.

    data: `labels` and `matrix`, rows of the expected and columns of the answered class.
    predictions: of this model, for an example of each pair.
    """
    table = _fitting(console, model, field, data)
    if table is not None:
        console.print(table)
    pairs = pairs_of(data)
    if pairs:
        most = PAIRS if table is None or len(data["labels"]) > SMALL else FEW
        examples = _examples(pairs[:most], field, predictions)
        _print_pairs(console, f"{model}: {visible(field)}", pairs, examples, most)


def pairs_of(data: Mapping[str, Any]) -> list[Pair]:
    """The confused pairs, the most frequent first; ties in the order of labels."""
    labels = data["labels"]
    pairs = [
        Pair(labels[i], labels[j], rows)
        for i, line in enumerate(data["matrix"])
        for j, rows in enumerate(line)
        if rows and i != j
    ]
    return sorted(pairs, key=lambda pair: -pair.rows)


def _fitting(console: "Console", model: str, field: str, data: Mapping[str, Any]) -> "Table | None":
    """The widest matrix that fits the terminal; None if none does."""
    unlimited = console.options.update(max_width=WIDEST)
    for numbered in (False, True):
        table = _matrix(model, field, data, numbered=numbered)
        if console.measure(table, options=unlimited).maximum <= console.width:
            return table
    return None


def _matrix(model: str, field: str, data: Mapping[str, Any], *, numbered: bool) -> "Table":
    from rich.markup import escape

    labels = [str(label) for label in data["labels"]]
    table = new_table(f"{model}: {escape(visible(field))} (right ↓, answered →)")
    if numbered:
        table.add_column("", justify="right", style="dim", no_wrap=True)
    table.add_column("", no_wrap=True)
    for number, label in enumerate(labels, 1):
        table.add_column(str(number) if numbered else plain(label), justify="right", no_wrap=True)
    for index, (label, counts) in enumerate(zip(labels, data["matrix"], strict=True)):
        cells = [_count(n, right=index == column) for column, n in enumerate(counts)]
        table.add_row(*([str(index + 1)] if numbered else []), plain(label), *cells)
    return table


def _count(number: int, *, right: bool) -> str:
    if not number:
        return "[dim]·[/]"
    return f"[green]{number}[/]" if right else f"[red]{number}[/]"


def _print_pairs(
    console: "Console",
    title: str,
    pairs: Sequence[Pair],
    examples: Mapping[Pair, tuple[str, str]],
    most: int,
) -> None:
    from rich.text import Text

    more = f", {most} of {len(pairs):,} pairs" if len(pairs) > most else ""
    console.print(Text(f"{title}, most often confused{more}", style="dim"))
    for pair in pairs[:most]:
        line = Text.assemble(
            (f"{pair.rows:>5}  ", "red"), visible(pair.right), (" answered as ", "dim"),
            visible(pair.answered),
        )  # fmt: skip
        console.print(line, soft_wrap=True)
        if pair in examples:
            row_id, prompt = examples[pair]
            console.print(Text(f"       {row_id}  {prompt}", style="dim"), soft_wrap=True)
    rows = sum(pair.rows for pair in pairs[most:])
    if rows:
        console.print(Text(f"       {counted(rows, 'row')} more in other pairs", style="dim"))


def _examples(
    pairs: Sequence[Pair], field: str, predictions: Iterable[Mapping[str, Any]]
) -> dict[Pair, tuple[str, str]]:
    """Pair → the first of its rows: (id, beginning of the prompt)."""
    wanted = {(pair.right, pair.answered): pair for pair in pairs}
    examples: dict[Pair, tuple[str, str]] = {}
    for prediction in predictions:
        pair = wanted.get(_classes(prediction, field))
        if pair is None or pair in examples:
            continue
        prompt = visible(" ".join(str(prediction.get("prompt", "")).split()))
        cut = prompt if len(prompt) <= EXAMPLE else f"{prompt[: EXAMPLE - 1]}…"
        examples[pair] = str(prediction.get("id", "")), cut
        if len(examples) == len(wanted):
            break
    return examples


def _classes(prediction: Mapping[str, Any], field: str) -> tuple[str, str]:
    """(expected, answered) class of a row."""
    expected, answered = prediction.get("expected"), prediction.get("prediction")
    if isinstance(expected, Mapping):
        expected = expected.get(field)
        answered = answered.get(field) if isinstance(answered, Mapping) else None
    return str(expected), INVALID if answered is None else str(answered)
