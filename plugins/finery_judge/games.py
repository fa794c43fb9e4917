"""Games between models: which of two answers is better, judged in both orders.

Input: the verdicts of a judge on pairs of answers. Output: results, win rates and what the order of
the answers did to the verdicts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from finery.advanced import counted
from finery.rows.report import Remark, ReportTable
from finery_eval import stats
from finery_eval.measure import Measure
from finery_eval.verdicts import among
from finery_judge.calibration import Score
from finery_synth.judges import Positions, Seen, outcome

Result = Literal["win", "loss", "tie", "undecided", "no verdict"]
"""For the first model of a pair. undecided: the two orders disagree."""
POINTS: Mapping[Result, float] = {"win": 1.0, "loss": 0.0, "tie": 0.5, "undecided": 0.5}
GAINS: Mapping[Result, int] = {"win": 1, "loss": -1}


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
        if better == "undecided" and {verdict.side for verdict in self.seen} == {"tie"}:
            return "tie"
        results: dict[str, Result] = {"chosen": "win", "rejected": "loss", "no-score": "no verdict"}
        return results.get(better, "undecided")

    @property
    def reason(self) -> str:
        """Why, in the judge's words."""
        return outcome(self.seen).detail if self.seen else "both answers are the same"

    def points(self, model: str) -> float | None:
        """A model's points: 1 for a win, ½ for a tie or if the two orders disagree."""
        points = POINTS.get(self.result)
        return points if points is None or model == self.one else 1 - points


Groups = Sequence[Sequence[int]] | None
"""The groups of related rows; None if all rows are independent."""


class Record(NamedTuple):
    """The games of a pair of models, from the view of `one`. results: by row."""

    one: str
    other: str
    results: Mapping[int, Result]
    groups: Groups = None

    @property
    def rate(self) -> Score | None:
        """The win rate and its interval, see `mean_points`; None without a verdict."""
        points = {row: POINTS[result] for row, result in self.results.items() if result in POINTS}
        return mean_points(points, self.groups) if points else None

    @property
    def p_value(self) -> float:
        """The exact sign test of wins against losses.

        For rows in groups, all signs of the groups are flipped (`stats.sign_flip_exact`).
        """
        gains = {row: GAINS.get(result, 0) for row, result in self.results.items()}
        if self.groups is None:
            values = list(gains.values())
            return stats.mcnemar_exact(values.count(1), values.count(-1))
        units = rows_by_group(gains, self.groups)
        return stats.sign_flip_exact([sum(gains[row] for row in unit) for unit in units])

    def count(self, result: Result) -> int:
        """The number of games that ended like this."""
        return list(self.results.values()).count(result)


def rows_by_group(rows: Iterable[int], groups: Groups) -> list[list[int]]:
    """Some rows by their group; those of each group that has any."""
    row_set = set(rows)
    groups_of_rows = ([row for row in group if row in row_set] for group in groups or ())
    return [members for members in groups_of_rows if members]


def mean_points(points: Mapping[int, float], groups: Groups) -> Score:
    """The mean over rows of points from 0 to 1, and its interval.

    Wilson's interval with half a success for a tie, which is wide enough for it: a tie varies less
    than a win or a loss. Of rows in groups, the bootstrap over groups (`stats.interval_of`).
    """
    if groups is None:
        total = sum(points.values())
        return total / len(points), stats.wilson(total, len(points))
    return _bounded_mean(list(points.values()), among(groups, list(points)) or [])


def _bounded_mean(values: Sequence[float], groups: Groups) -> Score:
    """A mean from 0 to 1 with its interval, see `Measure`."""
    score = Measure({"": values}, groups).score("")
    assert score is not None  # all values count
    assert score.interval is not None  # it has bounds
    return score.value, score.interval


def records(games: Sequence[Game], groups: Groups = None) -> list[Record]:
    """The record of each pair that played, in order. groups: the rows that belong together."""
    results: dict[tuple[str, str], dict[int, Result]] = {}
    for game in games:
        results.setdefault((game.one, game.other), {})[game.row] = game.result
    return [
        Record(model, opponent, results_by_row, groups)
        for (model, opponent), results_by_row in results.items()
    ]


def win_rates(games: Sequence[Game], models: Sequence[str], groups: Groups) -> dict[str, Score]:
    """Model → (win rate over all its games, interval); without models that have no verdict.

    Games on one row aren't independent, so a row counts once, with the mean of its games. groups:
    the rows that belong together.
    """
    points = {model: points_of(games, model) for model in models}
    return {
        model: mean_points(results_by_row, groups)
        for model, results_by_row in points.items()
        if results_by_row
    }


def points_of(games: Sequence[Game], model: str) -> dict[int, float]:
    """Row → the mean of a model's games on it, for rows with a verdict."""
    rows: dict[int, list[float]] = {}
    for game in games:
        points = game.points(model) if model in (game.one, game.other) else None
        if points is not None:
            rows.setdefault(game.row, []).append(points)
    return {row: sum(row_points) / len(row_points) for row, row_points in rows.items()}


class Counts(NamedTuple):
    """Games in which both orders chose the same position.

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
    def of(cls, games: Sequence[Game]) -> "Counts":
        """Count some games that were judged in both orders."""
        positions = Positions()
        for game in games:
            positions.add(game.seen)
        facts = positions.facts()
        return cls(
            games=len(games),
            consistent=sum(game.result != "undecided" for game in games),
            first=facts["first_twice"],
            second=facts["second_twice"],
            bias=facts["bias"],
        )


class Order(NamedTuple):
    """The effect of the order of answers. units: the counts of games that aren't independent."""

    counts: Counts
    units: Sequence[Counts]

    @classmethod
    def of(cls, games: Sequence[Game], groups: Groups = None) -> "Order":
        """Count the games that were judged in both orders.

        groups: the rows that belong together. Games on one row do in any case.
        """
        by_row: dict[int, list[Game]] = {}
        for game in games:
            if game.seen and game.result != "no verdict":
                by_row.setdefault(game.row, []).append(game)
        alone = groups if groups is not None else [[row] for row in by_row]
        units = [
            [g for row in rows_of_unit for g in by_row[row]]
            for rows_of_unit in rows_by_group(by_row, alone)
        ]
        every = [game for rows_of_unit in by_row.values() for game in rows_of_unit]
        return cls(Counts.of(every), [Counts.of(unit) for unit in units])

    @property
    def p_value(self) -> float:
        """The exact test that neither position is preferred: of signs, or of sign flips."""
        if self._are_single:
            return stats.mcnemar_exact(self.counts.first, self.counts.second)
        return stats.sign_flip_exact([unit.first - unit.second for unit in self.units])

    @property
    def _are_single(self) -> bool:
        return all(unit.games == 1 for unit in self.units)

    def scores(self) -> dict[str, Score]:
        """The judge's metrics: `consistency` and `position_bias`, a share from 0 to 1."""
        if not self.counts.games:
            return {}
        of_first = self.counts.first >= self.counts.second
        return {
            "consistency": self._share([unit.consistent for unit in self.units]),
            "position_bias": self._share([u.first if of_first else u.second for u in self.units]),
        }

    def _share(self, hits: Sequence[int]) -> Score:
        """The share of games. hits: how many of each unit."""
        values: list[bool] = []
        groups = []
        for n, unit in zip(hits, self.units, strict=True):
            groups.append(range(len(values), len(values) + unit.games))
            values += [True] * n + [False] * (unit.games - n)
        return _bounded_mean(values, None if self._are_single else groups)

    def remarks(self) -> Iterator[Remark]:
        """Remarks on the judge that people must know."""
        games, consistent, chose_first, second, _ = self.counts
        if chose_first != second and self.p_value < stats.LEVEL:
            name, n, opposite, m = (
                ("first", chose_first, "second", second)
                if chose_first > second
                else ("second", second, "first", chose_first)
            )
            p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
            yield Remark(
                f"the judge prefers the {name} answer: it chose it in both orders in {n} of "
                f"{counted(games, 'game')}, the {opposite} in {m} ({p}); such games count as "
                "ties",
                "Name a stronger judge, or simplify the rubric.",
                "warning",
            )
        elif games and consistent < games / 2:
            yield Remark(
                f"the judge contradicts itself when the answers change places, in "
                f"{games - consistent} of {counted(games, 'game')}, which count as "
                "ties",
                "Name a stronger judge, or make the rubric more precise.",
                "warning",
            )


def pair_table(played: Sequence[Record]) -> ReportTable:
    """The games of each pair of models."""
    columns = [
        "model", "against", "win rate", "95 % CI low", "95 % CI high", "wins", "losses", "ties",
        "orders disagree", "no verdict", "p (sign test)",
    ]  # fmt: skip
    rows = []
    for record in played:
        value, interval = record.rate or (None, (None, None))
        ends: tuple[Result, ...] = ("win", "loss", "tie", "undecided", "no verdict")
        counts = [record.count(end) for end in ends]
        p_value = None if record.rate is None else record.p_value
        rows.append([record.one, record.other, value, *interval, *counts, p_value])
    units = {**dict.fromkeys(columns[2:5], "share"), columns[-1]: "p"}
    return ReportTable("Games", columns, rows, units=units)


def cross_table(played: Sequence[Record], models: Sequence[str]) -> list[ReportTable]:
    """The win rate of each model (row) against each other one; empty for two models."""
    if len(models) < 3:
        return []
    rates: dict[tuple[str, str], float] = {}
    for record in played:
        if record.rate is not None:
            rates[record.one, record.other] = record.rate[0]
            rates[record.other, record.one] = 1 - record.rate[0]
    rows = [[model, *(rates.get((model, opponent)) for opponent in models)] for model in models]
    units = dict.fromkeys(models, "share")
    return [ReportTable("Win rate of row against column", ["", *models], rows, units=units)]
