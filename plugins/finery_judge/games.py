"""Games between models: which of two answers is better, judged in both orders.

In go the verdicts of a judge on pairs of answers, out come results, win rates and what the order of
the answers did to the verdicts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from finery import counted
from finery_eval import stats
from finery_eval.evaluator import table
from finery_eval.paired import remark
from finery_synth.judge.pairs import Positions, Seen, outcome

Result = Literal["win", "loss", "tie", "undecided", "no verdict"]
"""For the first model of a pair. undecided: the two orders disagree."""
POINTS: Mapping[Result, float] = {"win": 1.0, "loss": 0.0, "tie": 0.5, "undecided": 0.5}
LEVEL = 0.05
Score = tuple[float, stats.Interval]


class Game(NamedTuple):
    """Two models' answers to one row. seen: the verdicts in both orders; empty for equal answers.

    In `seen`, the side `chosen` is `one`, and `rejected` is `other`.
    """

    row: int
    one: str
    other: str
    seen: tuple[Seen, ...]

    @property
    def result(self) -> Result:
        """The result for `one`."""
        if not self.seen:
            return "tie"
        better = outcome(self.seen).better
        if better == "undecided" and {seen.side for seen in self.seen} == {"tie"}:
            return "tie"
        results: dict[str, Result] = {"chosen": "win", "rejected": "loss", "no-score": "no verdict"}
        return results.get(better, "undecided")

    @property
    def reason(self) -> str:
        """Why, in the judge's words."""
        return outcome(self.seen).detail if self.seen else "both answers are the same"

    def points(self, model: str) -> float | None:
        """What a model gets: 1 for a win, ½ for a tie or where the orders disagree."""
        points = POINTS.get(self.result)
        return points if points is None or model == self.one else 1 - points


class Record(NamedTuple):
    """The games of a pair of models, from the view of `one`."""

    one: str
    other: str
    results: Sequence[Result]

    @property
    def rate(self) -> Score | None:
        """The win rate and its interval; None without a verdict.

        Wilson's interval with half a success for a tie, which is wide enough for it: a tie varies
        less than a win or a loss.
        """
        points = [POINTS[result] for result in self.results if result in POINTS]
        if not points:
            return None
        return sum(points) / len(points), stats.wilson(sum(points), len(points))

    @property
    def p_value(self) -> float:
        """The exact sign test of wins against losses."""
        return stats.mcnemar_exact(self.results.count("win"), self.results.count("loss"))


def records(games: Sequence[Game]) -> list[Record]:
    """The record of each pair that played, in order."""
    results: dict[tuple[str, str], list[Result]] = {}
    for game in games:
        results.setdefault((game.one, game.other), []).append(game.result)
    return [Record(one, other, of) for (one, other), of in results.items()]


def win_rates(games: Sequence[Game], models: Sequence[str]) -> dict[str, Score]:
    """Model → (win rate over all its games, interval); without models that have no verdict.

    Games on one row aren't independent, so a row counts once, with the mean of its games.
    """
    rates = {}
    for model in models:
        rows: dict[int, list[float]] = {}
        for game in games:
            points = game.points(model) if model in (game.one, game.other) else None
            if points is not None:
                rows.setdefault(game.row, []).append(points)
        means = [sum(of) / len(of) for of in rows.values()]
        if means:
            rates[model] = sum(means) / len(means), stats.wilson(sum(means), len(means))
    return rates


class Order(NamedTuple):
    """What the order of answers did: games in which both orders chose the same position.

    first, second: as often as the judge chose that position twice. games: with a verdict in both
    orders. bias: share of verdicts for the first answer minus that for the second, among those for
    one of them.
    """

    games: int
    consistent: int
    first: int
    second: int
    bias: float

    @classmethod
    def of(cls, games: Sequence[Game]) -> "Order":
        """Count the games that were judged in both orders."""
        both = [game for game in games if game.seen and game.result != "no verdict"]
        positions = Positions()
        for game in both:
            positions.add(game.seen)
        facts = positions.facts()
        return cls(
            games=len(both),
            consistent=sum(game.result != "undecided" for game in both),
            first=facts["first_twice"],
            second=facts["second_twice"],
            bias=facts["bias"],
        )

    @property
    def p_value(self) -> float:
        """The exact sign test that neither position is preferred."""
        return stats.mcnemar_exact(self.first, self.second)

    def scores(self) -> dict[str, Score]:
        """The judge's metrics: `consistency` and `position_bias`, a share from 0 to 1."""
        if not self.games:
            return {}
        consistency = self.consistent / self.games
        preferred = max(self.first, self.second)
        return {
            "consistency": (consistency, stats.wilson(self.consistent, self.games)),
            "position_bias": (preferred / self.games, stats.wilson(preferred, self.games)),
        }

    def remarks(self) -> Iterator[dict[str, str]]:
        """What people must know of the judge."""
        if self.first != self.second and self.p_value < LEVEL:
            name, n, opposite, m = (
                ("first", self.first, "second", self.second)
                if self.first > self.second
                else ("second", self.second, "first", self.first)
            )
            p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
            yield remark(
                f"the judge prefers the {name} answer: it chose it in both orders in {n} of "
                f"{counted(self.games, 'game')}, the {opposite} in {m} ({p}); such games count as "
                "ties",
                "Name a stronger judge, or simplify the rubric.",
            )
        elif self.games and self.consistent < self.games / 2:
            yield remark(
                f"the judge contradicts itself when the answers change places, in "
                f"{self.games - self.consistent} of {counted(self.games, 'game')}, which count as "
                "ties",
                "Name a stronger judge, or make the rubric more precise.",
            )


def pair_table(played: Sequence[Record]) -> dict[str, Any]:
    """The games of each pair of models."""
    columns = [
        "model", "against", "win rate", "95 % CI low", "95 % CI high", "wins", "losses", "ties",
        "orders disagree", "no verdict", "p (sign test)",
    ]  # fmt: skip
    rows = []
    for record in played:
        value, interval = record.rate or (None, (None, None))
        counts = [
            record.results.count(r) for r in ("win", "loss", "tie", "undecided", "no verdict")
        ]
        p_value = None if record.rate is None else record.p_value
        rows.append([record.one, record.other, value, *interval, *counts, p_value])
    units: Any = {**dict.fromkeys(columns[2:5], "share"), columns[-1]: "p"}
    return table("Games", columns, rows, units=units)


def cross_table(played: Sequence[Record], models: Sequence[str]) -> list[dict[str, Any]]:
    """The win rate of each model (row) against each other one; empty for two models."""
    if len(models) < 3:
        return []
    rates: dict[tuple[str, str], float] = {}
    for record in played:
        if record.rate is not None:
            rates[record.one, record.other] = record.rate[0]
            rates[record.other, record.one] = 1 - record.rate[0]
    rows = [[one, *(rates.get((one, other)) for other in models)] for one in models]
    units: Any = dict.fromkeys(models, "share")
    return [table("Win rate of row against column", ["", *models], rows, units=units)]
