"""When a file's stat can be trusted."""

from hypothesis import given
from hypothesis import strategies as st

from finery.util.files import COARSE_NS, FINE_NS, settled

NOW = 1_700_000_000_123_456_789


@given(st.integers(0, FINE_NS))
def test_what_changed_just_now_may_change_again(age: int) -> None:
    assert not settled(NOW - age, 0, NOW)
    assert not settled(0, NOW - age, NOW)


def test_a_fraction_of_a_second_tells_a_fine_clock() -> None:
    assert settled(NOW - 2 * FINE_NS, 0, NOW)
    whole = NOW // 1_000_000_000 * 1_000_000_000
    assert not settled(whole, 0, whole + 2 * FINE_NS)
    assert settled(whole, 0, whole + COARSE_NS + 1)
