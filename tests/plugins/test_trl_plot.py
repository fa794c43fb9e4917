"""Curves drawn as text."""

from hypothesis import given
from hypothesis import strategies as st

from finery.views import Line, plot
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
