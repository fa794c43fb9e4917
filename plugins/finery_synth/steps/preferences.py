"""`synth.preferences`: a better and a worse answer to each prompt."""

from collections.abc import Iterator
from typing import Literal

from finery import Dataset, Job, UsageError, setting
from finery.rows import Row, split_turns
from finery.rows.badrow import BadRow
from finery.rows.parts import joined
from finery_synth.ask import row_prompts
from finery_synth.ask.prompts import Prompt
from finery_synth.ask.task import MOST_VARIANTS, Task
from finery_synth.checks.sameness import fields_of
from finery_synth.checks.settings import Checks
from finery_synth.generator import MOST_RETRIES, Generator


class Preferences(Generator, keeps_prompts=True):
    """Make preferences of several answers to each prompt, for `trl.dpo`.

    `chosen: best`: the model answers each prompt `n` times. Chosen is the best answer that passes
    all `checks`, rejected the worst: first those that fail a check, then by the score of
    `checks: judge`. Where no answer is better than another by `margin`, the row is dropped (`tie`).

    `chosen: row`: chosen is the row's own answer, rejected what the model, e.g. the one that was
    tuned, answers wrongly: an answer that isn't the row's own and, where there are `checks`, fails
    one. Without checks every other answer is wrong. A row that the model always gets right is
    dropped (`all-right`).

    Answers that say the same make no pair. Rows keep their other columns; with `generated.jsonl`
    saying which answers were taken and why. An answer that can't be used at all (empty, cut off, a
    refusal, an error) is asked for again.
    """

    USE = "synth.preferences"
    DEFAULT_PROMPT = row_prompts.TEMPLATE

    chosen: Literal["best", "row"] = setting(
        "best", help="best: the best of `n` answers. row: the row's own answer."
    )
    n: int = setting(4, ge=1, le=MOST_VARIANTS, help="Answers to each prompt.")
    pairs: int = setting(
        1, ge=1, le=MOST_VARIANTS, help="Most pairs of a prompt, each with another rejected answer."
    )
    margin: int = setting(
        1, ge=1, help="Least difference between the judge's scores of the two answers."
    )
    compare: list[str] = setting(
        [],
        help="Of `chosen: row`: fields that an answer must share with the row's own to be right "
        "(JSON objects, or lines `name: value`). Default: the whole text, but for case and spaces; "
        "of JSON its value.",
        examples=[["category", "priority"]],
    )
    checks: Checks = setting(Checks(), help="What a good answer must pass.")
    retries: int = setting(
        2, ge=0, le=MOST_RETRIES, help="How often an answer is asked for again that can't be used."
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that don't fit together."""
        super().check()
        if self.checks.similarity is not None:
            raise UsageError(
                "answers to one prompt are alike", where="checks.similarity", fix="drop it"
            )
        if self.n > 1 and self.temperature == 0:
            raise UsageError(
                "at temperature 0 all answers to a prompt are the same",
                where="n",
                fix="a temperature above 0" if self.chosen == "best" else "n: 1",
            )
        if self.chosen == "row":
            return
        if self.n < 2:
            raise UsageError("one answer makes no pair", where="n", fix="n: 2 or more")
        if self.compare:
            raise UsageError(
                "`compare` is about the row's own answer", where="compare", fix="chosen: row"
            )
        if self.checks == Checks():
            raise UsageError(
                "nothing says which answer is better",
                where="checks",
                fix="judge: MODEL with checks: {judge: {rubric: …}}, or other checks",
            )

    def check_seed(self, row: Row) -> None:
        """Raise `BadRow` for a row without a prompt, or without the answer to be chosen."""
        super().check_seed(row)
        if self.chosen == "best":
            return
        own = joined(split_turns(row)[1])
        if not own.strip():
            raise BadRow(
                "the row has no answer to choose",
                "drop it, or choose the best of the model's answers: chosen: best",
            )
        if self.compare and fields_of(self.compare, own) is None:
            raise BadRow(
                f"its answer doesn't have {' and '.join(self.compare)}",
                "repair the row, or the names in `compare`",
            )

    def requests(self, rows: int) -> int:
        """One for each answer."""
        return rows * self.n

    def tasks(self, prompt: Prompt) -> Iterator[Task]:
        """The prompt of each row, `n` times."""
        return row_prompts.row_tasks(self.n, self.seeds(), prompt)

    def run(self, job: Job) -> Dataset:
        """Ask, judge, choose, and write."""
        from finery_synth.flow.selection import Selection

        self.check()
        return Selection(self, job).run()
