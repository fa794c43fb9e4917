"""`eval.dialog`: how good is a model in each turn of a conversation?"""

import gc
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Literal

from finery import Job, Metrics, Step, UsageError, nested_step, setting
from finery.rows import Row
from finery_eval import evaluator, verdicts
from finery_eval.calls.arguments import Equality
from finery_eval.calls.calls import Toolbox
from finery_eval.dialog.rollouts import Compare, roll_out
from finery_eval.evaluator import Answers, Evaluator, Judge, Unjudged, table
from finery_eval.exports import compared_exports, with_speeds
from finery_eval.nested import Nested
from finery_eval.scoring import slices
from finery_eval.scoring.differences import compare
from finery_eval.scoring.groups import groups_of
from finery_eval.scoring.scored import score, scores_of
from finery_eval.scoring.tables import comparison_tables
from finery_eval.steps.tools import ToolCalls
from finery_eval.turns import Turn, turns_of, unjudged_turns
from finery_eval.verdicts import Judged, Verdicts

OF_ROWS = ("whole", "first_turn", "last_turn")
"""Metrics of whole conversations."""


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
        self.check()
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
        rows = evaluator.some(list(self.rows))
        evaluator.refuse(
            "some rows have no assistant turn after a prompt",
            (row["id"] for row in rows if not any(t.place for t in turns_of(row, "all"))),
            fix="give each row a conversation, or drop it",
        )
        turns = [turns_of(row, self.turns) for row in rows]
        evaluator.refuse(
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
        self, job: Job, inner: Evaluator, rows: Sequence[Sequence[Turn]]
    ) -> tuple[Answers, dict[str, int]]:
        """Every model's answers to all turns, and how many of its turns were replaced."""
        if self.history == "given":
            return evaluator.ask(inner, job, [t.as_row() for row in rows for t in row]), {}
        answers: Answers = {}
        replaced: dict[str, int] = {}
        for model in self.models:
            engine = job.engine(model)
            rollouts = roll_out(inner, job, engine, model.name, rows, compare_of(inner))
            answers[model.name] = [answer for rollout in rollouts for answer in rollout.answers]
            replaced[model.name] = sum(rollout.replaced for rollout in rollouts)
            gc.collect()  # the next model may need the memory of this one
            evaluator.log_answers(inner, job, model.name, answers[model.name])
        evaluator.log_rows(inner, job, [row[0].row for row in rows], answers)
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
        turns = [turn for row in rows for turn in row]
        groups = [[i for i, _ in of] for _, of in groupby(enumerate(turns), lambda t: id(t[1].row))]
        rows_together = groups_of([of[0].row for of in rows])
        turn_groups = [[turn for i in of for turn in groups[i]] for of in rows_together]
        alone = all(len(group) == 1 for group in turn_groups)
        together = None if alone else turn_groups
        of_turns = score(judged, together)
        scored = of_turns.scores
        for name, of in judged.judged.items():
            whole = scores_of(
                of_rows(of, groups),
                judged._replace(metrics=OF_ROWS, means=None),
                rows_together if len(rows_together) < len(rows) else None,
            )
            scored[name] |= whole
        correct = {name: of.correct for name, of in judged.judged.items()}
        comparisons = compare(correct, turn_groups)
        by_turn = {
            name: list(scores_by_turn(of, judged, turns)) for name, of in judged.judged.items()
        }
        baselines, against = evaluator.compared_baselines(self.models, of_turns, judged.headline)
        cut = [turn.as_row() for turn in turns]
        sliced = slices.details_of(cut, judged, self.inner().evaluator.slices, together)
        details: dict[str, Any] = {
            **judged.details,
            **({"slices": sliced} if sliced else {}),
            "headline": [*judged.headline, "whole"],
            "comparisons": comparisons,
            "pairs": of_turns.pairs,
            **baselines,
            "turns": by_turn,
            "tables": [
                *comparison_tables(comparisons, "sign flips of rows, exact"),
                *slices.tables_of(sliced, judged.headline[0]),
                *against,
                *(turn_table(name, judged.headline, of) for name, of in by_turn.items()),
                *replaced_table(replaced, len(turns)),
                *judged.tables,
            ],
        }
        exports = compared_exports(self.models, correct, partial(compare, groups=turn_groups))
        details |= {"exports": exports} if exports else {}
        lines = predictions(turns, answers, judged)
        metrics = evaluator.write_scored(job, len(rows), scored, details, lines, answers)
        return with_speeds(metrics, self.models)


def compare_of(inner: Evaluator) -> Compare:
    """When calls are the same: as the evaluator of each turn says, if it judges calls."""
    if isinstance(inner, ToolCalls):
        return Compare(inner.equality(), inner.coerce, Toolbox())
    return Compare(Equality(), False, Toolbox())


def of_rows(judged: Judged, groups: Sequence[Sequence[int]]) -> Judged:
    """Whether all turns of each row are right, and whether its first and its last one are."""
    correct = judged.correct
    hits = {
        "whole": [all(correct[i] for i in group) for group in groups],
        "first_turn": [correct[group[0]] for group in groups],
        "last_turn": [correct[group[-1]] for group in groups],
    }
    return Judged([], hits)


def scores_by_turn(judged: Judged, of: Verdicts, turns: Sequence[Turn]) -> Iterator[dict[str, Any]]:
    """The scores of the first judged turns of all rows, of the second ones, and so on."""
    for number in range(1, max(turn.number for turn in turns) + 1):
        places = [i for i, turn in enumerate(turns) if turn.number == number]
        hits = {metric: [each[i] for i in places] for metric, each in judged.hits.items()}
        outcomes = [judged.outcomes[i] for i in places] if judged.outcomes else []
        scored = verdicts.scores(Judged([], hits, outcomes), of)
        yield {
            "turn": number,
            "rows": len(places),
            "scores": {metric: value for metric, (value, _) in scored.items()},
            "intervals": {metric: list(interval) for metric, (_, interval) in scored.items()},
        }


def turn_table(
    model: str, headline: Sequence[str], by_turn: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The scores of each turn."""
    first, *others = headline
    columns = ["judged turn", "rows", first, "95 % CI low", "95 % CI high", *others]
    rows = [
        [
            of["turn"],
            of["rows"],
            of["scores"].get(first),
            *of["intervals"].get(first, (None, None)),
            *(of["scores"].get(metric) for metric in others),
        ]
        for of in by_turn
    ]
    units: dict[str, evaluator.Unit] = dict.fromkeys(columns[2:], "share")
    return table(f"{model}: turns", columns, rows, units=units, model=model)


def replaced_table(replaced: dict[str, int], turns: int) -> list[dict[str, Any]]:
    """How many turns of each model the row's own turn stood in for, if there are any."""
    if not any(replaced.values()):
        return []
    columns = ["model", "turns", "replaced by the row's"]
    rows = [[name, turns, n] for name, n in replaced.items()]
    return [table("Turns with other calls than the row's", columns, rows)]


def predictions(
    turns: Sequence[Turn], answers: Answers, judged: Verdicts
) -> Iterator[dict[str, Any]]:
    """The lines of `predictions.jsonl`, by the id of the row and the number of the turn.

    turn: among the judged turns of the row. message: among all its messages. Both are from 1.
    """
    facts = {name: of.facts for name, of in judged.judged.items()}
    lines = evaluator.predictions([turn.as_row() for turn in turns], answers, facts)
    for i, line in enumerate(lines):
        turn = turns[i // len(answers)]
        before = str(turn.conversation[turn.place - 1].get("content") or "")
        line |= {"id": turn.row["id"], "prompt": before[: evaluator.PROMPT_SHOWN]}
        places = {"turn": turn.number, "message": turn.place + 1}
        yield {"id": line["id"], "model": line["model"], **places, **line}
