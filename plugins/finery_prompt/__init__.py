"""Models with fixed messages before every prompt: a system prompt, examples.

The input is a model and rows. The output is a model of the format `prompted`, and the engine that
puts the messages before each prompt. It is the baseline for every training.

Other plugins may import `engine`, which joins fixed messages and a conversation, and has the base
class of engines that complete conversations for another engine.
"""

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
    """The view of prompted models."""
    return {"Model/prompted": "finery_prompt.model:PromptedView"}
