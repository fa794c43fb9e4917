"""Hugging Face models and PEFT adapters: load them, and answer and score prompts with them.

Input: a `Model` artifact and conversations. Output: token ids, answers and likelihoods. Prompts are
token for token those of the training. All modules are public for other plugins:
`finery_transformers.loading`, `.capabilities`, `.chat`, `.dates`, `.engine`, `.parsing`, `.scoring`
and `.wrapping`.
"""

from finery import hookimpl


@hookimpl
def finery_engines() -> dict[str, str]:
    """Engines by model format."""
    return {
        "transformers": "finery_transformers.engine:TransformersEngine",
        "adapter": "finery_transformers.engine:TransformersEngine",
    }
