"""`prompt.model`: what is put in front of a model, and the engine that does it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery import Completion, DataError, Dataset, Engine, Model, Request, Sampling
from finery.inference.engine import Identity
from finery.rows import Conversation, Row
from finery.testing import TestJob, dataset, run_step
from finery_prompt.model import PromptModel, pick


class Echo(Engine):
    """Answers with the conversation it was given, two rows to a batch."""

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        rows = range(len(requests))
        return [list(rows[i : i + 2]) for i in rows[::2]]

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        return [
            Completion(
                text=" | ".join(f"{m['role']}: {m['content']}" for m in request.messages),
                finish_reason="stop",
                prompt_tokens=len(request.messages),
                completion_tokens=sampling.max_tokens,
            )
            for request in requests
        ]


class EchoJob(TestJob):
    """A job that knows the engine of the format `echo`, besides the installed ones."""

    def _find(self, model: Model) -> tuple[type[Engine], Identity]:
        known = Echo, Identity("echo", "echo")
        return known if model.format == "echo" else super()._find(model)


@pytest.fixture
def echo(tmp_path: Path) -> Model:
    return Model(tmp_path, meta={"format": "echo"})


def row(user: str, assistant: str, **more: Any) -> Row:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"messages": messages, **more}


def examples(folder: Path, count: int = 12) -> Dataset:
    """Rows with three answers, the first far more often than the others."""
    answers = ["yes"] * (count - 2) + ["no", "maybe"]
    return dataset(folder, [row(f"question {i}", a) for i, a in enumerate(answers)])


def ask(model: Model, *texts: str, system: str | None = None) -> list[str]:
    own: Conversation = [{"role": "system", "content": system}] if system else []
    conversations = [[*own, {"role": "user", "content": text}] for text in texts]
    return [answer.text for answer in EchoJob().engine(model).generate(conversations)]


def test_the_system_prompt_comes_first(echo: Model) -> None:
    model = PromptModel(model=echo, system="Be brief.").run(TestJob())
    assert ask(model, "hi", "ho", "hu") == [
        f"system: Be brief. | user: {text}" for text in ("hi", "ho", "hu")
    ]


def test_examples_stand_between_system_prompt_and_conversation(echo: Model, tmp_path: Path) -> None:
    one = row("2 + 2", "4")
    one["messages"].insert(0, {"role": "system", "content": "dropped"})
    step = PromptModel(model=echo, examples=dataset(tmp_path / "rows", [one]), shots=1)
    assert ask(step.run(TestJob()), "3 + 3", system="Add.") == [
        "system: Add. | user: 2 + 2 | assistant: 4 | user: 3 + 3"
    ]


def test_different_answers_are_shown(echo: Model, tmp_path: Path) -> None:
    step = PromptModel(model=echo, examples=examples(tmp_path / "rows"), shots=3)
    for seed in range(20):
        turns = step.run(TestJob(seed=seed)).meta["messages"]
        assert {m["content"] for m in turns[1::2]} == {"yes", "no", "maybe"}


def test_the_seed_picks(echo: Model, tmp_path: Path) -> None:
    step = PromptModel(model=echo, examples=examples(tmp_path / "rows"), shots=4)
    picked = [step.run(TestJob(seed=seed)).meta for seed in (1, 1, 2)]
    assert picked[0] == picked[1]
    assert picked[0] != picked[2]
    assert len(picked[0]["examples"]) == 4


@given(st.permutations(range(8)), st.integers(0, 8), st.integers(0, 2**31 - 1))
def test_the_pick_does_not_depend_on_the_order(order: list[int], count: int, seed: int) -> None:
    rows = [row(f"q{i}", f"a{i % 3}") for i in range(8)]
    picked = pick(rows, count, seed)
    assert pick([rows[i] for i in order], count, seed) == picked
    assert len(picked) == count
    assert len({r["messages"][1]["content"] for r in picked}) == min(count, 3)


def test_tools_reach_the_model_under_it(echo: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only if the model's own engine takes them."""
    model = PromptModel(model=echo, system="x").run(TestJob())
    offered: list[Any] = []
    answer = Echo.generate

    def generate(self: Echo, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        offered.extend(request.tools for request in requests)
        return answer(self, requests, sampling)

    monkeypatch.setattr(Echo, "generate", generate)
    tools = [{"type": "function", "function": {"name": "f"}}]
    talk = [[{"role": "user", "content": "a"}]]
    with pytest.raises(DataError, match="the format 'echo' can't offer tools"):
        EchoJob().engine(model).generate(talk, tools=tools)
    monkeypatch.setattr(Echo, "takes_tools", True)
    EchoJob().engine(model).generate(talk, tools=tools)
    assert offered == [tools]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "are both missing"),
        ({"system": " "}, "are both missing"),
        ({"shots": 2}, "needs examples"),
    ],
)
def test_settings_that_do_nothing_are_refused(
    echo: Model, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        PromptModel(model=echo, **settings).run(TestJob())


def test_nearest_rows_are_shown_to_each_prompt(echo: Model, tmp_path: Path) -> None:
    """The most similar last, next to the question; a prompt that resembles nothing gets none."""
    rows = [
        row("card is lost", "lost"),
        row("card arrived late", "late"),
        row("refund me", "refund"),
    ]
    step = PromptModel(model=echo, examples=dataset(tmp_path / "r", rows), shots=2, pick="nearest")
    model = run_step(step, tmp_path / "out")
    asked = ask(model, "my card is late", "refunds?", "…")
    assert asked == [
        "user: card is lost | assistant: lost | user: card arrived late | assistant: late | "
        "user: my card is late",
        "user: refund me | assistant: refund | user: refunds?",
        "user: …",
    ]
