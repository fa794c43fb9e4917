"""Digests of statistics: equal only if the functions compute the same from the same code."""

import importlib.util
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finery_eval import stats
from finery_eval.definitions import definition_of
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
    def of(self, value): return self.factor * value * 3

def rounded(value):
    return round(value, 3)

def weighted(counts, beta=1.0):
    '''A weighted share.'''
    from helpers import late
    right = sum(n for value, n in counts.items() if value > LIMITS["low"][0])
    return late(rounded(math.sqrt(Scale().of(beta * right)) + helpers.ADDED))
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
        for name, source in (("helpers", HELPERS), ("metric_source", SOURCE)):
            path = tmp_path / f"{next(numbers)}" / f"{name}.py"
            path.parent.mkdir()
            path.write_text(source.replace(old, new) if old else source, encoding="utf-8")
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
        return module.weighted

    return load


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[0.5, 1.0]", "[0.6, 1.0]"), ("factor = 2.0", "factor = 3.0"), ("value * 3", "value * 4"),
        ("return self.factor *", "return self.factor +"), ("round(value, 3)", "round(value, 2)"),
        ("beta=1.0", "beta=2.0"), ("math.sqrt", "math.exp"), ("0.25", "0.5"),
        ("value / 4", "value / 5"), ("if value >", "if value <"),
    ],
)  # fmt: skip
def test_a_digest_covers_all_that_a_statistic_reads(
    weighted: Callable[..., Any], old: str, new: str
) -> None:
    first = definition_of(weighted())
    assert first is not None
    assert definition_of(weighted(old, new)) not in (first, None)


def test_comments_docstrings_and_other_code_do_not_count(weighted: Callable[..., Any]) -> None:
    first = definition_of(weighted())
    assert definition_of(weighted("A weighted share.", "A share.")) == first
    assert definition_of(weighted("right = ", "# of all\n    right = ")) == first
    assert definition_of(weighted("class Scale", "OTHER = 1\nclass Scale")) == first


def test_what_cannot_be_followed_has_no_digest(weighted: Callable[..., Any]) -> None:
    marker = object()
    assert definition_of(lambda counts: counts is marker) is None
    function = weighted("LIMITS = ", "SHARED = None\nLIMITS = ")
    variables = function.__globals__
    variables["SHARED"] = variables["Scale"]()
    assert definition_of(function) is not None  # it doesn't read that
    assert definition_of(variables["SHARED"].of) is None


@pytest.mark.parametrize(
    "statistic", [mean, stats.mean_macro_f1, field_score, elements_f1, *STATISTICS.values()]
)
def test_every_statistic_of_finery_has_a_digest(statistic: Any) -> None:
    assert definition_of(statistic) is not None
