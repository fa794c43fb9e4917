"""`eval.dialog`: how good is a model in each turn of a conversation?"""

import gc
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from finery import Job, Metrics, Step, UsageError, nested_step, setting
from finery.rows import Row
from finery_eval import asking, slices
from finery_eval.calls.arguments import Equality
from finery_eval.calls.calls import Toolbox
from finery_eval.evaluation import Unjudged, compared, with_speeds, write_scored
from finery_eval.evaluator import BatchEvaluator, Judge
from finery_eval.groups import groups_of
from finery_eval.measure import Measure, Score, in_json, scores_of
from finery_eval.nested import Nested
from finery_eval.predictions import PROMPT_SHOWN
from finery_eval.predictions import predictions as lines_of
from finery_eval.rollouts import Compare, roll_out
from finery_eval.steps.tools import ToolCalls
from finery_eval.tables import Unit, baseline_tables, comparison_tables, table
from finery_eval.turns import Turn, turns_of, unjudged_turns
from finery_eval.verdicts import Answers, Verdicts

OF_ROWS = ("whole", "first_turn", "last_turn")
"""Metrics of whole conversations."""
OF_COMPARISONS = "sign flips of rows, exact"
"""The test of the comparisons."""


class Dialog(Judge, engines=True):
    """Judge models by every turn of a conversation, with the evaluator of your choice.

    Each assistant turn of a row is a question of its own: the turns before it are the prompt, the
    turn itself is the expected answer, and the evaluator in `each` judges the model's. Of rows with
    a prompt and a completion, the turns of the completion are judged. Turns with `weight: 0` aren't
    judged. A `label` is what the last turn must say.

    - With `history: given`, the turns before are those of the row. This tells how good the model is
      at each turn, whatever it did before.
    - With `history: own`, the model's own answers take their place, and only the turns of users and
      tools are the row's. This tells how errors add up. If the model calls other tools than the
      row, or calls one where the row doesn't, the answers of tools and users no longer fit: its
      turn counts as it is, but the row's turn takes its place in the history. The table of turns
      says how often.

    Metrics, each from 0 to 1 with a 95 % interval:
    - those of `each`, over all turns of all rows.
    - `whole`: rows in which every judged turn is right.
    - `first_turn`, `last_turn`: rows of which the first or the last judged turn is right.

    A table has the scores of each turn: the first judged turn of all rows, the second, and so on.
    Wrong answers have the same number, and that of the message in the row: `turn 2 (message 4)`.
    Another table says which assistant turns aren't judged, and how many rows have no other.

    The turns of a row aren't independent of each other. So intervals over all turns are percentile
    bootstraps over rows, with 2,000 resamples and a fixed seed (Efron & Tibshirani 1993); a share
    that is the same in all rows, such as 0 or 1, has the Wilson interval of as many answers as
    there are rows. If no row has more than one turn, they are the intervals of `each`. Each further
    model is compared with the first by the difference over all turns, with its bootstrap interval
    and the exact sign-flip test over rows (Fisher 1935, Pitman 1937).

    Raises DataError for rows without a turn to judge, and for turns that `each` can't judge, with
    row and turn; UsageError for settings that can't work.
    """

    each: Step | None = nested_step(
        "evaluate",
        given={"models": "models", "rows": "rows"},
        help="The evaluator that judges each turn, e.g. `{use: eval.tools}`. Its models and rows "
        "are those of this step.",
    )
    history: Literal["given", "own"] = setting(
        "given",
        help="What comes before a turn. given: the row's turns. own: the answers of the model to "
        "the turns before.",
    )
    turns: Literal["all", "answers", "calls"] = setting(
        "all",
        help="Which assistant turns are judged. answers: those without tool calls. calls: those "
        "with tool calls.",
    )

    def metric_names(self) -> list[str]:
        """The metrics of each model, the headline first."""
        return [*self.inner().evaluator.metric_names(), *OF_ROWS]

    def more_metrics(self) -> str:
        """How to add further metrics."""
        return self.inner().evaluator.more_metrics()

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        inner = self.inner()
        super().check()
        inner.check(taken=OF_ROWS)

    def inner(self) -> Nested:
        """The evaluator of each turn. Raises `UsageError` if there is none, or none that fits."""
        return Nested.required(self, "each")

    def run(self, job: Job) -> Metrics:
        """Get the answers of all turns, judge them, write the metrics."""
        inner, rows = self.inner(), self.judged_turns()
        cut = [turn.as_row() for row in rows for turn in row]
        judge = inner.judging(job, cut, self.unjudged())
        answers, replaced = self.answers(job, inner.evaluator, rows)
        return self.write(job, rows, answers, judge(answers), replaced)

    def check_rows(self, job: Job) -> None:
        """Raise `DataError` for rows that can't be judged."""
        cut = [turn.as_row() for row in self.judged_turns() for turn in row]
        self.inner().check_rows(job, cut)

    def check_sample(self, rows: Iterable[Row]) -> None:
        """Raise `DataError` for settings of `each` that don't fit the first rows."""
        self.inner().check_sample(rows)

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise `DataError` for slices of `each` that no row can have."""
        self.inner().check_columns(columns)

    def judged_turns(self) -> list[list[Turn]]:
        """The turns of each row that has any. Raises `DataError` for rows that can't be judged."""
        rows = asking.some(list(self.rows))
        asking.refuse(
            "some rows have no assistant turn after a prompt",
            (row["id"] for row in rows if not any(t.place for t in turns_of(row, "all"))),
            fix="give each row a conversation, or drop it",
        )
        turns = [turns_of(row, self.turns) for row in rows]
        asking.refuse(
            "some rows begin with an assistant turn, which answers nothing",
            (of[0].row["id"] for of in turns if of and not of[0].place),
            fix="remove that turn, or set its weight: 0",
        )
        judged = [of for of in turns if of]
        if not judged:
            raise UsageError(
                f"no row has a turn for `turns: {self.turns}`", where="turns", fix="turns: all"
            )
        return judged

    def unjudged(self) -> list[Unjudged]:
        """The turns that aren't judged, and the rows that have no other."""
        counts = [(row, unjudged_turns(row, self.turns)) for row in self.rows]
        whats = sorted({what for _, of in counts for what in of})
        unjudged = [
            Unjudged(w, sum(w in of for _, of in counts), sum(of[w] for _, of in counts))
            for w in whats
        ]
        whole = [of.total() for row, of in counts if not turns_of(row, self.turns)]
        if whole:
            unjudged.append(Unjudged("whole rows, which are left out", len(whole), sum(whole)))
        return unjudged

    def answers(
        self, job: Job, inner: BatchEvaluator, rows: Sequence[Sequence[Turn]]
    ) -> tuple[Answers, dict[str, int]]:
        """Every model's answers to all turns, and how many of its turns were replaced."""
        if self.history == "given":
            return asking.ask(inner, job, [t.as_row() for row in rows for t in row]), {}
        answers: Answers = {}
        replaced: dict[str, int] = {}
        for model in self.models:
            engine = job.engine(model)
            rollouts = roll_out(inner, job, engine, model.name, rows, compare_of(inner))
            answers[model.name] = [answer for rollout in rollouts for answer in rollout.answers]
            replaced[model.name] = sum(rollout.replaced for rollout in rollouts)
            gc.collect()  # the next model may need the memory of this one
            asking.log_answers(inner, job, model.name, answers[model.name])
        asking.log_extract(inner, job, answers)
        return answers, replaced

    def write(
        self,
        job: Job,
        rows: Sequence[Sequence[Turn]],
        answers: Answers,
        judged: Verdicts,
        replaced: dict[str, int],
    ) -> Metrics:
        """Score the turns, by number and all together, and write `Metrics`."""
        turns, names = [turn for row in rows for turn in row], list(judged.judged)
        ends = list(accumulate(map(len, rows)))
        by_row = [list(range(end - len(row), end)) for row, end in zip(rows, ends, strict=True)]
        rows_together = groups_of([row[0].row for row in rows])
        by_group = [[turn for i in of for turn in by_row[i]] for of in rows_together]
        together = by_group if len(by_group) < len(turns) else None
        measures = judged.measures(together)
        scores = scores_of(names, measures)
        groups = rows_together if len(rows_together) < len(rows) else None
        whole = {m: Measure(of, groups) for m, of in of_rows(judged, by_row).items()}
        for name, of in scores_of(names, whole).items():
            scores[name] |= of
        first = judged.measure(judged.metrics[0], by_group)
        details = compared(judged, measures, first, self.models)
        by_turn = [(number, scores_of_turn(judged, turns, number))
                   for number in range(1, max(turn.number for turn in turns) + 1)]  # fmt: skip
        cut = [turn.as_row() for turn in turns]
        sliced = slices.details_of(cut, judged, self.inner().evaluator.slices, together)
        first_shown = judged.headline[0]
        tables = [
            *comparison_tables(details["comparisons"], OF_COMPARISONS, judged.metrics[0]),
            *slices.tables_of(sliced, first_shown, is_share=judged.is_share(first_shown)),
            *baseline_tables(details, in_json(scores)[0]),
            *(turn_table(name, judged.headline, by_turn) for name in names),
            *replaced_table(replaced, len(turns)),
            *judged.tables,
        ]
        details |= {"headline": [*judged.headline, "whole"], "tables": tables}
        details |= {"slices": sliced} if sliced else {}
        details["turns"] = {name: [in_numbers(*of, name) for of in by_turn] for name in names}
        lines = predictions(turns, cut, answers, judged)
        metrics = write_scored(job, len(rows), scores, details, lines, answers=answers)
        return with_speeds(metrics, self.models)


def compare_of(inner: BatchEvaluator) -> Compare:
    """When calls are the same: as the evaluator of each turn says, if it judges calls."""
    if isinstance(inner, ToolCalls):
        return Compare(inner.equality(), inner.coerce, Toolbox())
    return Compare(Equality(), False, Toolbox())


def of_rows(judged: Verdicts, by_row: Sequence[Sequence[int]]) -> dict[str, dict[str, list[bool]]]:
    """Metric → model → rows: whether all turns are right, and the first and the last one."""
    right = judged.right()
    return {
        "whole": {name: [all(of[i] for i in row) for row in by_row] for name, of in right.items()},
        "first_turn": {name: [of[row[0]] for row in by_row] for name, of in right.items()},
        "last_turn": {name: [of[row[-1]] for row in by_row] for name, of in right.items()},
    }


class OfTurn(NamedTuple):
    """The scores of one turn of all rows that have it, by model."""

    rows: int
    scores: Mapping[str, Mapping[str, Score]]


def scores_of_turn(judged: Verdicts, turns: Sequence[Turn], number: int) -> OfTurn:
    """The scores of the first judged turns of all rows, of the second ones, and so on."""
    places = [i for i, turn in enumerate(turns) if turn.number == number]
    return OfTurn(len(places), scores_of(list(judged.judged), judged.measures(None, places)))


def in_numbers(number: int, turn: OfTurn, model: str) -> dict[str, Any]:
    """A model's scores of a turn as JSON values."""
    scores, intervals = in_json({model: turn.scores[model]})
    of = {"scores": scores[model], "intervals": intervals[model]}
    return {"turn": number, "rows": turn.rows, **of}


def turn_table(
    model: str, headline: Sequence[str], by_turn: Sequence[tuple[int, OfTurn]]
) -> dict[str, Any]:
    """The scores of each turn."""
    first, *others = headline
    columns = ["judged turn", "rows", first, "95 % CI low", "95 % CI high", *others]
    nothing = (None, (None, None))
    rows = []
    for number, (count, scores) in by_turn:
        of: Mapping[str, Any] = scores[model]
        value, interval = of.get(first, nothing)
        more = [of.get(metric, nothing)[0] for metric in others]
        rows.append([number, count, value, *interval, *more])
    units: dict[str, Unit] = dict.fromkeys(columns[2:], "share")
    return table(f"{model}: turns", columns, rows, units=units, model=model)


def replaced_table(replaced: dict[str, int], turns: int) -> list[dict[str, Any]]:
    """How many turns of each model the row's own turn stood in for, if there are any."""
    if not any(replaced.values()):
        return []
    columns = ["model", "turns", "replaced by the row's"]
    rows = [[name, turns, n] for name, n in replaced.items()]
    return [table("Turns with other calls than the row's", columns, rows)]


def predictions(
    turns: Sequence[Turn], cut: Sequence[Row], answers: Answers, judged: Verdicts
) -> Iterator[dict[str, Any]]:
    """The lines of `predictions.jsonl`, by the id of the row and the number of the turn.

    turn: among the judged turns of the row. message: among all its messages. Both are from 1.
    """
    for i, line in enumerate(lines_of(cut, answers, judged)):
        turn = turns[i // len(answers)]
        before = str(turn.conversation[turn.place - 1].get("content") or "")
        line |= {"id": turn.row["id"], "prompt": before[:PROMPT_SHOWN]}
        places = {"turn": turn.number, "message": turn.place + 1}
        yield {"id": line["id"], "model": line["model"], **places, **line}
