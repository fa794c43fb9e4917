"""Tasks, their requests, and what puts answers back into order."""

import tempfile
from itertools import product
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from finery_synth.asking import MOST_VARIANTS, Spool, Task
from finery_synth.generator import MOST_RETRIES, MOST_SERIES, SERIES_SEEDS


@given(st.lists(st.tuples(st.integers(0, 40), st.text(max_size=5))))
def test_a_spool_gives_back_what_it_was_given_in_order(added: list[tuple[int, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), str)
        for index, (number, value) in enumerate(added):
            spool.add(number, value)
            assert spool.of(number)[-1] == value
            assert spool.count(number) == sum(n == number for n, _ in added[: index + 1])
        assert list(spool) == sorted(added, key=lambda pair: pair[0])  # stable: as they came
        assert spool.of(99) == []
        assert spool.count(99) == 0
        assert not list(Path(folder).iterdir())  # its file has no name
        spool.close()


def test_no_two_attempts_have_a_seed_in_common() -> None:
    variants, retries = (0, 1, MOST_VARIANTS - 1), (0, 1, MOST_RETRIES)
    numbers = [
        Task(messages=[], seeds=[], variant=variant).request(attempt).attempt
        for variant, attempt in product(variants, retries)
    ]
    assert len(set(numbers)) == 9
    assert max(numbers) < SERIES_SEEDS
    assert MOST_SERIES * SERIES_SEEDS + max(numbers) < 2**31
