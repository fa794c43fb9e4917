"""One run of `synth.judge` on preferences: two answers are compared in both orders."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finery import Job
from finery.rows import Row
from finery.rows.dropped import Drops
from finery.rows.generated import Origin, Origins
from finery.rows.parts import changed
from finery_synth.ask.spool import Spool
from finery_synth.judge.pairs import PairJudge, Positions, Seen, is_one_answer, outcome

if TYPE_CHECKING:
    from finery_synth.steps.judge import JudgeRows


class Comparison:
    """One run of `synth.judge` on preferences."""

    def __init__(self, step: "JudgeRows", job: Job) -> None:
        assert isinstance(step.rubric, str)
        self._step = step
        self._job = job
        self._columns = step.written()
        self._counts: Counter[str] = Counter()
        self._positions = Positions()
        self._judge = PairJudge(
            job, step.model, step.rubric, prompt=step.prompt, max_tokens=step.max_tokens,
            budget=step.budget,
        )  # fmt: skip
        self._seen = Spool(job.scratch, Seen)

    def rows(self, drops: Drops, origins: Origins) -> Iterator[Row]:
        """The pairs to keep, with the judge's verdicts."""
        total = sum(not is_one_answer(row) for _, row in self._step.numbered())
        asked = ((n, row) for n, row in self._step.numbered() if not is_one_answer(row))
        for number, seen in self._judge.seen(asked, total):
            self._seen.add(number, seen)
        for number, row in self._step.numbered():
            judged = self._judged(number, row, drops)
            if judged is not None:
                origins.add(self._origin(row, judged, self._both(number)))
                yield judged

    def _both(self, number: int) -> list[Seen]:
        """A pair's verdict in each order."""
        return sorted(self._seen.of(number), key=lambda seen: seen.order)

    def _judged(self, number: int, row: Row, drops: Drops) -> Row | None:
        """The row with its verdict; None if it was dropped."""
        if is_one_answer(row):
            drops.add(row, "identical", "chosen and rejected are the same")
            return None
        seen = self._both(number)
        origin = self._origin(row, row, seen)
        better, detail = outcome(seen)
        if better == "no-score":
            drops.add(row, better, detail, origin)
            return None
        self._positions.add(seen)
        self._counts[better] += 1
        if better == "undecided" and self._step.undecided == "drop":
            drops.add(row, better, detail, origin)
            return None
        if better == "rejected" and self._step.lost == "drop":
            drops.add(row, "lost", f"the rejected answer is better: {detail}", origin)
            return None
        swapped = {"chosen": row["rejected"], "rejected": row["chosen"]}
        sides = swapped if better == "rejected" and self._step.lost == "swap" else {}
        side = "chosen" if sides else better
        verdict = dict(zip(self._columns, (side, detail), strict=True))
        return changed(row, {**row, **sides, **verdict})

    def _origin(self, row: Row, judged: Row, seen: list[Seen]) -> Origin:
        return Origin(
            id=judged["id"],
            use=self._step.USE,
            prompt=self._judge.messages(row, 0),
            parents=judged.get("parents", []),
            template=self._judge.template,
            judge={"model": self._judge.model, "orders": seen},
        )

    def facts(self) -> dict[str, Any]:
        """The number of pairs that each side won, and how much the judge favours a position."""
        judged = self._counts.total()
        decided = judged - self._counts["undecided"]
        if judged:
            self._job.log(
                f"both orders agree on {decided:,} of {judged:,} pairs: chosen is better in "
                f"{self._counts['chosen']:,}, rejected in {self._counts['rejected']:,}"
            )
        return {
            "verdicts": judged,
            "pairs": {name: self._counts[name] for name in ("chosen", "rejected", "undecided")},
            "positions": self._positions.facts(),
            "answers": self._judge.used.meta(),
        }
