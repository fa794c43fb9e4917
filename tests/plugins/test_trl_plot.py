"""Curves drawn as text."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from showing import printed

from finery.views import Axis, Facts, Plot, Series
from finery.views.canvas import plot_as_text

Points = Sequence[tuple[float, float]]

VALUES = st.dictionaries(st.integers(1, 5000), st.floats(-1e6, 1e6), max_size=30)


def drawn(loss: Points, eval_loss: Points = (), *, best: int | None = None) -> list[str]:
    series = [Series("training loss", loss), Series("validation loss", eval_loss, "both")]
    at = None if best is None else (float(best), f"kept, step {best}")
    return [text.plain for text in plot_as_text(Plot(series, at=at), 60, 15)]


def test_a_falling_line_goes_from_upper_left_to_lower_right() -> None:
    text = drawn([(1, 2.0), (50, 1.0)])
    assert text[0].lstrip().startswith("2┤ ⠉")
    assert text[-4].rstrip()[-1] in "⣀⢀⡀⠤"
    assert "⠒ training loss" in text[-1]


def test_validations_and_the_kept_step_are_marked() -> None:
    text = drawn([(1, 2.0), (30, 1.0)], [(10, 1.9), (20, 1.5), (30, 1.6)], best=20)
    whole = "\n".join(text[:-1])
    assert (whole.count("●"), whole.count("★")) == (2, 1)
    assert "★ kept, step 20" in text[-1]


def test_lines_at_both_axes_differ_without_colour() -> None:
    rate = Series("learning rate", [(1, 0.1), (50, 0.0)], y=Axis("rate"))
    loss = Series("loss", [(1, 2.0), (50, 1.0)])
    *_, last = plot_as_text(Plot([loss, rate]), 100, 15)
    assert "⠒ loss" in last.plain
    assert "⠂ learning rate (right axis)" in last.plain


def test_a_path_that_is_too_long_for_its_column_stays_whole() -> None:
    path = "/home/somebody/" + "a-folder/" * 12
    assert path in printed([Facts({"place": path})], width=80)


@given(VALUES, VALUES, st.integers(40, 120), st.integers(8, 30))
def test_any_series_fits_in_its_field(
    one: dict[int, float], other: dict[int, float], width: int, height: int
) -> None:
    series = [
        Series("a", sorted(one.items())),
        Series("b", sorted(other.items()), "both", y=Axis("b")),
    ]
    at = (next(iter(one)), "kept") if one else None
    text = [t.plain for t in plot_as_text(Plot(series, at=at), width, height)]
    assert len(text) in (0, height)
    assert all(len(line) <= width for line in text[:-1])
