"""The outcome of a measurement: scores, differences, tables, and what `predictions.jsonl` holds."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from finery import Completion, Job, Metrics
from finery.advanced import in_points, percent, range_in_points
from finery.rows.report import Difference, Interval, Pair, Remark, Report, ReportTable, Scores
from finery_eval import stats
from finery_eval.evaluation import write_scored
from finery_eval.measure import Measure, pairs_of, scores_of
from finery_eval.predictions import PROMPT_SHOWN
from finery_retention.tasks import Item

if TYPE_CHECKING:
    from finery_transformers.scoring import TextLikelihood


SOLVED = "solved"
PROBABILITY = "byte_probability"
UNBOUNDED: Mapping[str, Literal["higher", "lower"]] = {
    "bits_per_byte": "lower",
    "perplexity": "lower",
}
"""The metrics that aren't shares → which of their values are better."""
NOUNS = {SOLVED: "tasks", PROBABILITY: "text"}
Verdict = Literal["kept", "lost", "unclear"]
TRAIN_LESS = (
    "Train it less (a lower learning rate, fewer epochs, a smaller rank), or add general rows to "
    "its training."
)


class Finding(NamedTuple):
    """A model next to the first one, in one metric."""

    model: str
    baseline: str
    metric: str
    difference: Difference
    verdict: Verdict

    @property
    def points(self) -> str:
        """The difference and its interval in points."""
        interval = range_in_points(self.difference.interval)
        return f"{in_points(self.difference.value)} points (95 % CI {interval})"


def findings_of(pairs: Sequence[Pair], first: str, margin: float) -> list[Finding]:
    """Each model compared with the first. pairs: see `finery_eval.measure.pairs_of`.

    lost: the interval of the difference is below 0 by more than the margin. kept: a loss as large
    as the margin is outside the interval (non-inferiority).
    """
    return [
        Finding(pair.model, first, metric, difference, _verdict(difference.interval, margin))
        for pair in pairs
        if pair.baseline == first
        for metric, difference in pair.metrics.items()
    ]


def _verdict(interval: Interval, margin: float) -> Verdict:
    low, high = interval
    return "lost" if high < -margin else "kept" if low > -margin else "unclear"


def finding_tables(found: Sequence[Finding], margin: float) -> list[ReportTable]:
    """The table of the findings; empty if there is only one model."""
    if not found:
        return []
    words = {"kept": "kept", "lost": "lost", "unclear": "unclear: too few items"}
    columns = ["model", "on", "points", "95 % CI low", "95 % CI high", "p", "verdict"]
    rows = [
        [f.model, NOUNS[f.metric], d.value, *d.interval, d.p_value, words[f.verdict]]
        for f in found
        for d in [f.difference]
    ]
    units = {**dict.fromkeys(columns[2:5], "difference"), "p": "p"}
    title = f"Compared with {found[0].baseline}; a loss of up to {100 * margin:g} points is allowed"
    return [ReportTable(title, columns, rows, units=units)]


def remarks(
    found: Sequence[Finding], scores: Scores, first: str, margin: float
) -> Iterator[Remark]:
    """A remark on each loss, on inconclusive results, and on tasks that no model can solve.

    Each has its `verdict`, `lost` or `unclear`, on which the report's answer is based.
    """
    solved = scores[first].get(SOLVED)
    if solved is not None and solved.value <= margin:
        yield _unclear(
            f"{first} solves only {percent(solved.value)} of the tasks, so they can't show a loss",
            "Choose other `tasks`, or rely on the text.",
        )
    for finding in found:
        if finding.verdict == "lost":
            yield Remark(_lost(finding, scores), TRAIN_LESS, "warning", finding.verdict)
        elif finding.verdict == "unclear":
            yield _unclear(
                f"it is unclear from the {NOUNS[finding.metric]} whether {finding.model} forgot: "
                f"{finding.points} against {finding.baseline}",
                "Raise `items`." if finding.metric == SOLVED else "Name a longer `text`.",
            )


def _unclear(text: str, advice: str) -> Remark:
    return Remark(text, advice, "info", "unclear")


def _lost(finding: Finding, scores: Scores) -> str:
    own, base = scores[finding.model], scores[finding.baseline]
    if finding.metric == SOLVED:
        return (
            f"{finding.model} forgot: it solves {percent(own[SOLVED].value)} of the general tasks, "
            f"{finding.baseline} {percent(base[SOLVED].value)}: {finding.points}"
        )
    return (
        f"{finding.model} forgot: its perplexity on general text is "
        f"{own['perplexity'].value:,.1f}, that of {finding.baseline} "
        f"{base['perplexity'].value:,.1f}; probability of a byte {finding.points}"
    )


def in_words(finding: Finding) -> str:
    """A line for the log."""
    words = {
        "kept": "kept what it knew",
        "lost": "forgot",
        "unclear": "may have forgotten: too few items to tell",
    }
    about = f"{NOUNS[finding.metric]}, {finding.points} against {finding.baseline}"
    return f"{finding.model} {words[finding.verdict]} ({about})"


class Result(NamedTuple):
    """The models' answers, and the likelihood that they give the text; by model, the base first."""

    items: Sequence[Item]
    texts: Sequence[str]
    answers: Mapping[str, Sequence[Completion]]
    likelihoods: "Mapping[str, Sequence[TextLikelihood]]"

    def write(self, job: Job, margin: float) -> Metrics:
        """Write the metrics; log what was lost. margin: the tolerated loss."""
        names, solved = list(self.answers), self._solved()
        measures = self._measures(solved)
        scores = scores_of(names, measures)
        compared = {m: of for m, of in measures.items() if m in (SOLVED, PROBABILITY)}
        pairs = pairs_of(names, compared)
        found = findings_of(pairs, names[0], margin)
        tables = [
            *finding_tables(found, margin),
            *self._task_tables(solved),
            *self._text_tables(scores),
        ]
        report = Report(
            rows=len(self.items) + len(self.texts),
            scores=scores,
            headline=list(compared),
            unbounded=[metric for metric in UNBOUNDED if metric in measures],
            pairs=pairs,
            tables=tables,
            remarks=list(remarks(found, scores, names[0], margin)),
        )
        metrics = write_scored(job, report, self._predictions(solved), answers=self.answers)
        for finding in found:
            job.log(in_words(finding))
        return metrics

    def _solved(self) -> dict[str, list[bool]]:
        return {
            name: [item.is_solved(a.text) for item, a in zip(self.items, of, strict=True)]
            for name, of in self.answers.items()
        }

    def _measures(self, solved: Mapping[str, Sequence[bool]]) -> dict[str, Measure]:
        measures: dict[str, Measure] = {}
        if self.items:
            measures[SOLVED] = Measure(solved)
        if self.texts:
            measures[PROBABILITY] = self._nats("bytes", lambda nats: math.exp(-nats), stats.SHARE)
            bits = self._nats("bytes", lambda nats: nats / math.log(2), (0, math.inf))
            measures["bits_per_byte"] = bits
            measures["perplexity"] = self._nats("tokens", math.exp, (1, math.inf))
        return measures

    def _nats(
        self, unit: str, of_mean: Callable[[float], float], within: stats.Interval
    ) -> Measure:
        """A function of the mean nats per byte or token. within: what it can be."""
        nats = {name: [-one.logprob for one in of] for name, of in self.likelihoods.items()}
        units = {
            name: [float(getattr(one, unit)) for one in of] for name, of in self.likelihoods.items()
        }
        return Measure(nats, weights=units, of_mean=of_mean, within=within, is_continuous=True)

    def _task_tables(self, solved: Mapping[str, Sequence[bool]]) -> list[ReportTable]:
        rows: list[list[Any]] = []
        for task in dict.fromkeys(item.task for item in self.items):
            at = [i for i, item in enumerate(self.items) if item.task == task]
            rows.append(
                [task, len(at), *(sum(of[i] for i in at) / len(at) for of in solved.values())]
            )
        if not rows:
            return []
        units: Any = dict.fromkeys(solved, "share")
        return [ReportTable("Tasks", ["task", "items", *solved], rows, units=units)]

    def _text_tables(self, scores: Scores) -> list[ReportTable]:
        if not self.texts:
            return []
        columns = ["model", "perplexity (per token)", "bits per byte", "tokens", "bytes"]
        rows = [
            [
                name,
                scores[name]["perplexity"].value,
                scores[name]["bits_per_byte"].value,
                sum(one.tokens for one in of),
                sum(one.bytes for one in of),
            ]
            for name, of in self.likelihoods.items()
        ]
        return [ReportTable("Text", columns, rows)]

    def _predictions(self, solved: Mapping[str, Sequence[bool]]) -> Iterator[dict[str, Any]]:
        for i, item in enumerate(self.items):
            for name, of in self.answers.items():
                yield {
                    "id": item.id,
                    "model": name,
                    "task": item.task,
                    "prompt": item.question[:PROMPT_SHOWN],
                    "answer": of[i].text,
                    "expected": item.expected,
                    "correct": solved[name][i],
                    "values": {SOLVED: solved[name][i]},
                    "finish_reason": of[i].finish_reason,
                }
        for i, text in enumerate(self.texts):
            for name, scored in self.likelihoods.items():
                yield {
                    "id": f"text-{i + 1}",
                    "model": name,
                    "prompt": text[:PROMPT_SHOWN],
                    "logprob": scored[i].logprob,
                    "tokens": scored[i].tokens,
                    "bytes": scored[i].bytes,
                }
