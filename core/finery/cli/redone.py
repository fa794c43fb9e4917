"""What differs between two outputs of a step that ran twice with the same key."""

import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import click

from finery.artifact.manifest import Manifest, Result
from finery.cli.views import stdout
from finery.compare.outputs import output_of, titled, view_of
from finery.plugin.manager import Plugins
from finery.rows.files import METRICS
from finery.store.database import Store
from finery.util.text import counted, in_line, shortened, some_of

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
        one, two = self.before.files, self.after.files
        return [name for name in sorted({*one, *two}) if one.get(name) != two.get(name)]

    def data(self, plugins: Plugins) -> dict[str, Any]:
        """The same for `--json`."""
        found = {} if self.is_same else {"difference": self._difference(plugins)[0]}
        digests = [self.before.digest, self.after.digest]
        return {"name": self.title, "digests": digests, "files": self.files(), **found}

    def print(self, plugins: Plugins) -> None:
        """Say where they differ: by their view, then by the first line of the first file."""
        if self.is_same:
            count = counted(len(self.after.files), "file")
            click.secho(f"{self.title}: the same output as before ({count})", fg="green")
            return
        names = self.files()
        what = some_of(names) if names else "only facts about it"
        click.secho(f"{self.title}: another output than before: {what}", fg="yellow")
        data, (before, after) = self._difference(plugins)
        view_of(plugins, self.after).print_difference(stdout(), before, after, data, ROWS)
        for line in () if data else self._first_line():
            click.echo(f"  {line}")

    def _difference(self, plugins: Plugins) -> tuple[dict[str, Any], tuple[Any, Any]]:
        before, after = (
            output_of(plugins, store, self.title, manifest)
            for store, manifest in zip(self.stores, (self.before, self.after), strict=True)
        )
        return view_of(plugins, self.after).difference(before, after), (before, after)

    def _first_line(self) -> Iterator[str]:
        """The first line that differs, of the first file of text that both have."""
        for name in self.files():
            if name not in self.before.files or name not in self.after.files:
                continue
            paths = [s.blob(m.files[name][0]) for s, m in zip(
                self.stores, (self.before, self.after), strict=True)]  # fmt: skip
            if line := first_difference(*paths):
                number, old, new = line
                yield f"{name}, line {number}:"
                yield from (f"  {mark} {text}" for mark, text in (("−", old), ("+", new)))
                return


def first_difference(before: Path, after: Path) -> tuple[int, str, str] | None:
    """(number, old, new) of the first line in which two texts differ; None if one isn't text."""
    try:
        with before.open(encoding="utf-8") as one, after.open(encoding="utf-8") as two:
            for number, (old, new) in enumerate(zip_longest(one, two, fillvalue=""), 1):
                if old != new:
                    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False))
                                  if a != b), 0)  # fmt: skip
                    return number, _around(old, start), _around(new, start)
    except UnicodeDecodeError:
        pass
    return None


def _around(line: str, start: int) -> str:
    """The part of a line around a place."""
    cut = max(0, start - LONGEST // 2)
    return shortened(("…" if cut else "") + in_line(line[cut : cut + 2 * LONGEST]), LONGEST)


def redone(step: str, before: Result, after: Result, stores: tuple[Store, Store]) -> list[Redone]:
    """The outputs of a step before and after."""
    old, new = titled(step, before.outputs), titled(step, after.outputs)
    return [Redone(title, old[title], new[title], stores) for title in old]


class Score(NamedTuple):
    """A score before and after. interval: of the one before, if it has one."""

    evaluator: str
    model: str
    metric: str
    before: float
    after: float | None
    interval: list[float] | None

    @property
    def is_within(self) -> bool:
        """Whether the new score is in the interval of the old one, or equal to it."""
        if self.after is None or self.interval is None:
            return self.after == self.before
        return self.interval[0] <= self.after <= self.interval[1]


def scores(pair: Redone) -> Iterator[Score]:
    """All scores of an evaluation."""
    old, new = (
        json.loads(store.blob(manifest.files[METRICS][0]).read_bytes())
        for store, manifest in zip(pair.stores, (pair.before, pair.after), strict=True)
    )
    intervals: Mapping[str, Mapping[str, Any]] = old.get("intervals", {})
    for model, values in old["scores"].items():
        for metric, value in values.items():
            after = new["scores"].get(model, {}).get(metric)
            interval = intervals.get(model, {}).get(metric)
            yield Score(pair.title, model, metric, value, after, interval)
