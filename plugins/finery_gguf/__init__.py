"""GGUF: answer prompts with llama.cpp, and export models to it."""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {"gguf.export": "finery_gguf.export:Export"}


@hookimpl
def finery_engines() -> dict[str, str]:
    """The engine for models of format `gguf`."""
    return {"gguf": "finery_gguf.engine:GgufEngine"}
