"""Hugging Face models and PEFT adapters: load them, and answer and score prompts with them.

A `Model` artifact and conversations come in. Token ids, answers and likelihoods go out, the prompts
being token for token those that models are trained on. Public for other plugins are
`finery_transformers.loading`, `.chat`, `.engine` and `.scoring`: all of it.
"""

from finery import hookimpl


@hookimpl
def finery_engines() -> dict[str, str]:
    """Engines by model format."""
    return {
        "transformers": "finery_transformers.engine:TransformersEngine",
        "adapter": "finery_transformers.engine:TransformersEngine",
    }
