"""The installed Ollama. Its version is in the keys of checks as a fact, see `build_facts`."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from finery import StepError

PROGRAM = "ollama"
NOWHERE = "127.0.0.1:1"
"""An address at which no Ollama listens, so that the program prints its own version."""
_VERSION = re.compile(r"version is (\S+)")
_SECONDS = 60.0  # for the program to print its version


def program() -> Path:
    """The `ollama` on the PATH. `StepError` without one."""
    path = shutil.which(PROGRAM)
    if path is None:
        raise StepError(
            f"{PROGRAM} isn't on the PATH",
            fix="install Ollama (https://ollama.com/download), or use a llama.bundle of the same "
            "GGUF instead of this folder",
        )
    return Path(path)


def build_facts() -> dict[str, str]:
    """For keys: the version of the Ollama on the PATH; empty without one."""
    path = shutil.which(PROGRAM)
    if path is None:
        return {}
    status = os.stat(path)
    return {f"version of {PROGRAM}": _printed_version(path, status.st_mtime_ns, status.st_size)}


def build_files() -> list[str]:
    """For stamps: where Ollama is or might be installed."""
    return [os.path.abspath(os.path.join(folder, PROGRAM)) for folder in os.get_exec_path()]


@cache
def _printed_version(path: str, _time: int, _size: int) -> str:
    """The output of `ollama --version`, or the reason why it can't run."""
    try:
        ran = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace",
            timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "OLLAMA_HOST": NOWHERE},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"
    match = _VERSION.search(ran.stdout + ran.stderr)
    return match[1] if match else f"unknown: it ended with exit code {ran.returncode}"
