"""How a running training is shown: what fits, how long it will take, when plain output speaks."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from finery import PluginError, Step
from finery.cli.progress import (
    LinePart,
    LiveProgress,
    Pace,
    PlainProgress,
    _Line,
    _Row,
    fitting,
)
from finery.util.text import clip_at_word
from finery.views import LiveMetric
from finery.views.view import metrics_of
from finery_trl.view.live import METRICS


def pace(*seconds: float, total: float = 100) -> Pace:
    """The pace of steps that took so long."""
    made, now = Pace(), 0.0
    made.take(0, total, now)
    for done, each in enumerate(seconds, 1):
        now += each
        made.take(done, total, now)
    return made


def left(made: Pace, now: float) -> float:
    seconds = made.left(now)
    assert seconds is not None
    return seconds


def test_time_left_is_told_from_the_steps_and_counts_down() -> None:
    made = pace(*[2.0] * 10)
    assert left(made, 20) == pytest.approx(180)
    assert left(made, 21) == pytest.approx(179)
    assert pace(2.0, 2.0).left(4) is None
    assert pace(*[1.0] * 5, total=5).left(5) is None


@given(st.lists(st.floats(0.001, 1000), min_size=3, max_size=60), st.floats(0, 1e6))
def test_time_left_is_never_negative(seconds: list[float], later: float) -> None:
    assert left(pace(*seconds), sum(seconds) + later) >= 0


@given(st.lists(st.tuples(st.text("x", min_size=1, max_size=20), st.integers(0, 6))),
       st.integers(1, 120))  # fmt: skip
def test_pieces_fit_and_keep_their_order(said: list[tuple[str, int]], width: int) -> None:
    pieces = [LinePart(text, "", rank) for text, rank in said]
    kept = fitting(pieces, width)
    assert len(kept) <= 1 or len("  ".join(p.text for p in kept)) <= width
    assert kept == [p for p in pieces if any(p is k for k in kept)]


def training() -> list[dict[str, Any]]:
    """The events of a training of ten steps with a validation in it."""
    step = {"step": "sft"}
    metrics = {
        "learning_rate": 2e-4, "tokens_per_second": 1260.0, "loss": 0.4123, "eval_loss": 0.5,
        "watch.accuracy": 0.83,
    }  # fmt: skip
    return [
        {"event": "build_started", "steps": [{"step": "sft", "use": "trl.sft"}]},
        {"event": "step_started", "use": "trl.sft", "reason": "never built", **step},
        *({"event": "step_metric", "name": n, "value": v, "at": 5, **step}
          for n, v in metrics.items()),
        {"event": "step_progress", "done": 5, "total": 10, "text": "", **step},
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "shows", "lacks"), [
    (120, ["━", "5/10", "loss 0.412", "val 0.500", "accuracy 83.0 %", "1,260 tok/s", "lr 0.0002"],
     ["never built"]),
    (46, ["5/10", "loss 0.412", "val 0.500", "accuracy 83.0 %"], ["lr", "tok/s"]),
    (28, ["5/10", "loss 0.412"], ["accuracy", "lr", "tok/s", "━"]),
])  # fmt: skip
def test_a_line_shows_what_matters_most_in_its_width(
    width: int, shows: list[str], lacks: list[str]
) -> None:
    row = _Row("sft", "trl.sft", styles=METRICS)
    for event in training()[1:]:
        row.take(event)
    out = io.StringIO()
    Console(file=out, width=width).print(_Line(row))
    line = out.getvalue().rstrip()
    assert "\n" not in line
    assert len(line) <= width
    assert [word for word in shows if word not in line] == []
    assert [word for word in lacks if word in line] == []


def measured(styles: dict[str, LiveMetric], **values: list[float]) -> list[LinePart]:
    """What is shown of metrics that took these values, one after the other."""
    row = _Row("a", "their.train", styles=styles)
    for name, series in values.items():
        for value in series:
            row.take({"event": "step_metric", "step": "a", "name": name, "value": value, "at": 1})
    return list(row.measures())


def test_a_third_party_declares_what_its_metrics_mean() -> None:
    styles = {
        "perplexity": LiveMetric("ppl {value}", rank=1, lower_is_better=True),
        "of.*": LiveMetric(lasting=False),
        "train_perplexity": LiveMetric(hides="of.b"),
    }
    values = {"of.b": [1.0], "of.a": [2.0], "perplexity": [9.0, 8.0, 8.5]}
    shown = measured(styles, **values)
    assert [piece.text for piece in shown] == ["ppl 8.500↑", "a 2.000", "b 1.000"]
    assert shown[0].tone == "warning"
    shown = measured(styles, **values, train_perplexity=[3.0])
    assert [piece.text for piece in shown] == ["ppl 8.500↑", "a 2.000", "train perplexity 3.000"]


@pytest.mark.parametrize(("reference", "says"), [
    ("finery_trl.view.lively:METRICS", "ModuleNotFoundError"),
    ("finery_trl.view.live:LiveMetric", "isn't a mapping"),
])  # fmt: skip
def test_a_reference_to_no_metrics_is_an_error_that_names_the_step_type(
    reference: str, says: str
) -> None:
    class Broken(Step, metrics=reference):
        """Its metrics aren't there."""

    with pytest.raises(PluginError, match=says) as error:
        metrics_of(Broken)
    assert "Broken" in error.value.what


@pytest.mark.parametrize("width", [40, 80, 120, 160])
def test_the_live_table_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = io.StringIO()
    view = LiveProgress(out, lambda step: METRICS)
    for event in training():
        view(event)
    view.close()
    shown = [line for line in out.getvalue().splitlines() if "sft" in line]
    assert shown
    assert all(len(line) <= width - 2 for line in shown)  # with room for ^C
    assert ("trl.sft" in shown[-1]) == (width >= 100)


@pytest.mark.parametrize("view_of", [PlainProgress, LiveProgress])
def test_what_a_server_says_does_not_steer_the_terminal(view_of: Any) -> None:
    evil, step = "no\x1b]0;owned\x07\x9b2J", {"step": "a"}
    out = io.StringIO()
    view = view_of(out, lambda step: {})
    for event in [
        {"event": "build_started", "steps": [{"step": "a", "use": "synth.answer"}]},
        {"event": "step_started", "use": "synth.answer", "reason": "never built", **step},
        {"event": "step_log", "message": f"m: {evil}; asking again", **step},
        {"event": "step_progress", "done": 1, "total": 2, "text": f"asking\r\n{evil}", **step},
        {"event": "step_failed", "use": "synth.answer", "error": {"what": evil}, **step},
    ]:
        view(event)
    view.close()
    assert out.getvalue().count("no␛]0;owned␇\\x9b2J") == 2
    assert "\x1b]" not in out.getvalue()
    assert not set("\x07\x9b\r") & set(out.getvalue())


def test_plain_output_speaks_now_and_then_and_after_a_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    out = io.StringIO()
    view = PlainProgress(out, lambda step: METRICS)
    started, *events = training()[1:]
    for event in (training()[0], started):
        view(event)
    last = events[-1]
    for seconds in range(1, 3000, 3):
        now = 1000.0 + seconds
        view(last)
    spoken = out.getvalue().count("…")
    assert 15 <= spoken <= 40, "every 20 s at first, every 5 min later"
    view(events[3])
    now += 10
    view(last)
    assert out.getvalue().count("…") == spoken + 1
    assert "  5/10  val 0.500" in out.getvalue().splitlines()[-1]


@given(words=st.lists(st.text("abc", min_size=1, max_size=9)), width=st.integers(1, 60))
def test_a_clipped_text_fits_and_has_whole_words(words: list[str], width: int) -> None:
    text = " ".join(words)
    cut = clip_at_word(text, width)
    assert len(cut) <= width
    if cut != text:
        assert cut.endswith("…")
        assert text.startswith(cut.removesuffix("…").rstrip())
    if cut.endswith(" …"):
        assert cut.removesuffix(" …").split() == words[: len(cut.split()) - 1]
