"""`llama.bundle`: a folder that runs a GGUF in llama.cpp's server, for someone without finery.

Input: a GGUF. Output: a folder with the file, the exact command, a compose file, an entry for
llama-swap, a client and a README. It is the plugin `llama`, since step types are named after one.
"""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step type of this plugin."""
    return {"llama.bundle": "finery_serve.bundle.step:LlamaBundle"}
