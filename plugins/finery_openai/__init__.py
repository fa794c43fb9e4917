"""Models behind an OpenAI-compatible API: OpenAI itself, vLLM, Ollama, llama.cpp.

In go a model's name, a server and limits, out comes a model of the format `api`, and the engine
that sends it requests and reads its answers. Answers are cached by what was asked; keys, limits
and prices are no part of that.
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
    """Notes on keys that aren't set."""
    if "finery_openai.model" not in sys.modules:  # no step of the recipe is one
        return []
    from finery_openai.notes import unset_keys

    return unset_keys(graph)
