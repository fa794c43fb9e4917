"""What people write for models on this machine who come from other tools."""

import re

from finery import Hints

_PATH = re.compile(r"(?:\.{0,2}/|~/|models/)\S+|\S+\.gguf")


def _path(text: str) -> dict[str, str] | None:
    return {"path": text} if _PATH.fullmatch(text) else None


_THINKING = "write chat_template_kwargs: {enable_thinking: false}, or true"
_CALLS = "remove it: calls are read as the model's chat template writes them"
TEMPLATE_SETTINGS = {
    **dict.fromkeys(("template", "chat_template_file", "chat_template_path"), "chat_template"),
    **dict.fromkeys(
        ("template_kwargs", "chat_template_args", "default_chat_template_kwargs"),
        "chat_template_kwargs",
    ),
    **dict.fromkeys(("tools", "tool_format", "tools_in"), "tools_as"),
}
"""Other names of the settings of chat templates."""
TEMPLATE_ABSENT = {
    **dict.fromkeys(("enable_thinking", "thinking", "think"), _THINKING),
    "reasoning_effort": "write chat_template_kwargs: {reasoning_effort: low}, or medium, or high",
    **dict.fromkeys(("tool_call_parser", "tool_parser", "reasoning_parser"), _CALLS),
}
"""Settings of chat templates that other tools have."""

MODEL = Hints(
    settings={
        **dict.fromkeys(("file", "folder", "dir", "model", "model_path", "filename"), "path"),
        **TEMPLATE_SETTINGS,
    },
    absent=TEMPLATE_ABSENT,
    called=("gguf", "local", "file", "path", "folder", "llama.cpp", "safetensors"),
    text=_path,
)
