"""Models behind an OpenAI-compatible API: OpenAI itself, vLLM, Ollama, llama.cpp."""

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
