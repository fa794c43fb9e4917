"""What answers cost that steps asked models for, kept by the key of the step.

A key adds up what all attempts spent on it, those that failed as well.
"""

from collections.abc import Iterable

from finery.store.database import Store


def keep_spending(store: Store, key: str, dollars: float) -> None:
    """Add to what was spent on a key."""
    total = dollars + dollars_spent(store, [key])
    store.keep_facts({_name(key): repr(total).encode()})


def dollars_spent(store: Store, keys: Iterable[str]) -> float:
    """What was spent on some keys, each counted once."""
    kept = (store.fact(_name(key)) for key in set(keys))
    return sum(_number(content) for content in kept if content is not None)


def _number(content: bytes) -> float:
    try:
        return float(content)
    except ValueError:  # a damaged database
        return 0.0


def _name(key: str) -> str:
    return f"dollars of {key}"
