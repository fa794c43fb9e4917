"""The curve of a training in the terminal, and what it says."""

from collections.abc import Sequence
from typing import Any

from finery.artifact.kinds import Artifact
from finery.artifact.manifest import Manifest
from finery.errors import DataError
from finery.util.paths import shown
from finery_trl.view.curves import CURVE, Point, label, lines, load, metrics, series, verdict

WIDTH, HEIGHT = 100, 18
"""Characters of a plot at most, axes and legend included."""


def curve_of(artifact: Artifact, manifest: Manifest) -> list[Point] | None:
    """The points of an artifact's `curve.json`, None where it has none.

    Raises `DataError` where the file holds something else.
    """
    if CURVE not in manifest.files:
        return None
    path = artifact.file(CURVE)
    try:
        return load(path.read_bytes())
    except ValueError as error:
        raise DataError(
            f"it holds no training curve: {error}",
            where=shown(path),
            fix="its plugin must write a list of points {step, loss, eval_loss, …}",
        ) from error


def kept_step(manifest: Manifest) -> int | None:
    """The optimizer step whose weights a trained model holds, where it says so."""
    step = manifest.meta.get("best_step")
    return step if isinstance(step, int) else None


def show_curve(console: Any, points: Sequence[Point], kept: int | None) -> None:
    """Print the plot, and the verdict in words."""
    from rich.padding import Padding
    from rich.text import Text

    console.print()
    for line in _plotted(points, kept, min(console.width, WIDTH)):
        console.print(line)
    found = verdict(points, kept)
    console.print()
    for text in lines(found):
        said = Text(text, style="yellow" if found.is_bad else "")
        console.print(Padding(said, (0, 0, 0, 2)))


def _plotted(points: Sequence[Point], kept: int | None, width: int) -> list[Any]:
    from finery.cli.plot import Line, plot

    drawn = [
        Line(label("loss"), series(points, "loss"), "cyan"),
        Line(label("eval_loss"), series(points, "eval_loss"), "yellow", "●"),
    ]
    drawn += [
        Line(label(name), series(points, name), "magenta", "▲", right=True)
        for name in metrics(points)[:1]
    ]
    return plot(drawn, width, HEIGHT, kept)
