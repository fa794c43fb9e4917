"""The order of rows: random, grouped by length, a function of seed and epoch."""

from hypothesis import given
from hypothesis import strategies as st

from finery_trl.rows.order import LengthGroupedOrder

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=300)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**31 - 1), st.integers(0, 5))
def test_every_epoch_has_each_row_once(
    lengths: list[int], size: int, seed: int, epoch: int
) -> None:
    order = LengthGroupedOrder(lengths, size, seed)
    order.set_epoch(epoch)
    assert sorted(order) == list(range(len(order)))


@given(LENGTHS, st.integers(1, 9))
def test_the_first_batch_of_all_is_the_longest(lengths: list[int], size: int) -> None:
    order = list(LengthGroupedOrder(lengths, size, seed=0))
    if len(lengths) % size == 0:  # else the longest row may be in the short batch, the last
        assert max(lengths) in [lengths[i] for i in order[:size]]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    order = LengthGroupedOrder(list(range(64)), 4, seed=1)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
    order.set_epoch(0)
    assert list(order) == first
    assert list(LengthGroupedOrder(list(range(64)), 4, seed=2)) != first


def test_batches_hold_rows_of_about_the_same_length() -> None:
    lengths = [i % 100 for i in range(1000)]
    order = list(LengthGroupedOrder(lengths, 8, seed=0))
    batches = [[lengths[i] for i in order[at : at + 8]] for at in range(0, 1000, 8)]
    padding = sum(max(b) * len(b) - sum(b) for b in batches)
    assert padding < 0.1 * sum(lengths)


def test_the_order_is_the_same_on_every_machine() -> None:
    assert list(LengthGroupedOrder([5, 1, 4, 2, 3, 9], 2, seed=7)) == EXPECTED


EXPECTED = [5, 0, 2, 4, 3, 1]
