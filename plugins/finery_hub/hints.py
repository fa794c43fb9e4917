"""What people write for models and data sets of the hub who come from other tools."""

import re
from typing import Any

from finery import Hints
from finery_data.hints import SOURCE
from finery_local.hints import TEMPLATE_ABSENT, TEMPLATE_SETTINGS

_REPOSITORY = re.compile(r"(?:https://)?(?:huggingface\.co/)?(?:datasets/)?([\w.-]+/[\w.-]+?)/?")
_FILES = (".gguf", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".gz", ".zst", ".bin")
_NAMES = ("id", "path", "name", "repo_id", "repository", "hub_id", "url")


def _model(text: str) -> dict[str, str] | None:
    match = _REPOSITORY.fullmatch(text)
    if match is None or text.startswith((".", "data/", "models/")) or text.endswith(_FILES):
        return None
    return {"repo": match[1]}


def _repository(setting: str, value: Any) -> str | None:
    match = _REPOSITORY.fullmatch(str(value)) if setting == "repo" else None
    return f"write repo: {match[1]}" if match and match[1] != value else None


def _dataset(setting: str, value: Any) -> str | None:
    fix = SOURCE.value(setting, value) if SOURCE.value is not None else None
    return fix or _repository(setting, value)


MODEL = Hints(
    settings={
        **dict.fromkeys((*_NAMES, "model", "model_id", "model_name", "model_name_or_path"), "repo"),
        "branch": "revision", "commit": "revision", "tag": "revision", "filename": "file",
        **TEMPLATE_SETTINGS,
    },
    absent={
        "token": "set HF_TOKEN in the shell, and pass it to the step: env: [HF_TOKEN]",
        "dtype": "remove it: the training, or the engine, chooses the dtype",
        "torch_dtype": "remove it: the training, or the engine, chooses the dtype",
        "load_in_4bit": "remove it here, and write quantization: nf4 in the training",
        "device_map": "remove it: the training chooses the device",
        **TEMPLATE_ABSENT,
    },
    called=("huggingface", "hf", "hub", "transformers", "automodel", "pretrained", "model"),
    value=_repository,
    text=_model,
)  # fmt: skip
DATASET = Hints(
    settings={
        **SOURCE.settings,
        **dict.fromkeys((*_NAMES, "dataset", "dataset_name"), "repo"),
        "subset": "config", "branch": "revision", "commit": "revision", "limit": "take",
    },
    called=("huggingface", "hf", "hub", "datasets", "dataset", "load.dataset"),
    value=_dataset,
    text=_model,
)  # fmt: skip
PUSH = Hints(
    settings={
        **dict.fromkeys(
            ("repo_id", "hub_model_id", "push_to_hub", "repository", "name", "path", "id"), "repo"
        ),
        **dict.fromkeys(("hub_private_repo", "hub_private", "visibility"), "private"),
        **dict.fromkeys(("model", "adapter", "gguf"), "models"),
        "bundle": "bundles", "dry": "dry_run", "merged": "merge", "licence": "license",
        "license_name": "license", "relation": "base_model_relation", "base": "base_model",
    },
    absent={
        "token": "set HF_TOKEN in the shell, or log in with `hf auth login`",
        "hub_token": "set HF_TOKEN in the shell, or log in with `hf auth login`",
        "public": "write private: false",
        "card": "finery writes the card; `finery card STEP` prints it",
        "revision": "remove it: the push goes to the branch main",
        "branch": "remove it: the push goes to the branch main",
        "commit_message": "remove it: finery names the step and the recipe",
    },
    called=("push", "upload", "hub.upload", "push_to_hub", "hf.push", "publish"),
    value=_repository,
)  # fmt: skip
