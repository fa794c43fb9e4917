"""The order of rows: random optimizer steps, a function of seed and epoch."""

from pathlib import Path

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from finery import Model
from finery.testing import TestJob
from finery_trl.settings import Launch
from finery_trl.steps import Sft
from finery_trl.train.schedule import RandomOrder, Schedule, missing_rows

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=300)
SEEDS = st.integers(0, 2**31 - 1)


@given(LENGTHS, st.integers(1, 40), SEEDS, st.integers(0, 5))
def test_every_epoch_has_each_row_once(
    lengths: list[int], step: int, seed: int, epoch: int
) -> None:
    order = RandomOrder(lengths, step, seed)
    order.set_epoch(epoch)
    assert sorted(order) == list(range(len(order)))


@given(LENGTHS, st.integers(1, 40))
def test_the_first_step_of_all_has_the_longest_row(lengths: list[int], step: int) -> None:
    order = list(RandomOrder(lengths, step, seed=0))
    if len(lengths) % step == 0:  # else the longest row may be in the short step, the last
        assert lengths[order[0]] == max(lengths)


@given(LENGTHS, LENGTHS, st.integers(1, 40), SEEDS)
def test_lengths_decide_no_step_after_the_first_epoch(
    some: list[int], others: list[int], step: int, seed: int
) -> None:
    """A step learns from the same rows, whatever the rows' lengths are."""
    count = min(len(some), len(others))
    orders = [RandomOrder(lengths[:count], step, seed) for lengths in (some, others)]
    for order in orders:
        order.set_epoch(1)
    first, second = (list(order) for order in orders)
    for at in range(0, count, step):
        assert set(first[at : at + step]) == set(second[at : at + step])


def test_a_step_has_as_many_kinds_of_rows_as_random_draws() -> None:
    """Ten classes, each with a length of its own: 16 random rows have 8.1 of them on average."""
    lengths = [20 + i % 10 for i in range(1600)]
    order = list(RandomOrder(lengths, 16, seed=1))
    kinds = [len({lengths[i] for i in order[at : at + 16]}) for at in range(0, 1600, 16)]
    assert 7.7 < sum(kinds) / len(kinds) < 8.6


def test_rows_of_a_step_are_in_the_order_of_their_lengths_unless_they_are_paired() -> None:
    lengths = [i * 37 % 101 for i in range(96)]
    for by_length in (True, False):
        order = list(RandomOrder(lengths, 8, seed=0, by_length=by_length))
        steps = [[lengths[i] for i in order[at : at + 8]] for at in range(0, 96, 8)]
        assert all(s == sorted(s, reverse=True) for s in steps) is by_length


def test_epochs_and_seeds_differ_and_repeat() -> None:
    order = RandomOrder(list(range(64)), 4, seed=1)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
    order.set_epoch(0)
    assert list(order) == first
    assert list(RandomOrder(list(range(64)), 4, seed=2)) != first


def test_the_order_is_the_same_on_every_machine() -> None:
    assert list(RandomOrder([5, 1, 4, 2, 3, 9], 2, seed=7)) == EXPECTED


EXPECTED = [5, 4, 0, 3, 2, 1]


def trained(lengths: list[int], effective: int, processes: int) -> list[list[int]]:
    """The rows of each optimizer step of an epoch, as accelerate gives them to all processes."""
    launch = Launch(processes=processes) if processes > 1 else None
    step = Sft(model=Model(Path()), rows=[], effective_batch_size=effective, launch=launch)
    schedule = Schedule.of(step, len(lengths), max(lengths), TestJob())
    fillers = missing_rows(len(lengths), schedule.size, processes)
    order = RandomOrder(lengths, effective, 1, fillers=fillers)
    batches = BatchSampler(order, schedule.size, drop_last=False)
    shards = [list(batches)]
    if processes > 1:
        shards = [list(BatchSamplerShard(batches, processes, i)) for i in range(processes)]
    steps = []
    for at in range(0, len(shards[0]), schedule.accumulated):
        rows = [i for s in shards for b in s[at : at + schedule.accumulated] for i in b]
        steps.append(sorted(i for i in rows if i < len(lengths)))
    return steps


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=200), st.integers(1, 9), st.integers(2, 4)
)
def test_each_optimizer_step_has_the_same_rows_in_several_processes(
    lengths: list[int], share: int, processes: int
) -> None:
    alone = trained(lengths, share * processes, 1)
    assert trained(lengths, share * processes, processes) == alone


@pytest.mark.parametrize(("rows", "expected"), [(32, 0), (33, 15), (47, 1)])
def test_rows_are_missing_where_batches_would_be_unequal(rows: int, expected: int) -> None:
    assert missing_rows(rows, 8, 2) == expected
    assert missing_rows(rows, 8, 1) == 0
