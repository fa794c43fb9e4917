"""`eval.dialog`: how good is a model in each turn of a conversation?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any, Literal, NamedTuple

from finery import CachedEngine, Completion, Job, Metrics, UsageError, setting
from finery.rows import Conversation, Row
from finery.rows.report import Report, ReportTable, Slice, values_and_intervals
from finery_eval import asking
from finery_eval.arguments import Equality
from finery_eval.calls import BadTools, Toolbox, answered_calls, expected_calls
from finery_eval.evaluation import Unjudged, add_tables, report_of, write_scored
from finery_eval.matches import Match, Wanted
from finery_eval.measure import Measure, scores_of
from finery_eval.nested import JudgeEach
from finery_eval.predictions import PROMPT_SHOWN
from finery_eval.predictions import predictions as lines_of
from finery_eval.steps.tools import ToolCalls
from finery_eval.turns import Turn, assistant_turn, turns_of, unjudged_turns
from finery_eval.verdicts import Answers, Judging, Verdicts, groups_of, together

OF_ROWS: Mapping[str, Callable[[Sequence[bool]], bool]] = {
    "whole": all, "first_turn": itemgetter(0), "last_turn": itemgetter(-1)
}  # fmt: skip
"""Metrics of complete conversations → their value, from whether each turn is right."""
OF_COMPARISONS = "sign flips of rows, exact"
"""The test of the comparisons."""


# -- conversations that a model leads itself: its answers are the history of its next turn --------


class Calls(NamedTuple):
    """When the calls of a model are those of the row."""

    equality: Equality
    coerce: bool
    toolbox: Toolbox

    def are_same(self, turn: Turn, answer: Completion) -> bool:
        """Whether an answer has the same calls as the row's turn, or both have none."""
        if not turn.message.get("tool_calls"):
            return not answer.tool_calls and not answer.call_error
        try:
            tools = self.toolbox.of(turn.row)
            wanted = Wanted(expected_calls(turn.message, tools, coerce=self.coerce), tools, "")
        except BadTools:
            return False
        calls = answered_calls(answer, tools, coerce=self.coerce)
        return Match(wanted, calls, self.equality, answer).is_right


class Rollout:
    """A row's conversation as one model leads it. turns: at least one.

    history: the next prompt. replaced: the number of its turns for which the row's own turn had to
    be substituted.
    """

    def __init__(self, turns: Sequence[Turn], calls: Calls) -> None:
        self.turns, self.row = turns, turns[0].row
        self.answers: list[Completion] = []
        self.replaced = 0
        self._calls = calls
        self.history: Conversation = list(turns[0].conversation[: turns[0].place])

    @property
    def is_over(self) -> bool:
        """Whether the model has answered every turn."""
        return len(self.answers) == len(self.turns)

    def add(self, answer: Completion) -> None:
        """Go on with an answer, up to the next turn that is judged.

        The row's turn is the history where the turns after it would make no sense otherwise.
        """
        turn = self.turns[len(self.answers)]
        self.answers.append(answer)
        if self.is_over:
            return
        message = turn.message
        if not self._calls.are_same(turn, answer):
            self.replaced += 1
        else:
            message = assistant_turn(answer, len(self.answers))
            # The row's calls have the ids that the answers of the tools refer to.
            if calls := turn.message.get("tool_calls"):
                message["tool_calls"] = calls
        following = self.turns[len(self.answers)].place
        self.history += [message, *turn.conversation[turn.place + 1 : following]]


# -- the step -------------------------------------------------------------------------------------


class Dialog(JudgeEach, engines=True):
    """Judge models by every turn of a conversation, with the evaluator of your choice.

    Each assistant turn of a row is a separate question: the turns before it are the prompt, the
    turn itself is the expected answer, and the evaluator in `each` judges the model's answer. In
    rows with a prompt and a completion, the turns of the completion are judged. Turns with
    `weight: 0` aren't judged. A `label` is the expected content of the last turn.

    - With `history: given`, the earlier turns are those of the row. This measures the model at each
      turn, regardless of its earlier answers.
    - With `history: own`, the model's own answers replace those of the row, and only the turns of
      users and tools come from it. This measures how errors add up. If the model calls other tools
      than the row, or calls one when the row doesn't, the turns of tools and users no longer fit:
      the model's turn is judged, but the row's turn replaces it in the history. The table of turns
      shows how often.

    Metrics, each from 0 to 1 with a 95 % interval:
    - those of `each`, over all turns of all rows.
    - `whole`: rows in which every judged turn is right.
    - `first_turn`, `last_turn`: rows whose first or last judged turn is right.

    A table has the scores of each turn: the first judged turn of all rows, the second, and so on.
    Wrong answers have the same number, and that of the message in the row: `turn 2 (message 4)`.
    Another table lists the assistant turns that aren't judged, and how many rows only have such
    turns.

    The turns of a row aren't independent of each other. So intervals over all turns are percentile
    bootstraps over rows, with 2,000 resamples and a fixed seed (Efron & Tibshirani 1993). A share
    that is the same in all rows, such as 0 or 1, has the Wilson interval of as many answers as
    there are rows. If no row has more than one turn, they are the intervals of `each`. Each further
    model is compared with the first by the difference over all turns, with its bootstrap interval
    and the exact sign-flip test over rows (Fisher 1935, Pitman 1937).

    Raises DataError for rows without a turn to judge, and for turns that `each` can't judge, with
    row and turn; UsageError for settings that can't work.
    """

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
        """The metrics of each model; the first one decides."""
        return [*self.inner().evaluator.metric_names(), *OF_ROWS]

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        inner = self.inner()
        super().check()
        inner.check(taken=OF_ROWS)

    def run(self, job: Job) -> Metrics:
        """Get the answers of all turns, judge them, write the metrics."""
        conversations, rows, judge = self.prepare(job)
        evaluator, replaced = self.inner().evaluator, dict[str, int]()
        calls = Calls(Equality(), False, Toolbox())
        if isinstance(evaluator, ToolCalls):
            calls = Calls(evaluator.equality(), evaluator.coerce, Toolbox())

        def roll_out(engine: CachedEngine, name: str) -> list[Completion]:
            rollouts = [Rollout(conversation, calls) for conversation in conversations]
            asking.run_exchanges(evaluator, job, engine, name, rollouts, "turn")
            replaced[name] = sum(rollout.replaced for rollout in rollouts)
            return [answer for rollout in rollouts for answer in rollout.answers]

        answers = asking.ask(evaluator, job, rows, roll_out if self.history == "own" else None)
        verdicts = judge(answers)
        report = self.report(conversations, rows, verdicts, replaced)
        lines = predictions([*chain(*conversations)], rows, answers, verdicts)
        return write_scored(job, report, lines, answers=answers, models=self.models)

    def prepare(self, job: Job) -> tuple[list[list[Turn]], list[Row], Judging]:
        """The turns of each conversation, a row for each turn, and what judges the answers."""
        conversations = self.judged_turns()
        rows = [turn.as_row() for turn in chain(*conversations)]
        return conversations, rows, self.inner().judging(job, rows, self.unjudged())

    def judged_turns(self) -> list[list[Turn]]:
        """The turns of each row that has any. Raises `DataError` for rows that can't be judged."""
        rows = asking.require_rows(list(self.rows))
        asking.refuse_rows(
            "some rows have no assistant turn after a prompt",
            (row["id"] for row in rows if not any(t.place for t in turns_of(row, "all"))),
            fix="give each row a conversation, or drop it",
        )
        turns = [turns_of(row, self.turns) for row in rows]
        asking.refuse_rows(
            "some rows begin with an assistant turn, which answers nothing",
            (dialog[0].row["id"] for dialog in turns if dialog and not dialog[0].place),
            fix="remove that turn, or set its weight: 0",
        )
        judged = [dialog for dialog in turns if dialog]
        if not judged:
            raise UsageError(
                f"no row has a turn for `turns: {self.turns}`", where="turns", fix="turns: all"
            )
        return judged

    def unjudged(self) -> list[Unjudged]:
        """The turns that aren't judged, and the rows that have no other."""
        counts = [(row, unjudged_turns(row, self.turns)) for row in self.rows]
        all_reasons = sorted({reason for _, c in counts for reason in c})
        unjudged = [
            Unjudged(w, sum(w in c for _, c in counts), sum(c[w] for _, c in counts))
            for w in all_reasons
        ]
        dropped = [c.total() for row, c in counts if not turns_of(row, self.turns)]
        if dropped:
            unjudged.append(Unjudged("whole rows, which are left out", len(dropped), sum(dropped)))
        return unjudged

    def report(
        self,
        conversations: Sequence[Sequence[Turn]],
        rows: Sequence[Row],
        verdicts: Verdicts,
        replaced: Mapping[str, int],
    ) -> Report:
        """The scores of the turns, by number and all together. rows: those of the turns."""
        numbers = [turn.number for turn in chain(*conversations)]
        ends = list(accumulate(map(len, conversations)))
        groups = groups_of(rows)
        related = groups if len(groups) < len(rows) else None
        first = verdicts.measure(verdicts.metrics[0], groups)
        report = report_of(verdicts, related, self.models, first)
        report.rows = len(conversations)
        for comparison in report.comparisons:
            comparison.method = OF_COMPARISONS
        right = {
            name: [of_turn[end - len(c) : end] for c, end in zip(conversations, ends, strict=True)]
            for name, of_turn in verdicts.right().items()
        }
        of_dialogs = {
            metric: Measure(
                {name: list(map(judge, of_rows)) for name, of_rows in right.items()},
                together([conversation[0].row for conversation in conversations]),
            )
            for metric, judge in OF_ROWS.items()
        }
        for name, scores in scores_of(list(right), of_dialogs).items():
            report.scores[name] |= scores
        by_turn = []
        for number in range(1, max(numbers) + 1):
            places = [i for i, place in enumerate(numbers) if place == number]
            scores_of_turn = scores_of(list(right), verdicts.measures(None, places))
            by_turn.append(Slice(len(places), **values_and_intervals(scores_of_turn)))
        tables = [
            *(turn_table(name, verdicts.headline, by_turn) for name in right),
            *replaced_table(replaced, len(rows)),
        ]
        with_turns = verdicts._replace(tables=[*tables, *verdicts.tables])
        add_tables(report, rows, with_turns, related, self.inner().evaluator.slices)
        report.headline = [*verdicts.headline, "whole"]
        turns = {
            name: [
                {"turn": number, "rows": part.rows, "scores": part.scores[name],
                 "intervals": part.intervals[name]}
                for number, part in enumerate(by_turn, 1)
            ]
            for name in right
        }  # fmt: skip
        report.extra = report.extra | {"turns": turns}
        return report


def turn_table(model: str, headline: Sequence[str], by_turn: Sequence[Slice]) -> ReportTable:
    """The scores of each turn."""
    first, *other_metrics = headline
    columns = ["judged turn", "rows", first, "95 % CI low", "95 % CI high", *other_metrics]
    rows: list[list[Any]] = []
    for number, part in enumerate(by_turn, 1):
        values, score = part.scores[model], part.score(model, first)
        ends = (score.interval if score else None) or (None, None)
        rows.append([number, part.rows, values.get(first), *ends, *map(values.get, other_metrics)])
    units = dict.fromkeys(columns[2:], "share")
    return ReportTable(f"{model}: turns", columns, rows, units=units, model=model)


def replaced_table(replaced: Mapping[str, int], turns: int) -> list[ReportTable]:
    """How many turns of each model the row's own turn stood in for, if there are any."""
    columns = ["model", "turns", "replaced by the row's"]
    rows = [[name, turns, n] for name, n in replaced.items()]
    title = "Turns with other calls than the row's"
    return [ReportTable(title, columns, rows)] if any(replaced.values()) else []


def predictions(
    turns: Sequence[Turn], rows: Sequence[Row], answers: Answers, verdicts: Verdicts
) -> Iterator[dict[str, Any]]:
    """The lines of `predictions.jsonl`, by the id of the row and the number of the turn.

    turn: among the judged turns of the row. message: among all its messages. Both are from 1.
    """
    for i, line in enumerate(lines_of(rows, answers, verdicts)):
        turn = turns[i // len(answers)]
        before = str(turn.conversation[turn.place - 1].get("content") or "")
        line |= {"id": turn.row["id"], "prompt": before[:PROMPT_SHOWN]}
        places = {"turn": turn.number, "message": turn.place + 1}
        yield {"id": line["id"], "model": line["model"], **places, **line}
