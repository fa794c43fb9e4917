"""Curves drawn as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery.views import Line, plot, round_steps
from finery_trl.view.curves import Series

VALUES = st.dictionaries(st.integers(1, 5000), st.floats(-1e6, 1e6), max_size=30)


def drawn(loss: Series, eval_loss: Series = (), *, best: int | None = None) -> list[str]:  # type: ignore[assignment]
    lines = [
        Line("training loss", loss, "cyan"),
        Line("validation loss", list(eval_loss), "yellow", "●"),
    ]
    return [text.plain for text in plot(lines, 60, 15, best)]


def test_a_falling_line_goes_from_upper_left_to_lower_right() -> None:
    text = drawn([(1, 2.0), (50, 1.0)])
    assert text[0].lstrip().startswith("2┤⠉")
    assert text[-4].rstrip()[-1] in "⣀⢀⡀⠤"
    assert "⠒ training loss" in text[-1]


def test_validations_and_the_kept_step_are_marked() -> None:
    text = drawn([(1, 2.0), (30, 1.0)], [(10, 1.9), (20, 1.5), (30, 1.6)], best=20)
    whole = "\n".join(text[:-1])
    assert (whole.count("●"), whole.count("★")) == (2, 1)
    assert "★ kept, step 20" in text[-1]


def test_values_far_apart_get_a_logarithmic_axis() -> None:
    text = drawn([(1, 4.0), (10, 0.04)])
    assert "training loss (log)" in text[-1]
    assert "(log)" not in drawn([(1, 4.0), (10, 1.0)])[-1]


def test_a_metric_has_an_axis_of_its_own_at_the_right() -> None:
    lines = [
        Line("loss", [(1, 2.0), (9, 1.0)], ""),
        Line("accuracy", [(5, 0.5), (9, 0.9)], "", "▲", right=True),
    ]
    text = [t.plain for t in plot(lines, 60, 15)]
    assert text[0].endswith("├0.9")
    assert "accuracy (right axis)" in text[-1]


def test_nothing_to_draw_is_nothing() -> None:
    assert drawn([]) == []


@given(VALUES, VALUES, st.integers(40, 120), st.integers(8, 30))
def test_any_series_fits_in_its_field(
    one: dict[int, float], other: dict[int, float], width: int, height: int
) -> None:
    lines = [
        Line("a", sorted(one.items()), ""),
        Line("b", sorted(other.items()), "", "●", right=True),
    ]
    text = [t.plain for t in plot(lines, width, height, best=next(iter(one), None))]
    assert len(text) in (0, height)
    assert all(len(line) <= width for line in text[:-1])


@pytest.mark.parametrize(("span", "steps"), [
    ((1, 153), [1, 20, 40, 60, 80, 100, 120, 140]),
    ((1, 1), [1]),
    ((7, 9), [7, 8, 9]),
])  # fmt: skip
def test_steps_on_the_axis_are_round(span: tuple[int, int], steps: list[int]) -> None:
    assert round_steps(span, 8) == steps
