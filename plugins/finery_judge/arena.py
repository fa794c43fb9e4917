"""`eval.arena`: which of two models answers better, by a judge that sees both orders."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

from finery import Dataset, Inputs, Job, Metrics, Requests, UsageError, setting, takes
from finery.rows import Conversation, Row
from finery.rows.report import Report
from finery_eval import verdicts as valued
from finery_eval.asking import ask, read_rows
from finery_eval.evaluation import answers_table, row_groups, write_scored
from finery_eval.predictions import predictions
from finery_eval.verdicts import Answers
from finery_judge.games import Game, Order, cross_table, pair_table, points_of, records, win_rates
from finery_judge.judging import JUDGE, PAIR_PROMPT, Judging, names, report_scores
from finery_synth.asking import Used
from finery_synth.judges import ORDERS, Seen, Verdict

OF_JUDGE = ["consistency", "position_bias"]
WIN_RATE = "win_rate"


class Question(NamedTuple):
    """Two answers to a row in one order: 0, `one` is answer A; 1, `other` is."""

    row: int
    one: str
    other: str
    order: int


class Arena(Judging):
    """Have a model compare the answers of models in pairs, each in both orders.

    `win_rate` is the share of games that a model wins; a tie counts half, and so does a game in
    which the judge changes its mind when the answers change places. Equal answers are a tie. A game
    without readable verdicts (three tries in each order) doesn't count, and is reported.

    Intervals: Wilson, with half a success for a tie; rows count once, however many games are on
    them. p-values: exact sign test of wins against losses. Where rows belong together, e.g.
    paraphrases, groups count once: bootstrap over groups and exact sign flips.

    `judge.consistency` is the share of games with the same result in both orders.
    `judge.position_bias` is the share in which the judge chose the same position twice, first or
    second, whichever is more frequent. If it prefers one significantly, finery says so.
    """

    rows: Dataset = takes(help="Rows with prompts. Their own answers are shown with `reference`.")
    against: Literal["first", "all"] = setting(
        "first", help="first: each model plays the first of `models`. all: every two models play."
    )

    def default_prompt(self) -> str:
        """The default template."""
        return PAIR_PROMPT

    def metric_names(self) -> list[str]:
        """The metrics of each model."""
        return [WIN_RATE]

    def measured(self) -> dict[str, list[str]]:
        """Model → its metrics, and those of the judge."""
        return super().measured() | {JUDGE: OF_JUDGE}

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        listed = [model.name for model in self.models]
        if len(listed) == 1:
            raise UsageError(
                "an arena needs two models", where="models", fix=f"models: [base, {listed[0]}]"
            )
        if self.slices:
            raise UsageError(
                "an arena doesn't break its scores down",
                where="slices",
                fix="remove it, or use eval.judge",
            )
        self.check_names()
        super().check()

    def prepare(self, job: Job) -> tuple[list[Row], list[str]]:
        """The rows, and the answer to each that the judge is shown."""
        rows = read_rows(self.rows)
        return rows, self.references(rows)

    def run(self, job: Job) -> Metrics:
        """Get the answers, have the judge compare them, write the metrics."""
        rows, references = self.prepare(job)
        answers, used = ask(self, job, rows), Used()
        games = self._games(job, rows, references, answers, used)
        groups, models = row_groups(job, rows), list(answers)
        rates = win_rates(games, models, groups)
        order, played = Order.of(games, groups), records(games, groups)
        remarks = [*self.judged_itself(), *order.remarks()]
        if unread := [game for game in games if game.result == "no verdict"]:
            what = f"{len(unread)} of {len(games)} games, which don't count"
            remarks.append(self.unread(what, unread[0].reason))
        tables = [pair_table(played), *cross_table(played, models), answers_table(answers)]
        report = Report(
            rows=len(rows),
            scores={
                name: report_scores({WIN_RATE: rates[name]} if name in rates else {})
                for name in models
            },
            headline=[WIN_RATE],
            tables=tables,
            remarks=remarks,
            more={JUDGE: report_scores(order.scores())},
            extra={"positions": order.counts._asdict()}
            | ({"groups": len(groups)} if groups else {}),
        )
        metrics = write_scored(job, report, _predictions(rows, answers, games), answers=answers)
        for remark in remarks:
            job.log(remark.text)
        metrics.meta["answers"] = used.meta()
        return metrics

    def pairs(self) -> list[tuple[str, str]]:
        """(one, other) of all pairs: the later model plays the earlier one."""
        listed = [model.name for model in self.models]
        if self.against == "first":
            return [(name, listed[0]) for name in listed[1:]]
        return [(other, one) for one, other in combinations(listed, 2)]

    def _games(
        self,
        job: Job,
        rows: Sequence[Row],
        references: Sequence[str],
        answers: Answers,
        used: Used,
    ) -> list[Game]:
        """All games, in the order of pairs and rows. used: counts the judge's answers."""
        texts = {
            name: [self.shown(answer) for answer in completions]
            for name, completions in answers.items()
        }
        played = [(i, *pair) for pair in self.pairs() for i in range(len(rows))]
        questions = [
            Question(i, one, other, order)
            for i, one, other in played
            if texts[one][i] != texts[other][i]
            for order in range(len(ORDERS))
        ]
        template = self.template()

        def messages(question: Question) -> Conversation:
            i, one, other, order = question
            a, b = (texts[one][i], texts[other][i])[:: -1 if order else 1]
            given = names(rows[i], references[i], a=a, b=b) | {"rubric": self.rubric}
            return template.messages(given, rows[i])

        seen: dict[tuple[int, str, str], list[Seen]] = {game: [] for game in played}
        read, schema = Verdict.read, Verdict.schema()
        for question, verdict in self.verdicts_on(job, used, questions, messages, read, schema):
            seen[question[:3]].append(Seen.of(question.order, verdict))
        return [Game(*game, seen=tuple(verdicts)) for game, verdicts in seen.items()]

    def first_requests(self, inputs: Inputs) -> Requests:
        """Two requests for each game, one in each order."""
        each = len(self.pairs()) * len(ORDERS)
        requests = self.some_requests(each, Verdict.schema(), inputs.count("rows"))
        if not inputs.are_built:
            return requests
        template = self.template()

        def messages(row: Row, answer: str) -> Conversation:
            reference = answer if self.reference else ""
            given = names(row, reference, a=answer, b=answer) | {"rubric": self.rubric}
            return template.messages(given, row)

        every = self.requests_for_rows(messages, each)
        return requests._replace(total=each * len(self.rows), requests=every)


def _predictions(
    rows: Sequence[Row], answers: Answers, games: Sequence[Game]
) -> Iterator[dict[str, Any]]:
    """The lines of `predictions.jsonl`: each model's answers, and each game."""
    points = {name: points_of(games, name) for name in answers}
    judged = {
        name: [valued.Verdict({WIN_RATE: of.get(i)}) for i in range(len(rows))]
        for name, of in points.items()
    }
    yield from predictions(rows, answers, valued.Verdicts(judged, [WIN_RATE]))
    for game in games:
        yield {
            "id": rows[game.row]["id"],
            "model": game.one,
            "against": game.other,
            "result": game.result,
            "problem": f"{game.result} against {game.other}: {game.reason}",
        }
