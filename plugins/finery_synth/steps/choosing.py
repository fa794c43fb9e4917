"""The way of preferences: several answers to each prompt, graded; of those the best and the worst.

An answer's grade depends on nothing but itself and its prompt, so that one answer more is one
request more, to the model and to the judge. What waits lies on disk.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from finery import Completion, Dataset, FineryError, Job
from finery.rows import Conversation, Message, Row, split_turns
from finery.rows.dropped import Drops
from finery.rows.generated import Checked, Origin, Origins, name_of
from finery.rows.parts import id_of, joined
from finery_synth.ask.asking import Spool, Task, Used, ask
from finery_synth.ask.prompts import Prompt
from finery_synth.checks.checker import Checker
from finery_synth.checks.sameness import fields_of, meaning
from finery_synth.flow import counted, readable, with_parents
from finery_synth.generator import Rejected
from finery_synth.judge.judging import Judge, Score, no_score
from finery_synth.steps.answer import SIDES, answered
from finery_synth.steps.preferences import Preferences


class Said(msgspec.Struct):
    """An answer to a prompt, or with a `reason` why it can't be used.

    checks: what became of it in those that look at it alone, and last in the judge's. is_right:
    whether it says what the row's own answer says, where that is chosen; then it isn't judged.
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
        """The higher the better: what fails a check by itself comes before any score."""
        own = all(checked.passed for checked in self.checks if checked.check != "judge")
        return own, self.score or 0

    @property
    def score(self) -> int | None:
        """What the judge gives it."""
        return next((c.value for c in self.checks if c.check == "judge"), None)

    @property
    def text(self) -> str:
        """What it says."""
        return joined([self.turn])

    def facts(self) -> dict[str, Any]:
        """What made it what it is, for `generated.jsonl`."""
        return {"variant": self.variant, "attempt": self.attempt, "checks": self.checks}

    def told(self) -> dict[str, Any]:
        """All about it, for a row without a pair."""
        said = {"answer": self.text} if not self.reason else {"problem": self.detail}
        return {**said, **self.facts()}


class Choosing:
    """One run of `synth.preferences`."""

    def __init__(self, step: Preferences, job: Job) -> None:
        self.step = step
        self.job = job
        self._engine = job.engine(step.model, budget=step.budget)
        self._teacher = name_of(step.model)
        self._prompt = Prompt.of(step.prompt, step.default_prompt())
        self._checker = Checker(step.checks)
        self._judge = Judge.of(job, step.judge, step.checks.judge, step.budget)
        self._said = Spool(job.scratch, Said)  # by task
        self._used = Used()
        self._unusable: Counter[str] = Counter()
        self._paired = 0  # rows with a pair

    def run(self) -> Dataset:
        """Ask, grade, and write the pairs."""
        for _ in self.step.seeds():
            pass  # a row that can't be started from ends it before anything is asked
        todo: set[int] | None = None
        for attempt in range(self.step.retries + 1):
            todo = self._attempt(attempt, todo)
            if not todo:
                break
        if self._judge is not None:
            self._said = self._graded(self._judge)
        return self._written()

    # -- asking ---------------------------------------------------------------------------------

    def _attempt(self, attempt: int, todo: set[int] | None) -> set[int]:
        """Ask for all answers (None), or those to do; what still can't be used."""
        again = set[int]()
        is_last = attempt == self.step.retries
        for task, answer in self._answers(attempt, todo):
            self._used.take(answer)
            said = self._read(task, answer, attempt)
            if said.reason:
                self._unusable[said.reason] += 1
                again.add(task.number)
            if not said.reason or is_last:
                self._said.add(task.number, said)
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
            progress=f"asking again ({attempt} of {self.step.retries})" if attempt else "asking",
            **self.step.sampling(),
        )

    def _read(self, task: Task, answer: Completion | FineryError, attempt: int) -> Said:
        try:
            said = readable(answer, task.tools)
        except Rejected as error:
            return Said(task.variant, attempt, reason=error.reason, detail=error.detail)
        turn: Message = {"role": "assistant", "content": said.text.strip()}
        if said.tool_calls:
            turn["tool_calls"] = said.tool_calls
        row = task.seeds[0]
        checks = self._checker.checked(answered(row, turn))
        is_right = self.step.chosen == "row" and self._is_right(row, joined([turn]))
        return Said(task.variant, attempt, turn, checks, is_right)

    # -- grading --------------------------------------------------------------------------------

    def _graded(self, judge: Judge) -> Spool[Said]:
        """The answers, those that pass so far with the judge's score as another check."""
        total = sum(self._is_judged(said) for _, said in self._said)
        scores: dict[int, Any] = dict(judge.scores(self._to_judge(), total))
        graded = Spool(self.job.scratch, Said)
        for number, said in self._said:
            if number in scores:
                said.checks.append(self._checked(scores[number]))
            graded.add(number, said)
        self._said.close()
        return graded

    def _to_judge(self) -> Iterator[tuple[int, Row]]:
        for task in self.step.tasks(self._prompt):
            for said in self._said.of(task.number):
                if self._is_judged(said):
                    yield task.number, answered(task.seeds[0], said.turn)

    def _is_judged(self, said: Said) -> bool:
        return not said.reason and said.passes and not said.is_right

    def _checked(self, score: Any) -> Checked:
        rubric = self.step.checks.judge
        assert rubric is not None
        if not isinstance(score, Score):
            detail = f"no score: {no_score(score)}"
            return Checked(check="judge", passed=False, detail=detail)
        return Checked(
            check="judge", passed=score.score >= rubric.min, value=score.score, detail=score.reason
        )

    # -- choosing -------------------------------------------------------------------------------

    def _written(self) -> Dataset:
        with Drops(self.job.out) as drops, Origins(self.job.out) as origins:
            made = Dataset.write(self.job.out, self._rows(drops, origins))
        drops.refuse_nothing_left(
            len(made), "ask for more answers with n, look at the checks, or raise temperature"
        )
        total = self.step.seed_count()
        self.job.log(f"{len(made):,} pairs of {self._paired:,} of {total:,} rows")
        for counts, what in ((drops.counts, "rows without a pair"), (self._unusable, "unusable")):
            if counts:
                self.job.log(f"{what}: {counted(counts)}")
        made.meta |= {
            "prompts": total,
            "paired": self._paired,
            **drops.meta(),
            "unusable": dict(sorted(self._unusable.items())),
            "answers": self._used.meta(),
            **({"judged": self._judge.used.meta()} if self._judge is not None else {}),
        }
        return made

    def _rows(self, drops: Drops, origins: Origins) -> Iterator[Row]:
        for row, tasks, found in self._by_row():
            try:
                pairs = self._pairs(row, found)
            except Rejected as error:
                drops.add(row, error.reason, error.detail, self._without(row, tasks, found))
                continue
            self._paired += 1
            for chosen, rejected in pairs:
                made = _pair(row, chosen, rejected)
                origins.add(self._origin(made, tasks, chosen, rejected))
                yield made

    def _by_row(self) -> Iterator[tuple[Row, Conversation, list[Said]]]:
        """(row, what was asked, the answers) of each row."""
        found: list[Said] = []
        for task in self.step.tasks(self._prompt):
            found += self._said.of(task.number)
            if task.variant == self.step.n - 1:
                yield task.seeds[0], task.messages, found
                found = []

    def _pairs(self, row: Row, found: list[Said]) -> list[tuple[Said | None, Said]]:
        """(chosen, None for the row's own; rejected) of a row. Raises `Rejected`."""
        usable = [said for said in found if not said.reason and not _lacks_score(said)]
        if len(usable) < (2 if self.step.chosen == "best" else 1):
            raise Rejected("too-few-answers", _told(found, usable))
        if self.step.chosen == "row":
            wrong = self._wrong(usable)
            return [(None, said) for said in _distinct(wrong)[: self.step.pairs]]
        best, worse = self._best(usable)
        return [(best, said) for said in _distinct(worse)[: self.step.pairs]]

    def _best(self, usable: list[Said]) -> tuple[Said, list[Said]]:
        """The best answer, and those that are worse by enough, the worst first."""
        if len(_distinct(usable)) == 1:
            raise Rejected("identical", f"all {len(usable)} answers say the same")
        good = [said for said in usable if said.passes]
        if not good:
            raise Rejected("none-good", _failures(usable))
        best = max(good, key=lambda said: said.rank)  # the first of equals
        worse = sorted(
            (said for said in usable if self._is_worse(said, best)), key=lambda said: said.rank
        )
        worse = [said for said in worse if meaning(said.text) != meaning(best.text)]
        if not worse:
            scores = [str(said.score) for said in usable if said.score is not None]
            why = f"scores {', '.join(scores)}" if scores else "all pass the checks"
            raise Rejected("tie", f"no answer is better than another by enough: {why}")
        return best, worse

    def _is_worse(self, said: Said, best: Said) -> bool:
        own, score = said.rank
        return not own or best.rank[1] - score >= self.step.margin

    def _wrong(self, usable: list[Said]) -> list[Said]:
        """The answers that aren't the row's own and fail a check, where there are any."""
        wrong = [s for s in usable if not s.is_right and not (s.checks and s.passes)]
        if not wrong:
            raise Rejected("all-right", f"of {len(usable)} answers none is wrong")
        return wrong

    def _is_right(self, row: Row, text: str) -> bool:
        own = joined(split_turns(row)[1])
        if not self.step.compare:
            return meaning(own) == meaning(text)
        return fields_of(self.step.compare, own) == fields_of(self.step.compare, text)

    def _origin(
        self, made: Row, messages: Conversation, chosen: Said | None, rejected: Said
    ) -> Origin:
        told, origin = chosen or rejected, self._asked(made["id"], messages)
        origin.parents = made.get("parents", [])
        origin.variant, origin.attempt, origin.checks = told.variant, told.attempt, told.checks
        origin.judge = self._verdict(chosen, rejected)
        if chosen is not None:
            origin.more = {"rejected": rejected.facts()}
        return origin

    def _without(self, row: Row, messages: Conversation, found: list[Said]) -> Origin:
        """What was said in place of a pair."""
        origin = self._asked(id_of(row), messages)
        origin.more = {"answers": [said.told() for said in found]}
        return origin

    def _asked(self, row: str, messages: Conversation) -> Origin:
        return Origin(
            id=row,
            use=self.step.USE,
            model=self._teacher,
            prompt=messages,
            template=self._prompt.origin,
        )

    def _verdict(self, chosen: Said | None, rejected: Said) -> dict[str, Any] | None:
        if self._judge is None:
            return None
        sides = {"chosen": chosen, "rejected": rejected}
        scores = {name: said.score for name, said in sides.items() if said and said.score}
        return {"model": self._judge.model, "scores": scores} if scores else None


def _pair(row: Row, chosen: Said | None, rejected: Said) -> Row:
    prompt, own = split_turns(row)
    rest = {k: v for k, v in row.items() if k not in SIDES}
    sides = {"chosen": own if chosen is None else [chosen.turn], "rejected": [rejected.turn]}
    return with_parents({"prompt": prompt, **sides, **rest}, [row])


def _lacks_score(said: Said) -> bool:
    """Whether the judge was asked and said nothing that can be read."""
    return any(c.check == "judge" and c.value is None for c in said.checks)


def _distinct(found: Iterable[Said]) -> list[Said]:
    """Of answers that say the same, the first."""
    kept: dict[str, Said] = {}
    for said in found:
        kept.setdefault(meaning(said.text), said)
    return list(kept.values())


def _told(found: list[Said], usable: list[Said]) -> str:
    """How many answers there are, and why not more."""
    why = Counter(said.reason or "no-score" for said in found if said not in usable)
    return f"{len(usable)} of {len(found)} answers can be used ({counted(why)})"


def _failures(usable: list[Said]) -> str:
    why = [checked.detail for said in usable for checked in said.checks if not checked.passed]
    return f"no answer passes the checks: {why[0]}" if why else "no answer passes the checks"
