"""One run of a generator: ask, read, check, judge, compare, retry, select, write.

Each attempt covers all tasks with missing rows before the next begins, and rows are compared in the
order of the tasks. So the result doesn't depend on the order of answers. Waiting rows are on disk.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from finery import Completion, Dataset, FineryError, Job, StepError
from finery.rows import Row
from finery.rows.dropped import Drops, reason_counts
from finery.rows.generated import CheckResult, Origin, Origins, author_name
from finery.rows.parts import row_id_of, row_texts
from finery_synth.asking import Candidate, Rejected, Spool, Task, Used, ask, usable, with_parents
from finery_synth.checks import Checker, Rubric
from finery_synth.judges import SCORE_PROMPT, Score, readings, score_messages
from finery_synth.prompts import Prompt
from finery_synth.similarity import Neighbours, repeats

if TYPE_CHECKING:
    from finery_synth.generator import Generator

T = TypeVar("T")
TEXTS = {"messages", "prompt", "text"}
"""A row has one of these columns."""


class Generation:
    """One run of a generator."""

    def __init__(self, step: "Generator", job: Job) -> None:
        self.step = step
        self.job = job
        self._engine = job.engine(step.model, budget=step.budget)
        self._teacher = author_name(step.model)
        self._prompt = Prompt.of(step.prompt, step.default_prompt())
        self._checker = Checker(step.checks)
        self._judge = job.engine(step.judge, budget=step.budget) if step.judge is not None else None
        similar = step.checks.similarity
        self._neighbours = None
        if similar is not None or step.COPIES == "all":
            self._neighbours = Neighbours(similar, step.COMPARED, job.scratch, step.seeds)
        self._wanted: list[int] = []  # by task
        self._accepted = Spool(job.scratch, Candidate)
        self._failed = Spool(job.scratch, Candidate)  # in each task's last attempt
        self._rejected: Counter[str] = Counter()
        self._used, self._judged = Used(), Used()

    def run(self) -> Dataset:
        """Run attempts until no row is missing or no retries are left, and write the rows."""
        for _ in self.step.seeds():
            pass  # an invalid seed is an error before any request
        todo: set[int] | None = None
        for attempt in range(self.step.retries + 1):
            candidates = self._ask(attempt, todo)
            if not self.step.SELECTS:
                candidates = self._score(candidates)
            self._failed.close()
            self._failed = Spool(self.job.scratch, Candidate)
            for number, candidate in candidates:
                self._settle(number, candidate)
            candidates.close()
            numbers = range(len(self._wanted)) if todo is None else todo
            todo = {number for number in numbers if self._missing(number)}
            if not todo:
                break
        return self._written()

    def _missing(self, number: int) -> int:
        return self._wanted[number] - self._accepted.count(number)

    # -- an attempt -------------------------------------------------------------------------------

    def _ask(self, attempt: int, todo: set[int] | None) -> Spool[Candidate]:
        """The checked rows in the answers to the tasks in `todo` (None: all), by task."""
        candidates = Spool(self.job.scratch, Candidate)
        again = f" again ({attempt} of {self.step.retries})" if attempt else ""
        for task, answer in ask(
            self._engine,
            self._used,
            self._tasks(todo),
            lambda task: task.request(attempt),
            total=self.step.requests(self.step.seed_count()) if todo is None else len(todo),
            progress=f"generating{again}",
            **self.step.sampling(),
        ):
            for candidate in self._candidates(task, answer, attempt):
                candidates.add(task.number, candidate)
        return candidates

    def _tasks(self, todo: set[int] | None) -> Iterator[Task]:
        for number, task in enumerate(self.step.tasks(self._prompt)):
            if not isinstance(task, Task) or not task.seeds:
                raise StepError(
                    f"`tasks` yields {task!r:.80}, which isn't a Task with seeds",
                    where=f"{type(self.step).__name__}.tasks",
                    fix="yield Task(messages=…, seeds=[row])",
                )
            task.number = number
            if todo is None:
                self._wanted.append(task.wanted)
            if todo is None or number in todo:
                yield task

    def _candidates(
        self, task: Task, answer: Completion | FineryError, attempt: int
    ) -> Iterator[Candidate]:
        """The checked rows in an answer, and the reason for each missing one."""
        missing, rows = self._missing(task.number), list[Row]()
        seeds = task.seeds if self._neighbours is not None or self.step.SELECTS else []
        try:
            completion = usable(answer, task.tools, cut=self.step.reads_cut())
            rows = self._read(task, completion)
            reason, detail = "too-few", f"the answer contains {len(rows)} of {task.wanted} rows"
        except Rejected as error:
            reason, detail = error.reason, error.detail
        make_origin = partial(
            Origin, use=self.step.use, model=self._teacher, prompt=task.messages,
            template=self._prompt.origin, variant=task.variant, attempt=attempt, more=task.facts,
        )  # fmt: skip
        raw = getattr(answer, "text", "") or None
        for row in rows:
            text = None if raw in row_texts(row).values() else raw
            origin = make_origin(id=row["id"], parents=row.get("parents", []), answer=text)
            candidate = Candidate(row, origin, seeds)
            if self.step.COPIES:
                self._refuse_copy(candidate, repeats(row, task.seeds))
            for checked in self._checker.checked(row) if not candidate.reason else ():
                self._take(candidate, checked)
            yield candidate
        for _ in range(missing - len(rows)):
            origin = make_origin(id=row_id_of(task.seeds[0]), answer=raw)
            yield Candidate(task.seeds[0], origin, seeds, reason, detail)

    def _read(self, task: Task, answer: Completion) -> list[Row]:
        """The rows in an answer. Raises `StepError` for errors of `Generator.read`, `Rejected`."""
        where = f"{type(self.step).__name__}.read, row {row_id_of(task.seeds[0])}"
        try:
            rows: Any = self.step.read(task, answer)
        except (FineryError, Rejected):
            raise
        except Exception as error:  # a plugin's code can raise anything
            raise StepError.in_method(error, self.step, "read", row_id_of(task.seeds[0])) from error
        if problem := _problem(rows):
            raise StepError(
                f"`read` returns {problem}",
                where=where,
                fix="return a list of rows: dicts of JSON values with `messages`, `prompt` or "
                "`text`, e.g. [{**task.seeds[0], …}]",
            )
        rows = rows[: task.wanted]
        return rows if self.step.SELECTS else [with_parents(row, task.seeds) for row in rows]

    # -- a row ------------------------------------------------------------------------------------

    def _take(self, candidate: Candidate, checked: CheckResult) -> None:
        """Record the result of a check. Unless rows are selected, a failed one rejects the row."""
        candidate.origin.checks.append(checked)
        if not checked.passed and not self.step.SELECTS:
            candidate.reason, candidate.detail = checked.check.partition(".")[0], checked.detail

    def _refuse_copy(self, candidate: Candidate, checked: CheckResult) -> None:
        """Reject a row that is a copy. A passed check isn't recorded."""
        if not checked.passed:
            self._take(candidate, checked)

    def _settle(self, number: int, candidate: Candidate) -> None:
        """Keep a row that its task needs, if it is new; otherwise record the reason."""
        if not self._missing(number):
            return
        if not candidate.reason and self.step.COPIES == "siblings":
            each = self.step.variants()
            first_number = number - number % each
            siblings = chain.from_iterable(
                map(self._accepted.of, range(first_number, first_number + each))
            )
            self._refuse_copy(candidate, repeats(candidate.row, (c.row for c in siblings)))
        if not candidate.reason and self._neighbours is not None:
            self._take(candidate, self._neighbours.checked(candidate.row, candidate.seeds))
        if candidate.reason:
            self._rejected[candidate.reason] += 1
            self._failed.add(number, candidate)
            return
        if self._neighbours is not None:
            self._neighbours.add(candidate.row)
        if not self.step.SELECTS:
            candidate.seeds = []
        self._accepted.add(number, candidate)

    # -- the judge --------------------------------------------------------------------------------

    def _score(self, candidates: Spool[Candidate]) -> Spool[Candidate]:
        """The same candidates, with scores for those that passed all other checks."""
        engine, rubric = self._judge, self.step.checks.judge
        if engine is None or rubric is None:
            return candidates
        is_judged = self.step.is_judged
        prompt = Prompt.of(rubric.prompt, SCORE_PROMPT)
        verdicts = readings(
            engine,
            self._judged,
            ((index, c.row) for index, (_, c) in enumerate(candidates) if is_judged(c)),
            lambda item: score_messages(prompt, item[1], rubric.rubric, rubric.scale),
            lambda text: Score.read(text, rubric.scale),
            total=sum(is_judged(candidate) for _, candidate in candidates),
            max_tokens=rubric.max_tokens,
            schema=Score.schema(rubric.scale),
        )
        by_index: dict[int, Any] = {index: score for (index, _), score in verdicts}
        scored = Spool(self.job.scratch, Candidate)
        for index, (number, candidate) in enumerate(candidates):
            if index in by_index:
                self._take_score(candidate, rubric, by_index[index])
            scored.add(number, candidate)
        candidates.close()
        return scored

    def _take_score(self, candidate: Candidate, rubric: Rubric, score: Any) -> None:
        """Record a judge's score. score: the reason if there is none."""
        assert self.step.judge is not None
        if not isinstance(score, Score):
            detail = f"no score: {score}"
            self._take(candidate, CheckResult(check="judge", passed=False, detail=detail))
            return
        passed, detail = score.score >= rubric.min, score.reason
        if not self.step.SELECTS:
            low = f"scored {score.score} of {rubric.scale}, below {rubric.min}: {detail}"
            detail = "" if passed else low
        judge = {"model": author_name(self.step.judge), **score._asdict(), "scale": rubric.scale}
        candidate.origin.judge = judge
        checked = CheckResult(check="judge", passed=passed, value=score.score, detail=detail)
        self._take(candidate, checked)

    # -- writing ----------------------------------------------------------------------------------

    def _written(self) -> Dataset:
        with Drops(self.job.out) as drops, Origins(self.job.out) as origins:
            dataset = Dataset.write(self.job.out, self._rows(drops, origins))
        drops.refuse_nothing_left(len(dataset), self.step.NOTHING_LEFT)
        dataset.meta |= {
            "wanted": sum(self._wanted),
            **drops.meta(),
            "rejected": dict(sorted(self._rejected.items())),
            "answers": self._used.meta(),
            **({"judged": self._judged.meta()} if self.step.judge is not None else {}),
        }
        self.job.log(self.step.summary(len(dataset), drops))
        if self._rejected:
            self.job.log(f"answers rejected: {reason_counts(self._rejected)}")
        dataset.meta |= self.step.facts(self.job, dataset)
        return dataset

    def _rows(self, drops: Drops, origins: Origins) -> Iterator[Row]:
        """The rows to write; the others go to `drops`."""
        accepted, missing = self._accepted, self._missing_rows()
        if self.step.SELECTS:
            for number, candidate in self._failed:
                accepted.add(number, candidate)
            accepted, missing = self._score(accepted), iter(())
        for candidate in chain(self.step.finished(self.job, accepted), missing):
            if candidate.reason:
                drops.add(candidate.row, candidate.reason, candidate.detail, candidate.origin)
            else:
                origins.add(candidate.origin)
                yield candidate.row

    def _missing_rows(self) -> Iterator[Candidate]:
        """A rejected row for each one that is still missing."""
        attempts = self.step.retries + 1
        after = f" (after {attempts} attempts)" if attempts > 1 else ""
        for number in range(len(self._wanted)):
            for candidate in self._failed.of(number)[: self._missing(number)]:
                candidate.detail += after
                yield candidate


def _problem(rows: Any) -> str:
    """What is wrong with the rows of an answer; empty if nothing is."""
    if not isinstance(rows, list):
        return f"{rows!r:.80}, which isn't a list"
    for row in rows:
        if not isinstance(row, dict):
            return f"{row!r:.80}, which isn't a row"
        if not row.keys() & TEXTS:
            return f"a row with the columns {', '.join(map(str, row)) or 'none'}"
        turns = row.get("messages", [])
        if not isinstance(turns, list) or not all(
            isinstance(t, dict) and "role" in t for t in turns
        ):
            return f"a row whose `messages` aren't a list of turns: {turns!r:.80}"
        try:
            msgspec.json.encode(row)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return f"a row that isn't JSON: {error}"
    return ""
