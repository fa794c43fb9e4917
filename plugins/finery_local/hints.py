"""What people write for models on this machine who come from other tools."""

import re

from finery import Hints

_PATH = re.compile(r"(?:\.{0,2}/|~/|models/)\S+|\S+\.gguf")


def _path(text: str) -> dict[str, str] | None:
    return {"path": text} if _PATH.fullmatch(text) else None


MODEL = Hints(
    settings=dict.fromkeys(("file", "folder", "dir", "model", "model_path", "filename"), "path"),
    called=("gguf", "local", "file", "path", "folder", "llama.cpp", "safetensors"),
    text=_path,
)
