"""The frozen chat template: the training's prompts, whoever calls it, and on whatever day."""

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from models.families import FAMILIES, Family
from models.rows import PROMPTS
from models.tiny import tokenizer_of
from needs import need
from tiny_llama import CHATML, tiny_llama

from finery import DataError, FineryError, Model
from finery.rows import Conversation, Row, example_request
from finery_transformers.chat import PromptTemplate
from finery_transformers.dates import writes_date
from finery_transformers.frozen.template import (
    FROZEN_MARK,
    NO_TOOLS,
    TOOLS_DIFFER,
    ClientFacts,
    FrozenTemplate,
    facts_of_rows,
    frozen_template,
    prologue,
    with_system,
)

need("trl")

QUESTION: Conversation = [{"role": "user", "content": "Where is it?"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "F.", "parameters": {}}}
PLAIN = {"tools": False, "thinking": False, "switched": False}
THINKING = "{% if enable_thinking is defined and enable_thinking %}THINK {% endif %}"
DATED = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
DATED += "{% endif %}Today: {{ date_string }}. "


def model_with(folder: Path, template: str = CHATML, **meta: Any) -> Model:
    model = tiny_llama(folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    model.meta.update({"prompts": PLAIN, **meta})
    return model


def asked(
    frozen: FrozenTemplate, messages: Conversation = QUESTION, tools: Any = None, **caller: Any
) -> str:
    """The prompt that a caller gets who passes these arguments."""
    return PromptTemplate(frozen.for_serving(), caller).prompt(messages, tools=tools)


def test_arguments_that_the_training_did_not_pass_are_ignored(tmp_path: Path) -> None:
    frozen = frozen_template(model_with(tmp_path, THINKING + CHATML))
    assert "THINK" in PromptTemplate(frozen.tokenizer, {"enable_thinking": True}).prompt(QUESTION)
    assert asked(frozen, enable_thinking=True) == PromptTemplate(frozen.tokenizer).prompt(QUESTION)
    assert frozen.fixed == ("enable_thinking",)


def test_arguments_of_the_training_are_built_in(tmp_path: Path) -> None:
    arguments = {"enable_thinking": True}
    model = model_with(tmp_path, THINKING + CHATML, chat_template_kwargs=arguments)
    frozen = frozen_template(model)
    expected = PromptTemplate(frozen.tokenizer, arguments).prompt(QUESTION)
    assert expected.startswith("THINK ")
    assert asked(frozen) == expected
    assert asked(frozen, enable_thinking=False) == expected


@pytest.mark.parametrize("kept", [True, False])
def test_thinking_stays_switchable(tmp_path: Path, kept: bool) -> None:
    """If rows were trained both ways, or if the recipe keeps it."""
    both = {**PLAIN, "thinking": True, "switched": True}
    model = model_with(tmp_path, THINKING + CHATML, prompts=PLAIN if kept else both)
    frozen = frozen_template(model, keep=["thinking"] if kept else [])
    assert asked(frozen, enable_thinking=True).startswith("THINK ")
    assert not asked(frozen, enable_thinking=False).startswith("THINK ")
    assert frozen.facts().get("thinking", False) == (not kept)  # whether rows had some


@pytest.mark.parametrize(
    "caller",
    [
        {"tools": [TOOL]},
        {"messages": [*QUESTION, {"role": "tool", "content": "1"}]},
        {"messages": [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [TOOL]}]},
    ],
)
def test_tools_are_refused_in_words(tmp_path: Path, caller: Mapping[str, Any]) -> None:
    frozen = frozen_template(model_with(tmp_path))
    with pytest.raises(DataError, match=NO_TOOLS):
        asked(frozen, **caller)


@pytest.mark.parametrize("used", [True, False])
def test_tools_are_kept(tmp_path: Path, used: bool) -> None:
    template = "{% if tools is not none %}{{ tools | tojson }}{% endif %}" + CHATML
    model = model_with(tmp_path, template, prompts={**PLAIN, "tools": used})
    frozen = frozen_template(model, keep=[] if used else ["tools"])
    expected = PromptTemplate(frozen.tokenizer).prompt(QUESTION, tools=[TOOL])
    assert expected.startswith('[{"type"')
    assert asked(frozen, tools=[TOOL]) == expected
    serving: Any = frozen.for_serving()
    none = serving.apply_chat_template(QUESTION, tools=[], tokenize=False)
    assert none == serving.apply_chat_template(QUESTION, tokenize=False)


def test_the_date_is_that_of_the_training(tmp_path: Path) -> None:
    frozen = frozen_template(
        model_with(tmp_path, DATED + CHATML, prompts={**PLAIN, "date": "2024-02-09"})
    )
    assert asked(frozen).startswith("Today: 09 Feb 2024. ")
    assert asked(frozen, date_string="tomorrow") == asked(frozen)
    assert "strftime_now" not in frozen.source
    assert any(
        line.startswith("the chat template writes the date of the training, 2024-02-09. Before")
        for line in frozen.lines()
    )


def test_marks_of_trainings_are_removed_with_their_white_space(tmp_path: Path) -> None:
    inner = "{{ m.content }}"
    marked = CHATML.replace(inner, f"\n {{%- generation -%}} {inner} {{% endgeneration %}}\n")
    assert marked != CHATML
    frozen = frozen_template(model_with(tmp_path, marked))
    assert "generation -%}" not in frozen.source
    assert "endgeneration" not in frozen.source
    talk = [*QUESTION, {"role": "assistant", "content": "a"}, *QUESTION]
    assert asked(frozen, talk) == PromptTemplate(frozen.tokenizer).prompt(talk)


def test_a_model_that_says_nothing_of_its_training_keeps_its_template(tmp_path: Path) -> None:
    model = model_with(tmp_path, THINKING + CHATML, chat_template_kwargs={"mood": 1}, prompts=None)
    frozen = frozen_template(model)
    assert frozen.source.startswith(FROZEN_MARK)
    assert frozen.source.endswith(THINKING + CHATML)
    assert asked(frozen, enable_thinking=True).startswith("THINK ")
    assert frozen.lines() == ["the chat template sets mood: 1, whatever a server passes"]


def test_rows_are_compared(tmp_path: Path) -> None:
    template = "{% if messages[0].content == 'rare' %}{{ strftime_now('%Y') }}{% endif %}" + CHATML
    model = model_with(tmp_path, template, prompts={**PLAIN, "date": "1999-02-09"})
    rows: list[Row] = [{"id": "r7", "prompt": "rare", "completion": "a"}]
    frozen = frozen_template(model, rows=rows)
    assert asked(frozen, [{"role": "user", "content": "rare"}]).startswith("1999")


def test_the_mark_keeps_ollama_from_taking_a_template_for_a_known_one() -> None:
    """Each of these characters must be deleted to get a template without them."""
    assert prologue({}, (), tools=True).count("─") >= 100


# -- what rows use ---------------------------------------------------------------------------------


BASE = Model(Path(), meta={"format": "transformers"})
THOUGHT = {"role": "assistant", "content": "a", "reasoning_content": "Hm."}
CALL = {"role": "assistant", "content": "", "tool_calls": [TOOL]}


@pytest.mark.parametrize(
    ("row", "used"),
    [
        ({"prompt": "q", "completion": "a"}, {"switched"}),
        ({"prompt": "q", "completion": [THOUGHT]}, {"thinking"}),
        ({"messages": [*QUESTION, CALL]}, {"tools", "switched"}),
    ],
)
def test_what_rows_use(row: Row, used: set[str]) -> None:
    facts = facts_of_rows([row], BASE, switch=True)
    assert {name for name, value in facts.items() if value} == used


SYSTEM = 'Name "it" in\none word: {{ x }} %} #} \\ ü'


def with_systems(*systems: str) -> list[Row]:
    """A row for each system message; empty for none."""
    said = [[{"role": "system", "content": text}] if text else [] for text in systems]
    return [{"messages": [*first, *QUESTION, {**THOUGHT, "content": "a"}]} for first in said]


@pytest.mark.parametrize(
    ("earlier", "systems", "shared"),
    [
        (None, [SYSTEM, SYSTEM], SYSTEM),
        (None, ["", ""], ""),
        (None, [SYSTEM, ""], None),
        (None, [SYSTEM, "Another"], None),
        (SYSTEM, [SYSTEM], SYSTEM),
        ("Another", [SYSTEM], None),
        ("", [SYSTEM], None),
        (None, [], ""),
    ],
)
def test_the_system_message_that_rows_share(
    earlier: str | None, systems: list[str], shared: str | None
) -> None:
    before = {"prompts": {**PLAIN, "system": earlier}} if earlier is not None else {}
    model = Model(BASE.path, meta=before)
    assert facts_of_rows(with_systems(*systems), model, switch=False)["system"] == shared


@pytest.mark.parametrize(
    ("earlier", "offered", "shared"),
    [
        (None, [[TOOL], [TOOL]], [TOOL]),
        (None, [[TOOL], []], None),
        (None, [[], []], None),
        ([TOOL], [[TOOL]], [TOOL]),
        ([], [[TOOL]], None),
    ],
)
def test_the_tools_that_rows_share(
    earlier: list[Any] | None, offered: list[list[Any]], shared: list[Any] | None
) -> None:
    rows: list[Row] = [{"messages": QUESTION, "tools": tools} for tools in offered]
    before = Model(BASE.path, meta={})
    if earlier is not None:
        before.meta["prompts"] = {
            "training_example": json.dumps({"messages": [], "tools": earlier})
        }
    facts = facts_of_rows(rows, before, switch=False) | {"training_example": example_request(rows)}
    assert ClientFacts.of({"prompts": facts}).tools == shared
    assert bool(facts.get("tools_differ")) == (shared is None and offered != [[], []])


def test_a_shared_system_message_begins_conversations_without_one(tmp_path: Path) -> None:
    frozen = frozen_template(model_with(tmp_path, prompts={**PLAIN, "system": SYSTEM}))
    usual = {"role": "system", "content": SYSTEM}
    assert asked(frozen) == PromptTemplate(frozen.tokenizer).prompt([usual, *QUESTION])
    for own in ("Be brief.", ""):
        messages = [{"role": "system", "content": own}, *QUESTION]
        assert asked(frozen, messages) == PromptTemplate(frozen.tokenizer).prompt(messages)
    assert any(SYSTEM in line or repr(SYSTEM) in line for line in frozen.lines())
    told = {"training_example": "{}", "tools_differ": True}
    differing = frozen_template(model_with(tmp_path, prompts={**PLAIN, "system": None, **told}))
    assert ClientFacts.of({"frozen": differing.facts()}).meta() == told
    assert TOOLS_DIFFER in differing.lines()
    without = frozen_template(model_with(tmp_path, prompts={**PLAIN, "system": None}))
    assert asked(without) == PromptTemplate(without.tokenizer).prompt(QUESTION)
    assert any("clients must send" in line for line in without.lines())


# -- the families of docs/models.md ----------------------------------------------------------------


CALLERS: list[dict[str, Any]] = [
    {},
    {"enable_thinking": True, "thinking": True, "date_string": "?"},
    {"enable_thinking": False, "thinking": False, "reasoning_effort": "high"},
]


NO_SYSTEM = {"Gemma and Gemma 2"}  # their template refuses system messages


@pytest.mark.slow
@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family(family: Family, tools: bool, smollm2_gguf: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(family, smollm2_gguf)
    tokenizer.save_pretrained(str(tmp_path))
    dated = {"date": date.today().isoformat()} if writes_date(PromptTemplate(tokenizer)) else {}
    system = "" if tools or family.name in NO_SYSTEM else "Answer in one word."
    used = {**PLAIN, "tools": tools, **dated, "system": system}
    model = Model(tmp_path, meta={"format": "transformers", "prompts": used})
    frozen = frozen_template(model)
    compared = 0
    for messages, offered in PROMPTS.values():
        try:
            whole = with_system(messages, system)
            expected = PromptTemplate(tokenizer).prompt(whole, tools=offered)
        except FineryError:
            continue
        if offered and not tools:
            with pytest.raises(DataError, match=NO_TOOLS):
                asked(frozen, messages, tools=offered)
            continue
        compared += 1
        for caller in CALLERS:
            assert asked(frozen, messages, tools=offered, **caller) == expected
    assert compared
