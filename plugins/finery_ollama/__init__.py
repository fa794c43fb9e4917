"""Ollama: the files that run a GGUF there."""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {"ollama.modelfile": "finery_ollama.modelfile:Modelfile"}


@hookimpl
def finery_views() -> dict[str, str]:
    """The view of a folder for Ollama."""
    return {"Bundle/ollama": "finery_ollama.view:OllamaView"}
