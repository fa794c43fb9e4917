"""Text classifiers on encoders: a linear head, SetFit, or fine-tuning of all weights.

Input: rows with labels, and an encoder such as all-MiniLM-L6-v2. Output: a model of the format
`encoder`, whose engine answers like that of any other model and says how probable its answer is.
Public for other plugins: `network`, the model's files and how it answers, `engine`, and
`embedding`, the embeddings of texts.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {"encoder.classify": "finery_encoder.steps:Classify"}


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engine of the models that this plugin trains."""
    return {"encoder": "finery_encoder.engine:EncoderEngine"}
