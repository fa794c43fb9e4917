"""Answer prompts with Hugging Face models and PEFT adapters, by transformers."""

from finery import hookimpl


@hookimpl
def finery_engines() -> dict[str, str]:
    """Engines by model format."""
    return {
        "transformers": "finery_transformers.engine:TransformersEngine",
        "adapter": "finery_transformers.engine:TransformersEngine",
    }
