"""Answers of a GGUF: the same ones every time, whatever was answered before."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_gguf import tiny_tokenizer, write_tiny_gguf
from tiny_llama import TOOLED, TOOLS

from finery import Completion, DataError, Model, Request, Sampling, StepError
from finery.rows import Conversation
from finery.testing import TestJob
from finery_gguf import engine as engine_module
from finery_gguf.engine import GgufEngine
from finery_gguf.llama import Context, Gguf, Library, library
from finery_gguf.pace import FRESH, TRIES, Pace
from finery_gguf.prompts import chat_template, tokenize
from finery_gguf.slots import Raw

SHOTS = [
    {"role": "system", "content": "Name the intent of the message."},
    {"role": "user", "content": "Where is my card?"},
    {"role": "assistant", "content": "card_arrival"},
]
TALKS: list[Conversation] = [
    [*SHOTS, {"role": "user", "content": text}] for text in ("Who?", "22 of the 22", "\n\nWhy?")
] + [[{"role": "user", "content": "Who?"}]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def engine(path: Path, **meta: Any) -> GgufEngine:
    return GgufEngine(
        Model(path.parent, meta={"format": "gguf", "file": path.name, **meta}), TestJob()
    )


def answers(path: Path, talks: list[Conversation], **sampling: Any) -> list[Completion]:
    return engine(path).generate(
        list(map(Request, talks)), Sampling(**{"max_tokens": 24, **sampling})
    )


def test_an_answer_depends_on_its_row_alone(tiny: Path) -> None:
    together = answers(tiny, TALKS)
    assert answers(tiny, TALKS) == together
    assert answers(tiny, TALKS[::-1]) == together[::-1]
    assert [answers(tiny, [talk])[0] for talk in TALKS] == together
    assert len({a.text for a in together}) == len(TALKS)


def test_the_number_of_threads_changes_nothing(tiny: Path) -> None:
    found = []
    for threads in (1, 2, 3):
        made = engine(tiny)
        made._pace = Pace(threads)
        found.append(made.generate(list(map(Request, TALKS)), Sampling(max_tokens=24)))
    assert found[0] == found[1] == found[2]


def test_what_comes_before_the_last_turn_is_kept(tiny: Path) -> None:
    gguf = Gguf(tiny)
    template = chat_template(gguf, {})
    heads = []
    for talk in TALKS[:2]:
        _, tokens, prefix = tokenize(gguf, template, talk)
        heads.append(tokens[:prefix])
    assert heads[0] == heads[1]
    assert gguf.decode(heads[0]).endswith("card_arrival\nuser\n")


def test_a_last_turn_that_joins_what_is_before_has_a_shorter_prefix(tiny: Path) -> None:
    # "user\n" + "\n\nWhy?": the first two line breaks are one token here.
    gguf = Gguf(tiny)
    _, tokens, prefix = tokenize(gguf, chat_template(gguf, {}), TALKS[2])
    assert gguf.decode(tokens[:prefix]).endswith("card_arrival\nuser")


def test_sampling_is_seeded(tiny: Path) -> None:
    def drawn(seed: int) -> list[Completion]:
        return answers(tiny, TALKS, temperature=1.0, top_p=0.9, seed=seed)

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_an_answer_ends_at_any_end_of_generation_token(tiny: Path) -> None:
    found = answers(tiny, TALKS, temperature=5.0, max_tokens=500)
    ended = [a for a in found if a.finish_reason == "stop"]
    assert ended
    assert all(a.completion_tokens < 500 for a in ended)


def test_a_stop_string_ends_the_answer_before_it(tiny: Path) -> None:
    (whole,) = answers(tiny, TALKS[:1])
    stop = whole.text[6:8]
    (cut,) = answers(tiny, TALKS[:1], stop=("never", stop))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"


def test_a_row_over_the_context_is_named(tiny: Path) -> None:
    talk = [{"role": "user", "content": "long " * 400}]
    with pytest.raises(DataError, match=r"need \d+ tokens, but the context has 1024") as raised:
        answers(tiny, [talk])
    assert "long long" in raised.value.details[0]


@pytest.mark.parametrize(
    ("written", "added"), [("{{ bos_token }}", True), ("", True), ("{{ bos_token }}", False)]
)
def test_there_is_one_bos(tmp_path: Path, written: str, added: bool) -> None:
    template = written + "{% for m in messages %}{{ m.content }}{% endfor %}"
    gguf = Gguf(
        write_tiny_gguf(tmp_path / "t.gguf", template=template, flags={"add_bos_token": added})
    )
    _, tokens, _ = tokenize(gguf, chat_template(gguf, {}), [{"role": "user", "content": "22"}])
    assert tokens == [gguf.bos, *gguf.encode("22")]


def test_prompts_are_the_tokens_that_transformers_makes(tiny: Path) -> None:
    gguf, tokenizer = Gguf(tiny), tiny_tokenizer()
    template = chat_template(gguf, {})
    for talk in TALKS:
        made = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)
        assert tokenize(gguf, template, talk).tokens == made["input_ids"]


def test_a_model_is_freed_after_its_contexts(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where both are garbage of one cycle; a context would read what is freed."""
    c = library().c
    freed: list[str] = []

    class Recorded:
        """llama.cpp, which says when it frees something."""

        def __getattr__(self, name: str) -> Any:
            function = getattr(c, name)
            if name not in ("llama_model_free", "llama_free"):
                return function

            def free(pointer: Any) -> None:
                freed.append(name)
                function(pointer)

            return free

    gc.collect()
    monkeypatch.setattr(library(), "c", Recorded())
    for is_cycle in (False, True):
        owner = SimpleNamespace(model=Gguf(tiny))
        owner.contexts = [Context(owner.model, 64, 1, Pace(1)) for _ in range(2)]
        owner.itself = owner if is_cycle else None
        del owner
        gc.collect()
        assert freed == ["llama_free", "llama_free", "llama_model_free"]
        freed.clear()


def test_a_broken_gguf(tmp_path: Path) -> None:
    path = tmp_path / "t.gguf"
    path.write_bytes(b"GGUF, and then nothing that is one")
    with pytest.raises(StepError, match="can't load this GGUF") as raised:
        answers(path, TALKS[:1])
    assert raised.value.details
    with pytest.raises(StepError, match="was not found"):
        Gguf(tmp_path / "missing.gguf")


def tokens_made(pace: Pace, spent: dict[int, float], count: int) -> list[int]:
    """The numbers of threads that `count` tokens are made with."""
    made = []
    for _ in range(count):
        made.append(pace.for_token())
        pace.took(made[-1], spent[made[-1]])
    return made


def test_the_fastest_number_of_threads_is_used() -> None:
    now = 0.0
    pace = Pace(4, lambda: now)
    spent = {4: 0.5, 2: 0.1, 1: 0.2}
    assert tokens_made(pace, spent, 3 * TRIES + 1) == [4] * TRIES + [2] * TRIES + [1] * TRIES + [2]
    assert pace.for_prompt() == 2
    now = FRESH + 1  # now all are compared again, the slow ones for one token
    assert tokens_made(pace, spent, TRIES + 4) == [2] * TRIES + [4, 1, 2, 2]


def test_a_special_token_outside_the_vocabulary_is_refused(tiny: Path, tmp_path: Path) -> None:
    """llama.cpp would end the process when asked for its text."""
    key = b"tokenizer.ggml.eos_token_id"
    content = bytearray(tiny.read_bytes())
    start = content.index(key) + len(key) + 4  # after the value's type
    content[start : start + 4] = (999_999).to_bytes(4, "little")
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(StepError, match="names the token 999999, but its vocabulary has"):
        chat_template(Gguf(tmp_path / "m.gguf", vocab_only=True), {})


# -- tools and thinking ----------------------------------------------------------------------------


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Completion]:
    """(raw answer, tools) → what the engine makes of it."""

    def answer(raw: str, tools: Any = None, **kwargs: Any) -> Completion:
        path = write_tiny_gguf(tmp_path / "tooled.gguf", template=TOOLED)
        generated = Raw(raw, [], 9, not raw.endswith("…"), 0.0)

        def raw_answers(_: Any, rows: Any) -> Iterator[tuple[int, Raw]]:
            yield from ((number, generated) for number, _ in enumerate(rows))

        monkeypatch.setattr(engine_module, "_raw_answers", raw_answers)
        requests = [Request(TALKS[0], tools)]
        (completion,) = engine(path, chat_template_kwargs=kwargs).generate(requests, Sampling())
        return completion

    return answer


def test_calls_and_thinking_are_read(answering: Callable[..., Completion]) -> None:
    raw = '<think>\nHm.\n</think>\n\nSo:\n<tool_call>\n{"name": "f"}\n</tool_call>'
    answer = answering(raw, TOOLS)
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("So:", "Hm.", "tool_calls")
    assert [call["function"] for call in answer.tool_calls or ()] == [
        {"name": "f", "arguments": "{}"}
    ]
    assert "is JSON that ends too early" in str(answering("<tool_call>{", TOOLS).call_error)
    assert answering(raw).text == 'So:\n<tool_call>\n{"name": "f"}\n</tool_call>'


def test_all_layers_are_on_the_gpu_where_llama_cpp_is_built_for_it(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one here: only that it is asked for, and told in the log."""
    asked = []
    load = library().c.llama_model_load_from_file

    class Recording:
        def __getattr__(self, name: str) -> Any:
            return getattr(library_c, name)

        def llama_model_load_from_file(self, path: Any, options: Any) -> Any:
            asked.append(options.n_gpu_layers)
            return load(path, options)

    library_c = library().c
    monkeypatch.setattr(library(), "c", Recording())
    monkeypatch.setattr(Library, "gpus", lambda self: ["NVIDIA L4"])
    made = engine(tiny)
    assert made.generate([Request(TALKS[0])], Sampling(max_tokens=2))
    assert asked == [999]
    assert logged(made)[0] == "llama.cpp: all layers on NVIDIA L4"


def logged(made: GgufEngine) -> list[str]:
    """What an engine logged."""
    assert isinstance(made.job, TestJob)
    return [event["message"] for event in made.job.events if event["event"] == "log"]
