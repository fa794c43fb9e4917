"""The files of a model: what identifies them, where links lead, and the JSON that finery reads.

They come from strangers: size, form and every value that finery uses are checked here. A link could
lead to any file of this machine, which would then be hashed, exported and shipped with the model.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from blake3 import blake3

from finery import DataError, Job

BUFFER_BYTES = (
    4 * 1024 * 1024
)  # the fastest of 1, 4, 16 and 64 MiB; read, since access to a mapping can raise SIGBUS


def identities(files: Mapping[str, Path], job: Job) -> dict[str, dict[str, Any]]:
    """{name: {"blake3": hex digest, "size": bytes}} for `files`, in order of names."""
    total, done = sum(path.stat().st_size for path in files.values()), 0
    identities: dict[str, dict[str, Any]] = {}
    for name, path in sorted(files.items()):
        digest, size = blake3(max_threads=blake3.AUTO), 0
        for block in _blocks(path):
            digest.update(block)
            size += len(block)
            job.progress(done + size, total, f"hashing {name}")
        done += size
        identities[name] = {"blake3": digest.hexdigest(), "size": size}
    return identities


def _blocks(path: Path) -> Iterator[memoryview]:
    """The file's content, in one buffer that is reused."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield buffer[:count]
    except OSError as error:
        raise DataError(f"can't read the file: {error.strerror}", where=str(path)) from error


def check_links(root: Path, names: Iterable[str], *, follow: bool) -> None:
    """Raise `DataError` for a file that is a link to elsewhere, unless links are followed.

    Two places keep a model's own files elsewhere: the hub's cache, where a snapshot links to the
    blobs of its repository (`models--owner--name/blobs`), and a finery build, which links to its
    store.
    """
    if follow:
        return
    inside = _own_folders(root)
    for name in sorted(names):
        try:
            target = (root / name).resolve()
        except (OSError, RuntimeError):  # RuntimeError: links in a circle
            continue  # it isn't a file, as whoever opens it reports
        if not any(target.is_relative_to(folder) for folder in inside):
            raise DataError(
                f"{name} is a link to a file outside the model's folder: {target}",
                where=str(root / name),
                fix="copy the file into the folder; if you trust where the link leads, set "
                "follow_links: true",
            )


def _own_folders(root: Path) -> list[Path]:
    folder = root.resolve()
    parent, place = folder.parent, folder.parent.parent
    if parent.name == "snapshots" and place.name.startswith("models--"):
        return [folder, (place / "blobs").resolve()]
    return [folder, place] if (place.name, parent.name) == (".finery", "views") else [folder]


LARGEST = 16 * 2**20
"""Bytes of a JSON file other than the index; the largest known is some 2 MB."""
LARGEST_INDEX = 64 * 2**20

Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.+-]{1,100}\Z")]
"""A class, a type of model or a method: it is shown, so it holds nothing that terminals obey."""
Size = Annotated[int, msgspec.Meta(ge=0, le=2**24)]
Layers = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
Rank = Annotated[int, msgspec.Meta(ge=0, le=2**16)]

_WORDS = {"array": "a list", "object": "an object", "str": "text", "int": "a whole number"}
"""msgspec's names of types → their names in errors."""

T = TypeVar("T")


class Quantization(msgspec.Struct, frozen=True):
    """The quantisation of a model."""

    quant_method: Name | None = None


class Config(msgspec.Struct, frozen=True):
    """The settings of a `config.json` that finery reads, with limits on absurd sizes."""

    architectures: list[Name] | None = None
    model_type: Name | None = None
    quantization_config: Quantization | None = None
    vocab_size: Size | None = None
    hidden_size: Size | None = None
    intermediate_size: Size | list[Size] | None = None
    num_hidden_layers: Layers | None = None
    text_config: "Config | None" = None


class AdapterConfig(msgspec.Struct, frozen=True):
    """The settings of an `adapter_config.json` that finery or PEFT uses for sizes and patterns."""

    peft_type: Name | None = None
    base_model_name_or_path: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    r: Rank | None = None
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, float] | None = None
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    layers_pattern: str | list[str] | None = None

    def patterns(self) -> list[str]:
        """The regular expressions that PEFT searches the names of layers for."""
        texts = [self.target_modules, self.exclude_modules, self.layers_pattern]
        single = [text for text in texts if isinstance(text, str)]
        listed = self.layers_pattern if isinstance(self.layers_pattern, list) else []
        keys = [*(self.rank_pattern or {}), *(self.alpha_pattern or {})]
        return [*single, *listed, *keys, *(self.modules_to_save or [])]


class Index(msgspec.Struct, frozen=True):
    """Which file of sharded weights holds which tensor."""

    weight_map: dict[str, str]


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. `DataError` if there is none.

    Numbers may be `NaN` and `Infinity`, which aren't valid JSON but are written by transformers.
    """
    raw = _bytes(path, LARGEST)
    try:
        content = json.loads(raw.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise _invalid(path, f"is not JSON: {error.msg}", error.lineno) from error
    except UnicodeDecodeError as error:
        raise _invalid(path, "is not UTF-8 text") from error
    except RecursionError as error:
        raise _invalid(path, "is nested too deeply") from error
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise _invalid(path, "holds a number with too many digits") from error
    if not isinstance(content, dict):
        raise _invalid(path, "must hold a JSON object")
    return content


def read_as(path: Path, kind: type[T]) -> T:
    """The content of a JSON file that finery uses. `DataError` if it has another form."""
    try:
        return msgspec.convert(read_object(path), kind)
    except msgspec.ValidationError as error:
        raise _invalid(path, f"is not valid: {reason(error)}") from error


def read_index(path: Path) -> Index:
    """The index of sharded weights. `DataError` if it isn't valid."""
    try:
        return msgspec.json.decode(_bytes(path, LARGEST_INDEX), type=Index)
    except msgspec.ValidationError as error:
        raise _invalid(path, f"is not valid: {reason(error)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(path, f"is not JSON: {error}") from error


def reason(error: Exception) -> str:
    """A validation error of msgspec in plain words: `shape[0]: expected a whole number >= 0`."""
    text, _, place = str(error).partition(" - at `")
    place = place.rstrip("`").removeprefix("$").lstrip(".").replace("[...]", "")
    if "matching regex" in text:
        text = "expected a name of at most 100 letters, digits and _ . + -"
    text = text.replace("`", "").replace(" | null", "").replace("Expected", "expected")
    for word, plain in _WORDS.items():
        text = re.sub(rf"\b{word}\b", plain, text)
    return f"{place}: {text}" if place else text


def walk(content: Any) -> Iterator[Any]:
    """All values in a nest of lists and objects, and the nest itself, in order."""
    waiting = [content]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, dict | list):
            waiting += reversed(part.values() if isinstance(part, dict) else part)


def _bytes(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise DataError(f"can't read the file: {error.strerror}", where=str(path)) from error
    if len(raw) > most:
        raise _invalid(path, f"is larger than {most // 2**20} MiB")
    return raw


def _invalid(path: Path, what: str, line: int = 0) -> DataError:
    return DataError(
        f"{path.name} {what}",
        where=f"{path}:{line}" if line else str(path),
        fix="copy or download the model again, or correct the file",
    )
