"""A folder in the layout of sentence-transformers: what its files say about embedding."""

from pathlib import Path
from typing import Any

import msgspec

from finery import DataError

MODULES_FILE = "modules.json"
PROMPTS_FILE, LENGTH_FILE = "config_sentence_transformers.json", "sentence_bert_config.json"
DESCRIPTIONS = (MODULES_FILE, PROMPTS_FILE, LENGTH_FILE, "*/config.json")
"""Patterns of the files that only such folders have."""
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
QUESTION_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class _Module(msgspec.Struct):
    type: str
    path: str = ""


class _Length(msgspec.Struct):
    max_seq_length: int | None = None
    do_lower_case: bool = False


class _Prompts(msgspec.Struct):
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None

    def first(self, *names: str) -> str:
        """The first of these prompts, or else the default one, or else nothing.

        `KeyError` if there is no prompt with the name of the default one.
        """
        prompts = self.prompts or {}
        for name in names:
            if name in prompts:
                return prompts[name]
        return "" if self.default_prompt_name is None else prompts[self.default_prompt_name]


class Layout(msgspec.Struct, frozen=True):
    """How a model embeds. longest: maximum tokens; None: as many as its tokenizer allows."""

    pooling: str
    longest: int | None
    lower: bool
    question_prefix: str
    document_prefix: str

    def facts(self) -> dict[str, Any]:
        """As JSON values, for a model's `meta`."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        return facts


def layout_of(root: Path, question_prefix: str | None, document_prefix: str | None) -> Layout:
    """The layout of the folder `root`. Prefixes that are None are the folder's own.

    Raises `DataError` for modules and poolings that finery doesn't compute.
    """
    modules = _read(root / MODULES_FILE, list[_Module])
    names = [module.type.rpartition(".")[2] for module in modules]
    if tuple(names) not in (KNOWN_MODULES, KNOWN_MODULES[:2]):
        raise DataError(
            f"the model consists of {', '.join(names) or 'nothing'}; finery computes models of "
            f"{', '.join(KNOWN_MODULES[:2])} and optionally {KNOWN_MODULES[2]}",
            where=str(root / MODULES_FILE),
            fix="use another model, or serve this one and name the server in retrieve.api",
        )
    if modules[0].path:
        raise DataError(
            f"the transformer is in the folder '{modules[0].path}', as old versions of "
            "sentence-transformers wrote it",
            where=str(root / MODULES_FILE),
            fix=f"move the files of '{modules[0].path}' one folder up, and set its path in "
            f'{MODULES_FILE} to ""; loading the model with a new version and saving it does '
            "the same",
        )
    length = _read(root / LENGTH_FILE, _Length) if (root / LENGTH_FILE).is_file() else _Length()
    prompts = (
        _read(root / PROMPTS_FILE, _Prompts) if (root / PROMPTS_FILE).is_file() else _Prompts()
    )
    cosines = (None, "cosine", *(("dot", "euclidean") if KNOWN_MODULES[2] in names else ()))
    if prompts.similarity_fn_name not in cosines:  # others rank otherwise than the cosine
        raise DataError(
            f"the model's embeddings are compared by '{prompts.similarity_fn_name}', and finery "
            "compares them by cosine",
            where=str(root / PROMPTS_FILE),
            fix="use a model for cosine similarity",
        )
    if question_prefix is None:
        question_prefix = _folder_prefix(prompts, root, "question_prefix", *QUESTION_PROMPTS)
    if document_prefix is None:
        document_prefix = _folder_prefix(prompts, root, "document_prefix", *DOCUMENT_PROMPTS)
    return Layout(
        pooling=_pooling(root / (modules[1].path or "1_Pooling") / "config.json"),
        longest=length.max_seq_length,
        lower=length.do_lower_case,
        question_prefix=question_prefix,
        document_prefix=document_prefix,
    )


def _folder_prefix(prompts: _Prompts, root: Path, setting: str, *names: str) -> str:
    """The folder's own prefix, as `encode_query` and `encode_document` choose it."""
    try:
        return prompts.first(*names)
    except KeyError as error:
        raise DataError(
            f"the default prompt {error} is not among the prompts",
            where=str(root / PROMPTS_FILE),
            fix=f"set {setting} in the recipe, or correct the file",
        ) from None


def _pooling(path: Path) -> str:
    config = _read(path, dict[str, Any])
    modes = [name for name, value in config.items() if name.startswith("pooling_mode") and value]
    if isinstance(config.get("pooling_mode"), str):  # newer versions write only its name
        modes = [f"pooling_mode_{config['pooling_mode']}_tokens".replace("cls_tokens", "cls_token")]
    if len(modes) != 1 or modes[0] not in POOLINGS or config.get("include_prompt") is False:
        raise DataError(
            f"the pooling isn't one that finery computes: {', '.join(modes) or 'none'}"
            + (", without the prompt" if config.get("include_prompt") is False else ""),
            where=str(path),
            fix=f"use a model that pools by {' or '.join(POOLINGS.values())}",
        )
    return POOLINGS[modes[0]]


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise DataError(
            f"the folder has no {path.name}, so it isn't in the layout of sentence-transformers",
            where=str(path),
            fix="name the folder of an embedding model that sentence-transformers loads",
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"the file can't be read: {error}", where=str(path), fix="download the model again"
        ) from error
