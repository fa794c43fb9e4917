"""Rows answered at the same time: each as if it were alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_server import needs_llama_server
from tiny_gguf import write_tiny_gguf

from finery import Completion, DataError, Model, Request, Sampling, StepError
from finery.advanced import Answer, Batch
from finery.rows import Conversation
from finery.testing import TestJob
from finery_gguf import programs
from finery_gguf.engine import GgufEngine
from finery_gguf.llama import Context, Gguf
from finery_gguf.pace import Pace
from finery_gguf.slots import multiple_of

SHOTS = [
    {"role": "system", "content": "Name the intent of the message."},
    {"role": "user", "content": "Where is my card?"},
    {"role": "assistant", "content": "card_arrival"},
]
WORDS = ("Who?", "22 of the 22", "\n\nWhy?", "x" * 40, "How is it that it is so?", "222", "Hello")
TALKS: list[Conversation] = [
    [*(SHOTS if i % 2 else []), {"role": "user", "content": text}] for i, text in enumerate(WORDS)
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def engine(path: Path) -> GgufEngine:
    return GgufEngine(Model(path.parent, meta={"format": "gguf", "file": path.name}), TestJob())


def streamed(made: GgufEngine, talks: list[Conversation], **sampling: Any) -> list[Answer]:
    """The outcome of each talk, from one stream."""
    batches: list[Batch] = [[Request(talk)] for talk in talks]
    outcomes = dict(made.stream(batches, Sampling(**{"max_tokens": 24, **sampling})))
    return [outcomes[number] for number in range(len(talks))]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "top_p": 0.9, "seed": 5}])
def test_an_answer_is_the_same_for_any_number_of_rows_at_once(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, sampling: dict[str, Any]
) -> None:
    outcomes = []
    for slots in ("1", "2", "3", "5", "16"):
        monkeypatch.setenv(programs.SLOTS, slots)
        outcomes.append(streamed(engine(tiny), TALKS, **sampling))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert len({str(outcome) for outcome in outcomes[0]}) == len(TALKS)


def test_a_row_begins_when_another_ends(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(programs.SLOTS, "2")
    taken = 0

    def batches() -> Iterator[Batch]:
        nonlocal taken
        for talk in TALKS:
            taken += 1
            yield [Request(talk)]

    seen = [taken for _ in engine(tiny).stream(batches(), Sampling(max_tokens=3))]
    assert seen[0] == 2
    assert all(count <= place + 3 for place, count in enumerate(seen))
    assert taken == len(TALKS)


def test_a_row_that_cannot_be_answered_stops_no_other(tiny: Path) -> None:
    long = [{"role": "user", "content": "long " * 400}]
    found = streamed(engine(tiny), [TALKS[0], long, TALKS[1]])
    assert isinstance(found[1], DataError)
    assert [found[0], found[2]] == streamed(engine(tiny), TALKS[:2])


def test_a_stream_that_nobody_reads_on_leaves_nothing_behind(tiny: Path) -> None:
    made = engine(tiny)
    begun = made.stream(([Request(talk)] for talk in TALKS), Sampling(max_tokens=24))
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert streamed(made, TALKS) == streamed(engine(tiny), TALKS)


def test_two_streams_of_one_engine(tiny: Path) -> None:
    made, sampling = engine(tiny), Sampling(max_tokens=24)
    one = made.stream([[Request(talk)] for talk in TALKS[:3]], sampling)
    other = made.stream([[Request(talk)] for talk in TALKS[3:6]], sampling)
    found: tuple[dict[int, Answer], dict[int, Answer]] = ({}, {})
    for a, b in zip(one, other, strict=True):
        for into, (number, answer) in zip(found, (a, b), strict=True):
            into[number] = answer
    expected = streamed(engine(tiny), TALKS[:6])
    assert [found[0][i] for i in range(3)] + [found[1][i] for i in range(3)] == expected


def test_the_shape_of_batches_is_measured_with_few_tokens(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[int] = []
    decode = Context._decode

    def counted(context: Context, items: Any, threads: int) -> None:
        evaluated.append(len(items))
        decode(context, items, threads)

    monkeypatch.setattr(Context, "_decode", counted)
    multiple = multiple_of(Gguf(tiny), Pace(1))
    assert multiple in (1, 2, 4, 8, 16)
    # The tokens that all rows begin with are evaluated once, and then one token a row.
    assert evaluated == [8, 16, 1, 2, 3, 4, 6, 8, 12]


# -- by a server -----------------------------------------------------------------------------------


@pytest.fixture
def by_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(programs.ENGINE, programs.REMOTE)
    monkeypatch.setenv(programs.SLOTS, "3")


def counts(answers: list[Answer]) -> list[tuple[int, int, str]]:
    """The tokens of prompts and answers, and why answers ended."""
    made: list[Completion] = [answer[0] for answer in answers]  # type: ignore[index]
    return [(a.prompt_tokens, a.completion_tokens, a.finish_reason) for a in made]


@needs_llama_server
def test_a_server_answers_as_the_library_does(tiny: Path, by_server: None) -> None:
    made = engine(tiny)
    answers = streamed(made, TALKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(programs.ENGINE, programs.LIBRARY)
        expected = streamed(engine(tiny), TALKS)
        assert GgufEngine.cache_key().facts == {}
    assert [a[0].prompt_tokens for a in expected] == [a[0].prompt_tokens for a in answers]  # type: ignore[index]
    assert sum(a == b for a, b in zip(answers, expected, strict=True)) >= len(TALKS) - 1
    assert "3 slots" in GgufEngine.cache_key().facts["llama.cpp"]
    assert any("answers; the last digits depend" in e.get("message", "") for e in made.job.events)  # type: ignore[attr-defined]


@needs_llama_server
def test_answers_are_held_to_a_schema(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library, row for row with and without, and by the server."""
    schema = {
        "type": "object", "required": ["label"], "additionalProperties": False,
        "properties": {"label": {"enum": ["late", "lost"]}},
    }  # fmt: skip
    for name in (programs.LIBRARY, programs.REMOTE):
        monkeypatch.setenv(programs.ENGINE, name)
        for temperature in (0.0, 2.0):
            made = engine(tiny)
            held = streamed(
                made, TALKS, temperature=temperature, max_tokens=128, schema=schema, strict=True
            )
            said = [json.loads(answer[0].text) for answer in held]  # type: ignore[index]
            assert all(answer["label"] in ("late", "lost") for answer in said)
            free = streamed(made, TALKS, temperature=temperature)
            assert not any(answer[0].text.startswith("{") for answer in free)  # type: ignore[index]


@needs_llama_server
def test_a_server_ends_answers_as_asked(tiny: Path, by_server: None) -> None:
    made = engine(tiny)
    (whole,) = streamed(made, TALKS[:1])
    text = whole[0].text  # type: ignore[index]
    (stopped,) = streamed(made, TALKS[:1], stop=("never", text[6:8]))
    assert stopped[0].text == text[: text.index(text[6:8])]  # type: ignore[index]
    assert counts(streamed(made, TALKS[:1], max_tokens=5))[0][1:] == (5, "length")
    drawn = [streamed(made, TALKS[:1], temperature=1.0, seed=seed)[0] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


@needs_llama_server
def test_a_server_that_ends_is_an_error(tiny: Path, by_server: None) -> None:
    made = engine(tiny)
    streamed(made, TALKS[:1])
    made._idle[0]._running.close()  # type: ignore[union-attr]
    with pytest.raises(StepError, match="failed to answer"):
        streamed(made, TALKS[:1])
