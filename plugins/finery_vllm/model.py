"""`vllm.model`: a model that vLLM answers for, and a note where there is no vLLM."""

from collections.abc import Iterator
from typing import Any

from finery import Inputs, Job, Model, Note, Promise, Step, StepError, setting, takes
from finery.advanced import About
from finery_transformers.formats import require_format
from finery_vllm.bundle.adapters import check_adapter
from finery_vllm.folder import LOADING
from finery_vllm.installation import answers_with, installation
from finery_vllm.server import check_options

MISSING = "vllm-missing"
KINDS = {
    MISSING: About(
        when="a recipe has a `vllm.model`, and no vLLM was found on this machine",
        why="The first step that prompts the model fails, unless all its answers are cached.",
    )
}
FIXED = (
    "model", "host", "port", "dtype", "api-key", "enable-lora", "lora-modules", "max-lora-rank",
    "generation-config", "served-model-name", "max-model-len", "gpu-memory-utilization",
    "max-num-seqs",
)  # fmt: skip
"""Arguments that finery sets, or has a setting for."""


class VllmModel(Step, sections=("models",), seeded=False, installs=LOADING):
    """Answer for a model with vLLM instead of transformers: on a GPU, many times as fast.

    The model is a Hugging Face folder, an adapter or a GGUF, and the prompts equal the trained ones
    token for token. vLLM runs as a separate server, in an environment that `FINERY_VLLM`
    names or that has the `vllm` on PATH. Its version is part of the keys of answers. Evaluate both
    `sft` and this model to see whether they answer alike.
    """

    model: Model = takes(
        uses_name=True, help="The model that answers: a Hugging Face folder, an adapter, a GGUF."
    )
    merge: bool = setting(
        False,
        help="Merge an adapter into its base. By default, vLLM applies it to the base while it "
        "answers, as in a bundle with several adapters, which is slower.",
    )
    context: int | None = setting(
        None,
        ge=16,
        help="Maximum tokens of a prompt with its answer. Default: the model's context.",
    )
    gpu_memory: float = setting(0.9, gt=0, le=1, help="Share of the GPU's memory that vLLM takes.")
    concurrency: int = setting(64, ge=1, le=1024, help="Answers that are generated at once.")
    options: dict[str, str | int | float | bool] = setting(
        {},
        help="Further arguments of vLLM's server, without the dashes.",
        examples=[{"tensor-parallel-size": 2, "quantization": "fp8"}],
    )

    def check(self) -> None:
        """Raise `UsageError` for a model without weights, and for arguments that finery sets."""
        require_format(self.model, "vllm.model", "model")
        check_options(self.options, FIXED)

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format, which decides the engine."""
        return {"": Promise(Model, {"format": "vllm"})}

    def run(self, job: Job) -> Model:
        """Check that vLLM can serve the model. It isn't started yet."""
        job.log(answers_with())
        if self.model.format == "adapter" and not self.merge:
            check_adapter(self.model, self.model.name)
        meta: dict[str, Any] = {"format": "vllm", "merge": self.merge}
        if self.context is not None:
            meta["context"] = self.context
        if self.options:
            meta["options"] = self.options
        runtime = {"concurrency": self.concurrency, "gpu_memory": self.gpu_memory}
        return Model(job.out, meta=meta, refs={"model": self.model}, runtime=runtime)

    def advise(self, inputs: Inputs) -> Iterator[Note]:
        """A note on the first such step, if there is no vLLM here, and no step has its own."""
        nodes = inputs.graph.nodes.values()
        in_environments = {up for node in nodes if node.environment for up in node.upstream()}
        names = (node.name for node in nodes if isinstance(node.step, VllmModel))
        if inputs.name != next((name for name in names if name not in in_environments), None):
            return
        try:
            installation()
        except StepError as error:
            text = f"{inputs.name} needs vLLM: {error.what}"
            yield Note(name=MISSING, text=text, fix=error.fix or "")
