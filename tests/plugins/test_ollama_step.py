"""The step: a folder that `ollama create` takes, from the GGUF alone."""

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from go_templates import go_prompts, needs_go
from tiny_gguf import CHATML, write_tiny_gguf
from tiny_llama import TOOLED

from finery import Bundle, DataError, FineryError, Model, StepError
from finery.testing import TestJob, run_step
from finery_gguf.chat import ChatTemplate
from finery_ollama.choice import new_notes, replaces
from finery_ollama.commands import read_modelfile
from finery_ollama.modelfile import Modelfile
from finery_transformers.frozen.template import prologue

OLD: Literal["<0.30"] = "<0.30"
FROZEN = prologue({}, (), tools=False) + CHATML
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
    meta = {"license": "apache-2.0"}
    made = written(tmp_path, system='Say "yes".\nOr no.', meta=meta, **settings)
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


def test_a_template_without_special_tokens_stops_at_the_next_turn(tmp_path: Path) -> None:
    plain = (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n{% endfor %}### assistant:\n"
    )
    found = commands(written(tmp_path, template=plain, ollama=OLD))
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
    guide = made.file("RUN.md").read_text()
    assert made.meta["run"] in guide
    assert "send `temperature: 0` in each request" in guide
    assert set(made.meta["files"]) == {"Modelfile", "RUN.md", "model-q8_0.gguf"}
    source = tmp_path / "model-q8_0.gguf"
    assert made.file(source.name).read_bytes() == source.read_bytes()
    assert made.file(source.name).stat().st_ino != source.stat().st_ino


def test_a_default_system_message_is_kept(tmp_path: Path) -> None:
    template = dict(commands(written(tmp_path, template=DEFAULT_SYSTEM + CHATML, ollama=OLD)))[
        "TEMPLATE"
    ]
    assert template.startswith("{{ range $i, $_ := .Messages }}{{ if and (eq $i 0)")
    assert "<|im_start|>system\nBe kind.<|im_end|>\n" in template


def test_a_template_that_strips_is_noted(tmp_path: Path) -> None:
    stripping = CHATML.replace("m.content", "m.content | trim")
    made = written(tmp_path, template=stripping, system=" x ", ollama=OLD)
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
def test_templates_that_an_old_ollama_cannot_write(
    tmp_path: Path, template: str, said: str
) -> None:
    with pytest.raises(FineryError, match=said):
        written(tmp_path, template=template, ollama=OLD)


def test_only_a_gguf_is_taken(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="format 'adapter'"):
        Modelfile(gguf=Model(tmp_path, meta={"format": "adapter"}), name="x").run(TestJob(tmp_path))


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
        ("{% if tools %}{% endif %}" + CHATML, "chat template"),
        ("{# tool_call #}" + CHATML, "chat template"),
        (CHATML + "{# <think></think> #}", "chat template"),
        (CHATML + "{# <think> #}", "TEMPLATE"),
        ("{% set x = m.content.split('</think>') if m else 1 %}" + CHATML, "chat template"),
    ],
)
def test_what_ollama_prefers_is_the_same_with_any_template_that_it_knows(
    template: str, wins: str
) -> None:
    assert replaces(template) == (wins == "TEMPLATE")


def test_a_template_that_go_cannot_write_needs_none(tmp_path: Path) -> None:
    numbered = "{% for m in messages %}{{ loop.index }}{{ m.content }}<|im_end|>{% endfor %}"
    frozen = prologue({}, (), tools=False) + numbered
    found = commands(written(tmp_path, template=frozen))
    assert "TEMPLATE" not in dict(found)
    assert ("PARAMETER stop", "<|im_end|>") in found


@pytest.mark.parametrize(
    ("architecture", "noted"), [("gemma4", "depends on the model's name"), ("llama", "")]
)
def test_a_renderer_of_ollamas_own_is_noted(architecture: str, noted: str) -> None:
    notes = new_notes(architecture, ChatTemplate(CHATML, {}))
    assert bool(notes) == bool(noted)
    assert noted in "".join(notes)


def test_a_template_with_tools_is_noted(tmp_path: Path) -> None:
    template = prologue({}, (), tools=True) + TOOLED
    note = "`required` before `properties`"
    (tmp_path / "plain").mkdir()
    assert note in written(tmp_path, template=template).file("RUN.md").read_text()
    assert note not in written(tmp_path / "plain", template=FROZEN).file("RUN.md").read_text()


def test_refused_tools_and_a_switch_of_thinking_are_noted(tmp_path: Path) -> None:
    switch = "{% if enable_thinking %}<think>{% else %}<think></think>{% endif %}"
    made = written(tmp_path, template=prologue({}, (), tools=False) + CHATML + switch)
    guide = made.file("RUN.md").read_text()
    assert "end with an error that says so" in guide
    assert "`think: false`" in guide
    (tmp_path / "plain").mkdir()
    assert "think" not in written(tmp_path / "plain", template=FROZEN).file("RUN.md").read_text()


# -- settings of the GGUF's step that its file doesn't have ----------------------------------------

HELPER = CHATML.replace("assistant\n", "helper\n")
KWARGS: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize(
    ("meta", "given"),
    [({}, HELPER), (KWARGS, None), ({"tools_as": "text"}, None)],
    ids=["chat_template", "chat_template_kwargs", "tools_as"],
)
def test_a_new_ollama_would_ignore_settings_that_the_file_lacks(
    tmp_path: Path, meta: dict[str, Any], given: str | None
) -> None:
    if given is not None:
        (tmp_path / "chat_template.jinja").write_text(given)
    with pytest.raises(StepError, match="write other prompts than the evaluated ones") as raised:
        written(tmp_path, meta=meta)
    assert "gguf.export" in str(raised.value.fix)


def test_the_template_for_an_old_ollama_is_that_of_the_step(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(HELPER)
    made = written(tmp_path, ollama=OLD)
    assert dict(commands(made))["TEMPLATE"].endswith("<|im_start|>helper\n")
    assert "Ollama 0.30 or later" not in made.file("RUN.md").read_text()


def test_a_new_ollama_that_prefers_the_template_in_the_file_is_noted(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(HELPER)
    guide = written(tmp_path, template=TOOLED, ollama=OLD).file("RUN.md").read_text()
    assert "uses the chat template in the GGUF instead of this TEMPLATE" in guide


@pytest.mark.parametrize("meta", [{}, KWARGS], ids=["without arguments", "with arguments"])
def test_an_export_has_its_settings_in_its_file(tmp_path: Path, meta: dict[str, Any]) -> None:
    frozen = prologue(meta.get("chat_template_kwargs", {}), (), tools=False) + CHATML
    assert "TEMPLATE" not in dict(commands(written(tmp_path, template=frozen, meta=meta)))
