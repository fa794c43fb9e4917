"""Step types of a tiny experiment, for tests of a matrix. Tests copy this file beside a recipe.

The quality of a "training" is its rank times learning rate times rows, moved by the seed.
"""

import os
import time
from typing import Any

from finery import (
    Bundle,
    Dataset,
    Files,
    Job,
    Metrics,
    Model,
    Settings,
    Step,
    hookimpl,
    setting,
    takes,
)
from finery.rows.report import Report, Score


def count(name: str) -> None:
    """Add a line to the file that $RAN names: what ran, however often."""
    if "RAN" in os.environ:
        with open(os.environ["RAN"], "a", encoding="utf-8") as out:
            out.write(f"{name}\n")


class Lines(Step, seeded=False):
    """Rows from the lines of text files."""

    path: Files = setting(help="The text files.")

    def run(self, job: Job) -> Dataset:
        count("lines")
        lines = [line for p in self.path.paths for line in p.read_text().splitlines()]
        return Dataset.write(job.out, ({"prompt": line} for line in lines))


class Parts:
    """Three parts of some rows."""

    train: Dataset
    validation: Dataset
    test: Dataset


class Split(Step, seeded=False):
    """Three parts of the rows."""

    rows: Dataset

    def run(self, job: Job) -> Parts:
        count("split")
        rows, made = list(self.rows), Parts()
        made.train = Dataset.write(job.out / "train", rows[::3])
        made.validation = Dataset.write(job.out / "validation", rows[1::3])
        made.test = Dataset.write(job.out / "test", rows[2::3])
        return made


class Base(Step, seeded=False):
    """A model that the recipe doesn't train."""

    quality: float = setting(help="What it is worth before it is trained.")

    def run(self, job: Job) -> Model:
        count(f"base {self.quality:g}")
        (job.out / "model.txt").write_text(str(self.quality))
        return Model(job.out, meta={"format": "toy", "quality": self.quality})


class Lora(Settings):
    """An adapter."""

    r: int = setting(8, ge=1, help="Its rank.")


class Train(Step, learns="answers"):
    """A training that takes no time."""

    rows: Dataset = takes(role="train")
    rate: float = setting(1e-3, gt=0, help="Learning rate.")
    lora: Lora = setting(Lora(), help="The adapter.")
    seconds: float = setting(0.0, affects_output=False, help="How long it takes.")
    model: Model | None = takes(None, role="base", help="The model to train.")

    def run(self, job: Job) -> Model:
        time.sleep(self.seconds)
        if self.rate > 0.1:
            raise ValueError("diverged")
        count(f"train {self.rate:g} {self.lora.r} {len(self.rows)} {job.seed % 10}")
        quality = self.lora.r * self.rate * len(self.rows) + job.seed % 10 * 1e-3
        quality += self.model.meta["quality"] if self.model is not None else 0.0
        (job.out / "model.txt").write_text(str(quality))
        return Model(job.out, meta={"format": "toy", "quality": quality})


class Judge(Step, seeded=False):
    """The quality of models, with as many right answers."""

    models: list[Model] = takes(uses_name=True, help="Those to judge.")
    rows: Dataset = takes(help="Those to judge on.")
    least: float = setting(0.0, affects_output=False, help="What the first model must reach.")

    def run(self, job: Job) -> Metrics:
        rows = list(self.rows)
        count(f"judge {'+'.join(m.name for m in self.models)} on {rows[0]['prompt']}")
        right = {
            m.name: [m.meta["quality"] * 20 > i for i in range(len(rows))] for m in self.models
        }
        shares = {name: sum(of) / len(of) for name, of in right.items()}
        return Metrics.write(
            job.out,
            Report(
                rows=len(rows),
                scores={name: {"accuracy": Score(of, (0.0, 1.0))} for name, of in shares.items()},
            ),
            [
                {
                    "id": row["id"],
                    "model": name,
                    "correct": of[i],
                    "values": {"accuracy": of[i]},
                }
                for i, row in enumerate(rows)
                for name, of in right.items()
            ],
        )

    def choices(self) -> dict[str, list[str]]:
        return {"require": [f"{model.name}.accuracy" for model in self.models]}

    def verify(self, outputs: Any) -> None:
        from finery import RequirementError

        for metrics in outputs.values():
            score = next(iter(metrics.report().scores.values()))["accuracy"].value
            if score < self.least:
                raise RequirementError(f"{score} is less than {self.least}", where="least")


class Ship(Step, seeded=False):
    """A file to ship."""

    model: Model
    bits: int = setting(8, ge=1, help="Precision.")

    def run(self, job: Job) -> Bundle:
        count("ship")
        (job.out / "model").write_text(f"{self.bits} {self.model.meta['quality']}")
        return Bundle(job.out)


@hookimpl
def finery_steps() -> dict[str, type[Step]]:
    """The step types."""
    return {
        "t.lines": Lines, "t.split": Split, "t.base": Base, "t.train": Train, "t.judge": Judge,
        "t.ship": Ship,
    }  # fmt: skip
