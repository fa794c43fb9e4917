"""The outcome of a measurement: scores, differences, tables, and what `predictions.jsonl` holds."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import Completion, Job, Metrics
from finery_eval import stats
from finery_eval.evaluation import write_scored
from finery_eval.measure import Measure, in_json, pairs_of, scores_of
from finery_eval.predictions import PROMPT_SHOWN
from finery_eval.tables import table
from finery_retention import findings
from finery_retention.findings import PROBABILITY, SOLVED
from finery_retention.tasks import Item

if TYPE_CHECKING:
    from finery_transformers.scoring import TextLikelihood


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
        scored = scores_of(names, measures)
        scores, _ = in_json(scored)
        compared = {m: of for m, of in measures.items() if m in (SOLVED, PROBABILITY)}
        pairs = pairs_of(names, compared)
        found = findings.findings(pairs, names[0], margin)
        tables = [
            *findings.finding_tables(found, margin),
            *self._task_tables(solved),
            *self._text_tables(scores),
        ]
        details = {
            "headline": list(compared),
            "unbounded": [metric for metric in findings.UNBOUNDED if metric in measures],
            "pairs": pairs,
            "tables": tables,
            "remarks": list(findings.remarks(found, scores, names[0], margin)),
        }
        rows, lines = len(self.items) + len(self.texts), self._predictions(solved)
        metrics = write_scored(job, rows, scored, details, lines, answers=self.answers)
        for finding in found:
            job.log(findings.in_words(finding))
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

    def _task_tables(self, solved: Mapping[str, Sequence[bool]]) -> list[dict[str, Any]]:
        rows: list[list[Any]] = []
        for task in dict.fromkeys(item.task for item in self.items):
            at = [i for i, item in enumerate(self.items) if item.task == task]
            rows.append(
                [task, len(at), *(sum(of[i] for i in at) / len(at) for of in solved.values())]
            )
        if not rows:
            return []
        units: Any = dict.fromkeys(solved, "share")
        return [table("Tasks", ["task", "items", *solved], rows, units=units)]

    def _text_tables(self, scores: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
        if not self.texts:
            return []
        columns = ["model", "perplexity (per token)", "bits per byte", "tokens", "bytes"]
        rows = [
            [
                name,
                scores[name]["perplexity"],
                scores[name]["bits_per_byte"],
                sum(one.tokens for one in of),
                sum(one.bytes for one in of),
            ]
            for name, of in self.likelihoods.items()
        ]
        return [table("Text", columns, rows)]

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
