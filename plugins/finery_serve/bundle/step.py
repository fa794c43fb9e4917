"""`llama.bundle`: a folder that a colleague can run."""

import json
from pathlib import Path
from typing import Any

from finery import Bundle, DataError, Job, Model, OneFile, Step, StepError, setting, takes
from finery_gguf.llama import PACKAGE, Gguf
from finery_serve.bundle.files import Facts, client, compose, llama_swap, readme, run_script
from finery_serve.options import CONTEXT, RUN, SLOTS, Options
from finery_serve.templates import served_template
from finery_transformers.frozen.template import system_of

IMAGE = "ghcr.io/ggml-org/llama.cpp:server-b11176"
TEMPLATE, SCHEMA = "chat_template.jinja", "schema.json"


class LlamaBundle(Step, seeded=False, sections=("export",), packages=(PACKAGE,)):
    """Write a folder that serves a GGUF with llama.cpp as it was trained and evaluated.

    It has the GGUF; `run.sh`, the exact command of llama-server; `compose.yaml`, the same in a
    container; `llama-swap.yaml`, an entry for llama-swap; `client.py`, a client with the openai
    package; and a README for the person who gets it. Requests without sampling settings are
    answered greedily. `serve.check` with `bundle:` starts it and compares its prompts and answers
    with those of the training.

    Raises StepError for a model that isn't a GGUF, DataError for a file that isn't a JSON Schema.
    """

    gguf: Model = takes(help="The GGUF to serve.")
    name: str = setting(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$",
        help="The model's name in the API, which clients send as `model`.",
    )
    context: int | None = setting(
        None, ge=64,
        help="Longest conversation with its answer, in tokens. [default: the model's, at most "
        f"{CONTEXT}]",
    )  # fmt: skip
    slots: int = setting(SLOTS, ge=1, help="Requests that are answered at once.")
    system: str = setting(
        "",
        help="A system message for the client and the README. The one that all training rows have "
        "is in the exported chat template and needn't be sent.",
    )
    prompt: str = setting("Hello", help="The question that the client and the README ask.")
    schema: OneFile | None = setting(
        None, help="A JSON Schema that answers must follow, e.g. that of eval.json, for the client."
    )
    image: str = setting(
        IMAGE,
        pattern=r"^[^\s:@]+(:\d+/[^\s:@]+)?[:@][^\s/]+$",
        help="The container image of compose.yaml, with a tag or digest. For GPUs, name one of "
        "llama.cpp's other images, e.g. `:server-cuda-b11176`.",
    )

    def check_files(self) -> None:
        """Raise `DataError` for a file that isn't a JSON Schema."""
        if self.schema is not None:
            read_schema(self.schema.path)

    def run(self, job: Job) -> Bundle:
        """Write the files and copy the GGUF."""
        if self.gguf.format != "gguf":
            raise StepError(
                f"llama.cpp serves GGUFs, but this model has the format '{self.gguf.format}'",
                fix="export it with gguf.export, and name that step",
            )
        source = self.gguf.file(str(self.gguf.meta["file"]))
        gguf = Gguf(source, vocab_only=True)
        template = served_template(gguf, self.gguf)
        schema = read_schema(self.schema.path) if self.schema else None
        facts = Facts(
            options=Options(
                model=source.name, name=self.name, slots=self.slots,
                context=self.context or min(CONTEXT, gguf.n_context or CONTEXT),
            ),
            template=TEMPLATE if template is not None else None,
            image=self.image,
            system=self.system,
            prompt=self.prompt,
            schema=SCHEMA if schema is not None else None,
            about=_about(self.gguf),
            added=system_of(self.gguf),
        )  # fmt: skip
        texts = {
            RUN: run_script(facts),
            "compose.yaml": compose(facts),
            "llama-swap.yaml": llama_swap(facts),
            "client.py": client(facts),
            "README.md": readme(facts),
        }
        if template is not None:
            texts[TEMPLATE] = template
        if schema is not None:
            texts[SCHEMA] = json.dumps(schema, ensure_ascii=False, indent=2) + "\n"
        for name, text in texts.items():
            (job.out / name).write_text(text, encoding="utf-8")
        (job.out / RUN).chmod(0o755)
        job.progress(0, 1, f"copying {source.name}")
        job.copy(source, source.name)
        meta = {"format": "llama", "name": self.name, "file": source.name, "run": f"sh {RUN}"}
        meta |= {"system": facts.added} if facts.added else {}
        return Bundle(job.out, meta=meta)


def read_schema(path: Path) -> dict[str, Any]:
    """A JSON Schema. `DataError` for a file that isn't one."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(schema, dict):
            raise ValueError("a schema is an object")
        Draft202012Validator.check_schema(schema)
    except (ValueError, SchemaError) as error:
        reason = error.message if isinstance(error, SchemaError) else str(error)
        raise DataError(
            f"not a JSON Schema: {reason}", where=str(path), fix="correct the file"
        ) from None
    return schema


def _about(model: Model) -> dict[str, str]:
    """Facts about the model, for its README."""
    names = {"Base model": "base", "Weights": "quantization", "Licence": "license"}
    return {text: str(model.meta[key]) for text, key in names.items() if model.meta.get(key)}
