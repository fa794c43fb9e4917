"""Raw answers of local models: their thinking, their tool calls, and what is wrong with those."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from needs import need

from finery import DataError
from finery.rows import Conversation
from finery.rows.chat.thinking import (
    THINKING_TAGS,
    missing_opening_tag,
    open_thinking_tag,
    split_thinking,
)
from finery_gguf.chat import ChatTemplate
from finery_gguf.prompts import answer_reader
from finery_transformers.answering.answers import AnswerReader, Parsed
from finery_transformers.answering.calls import READERS, BadCall

need("trl")

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "A city."},
                "days": {"type": "integer"},
                "zip": {"type": ["string", "null"]},
                "hours": {"type": "array", "items": {"type": "integer"}},
                "unit": {"enum": ["1", "2"]},
                "hourly": {"type": "boolean"},
                "options": {"type": "object"},
            },
        },
    },
}
TOOLS = [WEATHER]
CALL = '{"name": "weather", "arguments": {"city": "Paris"}}'


def template(name: str) -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def chat(name: str) -> ChatTemplate:
    return ChatTemplate(template(name), {"bos_token": "<s>", "eos_token": "</s>"})


@pytest.fixture(scope="module")
def reader() -> Callable[[str], AnswerReader]:
    readers: dict[str, AnswerReader] = {}

    def of(name: str) -> AnswerReader:
        if name not in readers:
            readers[name] = answer_reader(chat(name))
        return readers[name]

    return of


@pytest.fixture
def qwen(reader: Callable[[str], AnswerReader]) -> Callable[..., Parsed]:
    def read(raw: str, prompt: str = "", **more: Any) -> Parsed:
        return reader("qwen3").read(raw, prompt=prompt, **{"tools": TOOLS, **more})

    return read


def called(parsed: Parsed) -> list[tuple[str, Any]]:
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in parsed.tool_calls or ()
    ]


def tagged(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


def test_text_stays_as_it_is(qwen: Callable[..., Parsed]) -> None:
    for text in ("", " It is sunny.\n", "Write <tool_calls> in XML.", '{"name": "weather"}'):
        assert qwen(text) == Parsed(text)
    assert qwen(tagged(CALL), tools=None) == Parsed(tagged(CALL))


def test_a_call_is_in_openai_shape(qwen: Callable[..., Parsed]) -> None:
    parsed = qwen(f"I look it up.\n{tagged(CALL)}")
    function = {"name": "weather", "arguments": '{"city": "Paris"}'}
    calls = [{"id": "call_0", "type": "function", "function": function}]
    assert parsed == Parsed("I look it up.", None, calls)
    assert (parsed.finish_reason(True), parsed.finish_reason(False)) == ("tool_calls", "length")


def test_two_calls_with_text_around_them(qwen: Callable[..., Parsed]) -> None:
    other = '{"name": "weather", "arguments": {"city": "Zürich \\ud83c\\udf26 漢字", "days": 2}}'
    parsed = qwen(f"Both.\n{tagged(CALL)}\nand\n{tagged(other)}\nDone.")
    assert parsed.text == "Both.\nand\nDone."
    assert called(parsed) == [
        ("weather", {"city": "Paris"}),
        ("weather", {"city": "Zürich 🌦 漢字", "days": 2}),
    ]
    assert [call["id"] for call in parsed.tool_calls or ()] == ["call_0", "call_1"]
    assert "Zürich 🌦 漢字" in parsed.tool_calls[1]["function"]["arguments"]  # type: ignore[index]


@pytest.mark.parametrize(("arguments", "expected"), [
    ('{"name": "weather", "arguments": null}', {}),
    ('{"name": "weather", "arguments": "{\\"days\\": 1}"}', {"days": 1}),
    ('{"type": "function", "function": {"name": "weather", "arguments": {"days": 1}}}',
     {"days": 1}),
    ('{"arguments": {"city": "</tool_call>"}, "name": "weather"}', {"city": "</tool_call>"}),
])  # fmt: skip
def test_arguments_in_the_forms_that_models_write(
    qwen: Callable[..., Parsed], arguments: str, expected: Any
) -> None:
    assert called(qwen(tagged(arguments))) == [("weather", expected)]


@pytest.mark.parametrize(("raw", "reason"), [
    (tagged(CALL)[:-len("}\n</tool_call>")], "ends too early: Expecting ',' delimiter"),
    (tagged(CALL[:-1]), "is not JSON"),
    (tagged(CALL + CALL), "is followed by '{\"name\": \"weather\", \"arguments\": {\"city…'"),
    (tagged("{}"), "has no name"),
    (tagged('{"name": "f", "parameters": {"a": 1}}'), "no `arguments`, but 'parameters'"),
    (tagged('{"name": "f", "arguments": {"a": 2, "a": 1}}'), "has 'a' twice"),
    (tagged('{"name": "f", "arguments": [1]}'), "tool call aren't a JSON object"),
    (tagged('{"name": "f", "arguments": "no"}'), "is not JSON"),
    (tagged('{"name": "f", "arguments": {"a": NaN}}'), "is JSON with NaN or Infinity: NaN"),
    (tagged('{"name": "f", "arguments": ' + '{"a":' * 100_000), "nested too deeply"),
])  # fmt: skip
def test_a_malformed_call_is_text_with_the_reason(
    qwen: Callable[..., Parsed], raw: str, reason: str
) -> None:
    parsed = qwen(f"<think>\nHm.\n</think>\n\n{raw}")
    assert (parsed.text, parsed.reasoning, parsed.tool_calls) == (raw, "Hm.", None)
    assert reason in str(parsed.call_error)
    assert parsed.finish_reason(True) == "stop"


def test_thinking_is_no_part_of_the_text(qwen: Callable[..., Parsed]) -> None:
    assert qwen("<think>\nHm.\n</think>\n\nYes.") == Parsed("Yes.", "Hm.")
    assert qwen("<think>\n\n</think>\n\nYes.") == Parsed("Yes.")
    assert qwen("Hm.\n</think>\n\nYes.", prompt="assistant\n<think>\n") == Parsed("Yes.", "Hm.")
    closed = "assistant\n<think>\n\n</think>\n\n"
    assert qwen("Yes.", prompt=closed) == Parsed("Yes.")
    assert qwen("A <think>b</think> c") == Parsed("A <think>b</think> c")


def test_a_call_in_the_thinking_is_none(qwen: Callable[..., Parsed]) -> None:
    parsed = qwen(f"<think>{tagged(CALL)}</think>{tagged(CALL)}")
    assert (parsed.text, parsed.reasoning) == ("", tagged(CALL))
    assert called(parsed) == [("weather", {"city": "Paris"})]


def test_thinking_that_is_cut_off_has_no_text(qwen: Callable[..., Parsed]) -> None:
    assert qwen("<think>\nHm, or") == Parsed("", "Hm, or")
    assert qwen(f"Hm {tagged(CALL)}", prompt="<think>\n") == Parsed("", f"Hm {tagged(CALL)}")
    assert qwen("<think>").reasoning is None


def test_nested_tags_end_at_the_first_closing_tag(qwen: Callable[..., Parsed]) -> None:
    parsed = qwen("<think>a<think>b</think>c</think>d")
    assert parsed == Parsed("c</think>d", "a<think>b")


@given(st.text(), st.sampled_from(list(THINKING_TAGS.items())), st.text())
def test_thinking_and_text_are_what_was_written(
    thinking: str, tags: tuple[str, str], text: str
) -> None:
    if any(tag.strip() in thinking + text for pair in THINKING_TAGS.items() for tag in pair):
        return
    thought = split_thinking(f"{tags[0]}{thinking}{tags[1]}{text}")
    assert thought == (thinking.strip() or None, text.lstrip(), True)
    assert split_thinking(text) == (None, text, True)
    assert open_thinking_tag(f"{text}{tags[0]}") == tags[0]
    assert missing_opening_tag(f"{thinking}{tags[1]}{text}") == tags[0]
    assert (open_thinking_tag(text), missing_opening_tag(text)) == ("", "")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES), st.text())
def test_json_of_any_value_is_read(arguments: dict[str, Any], text: str) -> None:
    call = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=False)
    if "<tool_call>" in text + call:
        return
    read = READERS[0](f"{text}<tool_call>{call}</tool_call>", [])
    assert read == (text.rstrip(), [("f", arguments)])


@given(st.text(alphabet="<>/{}[]()\"'=:, \n\\ab1|tool_call", max_size=60))
def test_no_reader_fails_on_any_text(text: str) -> None:
    openings = ("", "<tool_call>", "<tool_call><function=f>", "<|tool_call_start|>",
                "<|tool_call>call:f", "[TOOL_CALLS]", '{"name":')  # fmt: skip
    for opening in openings:
        for read in READERS:
            with suppress(BadCall):
                calls = read(opening + text, TOOLS).calls
                assert all(isinstance(arguments, dict) for _, arguments in calls)


# -- the notations of real templates ---------------------------------------------------------------

READABLE = [
    "diffusion_gemma", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "glm4moe",
    "gptoss", "lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl", "lfm2_v2", "llama3_1", "llama3_2",
    "nemotron_3_5_lightning", "nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra", "qwen2_5",
    "qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_8", "qwen3_instruct_2507",
    "qwen3_vl",
]  # fmt: skip
ENDS = ("<|im_end|>", "<|eot_id|>", "<turn|>", "<|tool_response>", "<|call|>", "<|user|>")


@pytest.mark.parametrize("name", READABLE)
def test_what_a_template_writes_is_read_back(
    reader: Callable[[str], AnswerReader], name: str
) -> None:
    arguments = {"city": "Paris", "days": 3, "hours": [1, 2]}
    call = {"id": "call00001", "type": "function",
            "function": {"name": "weather", "arguments": arguments}}  # fmt: skip
    talk: Conversation = [{"role": "user", "content": "Weather?"}]
    answer = {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]}
    made = chat(name)
    prompt = made.render(talk, tools=TOOLS)
    whole = made.render([*talk, answer], tools=TOOLS, add_generation_prompt=False)
    raw = whole.removeprefix(prompt) if whole.startswith(prompt) else _last_turn(whole)
    cut = min((raw.find(end) for end in ENDS if end in raw), default=len(raw))
    reader(name).check(TOOLS)
    parsed = reader(name).read(raw[:cut], prompt=prompt, tools=TOOLS)
    assert parsed.call_error is None
    assert called(parsed) == [("weather", arguments)]
    assert not parsed.text.strip()
    assert parsed.reasoning == ("Hm." if "Hm." in raw else None)


def _last_turn(whole: str) -> str:
    return whole.rpartition("assistant\n")[2]


@pytest.mark.parametrize(("name", "reason"), [
    ("gemma3", "leaves out the tools of a row"),
    ("lfm2", "the tool calls that the model's chat template writes can't be read"),
])  # fmt: skip
def test_a_template_without_readable_calls_is_refused(
    reader: Callable[[str], AnswerReader], name: str, reason: str
) -> None:
    reader(name).check(None)
    with pytest.raises(DataError, match=reason) as caught:
        reader(name).check(TOOLS)
    assert "tools_as: text" in str(caught.value.fix)


@pytest.mark.parametrize(("name", "raw", "arguments"), [
    ("llama3_1", '{"name": "weather", "parameters": {"city": "Rome"}}', {"city": "Rome"}),
    ("qwen3_6", "<tool_call>\n<function=weather>\n<parameter=city>\n75001\n</parameter>\n"
     "<parameter=days>\n3\n</parameter>\n<parameter=zip>\nnull\n</parameter>\n"
     "<parameter=hours>\n[1, 2]\n</parameter>\n<parameter=unit>\n1\n</parameter>\n"
     "</function>\n</tool_call>",
     {"city": "75001", "days": 3, "zip": None, "hours": [1, 2], "unit": "1"}),
    ("qwen3_6", "<tool_call><function=weather><parameter=hourly>\nTrue\n</parameter>"
     "<parameter=zip>\nNone\n</parameter><parameter=city>\nNone\n</parameter>"
     "</function></tool_call>", {"hourly": True, "zip": None, "city": "None"}),
    ("glm4moe", "<tool_call>weather\n<arg_key>other</arg_key>\n<arg_value>True</arg_value>\n"
     "</tool_call>", {"other": "True"}),
    ("lfm2_v2", "<|tool_call_start|>[weather(city='a, b)', days=-3, on=True, o={\"a\": null})]"
     "<|tool_call_end|>", {"city": "a, b)", "days": -3, "on": True, "o": {"a": None}}),
    ("gemma4", '<|tool_call>call:weather{city:<|"|>a, b: "c"<|"|>,o:{hours:[1,2]}}<tool_call|>',
     {"city": 'a, b: "c"', "o": {"hours": [1, 2]}}),
    ("gptoss", "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
     '{"zip": "null", "days": 3}', {"zip": "null", "days": 3}),
])  # fmt: skip
def test_calls_in_other_notations(
    reader: Callable[[str], AnswerReader], name: str, raw: str, arguments: Any
) -> None:
    parsed = reader(name).read(raw, prompt="", tools=TOOLS)
    assert (parsed.call_error, parsed.text) == (None, "")
    assert called(parsed) == [("weather", arguments)]


@pytest.mark.parametrize(("name", "raw", "reason"), [
    ("llama3_1", '{"name": "weather", "parameters": {"city": ', "is JSON that ends too early"),
    ("qwen3_6", "<tool_call><function=weather><parameter=a>1", "ends before </function>"),
    ("qwen3_6", "<tool_call><function=f><parameter=a>1</parameter><parameter=a>2</parameter>"
     "</function></tool_call>", "has the argument 'a' twice"),
    ("glm4moe", "<tool_call>weather\n<arg_key>a</arg_key>", "can't be read"),
    ("lfm2_v2", "<|tool_call_start|>[weather(city='it's \\n')]<|tool_call_end|>",
     "besides a backslash"),
    ("lfm2_v2", "<|tool_call_start|>[f(a=1, a=2)]<|tool_call_end|>", "has 'a' twice"),
    ("gemma4", "<|tool_call>call:f{a:2,a:1}<tool_call|>", "has 'a' twice"),
    ("gptoss", "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": ",
     "is JSON that ends too early"),
    ("lfm2_v2", "<|tool_call_start|>[f(a=open('x'))]<|tool_call_end|>", "like Python"),
])  # fmt: skip
def test_malformed_calls_in_other_notations(
    reader: Callable[[str], AnswerReader], name: str, raw: str, reason: str
) -> None:
    parsed = reader(name).read(raw, prompt="", tools=TOOLS)
    assert (parsed.text, parsed.tool_calls) == (raw, None)
    assert reason in str(parsed.call_error)


LISTED = (
    "{{% if tools %}}{{{{ tools | tojson }}}}{{% endif %}}{{% for m in messages %}}"
    "{{{{ m.role }}}}: {{% if m.tool_calls %}}{}"
    "{{% for c in m.tool_calls %}}{{{{ c.function | tojson }}}}"
    "{{% if not loop.last %}}, {{% endif %}}{{% endfor %}}{}{{% endif %}}"
    "{{{{ m.content or '' }}}}</s>{{% endfor %}}"
)
"""A template with calls as a JSON array between two texts."""


@pytest.mark.parametrize(("opening", "closing"), [
    ("[TOOL_CALLS] [", "]"),  # Mistral
    ("<|tool_call|>[", "]<|/tool_call|>"),  # Phi-4-mini
    ("<|tool_call|>[", "]"),  # Granite
    ("<tool_call>[", "]</tool_call>"),
])  # fmt: skip
def test_calls_in_a_json_array(opening: str, closing: str) -> None:
    listed = answer_reader(ChatTemplate(LISTED.format(opening, closing), {}))
    listed.check(TOOLS)
    both = f"{opening}{CALL}, {CALL}{closing}"
    parsed = listed.read(f"So: {both}", prompt="", tools=TOOLS)
    assert (parsed.text, called(parsed)) == ("So:", [("weather", {"city": "Paris"})] * 2)
    malformed = listed.read(both[:-3], prompt="", tools=TOOLS)
    assert malformed.tool_calls is None
    assert malformed.call_error


def test_a_json_answer_of_llama_is_no_call(reader: Callable[[str], AnswerReader]) -> None:
    for text in ('{"answer": 1}', '{"name": "Ann", "age": 4}', "{", "[1]", '"name"'):
        assert reader("llama3_1").read(text, prompt="", tools=TOOLS) == Parsed(text)


def test_channels_are_thinking_and_text(
    reader: Callable[[str], AnswerReader],
) -> None:
    read = reader("gptoss").read
    prompt = "<|start|>assistant"
    thinking = "<|channel|>analysis<|message|>Hm.<|end|>"
    raw = f"{thinking}<|start|>assistant<|channel|>final<|message|>Yes."
    assert read(raw, prompt=prompt, tools=None) == Parsed("Yes.", "Hm.")
    cut = read("<|channel|>analysis<|message|>Hm, or", prompt=prompt, tools=None)
    assert cut == Parsed("", "Hm, or")
