"""Models behind fixed messages: a system prompt, examples."""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step type `prompt.model`."""
    return {"prompt.model": "finery_prompt.model:PromptModel"}


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engine for models of the format `prompted`."""
    return {"prompted": "finery_prompt.engine:PromptedEngine"}


@hookimpl
def finery_views() -> dict[str, str]:
    """What prompted models look like."""
    return {"Model/prompted": "finery_prompt.view:PromptedView"}
