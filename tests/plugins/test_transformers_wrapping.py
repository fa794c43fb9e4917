"""Chat templates with tools as text, the same for transformers, the GGUF engine and llama.cpp."""

import json
from pathlib import Path
from typing import Any

import pytest
from llama_server import needs_llama_server, serve
from needs import need
from tiny_gguf import tiny_tokenizer, write_tiny_gguf
from tiny_llama import CHATML, tiny_llama

from finery import DataError, Model, Request, Sampling
from finery.rows import Conversation
from finery.testing import TestJob
from finery_gguf.chat import ChatTemplate
from finery_gguf.engine import GgufEngine
from finery_gguf.llama import Gguf
from finery_gguf.prompts import answer_reader, chat_template, model_template, tokenize
from finery_transformers.chat import PromptTemplate
from finery_transformers.engine import TransformersEngine
from finery_transformers.loading import load_tokenizer
from finery_transformers.wrapping import with_fixed_arguments, with_text_tools

need("trl")


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    function = {"name": name, "description": 'Say "é" <b>.', "parameters": schema}
    return {"type": "function", "function": function}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [tool("weather", city={"type": "string"}), tool("time")]
TALK: Conversation = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant", "content": "I look.", "reasoning_content": "Hm.",
        "tool_calls": [call("weather", {"city": "Zürich", "more": [1, True, None]}),
                       call("time", {})],
    },
    {"role": "tool", "content": "sun"},
    {"role": "tool", "content": "9:00"},
    {"role": "user", "content": "And?"},
]  # fmt: skip
GUIDE = """\
# Tools

You can call these functions, each described by a line of JSON:
{"name": "weather", "description": "Say \\"é\\" <b>.", "parameters": {"type": "object", \
"properties": {"city": {"type": "string"}}}}
{"name": "time", "description": "Say \\"é\\" <b>.", "parameters": {"type": "object", \
"properties": {}}}

To call functions, write one block like this for each call:
<tool_call>
{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}
</tool_call>
Their results follow between <tool_response> and </tool_response>."""
CALLED = """\
I look.
<tool_call>
{"name": "weather", "arguments": {"city": "Zürich", "more": [1, true, null]}}
</tool_call>
<tool_call>
{"name": "time", "arguments": {}}
</tool_call>"""
RESULTS = """\
<tool_response>
sun
</tool_response>
<tool_response>
9:00
</tool_response>

And?"""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}" + CHATML


def chatml(*turns: tuple[str, str]) -> str:
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return f"{text}<|im_start|>assistant\n"


def wrapped(source: str, written: str = "text") -> Any:
    """A template of the GGUF engine with tools as text."""
    tokenizer: Any = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    return ChatTemplate(with_text_tools(tokenizer, written), tokenizer._names)


def test_a_conversation_with_tools_is_text() -> None:
    expected = chatml(
        ("system", f"Be brief.\n\n{GUIDE}"), ("user", "Weather?"), ("assistant", CALLED),
        ("user", RESULTS),
    )  # fmt: skip
    assert PromptTemplate(wrapped(CHATML)).prompt(TALK, tools=TOOLS) == expected


def test_tools_without_a_system_message_get_one() -> None:
    expected = chatml(("system", GUIDE), ("user", "Weather?"))
    assert PromptTemplate(wrapped(CHATML)).prompt(TALK[1:2], tools=TOOLS) == expected


def test_tools_stand_before_the_user_where_a_system_message_is_refused() -> None:
    expected = chatml(("user", f"{GUIDE}\n\nWeather?"), ("assistant", "A."), ("user", "B."))
    talk = [TALK[1], {"role": "assistant", "content": "A."}, {"role": "user", "content": "B."}]
    assert PromptTemplate(wrapped(NO_SYSTEM)).prompt(talk, tools=TOOLS) == expected
    with pytest.raises(DataError, match="tools as text need a user message"):
        PromptTemplate(wrapped(NO_SYSTEM)).prompt(
            [{"role": "assistant", "content": "A."}], tools=TOOLS
        )


@pytest.mark.parametrize("written", ["text", "signatures"])
def test_what_has_no_tools_is_as_before(written: str) -> None:
    plain: Any = ChatTemplate(CHATML, {})
    for talk in (TALK[:2], TALK[1:2], [{"role": "user", "content": ""}]):
        assert PromptTemplate(wrapped(CHATML, written)).prompt(talk) == PromptTemplate(
            plain
        ).prompt(talk)


def described(name: str, parameters: Any = None, **more: Any) -> Any:
    given = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, **more, **given}}


def schema(required: list[str], **properties: Any) -> Any:
    return {"type": "object", "properties": properties, "required": required}


STRING = {"type": "string"}
SIGNATURES: list[tuple[Any, str]] = [
    (described("now"), "now()"),
    (described("f", schema(["a"], a=STRING, b={"type": "integer"})), "f(a: string, b?: integer)"),
    (
        described("f", schema(["l"], l={"type": "array", "items": {"enum": ["a", "b"]}})),
        'f(l: array of "a"|"b")',
    ),
    (
        described("f", schema([], o=schema(["x"], x=STRING))),
        'f(o?: {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]})',
    ),
    (
        described("f", schema([], t={"type": ["string", "null"]})),
        'f(t?: {"type": ["string", "null"]})',
    ),
    (
        described("f", {**schema([], a={"$ref": "#/$defs/A"}), "$defs": {"A": STRING}}),
        '{"name": "f", "parameters": {"type": "object", "properties": {"a": {"$ref": '
        '"#/$defs/A"}}, "required": [], "$defs": {"A": {"type": "string"}}}}',
    ),
]


@pytest.mark.parametrize(("given", "expected"), SIGNATURES)
def test_a_tool_as_a_signature(given: Any, expected: str) -> None:
    text = PromptTemplate(wrapped(CHATML, "signatures")).prompt(TALK[1:2], tools=[given, given])
    assert f". Arguments with ? are optional:\n{expected}\n{expected}\n\nTo call" in text
    bare = PromptTemplate(wrapped(CHATML, "signatures")).prompt(
        TALK[1:2], tools=[given["function"]]
    )
    assert f"optional:\n{expected}\n\nTo call" in bare


def test_calls_as_json_text_and_results_as_json() -> None:
    messages: Conversation = [
        {"role": "assistant", "tool_calls": [call("f", '{"a": 1}'), {"function": {"name": "g"}}]},
        {"role": "tool", "content": {"b": [2]}},
    ]
    text = PromptTemplate(wrapped(CHATML)).prompt(messages)
    assert '{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n{"name": "g", ' in text
    assert '{"name": "g", "arguments": {}}' in text
    assert '<tool_response>\n{"b": [2]}\n</tool_response>' in text


def real_templates() -> list[str]:
    import trl

    folder = Path(trl.__file__).parent / "chat_templates"
    vision = {"idefics3", "llava_next", "smolvlm"}  # contents are lists of parts
    names = [path.stem for path in folder.glob("*.jinja") if "training" not in path.stem]
    return sorted({*names} - vision)


@pytest.mark.parametrize("name", real_templates())
def test_every_real_template_can_have_tools_as_text(name: str) -> None:
    import trl

    source = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    plain: Any = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    template = wrapped(source)
    assert PromptTemplate(template).prompt(TALK[1:2]) == PromptTemplate(plain).prompt(TALK[1:2])
    text = PromptTemplate(template).prompt(TALK[1:], tools=TOOLS)
    for part in (GUIDE, CALLED, RESULTS):
        assert text.count(part) == 1
    if name != "gptoss":  # its answers are channels, which only the unwrapped template explains
        answer_reader(template).check(TOOLS)


def test_engines_and_trainings_use_the_same_text(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "m")
    model.meta["tools_as"] = "text"
    tokenizer = load_tokenizer(model)
    expected = PromptTemplate(tokenizer).prompt(TALK, tools=TOOLS)
    assert GUIDE in expected
    engine = TransformersEngine(model, TestJob(seed=None))
    assert PromptTemplate(engine._loaded.tokenizer).prompt(TALK, tools=TOOLS) == expected
    tokenizer.save_pretrained(str(tmp_path / "saved"))
    adapter = Model(tmp_path / "saved", meta={"format": "adapter"}, refs={"base": model})
    assert load_tokenizer(adapter).chat_template == tokenizer.chat_template
    bare = Model(tmp_path / "bare", meta={"format": "adapter"}, refs={"base": model})
    assert load_tokenizer(bare).chat_template == tokenizer.chat_template


def test_the_engine_for_ggufs_wraps_the_template_of_the_file(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "t.gguf", context=4096)
    meta = {"format": "gguf", "file": path.name, "tools_as": "text"}
    model = Model(tmp_path, meta=meta)
    gguf = Gguf(path, vocab_only=True)
    tokens = tokenize(gguf, model_template(gguf, model), TALK, TOOLS).tokens
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = with_text_tools(tokenizer)
    text = PromptTemplate(tokenizer).prompt(TALK, tools=TOOLS)
    assert tokens == tokenizer(text, add_special_tokens=False)["input_ids"]
    engine = GgufEngine(model, TestJob(seed=None))
    (answer,) = engine.generate([Request(TALK, TOOLS)], Sampling(max_tokens=1))
    assert answer.prompt_tokens == len(tokens)


VALUES = {"a": False, "b": None, "c": [1, {"d": "é'\""}], "e": 1.5}


# -- llama.cpp's own engine for templates ----------------------------------------------------------


@pytest.mark.parametrize("written", ["text", "signatures"])
@needs_llama_server
@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama3", "phi3_5", "lfm2", "glm4moe"])
def test_llama_server_makes_the_same_prompts(tmp_path: Path, name: str, written: str) -> None:
    import trl

    own = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    arguments = {"enable_thinking": False, "more": VALUES}
    source = with_fixed_arguments(wrapped(own, written).source, arguments)
    path = write_tiny_gguf(tmp_path / "t.gguf", template=source)
    template: Any = chat_template(Gguf(path, vocab_only=True), {})
    wire = [
        {**m, "tool_calls": [call(c["function"]["name"], json.dumps(c["function"]["arguments"]))
                             for c in m["tool_calls"]]} if "tool_calls" in m else m
        for m in TALK
    ]  # fmt: skip
    with serve(path) as server:
        for count in (2, 5, 6):
            expected = PromptTemplate(template).prompt(TALK[:count], tools=TOOLS)
            prompt = server.prompt({"messages": wire[:count], "tools": TOOLS})
            assert prompt.removeprefix("<|im_start|>") == expected.removeprefix("<|im_start|>")
        # The server writes an empty description and no parameters where there are none.
        defaults: dict[str, Any] = {"description": "D.", "parameters": {}}
        many = [described(**{**defaults, **given["function"]}) for given, _ in SIGNATURES]
        expected = PromptTemplate(template).prompt(TALK[1:2], tools=many)
        prompt = server.prompt({"messages": TALK[1:2], "tools": many})
        assert prompt.removeprefix("<|im_start|>") == expected.removeprefix("<|im_start|>")
        plain = server.prompt({"messages": TALK[:2]})
        expected = PromptTemplate(template).prompt(TALK[:2])
        assert plain.removeprefix("<|im_start|>") == expected.removeprefix("<|im_start|>")
