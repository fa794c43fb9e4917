"""Ollama's server: `serve.check` and `finery serve` with a folder of `ollama.modelfile`.

Most tests run a stand-in, which was written from Ollama's source (see `ollama_standin`): they show
what finery does with what that source says. Only `real` tests need Ollama itself, and run where it
is installed.
"""

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import running
from llama_server import needs_llama_server
from ollama_standin import write_program
from serve_checking import check, exact, faults
from serving import ROWS, THINKING, gguf_model, trained_model
from tiny_gguf import CHATML

from finery import Bundle, Model, StepError
from finery.testing import dataset, run_step
from finery_ollama.modelfile import Modelfile
from finery_ollama.server import build_facts, build_files, serve_folder
from finery_serve.check.step import Check
from finery_serve.processes import Address
from finery_serve.servers import Checkable, Serving
from finery_transformers.frozen.template import prologue

FROZEN = prologue({}, (), tools=False) + CHATML
"""As `gguf.export` writes it."""
OTHER = FROZEN.replace("assistant\n", "assistant:\n")
MARK = "FINERY_TEST_MARK"
ANOTHER = "another Ollama answers|ended with exit code 1"
"""What is said of another program at the port, whichever is seen first."""


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in on the PATH, for a user whose home and models finery must not touch.

    Returns the user's home.
    """
    program = write_program(tmp_path / "bin")
    home = tmp_path / "home"
    home.mkdir()
    for name, value in {
        "PATH": f"{program}{os.pathsep}{os.environ['PATH']}", "HOME": str(home),
        "OLLAMA_HOST": "127.0.0.1:11434", "OLLAMA_MODELS": str(home / "models"),
        "OLLAMA_GO_TEMPLATE": "0", MARK: str(tmp_path),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return home


def folder_of(path: Path, model: Model, **settings: Any) -> Bundle:
    """The folder of an `ollama.modelfile`."""
    made = run_step(Modelfile(**{"gguf": model, "name": "me/tiny:1", **settings}), path)
    assert isinstance(made, Bundle)
    return made


def checked(
    path: Path, template: str = FROZEN, rows: Any = ROWS, trained: str = CHATML, **settings: Any
) -> dict[str, str]:
    """The faults of a folder with a model of this template, which was trained with another."""
    model = gguf_model(path / "m", template=template)
    bundle = folder_of(path / "o", model, **settings)
    return faults(
        check(path, model, rows, trained=trained_model(path / "t", trained), bundle=bundle)[1]
    )


@needs_llama_server
def test_a_folder_without_a_fault(tmp_path: Path, standin: Path) -> None:
    model = gguf_model(tmp_path / "m", template=FROZEN)
    bundle = folder_of(tmp_path / "o", model)
    step, made = check(
        tmp_path, model, bundle=bundle, trained=trained_model(tmp_path / "t", CHATML), judge=exact()
    )
    report = made.report().data()
    assert faults(made) == {}
    scores = report["scores"]["m"]
    assert (scores["prompts"], scores["answers"], scores["lost"]) == (1.0, 1.0, 0.0)
    assert report["details"]["servers"] == {"m": "Ollama 0.33.0"}
    (unseen,) = (t["rows"] for t in report["details"]["tables"] if t["title"] == "Not checked")
    assert [row[0] for row in unseen] == ["prompts", "sampling", "adapter"]
    assert "Send `temperature: 0`" in unseen[1][1]
    step.verify({"": made})
    assert not any(standin.iterdir())
    assert running(str(tmp_path)) == []


@needs_llama_server
def test_a_gguf_of_others_is_prompted_as_by_finery(tmp_path: Path, standin: Path) -> None:
    """The comment that its chat template gets for Ollama writes nothing in llama.cpp."""
    for template in (CHATML, f" \n {CHATML}"):
        assert checked(tmp_path / str(len(template)), template, trained=template) == {}


def test_an_ollama_before_0_30_is_refused(
    standin: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_VERSION", "0.29.4")
    with (
        pytest.raises(StepError, match=r"Ollama 0\.29\.4 doesn't use the chat template"),
        served(bundle),
    ):
        pass


@needs_llama_server
@pytest.mark.parametrize(("template", "trained", "kind", "words"), [
    (OTHER, CHATML, "template", "another chat template than the training"),
    (THINKING, THINKING, "thinking", "with enable_thinking: true"),
])  # fmt: skip
def test_other_prompts(
    tmp_path: Path, standin: Path, template: str, trained: str, kind: str, words: str
) -> None:
    found = checked(tmp_path, template, trained=trained)
    assert found.keys() == {kind}
    assert words in found[kind]


@needs_llama_server
def test_a_renderer_of_ollama(
    tmp_path: Path, standin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN", "renders")
    found = checked(tmp_path)
    assert found.keys() == {"template"}
    assert "its own renderer 'gemma4'" in found["template"]


@needs_llama_server
@pytest.mark.parametrize(("parameters", "words"), [
    ({"temperature": 0.7}, "with temperature: 0.7 where"),
    ({"repeat_penalty": 1.2}, "with repeat_penalty: 1.2 where"),
])  # fmt: skip
def test_parameters_that_sample(
    tmp_path: Path, standin: Path, parameters: dict[str, Any], words: str
) -> None:
    found = checked(tmp_path, parameters=parameters)
    assert found.keys() == {"sampling"}
    assert words in found["sampling"]


@needs_llama_server
@pytest.mark.parametrize(("stop", "rows"), [("\n\n", 0), ('"at"', 1), ("at", 3)])
def test_a_stop_that_cuts_answers(tmp_path: Path, standin: Path, stop: str, rows: int) -> None:
    asked = {"role": "user", "content": "Where is it?"}
    given = ["late", "late\n", 'It is "at" home']
    turns = [[asked, {"role": "assistant", "content": text}] for text in given]
    found = checked(
        tmp_path, rows=[{"messages": one} for one in turns], parameters={"stop": [stop]}
    )
    assert found.keys() == ({"answers"} if rows else set())
    if rows:
        assert (
            f"answers of {rows} of 3 rows contain a text at which the server stops"
            in found["answers"]
        )


@needs_llama_server
def test_a_context_that_is_too_small_for_prompts(tmp_path: Path, standin: Path) -> None:
    """One message is cut by llama.cpp, of several the first ones are left out by Ollama."""
    turns = [{"role": "user", "content": "x" * 60}, {"role": "assistant", "content": "y" * 60}]
    last = [{"role": "user", "content": "z"}, {"role": "assistant", "content": "late"}]
    rows = [{"messages": [*turns, *turns, *last]}]
    model = gguf_model(tmp_path / "m", template=FROZEN)
    bundle = folder_of(tmp_path / "o", model, parameters={"num_ctx": 256})
    with served(bundle) as server:
        long = {"model": "me/tiny:1", "messages": [{"role": "user", "content": "x" * 260}]}
        with pytest.raises(StepError, match=r"has 2\d\d tokens, and .* 256, .* a larger `num_ctx`"):
            server.prompt(long)
        shown = server.prompt({**long, "messages": rows[0]["messages"][:-1]}).text
        assert (shown.count("x" * 60), shown.count("y" * 60)) == (1, 2)
    found = faults(check(tmp_path, model, rows, bundle=bundle)[1])
    assert found.keys() == {"prompts"}


# -- its life --------------------------------------------------------------------------------------


def served(bundle: Bundle, **settings: Any) -> Any:
    """The folder on a server, as `serve.check` starts it."""
    return serve_folder(bundle, Serving(**{"name": "m", "checked": True, **settings}))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A folder for Ollama."""
    return folder_of(tmp_path / "o", gguf_model(tmp_path / "m", template=FROZEN))


def test_it_ends_with_an_error_in_between(tmp_path: Path, standin: Path, bundle: Bundle) -> None:
    def interrupted() -> None:
        with served(bundle) as server:
            assert isinstance(server, Checkable)
            assert running(str(tmp_path))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert running(str(tmp_path)) == []


def test_another_program_answers_at_its_port(
    standin: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that took the port in between, as the user's own Ollama could: nothing is imported."""
    with served(bundle) as other:
        port = int(other.address.rpartition(":")[2])
        monkeypatch.setattr(Address, "free", lambda at: at._replace(port=port))
        with pytest.raises(StepError, match=ANOTHER), served(bundle):
            pass


def test_it_is_not_installed(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(StepError, match="ollama isn't on the PATH") as raised, served(bundle):
        pass
    assert "use a llama.bundle" in str(raised.value.fix)
    assert build_facts() == {}
    assert build_files() == [str(tmp_path / "bin" / "ollama")]


def test_a_check_of_a_bundle_depends_on_its_version(
    tmp_path: Path, standin: Path, bundle: Bundle
) -> None:
    rows = dataset(tmp_path / "rows", ROWS)
    of_bundle = Check(models=[Model.placeholder("models")], rows=rows, bundle=bundle)
    of_model = Check(models=[Model.placeholder("models")], rows=rows)
    assert of_bundle.cache_key().facts["version of ollama"] == "0.33.0"
    assert "version of ollama" not in of_model.cache_key().facts
    assert {*of_bundle.cache_key().watched} - {*of_model.cache_key().watched} >= {
        str(tmp_path / "bin" / "ollama")
    }
