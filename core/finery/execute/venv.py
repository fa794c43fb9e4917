"""Makes the environments of steps with uv, or with pip and venv where uv isn't installed.

A build resolves an environment once (`resolve_environment`), in the main process; recipe.lock keeps
the result.
Where a step runs, `ensure` makes the environment before the first step that needs it, in the
folder `environments` of the store. It also installs finery and its plugins as they are where it is
called, so that the step's code is the same.

An environment is made in its final folder, since its scripts contain that path. A file that is
written last marks it as complete: what was interrupted is never used, but made again. Processes
that use or make one hold a lock until they end, so that none is removed or made twice meanwhile.
"""

import csv
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
from blake3 import blake3

from finery.errors import FineryError, StepError, disk_full
from finery.plugin.discovery import GROUP
from finery.recipe.environments import Environment, pinned_environments
from finery.recipe.lock import Lock
from finery.util.installed import (
    Distribution,
    distributions,
    entry_points,
    normalise_name,
    version_of,
)
from finery.util.text import counted, shortened

ENVIRONMENTS_FOLDER = "environments"
COMPLETE_MARK = "finery.json"
"""The file in an environment that is written last."""
KEPT_LINES = 200
"""Lines of uv's or pip's output in which its error is searched."""
MAX_REASON = 300
"""Characters of that error in finery's."""
_NETWORK_MESSAGES = (
    "error sending request", "failed to fetch", "dns error", "newconnectionerror",
    "temporary failure in name resolution", "connection refused", "no network",
)  # fmt: skip
_DISK_FULL_MESSAGES = ("no space left on device", "disk quota exceeded")
_CHECK_SCRIPT = (
    "import finery.execute.worker\n"
    "from finery.util.installed import version_of\n"
    "print('finery', version_of('finery'))"
)
Report = Callable[[Any], None]
"""Takes `log` and `progress` events, see `finery.execute.executor.Report`."""


# -- resolving -----------------------------------------------------------------------------------


def resolve_environment(
    name: str, packages: Sequence[str], python: str | None, wheels: str
) -> Environment:
    """An environment with the versions of all packages that `packages` need.

    python: default: this one's version. wheels: see `Environment`. uv's versions hold on all
    platforms; pip's on this one. Raises `StepError` if there are none, or without a network.
    """
    python = python or _this_python()
    uv = find_uv()
    with tempfile.TemporaryDirectory(prefix="finery-") as folder:
        own_wheels = [
            make_requirement(distribution, Path(folder)) for distribution in own_distributions()
        ]
        request, locked = Path(folder, "wanted.txt"), Path(folder, "locked")
        request.write_text("\n".join([*packages, *own_wheels]), encoding="utf-8")
        try:
            if uv:
                _call([
                    uv, "pip", "compile", "--universal", "--python", sys.executable,
                    "--python-version", python, "--no-header", "--no-annotate", "--quiet",
                    *index_options(wheels), "--output-file", str(locked), str(request),
                ])  # fmt: skip
                lines = locked.read_text(encoding="utf-8").splitlines()
            else:
                _call([
                    *_pip(_interpreter(python, name)), "install", "--dry-run", "--quiet",
                    "--ignore-installed", "--report", str(locked), *index_options(wheels), "-r",
                    str(request),
                ])  # fmt: skip
                lines = [*_report_requirements(json.loads(locked.read_text(encoding="utf-8")))]
        except CallError as error:
            raise error.explained(f"environment '{name}' can't be resolved", wheels) from None
    own_names = {distribution.name for distribution in own_distributions()}
    names = {line: re.match(r"[\w.-]+", line) for line in map(str.strip, lines)}  # not comments
    requirements = [
        line for line, match in names.items() if match and normalise_name(match[0]) not in own_names
    ]
    return Environment(name, python, tuple(requirements), wheels)


def _report_requirements(report: dict[str, Any]) -> Iterator[str]:
    """A requirement for each package that pip would install."""
    for item in sorted(
        report["install"], key=lambda item: normalise_name(item["metadata"]["name"])
    ):
        name, url = normalise_name(item["metadata"]["name"]), item["download_info"]["url"]
        yield f"{name} @ {url}" if item["is_direct"] else f"{name}=={item['metadata']['version']}"


# -- making --------------------------------------------------------------------------------------


def environment_folder(environment: Environment, root: Path) -> Path:
    """The folder of an environment in the store `root`, for finery as it is installed here."""
    name = blake3(f"{environment.digest} {own_digest()}".encode()).hexdigest(16)
    return root / ENVIRONMENTS_FOLDER / name


def is_environment_complete(environment: Environment, root: Path) -> bool:
    """Whether an environment is complete."""
    return _is_complete(environment_folder(environment, root))


def is_running_in(environment: Environment) -> bool:
    """Whether this process runs in an environment that `ensure` made."""
    return bool(_read_mark(Path(sys.prefix)).get("digest") == environment.digest)


def _is_complete(folder: Path) -> bool:
    """Whether an environment is complete, was made in this folder, and still has its Python."""
    is_here = _read_mark(folder).get("folder") == os.path.realpath(folder)
    return is_here and (folder / "bin" / "python").exists()


def _read_mark(folder: Path) -> dict[str, Any]:
    """What marks an environment as complete; empty if it isn't."""
    try:
        return dict(json.loads((folder / COMPLETE_MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def ensure(environment: Environment, root: Path, report: Report = lambda event: None) -> Path:
    """The Python of an environment in the store `root`, which is made if it is missing.

    This process, also as another program after `exec`, holds the environment's lock until it ends.
    Raises `StepError`: no network, a full disk, packages that don't fit this finery.
    """
    folder = environment_folder(environment, root)

    def hold(kind: int) -> None:
        if not _lock(lock, kind | fcntl.LOCK_NB):
            message = f"waiting for another process that makes '{environment.name}'"
            report({"event": "log", "message": message})
            _lock(lock, kind)

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        os.set_inheritable(lock, True)
        hold(fcntl.LOCK_SH)
        while not _is_complete(folder):
            hold(fcntl.LOCK_EX)
            if not _is_complete(folder):
                _make_environment(environment, folder, report)
            hold(fcntl.LOCK_SH)
    except OSError as error:
        raise disk_full(error) or StepError(
            f"environment '{environment.name}' can't be made: {error}"
        ) from error
    return folder / "bin" / "python"


def _lock(file: int, kind: int) -> bool:
    """Lock a file; False if another process has it. File systems without locks lock nothing."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _make_environment(environment: Environment, folder: Path, report: Report) -> None:
    """Make a folder with an environment in it, or leave none."""
    name, python = environment.name, folder / "bin" / "python"
    count = counted(len(environment.requirements), "package")
    report({"event": "log", "message": f"making the environment {name}: {count}"})
    shutil.rmtree(folder, ignore_errors=True)
    interpreter, uv = _interpreter(environment.python, name), find_uv()
    try:
        with tempfile.TemporaryDirectory(prefix="finery-") as temporary:
            own_wheels = [
                make_requirement(distribution, Path(temporary))
                for distribution in own_distributions()
            ]
            requirements_file = Path(temporary, "requirements.txt")
            requirements_file.write_text(
                "\n".join([*environment.requirements, *own_wheels]), encoding="utf-8"
            )
            install = [
                "install",
                "--no-deps",
                *index_options(environment.wheels),
                "-r",
                str(requirements_file),
            ]
            if uv:
                _call([uv, "venv", "--no-project", "--python", interpreter, str(folder)])
                on = ["--python", str(python)]
                _call([uv, "pip", *install[:1], *on, *install[1:]], report)
                check = [uv, "pip", "check", *on]
            else:
                _call([interpreter, "-m", "venv", "--without-pip", str(folder)])
                _call([*_pip(str(python)), *install, "--no-compile"], report)
                check = [*_pip(str(python)), "check"]
        try:
            _call(check)
        except CallError as error:
            # Only what is installed as it is here can differ from what was resolved. Many packages
            # declare what they don't need, and uv and pip resolve differently from their checks.
            names = {distribution.name for distribution in own_distributions()}
            requiring = [(re.match(r"(?:The package `)?([\w.-]+)", x), x) for x in error.lines]
            unfit = [
                line for match, line in requiring if match and normalise_name(match[1]) in names
            ]
            if unfit:
                raise StepError(
                    f"environment '{name}' in recipe.lock doesn't fit this finery",
                    details=unfit[-5:],
                    fix="resolve it again: finery build --update-lock",
                ) from None
        printed = _call([str(python), "-c", _CHECK_SCRIPT])[-1:]
        if printed != [expected := f"finery {version_of('finery')}"]:
            raise StepError(f"environment '{name}' has {printed} instead of {expected}")
    except CallError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise error.explained(f"environment '{name}' can't be made", environment.wheels) from None
    except (OSError, FineryError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    facts = {"name": name, "digest": environment.digest, "folder": os.path.realpath(folder)}
    staged = folder / f".{COMPLETE_MARK}"
    staged.write_text(json.dumps(facts), encoding="utf-8")
    staged.replace(folder / COMPLETE_MARK)


def variables_in(python: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of a process with this Python, as an activated environment has."""
    path = os.pathsep.join([str(python.parent), *filter(None, [variables.get("PATH")])])
    inherited = {name: value for name, value in variables.items() if name != "PYTHONHOME"}
    return inherited | {"VIRTUAL_ENV": str(python.parent.parent), "PATH": path}


def main() -> None:
    """Become a worker in an environment: `python -m finery.execute.venv FD PARENT`.

    The first message on the socket FD has the environment, the store, and the variables of the
    worker. The second, its task, is left for the worker.
    """
    from multiprocessing.connection import Connection

    connection = Connection(int(sys.argv[1]))
    environment, root, variables = msgspec.msgpack.decode(
        connection.recv_bytes(), type=tuple[Environment, str, dict[str, str]]
    )

    def send(event: Any) -> None:
        print(event.get("message") or event.get("text") or event["error"], file=sys.stderr)
        connection.send_bytes(msgspec.msgpack.encode(event))

    try:
        python = ensure(environment, Path(root), send)
    except FineryError as error:
        send({"event": "failed", "error": error.to_dict()})
        return
    sys.stderr.flush()
    variables = variables_in(python, variables)
    os.execve(python, [str(python), "-P", "-m", "finery.execute.worker", *sys.argv[1:]], variables)


# -- removing ------------------------------------------------------------------------------------


def environments_in_use(recipes: Iterable[Path], root: Path) -> set[Path]:
    """The folders of environments that the lock files of these recipes name."""
    locks = (Lock(recipe) for recipe in recipes)
    return {
        environment_folder(environment, root)
        for lock in locks
        for environment in pinned_environments(lock)
    }


def unused_environments(recipes: Iterable[Path], root: Path) -> list[Path]:
    """The folders of other environments in the store, complete or not."""
    folders = (path for path in (root / ENVIRONMENTS_FOLDER).glob("*") if path.is_dir())
    return sorted({*folders} - environments_in_use(recipes, root))


def remove_environment(folder: Path) -> bool:
    """Remove an environment; False if a process uses or makes it. Its lock stays, an empty file."""
    lock = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
        (folder / COMPLETE_MARK).unlink(missing_ok=True)  # first, in case the rest is interrupted
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        os.close(lock)


# -- uv and pip ----------------------------------------------------------------------------------


class CallError(Exception):
    """uv or pip failed. lines: the end of its output."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines

    def explained(self, problem: str, wheels: str) -> StepError:
        """The error for users, with the part of the output that has the reason."""
        text = "\n".join(self.lines).lower()
        if any(words in text for words in _DISK_FULL_MESSAGES):
            return StepError(f"{problem}: the disk is full", fix="free some disk space")
        starts = (i for i, line in enumerate(self.lines) if line.startswith(("cause:", "ERROR:")))
        reasons = self.lines[next(starts, -3) :]
        reason = re.sub(r"\b(cause|ERROR): |, we can conclude that .*", "", " ".join(reasons))
        reason = shortened(reason, MAX_REASON)
        fix = "correct its packages"
        if wheels:
            fix = f"put a wheel of the missing package into {wheels}, or correct `packages`"
        if any(words in text for words in _NETWORK_MESSAGES):
            fix = (
                "connect to a network, or let `wheels` of finery.toml name a folder with the wheels"
            )
        return StepError(f"{problem}: {reason}", fix=fix)


def _call(command: Sequence[str], report: Report | None = None) -> list[str]:
    """The lines that a command printed, stripped. report: gets each as a progress.

    Raises `CallError` if it fails.
    """
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in map(str.strip, process.stdout):
                lines.append(line)
                if report and line and not line.startswith("+ "):
                    report({"event": "progress", "done": 0, "total": 0, "text": line})
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise CallError([*lines])
    return [*lines]


def find_uv() -> str | None:
    """uv beside this Python or on PATH; None if it isn't installed."""
    with suppress(ImportError, FileNotFoundError):
        from uv import find_uv_bin

        return str(find_uv_bin())
    return shutil.which("uv")


def _pip(python: str) -> list[str]:
    """This environment's pip, working on another Python."""
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]


def index_options(wheels: str) -> list[str]:
    return ["--no-index", "--find-links", wheels] if wheels else []


def _this_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _interpreter(python: str, name: str) -> str:
    """A Python of a version: this one, another on PATH, or one that uv finds or downloads."""
    if python == _this_python():
        return sys.executable
    if find_uv():
        return python
    path = shutil.which(f"python{python}")
    if path is None:
        raise StepError(
            f"environment '{name}' can't be made: Python {python} was not found",
            fix="install it, or install uv, which downloads it: pip install 'finery[environments]'",
        )
    return path


# -- finery and its plugins as wheels -------------------------------------------------------------


_EXCLUDED_METADATA = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json")
"""Files of metadata that an installer writes."""


def own_distributions() -> list[Distribution]:
    """finery's distribution and those of installed plugins, sorted by name."""
    plugin_distributions = {entry.distribution for entry in entry_points(GROUP)}
    return sorted({*plugin_distributions, *filter(None, [distributions().get("finery")])})


def own_digest() -> str:
    """Changes when one of them is installed anew with other files."""
    records = (distribution.read("RECORD") for distribution in own_distributions())
    return blake3("\0".join(records).encode()).hexdigest()


def make_requirement(distribution: Distribution, folder: Path) -> str:
    """How pip and uv get exactly this distribution: `finery @ file:///…`, a wheel in `folder`.

    It has the installed files. Of an editable installation, that is the link to its source, and
    the wheel makes such a link, too. One whose installer left no list of files must be on an index.
    """
    name, version = distribution.name, distribution.version
    metadata = Path(distribution.folder)
    rows = [row for row in csv.reader(distribution.read("RECORD").splitlines()) if row]
    if not rows:
        return f"{name}=={version}"
    lines = (metadata / "WHEEL").read_text(encoding="utf-8").splitlines()
    tag = next(line.removeprefix("Tag:").strip() for line in lines if line.startswith("Tag:"))
    path = folder / f"{metadata.name.removesuffix('.dist-info')}-{tag}.whl"
    record = f"{metadata.name}/RECORD"
    with ZipFile(path, "w", strict_timestamps=False) as wheel:
        packed = [file for file, *_ in rows if _is_packed(file, metadata.name)]
        for file in packed:
            wheel.write(metadata.parent / file, file)
        wheel.writestr(record, "".join(f'"{file}",,\n' for file in (*packed, record)))
    return f"{name} @ {path.as_uri()}"


def _is_packed(file: str, metadata: str) -> bool:
    """Whether a wheel has a file: not scripts, which are made anew, nor compiled code."""
    written_later = [f"{metadata}/{name}" for name in _EXCLUDED_METADATA]
    outside = file.startswith("..") or os.path.isabs(file)
    return not outside and not file.endswith(".pyc") and file not in written_later


if __name__ == "__main__":
    main()
