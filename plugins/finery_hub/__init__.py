"""Models and data sets from the Hugging Face hub, and models pushed to it.

Input: the name of a repository and a branch, tag or commit. Output: rows, and models that stay in
the hub's own cache. Branches and tags are pinned to a commit in `recipe.lock`. In the other
direction, models with their card go to a repository (`push/`).
"""

from collections.abc import Mapping

from finery import hookimpl
from finery.advanced import About


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {
        "hub.dataset": "finery_hub.dataset:HubDataset",
        "hub.model": "finery_hub.model:HubModel",
        "hub.push": "finery_hub.push.step:HubPush",
    }


@hookimpl
def finery_commands() -> Mapping[str, str]:
    """The command `finery card`."""
    return {"card": "finery_hub.card.command:command"}


@hookimpl
def finery_views() -> Mapping[str, str]:
    """The view of a push."""
    return {"Bundle/hub": "finery_hub.push.step:HubView"}


@hookimpl
def finery_notes() -> Mapping[str, About]:
    """The notes on pushes."""
    from finery_hub.push.step import ABOUT

    return ABOUT
