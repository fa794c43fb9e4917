"""`eval.speed`: how long models take to answer, and what their answers cost."""

import gc
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from finery import (
    Artifact,
    Completion,
    Dataset,
    Engine,
    Job,
    Key,
    Metrics,
    Model,
    Request,
    Sampling,
    Settings,
    setting,
    takes,
)
from finery.advanced import RefusedError, counted, cpu_count, processor, visible_gpus
from finery.rows import Row, split_turns
from finery.rows.report import Report
from finery_eval.asking import read_rows
from finery_eval.evaluation import BASELINE, write
from finery_eval.evaluator import Better, Judge, longest_answer
from finery_eval.measure import Statistic, mean
from finery_eval.verdicts import Verdict, Verdicts

if TYPE_CHECKING:
    from finery.advanced import Graph, Results

P50, P95, FIRST, RATE, PRICE = METRICS = (
    "latency_p50", "latency_p95", "first_token_p50", "tokens_per_second", "price_per_1000"
)  # fmt: skip
TIMED = "timed"
"""An entry of `extra` in a report: the machine, the time, and the models behind an API."""
UNITS = {P50: "seconds", P95: "seconds", FIRST: "seconds", PRICE: "dollars"}
ANSWERS = 1000
"""Answers that a price is for."""


def median(counts: Mapping[float, int]) -> float:
    """The middle value, as a statistic."""
    return quantile(counts, 0.5)


def slow_end(counts: Mapping[float, int]) -> float:
    """The value that 95 % don't exceed, as a statistic."""
    return quantile(counts, 0.95)


def quantile(counts: Mapping[float, int], share: float) -> float:
    """The smallest value that this share of the values doesn't exceed; 0 if there are none.

    Definition 1 of R. J. Hyndman and Y. Fan, "Sample quantiles in statistical packages", The
    American Statistician 50 (1996) 361-365: always a measured value.
    """
    remaining = math.ceil(share * sum(counts.values()))
    for value in sorted(counts):
        remaining -= counts[value]
        if remaining <= 0:
            return value
    return 0.0


def rate(counts: Mapping[tuple[int, float], int]) -> float:
    """Tokens in a second, from (tokens, seconds) of answers, as a statistic."""
    seconds = math.fsum(time * n for (_, time), n in counts.items())
    return sum(tokens * n for (tokens, _), n in counts.items()) / seconds if seconds else 0.0


def price(counts: Mapping[float, int]) -> float:
    """Dollars for `ANSWERS` answers, as a statistic."""
    return ANSWERS * mean(counts)


STATISTICS: Mapping[str, Statistic] = {
    P50: median, P95: slow_end, FIRST: median, RATE: rate, PRICE: price
}  # fmt: skip


class Machine(Settings):
    """What the machine that runs the local models costs."""

    per_hour: float = setting(gt=0, help="Dollars an hour.")


class Speed(
    Judge, engines=True, seeded=False, alone=True, task="speed",
    rehearsal={"max_tokens": 8, "answers": 4, "warm_up": 1},
):  # fmt: skip
    """Measure how long models take to answer the same prompts, and what the answers cost.

    Requests are sent one after the other, as those of a single user, and never answered from the
    cache. No other step of the build runs on the machine meanwhile. `latency_p50` and `latency_p95`
    are seconds until an answer is complete, of the median answer and of the slowest 5 %.
    `first_token_p50` is the time until it begins, and is missing for an engine that doesn't notice
    that. `tokens_per_second` is over whole answers, prompts included. `price_per_1000` is dollars
    for 1,000 answers: by the tokens of a model with a `price`, else by the time on `machine`.
    Intervals: bootstrap over rows (Efron and Tibshirani 1993).

    The result is of this machine. Its processor, cores and GPUs are in the key, and the date and
    the load are in `metrics.json`. Another measurement gives other numbers: `finery build --force`
    repeats it.
    """

    rows: Dataset = takes(help="Rows whose prompts are sent. Expected answers aren't used.")
    answers: int = setting(
        50, ge=1, help="Measured answers of each model, at most. They are spread over the rows."
    )
    warm_up: int = setting(
        2, ge=0, help="Answers before these that don't count: the first one loads the model."
    )
    max_tokens: int = longest_answer(64)
    machine: Machine | None = setting(
        None,
        help="The price of this machine, for models without a price of their own.",
        examples=[{"per_hour": 0.8}],
    )

    def metric_names(self) -> list[str]:
        """The metrics of each model; the first one decides."""
        return list(METRICS)

    def unbounded(self) -> Mapping[str, Better]:
        """All of them: seconds, tokens and dollars."""
        return {metric: "higher" if metric == RATE else "lower" for metric in METRICS}

    def cache_key(self) -> Key:
        """Also the machine, since another one is faster or slower."""
        return super().cache_key() | Key(facts=machine())

    def prepare(self, job: Job) -> list[Row]:
        """The rows with the prompts."""
        return read_rows(self.rows)

    def run(self, job: Job) -> Metrics:
        """Measure one model after the other."""
        rows = self.prepare(job)
        count = min(self.answers, len(rows))
        places = {i * len(rows) // count for i in range(count)}
        measured = [rows[i] for i in sorted(places)]
        later_rows = [row for i, row in enumerate(rows) if i not in places] or measured
        facts = {**machine(), "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        load = os.getloadavg()[0]
        job.log("no other step of this build runs on this machine while this one measures")
        answers: dict[str, list[Completion]] = {}
        judged: dict[str, list[Verdict]] = {}
        for model in self.models:
            engine = job.raw_engine(model)
            job.progress(0, count, model.name)
            for row in later_rows[: self.warm_up]:
                self._timing(job, engine, row)
            timings = []
            for number, row in enumerate(measured, 1):
                timings.append(self._timing(job, engine, row))
                job.progress(number, count, model.name)
            answers[model.name] = [timing.answer for timing in timings]
            judged[model.name] = [self._verdict(timing, model, engine) for timing in timings]
            del engine
            gc.collect()  # the next model may need the memory of this one
        apis = [model.name for model in self.models if "api" in model.formats]
        report = Report(
            words=[_words(facts, load, self.warm_up)],
            intervals_cover="the choice of rows and the noise of this run, not another machine",
            extra={TIMED: {**facts, "load": load, "apis": apis}},
        )
        verdicts = Verdicts(
            judged, METRICS, statistics=STATISTICS, unbounded=METRICS, units=UNITS, report=report
        )
        headline = [
            metric
            for metric in METRICS
            if any(value is not None for rows in verdicts.values(metric).values() for value in rows)
        ]
        return write(job, measured, answers, verdicts._replace(headline=headline))

    def _timing(self, job: Job, engine: Engine, row: Row) -> "_Timing":
        request = Request(split_turns(row)[0], row.get("tools"))
        began = time.perf_counter()
        try:
            answer, first = engine.timed(request, Sampling(max_tokens=self.max_tokens))
        except RefusedError as error:
            answer = Completion(
                text=error.text, finish_reason="refusal", prompt_tokens=0, completion_tokens=0
            )
            first = None
        seconds = time.perf_counter() - began
        job.usage.add(answer, engine.price)
        return _Timing(answer, seconds, None if first is None else first - began)

    def _verdict(self, timing: "_Timing", model: Model, engine: Engine) -> Verdict:
        answer, cost = timing.answer, engine.price
        dollars = None if cost is None else cost.of_answer(answer)
        if cost is not None and not cost.input and not cost.output:
            hourly = None if self.machine is None else self.machine.per_hour
            dollars = None if hourly is None else hourly / 3600 * timing.seconds
        reads_texts = BASELINE in model.meta or engine.standalone is not None
        tokens = 0 if reads_texts else answer.completion_tokens
        return Verdict({
            P50: timing.seconds,
            P95: timing.seconds,
            FIRST: timing.first_token,
            RATE: (tokens, timing.seconds) if tokens else None,
            PRICE: dollars,
        })  # fmt: skip

    def provenance(self, name: str, graph: "Graph", results: "Results") -> Mapping[str, Any]:
        """The price of each model that has one."""
        prices = {}
        for source in graph.nodes[name].sources_of(Model):
            model = results.artifact(source.step, source.output)
            if found := list(_prices(model)) if model is not None else []:
                prices[source.ref] = found[0] if len(found) == 1 else found
        return {"prices": prices} if prices else {}


def _prices(model: Artifact) -> Iterator[Any]:
    """The price of a model, or those of the models that it asks."""
    if "price" in model.runtime:
        yield model.runtime["price"]
    else:
        for part in model.refs.values():
            yield from _prices(part)


class _Timing(NamedTuple):
    """An answer, and the seconds until its end and its first token."""

    answer: Completion
    seconds: float
    first_token: float | None


class _Timed(msgspec.Struct):
    apis: list[str]


def apis_of(report: Report) -> list[str]:
    """The models behind an API, of a measurement of speed."""
    timed = report.part(TIMED, _Timed)
    return timed.apis if timed else []


def machine() -> dict[str, Any]:
    """What decides how fast this machine is, by name."""
    gpus = [gpu.name for gpu in visible_gpus()]
    return {"processor": processor(), "cores": cpu_count(), "graphics": gpus}


def _words(facts: Mapping[str, Any], load: float, warm_up: int) -> str:
    """The circumstances of the measurement, as a sentence."""
    gpus = ", ".join(facts["graphics"]) or "no GPU"
    day = f"{facts['measured'][:16].replace('T', ' ')} UTC"
    return (
        f"One request at a time after {counted(warm_up, 'answer')} to warm up, on {day}, on "
        f"{facts['processor']}, {counted(facts['cores'], 'core')}, {gpus}; load before: {load:.1f}"
    )
