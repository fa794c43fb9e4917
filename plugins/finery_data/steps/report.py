"""`data.report`: a page on data sets, side by side, as `finery show DATASET --html` has it."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from finery import Bundle, Dataset, Job, Key, Model, Step, UsageError, setting, takes
from finery.views import render_sections
from finery_data.report.facts import NEAR_ROWS, SAMPLES, Counting, Facts, Lengths, Report, measure
from finery_data.report.page import by_output, report_sections

MOST_SOURCES = 1_000
"""Number of sources that `report.json` names, the most frequent ones."""
PAGE = "report.html"
DATA = "report.json"


class DataReport(
    Step,
    seeded=False,
    packages=("jinja2", "py3langid", "rensa"),
    sections=("data", "export"),
):
    """Make a page that compares one or more data sets side by side.

    `report.html` has counts, lengths, classes and their balance, copies within and between the
    data sets, turns, roles, languages, sources, what was dropped and why, and sample rows. The page
    loads no other files and runs no scripts. `report.json` has the same numbers.
    """

    rows: list[Dataset] = takes(uses_name=True, help="Data sets, e.g. all parts of a split.")
    tokenizer: Model | None = takes(
        None,
        uses_name=True,
        help="Model whose tokenizer measures lengths; by default, lengths are in characters.",
    )
    title: str = setting("Data", help="The page's title.")
    samples: int = setting(SAMPLES, ge=0, help="Rows of each data set to show, chosen at random.")
    near_rows: int = setting(
        NEAR_ROWS, ge=0, help="Rows of each data set that are searched for near copies."
    )

    def check(self) -> None:
        """Raise `UsageError` for data sets that are named twice, or none."""
        refs = [rows.ref for rows in self.rows]
        if not refs or len(set(refs)) < len(refs):
            raise UsageError(
                "`rows` must name one or more data sets, each once",
                where="rows",
                fix="rows: [split.train]",
            )

    def cache_key(self) -> Key:
        """Also the packages of the tokenizer, if a model is named."""
        tokenizing = ("tokenizers", "transformers") if self.tokenizer is not None else ()
        return super().cache_key() | Key(packages=tokenizing)

    def run(self, job: Job) -> Bundle:
        """Write both files."""
        model = self.tokenizer
        report = measure(
            by_output({rows.name: rows for rows in self.rows}),
            job.scratch,
            counting=Counting(model, model.name if model is not None else ""),
            near_rows=self.near_rows,
            samples=self.samples,
            progress=lambda what, done, total: job.progress(done, total, what),
        )
        page = render_sections(self.title, report_sections(report))
        (job.out / PAGE).write_text(page, encoding="utf-8")
        text = json.dumps(as_data(report), indent=2, ensure_ascii=False)
        (job.out / DATA).write_text(text + "\n", encoding="utf-8")
        job.log(f"{sum(len(rows) for rows in self.rows):,} rows described in {PAGE}")
        return Bundle(job.out, meta={"rows": sum(len(rows) for rows in self.rows)})


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
    return {
        "rows": facts.rows,
        "lengths": {part: _lengths(each) for part, each in facts.lengths.items() if len(each)},
        "classes": {name: _counts(each) for name, each in facts.classes.items()},
        "turns": {str(k): v for k, v in sorted(facts.turns.items())},
        **{name: _counts(getattr(facts, name)) for name in ("roles", "columns", "languages")},
        "system_prompts": {"rows": facts.systems, "different": len(facts.system_prompts)},
        "tools": facts.tools,
        "with_parents": facts.parents,
        "garbled": facts.garbled,
        "sources": dict(list(_counts(facts.sources).items())[:MOST_SOURCES]),
        "copies": asdict(facts.copies),
        "dropped": facts.counts("dropped"),
        "findings": facts.counts("findings"),
        "samples": [row.get("id") for row in facts.samples],
    }  # fmt: skip


def _lengths(found: Lengths) -> dict[str, int]:
    shares = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: found.at(share) for name, share in shares.items()} | {"total": found.total()}


def _counts(found: Counter[str]) -> dict[str, int]:
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
