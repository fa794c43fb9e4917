"""The cost of the answers that steps use, stored by the key of the step.

A cost is the sum over all attempts, including failed ones. Answers from the cache count with their
original cost, so a step that reruns keeps its cost. If two steps use the same answers, both count
them.
"""

from collections.abc import Iterable

from finery.store.database import Store


def keep_spending(store: Store, key: str, dollars: float, worth: float) -> None:
    """Add what an attempt at a key spent. worth: the cost of all answers that it used."""
    total = max(worth, dollars + dollars_spent(store, [key]))
    store.keep_facts({_name(key): repr(total).encode()})


def dollars_spent(store: Store, keys: Iterable[str]) -> float:
    """The cost of some keys, each counted once."""
    kept = (store.fact(_name(key)) for key in set(keys))
    return sum(_number(content) for content in kept if content is not None)


def _number(content: bytes) -> float:
    try:
        return float(content)
    except ValueError:  # a damaged database
        return 0.0


def _name(key: str) -> str:
    return f"dollars of {key}"
