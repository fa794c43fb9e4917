"""Digests of functions: equal only if all the code that they reach is."""

import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finery.advanced import code_digest
from finery_eval import stats
from finery_eval.measure import mean
from finery_eval.steps.speed import STATISTICS
from finery_eval.steps.structured import elements_f1, field_score

SOURCE = """
import math
from collections import Counter
import helpers

LIMITS = {"low": [0.5, 1.0]}

class Scale:
    factor = 2.0
    def __init__(self, by): self.by = by
    def of(self, value): return self.factor * value * self.by

SCALE = Scale(3)

def rounded(value):
    return round(value, 3)

def weighted(counts, beta=1.0):
    '''A weighted share.'''
    from helpers import late
    right = sum(n for value, n in counts.items() if value > LIMITS["low"][0])
    return late(rounded(math.sqrt(SCALE.of(beta * right)) + helpers.ADDED))

def other(counts):
    return 1.0
"""
HELPERS = """
ADDED = 0.25

def late(value): return value / 4
"""
numbers = itertools.count()


@pytest.fixture
def weighted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Loads the function as if in a process of its own, after a change of a file."""

    def load(old: str = "", new: str = "") -> Any:
        folder = tmp_path / f"{next(numbers)}"
        folder.mkdir()
        for name, source in (("helpers", HELPERS), ("metric_source", SOURCE)):
            changed = source.replace(old, new) if old else source
            (folder / f"{name}.py").write_text(changed, encoding="utf-8")
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(folder)
        return importlib.import_module("metric_source").weighted

    return load


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[0.5, 1.0]", "[0.6, 1.0]"), ("factor = 2.0", "factor = 3.0"), ("Scale(3)", "Scale(4)"),
        ("return self.factor *", "return self.factor +"), ("round(value, 3)", "round(value, 2)"),
        ("beta=1.0", "beta=2.0"), ("math.sqrt", "math.exp"), ("0.25", "0.5"),
        ("value / 4", "value / 5"), ("if value >", "if value <"),
    ],
)  # fmt: skip
def test_a_digest_covers_all_that_a_function_reaches(
    weighted: Callable[..., Any], old: str, new: str
) -> None:
    first = code_digest(weighted())
    assert first is not None
    assert code_digest(weighted(old, new)) not in (first, None)


def test_comments_and_layout_do_not_count(weighted: Callable[..., Any]) -> None:
    first = code_digest(weighted())
    for old, new in (("right = ", "# of all\n    right = "), ("round(value, 3)", "round(value,3)")):
        assert code_digest(weighted(old, new)) == first


def test_code_that_is_not_in_a_file_has_no_digest() -> None:
    assert code_digest(max) is None


def test_each_statistic_of_finery_has_a_digest_of_its_own() -> None:
    functions = {mean, stats.mean_macro_f1, field_score, elements_f1, *STATISTICS.values()}
    digests = {code_digest(function) for function in functions}
    assert None not in digests
    assert len(digests) == len(functions)
