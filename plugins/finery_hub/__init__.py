"""Models and data sets from the Hugging Face hub.

In go the name of a repository and a branch, tag or commit, out come models that stay in the hub's
own cache, and rows. Names that may move are pinned to a commit in `recipe.lock`.
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
