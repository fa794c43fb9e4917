"""The step: a folder that `ollama create` takes, from the GGUF alone."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny_gguf import CHATML, write_tiny_gguf

from finery import Bundle, Model
from finery.testing import run_step
from finery_gguf.llama import Gguf
from finery_ollama.derive import is_mistakable
from finery_ollama.modelfile import Modelfile, read_modelfile
from finery_transformers.frozen.template import FROZEN_MARK, prologue

FROZEN = prologue({}, (), tools=False) + CHATML


def written(
    folder: Path,
    template: str = CHATML,
    meta: dict[str, Any] | None = None,
    architecture: str = "llama",
    alignment: int | None = None,
    **settings: Any,
) -> Bundle:
    folder.mkdir(exist_ok=True)
    path = write_tiny_gguf(
        folder / "model-q8_0.gguf",
        template=template,
        architecture=architecture,
        alignment=alignment,
    )
    gguf = Model(folder, meta={"format": "gguf", "file": path.name, **(meta or {})})
    step = Modelfile(**{"gguf": gguf, "name": "tiny", **settings})
    made = run_step(step, folder)
    assert isinstance(made, Bundle)
    return made


def commands(bundle: Bundle) -> list[tuple[str, str]]:
    return read_modelfile(bundle.file("Modelfile").read_text(encoding="utf-8"))


@pytest.mark.parametrize("template", [FROZEN, CHATML], ids=["frozen", "a GGUF of others"])
def test_the_modelfile(tmp_path: Path, template: str) -> None:
    meta = {"license": "apache-2.0", "prompts": {"system": "Of the rows."}}
    made = written(tmp_path, template, meta, system='Say "yes".\nOr no.')
    assert made.meta["system"] == 'Say "yes".\nOr no.'
    assert dict(commands(made)) == {
        "FROM": "./model-q8_0.gguf",
        "REQUIRES": "0.30.0",
        "SYSTEM": 'Say "yes".\nOr no.',
        "PARAMETER temperature": "0",
        "PARAMETER repeat_penalty": "1",
        "PARAMETER num_ctx": "1024",
        "PARAMETER stop": "<|im_start|>",
        "LICENSE": "apache-2.0",
    }


def test_stops_are_the_tokens_around_an_answer(tmp_path: Path) -> None:
    found = commands(written(tmp_path, parameters={"stop": ["\n\n", "<|im_end|>"]}))
    assert [v for n, v in found if n == "PARAMETER stop"] == ["<|im_end|>", "<|im_start|>", "\n\n"]


def test_parameters_override_the_defaults(tmp_path: Path) -> None:
    settings = {"temperature": 0.5, "num_ctx": 256, "use_mmap": False}
    found = commands(written(tmp_path, parameters=settings))
    assert ("PARAMETER temperature", "0.5") in found
    assert ("PARAMETER num_ctx", "256") in found
    assert ("PARAMETER use_mmap", "false") in found


@pytest.mark.parametrize("name", ["", "-tiny", "tiny/", "a b", "tiny:", "a/b/c/d", "é", "x" * 81])
def test_bad_names(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"gguf": Model.placeholder("g"), "name": name}, Modelfile)


def test_the_bundle_is_whole(tmp_path: Path) -> None:
    made = written(tmp_path, FROZEN)
    assert made.meta["run"] == "ollama create tiny -f Modelfile && ollama run tiny"
    guide = made.file("RUN.md").read_text()
    assert made.meta["run"] in guide
    assert "send `temperature: 0` in each request" in guide
    assert set(made.meta["files"]) == {"Modelfile", "RUN.md", "request.json", "model-q8_0.gguf"}
    source = tmp_path / "model-q8_0.gguf"
    assert made.file(source.name).read_bytes() == source.read_bytes()
    assert made.file(source.name).stat().st_ino != source.stat().st_ino


# -- GGUFs whose chat template may resemble one that Ollama knows ----------------------------------

THINKING = CHATML + "{# <think></think> #}"


@pytest.mark.parametrize(
    ("template", "may"),
    [(FROZEN, False), (CHATML, True), (THINKING, False), (CHATML + "{# tools #}", False)],
)
def test_what_ollama_may_take_for_a_template_that_it_knows(template: str, may: bool) -> None:
    assert is_mistakable(template) == may


@pytest.mark.parametrize("alignment", [None, 64])
def test_a_mark_changes_nothing_but_the_chat_template(
    tmp_path: Path, alignment: int | None
) -> None:
    from gguf import GGUFReader

    made = written(tmp_path, CHATML, alignment=alignment)
    assert "has a comment before its chat template" in made.file("RUN.md").read_text()
    source = tmp_path / "model-q8_0.gguf"
    files = [GGUFReader(path) for path in (source, made.file(source.name))]
    before, after = ({n: f.contents() for n, f in file.fields.items()} for file in files)
    template = after.pop("tokenizer.chat_template")
    assert template.startswith(FROZEN_MARK)
    assert template.endswith("\n{{- '' }}" + before.pop("tokenizer.chat_template"))
    assert before == after
    weights = [{t.name: t.data.tobytes() for t in file.tensors} for file in files]
    assert weights[0] == weights[1] != {}


@pytest.mark.parametrize(("template", "architecture"), [(THINKING, "llama"), (CHATML, "gemma4")])
def test_a_gguf_that_needs_no_mark_is_copied_as_it_is(
    tmp_path: Path, template: str, architecture: str
) -> None:
    made = written(tmp_path, template, architecture=architecture)
    source = tmp_path / "model-q8_0.gguf"
    assert made.file(source.name).read_bytes() == source.read_bytes()


@pytest.mark.real
def test_smollm2_is_marked(smollm2_gguf: Path, tmp_path: Path) -> None:
    gguf = Model(smollm2_gguf.parent, meta={"format": "gguf", "file": smollm2_gguf.name})
    made = run_step(Modelfile(gguf=gguf, name="smol"), tmp_path)
    template = Gguf(made.file(smollm2_gguf.name), vocab_only=True).chat_template
    assert template is not None
    assert template.startswith(FROZEN_MARK)


# -- architectures for which Ollama has a renderer, which ignores the frozen template --------------

SYSTEM: dict[str, Any] = {"frozen": {"tools": False, "system": "Name the intent."}}


@pytest.mark.parametrize("architecture", ["gemma4", "laguna", "nemotron_h", "nemotron_h_moe"])
def test_a_renderer_gets_what_the_frozen_template_has(tmp_path: Path, architecture: str) -> None:
    made = written(tmp_path, FROZEN, SYSTEM, architecture)
    assert ("SYSTEM", "Name the intent.") in commands(made)
    guide = made.file("RUN.md").read_text()
    assert "a renderer of its own" in guide
    assert "without a system message begins with that of the training: Name the intent." in guide
    assert "end with an error that says so" not in guide
    assert "unless a request has `think: false`" in guide
    assert "ollama run tiny --think=false" in guide
    assert json.loads(made.file("request.json").read_text())["reasoning_effort"] == "none"


def test_a_chat_template_keeps_its_own_system_message(tmp_path: Path) -> None:
    made = written(tmp_path, FROZEN, SYSTEM)
    assert "SYSTEM" not in dict(commands(made))
    assert "reasoning_effort" not in json.loads(made.file("request.json").read_text())
    assert "end with an error that says so" in made.file("RUN.md").read_text()


def test_a_model_of_a_renderer_that_learned_to_think_thinks(tmp_path: Path) -> None:
    made = written(tmp_path, FROZEN, {"frozen": {"thinking": True}}, "gemma4")
    assert "reasoning_effort" not in json.loads(made.file("request.json").read_text())
    assert "--think=false" not in made.meta["run"]


# -- what Ollama changes in conversations ----------------------------------------------------------

THINKS = CHATML.replace("{{ m.content }}", "{{ m.reasoning_content }}{{ m.content }}")
DROPS = "Ollama drops the thinking (`reasoning_content`) of earlier answers"


@pytest.mark.parametrize(
    ("template", "thinking", "drops"),
    [(THINKS, True, True), (THINKS, False, False), (CHATML, True, False)],
    ids=["rows and template", "template alone", "rows alone"],
)
def test_earlier_thinking_is_dropped(
    tmp_path: Path, template: str, thinking: bool, drops: bool
) -> None:
    frozen = prologue({}, (), tools=False) + template
    made = written(tmp_path, frozen, {"frozen": {"thinking": thinking}})
    assert (DROPS in made.file("RUN.md").read_text()) == drops


# -- settings of the GGUF's step that its file doesn't have ----------------------------------------

KWARGS: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize("meta", [{}, KWARGS], ids=["without arguments", "with arguments"])
def test_an_export_has_its_settings_in_its_file(tmp_path: Path, meta: dict[str, Any]) -> None:
    frozen = prologue(meta.get("chat_template_kwargs", {}), (), tools=False) + CHATML
    assert "TEMPLATE" not in dict(commands(written(tmp_path, template=frozen, meta=meta)))
