"""`vllm.bundle`: adapters on one base, in a folder that vLLM serves."""

import shutil
from pathlib import Path
from typing import Any, Literal

import msgspec

from finery import Bundle, File, Job, Model, Step, StepError, UsageError, setting, takes
from finery.views import View
from finery_local.facts import ModelFiles, file_names
from finery_serve.guide import json_text, read_schema, write_texts
from finery_transformers.formats import base_name, require_format
from finery_transformers.frozen.template import (
    SYSTEMS_DIFFER,
    TOOLS_DIFFER,
    ClientFacts,
    facts_of,
)
from finery_vllm.bundle.adapters import (
    Chat,
    chat_of,
    chats_of,
    check_adapter,
    check_bases,
    check_chats,
    check_vocabulary,
)
from finery_vllm.bundle.files import Texts, write_files
from finery_vllm.folder import ADAPTER, LOADING, linked, whole
from finery_vllm.server import (
    DESCRIPTION_FILE,
    STRICT_OPTIONS,
    Description,
    argument,
    check_options,
    flag,
    lora_arguments,
)

IMAGE = "vllm/vllm-openai:v0.32.0"
"""The release whose sources the checks follow."""
FIXED = (
    "model", "host", "port", "api-key", "enable-lora", "lora-modules", "max-loras", "max-lora-rank",
    "generation-config", "override-generation-config", "served-model-name", "tokenizer",
    "chat-template", "chat-template-content-format", "max-model-len", "revision",
)  # fmt: skip
"""Arguments that the bundle sets, or has a setting for."""
PARSER = "tool-call-parser"
NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}$"


class VllmBundle(
    Step,
    isolated=True,
    seeded=False,
    sections=("export",),
    packages=("torch", "transformers", "peft", "tokenizers"),
    installs=LOADING,
):
    """Write a folder that vLLM serves: several adapters on one base, chosen in each request.

    The folder holds the adapters, the chat template of the training, the command and a
    compose.yaml, a client and a guide. Before anything is written, finery checks that vLLM can
    serve the adapters, since vLLM silently answers like the base if an adapter doesn't fit. Answers
    are greedy unless a request says otherwise, as in evaluations.
    """

    models: list[Model] = takes(
        uses_name=True,
        help="The adapters, which all have the same base; or one whole model.",
    )
    merge: bool = setting(
        False, help="Merge the adapter into its base. The bundle then serves this model alone."
    )
    name: str = setting(
        "base",
        pattern=NAME,
        help="The name of the base on the server. Adapters have the names of their steps.",
    )
    weights: Literal["auto", "hub", "copy"] = setting(
        "auto",
        help="Where the base comes from. `hub`: the server downloads the repository at its "
        "revision. `copy`: it is part of the folder. `auto`: `hub` for a base from there.",
    )
    schema: File | None = setting(
        None,
        help="A JSON Schema file that the client requires answers to follow: that of `eval.json`, "
        "if the recipe has one.",
    )
    context: int | None = setting(
        None,
        ge=16,
        help="Maximum tokens of a prompt with its answer. Default: the model's context.",
    )
    port: int = setting(8000, ge=1, le=65535, help="The port of the server.")
    image: str = setting(
        IMAGE, min_length=1, help="The container image in compose.yaml, with a version or a digest."
    )
    options: dict[str, str | int | float | bool] = setting(
        {},
        help="Further arguments of vLLM's server, without the dashes.",
        examples=[{"enable-auto-tool-choice": True, "tool-call-parser": "hermes"}],
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        if not self.models:
            raise UsageError("`models` is empty", where="models", fix="name one: models: [sft]")
        if self.merge and len(self.models) > 1:
            raise UsageError(
                "a merged adapter is a complete model, but a server has only one", where="merge",
                fix="remove merge, or write a bundle for each",
            )  # fmt: skip
        for model in self.models:
            require_format(model, "vllm.bundle", "models")
        names = [served_name(model.name) for model in self.models]
        if len({*names, self.name}) <= len(names):
            raise UsageError(
                f"two models would be called alike: {', '.join([self.name, *names])}",
                where="models", fix="list each once, or set `name`, the name of the base",
            )  # fmt: skip
        _, _, tag = self.image.rpartition("/")[2].partition(":")
        if "@sha256:" not in self.image and tag in ("", "latest", "nightly"):
            raise UsageError(
                f"the image '{self.image}' isn't pinned", where="image", fix=f"name one: {IMAGE}"
            )
        check_options(self.options, FIXED)

    def run(self, job: Job) -> Bundle:
        """Check the models, then write the folder."""
        models = {served_name(model.name): model for model in self.models}
        schema = read_schema(self.schema)
        if self.merge or (len(models) == 1 and self.models[0].format != "adapter"):
            return self._written({}, chat_of(self.models[0]), schema, job)
        base = check_bases(models)
        for name, model in models.items():
            check_adapter(model, name)
        chat = check_chats(chats_of(models))
        check_vocabulary(chat, base, next(iter(models)))
        return self._written(models, chat, schema, job)

    def _written(self, adapters: dict[str, Model], chat: Chat, schema: Any, job: Job) -> Bundle:
        whole_model = self.models[0].refs["base"] if adapters else self.models[0]
        assert isinstance(whole_model, Model)
        source, external = self._base(whole_model, bool(adapters), job)
        chat.tokenizer.save_pretrained(str(job.out / "tokenizer"))
        (job.out / "chat_template.jinja").write_text(chat.template, encoding="utf-8")
        (job.out / "generation").mkdir()
        for name, model in adapters.items():
            linked(model, ADAPTER, job.out / "adapters" / name, shutil.copyfile)
        first = self.name if adapters else served_name(self.models[0].name)
        arguments = [*source, *self._arguments(adapters, first)]
        described = Description(arguments, first, list(adapters))
        facts = {
            "generation/generation_config.json": {"eos_token_id": chat.ends},
            DESCRIPTION_FILE: msgspec.to_builtins(described),
            **({} if schema is None else {"schema.json": schema}),
        }
        write_texts(job.out, {name: json_text(value) for name, value in facts.items()})
        trained_with_tools = [m for m in self.models if (facts_of(m) or {}).get("tools")]
        unparsed = [served_name(m.name) for m in trained_with_tools if PARSER not in self.options]
        clients = self._clients()._replace(system=chat.system or "")
        clients = clients._replace(tool_choice="none") if unparsed else clients
        texts = Texts(
            described, image=self.image, port=self.port, hub="--revision" in source,
            base=base_name(whole_model) or whole_model.format, schema=schema,
            arguments=chat.arguments, unparsed=unparsed, system=chat.system, clients=clients,
        )  # fmt: skip
        write_files(job.out, texts)
        job.log(f"{len(adapters)} adapters on {texts.base}" if adapters else f"serves {texts.base}")
        if chat.system is None:
            job.log(SYSTEMS_DIFFER)
        if clients.tools_differ:
            job.log(TOOLS_DIFFER)
        if unparsed:
            job.log(
                f"{', '.join(unparsed)}: vLLM refuses requests with tools until `options` "
                "sets enable-auto-tool-choice, and tool-call-parser to the one of this model"
            )
        meta = {
            "format": "vllm", "models": [first, *adapters], "base": texts.base, "run": "sh run.sh",
            "base_digest": whole_model.digest, "image": self.image,
            "max_lora_rank": int(argument(arguments, "--max-lora-rank") or 0) or None,
            "chat_template_kwargs": chat.arguments or None, **clients.meta(),
        }  # fmt: skip
        return Bundle(
            job.out, meta={k: v for k, v in meta.items() if v not in (None, "")}, external=external
        )

    def _clients(self) -> ClientFacts:
        """What clients must know: the example of the first model, and whether tools differ."""
        first, *others = (ClientFacts.of(model.meta) for model in self.models)
        differ = any(clients.tools != first.tools for clients in others)
        return first._replace(tools_differ=True) if differ else first

    def _base(self, model: Model, beside: bool, job: Job) -> tuple[list[str], dict[str, Path]]:
        """(The argument that names the weights, files outside the bundle)."""
        import torch

        repo, revision = model.meta.get("repo"), model.runtime.get("revision")
        is_hub = model.format == "transformers" and bool(repo and revision)
        if self.weights == "hub" and not is_hub:
            raise StepError(
                "weights: hub needs a base from the hub, but "
                f"{base_name(model) or model.format} isn't one",
                fix="remove weights: then the bundle contains the base's files",
            )
        if is_hub and self.weights != "copy":
            return ["--model", str(repo), "--revision", str(revision)], {}
        name = "base" if beside else "model"
        job.progress(0, 1, f"writing {name}/")
        if model.format != "transformers":
            whole(model, job.out / name, torch.bfloat16)
            return ["--model", f"./{name}"], {}
        own = [file for file in file_names(model) if file not in model.external]
        linked(model, own, job.out / name, shutil.copyfile)
        return ["--model", f"./{name}"], {
            f"{name}/{file}": path for file, path in model.external.items()
        }

    def _arguments(self, adapters: dict[str, Model], first: str) -> list[str]:
        arguments = [
            "--served-model-name", first,
            "--tokenizer", "./tokenizer",
            "--chat-template", "./chat_template.jinja",
            "--chat-template-content-format", "string",
            "--generation-config", "./generation",
            "--override-generation-config", '{"temperature": 0.0}',
        ]  # fmt: skip
        if ModelFiles(self.models[0]).root.meta.get("trust_remote_code") is True:
            arguments.append("--trust-remote-code")
        if self.context is not None:
            arguments += ["--max-model-len", str(self.context)]
        if adapters:
            configs = [ModelFiles(model).adapter_config for model in adapters.values()]
            arguments += lora_arguments({n: f"./adapters/{n}" for n in adapters}, configs)
        if self.schema is not None:
            arguments += STRICT_OPTIONS
        for name, value in self.options.items():
            arguments += flag(name, value)
        return arguments


def served_name(name: str) -> str:
    """A step's name on the server: `sft`, or `sweep-best` for an output."""
    return name.replace(".", "-")


class VllmView(View):
    """The view of a folder for vLLM."""

    text_file = "run.sh"
