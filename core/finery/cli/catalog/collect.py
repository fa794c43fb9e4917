"""Installs each distribution of a list in an environment of its own, and checks its plugins there.

An environment has finery as users get it: a wheel of what is installed here, or of the source tree
if that is an editable installation. uv links files from its cache, so nothing has to be shared
between environments. Code of plugins gets none of this process's variables except PATH.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from blake3 import blake3

from finery.cli.catalog.probe import DistributionFacts
from finery.errors import UsageError
from finery.execute.venv import find_uv, index_options, make_requirement
from finery.util.installed import distributions, normalise_name
from finery.util.paths import shown

INSTALL_SECONDS = 900
CHECK_SECONDS = 180
LONGEST_OUTPUT = 20_000
"""Characters of a program's output, from its end."""
_TEST_FILE = re.compile(r"(?:^|/)test_\w+\.py$")
_CONTRACT_FILE = """\
from finery.cli.catalog.contracts import contracts_of

globals().update(contracts_of({name!r}))
"""

Verdict = Literal["passed", "failed", "unfinished", "untested"]


class Contracts(msgspec.Struct):
    """What pytest said of the contracts. are_shipped: by the distribution, else `contracts_of`."""

    verdict: Verdict = "untested"
    output: str = ""
    are_shipped: bool = False


class Entry(msgspec.Struct):
    """A line of the list. key: changes if it must be checked again. facts: None after an error."""

    requirement: str
    key: str = ""
    facts: DistributionFacts | None = None
    released: str = ""
    contracts: Contracts = msgspec.field(default_factory=Contracts)
    error: str = ""


class Listed(NamedTuple):
    """A requirement as it is listed, and its wheel or source folder if it names one."""

    text: str
    path: Path | None = None


class RunError(Exception):
    """A program failed or took too long; the text is its output."""


def read_list(source: Path) -> list[Listed]:
    """The requirements of a file, or the wheels of a folder. Raises `UsageError`."""
    where, fix = shown(source), "name a file with a requirement per line, or a folder of wheels"
    if source.is_dir():
        listed = [Listed(path.name, path.resolve()) for path in sorted(source.glob("*.whl"))]
    else:
        try:
            listed = [*_read_lines(source, source.read_text(encoding="utf-8"))]
        except (OSError, UnicodeError) as error:
            raise UsageError(f"the list can't be read: {error}", where=where, fix=fix) from None
    if not listed:
        raise UsageError("the list names no distribution", where=where, fix=fix)
    return listed


def _read_lines(source: Path, text: str) -> Iterator[Listed]:
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = re.split(r"(?:^|\s)#", line)[0].strip()
        if not line:
            continue
        path, name, problem = None, distribution_name(line), ""
        if line.startswith((".", "/")) or line.endswith(".whl"):
            path = (source.parent / line).resolve()
            name, problem = str(path), "" if path.exists() else "was not found"
        elif not re.match(r"[A-Za-z0-9][\w.-]*\s*($|[\[(<>=!~;]|@(?!\s*file:))", line):
            problem = "is not a requirement, e.g. finery-shop>=1, and no path"
        if name in lines:
            problem = f"is listed in line {lines[name]}, too"
        if problem:
            where = f"{shown(source)}:{number}"
            raise UsageError(f"'{line}' {problem}", where=where, fix="correct or remove this line")
        lines[name] = number
        yield Listed(line, path)


def distribution_name(requirement: str) -> str:
    """The normalised name in a requirement or in a wheel's file name."""
    match = re.match(r"[\w.]+(?=-)" if requirement.endswith(".whl") else r"[\w.-]+", requirement)
    return normalise_name(match[0]) if match else ""


class Catalogue:
    """Examines distributions with one finery.

    wheels: a folder with all wheels, empty for the index. seconds: for the contracts of one
    distribution; 0 runs none. previous: key → an entry of an earlier run, which is kept.
    """

    def __init__(
        self, uv: str, folder: Path, wheels: str, seconds: int, previous: Mapping[str, Entry]
    ) -> None:
        self.uv, self.wheels, self.seconds, self.previous = uv, wheels, seconds, previous
        self.finery = self._finery(folder)

    def _finery(self, folder: Path) -> str:
        """The requirement of the finery that is installed here."""
        own = distributions()["finery"]
        origin = json.loads(own.read("direct_url.json") or "{}")
        if not origin.get("dir_info", {}).get("editable"):
            return make_requirement(own, folder)
        source, is_isolated = unquote(urlsplit(origin["url"]).path), find_spec("hatchling") is None
        return f"finery @ {self._build(Path(source), folder / 'wheel', is_isolated).as_uri()}"

    def _build(self, source: Path, folder: Path, is_isolated: bool = True) -> Path:
        """The wheel of a source folder. is_isolated: in an environment with its build backend."""
        options = [*index_options(self.wheels), *([] if is_isolated else ["--no-build-isolation"])]
        folder.mkdir()
        build = [self.uv, "build", "--wheel", "-q", "--python", sys.executable, "-o", str(folder)]
        _run([*build, *options, str(source)])
        return next(folder.glob("*.whl"))

    def entry(self, listed: Listed) -> tuple[Entry, bool]:
        """The facts of a distribution, and whether they are those of an earlier run."""
        with tempfile.TemporaryDirectory(prefix="finery-catalog-") as name:
            folder = Path(os.path.realpath(name))
            try:
                entry = self._examined(listed, folder)
            except RunError as error:
                return Entry(listed.text, error=str(error).replace(str(folder), "…")), False
        return entry, entry.key in self.previous

    def _examined(self, listed: Listed, folder: Path) -> Entry:
        path = listed.path
        if path and path.is_dir():
            path = self._build(path, folder / "wheel")
        name = distribution_name(path.name if path else listed.text)
        wanted = f"{name} @ {path.as_uri()}" if path else listed.text
        packages = [self.finery] if name == "finery" else [self.finery, wanted]
        resolved, released = self._resolve(name, packages, folder)
        parts = [listed.text, resolved, self.seconds > 0, sys.version_info[:2]]
        key = blake3(repr(parts).encode()).hexdigest(16)
        if key in self.previous:
            return self.previous[key]
        python = folder / "environment" / "bin" / "python"
        environment = str(python.parent.parent)
        _run([self.uv, "venv", "-q", "--no-project", "--python", sys.executable, environment])
        self._install(python, packages)
        facts = _facts(name, python, folder)
        entry = Entry(listed.text, key, facts, released)
        if not facts.plugins:
            entry.error = f"{name} {facts.version} has no entry point in the group `finery`"
        elif name == "finery":
            entry.contracts.output = "finery's own tests run the contracts of its plugins."
        elif self.seconds and not all(plugin.broken for plugin in facts.plugins):
            entry.contracts = self._contracts(name, path, python, folder)
        return entry

    def _resolve(self, name: str, packages: Sequence[str], folder: Path) -> tuple[list[str], str]:
        """The versions, digests and commits of all packages, and the date of the named one's
        release if the index says it.
        """
        request, locked = folder / "request.txt", folder / "pylock.catalog.toml"
        request.write_text("\n".join(packages), encoding="utf-8")
        _run([
            self.uv, "pip", "compile", "--format", "pylock.toml", "-q", "--no-header", "--python",
            sys.executable, *index_options(self.wheels), "-o", str(locked), str(request),
        ])  # fmt: skip
        text = locked.read_text(encoding="utf-8")
        resolved = re.findall(r'(?:name|version|sha256|commit-id) = "(.*?)"', text)
        listed = tomllib.loads(text)["packages"]
        files = [f for of in listed if of["name"] == name for f in of.get("wheels", ())]
        return resolved, max((str(f.get("upload-time", "")) for f in files), default="")[:10]

    def _install(self, python: Path, packages: Sequence[str]) -> None:
        install = [self.uv, "pip", "install", "-q", "--python", str(python)]
        _run([*install, *index_options(self.wheels), *packages])

    def _contracts(self, name: str, path: Path | None, python: Path, folder: Path) -> Contracts:
        """Run the tests that a distribution ships, or contracts that need no author."""
        self._install(python, ["pytest"])
        site = next((python.parent.parent / "lib").glob("*/site-packages"))
        folders = site.glob(f"{name.replace('-', '_')}-*.dist-info/RECORD")
        lines = [line for record in folders for line in record.read_text("utf-8").splitlines()]
        files = [site / file for line in lines if _TEST_FILE.search(file := line.split(",")[0])]
        are_shipped = bool(files)
        if not files:
            files = [folder / "test_contracts.py"]
            files[0].write_text(_CONTRACT_FILE.format(name=name), encoding="utf-8")
        options = ["-q", "-rfEs", "--tb=short", "-p", "no:cacheprovider", "--rootdir", str(folder)]
        command = [str(python), "-m", "pytest", *options, *map(str, files)]
        try:
            code, output, _ = _in_environment(command, python, folder, self.seconds)
        except RunError as error:
            return Contracts("unfinished", str(error).replace(str(folder), "…"), are_shipped)
        has_passed = code == 0 and re.search(r"^\d+ passed|, \d+ passed", output, re.MULTILINE)
        has_failed = code not in (0, 5)  # 5: no tests
        verdict: Verdict = "passed" if has_passed else "failed" if has_failed else "untested"
        return Contracts(verdict, output.replace(str(folder), "…"), are_shipped)


def _facts(name: str, python: Path, folder: Path) -> DistributionFacts:
    """What the plugins of a distribution provide, with the problems that `--check` finds."""
    path, base = folder / "facts.json", [str(python), "-m"]
    probe = [*base, "finery.cli.catalog.probe", name, str(path)]
    code, output, errors = _in_environment(probe, python, folder, CHECK_SECONDS)
    try:
        facts = msgspec.json.decode(path.read_bytes(), type=DistributionFacts)
    except (OSError, msgspec.MsgspecError):
        what = f"finery can't read what it provides (exit code {code})"
        raise RunError(f"{what}:\n{output}{errors}") from None
    check = [*base, "finery", "plugins", "--check", "--json"]
    code, output, errors = _in_environment(check, python, folder, CHECK_SECONDS)
    problems: dict[str, list[dict[str, str]]] = {}
    for line in output.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            data = json.loads(line)
            problems[data["plugin"]] = data["problems"]
    for plugin in facts.plugins:
        if plugin.name not in problems:
            raise RunError(f"`finery plugins --check` fails (exit code {code}):\n{output}{errors}")
        plugin.problems = problems[plugin.name]
    return facts


def _in_environment(
    command: Sequence[str], python: Path, folder: Path, seconds: int
) -> tuple[int, str, str]:
    """Run code of a plugin: exit code, output, errors. Raises `RunError` if it doesn't end."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    variables = {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "NO_COLOR": "1"}
    return _call(command, seconds, variables, home)


def _run(command: Sequence[str]) -> None:
    """Run uv. Raises `RunError` if it fails or doesn't end."""
    code, output, errors = _call(command, INSTALL_SECONDS, {**os.environ, "NO_COLOR": "1"}, None)
    if code != 0:
        raise RunError((output + errors).strip() or f"uv ended with exit code {code}")


def _call(
    command: Sequence[str], seconds: int, variables: Mapping[str, str], folder: Path | None
) -> tuple[int, str, str]:
    # Into files, since a process that a plugin leaves behind would keep pipes open.
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=variables,
            cwd=folder, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            code = process.wait(seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            text = f"it didn't end in {seconds} s:\n{_end_of(output)}{_end_of(errors)}"
            raise RunError(text) from None
        return code, _end_of(output), _end_of(errors)


def _end_of(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode(errors="replace")[-LONGEST_OUTPUT:]


Report = Callable[[Entry, bool], None]
"""Takes each entry, and whether it was kept."""


def collect(
    listed: Sequence[Listed], wheels: str, seconds: int, previous: Sequence[Entry], report: Report
) -> list[Entry]:
    """An entry for each requirement. Raises `UsageError` if finery's own wheel can't be made."""
    kept = {entry.key: entry for entry in previous if entry.key}
    entries, uv = [], find_uv()
    if uv is None:
        fix = "pip install 'finery[environments]'"
        raise UsageError("a catalogue needs uv, which isn't installed", fix=fix)
    with tempfile.TemporaryDirectory(prefix="finery-catalog-") as folder:
        try:
            catalogue = Catalogue(uv, Path(folder), wheels, seconds, kept)
        except RunError as error:
            raise UsageError(
                "a wheel of finery can't be built",
                details=str(error).splitlines()[-20:],
                fix="pip install hatchling, or connect to a network",
            ) from None
        for each in listed:
            entry, is_kept = catalogue.entry(each)
            report(entry, is_kept)
            entries.append(entry)
    return entries
