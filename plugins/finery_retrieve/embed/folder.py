"""`retrieve.embedder`: an embedding model on this machine's disk."""

import os
from pathlib import Path
from typing import Any

from finery import Files, Job, Model, Step, setting
from finery_local.folder import LOADED, Folder, folder_model
from finery_retrieve.embed.layout import DESCRIPTIONS, layout_of
from finery_retrieve.formats import EMBEDDER

QUESTION_HELP = (
    "Text before each question, e.g. `query: ` for E5 models; default: what the model's folder "
    "says, else none."
)
DOCUMENT_HELP = (
    "Text before each chunk, e.g. `passage: ` for E5 models; default: what the model's folder "
    "says, else none."
)


class RetrieveEmbedder(
    Step,
    sections=("models",),
    seeded=False,
    preflight="finery_retrieve.embed.preflight:LocalPreflight",
):
    """Take an embedding model from a folder in the layout of sentence-transformers.

    The files stay in place. Their content is hashed, so an edited file makes another model.
    Models of a transformer with mean or CLS pooling are computed, with transformers and torch.
    """

    path: Files = setting(help="The model's folder, with modules.json and model.safetensors.")
    question_prefix: str | None = setting(None, help=QUESTION_HELP)
    document_prefix: str | None = setting(None, help=DOCUMENT_HELP)

    def static_meta(self) -> dict[str, Any]:
        """The format, for the checks of steps that take the model."""
        return {"format": EMBEDDER}

    def run(self, job: Job) -> Model:
        """Check the files, and hash them."""
        paths = self.path.paths
        root = Path(os.path.commonpath([p if p.is_dir() else p.parent for p in paths]))
        return embedder(root, job, f"'{self.path}'", self.question_prefix, self.document_prefix)


def embedder(
    root: Path, job: Job, title: str, question_prefix: str | None, document_prefix: str | None
) -> Model:
    """The embedding model in the folder `root`; errors call it `title`.

    Raises `DataError` as `folder_model` and `layout_of` do.
    """
    layout = layout_of(root, question_prefix, document_prefix)
    names = frozenset(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    model = folder_model(
        Folder(root, names, title),
        job,
        base=None,
        trust_remote_code=False,
        wanted=[*LOADED, *DESCRIPTIONS],
        about={},
    )
    model.meta |= {"format": EMBEDDER, "embedding": layout.facts()}
    return model
