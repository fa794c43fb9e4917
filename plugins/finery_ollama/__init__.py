"""Ollama: the files to run a GGUF with it, and a running server.

In goes a GGUF. Out comes a folder with its Modelfile, or a running Ollama with such a folder for
`finery serve` and `serve.check`. Public for other plugins is `finery_ollama.server`.
"""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {"ollama.modelfile": "finery_ollama.modelfile:Modelfile"}


@hookimpl
def finery_servers() -> dict[str, str]:
    """Ollama, for the folders of `ollama.modelfile`."""
    return {"ollama": "finery_ollama.server:serve_folder"}


@hookimpl
def finery_views() -> dict[str, str]:
    """The view of a folder for Ollama."""
    return {"Bundle/ollama": "finery_ollama.modelfile:OllamaView"}
