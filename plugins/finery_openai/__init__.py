"""Models behind an OpenAI-compatible API: OpenAI itself, vLLM, Ollama, llama.cpp.

The input is a model's name, a server and limits. The output is a model of the format `api`, and the
engine that sends requests and reads answers. Answers are cached by request; API keys, limits and
prices don't affect the cache.

Other plugins may import `faults`, `transport`, and `key_in` and `check_address` of `model`, to send
other requests to such servers.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step type `openai.model`."""
    return {"openai.model": "finery_openai.model:OpenaiModel"}


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engine for models of the format `api`."""
    return {"api": "finery_openai.engine:OpenaiEngine"}
