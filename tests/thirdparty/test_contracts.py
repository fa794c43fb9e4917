"""Plugins of third parties keep their contracts under this finery, whose API they are written for.

Their sources don't change when finery does. A change of finery that breaks them breaks the API.
"""

import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from installing import THIRD_PARTY, install

from finery import API

DISTRIBUTIONS = sorted(folder.name for folder in THIRD_PARTY.glob("finery-*"))


@pytest.fixture(scope="module", params=DISTRIBUTIONS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a distribution installed in it."""
    return install(THIRD_PARTY / request.param, tmp_path_factory.mktemp(request.param))


def test_it_states_an_api_that_finery_supports(site: Path) -> None:
    points = [
        p for d in distributions(path=[str(site)]) for p in d.entry_points.select(group="finery")
    ]
    assert points, "it has no entry point of a plugin"
    for point in points:
        apis = re.findall(r"api-\w+", point.value)
        assert f"api-{API}" in apis, f"{point.value} isn't for API {API}"


def test_its_own_tests_pass(site: Path) -> None:
    """They inherit `StepContract` and `EngineContract`."""
    # Without an empty entry, which stands for whatever folder a build runs in.
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    (copied,) = site.parent.glob("finery-*")
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    env = {**os.environ, "PYTHONPATH": path}
    ran = subprocess.run(tests, cwd=copied, env=env, capture_output=True, text=True)
    assert (ran.returncode, " passed" in ran.stdout) == (0, True), ran.stdout
