"""The plugin `release`: models that were released earlier.

Input: the tag of a release. Output: the released model, out of the store.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step type `release.model`."""
    return {"release.model": "finery_local.released:ReleasedModel"}
