"""GGUF: answer prompts with llama.cpp, and export models to its format.

A GGUF and conversations come in, or a model to export. Answers go out, or GGUF files, each proven
to read conversations as the tokens that the model was trained on. Public for other plugins are
`finery_gguf.chat`, `.llama`, `.prompts` and `.difference`, and nothing else.
"""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {"gguf.export": "finery_gguf.export:Export"}


@hookimpl
def finery_engines() -> dict[str, str]:
    """The engine for models of format `gguf`."""
    return {"gguf": "finery_gguf.engine:GgufEngine"}
