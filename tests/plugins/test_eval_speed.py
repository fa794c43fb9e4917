"""`eval.speed`: what is measured, by which prices, on which machine, and what a report says."""

import itertools
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeProject
from hostile_server import Body, Reply, Server, serving

from finery import DataError, Metrics, Model, UsageError
from finery.advanced import Price
from finery.rows.report import Difference, Pair, Report, Score
from finery.testing import TestJob, dataset, run_step, table_model
from finery.util.text import quantity
from finery.views import Quantity
from finery.views.parts import as_text
from finery_eval.measure import measure_of
from finery_eval.steps import speed
from finery_eval.steps.select import Select
from finery_eval.steps.speed import FIRST, P50, P95, PRICE, RATE, TIMED, Machine, Speed
from finery_openai.model import OpenaiModel
from finery_openai.wire import join_events

DELAY, TOKENS = 0.05, (10, 5)
STREAM = (
    b': hello\n\ndata: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n',
    b'data: {"choices": [{"delta": {"content": "It is "}}]}\n\n',
    b'data: {"choices": [{"delta": {"content": "red."}, "finish_reason": "stop"}]}\n\n',
    b'data: {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}\n\n'
    b"data: [DONE]\n\n",
)


def pieces() -> Iterator[bytes]:
    """An answer in pieces, each after a while."""
    for piece in STREAM:
        yield piece
        time.sleep(DELAY)


def answer(body: Body) -> Reply:
    """Answers in one piece or in several, as asked."""
    return Reply(stream=pieces) if body.get("stream") else Reply("It is red.", delay=DELAY)


def api(server: Server, **settings: Any) -> Model:
    step = OpenaiModel(model="m", base_url=server.url, api_key=None, **settings)
    made: Model = step.run(TestJob(seed=None))
    made.ref = "api"
    return made


def measured(folder: Path, *models: Model, rows: int = 6, **settings: Any) -> Metrics:
    asked = dataset(folder / "rows", [{"prompt": f"Is it {n}?"} for n in range(rows)])
    made: Metrics = run_step(Speed(models=list(models), rows=asked, **settings), folder / "job")
    return made


def test_a_server_is_timed_and_its_tokens_are_priced(tmp_path: Path) -> None:
    price = Price(input=1.0, output=2.0)
    with serving(answer) as server:
        made = measured(tmp_path, api(server, price=price), answers=3, warm_up=1)
        assert len(server.calls) == 4  # none from a cache, and one to warm up
        assert [call["messages"][-1]["content"] for call in server.calls[1:]] == [
            "Is it 0?", "Is it 2?", "Is it 4?",
        ]  # fmt: skip
    scores = made.report().data()["scores"]["api"]
    assert DELAY <= scores[FIRST] < scores[P50] <= scores[P95]
    assert scores[P50] >= 3 * DELAY
    assert 0 < scores[RATE] <= 5 / (3 * DELAY)
    assert scores[PRICE] == pytest.approx(1000 * (10 * 1 + 5 * 2) / 1e6)
    intervals = made.report().data()["intervals"]["api"]
    assert PRICE not in intervals  # every answer has the same price
    assert intervals[P50][0] <= scores[P50] <= intervals[P50][1]
    (line, *_) = made.predictions()
    assert line["answer"] == "It is red."
    details = made.report().data()["details"]
    assert details[TIMED]["apis"] == ["api"]
    assert details[TIMED]["processor"]


def test_a_server_that_does_not_stream_has_no_first_token(tmp_path: Path) -> None:
    with serving(lambda body: Reply("It is red.", delay=DELAY)) as server:
        report = measured(tmp_path, api(server), answers=2).report().data()
    scores = report["scores"]["api"]
    assert scores[P50] >= DELAY
    assert {FIRST, PRICE}.isdisjoint(scores)
    assert report["details"]["headline"] == [P50, P95, RATE]


def test_a_local_model_is_priced_by_the_time_of_its_machine(tmp_path: Path) -> None:
    model = table_model(tmp_path / "table", {}, "It is red.")
    made = measured(tmp_path, model, machine=Machine(per_hour=7.2))
    seconds = [line["values"][P50] for line in made.predictions()]
    dollars = made.report().data()["scores"]["table"][PRICE]
    assert dollars == pytest.approx(1000 * statistics.fmean(seconds) * 0.002)


def test_a_stream_adds_up_to_a_completion() -> None:
    parts = [
        '{"choices": [{"delta": {"reasoning_content": "Hm."}}]}',
        '{"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "1", "function": '
        '{"name": "find", "arguments": "{\\"a\\""}}]}}]}',
        '{"choices": [{"delta": {"tool_calls": [{"index": 0, "function": '
        '{"arguments": ": 1}"}}]}, "finish_reason": "tool_calls"}]}',
    ]
    lines = [f"data: {part}\n\n".encode() for part in parts]
    whole, first = join_events(b"".join(lines))
    assert first == len(lines[0]) - 1  # its line, without the empty one that ends the event
    assert b'"arguments":"{\\"a\\": 1}"' in whole
    assert b'"reasoning_content":"Hm."' in whole
    assert join_events(b'{"choices": []}') == (b'{"choices": []}', None)
    assert (
        join_events(b'data: {"error": {"message": "no"}}\n\n')[0] == b'{"error":{"message":"no"}}'
    )


@pytest.mark.parametrize("count", [1, 2, 7, 20, 50])
def test_quantiles_are_measured_values(count: int) -> None:
    values = [math.sin(n) for n in range(count)]
    for share, of in ((0.5, speed.median), (0.95, speed.slow_end)):
        assert of(Counter(values)) == np.quantile(values, share, method="inverted_cdf")


def test_the_interval_of_a_median_is_about_that_of_order_statistics() -> None:
    """Of 50 values, the 18th to the 33rd (W. J. Conover, "Practical Nonparametric Statistics")."""
    values = np.random.default_rng(1).lognormal(size=50).tolist()
    score = measure_of({"m": values}, None, statistic=speed.median, is_share=False).score("m")
    assert score is not None
    assert score.interval is not None
    low, high = (sorted(values).index(end) + 1 for end in score.interval)
    assert abs(low - 18) <= 3
    assert abs(high - 33) <= 3


RECIPE = """\
finery: 1
name: fast
models:
  small: {use: baseline.majority, rows: rows}
  api: {use: openai.model, model: m, base_url: "URL", api_key: null, price: {input: 1, output: 2}}
data:
  rows: {use: data.file, path: rows.jsonl, format: completion}
evaluate:
  test: {use: eval.exact, models: [api, small], rows: rows}
  fast:
    use: eval.speed
    models: [api, small]
    rows: rows
    answers: 4
    machine: {per_hour: 0.8}
    require: {small.latency_p50: "< api.latency_p50"}
  choice:
    use: eval.select
    candidates: [test, fast]
    metric: accuracy
    pareto: [accuracy, -latency_p50, -price_per_1000]
"""


@pytest.mark.quick
@pytest.mark.slow
def test_a_build_compares_a_small_model_with_the_api(project: MakeProject) -> None:
    rows = "".join(f'{{"prompt": "Is it {n}?", "completion": "It is red."}}\n' for n in range(8))
    with serving(answer) as server:
        recipe = RECIPE.replace("URL", server.url)
        made = project({"recipe.yaml": recipe, "rows.jsonl": rows})
        built = made.run("build")
        assert built.code == 0, built.err
        calls = len(server.calls)
        assert "running alone" not in built.err
        shown = made.here("show", "fast").out
        assert "latency_p50" in shown
        assert " ms" in shown
        assert "applies to 0" not in shown
        assert "One request at a time" in shown
        assert "points" not in shown
        choice = made.here("show", "choice").out
        assert "chosen of 1: small" in choice
        assert "Pareto front" in choice
        runs = made.here("runs").out
        latency = next(line for line in runs.splitlines() if "latency_p50" in line)
        assert "%" not in latency
        page = made.here("report", "-o", "page.html")
        assert page.code == 0, page.err
        text = (made.folder / "page.html").read_text()
        assert "Can small replace api?" in text
        assert "times faster" in text
        assert "cheaper" in text
        # A price isn't part of a model's identity, but of what is measured here.
        states = made.here("plan", "--set", "models.api.price.input=9", "--json").out
        (planned,) = [line for line in states.splitlines() if '"fast"' in line and "use" in line]
        assert '"state":"cached"' not in planned.replace(" ", "")
        assert len(server.calls) == calls


@pytest.mark.parametrize(("value", "seconds", "dollars"), [
    (3.387e-06, "0.00339 ms", "$0.00000339"), (0.0001969, "0.197 ms", "$0.000197"),
    (-0.0121, "-12.1 ms", "-$0.0121"), (1.5, "1.5 s", "$1.5"), (0.0, "0 ms", "$0"),
])  # fmt: skip
def test_quantities_have_units_and_three_digits(value: float, seconds: str, dollars: str) -> None:
    assert quantity(value, "seconds") == as_text(Quantity(value, "seconds")) == seconds
    assert quantity(value, "dollars") == dollars


def test_a_model_that_another_one_beats_is_not_chosen(tmp_path: Path) -> None:
    accuracy = {"big": 0.95, "small": 0.9, "slow": 0.89}
    latency = {"big": 2.0, "small": 0.1, "slow": 0.3, "untested": 0.01}
    given = []
    for metric, of in (("accuracy", accuracy), (P50, latency)):
        (tmp_path / metric).mkdir()
        pairs = [
            Pair(b, a, {metric: Difference(of[b] - of[a], (-1, 1), 0.5)})
            for a, b in itertools.combinations(of, 2)
        ]  # fmt: skip
        metrics = Metrics.write(
            tmp_path / metric,
            Report(
                rows=20,
                scores={model: {metric: Score(value)} for model, value in of.items()},
                pairs=pairs,
                unbounded=[P50] if metric == P50 else [],
            ),
        )
        metrics.ref = metric
        given.append(metrics)

    def choose(metric: str, best: Any, **settings: Any) -> Metrics:
        step = Select(candidates=given, metric=metric, best=best, **settings)
        made: Metrics = run_step(step, tmp_path / f"{metric}-{len(settings)}")
        return made

    weighed = {"pareto": ["accuracy", f"-{P50}"]}
    made = choose("accuracy", "highest", **weighed)
    assert made.meta["chosen"] == "big"
    assert made.meta["margin"] == {
        "over": "small", "difference": pytest.approx(0.05), "interval": [-1, 1]
    }  # fmt: skip
    report = made.report().data()
    assert report["details"]["words"][-2:] == [
        "ruled out, since another model beats them: slow", "not measured in everything: untested",
    ]  # fmt: skip
    (table,) = report["details"]["tables"]
    assert table["rows"][-1] == ["slow", 0.89, 0.3, "small"]
    assert choose(P50, "lowest", **weighed).meta["chosen"] == "small"
    assert choose("accuracy", "highest").meta["chosen"] == "big"
    with pytest.raises(DataError, match="no candidate has a score price") as caught:
        choose("accuracy", "highest", pareto=["accuracy", f"-{PRICE}"])
    assert caught.value.where == "pareto"
    assert "machine: {per_hour: DOLLARS}" in (caught.value.fix or "")
    with pytest.raises(UsageError, match="for a choice among models"):
        choose("accuracy", "highest", model="big", **weighed)
