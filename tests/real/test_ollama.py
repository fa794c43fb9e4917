"""`serve.check` with Ollama itself, where it is installed: right folders pass, faults are named.

What finery knows of Ollama is from its source, so these tests also say whether that was read right.
Random models answer with letters, since Ollama refuses answers that aren't UTF-8.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
from needs import may_lack
from serve_checking import check, faults
from serving import ROWS, THINKING, gguf_model, trained_model
from tiny_gguf import CHATML

from finery import Bundle, Model
from finery.testing import run_step
from finery_ollama.modelfile import Modelfile
from finery_ollama.server import PROGRAM, serve_folder
from finery_serve.client import Client
from finery_serve.servers import Serving
from finery_transformers.frozen.template import prologue

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        shutil.which(PROGRAM) is None, reason=may_lack("needs Ollama: https://ollama.com/download")
    ),
]
FROZEN = prologue({}, (), tools=False) + CHATML
NAME = "finery-test"


def folder_of(path: Path, model: Model, **settings: Any) -> Bundle:
    made = run_step(Modelfile(gguf=model, name=NAME, **settings), path)
    assert isinstance(made, Bundle)
    return made


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Model:
    """SmolLM2-135M-Instruct, whose template resembles one that Ollama knows."""
    model = Model(smollm2_gguf.parent, meta={"format": "gguf", "file": smollm2_gguf.name})
    model.ref = "smollm2"
    return model


def test_a_real_model_is_prompted_and_answers_as_by_finery(tmp_path: Path, smollm2: Model) -> None:
    made = check(tmp_path, smollm2, bundle=folder_of(tmp_path / "o", smollm2))[1]
    assert faults(made) == {}
    assert made.report().data()["scores"]["smollm2"]["prompts"] == 1.0
    assert made.report().data()["details"]["servers"]["smollm2"].startswith("Ollama ")


def test_ollama_counts_the_tokens_that_finery_makes_of_its_text(
    tmp_path: Path, smollm2: Model
) -> None:
    with serve_folder(
        folder_of(tmp_path / "o", smollm2), Serving(name="smollm2", checked=True)
    ) as server:
        for row in ROWS:
            asked = {"model": NAME, "messages": row["messages"][:1], "max_tokens": 1}
            answer = Client(server.address).post("/v1/chat/completions", asked)
            assert answer["usage"]["prompt_tokens"] == len(server.prompt(asked).tokens)


@pytest.mark.parametrize(("template", "trained", "settings", "kind"), [
    (FROZEN.replace("assistant\n", "assistant:\n"), CHATML, {}, "template"),
    (THINKING, THINKING, {}, "thinking"),
    (FROZEN, CHATML, {"parameters": {"temperature": 0.7}}, "sampling"),
    (FROZEN, CHATML, {"system": "Be kind."}, "prompts"),
    (FROZEN, CHATML, {"parameters": {"num_ctx": 64}}, "prompts"),
    (FROZEN, CHATML, {"parameters": {"stop": ["at"]}}, "answers"),
    (FROZEN, CHATML, {}, None),
])  # fmt: skip
def test_faults(
    tmp_path: Path, template: str, trained: str, settings: dict[str, Any], kind: str | None
) -> None:
    model = gguf_model(tmp_path / "m", template=template, letters=True)
    bundle = folder_of(tmp_path / "o", model, **settings)
    made = check(tmp_path, model, trained=trained_model(tmp_path / "t", trained), bundle=bundle)[1]
    assert faults(made).keys() == ({kind} if kind else set())
