"""One run of a generator: send requests, read, check, judge, compare, retry, write.

Each attempt covers all tasks with missing rows before the next begins, and rows are compared in the
order of the tasks. So the result doesn't depend on the order of answers. Waiting rows are on disk.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from finery import Completion, Dataset, FineryError, Job
from finery.rows import Row
from finery.rows.dropped import Drops, by_reason
from finery.rows.generated import Checked, Origin, Origins, name_of
from finery.rows.parts import id_of, texts
from finery_synth.ask.asking import Used, ask
from finery_synth.ask.prompts import Prompt
from finery_synth.ask.spool import Spool
from finery_synth.ask.task import Task
from finery_synth.checks.checker import Checker
from finery_synth.checks.copies import Neighbours, repeats
from finery_synth.checks.usable import Rejected, usable
from finery_synth.judge.scores import Judge, Score, Unreadable, no_score
from finery_synth.rows import with_parents

if TYPE_CHECKING:
    from finery_synth.generator import Generator


class Candidate(msgspec.Struct):
    """A possible row of a task; with a `reason`, a rejected one.

    row: if there is none, the task's seed. seeds: the rows it is made from, if they are needed for
    comparison.
    """

    row: Row
    origin: Origin | None = None
    seeds: list[Row] = []
    reason: str = ""
    detail: str = ""

    def take(self, checked: Checked) -> None:
        """Record the result of a check."""
        if self.origin is not None:
            self.origin.checks.append(checked)
        if not checked.passed and not self.reason:
            self.reason, self.detail = checked.check.partition(".")[0], checked.detail


class Generation:
    """One run of a generator."""

    def __init__(self, step: "Generator", job: Job) -> None:
        self.step = step
        self.job = job
        self._engine = job.engine(step.model, budget=step.budget)
        self._teacher = name_of(step.model)
        self._prompt = Prompt.of(step.prompt, step.default_prompt())
        self._checker = Checker(step.checks)
        self._judge = Judge.of(job, step.judge, step.checks.judge, step.budget)
        self._neighbours = self._open_neighbours()
        self._wanted: list[int] = []  # by task
        self._accepted = Spool(job.scratch, Candidate)
        self._failed = Spool(job.scratch, Candidate)  # in each task's last attempt
        self._rejected: Counter[str] = Counter()
        self._used = Used()

    def run(self) -> Dataset:
        """Run attempts until no row is missing or no retries are left, and write the rows."""
        todo: set[int] | None = None
        for attempt in range(self.step.retries + 1):
            todo = self._attempt(attempt, todo)
            if not todo:
                break
        return self._written()

    # -- an attempt -------------------------------------------------------------------------------

    def _attempt(self, attempt: int, todo: set[int] | None) -> set[int]:
        """Run the tasks in `todo` (None: all); returns those with missing rows."""
        candidates = Spool(self.job.scratch, Candidate)
        for task, answer in self._answers(attempt, todo):
            self._used.take(answer)
            for candidate in self._candidates(task, answer, attempt):
                candidates.add(task.number, candidate)
        if self._judge is not None:
            candidates = self._judged(candidates, self._judge)
        self._failed.close()
        self._failed = Spool(self.job.scratch, Candidate)
        for number, candidate in candidates:
            self._settle(number, candidate)
        candidates.close()
        asked = range(len(self._wanted)) if todo is None else todo
        return {number for number in asked if self._missing(number)}

    def _answers(
        self, attempt: int, todo: set[int] | None
    ) -> Iterator[tuple[Task, Completion | FineryError]]:
        again = f"again ({attempt} of {self.step.retries})" if attempt else ""
        yield from ask(
            self._engine,
            self._tasks(todo),
            lambda task: task.request(attempt),
            total=self.step.requests(self.step.seed_count()) if todo is None else len(todo),
            progress=f"generating {again}".strip(),
            **self.step.sampling(),
        )

    def _tasks(self, todo: set[int] | None) -> Iterator[Task]:
        for task in self.step.tasks(self._prompt):
            if todo is None:
                assert task.number == len(self._wanted)
                self._wanted.append(task.wanted)
                yield task
            elif task.number in todo:
                yield task

    def _missing(self, number: int) -> int:
        return self._wanted[number] - self._accepted.count(number)

    # -- a row ------------------------------------------------------------------------------------

    def _candidates(
        self, task: Task, answer: Completion | FineryError, attempt: int
    ) -> Iterator[Candidate]:
        """The checked rows in an answer, and the reason for each missing one."""
        missing, rows = self._missing(task.number), list[Row]()
        try:
            completion = usable(answer, task.tools, cut=self.step.reads_cut())
            rows = self.step.read(task, completion)[: task.wanted]
            why = ("too-few", f"the answer contains {len(rows)} of {task.wanted} rows")
            yield from (self._checked(task, row, attempt, completion.text) for row in rows)
        except Rejected as error:
            why = (error.reason, error.detail)
        for _ in range(missing - len(rows)):
            seed = task.seeds[0]
            origin = self._origin(task, id_of(seed), attempt)
            origin.answer = getattr(answer, "text", "") or None
            yield Candidate(seed, origin, reason=why[0], detail=why[1])

    def _checked(self, task: Task, row: Row, attempt: int, raw: str) -> Candidate:
        row = with_parents(row, task.seeds)
        origin = self._origin(task, row["id"], attempt)
        origin.parents = row.get("parents", [])
        origin.answer = None if raw in texts(row).values() else raw
        candidate = Candidate(row, origin, task.seeds if self._neighbours is not None else [])
        if self.step.COPIES:
            self._take_copy(candidate, repeats(row, task.seeds))
        if not candidate.reason:
            for checked in self._checker.checked(row):
                candidate.take(checked)
        return candidate

    def _origin(self, task: Task, row: str, attempt: int) -> Origin:
        """How a row, given by its id, was made by a task."""
        return Origin(
            id=row,
            use=self.step.USE,
            model=self._teacher,
            prompt=task.messages,
            template=self._prompt.origin,
            variant=task.variant,
            attempt=attempt,
            more=self.step.more(task),
        )

    def _take_copy(self, candidate: Candidate, checked: Checked) -> None:
        """Record that a row is a copy. A passed check isn't recorded."""
        if not checked.passed:
            candidate.take(checked)

    def _settle(self, number: int, candidate: Candidate) -> None:
        """Keep a row that its task needs, if it is new; otherwise record the reason."""
        if not self._missing(number):
            return
        if not candidate.reason and self.step.COPIES == "siblings":
            self._take_copy(candidate, repeats(candidate.row, self._siblings(number)))
        if not candidate.reason and self._neighbours is not None:
            candidate.take(self._neighbours.checked(candidate.row, candidate.seeds))
        if candidate.reason:
            self._rejected[candidate.reason] += 1
            self._failed.add(number, candidate)
            return
        candidate.seeds = []
        self._accepted.add(number, candidate)
        if self._neighbours is not None:
            self._neighbours.add(candidate.row)

    def _siblings(self, number: int) -> Iterator[Row]:
        for sibling in self.step.siblings(number):
            yield from (candidate.row for candidate in self._accepted.of(sibling))

    # -- the judge --------------------------------------------------------------------------------

    def _judged(self, candidates: Spool[Candidate], judge: Judge) -> Spool[Candidate]:
        """The same candidates, with scores for those that passed all other checks."""
        rows = ((i, c.row) for i, (_, c) in enumerate(candidates) if not c.reason)
        total = sum(not candidate.reason for _, candidate in candidates)
        scores = dict(judge.scores(rows, total))
        judged = Spool(self.job.scratch, Candidate)
        for index, (number, candidate) in enumerate(candidates):
            if index in scores:
                self._score(candidate, scores[index], judge)
            judged.add(number, candidate)
        candidates.close()
        return judged

    def _score(
        self, candidate: Candidate, score: Score | FineryError | Unreadable, judge: Judge
    ) -> None:
        rubric = self.step.checks.judge
        assert rubric is not None
        assert candidate.origin is not None
        if not isinstance(score, Score):
            detail = f"no score: {no_score(score)}"
            candidate.take(Checked(check="judge", passed=False, detail=detail))
            return
        passed = score.score >= rubric.min
        low = f"scored {score.score} of {rubric.scale}, below {rubric.min}: {score.reason}"
        detail = "" if passed else low
        candidate.origin.judge = {"model": judge.model, **score._asdict(), "scale": rubric.scale}
        candidate.take(Checked(check="judge", passed=passed, value=score.score, detail=detail))

    # -- writing ----------------------------------------------------------------------------------

    def _written(self) -> Dataset:
        with Drops(self.job.out) as drops, Origins(self.job.out) as origins:
            dataset = Dataset.write(self.job.out, self._rows(origins))
            self._drop_missing(drops)
        drops.refuse_nothing_left(
            len(dataset),
            "check the checks, the prompt and max_tokens, or use a stronger teacher",
        )
        self.job.log(drops.summary(len(dataset)))
        if self._rejected:
            self.job.log(f"answers rejected: {by_reason(self._rejected)}")
        dataset.meta |= {
            "wanted": sum(self._wanted),
            **drops.meta(),
            "rejected": dict(sorted(self._rejected.items())),
            "answers": self._used.meta(),
            **({"judged": self._judge.used.meta()} if self._judge is not None else {}),
            **self.step.facts(self.job, dataset),
        }
        return dataset

    def _rows(self, origins: Origins) -> Iterator[Row]:
        for candidate in self.step.finished(self.job, self._accepted):
            assert candidate.origin is not None
            origins.add(candidate.origin)
            yield candidate.row

    def _drop_missing(self, drops: Drops) -> None:
        """Record the rows that are still missing, and why."""
        attempts = self.step.retries + 1
        asked = "" if attempts == 1 else f" (after {attempts} attempts)"
        for number in self._failed.numbers():
            for candidate in self._failed.of(number)[: self._missing(number)]:
                detail = candidate.detail + asked
                drops.add(candidate.row, candidate.reason, detail, candidate.origin)

    # -- opening ----------------------------------------------------------------------------------

    def _open_neighbours(self) -> Neighbours | None:
        similar = self.step.checks.similarity
        if similar is None and self.step.COPIES != "all":
            return None
        return Neighbours(similar, self.step.COMPARED, self.job.scratch, self.step.seeds)
