"""The chat template that llama.cpp's server needs to write the prompts of a training."""

from finery import Model
from finery_gguf.llama import Gguf
from finery_gguf.prompts import model_template
from finery_transformers.frozen.template import FROZEN_MARK
from finery_transformers.loading import template_arguments
from finery_transformers.wrapping import ARGUMENTS_MARK, with_fixed_arguments


def served_template(gguf: Gguf, model: Model) -> str | None:
    """The chat template that a server needs, if the file's own gives other prompts.

    An export has all of it in the file. For any other GGUF, the step's `chat_template`,
    `chat_template_kwargs` and `tools_as` are written into a copy.
    """
    source = model_template(gguf, model).source
    is_fixed = source.startswith((FROZEN_MARK, ARGUMENTS_MARK))
    fixed = source if is_fixed else with_fixed_arguments(source, template_arguments(model))
    return None if fixed == gguf.chat_template else fixed
