"""The transformers engine: batches, determinism, where answers end."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from llguidance import LLTokenizer
from tiny_llama import TOOLED, TOOLS, tiny_llama

from finery import Completion, DataError, File, Model, Request, Sampling, StepError
from finery.execute.gpus import Gpu
from finery.testing import TestJob, dataset, run_step
from finery_eval.steps.structured import Json
from finery_transformers.answering import generation
from finery_transformers.answering.constraint import WHITE_SPACE, Constraints
from finery_transformers.engine import ROWS, LiveEngine, Room, TransformersEngine


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(tiny: Model) -> TransformersEngine:
    return TransformersEngine(tiny, TestJob(seed=None))


def asked(text: str) -> Request:
    return Request([{"role": "user", "content": text}])


def texts(answers: list[Completion]) -> list[str]:
    return [a.text for a in answers]


def test_batches_hold_rows_of_about_the_same_length(engine: TransformersEngine) -> None:
    batches = engine.batches([asked("x" * (i % 50)) for i in range(40)])
    longest = [max(i % 50 for i in batch) for batch in batches]
    assert sorted(i for batch in batches for i in batch) == list(range(40))
    assert [len(batch) for batch in batches] == [ROWS, ROWS, 40 - 2 * ROWS]
    assert longest == sorted(longest, reverse=True)


def test_rows_that_begin_alike_follow_one_another(engine: TransformersEngine) -> None:
    first, second = ({"role": "system", "content": text} for text in ("Be kind.", "Be brief."))
    talks = [
        [start, {"role": "user", "content": "x" * i}]
        for i in range(30)
        for start in (first, second)
    ]
    batches = engine.batches([Request(talk) for talk in talks])
    starts = [talks[i][0] for batch in batches for i in batch]
    assert starts == [second] * 30 + [first] * 30


QWEN_4B = {
    "num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 9728, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936,
}  # fmt: skip


@pytest.mark.parametrize(("gib", "rows"), [(16, 16), (24, 16), (40, 32), (80, 64), (180, 256)])
def test_a_gpu_answers_as_many_rows_at_once_as_its_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: int, rows: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_4B))
    model = Model(tmp_path, meta={"format": "transformers"})
    gpu = Gpu("GPU-a", "NVIDIA X", (9, 0), gib * 2**30, used=gib * 2**29)
    monkeypatch.setattr("finery_transformers.engine.usable_gpus", lambda: [gpu])
    assert Room.of(model).rows == rows
    adapter = Model(tmp_path, meta={"format": "adapter"}, refs={"base": model})
    requests = [asked("x" * 500)] * (3 * rows)
    batches = TransformersEngine(adapter, TestJob(seed=None)).batches(requests)
    assert [len(batch) for batch in batches] == [rows] * 3


def test_running_out_of_memory_names_what_was_asked(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    engine = TransformersEngine(tiny, TestJob(seed=None))
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")
    monkeypatch.setattr(engine._loaded.model, "generate", raising(error))
    with pytest.raises(StepError) as caught:
        engine.generate([asked("hi"), asked("who")], Sampling(max_tokens=8))
    assert caught.value.what.startswith("not enough GPU memory to answer 2 prompts of up to ")
    assert caught.value.details == ["CUDA out of memory. Tried to allocate 2.00 GiB."]
    assert "lower max_tokens" in str(caught.value.fix)


def raising(error: Exception) -> Any:
    """A function that raises it."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def test_a_model_in_training_answers_in_its_dtype(tiny: Model) -> None:
    """On a GPU that multiplies fp16 and not bf16, products are in fp16."""
    import torch

    from finery_transformers.loading import load_model, load_template

    model, seen = load_model(tiny, torch.float32), []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    live = LiveEngine(
        tiny, TestJob(seed=None), trained=model, template=load_template(tiny),
        dtype=torch.float16,
    )  # fmt: skip
    live.generate([asked("hi")], Sampling(max_tokens=1))
    assert seen == [torch.float16]


def test_the_same_batch_gets_the_same_answers(tiny: Model) -> None:
    conversations = [asked("x " * i).messages for i in range(20)]
    first, second = (
        TestJob(seed=None).engine(tiny).generate(conversations, max_tokens=8) for _ in range(2)
    )
    assert first == second


def test_padding_changes_no_answer(engine: TransformersEngine) -> None:
    sampling = Sampling(max_tokens=8)
    together = engine.generate([asked("my card"), asked("where is my card " * 5)], sampling)
    assert together[:1] == engine.generate([asked("my card")], sampling)


def test_counts_and_the_reason_where_the_limit_cuts(engine: TransformersEngine) -> None:
    (answer,) = engine.generate([asked("hi")], Sampling(max_tokens=5))
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    tokens = engine._loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 5)
    assert answer.prompt_tokens == len(tokens)


def test_an_answer_ends_at_a_stop_string_and_leaves_it_out(engine: TransformersEngine) -> None:
    requests = [asked("hi"), asked("where is it")]
    whole = engine.generate(requests, Sampling(max_tokens=8))
    stop = whole[0].text[2:4]
    first, second = engine.generate(requests, Sampling(max_tokens=8, stop=(stop,)))
    assert first.text == whole[0].text[: whole[0].text.index(stop)]
    assert first.finish_reason == "stop"
    assert first.completion_tokens < whole[0].completion_tokens
    assert second.text == whole[1].text.partition(stop)[0]


def test_an_end_of_turn_token_ends_an_answer(engine: TransformersEngine) -> None:
    tokenizer: Any = engine._loaded.tokenizer
    said = tokenizer(" My card.\n", add_special_tokens=False)["input_ids"]
    end: int = tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"][0]
    tokens, request = [*said, end, end, end], asked("hi")
    reader, ends = engine._loaded.answers, engine._loaded.ends
    answer = reader.completion(tokens, ends, prompt=[1, 2], request=request, stop=())
    assert answer == Completion(
        text=" My card.\n",
        finish_reason="stop",
        prompt_tokens=2,
        completion_tokens=len(said) + 1,
    )


def test_sampling_follows_its_seed(engine: TransformersEngine) -> None:
    requests = [asked("hi"), asked("hi")]
    one, again, other = (
        texts(engine.generate(requests, Sampling(temperature=1.0, max_tokens=12, seed=seed)))
        for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other
    assert one[0] != one[1]


def test_a_prompt_that_exceeds_the_context_is_refused(engine: TransformersEngine) -> None:
    with pytest.raises(DataError, match="don't fit the model's context of 256"):
        engine.generate([asked("x" * 300)], Sampling(max_tokens=8))


def test_recommended_sampling_of_the_model_is_not_used(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path)
    engine = TransformersEngine(model, TestJob(seed=None))
    plain = engine.generate([asked("hi")], Sampling(max_tokens=8))
    config = '{"repetition_penalty": 9.0, "eos_token_id": [0], "do_sample": true, "top_k": 3}'
    model.file("generation_config.json").write_text(config)
    again = TransformersEngine(model, TestJob(seed=None))
    assert again.generate([asked("hi")], Sampling(max_tokens=8)) == plain


# -- tools and thinking ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tooled(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tooled"), TOOLED)


def completed(model: Model, raw: str, request: Request, ending: str = "<|im_end|>") -> Completion:
    """What the engine makes of an answer's tokens."""
    engine = TransformersEngine(model, TestJob(seed=None))
    loaded = engine._loaded
    prompt = loaded.answers.prompt(request, 1, None)
    tokenizer: Any = loaded.tokenizer
    answer = tokenizer(raw + ending, add_special_tokens=False)["input_ids"]
    return loaded.answers.completion(answer, loaded.ends, prompt=prompt, request=request, stop=())


def test_tools_reach_the_prompt(tooled: Model) -> None:
    engine = TransformersEngine(tooled, TestJob(seed=None))
    talk = asked("hi").messages
    plain, offered = engine.generate([Request(talk), Request(talk, TOOLS)], Sampling(max_tokens=2))
    text = (
        '[{"type": "function", "function": {"name": "f", "description": "F.", "parameters": {}}}]'
    )
    extra = engine._loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert offered.prompt_tokens == plain.prompt_tokens + len(extra)


def test_calls_and_thinking_are_read(tooled: Model) -> None:
    raw = '<think>\nHm.\n</think>\n\nSo:\n<tool_call>\n{"name": "f"}\n</tool_call>'
    answer = completed(tooled, raw, Request(asked("hi").messages, TOOLS))
    assert (answer.text, answer.reasoning, answer.call_error) == ("So:", "Hm.", None)
    assert answer.finish_reason == "tool_calls"
    assert [call["function"] for call in answer.tool_calls or ()] == [
        {"name": "f", "arguments": "{}"}
    ]
    malformed = completed(tooled, "<tool_call>{", Request(asked("hi").messages, TOOLS), "")
    assert (malformed.text, malformed.finish_reason) == ("<tool_call>{", "length")
    assert "is JSON that ends too early" in str(malformed.call_error)


SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["late", "lost"]}, "day": {"type": "integer", "maximum": 9}},
    "required": ["label", "day"],
    "additionalProperties": False,
}


def test_answers_are_held_to_a_schema(tiny: Model) -> None:
    """A random model at a high temperature writes valid JSON, in rounds of rows that end apart."""
    job = TestJob(seed=None)
    talks = [asked("x" * i).messages for i in range(6)]
    held: dict[str, Any] = {"max_tokens": 128, "temperature": 2.0, "schema": SCHEMA}
    answers = job.engine(tiny).generate(talks, **held, strict=True)
    assert {a.finish_reason for a in answers} == {"stop"}
    for answer in answers:
        Draft202012Validator(SCHEMA).validate(json.loads(answer.text))
    assert len(set(texts(answers))) > 1
    free = job.engine(tiny).generate(talks, max_tokens=20, temperature=2.0)
    assert not any(text.startswith("{") for text in texts(free))
    missing = {"$ref": "#/$defs/nothing"}
    with pytest.raises(DataError, match="can't be held to this JSON Schema: Pointer"):
        job.engine(tiny).generate(talks[:1], max_tokens=4, schema=missing, strict=True)
    assert job.engine(tiny).generate(talks[:1], max_tokens=4, schema=missing)[0].text


def test_a_constraint_allows_what_the_schema_does() -> None:
    """Other fields of open objects, white space up to a limit, and what no grammar can express."""
    job, schema = TestJob(), {"type": "object", "properties": {"a": {"type": "integer"}}}
    constraints = Constraints(lambda: LLTokenizer("byte"), job.log)

    def follows(text: str, **more: Any) -> bool:
        held = constraints.begin({**schema, **more}, strict=True)
        assert held is not None
        answer = text.encode()
        return all(held.allowed(answer[:i])[token] for i, token in enumerate(answer))

    assert follows('{"a": 1, "b": [null]}')
    assert follows('{"a": 1}', uniqueItems=True, additionalProperties=False)
    assert not follows('{"a": 1, "b": [null]}', additionalProperties=False)
    assert follows("{" + WHITE_SPACE * " " + '"a": 1}')
    assert not follows("{" + (WHITE_SPACE + 1) * " " + '"a": 1}')
    held = constraints.begin(schema, strict=True)
    with pytest.raises(DataError, match="no token continues"):
        held.allowed(b"[")  # type: ignore[union-attr]


def test_an_evaluator_holds_answers_to_its_schema(tiny: Model, tmp_path: Path) -> None:
    """A model with random weights then writes nothing but valid objects."""
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    answers = [json.dumps({"label": "late", "day": day}) for day in (1, 2)]
    rows = dataset(tmp_path / "rows", [{"prompt": a[-2:], "completion": a} for a in answers])
    valid = {}
    for constrain in (False, True):
        step = Json(
            models=[tiny], rows=rows, constrain=constrain, max_tokens=128,
            schema=File(["schema.json"], [tmp_path / "schema.json"]),
        )  # fmt: skip
        report = run_step(step, tmp_path / str(constrain)).report().data()
        (valid[constrain],) = (scores["valid"] for scores in report["scores"].values())
    assert valid == {False: 0.0, True: 1.0}


def test_thinking_cannot_follow_a_schema(tooled: Model) -> None:
    made = Model(tooled.path, meta={**tooled.meta, "chat_template_kwargs": {"start": "<think>\n"}})
    engine, held = TransformersEngine(made, TestJob()), Sampling(max_tokens=4, schema=SCHEMA)
    assert not engine.generate([asked("a")], held)[0].text
    with pytest.raises(DataError, match="begins answers with thinking"):
        engine.generate([asked("a")], msgspec.structs.replace(held, strict=True))


def test_an_answer_has_the_likelihood_of_its_tokens(
    tiny: Model, engine: TransformersEngine
) -> None:
    """With the end of the turn, over several rounds and beside other rows."""
    import torch

    loaded = engine._loaded
    prompts = [[3, 4, 5], [6, 7], [8, 9, 10, 11]]
    batch = generation.read(loaded.model, prompts, loaded.pad)
    limits: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False}
    with torch.no_grad():
        answers, found = generation.answers(loaded.model, batch, ends=loaded.ends, **limits)
        for prompt, answer, logprob in zip(prompts, answers, found, strict=True):
            end = next((i + 1 for i, t in enumerate(answer) if t in loaded.ends), len(answer))
            tokens = torch.tensor([prompt + answer[:end]])
            logits = loaded.model(tokens).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            expected = logits.gather(1, tokens[0, len(prompt) :, None]).sum().item()
            assert logprob == pytest.approx(expected, rel=2e-3)  # bf16, without padding


def test_the_engine_gives_the_likelihood(engine: TransformersEngine) -> None:
    (answer,) = engine.generate([asked("hi")], Sampling(max_tokens=4))
    assert answer.logprob is not None
    assert answer.logprob < 0
