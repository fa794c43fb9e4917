"""Models and data sets from the Hugging Face hub.

Input: the name of a repository and a branch, tag or commit. Output: rows, and models that stay in
the hub's own cache. Branches and tags are pinned to a commit in `recipe.lock`.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types `hub.dataset` and `hub.model`."""
    return {
        "hub.dataset": "finery_hub.dataset:HubDataset",
        "hub.model": "finery_hub.model:HubModel",
    }
