"""`synth.preferences`: a better and a worse answer to each prompt."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Literal

import msgspec

from finery import Completion, Dataset, Job, UsageError, setting
from finery.rows import TURN_COLUMNS, Message, Row, split_turns
from finery.rows.answers.jsonvalues import NotJson, parse
from finery.rows.answers.reading import Reader, Unreadable
from finery.rows.badrow import BadRow
from finery.rows.dropped import Drops, reason_counts
from finery.rows.generated import Origin
from finery.rows.parts import canonical_json, join_turns, row_id_of
from finery_synth.asking import MOST_VARIANTS, Rejected, Task, with_parents
from finery_synth.checks import Checks
from finery_synth.generator import MOST_RETRIES, Candidate, Generator
from finery_synth.prompts import Prompt
from finery_synth.steps.answer import TEMPLATE, answered, prompts_of


class Graded:
    """An answer to a prompt. seed: the row with the prompt. rank: higher is better."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.origin = candidate.origin
        self.checks = candidate.origin.checks
        self.seed = candidate.seeds[0]
        verdict = next((c for c in self.checks if c.check == "judge"), None)
        self.score: int | None = None if verdict is None else verdict.value
        self.is_usable = not candidate.reason and (verdict is None or self.score is not None)
        # Checks other than the judge's come before the score.
        self.rank = all(c.passed for c in self.checks if c.check != "judge"), self.score or 0

    @property
    def turn(self) -> Message:
        """Its turn, if it is usable."""
        turn: Message = self.candidate.row["messages"][-1]
        return turn

    @property
    def text(self) -> str:
        """Its text, if it is usable."""
        return join_turns([self.turn])

    def facts(self) -> dict[str, Any]:
        """How it was made and graded, for `generated.jsonl`."""
        origin = self.origin
        return {"variant": origin.variant, "attempt": origin.attempt, "checks": self.checks}


def _pair(chosen: Graded | None, rejected: Graded) -> Candidate:
    """A preference. chosen: None for the row's own answer."""
    row, answer = rejected.seed, chosen or rejected
    prompt, own = split_turns(row)
    rest = {k: v for k, v in row.items() if k not in TURN_COLUMNS}
    sides = {"chosen": own if chosen is None else [chosen.turn], "rejected": [rejected.turn]}
    preference = with_parents({"prompt": prompt, **sides, **rest}, [row])
    graded = {"chosen": chosen, "rejected": rejected}
    scores = {side: a.score for side, a in graded.items() if a is not None and a.score}
    judge = answer.origin.judge and {"model": answer.origin.judge["model"], "scores": scores}
    origin = msgspec.structs.replace(
        answer.origin,
        id=preference["id"],
        parents=preference.get("parents", []),
        answer=None,
        judge=judge,
        more={} if chosen is None else {"rejected": rejected.facts()},
    )
    return Candidate(preference, origin)


def _no_pair(answers: Sequence[Graded], why: Rejected) -> Candidate:
    """A row without a pair, dropped with its answers."""
    row, origin = answers[0].seed, answers[0].origin
    outcomes = [
        {
            **({"problem": a.candidate.detail} if a.candidate.reason else {"answer": a.text}),
            **a.facts(),
        }
        for a in answers
    ]
    dropped = Origin(
        id=row_id_of(row), use=origin.use, model=origin.model, prompt=origin.prompt,
        template=origin.template, more={"answers": outcomes},
    )  # fmt: skip
    return Candidate(row, dropped, reason=why.reason, detail=why.detail)


def _distinct(answers: Iterable[Graded]) -> list[Graded]:
    """The first of each set of answers with the same meaning."""
    first: dict[str, Graded] = {}
    for answer in answers:
        first.setdefault(meaning(answer.text), answer)
    return list(first.values())


def meaning(text: str) -> str:
    """The meaning of an answer: its JSON value, or its text.

    The text is lower case, with single spaces, and without spaces and full stops at the end.
    """
    try:
        value = parse(text)
    except NotJson:
        value = None
    if isinstance(value, dict | list):
        return canonical_json(value)
    return " ".join(text.casefold().split()).rstrip(" .")


def fields_of(names: Sequence[str], text: str) -> tuple[str, ...] | None:
    """The values of fields in an answer; None if one is missing or repeated."""
    try:
        return Reader(fields=tuple(names)).expected({"prompt": "", "completion": text}).values
    except Unreadable:
        return None


class Preferences(Generator, keeps_prompts=True):
    """Make preferences from several answers to each prompt, for `trl.dpo`.

    `chosen: best`: the model answers each prompt `n` times. The chosen answer is the best one that
    passes all `checks`. The rejected answer is the worst: answers that fail a check come first,
    then those with the lowest score of `checks: judge`. If no answer is better than another by
    `margin`, the row is dropped (`tie`).

    `chosen: row`: the chosen answer is the row's own. The rejected answer is a wrong answer of the
    model, e.g. the tuned one: it differs from the row's own and, if there are `checks`, fails one.
    Without checks, every other answer is wrong. A row that the model always answers correctly is
    dropped (`all-right`).

    Answers with the same meaning make no pair. Rows keep their other columns, and `generated.jsonl`
    records which answers were used and why. If an answer can't be used (empty, truncated, a
    refusal, an error), the request is repeated.
    """

    DEFAULT_PROMPT = TEMPLATE
    SELECTS = True
    NOTHING_LEFT = "raise n to get more answers, check the checks, or raise temperature"

    chosen: Literal["best", "row"] = setting(
        "best", help="best: the best of `n` answers. row: the row's own answer."
    )
    n: int = setting(4, ge=1, le=MOST_VARIANTS, help="Number of answers to each prompt.")
    pairs: int = setting(
        1,
        ge=1,
        le=MOST_VARIANTS,
        help="Maximum pairs for a prompt, each with a different rejected answer.",
    )
    margin: int = setting(
        1, ge=1, help="Minimum difference between the judge's scores of the two answers."
    )
    compare: list[str] = setting(
        [],
        help="For `chosen: row`: fields that must equal those of the row's own answer for an "
        "answer to be right (JSON objects, or lines `name: value`). Default: the whole text "
        "without case and whitespace, or the JSON value.",
        examples=[["category", "priority"]],
    )
    checks: Checks = setting(Checks(), help="Checks that a good answer must pass.")
    retries: int = setting(
        2,
        ge=0,
        le=MOST_RETRIES,
        help="How often a request is repeated if its answer can't be used.",
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that don't fit together."""
        super().check()
        if self.checks.similarity is not None:
            raise UsageError(
                "answers to the same prompt are similar", where="checks.similarity", fix="remove it"
            )
        if self.n > 1 and self.temperature == 0:
            raise UsageError(
                "at temperature 0 all answers to a prompt are the same",
                where="n",
                fix="set a temperature above 0" if self.chosen == "best" else "set n: 1",
            )
        if self.chosen == "row":
            return
        if self.n < 2:
            raise UsageError("a pair needs two answers", where="n", fix="set n: 2 or more")
        if self.compare:
            raise UsageError(
                "`compare` needs the row's own answer", where="compare", fix="set chosen: row"
            )
        if self.checks == Checks():
            raise UsageError(
                "`checks` is missing: it determines which answer is better",
                where="checks",
                fix="set judge: MODEL and checks: {judge: {rubric: …}}, or other checks",
            )

    def check_seed(self, row: Row) -> None:
        """Raise `BadRow` for a row without a prompt, or without an answer to choose."""
        super().check_seed(row)
        if self.chosen == "best":
            return
        own = join_turns(split_turns(row)[1])
        if not own.strip():
            raise BadRow(
                "the row has no answer to choose",
                "remove it, or set chosen: best to choose among the model's answers",
            )
        if self.compare and fields_of(self.compare, own) is None:
            raise BadRow(
                f"its answer doesn't have {' and '.join(self.compare)}",
                "correct the row, or the names in `compare`",
            )

    def variants(self) -> int:
        """One request for each answer."""
        return self.n

    def tasks(self, prompt: Prompt) -> Iterator[Task]:
        """The prompt of each row, `n` times."""
        return prompts_of(self.seeds(), self.n, prompt)

    def read(self, task: Task, answer: Completion) -> list[Row]:
        """The row with the answer."""
        return [answered(task.seeds[0], answer, answer.text)]

    def is_judged(self, candidate: Candidate) -> bool:
        """Whether it passes the checks and, for `chosen: row`, may be wrong."""
        return candidate.passes and not self._is_right(candidate)

    def finished(self, job: Job, accepted: Iterable[tuple[int, Candidate]]) -> Iterator[Candidate]:
        """The pairs of each row, or why it has none."""
        for _, group in groupby(accepted, lambda numbered: numbered[0] // self.n):
            answers = [Graded(candidate) for _, candidate in group]
            try:
                yield from [_pair(*pair) for pair in self._pairs(answers)]
            except Rejected as error:
                yield _no_pair(answers, error)

    def summary(self, rows: int, drops: Drops) -> str:
        """How many rows have pairs, and why others have none."""
        total, without = self.seed_count(), drops.counts.total()
        why = f"; rows without a pair: {reason_counts(drops.counts)}" if without else ""
        return f"{rows:,} pairs from {total - without:,} of {total:,} rows{why}"

    def facts(self, job: Job, rows: Dataset) -> dict[str, Any]:
        """Rows with and without pairs, and unusable answers."""
        del rows.meta["wanted"]
        total, unusable = self.seed_count(), rows.meta.pop("rejected")
        paired = total - sum(rows.meta["dropped"].values())
        return {"prompts": total, "paired": paired, "unusable": unusable}

    def _pairs(self, answers: Sequence[Graded]) -> list[tuple[Graded | None, Graded]]:
        """A row's pairs: (chosen, or None for its own answer; rejected). Raises `Rejected`."""
        graded = [answer for answer in answers if answer.is_usable]
        if len(graded) < (2 if self.chosen == "best" else 1):
            why = Counter(a.candidate.reason or "no-score" for a in answers if not a.is_usable)
            usable = f"{len(graded)} of {len(answers)} answers are usable"
            raise Rejected("too-few-answers", f"{usable} ({reason_counts(why)})")
        if self.chosen == "best":
            best, worse = self._best(graded)
            return [(best, answer) for answer in _distinct(worse)[: self.pairs]]
        wrong = [
            answer
            for answer in graded
            if not self._is_right(answer.candidate)
            and not (answer.checks and answer.candidate.passes)
        ]
        if not wrong:
            raise Rejected("all-right", f"none of {len(graded)} answers is wrong")
        return [(None, answer) for answer in _distinct(wrong)[: self.pairs]]

    def _best(self, answers: Sequence[Graded]) -> tuple[Graded, list[Graded]]:
        """The best answer, and those that are worse by `margin`, the worst first."""
        if len(_distinct(answers)) == 1:
            raise Rejected("identical", f"all {len(answers)} answers are the same")
        good = [answer for answer in answers if answer.candidate.passes]
        if not good:
            failed = next(c.detail for a in answers for c in a.checks if not c.passed)
            raise Rejected("none-good", f"no answer passes the checks: {failed}")
        best = max(good, key=lambda answer: answer.rank)  # the first one if several are equal
        worse = [
            answer
            for answer in sorted(answers, key=lambda answer: answer.rank)
            if (not answer.rank[0] or best.rank[1] - answer.rank[1] >= self.margin)
            and meaning(answer.text) != meaning(best.text)
        ]
        if not worse:
            scores = [str(answer.score) for answer in answers if answer.score is not None]
            why = f"scores {', '.join(scores)}" if scores else "all pass the checks"
            raise Rejected("tie", f"no answer is better than another by the margin: {why}")
        return best, worse

    def _is_right(self, candidate: Candidate) -> bool:
        """Whether an answer has the same meaning as the row's own answer, which is chosen."""
        if self.chosen == "best" or candidate.reason:
            return False
        own, text = (join_turns(split_turns(row)[1]) for row in (candidate.seeds[0], candidate.row))
        if self.compare:
            return fields_of(self.compare, own) == fields_of(self.compare, text)
        return meaning(own) == meaning(text)
