"""Which llama.cpp is used: the user's own first, the wheels else."""

import time
from pathlib import Path

import pytest
from serving import RECIPE, tiny_project
from tiny_gguf import write_tiny_gguf
from user_llama_cpp import write_programs

from finery import Model, Request, Sampling
from finery.testing import TestJob
from finery_gguf import programs
from finery_gguf.engine import GgufEngine
from finery_gguf.export import Export
from finery_gguf.programs import (
    CONVERTER,
    QUANTIZE,
    SERVER,
    VARIABLE,
    build_facts,
    build_files,
    user_program,
)

TALK = [{"role": "user", "content": "Who?"}]


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def test_without_one_the_wheels_are_used_and_no_key_changes() -> None:
    assert [user_program(name) for name in (SERVER, QUANTIZE, CONVERTER)] == [None] * 3
    assert Export(model=Model.placeholder("sft")).cache_key().facts == {}
    assert GgufEngine.cache_key().facts == {}


@pytest.mark.parametrize("named", [".", "build", "build/bin", "build/bin/llama-server"])
def test_a_folder_or_a_program_names_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    folder = write_programs(tmp_path / "llama.cpp")
    monkeypatch.setenv(VARIABLE, str(folder / named))
    for name in (SERVER, QUANTIZE):
        found = user_program(name)
        assert found is not None
        assert found.path == folder / "build" / "bin" / name
        assert found.build == "6123 (0ce8cd1)"
    assert Export(model=Model.placeholder("sft")).cache_key().facts == {
        "build of llama-quantize": "6123 (0ce8cd1)"
    }
    assert GgufEngine.cache_key().facts == {"llama.cpp": "llama-server 6123 (0ce8cd1), 16 slots"}


def test_the_path_comes_after_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = write_programs(tmp_path / "on-path") / "build" / "bin"
    named = write_programs(tmp_path / "named")
    monkeypatch.setenv("PATH", str(on_path))
    assert user_program(SERVER) == (on_path / SERVER, "6123 (0ce8cd1)")
    monkeypatch.setenv(VARIABLE, str(named))
    assert user_program(SERVER) == (named / "build" / "bin" / SERVER, "6123 (0ce8cd1)")
    monkeypatch.setenv(VARIABLE, programs.WHEELS)
    assert user_program(SERVER) is None


def test_a_server_that_is_installed_later_answers_the_rows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    test = "evaluate:\n  test: {use: eval.exact, models: tiny, rows: rows, max_tokens: 2}\n"
    project = tiny_project(tmp_path / "p", RECIPE + test)
    assert project.ran() == ["rows", "test", "tiny"]
    time.sleep(0.3)  # until a file can't change again without its time showing it
    assert project.ran() == project.ran() == []
    server = write_programs(tmp_path / "llama.cpp") / "build" / "bin" / SERVER
    (folder / SERVER).symlink_to(server)
    assert project.ran() == ["test"]


def test_a_converter_is_known_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_programs(tmp_path / "llama.cpp")
    (folder / CONVERTER).write_text("print()")
    (folder / "conversion").mkdir()
    (folder / "conversion" / "base.py").write_text("a = 1")
    monkeypatch.setenv(VARIABLE, str(folder / "build" / "bin"))
    before = user_program(CONVERTER)
    assert before is not None
    assert before.path == folder / CONVERTER
    (folder / "conversion" / "base.py").write_text("a = 2")
    assert user_program(CONVERTER) != before


SOURCES = {
    "bin/llama-server": "#!/bin/sh\necho 'version: 0 (unknown)'\n",
    "bin/llama-quantize": "#!/bin/sh\n",
    "bin/libggml-base.so": "ggml",
    "lib/libllama.so.0.0.0": "llama",
}
"""A llama.cpp that was built from an archive of its sources, which has no git repository."""


def from_archive(folder: Path, changed: str = "") -> Path:
    """Write it, with a comment more in the file that was changed."""
    for name, text in SOURCES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "# newer\n" * (name == changed))
        path.chmod(0o755)
    (folder / "lib" / "libllama.so").symlink_to("libllama.so.0.0.0")
    return folder


@pytest.mark.parametrize("changed", [name for name in SOURCES if name != "bin/llama-quantize"])
def test_a_build_without_a_version_is_known_by_its_content(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = []
    for name, newer in (("old", ""), ("copy", ""), ("new", changed)):
        monkeypatch.setenv(VARIABLE, str(from_archive(tmp_path / name, newer)))
        facts.append(build_facts(SERVER, QUANTIZE))
    assert facts[0]["build of llama-server"].startswith("0 (unknown), digest ")
    assert facts[0] == facts[1]
    assert not facts[0].items() & facts[2].items()
    libraries = {str(tmp_path / "new" / file) for file in SOURCES if "/lib" in file}
    assert libraries <= {*build_files(SERVER)}


def test_the_users_server_answers_on_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(programs.SERVER_WHEEL)
    devices = "  CUDA0: NVIDIA L4 (22478 MiB, 22000 MiB free)"
    monkeypatch.setenv(VARIABLE, str(write_programs(tmp_path / "llama.cpp", devices=devices)))
    path = write_tiny_gguf(tmp_path / "t.gguf")
    made = GgufEngine(Model(tmp_path, meta={"format": "gguf", "file": path.name}), TestJob())
    (answer,) = made.generate([Request(TALK)], Sampling(max_tokens=5))
    assert answer.completion_tokens == 5
    assert isinstance(made.job, TestJob)
    assert [event["message"] for event in made.job.events if event["event"] == "log"] == [
        "llama-server 6123 (0ce8cd1) answers; the last digits depend on the rows at the same time",
        "llama.cpp: all layers on CUDA0: NVIDIA L4 (22478 MiB, 22000 MiB free)",
    ]
    assert GgufEngine.uses_gpu()
    monkeypatch.setenv(programs.ENGINE, programs.LIBRARY)
    assert GgufEngine.cache_key().facts == {}
