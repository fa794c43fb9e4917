"""What differs between two outputs of a step that ran twice with the same key."""

from collections.abc import Iterator
from itertools import takewhile, zip_longest
from typing import Any, NamedTuple

import click

from finery.artifact.manifest import Manifest, Result
from finery.cli.views import context_of, stdout
from finery.compare.outputs import output_of, titled, view_of
from finery.errors import DataError
from finery.plugin.manager import Plugins
from finery.recipe.graph import Graph
from finery.rows.report import read_report
from finery.store.database import Store
from finery.util.text import counted, in_line, shortened, some_of, visible
from finery.views.terminal import print_sections
from finery.views.view import Detail, comparison_of

ROWS = 3
"""Rows of each kind that are printed."""
LONGEST = 100
"""Characters of a line that are printed."""


class Redone(NamedTuple):
    """An output before and after, with the stores that have them."""

    title: str
    before: Manifest
    after: Manifest
    stores: tuple[Store, Store]

    @property
    def is_same(self) -> bool:
        """Whether both have the same bytes and facts."""
        return self.before.digest == self.after.digest

    def files(self) -> list[str]:
        """The names of the files that differ, or that only one of them has."""
        old_files, two = self.before.files, self.after.files
        return [name for name in sorted({*old_files, *two}) if old_files.get(name) != two.get(name)]

    def data(self, plugins: Plugins) -> dict[str, Any]:
        """The same for `--json`."""
        digests = [self.before.digest, self.after.digest]
        data = {"name": self.title, "digests": digests, "files": self.files()}
        return data if self.is_same else data | {"difference": self._difference(plugins)[0]}

    def print(self, graph: Graph) -> None:
        """Say where they differ: by their view, then by the first line of the first file."""
        plugins = graph.plugins
        if self.is_same:
            count = counted(len(self.after.files), "file")
            click.secho(f"{self.title}: the same output as before ({count})", fg="green")
            return
        names = self.files()
        subject = some_of(names) if names else "only facts about it"
        click.secho(f"{self.title}: another output than before: {subject}", fg="yellow")
        try:
            data, (before, after) = self._difference(plugins)
            view = view_of(plugins, self.after)
            context = context_of(graph, self.stores[1], detail=Detail(ROWS))
            print_sections(stdout(), comparison_of(view, before, after, context))
        except DataError as error:  # the old one may be wrong, which is why it was made again
            data = {}
            click.echo(f"  can't be compared: {visible(error.what)}")
        for line in () if data else self._first_line():
            click.echo(f"  {line}")

    def _difference(self, plugins: Plugins) -> tuple[dict[str, Any], tuple[Any, Any]]:
        before, after = (
            output_of(plugins, store, self.title, manifest)
            for store, manifest in zip(self.stores, (self.before, self.after), strict=True)
        )
        return view_of(plugins, self.after).difference(before, after), (before, after)

    def _first_line(self) -> Iterator[str]:
        """The first line that differs, of the first text that both have."""
        for name in self.files():
            if name not in self.before.files or name not in self.after.files:
                continue
            manifests = zip(self.stores, (self.before, self.after), strict=True)
            paths = [store.blob(manifest.files[name][0]) for store, manifest in manifests]
            try:
                with paths[0].open(encoding="utf-8") as one, paths[1].open(encoding="utf-8") as two:
                    pairs = enumerate(zip_longest(one, two, fillvalue=""), 1)
                    number, lines = next((n, both) for n, both in pairs if both[0] != both[1])
            except (UnicodeDecodeError, StopIteration):  # not text
                continue
            same = takewhile(lambda both: both[0] == both[1], zip(*lines, strict=False))
            start = max(0, sum(1 for _ in same) - LONGEST // 2)
            yield f"{name}, line {number}:"
            for mark, line in zip("−+", lines, strict=True):
                part = in_line(line[start : start + 2 * LONGEST])
                yield f"  {mark} {'…' if start else ''}{shortened(part, LONGEST)}"
            return


def redone(step: str, before: Result, after: Result, stores: tuple[Store, Store]) -> list[Redone]:
    """The outputs of a step before and after."""
    old, new = titled(step, before.outputs), titled(step, after.outputs)
    stores[0].shared.bring(old.values())
    return [Redone(title, old[title], new[title], stores) for title in old]


class Score(NamedTuple):
    """A score before and after. interval: of the one before, if it has one."""

    evaluator: str
    model: str
    metric: str
    before: float
    after: float | None
    interval: tuple[float, float] | None

    @property
    def is_within(self) -> bool:
        """Whether the new score is in the interval of the old one, or equal to it."""
        if self.after is None or self.interval is None:
            return self.after == self.before
        return self.interval[0] <= self.after <= self.interval[1]


def scores(pair: Redone) -> Iterator[Score]:
    """All scores of an evaluation."""
    old, new = (
        read_report(store.artifact(manifest).path)
        for store, manifest in zip(pair.stores, (pair.before, pair.after), strict=True)
    )
    for model, scores_of in old.scores.items():
        for metric, score in scores_of.items():
            after = new.score(model, metric)
            now = after.value if after else None
            yield Score(pair.title, model, metric, score.value, now, score.interval)
