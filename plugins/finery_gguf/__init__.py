"""GGUF: answer prompts with llama.cpp, and export models to its format.

Input: a GGUF and conversations, or a model to export. Output: answers, or GGUF files, each verified
to turn conversations into the tokens that the model was trained on. Public for other plugins are
only `finery_gguf.chat`, `.llama`, `.prompts`, `.proof`, `.programs` and `.server`.
"""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {"gguf.export": "finery_gguf.export:Export"}


@hookimpl
def finery_engines() -> dict[str, str]:
    """The engine for models of the formats `gguf` and `gguf-adapter`."""
    return dict.fromkeys(("gguf", "gguf-adapter"), "finery_gguf.engine:GgufEngine")
