"""vLLM: answer prompts with it, round models for it, and export folders that it serves.

Input: Hugging Face folders and adapters. Output: models of the format `vllm`, their answers, and
bundles with several adapters on one base. vLLM runs as a server in an environment of its own, since
it needs other versions of transformers. Public for other plugins are `finery_vllm.server` and
`.installation`.
"""

from collections.abc import Mapping
from typing import Any

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {
        "vllm.bundle": "finery_vllm.bundle.step:VllmBundle",
        "vllm.model": "finery_vllm.model:VllmModel",
        "vllm.quantize": "finery_vllm.quantize:Quantize",
    }


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engine for models of the format `vllm`."""
    return {"vllm": "finery_vllm.engine:VllmEngine"}


@hookimpl
def finery_servers() -> Mapping[str, str]:
    """vLLM, for the folders of `vllm.bundle`."""
    return {"vllm": "finery_vllm.bundle.serving:serve_bundle"}


@hookimpl
def finery_views() -> Mapping[str, str]:
    """The view of a folder for vLLM."""
    return {"Bundle/vllm": "finery_vllm.bundle.step:VllmView"}


@hookimpl
def finery_notes() -> Mapping[str, Any]:
    """The kinds of notes of this plugin."""
    from finery_vllm.model import KINDS

    return KINDS
