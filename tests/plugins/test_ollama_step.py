"""The step: a folder that `ollama create` takes, from the GGUF alone."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from go_templates import go_prompts, needs_go
from tiny_gguf import CHATML, write_tiny_gguf

from finery import Bundle, DataError, FineryError, Model, StepError
from finery.testing import TestJob, run_step
from finery_ollama.commands import read_modelfile
from finery_ollama.modelfile import Modelfile, copy

DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
)


def written(
    folder: Path, template: str = CHATML, meta: dict[str, Any] | None = None, **settings: Any
) -> Bundle:
    path = write_tiny_gguf(folder / "model-q8_0.gguf", template=template)
    gguf = Model(folder, meta={"format": "gguf", "file": path.name, **(meta or {})})
    step = Modelfile(**{"gguf": gguf, "name": "tiny", **settings})
    made = run_step(step, folder)
    assert isinstance(made, Bundle)
    return made


def commands(bundle: Bundle) -> list[tuple[str, str]]:
    return read_modelfile(bundle.file("Modelfile").read_text(encoding="utf-8"))


def test_the_modelfile(tmp_path: Path) -> None:
    made = written(tmp_path, system='Say "yes".\nOr no.', meta={"license": "apache-2.0"})
    found = dict(commands(made))
    del found["TEMPLATE"]
    assert found == {
        "FROM": "./model-q8_0.gguf",
        "SYSTEM": 'Say "yes".\nOr no.',
        "PARAMETER temperature": "0",
        "PARAMETER repeat_penalty": "1",
        "PARAMETER num_ctx": "1024",
        "PARAMETER stop": "<|im_start|>",
        "LICENSE": "apache-2.0",
    }


@needs_go
def test_the_prompt_that_ollama_writes(tmp_path: Path) -> None:
    template = dict(commands(written(tmp_path)))["TEMPLATE"]
    assert go_prompts(template, [[{"role": "user", "content": "Hi"}]]) == [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    ]


def test_a_bos_that_llama_cpp_adds_is_left_out(tmp_path: Path) -> None:
    flags = {"add_bos_token": True}  # of this tokenizer, it is <|im_start|>
    path = write_tiny_gguf(tmp_path / "t.gguf", flags=flags)
    gguf = Model(tmp_path, meta={"format": "gguf", "file": path.name})
    template = dict(commands(run_step(Modelfile(gguf=gguf, name="t"), tmp_path)))["TEMPLATE"]
    assert template.startswith('{{ range $i, $_ := .Messages }}{{ if eq .Role "system" }}')
    assert '{{ else if eq .Role "user" }}user\n{{ .Content }}<|im_end|>\n' in template


def test_stops_are_the_tokens_around_an_answer(tmp_path: Path) -> None:
    found = commands(written(tmp_path, parameters={"stop": ["\n\n", "<|im_end|>"]}))
    assert [v for n, v in found if n == "PARAMETER stop"] == ["<|im_end|>", "<|im_start|>", "\n\n"]


def test_a_template_without_special_tokens_stops_at_the_next_turn(tmp_path: Path) -> None:
    plain = (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n{% endfor %}### assistant:\n"
    )
    found = commands(written(tmp_path, template=plain))
    assert ("PARAMETER stop", "### user:") in found


def test_parameters_override_the_defaults(tmp_path: Path) -> None:
    settings = {"temperature": 0.5, "num_ctx": 256, "use_mmap": False}
    found = commands(written(tmp_path, parameters=settings))
    assert ("PARAMETER temperature", "0.5") in found
    assert ("PARAMETER num_ctx", "256") in found
    assert ("PARAMETER use_mmap", "false") in found


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"temprature": 1}, "no parameter 'temprature'"),
        ({"num_ctx": 2.5}, "num_ctx must be int, not 2.5"),
        ({"top_k": True}, "top_k must be int, not True"),
        ({"use_mmap": 1}, "use_mmap must be bool, not 1"),
    ],
)
def test_wrong_parameters(tmp_path: Path, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        written(tmp_path, parameters=parameters)


@pytest.mark.parametrize("name", ["tiny", "tiny:q8", "me/tiny", "host.io:5000/me/Tiny_1.b:v1"])
def test_good_names(name: str) -> None:
    fields = {"gguf": Model.placeholder("g"), "name": name}
    assert msgspec.convert(fields, Modelfile).name == name


@pytest.mark.parametrize("name", ["", "-tiny", "tiny/", "a b", "tiny:", "a/b/c/d", "é", "x" * 81])
def test_bad_names(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"gguf": Model.placeholder("g"), "name": name}, Modelfile)


def test_the_bundle_is_whole(tmp_path: Path) -> None:
    made = written(tmp_path)
    assert made.meta["run"] == "ollama create tiny -f Modelfile && ollama run tiny"
    assert made.meta["run"] in made.file("RUN.md").read_text()
    assert set(made.meta["files"]) == {"Modelfile", "RUN.md", "model-q8_0.gguf"}
    source = tmp_path / "model-q8_0.gguf"
    assert made.file(source.name).read_bytes() == source.read_bytes()
    assert made.file(source.name).stat().st_ino != source.stat().st_ino


def test_a_default_system_message_is_kept(tmp_path: Path) -> None:
    template = dict(commands(written(tmp_path, template=DEFAULT_SYSTEM + CHATML)))["TEMPLATE"]
    assert template.startswith("{{ range $i, $_ := .Messages }}{{ if and (eq $i 0)")
    assert "<|im_start|>system\nBe kind.<|im_end|>\n" in template


def test_a_template_that_strips_is_noted(tmp_path: Path) -> None:
    made = written(tmp_path, template=CHATML.replace("m.content", "m.content | trim"), system=" x ")
    assert ("SYSTEM", "x") in commands(made)
    assert "strips white space" in made.file("RUN.md").read_text()


def test_a_system_message_that_would_be_ignored_is_refused(tmp_path: Path) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    with pytest.raises(StepError, match="takes no system message"):
        written(tmp_path, template=refusing + CHATML, system="x")


def test_a_template_without_system_messages_is_noted(tmp_path: Path) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    made = written(tmp_path, template=refusing + CHATML)
    assert "takes no system message" in made.file("RUN.md").read_text()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CHATML + "{{ strftime_now('%d %b %Y') }}", "today's date"),
        ("{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}", "can't be written"),
        ("{{ raise_exception('no') }}", "refuses a plain conversation"),
    ],
)
def test_templates_that_ollama_cannot_write(tmp_path: Path, template: str, said: str) -> None:
    with pytest.raises(FineryError, match=said):
        written(tmp_path, template=template)


def test_only_a_gguf_is_taken(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="format 'adapter'"):
        Modelfile(gguf=Model(tmp_path, meta={"format": "adapter"}), name="x").run(TestJob(tmp_path))


def test_a_copy_has_all_bytes_and_leaves_the_source_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(os.urandom(3_000_001))
    source.chmod(0o444)
    before = source.stat()
    copy(source, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == source.read_bytes()
    assert source.stat().st_ctime_ns == before.st_ctime_ns


@pytest.mark.real
def test_smollm2_in_ollama(smollm2_gguf: Path, tmp_path: Path) -> None:
    meta = {"format": "gguf", "file": smollm2_gguf.name}
    made = run_step(Modelfile(gguf=Model(smollm2_gguf.parent, meta=meta), name="smol"), tmp_path)
    template = dict(commands(made))["TEMPLATE"]
    assert "<|im_start|>system\nYou are a helpful AI assistant named SmolLM" in template
