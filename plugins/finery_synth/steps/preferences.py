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

    USE = "synth.preferences"
    DEFAULT_PROMPT = row_prompts.TEMPLATE

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
        own = joined(split_turns(row)[1])
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

    def requests(self, rows: int) -> int:
        """One request for each answer."""
        return rows * self.n

    def tasks(self, prompt: Prompt) -> Iterator[Task]:
        """The prompt of each row, `n` times."""
        return row_prompts.row_tasks(self.n, self.seeds(), prompt)

    def run(self, job: Job) -> Dataset:
        """Send requests, judge the answers, choose, and write the pairs."""
        from finery_synth.flow.selection import Selection

        return Selection(self, job).run()
