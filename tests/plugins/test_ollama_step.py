"""The step: a folder that `ollama create` takes, from the GGUF alone."""

import json
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from go_templates import go_prompts, needs_go
from tiny_gguf import CHATML, write_tiny_gguf

from finery import Bundle, FineryError, Model
from finery.testing import run_step
from finery_ollama.derive import replaces
from finery_ollama.modelfile import Modelfile, read_modelfile
from finery_transformers.frozen.template import prologue

OLD: Literal["<0.30"] = "<0.30"
FROZEN = prologue({}, (), tools=False) + CHATML


def written(
    folder: Path,
    template: str = CHATML,
    meta: dict[str, Any] | None = None,
    architecture: str = "llama",
    **settings: Any,
) -> Bundle:
    folder.mkdir(exist_ok=True)
    path = write_tiny_gguf(folder / "model-q8_0.gguf", template=template, architecture=architecture)
    gguf = Model(folder, meta={"format": "gguf", "file": path.name, **(meta or {})})
    step = Modelfile(**{"gguf": gguf, "name": "tiny", **settings})
    made = run_step(step, folder)
    assert isinstance(made, Bundle)
    return made


def commands(bundle: Bundle) -> list[tuple[str, str]]:
    return read_modelfile(bundle.file("Modelfile").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        ({"template": FROZEN}, {"REQUIRES": "0.30.0"}),
        ({"template": FROZEN, "ollama": "<0.30"}, {"TEMPLATE"}),
        ({"template": CHATML}, {"TEMPLATE", "REQUIRES"}),
    ],
    ids=["frozen", "for older versions", "a GGUF of others"],
)
def test_the_modelfile(tmp_path: Path, settings: dict[str, Any], own: Any) -> None:
    meta = {"license": "apache-2.0", "prompts": {"system": "Of the rows."}}
    made = written(tmp_path, system='Say "yes".\nOr no.', meta=meta, **settings)
    assert made.meta["system"] == 'Say "yes".\nOr no.'
    found = dict(commands(made))
    assert {n for n in ("TEMPLATE", "REQUIRES") if n in found} == {*own}
    found.pop("TEMPLATE", None)
    assert found.pop("REQUIRES", "0.30.0") == "0.30.0"
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
    template = dict(commands(written(tmp_path, template=FROZEN, ollama=OLD)))["TEMPLATE"]
    assert go_prompts(template, [[{"role": "user", "content": "Hi"}]]) == [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    ]


def test_a_bos_that_llama_cpp_adds_is_left_out(tmp_path: Path) -> None:
    flags = {"add_bos_token": True}  # of this tokenizer, it is <|im_start|>
    path = write_tiny_gguf(tmp_path / "t.gguf", flags=flags)
    gguf = Model(tmp_path, meta={"format": "gguf", "file": path.name})
    step = Modelfile(gguf=gguf, name="t", ollama=OLD)
    template = dict(commands(run_step(step, tmp_path)))["TEMPLATE"]
    assert template.startswith('{{ range $i, $_ := .Messages }}{{ if eq .Role "system" }}')
    assert '{{ else if eq .Role "user" }}user\n{{ .Content }}<|im_end|>\n' in template


@pytest.mark.parametrize("versions", [{}, {"ollama": OLD}])
def test_stops_are_the_tokens_around_an_answer(tmp_path: Path, versions: dict[str, Any]) -> None:
    found = commands(written(tmp_path, **versions, parameters={"stop": ["\n\n", "<|im_end|>"]}))
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
    made = written(tmp_path)
    assert made.meta["run"] == "ollama create tiny -f Modelfile && ollama run tiny"
    guide = made.file("RUN.md").read_text()
    assert made.meta["run"] in guide
    assert "send `temperature: 0` in each request" in guide
    assert set(made.meta["files"]) == {"Modelfile", "RUN.md", "request.json", "model-q8_0.gguf"}
    source = tmp_path / "model-q8_0.gguf"
    assert made.file(source.name).read_bytes() == source.read_bytes()
    assert made.file(source.name).stat().st_ino != source.stat().st_ino


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CHATML + "{{ strftime_now('%d %b %Y') }}", "today's date"),
        ("{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}", "can't be written"),
        ("{{ raise_exception('no') }}", "refuses a plain conversation"),
    ],
)
def test_templates_that_an_old_ollama_cannot_write(
    tmp_path: Path, template: str, said: str
) -> None:
    with pytest.raises(FineryError, match=said):
        written(tmp_path, template=template, ollama=OLD)


@pytest.mark.real
def test_smollm2_in_ollama(smollm2_gguf: Path, tmp_path: Path) -> None:
    meta = {"format": "gguf", "file": smollm2_gguf.name}
    gguf = Model(smollm2_gguf.parent, meta=meta)
    made = run_step(Modelfile(gguf=gguf, name="smol", ollama=OLD), tmp_path)
    template = dict(commands(made))["TEMPLATE"]
    assert "<|im_start|>system\nYou are a helpful AI assistant named SmolLM" in template


# -- Ollama 0.30 and later, which use the GGUF's chat template -------------------------------------


@pytest.mark.parametrize(
    ("template", "wins"),
    [
        (FROZEN, "chat template"),
        (CHATML, "TEMPLATE"),
        (CHATML + "{# <think></think> #}", "chat template"),
    ],
)
def test_what_ollama_prefers_is_the_same_with_any_template_that_it_knows(
    template: str, wins: str
) -> None:
    assert replaces(template) == (wins == "TEMPLATE")


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


@pytest.mark.parametrize("versions", [{"ollama": OLD}, {}], ids=["old", "new"])
def test_messages_of_one_role_are_joined_by_a_template(
    tmp_path: Path, versions: dict[str, Any]
) -> None:
    said = "joins successive messages of one role"
    strict = CHATML.replace(
        "{{ m.role }}",
        "{{ m.role }}{% if loop.previtem and loop.previtem.role == m.role %}"
        "{{ raise_exception('alternate') }}{% endif %}",
    )
    for number, (template, joins) in enumerate([(CHATML, True), (strict, False)]):
        made = written(tmp_path / str(number), template, **versions)
        assert (said in made.file("RUN.md").read_text()) == joins
    assert said not in written(tmp_path / "frozen", FROZEN).file("RUN.md").read_text()


# -- settings of the GGUF's step that its file doesn't have ----------------------------------------

KWARGS: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize("meta", [{}, KWARGS], ids=["without arguments", "with arguments"])
def test_an_export_has_its_settings_in_its_file(tmp_path: Path, meta: dict[str, Any]) -> None:
    frozen = prologue(meta.get("chat_template_kwargs", {}), (), tools=False) + CHATML
    assert "TEMPLATE" not in dict(commands(written(tmp_path, template=frozen, meta=meta)))
