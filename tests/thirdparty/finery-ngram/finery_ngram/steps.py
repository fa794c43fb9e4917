"""The trainer."""

import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finery import (
    DataError,
    Dataset,
    Estimate,
    Forecast,
    Inputs,
    Job,
    Model,
    Note,
    Step,
    setting,
    takes,
)
from finery.advanced import Proof
from finery.rows import Row, split_turns
from finery_ngram.model import END, FILE, Counts, prompt_words, words_of

CHECKPOINT = "checkpoint.json"


class Example(NamedTuple):
    """A row in words: its prompt up to where the answer begins, and the answer with its end."""

    row: str
    prompt: list[str]
    answer: list[str]


class Train(
    Step,
    learns="answers",
    family="language-model",
    metrics="finery_ngram.view:METRICS",
):
    """Count which words follow which: a language model that trains in no time."""

    rows: list[Dataset] = takes(role="train", help="Rows whose answers are learned.")
    validation: Dataset | None = takes(
        None, role="validation", help="Rows on which the loss is measured."
    )
    order: int = setting(3, ge=1, le=9, help="Words that are counted together.")
    smoothing: float = setting(0.5, gt=0, help="Weight of the next shorter context.")
    epochs: int = setting(2, ge=1, help="Passes over the rows.")
    max_length: int = setting(
        1000, ge=2, help="Most words of a row, answer included; longer rows are left out."
    )
    report_every: int = setting(
        10, ge=1, affects_output=False, help="Rows between two reports of the loss."
    )
    save_every: int = setting(20, ge=1, affects_output=False, help="Rows between two checkpoints.")

    def prove(self, job: Job, samples: int) -> list[Proof]:
        """A proof of each data set."""
        from finery_ngram.preflight import prove

        return prove(self, samples)

    def run(self, job: Job) -> Model:
        """Count, from the last checkpoint on if there is one."""
        rows = self.examples(self.rows)
        held_out = self.examples([self.validation]) if self.validation else []
        course = _Course.resumed(job.scratch / CHECKPOINT, self)
        if course.done:
            job.log(f"goes on after row {course.done}")
        order = [i for epoch in range(self.epochs) for i in _shuffled(len(rows), job.seed + epoch)]
        for index in order[course.done :]:
            course.learn(rows[index])
            at_end = course.done == len(order)
            if course.done % len(rows) == 0:
                course.end_epoch(len(rows), held_out)
            if course.done % self.report_every == 0 or at_end:
                course.report(job, len(order))
            if course.done % self.save_every == 0:
                course.save(job.scratch / CHECKPOINT)
        course.counts.save(job.out / FILE)
        (job.out / "curve.json").write_text(json.dumps(course.points), encoding="utf-8")
        meta = {
            "format": "ngram", "order": self.order, "words": len(course.counts.words),
            "parameters": sum(map(len, course.counts.table.values())), "rows": len(rows),
        }  # fmt: skip
        return Model(job.out, meta=meta)

    def examples(
        self, datasets: Sequence[Dataset], left_out: list[str] | None = None
    ) -> list[Example]:
        """The rows in words. `DataError` for one without an answer, and where none is left.

        left_out: takes the ids of rows that are too long.
        """
        rows = [_example(row) for dataset in datasets for row in dataset]
        fitting = [r for r in rows if len(r.prompt) + len(r.answer) <= self.max_length]
        if left_out is not None:
            left_out += sorted({row.row for row in rows} - {row.row for row in fitting})
        if not fitting:
            raise DataError(
                "there are no rows to learn from",
                fix="raise max_length" if rows else "look at what the input names",
            )
        return fitting

    def forecast(self, inputs: Inputs) -> Forecast:
        """How people call it."""
        return Forecast(facts={"name": f"{self.order}-gram"})

    def estimate(self, inputs: Inputs) -> Estimate | None:
        """How long it will take."""
        from finery_ngram.advice import estimate

        return estimate(self, inputs)

    def advise(self, inputs: Inputs) -> Iterable[Note]:
        """A note on a high order."""
        from finery_ngram.advice import notes

        return notes(self, inputs)


class _Course:
    """A training on its way: the counts so far, its curve, and how many rows were learned."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.points: list[dict[str, Any]] = []
        self.done = 0
        self._losses: list[float] = []

    @classmethod
    def resumed(cls, path: Path, step: Train) -> "_Course":
        """From a checkpoint, or from the start."""
        course = cls(Counts(step.order, step.smoothing))
        if path.exists():
            saved = json.loads(path.read_text(encoding="utf-8"))
            course.counts = Counts.of(saved["counts"])
            course.points, course.done = saved["points"], saved["done"]
            course._losses = saved["losses"]
        return course

    def save(self, path: Path) -> None:
        """Replace the checkpoint, so that one is whole at any time."""
        state = {
            "counts": self.counts.to_dict(), "points": self.points, "done": self.done,
            "losses": self._losses,
        }  # fmt: skip
        written = path.with_suffix(".new")
        written.write_text(json.dumps(state), encoding="utf-8")
        written.replace(path)

    def learn(self, example: Example) -> None:
        """Measure the loss of an answer, then count it."""
        self._losses.append(loss(self.counts, [example]))
        words = [*example.prompt]
        for word in example.answer:
            self.counts.add(words, word)
            words.append(word)
        self.done += 1

    def end_epoch(self, rows: int, held_out: Sequence[Example]) -> None:
        """Add a point to the curve."""
        mean = sum(self._losses[-rows:]) / len(self._losses[-rows:])
        point = {"step": self.done, "epoch": self.done / rows, "loss": mean}
        if held_out:
            point["eval_loss"] = loss(self.counts, held_out)
        self.points.append(point)

    def report(self, job: Job, total: int) -> None:
        """Tell how far it is."""
        job.progress(self.done, total, "rows")
        job.metric("loss", self._losses[-1], self.done)
        if self.points and "eval_loss" in self.points[-1]:
            job.metric("eval_loss", self.points[-1]["eval_loss"], self.done)
            job.metric("perplexity", math.exp(self.points[-1]["eval_loss"]), self.done)


def _example(row: Row) -> Example:
    prompt, completion = split_turns(row)
    answer = words_of(" ".join(str(message.get("content") or "") for message in completion))
    if not answer:
        raise DataError(
            f"row {row['id']} has no answer to learn", fix="drop it with data.filter, or answer it"
        )
    return Example(row["id"], prompt_words(prompt), [*answer, END])


def loss(counts: Counts, rows: Sequence[Example]) -> float:
    """The mean negative log-probability of a word of the answers, in nats."""
    losses = [-math.log(p) for row in rows for p in _probabilities(counts, row)]
    return sum(losses) / len(losses)


def _probabilities(counts: Counts, example: Example) -> Iterator[float]:
    words = [*example.prompt]
    for word in example.answer:
        yield counts.probability(words, word)
        words.append(word)


def _shuffled(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order
