"""The classes that a model confuses: a matrix if it fits, and the most frequent pairs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from finery.rows.answers.reading import INVALID
from finery.util.text import counted, visible
from finery_eval.steps.classification import Matrix
from finery_eval.view.tables import fits, new_table, plain

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


WIDEST = 120
"""Widest matrix in columns, also where there is more room. A list of pairs is easier to read."""


class Pair(NamedTuple):
    """`rows` rows of class `right` were answered with class `answered`."""

    right: str
    answered: str
    rows: int


def print_confusion(
    console: "Console",
    model: str,
    field: str,
    data: Matrix,
    predictions: Iterable[Mapping[str, Any]],
) -> None:
    """Print the matrix, with numbers for labels in little room, and the top pairs.

    predictions: of this model, for an example of each pair.
    """
    from rich.table import Table
    from rich.text import Text

    tables = (_matrix(model, field, data, numbered=numbered) for numbered in (False, True))
    table = next((table for table in tables if fits(console, table, WIDEST)), None)
    if table is not None:
        console.print(table)
    pairs = pairs_of(data)
    if not pairs:
        return
    most = PAIRS if table is None or len(data.labels) > SMALL else FEW
    examples = _examples(pairs[:most], field, predictions)
    more = f", {most} of {len(pairs):,} pairs" if len(pairs) > most else ""
    console.print(Text(f"{model}: {visible(field)}, most often confused{more}", style="dim"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", min_width=5, style="red")
    grid.add_column(overflow="fold")
    for pair in pairs[:most]:
        right, answered = (visible(" ".join(name.split())) for name in (pair.right, pair.answered))
        grid.add_row(str(pair.rows), Text.assemble(right, (" answered as ", "dim"), answered))
        if pair in examples:
            grid.add_row("", Text(examples[pair], style="dim"))
    console.print(grid)
    rows = sum(pair.rows for pair in pairs[most:])
    if rows:
        console.print(Text(f"       {counted(rows, 'row')} more in other pairs", style="dim"))


def pairs_of(data: Matrix) -> list[Pair]:
    """The confused pairs, the most frequent first; ties in the order of labels."""
    labels = data.labels
    pairs = [
        Pair(labels[i], labels[j], rows)
        for i, line in enumerate(data.matrix)
        for j, rows in enumerate(line)
        if rows and i != j
    ]
    return sorted(pairs, key=lambda pair: -pair.rows)


def _matrix(model: str, field: str, data: Matrix, *, numbered: bool) -> "Table":
    from rich.markup import escape

    labels = data.labels
    table = new_table(f"{model}: {escape(visible(field))} (right ↓, answered →)")
    if numbered:
        table.add_column("", justify="right", style="dim", no_wrap=True)
    table.add_column("", no_wrap=True)
    for number, label in enumerate(labels, 1):
        table.add_column(str(number) if numbered else plain(label), justify="right", no_wrap=True)
    for index, (label, counts) in enumerate(zip(labels, data.matrix, strict=True)):
        cells = [
            f"[{'green' if index == column else 'red'}]{n}[/]" if n else "[dim]·[/]"
            for column, n in enumerate(counts)
        ]
        table.add_row(*([str(index + 1)] if numbered else []), plain(label), *cells)
    return table


def _examples(
    pairs: Sequence[Pair], field: str, predictions: Iterable[Mapping[str, Any]]
) -> dict[Pair, str]:
    """Pair → the first of its rows: its id and the beginning of its prompt."""
    wanted = {(pair.right, pair.answered): pair for pair in pairs}
    examples: dict[Pair, str] = {}
    for prediction in predictions:
        expected, answered = prediction.get("expected"), prediction.get("prediction")
        if isinstance(expected, Mapping):
            expected = expected.get(field)
            answered = answered.get(field) if isinstance(answered, Mapping) else None
        pair = wanted.get((str(expected), INVALID if answered is None else str(answered)))
        if pair is not None and pair not in examples:
            prompt = visible(" ".join(str(prediction.get("prompt", "")).split()))
            cut = prompt if len(prompt) <= EXAMPLE else f"{prompt[: EXAMPLE - 1]}…"
            examples[pair] = f"{prediction.get('id', '')}  {cut}"
            if len(examples) == len(wanted):
                break
    return examples
