"""`data.report`: a page on data sets, side by side, as `finery show DATASET --html` has it."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finery import Bundle, Dataset, FineryError, Job, Model, Step, UsageError, setting, takes
from finery_data.report.facts import Counting, Facts, Report, measure
from finery_data.report.page import render
from finery_data.report.rowfacts import Lengths

NEAR_ROWS = 20_000
SAMPLES = 6
MOST_SOURCES = 1_000
"""Sources that `report.json` names, the most frequent ones."""
PAGE = "report.html"
DATA = "report.json"


class DataReport(Step, seeded=False, packages=("py3langid", "rensa"), sections=("data", "export"),
                 version="1"):  # fmt: skip
    """Make a page on one or more data sets: what is in them, side by side.

    `report.html` has counts, lengths, classes and their balance, copies within and between the
    data sets, turns, roles, languages, sources, what was dropped and why, and sample rows. It
    loads nothing and runs nothing. `report.json` has the same numbers.
    """

    rows: list[Dataset] = takes(uses_name=True, help="Data sets, e.g. all parts of a split.")
    tokenizer: Model | None = takes(
        None, uses_name=True, help="A model whose tokens lengths are told in; else in characters."
    )
    title: str = setting("Data", help="The page's title.")
    samples: int = setting(SAMPLES, ge=0, help="Rows of each data set to show, drawn by chance.")
    near_rows: int = setting(
        NEAR_ROWS, ge=0, help="Rows of each data set that are searched for near copies."
    )

    def check(self) -> None:
        """Raise `UsageError` for data sets that are named twice, or none."""
        refs = [rows.ref for rows in self.rows]
        if not refs or len(set(refs)) < len(refs):
            raise UsageError("name data sets, each once", where="rows", fix="rows: [split.train]")

    def key_packages(self) -> tuple[str, ...]:
        """Those that tell copies and languages, and a model's tokenizer if one is named."""
        own = super().key_packages()
        return (*own, "tokenizers", "transformers") if self.tokenizer is not None else own

    def run(self, job: Job) -> Bundle:
        """Write both files."""
        model = self.tokenizer
        report = measure(
            _named({rows.name: rows for rows in self.rows}),
            job.scratch,
            counting=Counting(model, model.name if model is not None else ""),
            near_rows=self.near_rows,
            samples=self.samples,
            progress=lambda what, done, total: job.progress(done, total, what),
        )
        (job.out / PAGE).write_text(render(self.title, report), encoding="utf-8")
        text = json.dumps(as_data(report), indent=2, ensure_ascii=False)
        (job.out / DATA).write_text(text + "\n", encoding="utf-8")
        job.log(f"{sum(len(rows) for rows in self.rows):,} rows described in {PAGE}")
        return Bundle(job.out, meta={"rows": sum(len(rows) for rows in self.rows)})


def page(
    title: str,
    artifacts: Mapping[str, Dataset],
    model: tuple[str, Model] | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> str:
    """The page on some data sets as HTML, for `finery show --html`.

    model: the name of one and itself, whose tokens lengths are told in.
    """
    counting = Counting() if model is None else _counting(*model)
    with tempfile.TemporaryDirectory(prefix="finery-report-") as folder:
        report = measure(
            _named(artifacts),
            Path(folder),
            counting=counting,
            near_rows=NEAR_ROWS,
            samples=SAMPLES,
            progress=progress,
        )
    return render(title, report)


def _named(datasets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The data sets by name; outputs of one step by that of the output alone: `train`."""
    parted = {name: name.partition(".") for name in datasets}
    steps = {step for step, _, _ in parted.values()}
    if len(datasets) < 2 or len(steps) > 1 or not all(output for _, _, output in parted.values()):
        return dict(datasets)
    return {parted[name][2]: dataset for name, dataset in datasets.items()}


def _counting(name: str, model: Model) -> Counting:
    try:
        return Counting(model, name)
    except FineryError as error:
        raise UsageError(
            f"the tokenizer of {name} can't be used: {error.what}",
            where="--tokenizer",
            fix="name another model, or --tokenizer none for lengths in characters",
        ) from error
    except ImportError as error:
        raise UsageError(
            f"the tokenizer of {name} needs transformers, which isn't installed",
            where="--tokenizer",
            fix="pip install 'finery[train]', or --tokenizer none for lengths in characters",
        ) from error


def as_data(report: Report) -> dict[str, Any]:
    """A report's numbers as JSON values."""
    return {
        "unit": report.unit,
        "tokenizer": report.tokenizer or None,
        "data": {facts.name: _facts(facts) for facts in report.facts},
        "overlaps": [
            {"of": o.one, "with": o.other, "searched": o.searched, "rows": dict(o.counts),
             "examples": o.examples}
            for o in report.overlaps
        ],
    }  # fmt: skip


def _facts(facts: Facts) -> dict[str, Any]:
    copies = facts.copies
    return {
        "rows": facts.rows,
        "lengths": {part: _lengths(found) for part, found in facts.lengths.items() if len(found)},
        "classes": {name: _counts(found) for name, found in facts.classes.items()},
        "turns": {str(k): v for k, v in sorted(facts.turns.items())},
        "roles": _counts(facts.roles),
        "columns": _counts(facts.columns),
        "system_prompts": {"rows": facts.systems, "different": len(facts.system_prompts)},
        "tools": facts.tools,
        "with_parents": facts.parents,
        "sources": dict(list(_counts(facts.sources).items())[:MOST_SOURCES]),
        "languages": _counts(facts.languages),
        "copies": {"exact": copies.exact, "near": copies.near, "searched": copies.searched,
                   "examples": copies.examples},
        "dropped": {reason: one.count for reason, one in facts.dropped.items()},
        "findings": {check: one.count for check, one in facts.found.items()},
        "samples": [row.get("id") for row in facts.samples],
    }  # fmt: skip


def _lengths(found: Lengths) -> dict[str, int]:
    shares = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: found.at(share) for name, share in shares.items()} | {"total": found.total()}


def _counts(found: Counter[str]) -> dict[str, int]:
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
