"""Ollama: what it takes to run a GGUF there."""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {"ollama.modelfile": "finery_ollama.modelfile:Modelfile"}
