"""`data.requests`: logged requests as rows to label, and whether they differ from training rows."""

from collections.abc import Collection, Iterable, Iterator
from typing import Literal

import msgspec

from finery import (
    DataError,
    Dataset,
    Files,
    Forecast,
    Inputs,
    Job,
    Key,
    Resources,
    Step,
    setting,
    takes,
)
from finery.advanced import counted, shown
from finery.rows import Row, answer_text
from finery.rows.badrow import BadRow
from finery.rows.files import SideFile
from finery.rows.tables.records import Record, read_table
from finery_data.checks.audits import ANSWER, AUDIT, Doubt
from finery_data.sources.source import Reading, RowSource
from finery_data.sources.traces import Passed, Served, requests_in

DRIFT_PACKAGES = ("scikit-learn", "scipy", "rensa")


class Requests(Step, seeded=False, isolated=True, version="1"):
    """Read logged requests back as rows to label.

    It reads the log of finery's servers (`--log`), OpenTelemetry's GenAI spans as JSON, and
    observations that Langfuse exports. A row is the prompt of a request: its messages and tools.
    The served answer is no label, so it isn't in the row. `finery review STEP` proposes it, and
    shows the least certain rows first, by the probability that the log has, else, with `against`,
    those that are most unlike the training rows. `review.apply` with `undecided: drop` then gives
    the labelled rows. Failed requests are counted and left out.

    With `against`, a classifier two-sample test (D. Lopez-Paz, M. Oquab 2017,
    https://arxiv.org/abs/1610.06545) says whether the requests differ from these rows. A ridge
    regression on TF-IDF vectors learns to tell them apart; its out-of-fold area under the curve is
    compared with that of 999 models of the same rows with permuted sides. So if both are drawn from
    one distribution, it finds a difference in 5 % of all cases at most. Of near copies, one
    counts. If they differ, `finery check` prints the note `requests-differ`.
    """

    path: Files = setting(
        help="Log files, a glob or a list of them, relative to the recipe.",
        examples=["logs/requests*.jsonl"],
    )
    against: list[Dataset] = takes(
        default=[],
        role="reference",
        help="Training rows that the requests are compared with. Needs finery[baseline].",
    )
    answers: bool = setting(
        False,
        help="Keep the served answers in the rows, e.g. to judge them. They are no labels: don't "
        "train on them.",
    )
    bad_rows: Literal["error", "skip"] = setting(
        "error", help="What to do with records that can't be used: stop, or log them and go on."
    )

    def cache_key(self) -> Key:
        """What compares the rows."""
        return Key(packages=DRIFT_PACKAGES if self.against else ())

    def resources(self) -> Resources:
        """What to install."""
        needed = [name for name in DRIFT_PACKAGES if name != "rensa"] if self.against else []
        return super().resources() | Resources(packages=dict.fromkeys(needed, "finery[baseline]"))

    def forecast(self, inputs: Inputs) -> Forecast:
        """The columns of the rows."""
        return Forecast(columns=lambda: {"id", "messages", "tools"})

    def run(self, job: Job) -> Dataset:
        """Write the rows, what is known about their answers, and how they differ."""
        reading = _Reading(self, job)
        dataset = reading.write(_records(self, job))
        doubts = reading.doubts
        dataset.meta |= {"format": "requests", **reading.facts()}
        for name, value in reading.facts().items():
            job.log(f"{name}: {counted(value, 'record')}")
        if self.against:
            from finery_data.checks.drift import drift_between

            trained = [row for rows in self.against for row in rows]
            drift, unlike = drift_between(trained, [*dataset], job)
            dataset.meta["drift"] = msgspec.to_builtins(drift)
            if not reading.is_certain:
                doubts = [
                    msgspec.structs.replace(doubt, suspicion=one)
                    for doubt, one in zip(doubts, unlike, strict=True)
                ]
        with SideFile(job.out / AUDIT) as lines:
            for doubt in sorted(doubts, key=lambda doubt: (-doubt.suspicion, doubt.row)):
                lines.write(msgspec.json.encode(doubt))
        return dataset

    def trace_rows(self, ids: Collection[str], job: Job) -> Iterator[tuple[str, str]]:
        """The place of each row with one of `ids`."""
        return _Reading(self, job).places(_records(self, job), ids)


class _Reading(Reading):
    """Makes rows of requests, and keeps what is known about their answers.

    doubts: one for each row. failed, passed, unlogged: requests that failed, records that are no
    requests, requests that the server couldn't log.
    """

    def __init__(self, step: Requests, job: Job) -> None:
        source = RowSource(format="messages", prompts_only=not step.answers, bad_rows=step.bad_rows)
        super().__init__(source, job, shown(step.path.paths[0]), None)
        self._step = step
        self._served = Served([])
        self.doubts: list[Doubt] = []
        self.failed = self.passed = self.unlogged = 0
        self.is_certain = False

    def facts(self) -> dict[str, int]:
        """What was met, as far as it was."""
        names = ("failed", "passed", "unlogged")
        return {name: value for name in names if (value := getattr(self, name))}

    def _placed(self, records: Iterable[Record]) -> Iterator[tuple[Record, Row | None]]:
        for record, row in super()._placed(self._requests(records)):
            if row is not None:
                served = self._served
                self.is_certain |= served.probability is not None
                text = answer_text({"messages": served.answer}).strip()
                self.doubts.append(
                    _doubt(row, len(self.doubts) + 1, text, served.probability, self._step.answers)
                )
            yield record, row

    def _finish(self) -> None:
        if not self._made and self.failed and not self._bad:
            problem = f"no request was answered: {counted(self.failed, 'request')} failed"
            raise DataError(problem, where=self._place, fix="see `error` in these lines")
        super()._finish()

    def _requests(self, records: Iterable[Record]) -> Iterator[Record]:
        """A record with `messages` and `tools` for each request."""
        for record in records:
            if isinstance(record.columns, BadRow):
                yield record
                continue
            for served in requests_in(record.columns):
                if isinstance(served, Passed):
                    self.unlogged += served.unlogged
                    self.passed += not served.unlogged
                elif isinstance(served, BadRow):
                    yield Record(record.where, served)
                elif served.error:
                    self.failed += 1
                elif self._step.answers and not served.answer:
                    yield Record(record.where, BadRow("the request has no answer"))
                else:
                    self._served = served
                    answer = served.answer if self._step.answers else []
                    columns = {"messages": [*served.prompt, *answer], "tools": served.tools}
                    yield Record(record.where, columns)


def _records(step: Requests, job: Job) -> Iterator[Record]:
    for path in step.path.paths:
        yield from read_table(path, job.scratch)


def _doubt(
    row: Row, number: int, text: str, probability: float | None, has_answer: bool
) -> Doubt:  # fmt: skip
    """What is known about an answer; it is a proposal unless the row has it."""
    sure = "" if probability is None else f" with a probability of {probability:.2f}"
    return Doubt(
        row["id"], number, ANSWER, text if has_answer else "",
        0.0 if probability is None else round(min(1.0, max(0.0, 1 - probability)), 4),
        proposed="" if has_answer else text,
        detail=f"the model answered {text!r:.80}{sure}" if text else "",
    )  # fmt: skip
