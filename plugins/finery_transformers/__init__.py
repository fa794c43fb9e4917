"""Hugging Face models and PEFT adapters: load them, and answer and score prompts with them.

Input: a `Model` artifact and conversations. Output: token ids, answers and likelihoods. Prompts are
token for token those of the training. All modules are public for other plugins:
`finery_transformers.loading`, `.answering`, `.capabilities`, `.card`, `.chat`, `.dates`, `.engine`,
`.formats`, `.frozen`, `.scoring` and `.wrapping`. `frozen.template:frozen_template` gives the chat
template for whatever serves a model. `.precision` says what dtype this machine computes in, without
torch.
"""

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from finery import hookimpl, outside_key

if TYPE_CHECKING:
    from finery import Job, Step


@hookimpl
def finery_engines() -> dict[str, str]:
    """Engines by model format."""
    return {
        "transformers": "finery_transformers.engine:TransformersEngine",
        "adapter": "finery_transformers.engine:TransformersEngine",
    }


@hookimpl
def finery_copies() -> dict[str, str]:
    """What completes the copies of adapters."""
    return {"adapter": "finery_transformers.card:complete_copy"}


@hookimpl
def finery_worker_environment() -> Mapping[str, str]:
    """The dtype of `dtype: auto`, which is part of keys and must be the same in all steps."""
    from finery_transformers.precision import AUTO_DTYPE, auto_dtype

    return {AUTO_DTYPE: auto_dtype()}


@outside_key
@hookimpl(wrapper=True)
def finery_run_step(step: "Step", job: "Job") -> Generator[None, Any, Any]:
    """Record what a step that uses GPUs ran on, and log why it doesn't use one."""
    if not step.resources().gpus:
        return (yield)
    from finery_transformers.hardware import add_facts, forget, log_unused_gpu

    forget()
    log_unused_gpu(job.log)
    outputs = yield
    add_facts(outputs)
    return outputs
