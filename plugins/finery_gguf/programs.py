"""Finds llama.cpp: the user's own, or that of the installed wheels. Chooses which one answers.

None of it is code in keys. A path can't change an output, and the build is a fact in the key
(`build_facts`). The library's answers don't depend on the number of rows.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from finery import StepError, UsageError, outside_key
from finery.advanced import visible_gpus
from finery_serve.processes import how_ended, run_program

VARIABLE = "FINERY_LLAMA_CPP"
"""The environment variable that names a llama.cpp: its folder, or one of its programs."""
WHEELS = "wheels"
"""The value of `FINERY_LLAMA_CPP` that ignores programs on the PATH."""
SERVER_WHEEL = "xllamacpp"
SERVER, QUANTIZE, IMATRIX = "llama-server", "llama-quantize", "llama-imatrix"
CONVERTER = "convert_hf_to_gguf.py"
_FOLDERS = ("", "bin", "build/bin", "build/bin/Release", "..", "../..")
"""Folders with programs: of an installation, of a build, and the converter above a build."""
_PRINTERS = (SERVER, "llama-cli")
"""Programs that print the build of their llama.cpp."""
_LIBRARIES = ("libllama*", "libggml*", "libmtmd*")
"""Shared libraries that programs of a build need, next to them or in `lib`."""
_UNKNOWN = "unknown"
"""The text that a build prints instead of its commit if its sources weren't in a repository."""
_SECONDS = 60.0  # for a program to print its version; CUDA takes some when it is first loaded
_VERSION = re.compile(r"^version: (.+)$", re.MULTILINE)


class Program(NamedTuple):
    """A program of the user's llama.cpp.

    build: `6123 (0ce8cd1)`, as the program prints it, with a digest if that names no commit.
    """

    path: Path
    build: str


@outside_key
def user_program(name: str) -> Program | None:
    """A program of the user's llama.cpp, by `FINERY_LLAMA_CPP` or else the PATH; None without one.

    `UsageError` if `FINERY_LLAMA_CPP` names nothing, `StepError` if its llama-server can't run. A
    program of the PATH that can't run is ignored.
    """
    named = os.environ.get(VARIABLE, "")
    if named == WHEELS:
        return None
    if named:
        path = _find_in_folder(_folder(named), name)
        return None if path is None else Program(path, _build_in(path.parent, path))
    on_path = shutil.which(name)
    if on_path is None:
        return None
    try:
        return Program(Path(on_path), _build_in(Path(on_path).parent, Path(on_path)))
    except StepError:
        return None


def server_build() -> str:
    """The llama.cpp that answers as a server, in words: of the user, or of the wheel.

    `StepError` if neither is installed.
    """
    if program := user_program(SERVER):
        return f"{SERVER} {program.build}"
    try:
        return f"{SERVER_WHEEL} {version(SERVER_WHEEL)}"
    except PackageNotFoundError:
        raise StepError(
            f"there is no llama.cpp server: neither {SERVER} on the PATH nor the package "
            f"{SERVER_WHEEL}",
            fix=f"pip install {SERVER_WHEEL}, or set {VARIABLE} to the folder of your llama.cpp",
        ) from None


@outside_key
def build_facts(*names: str) -> dict[str, str]:
    """For keys: the builds of those of the user's programs that exist; empty without any."""
    programs = {name: user_program(name) for name in names}
    return {
        f"build of {name}": program.build
        for name, program in programs.items()
        if program is not None
    }


@outside_key
def build_files(*names: str) -> list[str]:
    """For stamps: where programs, and those that print their build, are or might be installed."""
    named = os.environ.get(VARIABLE, "")
    if named == WHEELS:
        return []
    searched = (
        [_folder(named) / subfolder for subfolder in _FOLDERS] if named else os.get_exec_path()
    )
    program_names = dict.fromkeys((*names, *_PRINTERS))
    paths = [os.path.abspath(os.path.join(folder, n)) for folder in searched for n in program_names]
    return paths + [str(path) for path in _libraries(p for p in map(Path, paths) if p.is_file())]


def _folder(named: str) -> Path:
    """The folder of a llama.cpp, from the user's words."""
    path = Path(named).expanduser()
    if path.is_file():
        return path.parent
    if not path.is_dir():
        raise UsageError(
            f"{VARIABLE} names {named!r}, which doesn't exist",
            fix=f"set it to the folder of your llama.cpp, or to its {SERVER}; "
            f"{VARIABLE}={WHEELS} uses the installed wheels",
        )
    if not any(_find_in_folder(path, name) for name in (SERVER, QUANTIZE, IMATRIX, CONVERTER)):
        raise UsageError(
            f"{VARIABLE} names the folder {named!r}, but there is no {SERVER} in it, in bin or in "
            "build/bin",
            fix="build llama.cpp there (cmake -B build && cmake --build build), or name the folder "
            f"with {SERVER}",
        )
    return path


def _find_in_folder(folder: Path, name: str) -> Path | None:
    upwards = name == CONVERTER
    places = (
        folder / subfolder / name
        for subfolder in _FOLDERS
        if upwards or not subfolder.startswith("..")
    )
    return next((path.resolve() for path in places if path.is_file()), None)


def _build_in(folder: Path, program: Path) -> str:
    """The build of the llama.cpp in a folder, which only some of its programs print."""
    if program.name == CONVERTER:
        return _converter_digest(program)
    printers = (folder / SERVER, folder / "build/bin" / SERVER, folder / "llama-cli")
    printer = next((path for path in printers if path.is_file()), None)
    printed = None if printer is None else _printed_build(printer, *_state(printer))
    if printed is not None and _UNKNOWN not in printed:
        return printed
    programs = [program] if printer is None else [program, printer]
    files = sorted({*(path.resolve() for path in programs), *_libraries(programs)})
    digest = _digest(tuple((path, *_state(path)) for path in files))
    return digest if printed is None else f"{printed}, {digest}"


def _libraries(programs: Iterable[Path]) -> list[Path]:
    """The shared libraries of llama.cpp that are installed with programs."""
    folders = {path.resolve().parent for path in programs}
    paths = (
        path.resolve()
        for folder in folders
        for name in _LIBRARIES
        for path in (*folder.glob(name), *folder.parent.glob(f"lib*/{name}"))
        if path.is_file()
    )
    return sorted({*paths})


def _state(path: Path) -> tuple[int, int]:
    """When a file was last changed, and its size: what is cached holds until they change."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@cache
def _printed_build(program: Path, _time: int, _size: int) -> str | None:
    """The build that a program prints; None if it prints none. `StepError` if it can't run."""
    try:
        ran = run_program([program, "--version"], _SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _not_running(program, str(error), []) from error
    printed = ran.stdout + ran.stderr
    if ran.returncode != 0:
        raise _not_running(program, how_ended(ran.returncode), printed.strip().splitlines()[-5:])
    match = _VERSION.search(printed)
    return match[1] if match else None


def _not_running(program: Path, reason: str, printed: list[str]) -> StepError:
    return StepError(
        f"{program.name} can't run: {reason}",
        where=str(program),
        details=printed,
        fix=f"set {VARIABLE} to a llama.cpp that was built for this machine, or to `{WHEELS}`",
    )


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = blake3(max_threads=blake3.AUTO)
    for path, _time, _size in files:
        digest.update_mmap(path)
    return f"digest {digest.hexdigest()[:16]}"


def _converter_digest(script: Path) -> str:
    """A digest of a converter and of the neighbouring packages that it imports."""
    files = [script, *script.parent.glob("conversion/*.py"), *script.parent.glob("gguf-py/**/*.py")]
    digest = blake3()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return f"digest {digest.hexdigest()[:16]}"


ENGINE = "FINERY_GGUF_ENGINE"
"""`library` or `server`. The default is the server if the user has installed llama.cpp."""
SLOTS = "FINERY_GGUF_SLOTS"
"""Number of rows that are answered at once."""
LIBRARY, REMOTE = "library", "server"
MOST_SLOTS, DEFAULT_SLOTS = 64, 16


@outside_key
def answering_server() -> str | None:
    """The server's build, e.g. `llama-server 6123 (0ce8cd1)`; None if the library answers."""
    chosen = os.environ.get(ENGINE, "")
    if chosen not in ("", LIBRARY, REMOTE):
        raise UsageError(
            f"{ENGINE} must be `{LIBRARY}` or `{REMOTE}`, but is {chosen!r}",
            fix=f"unset it to use {SERVER} if it is installed, and else the library",
        )
    if chosen == REMOTE or (not chosen and user_program(SERVER) is not None):
        return server_build()
    return None


@outside_key
def rows_at_once() -> int:
    """The maximum number of rows at once; the memory for their caches may allow fewer."""
    chosen = os.environ.get(SLOTS, "")
    if not chosen:
        return DEFAULT_SLOTS
    if not re.fullmatch(r"\d{1,3}", chosen) or not 1 <= int(chosen) <= MOST_SLOTS:
        raise UsageError(
            f"{SLOTS} must be a number from 1 to {MOST_SLOTS}, but is {chosen!r}",
            fix=f"unset it to answer {DEFAULT_SLOTS} rows at once",
        )
    return int(chosen)


_BACKENDS = ("cuda", "vulkan")
"""Those of llama.cpp for the GPUs that finery lists."""


@outside_key
def can_use_gpu() -> bool:
    """Whether the llama.cpp that answers can use a GPU.

    For the user's llama-server, this depends on the devices that it lists; for the wheel, on the
    libraries that it contains.
    """
    if answering_server() is not None:
        return bool(server_gpus())
    spec = find_spec("llama_cpp_py_sync")
    if spec is None or spec.origin is None:
        return False
    files = [path.name for path in Path(spec.origin).parent.glob("*ggml*")]
    return any(backend in name for name in files for backend in _BACKENDS)


def server_gpus() -> list[str]:
    """The devices that the user's llama-server offloads to, as it lists them."""
    program = user_program(SERVER)
    return [] if program is None else _device_lines(program.path)


@cache
def _device_lines(program: Path) -> list[str]:
    """The lines of `llama-server --list-devices` after its heading, without their space."""
    try:
        ran = run_program([program, "--list-devices"], _SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    _, _, listed = ran.stdout.partition("Available devices:\n")
    lines = [line.strip() for line in listed.splitlines()]
    return [line for line in lines if ":" in line and not line.startswith(("CPU", "BLAS"))]


@outside_key
def log_device(
    log: Callable[[str], None], answering: str | None, gpus: Callable[[], Sequence[str]]
) -> Sequence[str]:
    """Log which llama.cpp answers, and the GPU that it uses; returns the latter.

    Also says if it is built for none although there is one. answering: the server; None: the
    library, whose GPUs `gpus` finds.
    """
    devices = gpus() if answering is None else server_gpus()
    if answering is not None:
        log(f"{answering} answers; the last digits depend on the rows at the same time")
    if devices:
        log(f"llama.cpp: all layers on {', '.join(devices)}")
    elif visible_gpus():
        log("llama.cpp: on the CPU, since the installed build has no support for this GPU")
    return devices
