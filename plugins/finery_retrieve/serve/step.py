"""`retrieve.bundle`: a folder that answers questions about documents, with their sources."""

import json
from pathlib import Path

from blake3 import blake3

from finery import Artifact, Bundle, Job, Model, Step, StepError, copy_file, setting, takes
from finery_gguf.llama import PACKAGE
from finery_retrieve.formats import require_retrieving
from finery_retrieve.serve.app.bundle import EMBEDDER, INDEX, SETTINGS, TEMPLATE, opened
from finery_retrieve.serve.app.search import FILES
from finery_retrieve.serve.app.server import Unusable
from finery_retrieve.serve.contents import (
    PROGRAM,
    ROOT,
    program_files,
    readme,
    requirements,
    run_script,
)
from finery_retrieve.serve.proof import verify
from finery_retrieve.serve.settings import (
    CHAT_TEMPLATE,
    MAX_TOKENS,
    embedder_of,
    gguf_file,
    gguf_options,
    parts_of,
    settings_of,
)
from finery_serve.options import SLOTS

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$"


def program_digest() -> str:
    """A digest of the copied program, 16 digits: the key sees no page and no comment."""
    digest = blake3(ROOT.encode())
    for name, path in program_files().items():
        digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class RetrieveBundle(
    Step,
    seeded=False,
    sections=("export",),
    engines=True,
    packages=(PACKAGE, "bm25s", "PyStemmer"),
    version=program_digest(),
):
    """Write a folder that answers questions about documents and shows the sources.

    It has the index, the prompt template, the app with its page, `run.sh` and a README for the
    person who gets it, who needs Python and a few packages, but not finery. A GGUF is in it, too,
    and llama-server runs it; a model behind an API is asked over the network. The app retrieves the
    same sources and sends the same messages as the model in the recipe: the step compares both for
    questions made of the chunks, and fails if one differs.

    Raises StepError for a model that isn't one of `retrieve.model`, or is neither a GGUF nor behind
    an API.
    """

    model: Model = takes(help="A model of `retrieve.model`, over a GGUF or a model behind an API.")
    name: str = setting(
        pattern=NAME,
        help="The title of the page, and the model's name in the API: up to 100 letters, digits, "
        "and the characters _ . : / -, without spaces. The first is a letter or a digit.",
    )
    context: int | None = setting(
        None, ge=64,
        help="Longest prompt with its answer, in tokens, for a GGUF. [default: the model's, at "
        "most 8192]",
    )  # fmt: skip
    slots: int = setting(SLOTS, ge=1, help="Requests that a GGUF answers at once.")
    max_tokens: int = setting(
        MAX_TOKENS, ge=1, help="Longest answer in tokens, for requests that don't set a limit."
    )

    def check(self) -> None:
        """Raise `UsageError` for a model that retrieves no documents."""
        require_retrieving(self.model, "model")

    def run(self, job: Job) -> Bundle:
        """Write the files, and compare what the bundle sends with what the model is sent."""
        index, under = parts_of(self.model)
        gguf = under.format == "gguf"
        options = gguf_options(under, self.name, self.context, self.slots) if gguf else None
        settings = settings_of(self.model, self.name, options, self.max_tokens)
        texts = {
            f"{PROGRAM}/__init__.py": ROOT,
            SETTINGS: json.dumps(settings, ensure_ascii=False, indent=2) + "\n",
            TEMPLATE: self.model.meta["prompt"]["template"],
            "requirements.txt": requirements(settings),
            "run.sh": run_script(),
            "README.md": readme(settings, _about(under), int(index.meta["chunks"])),
        }
        if options is not None and options.template is not None:
            texts[CHAT_TEMPLATE] = options.template
        for name, source in (program_files() | _data_files(index)).items():
            copy_file(source, _target(job.out, name))
        for name, text in texts.items():
            _target(job.out, name).write_text(text, encoding="utf-8")
        (job.out / "run.sh").chmod(0o755)
        try:
            compared = verify(opened(job.out, job.secret), self.model, job)
        except Unusable as error:
            raise StepError(str(error), fix=error.fix) from error
        job.log(f"{compared} questions: the bundle sends the same prompts as the model")
        if gguf:
            job.progress(0, 1, f"copying {gguf_file(under).name}")
            copy_file(gguf_file(under), job.out / gguf_file(under).name)
        return Bundle(job.out, meta={"format": "retrieve", "name": self.name, "run": "sh run.sh"})


def _data_files(index: Artifact) -> dict[str, Path]:
    """Name in the bundle → file of the index, or of its embedding model."""
    files = {f"{INDEX}/{n}": p for n, p in _files(index).items() if n.split("/")[0] in FILES}
    embedder = embedder_of(index)
    if embedder is not None and embedder.format == "embedder":
        files |= {f"{EMBEDDER}/{name}": path for name, path in _files(embedder).items()}
    return files


def _files(artifact: Artifact) -> dict[str, Path]:
    paths = (path for path in sorted(artifact.path.rglob("*")) if path.is_file())
    own = {path.relative_to(artifact.path).as_posix(): path for path in paths}
    return own | artifact.external


def _target(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _about(model: Model) -> dict[str, str]:
    """What is known of the model that answers, for the README."""
    names = {"Base model": "base", "Weights": "quantization", "Licence": "license"}
    return {text: str(model.meta[key]) for text, key in names.items() if model.meta.get(key)}
