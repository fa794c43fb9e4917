"""Models behind an OpenAI-compatible API: OpenAI itself, vLLM, Ollama, llama.cpp.

The input is a model's name, a server and limits. The output is a model of the format `api`, and the
engine that sends requests and reads answers. Answers are cached by request; API keys, limits and
prices don't affect the cache.

Other plugins may import `faults`, `key` and `transport`, to send other requests to such servers.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step type `openai.model`."""
    return {"openai.model": "finery_openai.model:OpenaiModel"}


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engine for models of the format `api`."""
    return {"api": "finery_openai.engine:OpenaiEngine"}


@hookimpl
def finery_checks(graph: Any, results: Any) -> Sequence[Any]:
    """Notes on API keys that aren't set."""
    if "finery_openai.model" not in sys.modules:  # the recipe has no such step
        return []
    from finery_openai.model import unset_keys

    return unset_keys(graph)
