"""`vllm.model`: a model that vLLM answers for."""

from typing import Any

from finery import Job, Model, Step, load_reference, setting, takes
from finery_vllm.bundle.adapters import check_adapter
from finery_vllm.folder import ADAPTER, check_format
from finery_vllm.server.command import check_options, read_json

FIXED = (
    "model", "host", "port", "dtype", "api-key", "enable-lora", "lora-modules", "max-lora-rank",
    "generation-config", "served-model-name", "max-model-len", "gpu-memory-utilization",
    "max-num-seqs",
)  # fmt: skip
"""Arguments that finery sets, or has a setting for."""
SAID = "finery_vllm.server.installation:said"


class VllmModel(
    Step,
    sections=("models",),
    seeded=False,
    preflight="finery_vllm.preflight:ModelPreflight",
):
    """Answer for a model with vLLM instead of transformers: on a GPU, many times faster.

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
        """Raise `UsageError` for arguments that finery sets."""
        check_options(self.options, FIXED)

    def static_meta(self) -> dict[str, Any]:
        """The format, which decides the engine."""
        return {"format": "vllm"}

    def run(self, job: Job) -> Model:
        """Check that vLLM can serve the model. It isn't started yet."""
        check_format(self.model)
        job.log(load_reference(SAID)())
        if self.model.format == "adapter" and not self.merge:
            check_adapter(self.model, read_json(self.model.file(ADAPTER[0])), self.model.name)
        meta: dict[str, Any] = {"format": "vllm", "merge": self.merge}
        if self.context is not None:
            meta["context"] = self.context
        if self.options:
            meta["options"] = self.options
        runtime = {"concurrency": self.concurrency, "gpu_memory": self.gpu_memory}
        return Model(job.out, meta=meta, refs={"model": self.model}, runtime=runtime)
