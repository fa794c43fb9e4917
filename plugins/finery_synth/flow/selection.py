"""One run of `synth.preferences`: selects two of several answers to each prompt.

An answer's grade depends only on the answer and its prompt, so an additional answer needs one more
request to the model and one to the judge. Waiting answers are on disk.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from finery import Completion, Dataset, FineryError, Job
from finery.rows import TURN_COLUMNS, Conversation, Message, Row, split_turns
from finery.rows.dropped import Drops, by_reason
from finery.rows.generated import Checked, Origin, Origins, name_of
from finery.rows.parts import id_of, joined
from finery_synth.ask.asking import Used, ask
from finery_synth.ask.prompts import Prompt
from finery_synth.ask.spool import Spool
from finery_synth.ask.task import Task
from finery_synth.checks.checker import Checker
from finery_synth.checks.sameness import fields_of, meaning
from finery_synth.checks.usable import Rejected, usable
from finery_synth.judge.scores import Judge, Score, no_score
from finery_synth.rows import with_answer, with_parents

if TYPE_CHECKING:
    from finery_synth.steps.preferences import Preferences


class Graded(msgspec.Struct):
    """An answer to a prompt; with a `reason`, an unusable one.

    checks: results of the checks, the judge's last. is_right: whether it has the same meaning as
    the row's own answer, if that is chosen; then it isn't judged.
    """

    variant: int
    attempt: int
    turn: Message = {}
    checks: list[Checked] = []
    is_right: bool = False
    reason: str = ""
    detail: str = ""

    @property
    def passes(self) -> bool:
        """Whether it passes all checks."""
        return all(checked.passed for checked in self.checks)

    @property
    def rank(self) -> tuple[bool, float]:
        """Higher is better. Checks other than the judge's come before the score."""
        own = all(checked.passed for checked in self.checks if checked.check != "judge")
        return own, self.score or 0

    @property
    def score(self) -> int | None:
        """The judge's score."""
        return next((c.value for c in self.checks if c.check == "judge"), None)

    @property
    def text(self) -> str:
        """Its text."""
        return joined([self.turn])

    def facts(self) -> dict[str, Any]:
        """How it was made and graded, for `generated.jsonl`."""
        return {"variant": self.variant, "attempt": self.attempt, "checks": self.checks}

    def outcome(self) -> dict[str, Any]:
        """Its text and facts, for a row without a pair."""
        content = {"answer": self.text} if not self.reason else {"problem": self.detail}
        return {**content, **self.facts()}


class Selection:
    """One run of `synth.preferences`."""

    def __init__(self, step: "Preferences", job: Job) -> None:
        self.step = step
        self.job = job
        self._engine = job.engine(step.model, budget=step.budget)
        self._teacher = name_of(step.model)
        self._prompt = Prompt.of(step.prompt, step.default_prompt())
        self._checker = Checker(step.checks)
        self._judge = Judge.of(job, step.judge, step.checks.judge, step.budget)
        self._answered = Spool(job.scratch, Graded)  # by task
        self._used = Used()
        self._unusable: Counter[str] = Counter()
        self._paired = 0  # rows with a pair

    def run(self) -> Dataset:
        """Get answers, grade them, and write the pairs."""
        for _ in self.step.seeds():
            pass  # raises an error for an invalid seed before any request
        todo: set[int] | None = None
        for attempt in range(self.step.retries + 1):
            todo = self._attempt(attempt, todo)
            if not todo:
                break
        if self._judge is not None:
            self._answered = self._graded(self._judge)
        return self._written()

    # -- answers --------------------------------------------------------------------------------

    def _attempt(self, attempt: int, todo: set[int] | None) -> set[int]:
        """Run the tasks in `todo` (None: all); returns those without a usable answer."""
        again = set[int]()
        is_last = attempt == self.step.retries
        for task, answer in self._answers(attempt, todo):
            self._used.take(answer)
            read = self._read(task, answer, attempt)
            if read.reason:
                self._unusable[read.reason] += 1
                again.add(task.number)
            if not read.reason or is_last:
                self._answered.add(task.number, read)
        return again

    def _answers(
        self, attempt: int, todo: set[int] | None
    ) -> Iterator[tuple[Task, Completion | FineryError]]:
        tasks = self.step.tasks(self._prompt)
        yield from ask(
            self._engine,
            tasks if todo is None else (task for task in tasks if task.number in todo),
            lambda task: task.request(attempt),
            total=self.step.requests(self.step.seed_count()) if todo is None else len(todo),
            progress=f"generating again ({attempt} of {self.step.retries})"
            if attempt
            else "generating",
            **self.step.sampling(),
        )

    def _read(self, task: Task, answer: Completion | FineryError, attempt: int) -> Graded:
        try:
            completion = usable(answer, task.tools)
        except Rejected as error:
            return Graded(task.variant, attempt, reason=error.reason, detail=error.detail)
        turn: Message = {"role": "assistant", "content": completion.text.strip()}
        if completion.tool_calls:
            turn["tool_calls"] = completion.tool_calls
        row = task.seeds[0]
        checks = self._checker.checked(with_answer(row, turn))
        is_right = self.step.chosen == "row" and self._is_right(row, joined([turn]))
        return Graded(task.variant, attempt, turn, checks, is_right)

    # -- grading --------------------------------------------------------------------------------

    def _graded(self, judge: Judge) -> Spool[Graded]:
        """The answers, with the judge's score as an additional check for those that passed."""
        total = sum(self._is_judged(answer) for _, answer in self._answered)
        scores: dict[int, Any] = dict(judge.scores(self._to_judge(), total))
        graded = Spool(self.job.scratch, Graded)
        for number, answer in self._answered:
            if number in scores:
                answer.checks.append(self._checked(scores[number]))
            graded.add(number, answer)
        self._answered.close()
        return graded

    def _to_judge(self) -> Iterator[tuple[int, Row]]:
        for task in self.step.tasks(self._prompt):
            for answer in self._answered.of(task.number):
                if self._is_judged(answer):
                    yield task.number, with_answer(task.seeds[0], answer.turn)

    def _is_judged(self, answer: Graded) -> bool:
        return not answer.reason and answer.passes and not answer.is_right

    def _checked(self, score: Any) -> Checked:
        rubric = self.step.checks.judge
        assert rubric is not None
        if not isinstance(score, Score):
            detail = f"no score: {no_score(score)}"
            return Checked(check="judge", passed=False, detail=detail)
        return Checked(
            check="judge", passed=score.score >= rubric.min, value=score.score, detail=score.reason
        )

    # -- selecting ------------------------------------------------------------------------------

    def _written(self) -> Dataset:
        with Drops(self.job.out) as drops, Origins(self.job.out) as origins:
            dataset = Dataset.write(self.job.out, self._rows(drops, origins))
        drops.refuse_nothing_left(
            len(dataset), "raise n to get more answers, check the checks, or raise temperature"
        )
        total = self.step.seed_count()
        self.job.log(f"{len(dataset):,} pairs from {self._paired:,} of {total:,} rows")
        for counts, what in ((drops.counts, "rows without a pair"), (self._unusable, "unusable")):
            if counts:
                self.job.log(f"{what}: {by_reason(counts)}")
        dataset.meta |= {
            "prompts": total,
            "paired": self._paired,
            **drops.meta(),
            "unusable": dict(sorted(self._unusable.items())),
            "answers": self._used.meta(),
            **({"judged": self._judge.used.meta()} if self._judge is not None else {}),
        }
        return dataset

    def _rows(self, drops: Drops, origins: Origins) -> Iterator[Row]:
        for row, messages, answers in self._by_row():
            try:
                pairs = self._pairs(row, answers)
            except Rejected as error:
                drops.add(row, error.reason, error.detail, self._without(row, messages, answers))
                continue
            self._paired += 1
            for chosen, rejected in pairs:
                preference = _pair(row, chosen, rejected)
                origins.add(self._origin(preference, messages, chosen, rejected))
                yield preference

    def _by_row(self) -> Iterator[tuple[Row, Conversation, list[Graded]]]:
        """(row, messages sent, answers) of each row."""
        answers: list[Graded] = []
        for task in self.step.tasks(self._prompt):
            answers += self._answered.of(task.number)
            if task.variant == self.step.n - 1:
                yield task.seeds[0], task.messages, answers
                answers = []

    def _pairs(self, row: Row, answers: list[Graded]) -> list[tuple[Graded | None, Graded]]:
        """A row's pairs: (chosen, or None for its own answer; rejected). Raises `Rejected`."""
        graded = [answer for answer in answers if not answer.reason and not _lacks_score(answer)]
        if len(graded) < (2 if self.step.chosen == "best" else 1):
            raise Rejected("too-few-answers", _shortage(answers, graded))
        if self.step.chosen == "row":
            wrong = self._wrong(graded)
            return [(None, answer) for answer in _distinct(wrong)[: self.step.pairs]]
        best, worse = self._best(graded)
        return [(best, answer) for answer in _distinct(worse)[: self.step.pairs]]

    def _best(self, answers: list[Graded]) -> tuple[Graded, list[Graded]]:
        """The best answer, and those that are worse by `margin`, the worst first."""
        if len(_distinct(answers)) == 1:
            raise Rejected("identical", f"all {len(answers)} answers are the same")
        good = [answer for answer in answers if answer.passes]
        if not good:
            raise Rejected("none-good", _failures(answers))
        best = max(good, key=lambda answer: answer.rank)  # the first one if several are equal
        worse = sorted(
            (answer for answer in answers if self._is_worse(answer, best)),
            key=lambda answer: answer.rank,
        )
        worse = [answer for answer in worse if meaning(answer.text) != meaning(best.text)]
        if not worse:
            scores = [str(answer.score) for answer in answers if answer.score is not None]
            why = f"scores {', '.join(scores)}" if scores else "all pass the checks"
            raise Rejected("tie", f"no answer is better than another by the margin: {why}")
        return best, worse

    def _is_worse(self, answer: Graded, best: Graded) -> bool:
        own, score = answer.rank
        return not own or best.rank[1] - score >= self.step.margin

    def _wrong(self, answers: list[Graded]) -> list[Graded]:
        """The answers that differ from the row's own and, if there are checks, fail one."""
        wrong = [s for s in answers if not s.is_right and not (s.checks and s.passes)]
        if not wrong:
            raise Rejected("all-right", f"none of {len(answers)} answers is wrong")
        return wrong

    def _is_right(self, row: Row, text: str) -> bool:
        own = joined(split_turns(row)[1])
        if not self.step.compare:
            return meaning(own) == meaning(text)
        return fields_of(self.step.compare, own) == fields_of(self.step.compare, text)

    def _origin(
        self,
        preference: Row,
        messages: Conversation,
        chosen: Graded | None,
        rejected: Graded,
    ) -> Origin:
        origin, answer = self._asked(preference["id"], messages), chosen or rejected
        origin.parents = preference.get("parents", [])
        origin.variant, origin.attempt = answer.variant, answer.attempt
        origin.checks = answer.checks
        origin.judge = self._verdict(chosen, rejected)
        if chosen is not None:
            origin.more = {"rejected": rejected.facts()}
        return origin

    def _without(self, row: Row, messages: Conversation, answers: list[Graded]) -> Origin:
        """The origin of a row without a pair, with its answers."""
        origin = self._asked(id_of(row), messages)
        origin.more = {"answers": [answer.outcome() for answer in answers]}
        return origin

    def _asked(self, row: str, messages: Conversation) -> Origin:
        return Origin(
            id=row,
            use=self.step.USE,
            model=self._teacher,
            prompt=messages,
            template=self._prompt.origin,
        )

    def _verdict(self, chosen: Graded | None, rejected: Graded) -> dict[str, Any] | None:
        if self._judge is None:
            return None
        sides = {"chosen": chosen, "rejected": rejected}
        scores = {name: answer.score for name, answer in sides.items() if answer and answer.score}
        return {"model": self._judge.model, "scores": scores} if scores else None


def _pair(row: Row, chosen: Graded | None, rejected: Graded) -> Row:
    prompt, own = split_turns(row)
    rest = {k: v for k, v in row.items() if k not in TURN_COLUMNS}
    sides = {"chosen": own if chosen is None else [chosen.turn], "rejected": [rejected.turn]}
    return with_parents({"prompt": prompt, **sides, **rest}, [row])


def _lacks_score(answer: Graded) -> bool:
    """Whether the judge's answer couldn't be read."""
    return any(c.check == "judge" and c.value is None for c in answer.checks)


def _distinct(answers: Iterable[Graded]) -> list[Graded]:
    """The first of each set of answers with the same meaning."""
    first: dict[str, Graded] = {}
    for answer in answers:
        first.setdefault(meaning(answer.text), answer)
    return list(first.values())


def _shortage(answers: list[Graded], graded: list[Graded]) -> str:
    """The number of usable answers, and why others are unusable."""
    why = Counter(answer.reason or "no-score" for answer in answers if answer not in graded)
    return f"{len(graded)} of {len(answers)} answers are usable ({by_reason(why)})"


def _failures(answers: list[Graded]) -> str:
    why = [checked.detail for answer in answers for checked in answer.checks if not checked.passed]
    return f"no answer passes the checks: {why[0]}" if why else "no answer passes the checks"
