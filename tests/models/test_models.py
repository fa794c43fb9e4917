"""The matrix: families and architectures as committed in results.json, and the page from it."""

from pathlib import Path
from typing import Any

import pytest
from llama_server import needs_llama_server, serve
from models import checks, page, training
from models.families import FAMILIES, LEFT_OUT, Family, carried
from models.rows import PROMPTS
from models.stand_in import write_stand_in
from models.tiny import tokenizer_of

from finery_transformers.frozen.template import NO_TOOLS

pytestmark = [pytest.mark.usefixtures("one_thread"), needs_llama_server]

FRESH = "python tests/models/page.py"
ARCHITECTURES = {family.architecture: family for family in reversed(FAMILIES)}
"""Architecture → the first of its families."""
each_family = pytest.mark.parametrize(
    "family",
    [FAMILIES[0], *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[1:])],
    ids=lambda family: family.name,
    scope="module",
)
"""In the scope of the module, tests run family by family and share its tokenizer."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [pytest.param(FAMILIES[0], marks=pytest.mark.quick), *FAMILIES[1:]],
    ids=lambda family: family.name,
    scope="module",
)
def test_a_family(family: Family, smollm2_gguf: Path, tmp_path: Path) -> None:
    measured = checks.outcomes(family, smollm2_gguf, tmp_path)
    committed = page.committed()["families"][family.name]
    del committed["vllm"]  # see test_vllm_prompts.py
    assert measured == committed, f"if that is right: {FRESH}"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture(architecture: str, smollm2_gguf: Path, tmp_path: Path) -> None:
    measured = training.outcomes(ARCHITECTURES[architecture], smollm2_gguf, tmp_path)
    assert measured == page.committed()["architectures"][architecture], f"if that is right: {FRESH}"


@pytest.mark.slow
@each_family
def test_llama_server_refuses_tools_that_no_row_had(
    family: Family, smollm2_gguf: Path, tmp_path: Path
) -> None:
    frozen = checks.frozen_of(tokenizer_of(family, smollm2_gguf), tmp_path / "t", tools=False)
    gguf = write_stand_in(tmp_path / "t.gguf", frozen.for_serving(), family.split)
    messages, tools = next(given for given in PROMPTS.values() if given[1])
    with serve(gguf, context=1024) as server:
        assert checks.different(frozen, server) == ""
        assert server.answers({"messages": messages[:1]})
        with pytest.raises(OSError, match=NO_TOOLS):
            server.answers({"messages": messages, "tools": tools})


@each_family
def test_the_loss_of_five_turns_covers_their_answers(family: Family, smollm2_gguf: Path) -> None:
    tokenizer = tokenizer_of(family, smollm2_gguf)
    learned = checks.five_turns(tokenizer)
    if learned is not None:
        assert sum(example.loss_tokens for example in learned) == checks.answer_tokens(tokenizer)
    else:
        outcome = page.committed()["families"][family.name]["turns"]
        assert outcome.startswith("no")


@each_family
def test_rows_with_tools_are_learned_or_refused(family: Family, smollm2_gguf: Path) -> None:
    outcome = page.committed()["families"][family.name]
    learned = checks.tool_row(tokenizer_of(family, smollm2_gguf))
    assert (learned is not None) == (outcome["tools"] == outcome["sft"][:3] == "yes")
    if learned is not None:
        assert sum(example.turns for example in learned) == 2


@each_family
def test_control_tokens_are_single_tokens(family: Family, smollm2_gguf: Path) -> None:
    tokenizer: Any = tokenizer_of(family, smollm2_gguf)
    named = (family.eos, family.bos, *family.control)
    for token in (name for name in named if name is not None):
        assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1


def test_every_template_of_trl_is_tested_or_left_out_for_a_reason() -> None:
    tested = {family.template for family in FAMILIES if family.template}
    assert carried().keys() == tested | LEFT_OUT.keys()
    assert not tested & LEFT_OUT.keys()


@pytest.mark.parametrize("name", carried())
def test_a_template_is_the_pinned_one(name: str) -> None:
    fix = f"trl carries another chat template {name}: run {FRESH} --pin, then {FRESH}"
    assert page.digest(carried()[name]) == page.pins().get(name), fix


def test_the_page_is_fresh() -> None:
    assert page.PAGE.read_text("utf-8") == page.whole_page(), f"run: {FRESH} --page"
