"""The test kit for plugin authors.

`run_step` runs a single step without recipe, store or processes. The contract classes are pytest
suites to inherit: an author says how to make a step, an engine or an executor, and gets the tests
that each of them must pass. Input: instances of the author's classes. Output: artifacts, events
and failed assertions.
"""

import sys

from finery.util.references import exports

__all__, __getattr__ = exports(__file__, globals())

if "pytest" in sys.modules:  # so that failed assertions of the contracts show their values
    import pytest

    contracts = ("engines", "executors", "steps")
    pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in contracts))
