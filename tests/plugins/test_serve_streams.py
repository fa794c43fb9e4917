"""Which models `finery chat` runs with a server, and which with their engine."""

from pathlib import Path

import pytest

from finery import Artifact, Model
from finery.advanced import load_plugins
from finery.builder.project import open_graph
from finery_serve.chat.streams import EngineTalker, can_be_served, talker
from finery_serve.opening import Opened


def model(format_: str, **refs: Artifact) -> Model:
    """A model without files. refs: what it is built on."""
    return Model(Path(), meta={"format": format_, "k": 1}, refs=refs)


BY_VLLM = model("vllm", model=model("adapter"))
"""A `vllm.model`."""


@pytest.mark.parametrize(("artifact", "expected"), [
    (model("gguf"), True),
    (model("retrieving", model=model("gguf")), True),
    (model("retrieving", model=model("api")), False),
    (model("prompted", model=model("gguf")), False),
    (BY_VLLM, False),
])  # fmt: skip
def test_what_is_served(artifact: Artifact, expected: bool) -> None:
    assert can_be_served(artifact, load_plugins().server) is expected


@pytest.mark.parametrize("artifact", [
    BY_VLLM, model("vllm", model=model("gguf")), model("retrieving", model=BY_VLLM),
])  # fmt: skip
def test_a_model_that_vllm_answers_for_has_its_engine(artifact: Model, tmp_path: Path) -> None:
    """vLLM itself starts with the first question."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("finery: 1\nname: t\nmodels:\n  m: {use: local.model, path: m}\n")
    with talker(Opened("served", artifact, open_graph(recipe)), tmp_path) as talking:
        assert isinstance(talking, EngineTalker)
