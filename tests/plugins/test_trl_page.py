"""The page of a training: it stays small, and loses no peak, however long the training is."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery import Model
from finery.advanced import Manifest
from finery.views import Detail, Finding, Output, Part, Records, Section, render_sections
from finery.views.scales import panels_of
from finery.views.svg import thinned
from finery_trl.view.curves import verdict
from finery_trl.view.model import CurveView
from finery_trl.view.plot import curve_plot, curve_tiles, sample_record

SMALL = 500_000
"""Bytes that a page may have."""


def page(points: list[dict[str, Any]], kept: int | None = None) -> str:
    parts: list[Part] = [curve_tiles(points, verdict(points, kept)), curve_plot(points, kept)]
    return render_sections("t / sft", [Section("Curves", parts)])


def training(steps: int, metrics: int) -> list[dict[str, Any]]:
    """A curve with a value of everything at each step, and a peak of the loss in its middle."""
    return [
        {
            "step": i, "epoch": i / steps, "loss": 90.0 if i == steps // 2 else 2 + 1 / i % 0.37,
            "eval_loss": 1 + i % 7 / 8, "learning_rate": 1e-4 / i,
            "watch": {f"metric_number_{n}": i % 11 / (n + 11) for n in range(metrics)},
        }
        for i in range(1, steps + 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "metrics"),
    [
        pytest.param(60_000, 1, marks=pytest.mark.slow),
        (3_000, 12),
    ],
)
def test_the_page_of_a_long_training_is_small(steps: int, metrics: int) -> None:
    html = page(training(steps, metrics), kept=steps // 2)
    assert len(html.encode()) < SMALL
    assert f"step {steps:,}\n" in html


@given(st.lists(st.floats(-1e9, 1e9), max_size=300), st.integers(4, 60))
def test_what_is_left_of_a_line_keeps_its_ends_and_extremes(values: list[float], most: int) -> None:
    series = [(step, value) for step, value in enumerate(values, 1)]
    kept = thinned(series, most)
    assert len(kept) <= most
    assert set(kept) <= set(series)
    assert all(before < after for (before, _), (after, _) in pairwise(kept))
    if values:
        assert (kept[0], kept[-1]) == (series[0], series[-1])
        numbers = [value for _, value in kept]
        assert (min(numbers), max(numbers)) == (min(values), max(values))


def tone(points: list[dict[str, Any]], folder: Path) -> str:
    """Of the answer on the page of a model with this curve."""
    (folder / "curve.json").write_text(json.dumps(points), encoding="utf-8")
    manifest = Manifest("Model", {}, {"curve.json": ("0" * 64, 1)}, "0" * 64, "0" * 64)
    context: Any = SimpleNamespace(scope="output", medium="page", detail=Detail(), graph=None)
    outputs = [Output("sft", Model(folder), manifest)]
    (section,) = [s for s in CurveView().describe(outputs, context) if s.title == "Curves"]
    return next(part.tone for part in section.parts if isinstance(part, Finding))


@pytest.mark.parametrize(("losses", "mark"), [((2.0,), "info"), ((2.0, 1.0), "good")])
def test_one_validation_shows_no_trend_and_gets_no_tick(
    losses: tuple[float], mark: str, tmp_path: Path
) -> None:
    points = [{"step": i, "loss": 3.0 / i, "eval_loss": loss} for i, loss in enumerate(losses, 1)]
    assert tone(points, tmp_path) == mark


def test_the_page_of_a_training_with_rewards_shows_answers_of_the_model() -> None:
    points = [{"step": i, "loss": 0.0, "reward": i / 9, "answer_length": 40} for i in range(1, 10)]
    rewards = {"accuracy": 1.0, "brevity": None}
    sample = {"step": 9, "prompt": "a <b>?", "answer": "It is.", "rewards": rewards}
    expected = "Mean reward went from 0.111 in the first step to 1 in the last."
    assert verdict(points, 9).sentence == expected
    titles = [panel.axis.label for panel in panels_of(curve_plot(points, 9))]
    assert titles == ["reward", "answer length", "loss"]
    html = render_sections("t", [Section("", [Records([sample_record(sample)], 1)])])
    texts = [line.partition("<b>")[2] for line in html.splitlines() if 'class="turn' in line]
    assert [text.replace('</b><div class="text">', ": ").removesuffix("</div></div>")
            for text in texts] == [
        "step 9: a &lt;b&gt;?", "answer: It is.", "rewards: accuracy 1, brevity –",
    ]  # fmt: skip


def test_a_file_shows_the_speed_that_its_export_measured(tmp_path: Path) -> None:
    manifest = Manifest("Model", {"format": "gguf"}, {}, "0" * 64, "0" * 64)
    manifest.runtime["tokens_per_second"] = 1234.5
    facts = CurveView().facts(Output("gguf", Model(tmp_path), manifest))
    assert facts["speed"] == "1,234 tokens/s where it was exported"
