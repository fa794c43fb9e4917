"""The order of rows: random, grouped by length or beginning, a function of seed and epoch."""

from pathlib import Path

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from finery import Model
from finery.testing import TestJob
from finery_trl.rows.order import GroupedOrder, missing_rows
from finery_trl.settings import Launch
from finery_trl.steps.sft import Sft
from finery_trl.train.schedule import Schedule

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=300)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**31 - 1), st.integers(0, 5))
def test_every_epoch_has_each_row_once(
    lengths: list[int], size: int, seed: int, epoch: int
) -> None:
    order = GroupedOrder(lengths, size, seed)
    order.set_epoch(epoch)
    assert sorted(order) == list(range(len(order)))


@given(LENGTHS, st.integers(1, 9))
def test_the_first_batch_of_all_is_the_longest(lengths: list[int], size: int) -> None:
    order = list(GroupedOrder(lengths, size, seed=0))
    if len(lengths) % size == 0:  # else the longest row may be in the short batch, the last
        assert max(lengths) in [lengths[i] for i in order[:size]]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    order = GroupedOrder(list(range(64)), 4, seed=1)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
    order.set_epoch(0)
    assert list(order) == first
    assert list(GroupedOrder(list(range(64)), 4, seed=2)) != first


def test_batches_hold_rows_of_about_the_same_length() -> None:
    lengths = [i % 100 for i in range(1000)]
    order = list(GroupedOrder(lengths, 8, seed=0))
    batches = [[lengths[i] for i in order[at : at + 8]] for at in range(0, 1000, 8)]
    padding = sum(max(b) * len(b) - sum(b) for b in batches)
    assert padding < 0.1 * sum(lengths)


PROMPTS = st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=100)


@given(PROMPTS, st.integers(1, 9))
def test_every_epoch_has_each_row_once_whatever_rows_begin_with(
    prompts: list[list[int]], size: int
) -> None:
    order = GroupedOrder([len(p) + 1 for p in prompts], size, 0, prompts)
    assert sorted(order) == list(range(len(prompts)))


def test_rows_with_one_long_beginning_share_batches() -> None:
    prompts = [[i % 4] * 100 + [9, i] for i in range(256)]
    order = list(GroupedOrder([len(p) for p in prompts], 4, 0, prompts))
    kinds = [{i % 4 for i in order[at : at + 4]} for at in range(0, 256, 4)]
    assert sum(map(len, kinds)) < 1.5 * len(kinds)


def test_rows_that_begin_alike_for_a_few_tokens_only_stay_grouped_by_length() -> None:
    lengths = [60 + i % 50 for i in range(256)]
    prompts = [[i % 4, i % 3] + [1000 + i] * (n - 2) for i, n in enumerate(lengths)]
    assert list(GroupedOrder(lengths, 4, 3, prompts)) == list(GroupedOrder(lengths, 4, 3))


def test_the_order_is_the_same_on_every_machine() -> None:
    assert list(GroupedOrder([5, 1, 4, 2, 3, 9], 2, seed=7)) == EXPECTED


EXPECTED = [5, 0, 2, 4, 3, 1]


def trained(lengths: list[int], effective: int, processes: int) -> list[list[int]]:
    """The rows of each optimizer step of an epoch, as accelerate gives them to all processes."""
    launch = Launch(processes=processes) if processes > 1 else None
    step = Sft(model=Model(Path()), rows=[], effective_batch_size=effective, launch=launch)
    schedule = Schedule.of(step, len(lengths), max(lengths), TestJob())
    fillers = missing_rows(len(lengths), schedule.size, processes)
    order = GroupedOrder(lengths, schedule.grouped, 1, fillers=fillers)
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
