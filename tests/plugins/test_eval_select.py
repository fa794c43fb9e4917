"""`eval.select`: the best candidate, ties, margins with their intervals, repeats under seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finery import Metrics, UsageError
from finery.builder.project import open_graph
from finery.rows.report import Report, Score
from finery.testing import run_step
from finery_eval.measure import Measure
from finery_eval.steps.select import Select


def candidate(folder: Path, name: str, right: Sequence[bool], metric: str = "accuracy") -> Metrics:
    """An evaluation of `sft` with these answers right."""
    (folder / name).mkdir(parents=True)
    share = sum(right) / len(right)
    ends = max(0, share - 0.1), min(1, share + 0.1)
    metrics = Metrics.write(
        folder / name,
        Report(rows=len(right), scores={"sft": {metric: Score(share, ends)}}),
        [
            {"id": str(n), "model": "sft", "values": {metric: value}}
            for n, value in enumerate(right)
        ],
    )
    metrics.ref = f"test@{name}"
    return metrics


def chosen(folder: Path, candidates: list[Metrics], **settings: Any) -> Metrics:
    step = Select(candidates=candidates, model="sft", metric="accuracy", **settings)
    made = run_step(step, folder / "out")
    assert isinstance(made, Metrics)
    return made


def test_the_best_is_chosen_and_the_margin_is_paired(tmp_path: Path) -> None:
    poor, good = [True] * 10 + [False] * 10, [True] * 16 + [False] * 4
    made = chosen(tmp_path, [candidate(tmp_path, "a", poor), candidate(tmp_path, "b", good)])
    assert made.meta["chosen"] == "b"
    assert [*made.report().data()["scores"]] == ["b", "a"]
    paired = Measure({"a": poor, "b": good}).difference("a", "b")
    assert paired is not None
    assert made.meta["margin"] == {
        "over": "a",
        "difference": pytest.approx(0.3),
        "interval": pytest.approx(paired.interval),
    }


@pytest.mark.parametrize("key", ["group", "turn"])
def test_the_margin_is_over_groups(tmp_path: Path, key: str) -> None:
    """Rows with one parent, and turns of a conversation."""
    right = {"a": [False] * 20, "b": [True] * 10 + [False] * 10}
    given = []
    for name, of in right.items():
        (tmp_path / name).mkdir()
        places = [
            {"id": f"row {n}", "group": f"ticket {n // 5}"} if key == "group"
            else {"id": f"row {n // 5}", "turn": n % 5}
            for n in range(20)
        ]  # fmt: skip
        metrics = Metrics.write(
            tmp_path / name, Report(rows=20, scores={"sft": {"accuracy": Score(sum(of) / 20)}}), [
                {**place, "model": "sft", "values": {"accuracy": value}}
                for place, value in zip(places, of, strict=True)
            ],
        )  # fmt: skip
        metrics.ref = f"test@{name}"
        given.append(metrics)
    groups = [list(range(5 * n, 5 * n + 5)) for n in range(4)]
    paired = Measure(right, groups).difference("a", "b")
    assert paired is not None
    assert chosen(tmp_path, given).meta["margin"]["interval"] == pytest.approx(paired.interval)
    assert paired.interval[0] <= 0  # two of four groups


def test_a_row_that_is_there_twice_keeps_the_margin(tmp_path: Path) -> None:
    right = {"a": [True] * 10 + [False] * 10, "b": [True] * 12 + [False] * 8}
    given = [candidate(tmp_path, name, of) for name, of in right.items()]
    for metrics in given:
        lines = metrics.file("predictions.jsonl")
        lines.write_text(lines.read_text("utf-8").replace('"id":"11"', '"id":"10"'), "utf-8")
        assert len({line["id"] for line in metrics.predictions()}) == 19
    groups = [[n] for n in range(20) if n not in (10, 11)] + [[10, 11]]
    paired = Measure(right, groups).difference("a", "b")
    assert paired is not None
    assert chosen(tmp_path, given).meta["margin"]["interval"] == pytest.approx(paired.interval)
    assert paired.interval[0] <= 0  # too close to call


def test_of_equally_good_ones_the_first_is_chosen(tmp_path: Path) -> None:
    same = [True, False, True]
    made = chosen(tmp_path, [candidate(tmp_path, n, same) for n in ("z", "a", "m")])
    assert made.meta["chosen"] == "z"
    assert made.meta["margin"]["difference"] == 0


def test_repeats_are_compared_by_their_means(tmp_path: Path) -> None:
    right = {"a1": 20, "a2": 2, "b1": 12, "b2": 14}  # the best single one isn't of the best group
    given = [candidate(tmp_path, n, [i < k for i in range(20)]) for n, k in right.items()]
    groups = {"a": ["test@a1", "test@a2"], "b": ["test@b1", "test@b2"]}
    made = chosen(tmp_path, given, repeats=groups)
    assert made.meta["chosen"] == "b2"  # the best repeat of the best group
    assert made.meta["repeats"] == {"b1": 0.6, "b2": 0.7}
    assert (
        made.report().data()["details"]["intervals_cover"].startswith("the seed of a training only")
    )
    assert made.meta["score"] == pytest.approx(0.65)
    assert made.meta["margin"]["difference"] == pytest.approx(0.1)
    low, high = made.meta["margin"]["interval"]  # of the differences -0.4 and 0.6, t = 12.706
    assert (low, high) == (pytest.approx(-6.25, abs=0.01), pytest.approx(6.45, abs=0.01))


MODEL = "{use: baseline.majority, rows: rows}"
WRONG = {
    "metric: acuracy": ("no metric 'acuracy'", "did you mean 'accuracy'?"),
    "metric: latency_p50": ("lower values of latency_p50 are better", "add best: lowest"),
    "metric: tokens_per_second, best: lowest": ("higher values", "add best: highest"),
    "metric: accuracy, pareto: [accuracy, -latency_p5]": ("'latency_p5'", "'latency_p50'"),
    "metric: accuracy, pareto: [accuracy, latency_p95]": ("lower", "write -latency_p95"),
    "metric: accuracy, pareto: [accuracy, -accuracy]": ("accuracy twice", "once"),
    "metric: accuracy, pareto: ['-']": ("no metric ''", "one of: accuracy"),
}


@pytest.mark.parametrize("settings", WRONG)
def test_a_wrong_metric_is_told_by_a_check(tmp_path: Path, settings: str) -> None:
    what, fix = WRONG[settings]
    path = tmp_path / "recipe.yaml"
    path.write_text(f"""\
finery: 1
name: select
models: {{a: {MODEL}, b: {MODEL}}}
data: {{rows: {{use: data.file, path: rows.jsonl}}}}
evaluate:
  test: {{use: eval.exact, models: [a, b], rows: rows}}
  fast: {{use: eval.speed, models: [a, b], rows: rows}}
  choice:
    use: eval.select
    candidates: [test, fast]
    {settings.replace(", best", chr(10) + "    best").replace(", pareto", chr(10) + "    pareto")}
""")
    with pytest.raises(UsageError) as caught:
        open_graph(path)
    assert what in caught.value.what
    assert fix in (caught.value.fix or "")
    line = 12 if "pareto" in settings else 11
    assert (caught.value.where or "").startswith(f"{path}:{line}:"), caught.value.where
