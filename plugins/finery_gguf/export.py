"""`gguf.export`: a model as GGUF files."""

import json
import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from finery import (
    Artifact,
    Dataset,
    Job,
    Key,
    Model,
    Promise,
    Step,
    StepError,
    UsageError,
    outside_key,
    setting,
    takes,
)
from finery.advanced import cpu_count, size
from finery_gguf.convert import NAME as CONVERTER
from finery_gguf.convert import add_vocabulary, complete, convert
from finery_gguf.llama import ADAPTER, PACKAGE, Gguf
from finery_gguf.pace import Pace
from finery_gguf.programs import QUANTIZE, build_facts, build_files, user_program
from finery_gguf.quantise import (
    TYPES_NEEDING_IMATRIX,
    TYPES_USING_IMATRIX,
    quantise,
    quantise_by_library,
    tokens_per_second,
)
from finery_local.facts import ModelFiles, split_file_name
from finery_local.template import digest_of
from finery_transformers.formats import require_format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finery_gguf.importance import Importance
    from finery_transformers.frozen.template import FrozenTemplate

OWN = (CONVERTER, QUANTIZE)

Quantization = Literal[
    "bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs",
    "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS",
    "q6_K", "q5_K_M", "q4_K_M",
]  # fmt: skip
"""The names of outputs, and the spellings of llama.cpp and of GGUF file names."""


class Export(
    Step,
    isolated=True,
    seeded=False,
    sections=("export",),
    packages=("torch", "transformers", "peft", "tokenizers", PACKAGE),
    rehearsal={"imatrix_tokens": 512},
    installs=dict.fromkeys(("torch", "transformers", "peft", "gguf", PACKAGE), "finery[gguf]"),
):
    """Export a model to GGUF, for llama.cpp and Ollama.

    An adapter is merged into its 16-bit base. The chat template in the files is frozen: a server
    uses the prompts of the training, regardless of the arguments that it passes and of the date.
    For each file, finery verifies that conversations become the tokens that the model was trained
    on. With `adapter: true`, only the adapter is written, to be applied to the GGUF of its base,
    and finery verifies that it changes logits there as in the training. A quantised model is a
    different model, so evaluate it separately.
    """

    model: Model = takes(help="The model to export: an adapter, a Hugging Face folder or a GGUF.")
    quantization: list[Quantization] = setting(
        ["q8_0"],
        min_length=1,
        help="Weight types, one file each. The step's name alone refers to the first.",
    )
    keep: list[Literal["tools", "thinking"]] = setting(
        [],
        help="What the chat template keeps although no training row used it. Without `tools`, it "
        "refuses tools, calls and their results. With `thinking`, a server may switch thinking on "
        "and off, unless `chat_template_kwargs` of the model do.",
    )
    rows: list[Dataset] = takes(
        [],
        role="compare",
        help="Rows whose prompts are also compared with the training's, e.g. `split.test`.",
    )
    imatrix: list[Dataset] = takes(
        [],
        role="calibrate",
        help="Training rows, e.g. `split.train`, whose prompts and answers show which weights "
        "matter most (an importance matrix). q5_k_m and q4_k_m are rounded with it, and iq4_xs "
        "needs one. Never name test rows.",
    )
    imatrix_tokens: int = setting(
        10_000,
        ge=512,
        help="How many tokens of these rows are evaluated. Rows are drawn at random until there "
        "are as many.",
    )

    adapter: bool = setting(
        False,
        help="Write only the LoRA adapter, in 16 bits, instead of merging it: a small file that "
        "llama.cpp and Ollama apply to its base, which several adapters can share.",
    )
    base: Model | None = takes(
        None,
        help="For `adapter`: the GGUF of the model that the adapter was trained on, e.g. another "
        "gguf.export. [default: that model, if it is a GGUF]",
    )

    def __post_init__(self) -> None:
        """Write every spelling of a type in the same way."""
        names = [cast(Quantization, name.lower()) for name in self.quantization]
        self.quantization = list(dict.fromkeys(names))

    def check(self) -> None:
        """Raise `UsageError` for a model without weights, and for a matrix without use or none."""
        require_format(self.model, "gguf.export", "model")
        if self.adapter or self.base is not None:
            self._check_adapter()
        needy = [name for name in self.quantization if name in TYPES_NEEDING_IMATRIX]
        if needy and not self.imatrix:
            raise UsageError(
                f"{needy[0]} needs an importance matrix, which is computed from training rows",
                where="quantization",
                fix="imatrix: split.train, or whichever rows the model was trained on",
            )
        if self.imatrix and not set(TYPES_USING_IMATRIX) & set(self.quantization):
            raise UsageError(
                "`imatrix` changes no file: an importance matrix isn't for "
                f"{', '.join(self.quantization)}",
                where="imatrix",
                fix=f"remove it, or add one of {', '.join(TYPES_USING_IMATRIX)} to `quantization`",
            )

    @outside_key
    def _check_adapter(self) -> None:
        if not self.adapter:
            raise UsageError(
                "`base` is for the export of an adapter", where="base",
                fix="add adapter: true, or remove base",
            )  # fmt: skip
        if (found := self.model.meta.get("format", "adapter")) != "adapter":
            raise UsageError(
                f"adapter: true expects an adapter, but '{self.model.ref or 'model'}' has the "
                f"format '{found}'",
                where="model",
                fix="name the step that trained an adapter, e.g. of trl.sft, or remove adapter: "
                "true",
            )
        if self.base is not None:
            require_format(self.base, "gguf.export", "base", ["gguf"])
        if self.quantization != ["q8_0"] or self.imatrix:
            where = "imatrix" if self.imatrix else "quantization"
            raise UsageError(
                "an adapter is written in 16 bits and isn't quantized", where=where,
                fix=f"remove {where}; the base has a quantization of its own",
            )  # fmt: skip

    def outputs(self) -> Mapping[str, Promise | type[Artifact]]:
        """The first quantisation as `""`, and each one under its name; or only an adapter."""
        if self.adapter:
            return {"": Promise(Model, {"format": ADAPTER})}
        return dict.fromkeys(["", *self.quantization], Model)

    def cache_key(self) -> Key:
        """Also the builds of the user's converter and llama-quantize, and where they might be."""
        return super().cache_key() | Key(facts=build_facts(*OWN), watched=build_files(*OWN))

    def run(self, job: Job) -> dict[str, Model]:
        """Merge, convert to bf16, quantise the result, and verify each file."""
        from finery_gguf.proof import prove

        frozen = _frozen(self, job)
        if self.adapter:
            return {"": _exported_adapter(self, frozen, job)}
        source = _converted(self.model, frozen, job)
        flags = _corrections(Gguf(source, vocab_only=True), frozen, job)
        importance = _importance(self, source, frozen, job) if self.imatrix else None
        if own := user_program(QUANTIZE):
            job.log(f"quantising with {own.path} ({own.build})")
        models: dict[str, Model] = {}
        for done, name in enumerate(self.quantization):
            job.progress(done, len(self.quantization), f"quantising to {name}")
            target = job.out / name / f"model-{name}.gguf"
            target.parent.mkdir()
            matrix = importance if name in TYPES_USING_IMATRIX else None
            warnings = quantise(source, target, name, flags=flags, importance=matrix)
            _log_fallbacks(name, warnings, job, weighed=matrix is not None)
            gguf = Gguf(target, vocab_only=True)
            compared = prove(gguf, frozen, () if models else chain(*self.rows))
            proof = f"{compared} conversations give the tokens that the model was trained on"
            job.log(f"{name}: {proof}")
            facts = _meta(self.model, gguf, name, frozen)
            if matrix is not None:
                facts["imatrix"] = matrix.facts()
            measured = _measured(target, name, job)
            models[name] = Model(target.parent, meta=facts, runtime=measured | {"proof": proof})
        return {"": models[self.quantization[0]], **models}


def _exported_adapter(step: Export, frozen: "FrozenTemplate", job: Job) -> Model:
    """The adapter as GGUF, with the chat template of the training beside it."""
    from finery_gguf.lora import base_gguf, write_adapter
    from finery_gguf.proof import prove

    base = base_gguf(step.model, step.base)
    origin = _origin(step.model)
    names = {
        "general.name": f"{origin['name']} adapter",
        "general.base_model.0.name": origin["name"],
        **({"general.base_model.0.repo_url": origin["repo_url"]} if "repo_url" in origin else {}),
        **({"general.license": license} if (license := ModelFiles(step.model).license) else {}),
    }
    gguf, alike = write_adapter(step.model, base, frozen, names, job, chain(*step.rows))
    compared = prove(gguf, frozen, chain(*step.rows), replacement=frozen.source)
    proof = f"{compared} conversations give the tokens that the model was trained on"
    job.log(proof)
    assert gguf.adapter is not None
    meta = _meta(step.model, gguf, "f16", frozen) | {
        "format": ADAPTER,
        "file": gguf.adapter.name,
        "size": gguf.adapter.stat().st_size,
        "same_effect": round(alike, 4),
    }
    measured = _measured(gguf.path, "with its base", job, gguf.adapter)
    return Model(job.out, meta=meta, refs={"base": base}, runtime=measured | {"proof": proof})


def _measured(file: Path, name: str, job: Job, adapter: Path | None = None) -> dict[str, Any]:
    """The speed of a file on this machine, as `runtime` has it."""
    speed = tokens_per_second(file, adapter)
    job.log(f"{name}: {size(file.stat().st_size)}, {speed:,.0f} tokens/s on this machine")
    return {"tokens_per_second": round(speed, 1)}


def _importance(step: Export, source: Path, frozen: "FrozenTemplate", job: Job) -> "Importance":
    """The importance matrix of the converted model on the step's rows."""
    from finery_gguf.importance import calibration, importance_of

    context = Gguf(source, vocab_only=True).n_context
    texts, given, cut = calibration(
        chain(*step.imatrix), frozen, tokens=step.imatrix_tokens, context=context
    )
    # Activations hardly differ, in half the memory and half the time.
    smaller = job.scratch / "q8_0.gguf"
    quantise_by_library(source, smaller, "q8_0")
    importance = importance_of(
        smaller, texts, pace=Pace(cpu_count()),
        progress=lambda done, total: job.progress(done, total, "computing the importance matrix"),
    )  # fmt: skip
    smaller.unlink()
    shortened = f"; {cut:,} of them are cut off" if cut else ""
    job.log(
        f"the importance matrix has seen {importance.tokens:,} tokens in {importance.rows:,} of "
        f"{given:,} rows{shortened}"
    )
    return importance


def base_name(model: Model) -> str:
    """The name of the base model under all adapters, from its repository or file."""
    meta = ModelFiles(model).root.meta
    if named := meta.get("repo") or meta.get("base") or meta.get("name"):
        return str(named).rpartition("/")[2]
    if file := meta.get("file"):
        return split_file_name(str(file))[0]
    return str(meta.get("architecture", "model"))


def _frozen(step: Export, job: Job) -> "FrozenTemplate":
    """The template of the files, verified."""
    try:
        from finery_transformers.frozen.template import frozen_template

        frozen = frozen_template(step.model, keep=step.keep)
    except ImportError as error:
        raise StepError(
            f"the export needs transformers: {error}", fix="pip install 'finery[gguf]'"
        ) from error
    for line in frozen.lines():
        job.log(line)
    return frozen


def _converted(model: Model, frozen: "FrozenTemplate", job: Job) -> Path:
    """The merged model as a bf16 GGUF, kept in scratch in case the step is stopped later."""
    target = job.scratch / "bf16.gguf"
    if target.is_file():
        job.log("using the converted model from an earlier attempt")
        return target
    folder = job.scratch / "merged"
    _merge(model, frozen.for_serving(), folder, job)
    convert(folder, target, names=_names(model), job=job)
    shutil.rmtree(folder)
    return target


def _merge(model: Model, tokenizer: "PreTrainedTokenizerBase", folder: Path, job: Job) -> None:
    """Write the merged model and its tokenizer as a Hugging Face folder."""
    from finery_transformers.loading import load_merged

    job.progress(0, 1, "merging")
    shutil.rmtree(folder, ignore_errors=True)
    merged, _ = load_merged(model)
    merged.save_pretrained(folder)
    complete(folder / "config.json", merged.config)
    tokenizer.save_pretrained(folder)
    add_vocabulary(folder, ModelFiles(model).root.path, tokenizer)
    if license := ModelFiles(model).license:
        # The converter takes the licence only from a model card.
        card = f"---\nlicense: {json.dumps(license)}\n---\n"
        (folder / "README.md").write_text(card, encoding="utf-8")


def _names(model: Model) -> dict[str, Any]:
    """The names in the GGUF's metadata: those of the base, never of a folder."""
    base = base_name(model)
    if model.format != "adapter":
        return {"general.name": base}
    return {"general.name": f"{base} fine-tuned", "general.base_models": [_origin(model)]}


def _origin(model: Model) -> dict[str, str]:
    """The base in the form of GGUF's metadata."""
    root = ModelFiles(model).root
    repo = root.meta.get("repo")
    origin = {"name": base_name(root)}
    return origin | ({"repo_url": f"https://huggingface.co/{repo}"} if repo else {})


def _corrections(gguf: Gguf, frozen: "FrozenTemplate", job: Job) -> dict[str, bool]:
    """Metadata to correct where llama.cpp would add tokens that the model wasn't trained with.

    A tokenizer may request a BOS before any text even though the chat template writes none.
    """
    flags = {}
    tokens = frozen.trained_tokens(next(frozen.samples())) or []
    if gguf.adds_bos and tokens[:1] != [gguf.bos]:
        flags["tokenizer.ggml.add_bos_token"] = False
    if gguf.adds_eos:
        flags["tokenizer.ggml.add_eos_token"] = False
    for key in flags:
        job.log(f"set {key} to false, since the chat template writes no such token there")
    return flags


def _log_fallbacks(name: str, warnings: list[str], job: Job, *, weighed: bool) -> None:
    """Log the tensors whose rows aren't a multiple of a block, and so have another type.

    weighed: whether a matrix was used. llama.cpp rounds to q5_1, the other type of q5_k_m, far
    worse with any matrix than without one (docs/reference/benchmarks.md).
    """
    larger = [line for line in warnings if "not divisible" in line]
    if larger:
        job.log(
            f"{name}: {len(larger)} tensors have rows that aren't a multiple of 256 weights, so "
            f"they have a larger type; the first: "
            f"{' '.join(larger[0].removeprefix('warning:').split())}"
        )
    if larger and weighed and name == "q5_k_m":
        job.log(
            "warning: q5_k_m: llama.cpp rounds these tensors badly with an importance matrix. "
            "Export this type without `imatrix`, or use q8_0 or q4_k_m, and evaluate the file"
        )


def _meta(model: Model, gguf: Gguf, name: str, frozen: "FrozenTemplate") -> dict[str, Any]:
    facts = {
        "format": "gguf",
        "file": gguf.path.name,
        "quantization": name,
        "dtype": name,
        "architecture": gguf.metadata("general.architecture"),
        "parameters": gguf.parameters,
        "size": gguf.path.stat().st_size,
        "base": base_name(model),
        "license": ModelFiles(model).license,
        "chat_template": True,
        "chat_template_digest": digest_of(frozen.source),
        "chat_template_kwargs": frozen.arguments or None,
        "frozen": frozen.facts() if frozen.known else None,
        "exported_from": model.digest or None,
        "llama_cpp": build_facts(*OWN) or None,
    }
    return {key: fact for key, fact in facts.items() if fact is not None}
