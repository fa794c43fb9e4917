"""`vllm.quantize`: a model whose linear layers have 8 bits, for vLLM."""

import json
import os
import shutil

from finery import Job, Model, Promise, Step, StepError, takes
from finery.advanced import size
from finery_local.facts import ModelFiles
from finery_transformers.formats import require_format
from finery_transformers.frozen.template import PROMPTS
from finery_transformers.hardware import accelerator
from finery_transformers.loading import template_arguments
from finery_vllm.folder import whole

SCHEME = "FP8_DYNAMIC"
"""Weights in FP8 (E4M3) with a scale for each row; activations are rounded while it answers."""
KEPT = ("re:.*lm_head", "re:.*embed_tokens", r"re:.*mlp\.gate$", "re:.*router.*")
"""Layers that keep 16 bits: output layer, embedding, and what chooses experts."""
CARRIED = ("base", "repo", "license", "architecture", "parameters", PROMPTS)
"""Facts about the model that stay true."""
INSTALL = (
    "give the step an environment: `environments: {quantize: {packages: [llmcompressor, peft], "
    "for: [vllm.quantize]}}`"
)


class Quantize(
    Step,
    isolated=True,
    seeded=False,
    sections=("models", "export"),
    packages=("llmcompressor", "compressed-tensors", "torch", "transformers", "peft"),
    installs={name: name for name in ("llmcompressor", "peft")},
):
    """Round the linear layers of a model to FP8, for vLLM: half the memory, and faster on new GPUs.

    The scheme is FP8_DYNAMIC of LLM Compressor, which needs no data (Kurtic et al. 2024,
    https://arxiv.org/abs/2411.02355). An adapter is merged into its base in bf16 first. The output
    is a Hugging Face folder in the format compressed-tensors, for `vllm.model` and `vllm.bundle`.
    It is a different model, so evaluate it by a `vllm.model` next to the one that it was made of.
    """

    model: Model = takes(help="The model to round: a Hugging Face folder, an adapter, a GGUF.")

    def check(self) -> None:
        """Raise `UsageError` for a model without weights, if that is known."""
        require_format(self.model, "vllm.quantize", "model")

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format, which decides the engine."""
        return {"": Promise(Model, {"format": "transformers"})}

    def run(self, job: Job) -> Model:
        """Merge, round, and write the folder."""
        os.environ["LLM_COMPRESSOR_LOG_DISABLED"] = "true"
        try:
            from llmcompressor import model_free_ptq  # type: ignore[import-not-found]
        except ImportError as error:
            raise StepError(
                f"vllm.quantize needs LLM Compressor, which can't be imported: {error}", fix=INSTALL
            ) from error
        import torch

        shutil.rmtree(job.scratch / "model", ignore_errors=True)
        source = whole(self.model, job.scratch / "model", torch.bfloat16)
        job.progress(0, 1, "rounding to FP8")
        device = "cuda" if accelerator() == "cuda" else "cpu"
        try:
            model_free_ptq(source, job.out, scheme=SCHEME, ignore=KEPT, device=device)
        except ValueError as error:
            raise StepError(f"LLM Compressor can't round this model: {error}") from error
        config = json.loads((job.out / "config.json").read_bytes())
        if "quantization_config" not in config:
            raise StepError("LLM Compressor rounded no layer of this model")
        before, after = (
            sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            for folder in (source, job.out)
        )
        job.log(f"{SCHEME}: {size(after)} instead of {size(before)}")
        meta = {name: self.model.meta[name] for name in CARRIED if self.model.meta.get(name)}
        meta |= {"format": "transformers", "quantization": SCHEME}
        if arguments := template_arguments(self.model):
            meta["chat_template_kwargs"] = arguments
        # `whole` writes the tools of other formats into the template.
        if self.model.format == "transformers" and "tools_as" in self.model.meta:
            meta["tools_as"] = self.model.meta["tools_as"]
        if ModelFiles(self.model).root.meta.get("trust_remote_code") is True:
            meta["trust_remote_code"] = True
        return Model(job.out, meta=meta)
