"""Step types that take no time, for tests. Tests copy this file beside a recipe as `steps.py`."""

import os
import random
from pathlib import Path
from typing import Any

from finery import Bundle, Dataset, Files, Job, Metrics, Model, Step, hookimpl, setting, takes
from finery.rows import report


def count(name: str) -> None:
    """Add a line to the file that $RAN names: what ran, however often."""
    if "RAN" in os.environ:
        with open(os.environ["RAN"], "a", encoding="utf-8") as out:
            out.write(f"{name}\n")


class Source(Step, seeded=False):
    """Rows from the lines of text files."""

    path: Files = setting(help="The text files.")

    def run(self, job: Job) -> Dataset:
        count("source")
        lines = [line for p in self.path.paths for line in p.read_text().splitlines()]
        return Dataset.write(job.out, ({"prompt": line} for line in lines))


class Copy(Step, seeded=False):
    """All rows of its inputs, in order, with a tag."""

    rows: list[Dataset] = takes(help="Where the rows come from.")
    tag: int = setting(0, help="Put into each row.")
    note: str = setting("", help="Changes nothing.", affects_output=False)

    def run(self, job: Job) -> Dataset:
        count(f"copy {self.tag}")
        return Dataset.write(
            job.out, ({"prompt": r["prompt"], "tag": self.tag} for d in self.rows for r in d)
        )


class Limit(Step, seeded=False):
    """The first rows."""

    rows: Dataset
    most: int = setting(100, ge=0, help="So many at most.")

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, list(self.rows)[: self.most])


class Shuffle(Step):
    """The rows in random order, with the seed in each."""

    rows: Dataset

    def run(self, job: Job) -> Dataset:
        rows = [{**r, "seed": job.seed} for r in self.rows]
        random.Random(job.seed).shuffle(rows)
        return Dataset.write(job.out, rows)


class Halves:
    """Two halves of some rows."""

    first: Dataset
    second: Dataset


class Halve(Step, seeded=False):
    """The rows in two halves."""

    rows: Dataset

    def run(self, job: Job) -> Halves:
        rows, made = list(self.rows), Halves()
        middle = len(rows) // 2
        made.first = Dataset.write(job.out / "first", rows[:middle])
        made.second = Dataset.write(job.out / "second", rows[middle:])
        return made


class Script(Step, seeded=False):
    """Run some Python in a warm worker; the rows are what it puts into `rows`."""

    rows: list[Dataset] = takes([], help="What to wait for.")
    code: str = setting("", help="Python, with `job`, `step`, `rows`, `os` and `Path`.")

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, execute(self.code, self, job))


class Alone(Script, isolated=True):
    """Run some Python in a process of its own; the rows are what it puts into `rows`."""


class Pack(Step, seeded=False):
    """Run some Python that fills `job.out` with files."""

    code: str = setting("", help="Python, with `job`, `step`, `os` and `Path`.")

    def run(self, job: Job) -> Bundle:
        execute(self.code, self, job)
        return Bundle(job.out)


class Score(Step, seeded=False):
    """A score that may be required to reach something."""

    rows: Dataset
    score: float = setting(0.5, help="The score.")
    least: float = setting(0.0, help="The least that will do.", affects_output=False)

    def run(self, job: Job) -> Metrics:
        scores = {"m": {"accuracy": report.Score(self.score)}}
        return Metrics.write(job.out, report.Report(rows=1, scores=scores))

    def verify(self, outputs: Any) -> None:
        from finery import RequirementError

        if self.score < self.least:
            raise RequirementError(f"accuracy is {self.score}, required {self.least}")


class Outside(Step, seeded=False):
    """A model whose weights stay where they are."""

    path: Files = setting(help="The weights.")

    def run(self, job: Job) -> Model:
        weights = self.path.paths[0]
        meta = {"format": "light", "words": weights.read_text()}
        return Model(job.out, meta=meta, external={"weights": weights})


class Adapter(Step, seeded=False):
    """What a model was trained to."""

    model: Model

    def run(self, job: Job) -> Model:
        (job.out / "adapter").write_text(self.model.file("weights").read_text().upper())
        return Model(job.out, meta={"format": "light"}, refs={"base": self.model})


def execute(code: str, step: Step, job: Job) -> list[dict[str, Any]]:
    """Run `code`; the rows it leaves."""
    names: dict[str, Any] = {"job": job, "step": step, "rows": [], "os": os, "Path": Path}
    exec(code, names)
    rows: list[dict[str, Any]] = names["rows"]
    return rows


@hookimpl
def finery_steps() -> dict[str, type[Step]]:
    """The step types of this file."""
    return {
        "steps.source": Source,
        "steps.copy": Copy,
        "steps.limit": Limit,
        "steps.shuffle": Shuffle,
        "steps.halve": Halve,
        "steps.script": Script,
        "steps.alone": Alone,
        "steps.pack": Pack,
        "steps.score": Score,
        "steps.outside": Outside,
        "steps.adapter": Adapter,
    }
