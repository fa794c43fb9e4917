"""The record cache: what is asked, what is kept, and when asking ends."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from finery import Completion, DataError, Engine, FineryError, Model, Request, Sampling, StepError
from finery.advanced import Budget, RefusedError
from finery.inference.budget import Price
from finery.inference.cache import MAX_WAITING_ANSWERS, CachedEngine
from finery.inference.engine import Answer, Batch, Identity
from finery.inference.records import (
    MemoryRecords,
    Records,
    SqliteRecords,
    make_sampling,
    record_key,
)
from finery.rows import Conversation
from finery.testing import TestJob

PARROT = Identity("parrot", "parrot")


class Parrot(Engine):
    """Says the last message, in pairs; "" to `mute`, an error to `bad`. Keeps what it is asked."""

    constrains = True
    pair = 1

    def __init__(self, model: Model, job: TestJob) -> None:
        super().__init__(model, job)
        self.prompts: list[str] = []
        self.seeds: list[int] = []

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """As many rows together as `pair` says."""
        rows = list(range(len(requests)))
        return [rows[i : i + self.pair] for i in rows[:: self.pair]]

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Say it."""
        texts = [str(request.messages[-1]["content"]) for request in requests]
        self.prompts += texts
        self.seeds.append(sampling.seed)
        if "bad" in texts:
            raise DataError("bad")
        if "no" in texts:
            error = RefusedError("refused")
            error.text = "I won't"
            raise error
        return [
            Completion(
                text="" if text == "mute" else text, finish_reason="stop", prompt_tokens=6,
                completion_tokens=4,
            )
            for text in texts
        ]  # fmt: skip


class Toolbox(Parrot):
    """Names the tools that it is offered."""

    takes_tools = True

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Name them."""
        self.prompts += [str(request.messages[-1]["content"]) for request in requests]
        return [
            Completion(
                text=" ".join(tool["function"]["name"] for tool in request.tools or ()),
                finish_reason="stop", prompt_tokens=6, completion_tokens=4, reasoning="thinking",
                call_error="no JSON",
            )
            for request in requests
        ]  # fmt: skip


class Reordered(Parrot):
    """Has up to eight requests in flight, and answers the newest first."""

    most = 0

    def stream(self, batches: Iterable[Batch], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Answer in odd order."""
        source, flying = enumerate(batches), dict[int, Batch]()
        while True:
            while len(flying) < 8 and (item := next(source, None)):
                flying[item[0]] = item[1]
            self.most = max(self.most, len(flying))
            if not flying:
                return
            number = max(flying)
            try:
                yield number, self._answered(flying.pop(number), sampling)
            except FineryError as error:
                yield number, error


def conversation(text: str) -> Conversation:
    return [{"role": "user", "content": text}]


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def texts(answers: Iterable[Completion]) -> list[str]:
    return [answer.text for answer in answers]


def requests(*texts: str, **more: Any) -> list[Request]:
    return [Request(conversation(text), **more) for text in texts]


def numbered(count: int) -> list[Request]:
    return requests(*map(str, range(count)))


class Asker:
    """An engine with its cache, as a step sees it."""

    def __init__(
        self,
        kind: type[Parrot] = Parrot,
        records: Records | None = None,
        identity: Identity = PARROT,
        **budget: Any,
    ) -> None:
        self.job = TestJob(records=records)
        self.engine = kind(Model(Path(), meta={"format": "parrot"}), self.job)
        self.engine.price = Price(input=1e6, output=1e6)  # a dollar a token
        limit = Budget(**budget) if budget else None
        self.cached = CachedEngine(self.engine, self.job.records, identity, limit)

    def stream(self, asked: Iterable[Request], **sampling: Any) -> dict[int, Any]:
        """All answers by index, each once."""
        found: dict[int, Any] = {}
        for index, answer in self.cached.stream(asked, **sampling):
            assert index not in found
            found[index] = answer if isinstance(answer, FineryError) else answer.text
        return found


@pytest.mark.parametrize("kind", [Parrot, Reordered])
def test_every_request_is_answered_once(kind: type[Parrot]) -> None:
    asker = Asker(kind)
    assert asker.stream(numbered(1300)) == {i: str(i) for i in range(1300)}
    assert len(asker.engine.prompts) == 1300


def test_ten_more_rows_cost_ten_more_calls() -> None:
    records = MemoryRecords()
    Asker(Reordered, records).stream(numbered(1000))
    again = Asker(Reordered, records)
    assert len(again.stream(numbered(1010))) == 1010
    assert sorted(again.engine.prompts) == [str(i) for i in range(1000, 1010)]
    assert (again.cached.usage.cached, again.cached.usage.calls) == (1000, 10)


@pytest.mark.parametrize("kind", [Parrot, Reordered])
@pytest.mark.parametrize("pair", [1, 2])
def test_the_same_at_a_time_is_sent_once(kind: type[Parrot], pair: int) -> None:
    asker = Asker(kind)
    asker.engine.pair = pair
    texts = ["a", "b"] * 20 + ["c", "d"]
    assert asker.stream(requests(*texts)) == dict(enumerate(texts))
    assert sorted(asker.engine.prompts) == ["a", "b", "c", "d"]
    assert (asker.cached.usage.cached, asker.cached.usage.calls) == (38, 4)


def test_the_same_at_a_time_fails_together() -> None:
    asker = Asker()
    found = asker.stream(requests("bad", "a", "bad", "mute", "mute"))
    assert isinstance(found[0], DataError)
    assert found[2] is found[0]
    assert [found[i] for i in (1, 3, 4)] == ["a", "", ""]
    assert sorted(asker.engine.prompts) == ["a", "bad", "mute"]
    asker.stream(requests("bad", "mute"))
    assert sorted(asker.engine.prompts) == ["a", "bad", "bad", "mute", "mute"]


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 0.5}, {"max_tokens": 5}, {"top_p": 0.5}, {"seed": 1}, {"stop": ["x"]},
        {"schema": {"type": "object"}},
    ],
)  # fmt: skip
def test_other_sampling_is_another_record(other: dict[str, Any]) -> None:
    asker = Asker()
    asker.stream(numbered(1))
    asker.stream(numbered(1), **other)
    asker.stream(numbered(1), **other)
    assert len(asker.engine.prompts) == 2


def test_a_further_attempt_is_asked_anew_with_another_seed() -> None:
    asker = Asker()
    for attempt in (0, 1, 2, 1):
        asker.stream(requests("a", attempt=attempt), seed=7)
    assert asker.engine.seeds == [7, 8, 9]


def test_errors_and_empty_answers_are_not_kept() -> None:
    records = MemoryRecords()
    asker = Asker(records=records)
    found = asker.stream(requests("a", "bad", "mute", "b"))
    assert (found[0], str(found[1]), found[2], found[3]) == ("a", "error: bad", "", "b")
    asker.stream(requests("a", "bad", "mute", "b"))
    assert asker.engine.prompts == ["a", "bad", "mute", "b", "bad", "mute"]
    assert len(records) == 2


def test_a_batch_is_a_record() -> None:
    class Pairs(Parrot):
        pair = 2

    asker = Asker(Pairs)
    asker.stream(requests("a", "b", "c"))
    asker.stream(requests("a", "b", "d"))
    assert asker.engine.prompts == ["a", "b", "c", "d"]


def test_generate_raises_the_first_error_once_what_flies_is_kept() -> None:
    records = MemoryRecords()
    asker = Asker(Reordered, records)
    texts = [*map(str, range(50)), "bad", *map(str, range(50, 100))]
    with pytest.raises(DataError, match="bad"):
        asker.cached.generate(list(map(conversation, texts)))
    assert len(asker.engine.prompts) < 70
    assert len(records) == len(asker.engine.prompts) - 1


def test_a_refusal_may_be_an_answer() -> None:
    rows = [conversation("a"), conversation("no")]
    with pytest.raises(RefusedError):
        Asker().cached.generate(rows)
    found = Asker().cached.generate(rows, refusals=True)
    assert [(a.text, a.finish_reason) for a in found] == [("a", "stop"), ("I won't", "refusal")]


def test_requests_are_taken_as_there_is_room() -> None:
    taken = 0

    def endless() -> Iterator[Request]:
        nonlocal taken
        while True:
            taken += 1
            yield Request(conversation(str(taken)))

    answers = Asker(Reordered).cached.stream(endless())
    assert [next(answers)[1] for _ in range(3)]
    assert taken <= 1024


def test_cached_answers_do_not_pile_up() -> None:
    records = MemoryRecords()
    Asker(records=records).stream(numbered(3 * MAX_WAITING_ANSWERS))
    asker = Asker(records=records)
    answers = asker.cached.stream(iter(numbered(3 * MAX_WAITING_ANSWERS)))
    next(answers)
    assert asker.cached.usage.cached < 2 * MAX_WAITING_ANSWERS
    assert len(list(answers)) == 3 * MAX_WAITING_ANSWERS - 1
    assert asker.engine.prompts == []


def test_a_budget_ends_asking_and_keeps_what_was_answered() -> None:
    records = MemoryRecords()
    asker = Asker(records=records, tokens=100)  # an answer takes ten
    with pytest.raises(
        StepError, match=r"\(100 tokens\): 10 of 30 requests are answered and stored"
    ):
        asker.stream(numbered(30))
    assert len(records) == len(asker.engine.prompts) == 10
    more = Asker(records=records, tokens=1000)
    assert len(more.stream(numbered(30))) == 30
    assert len(more.engine.prompts) == 20


@pytest.mark.parametrize("limit", [{"tokens": 300}, {"dollars": 300}])
def test_what_flies_counts_into_the_budget(limit: dict[str, Any]) -> None:
    asker = Asker(Reordered, **limit)
    with pytest.raises(StepError, match="budget reached"):
        asker.stream(numbered(100))
    assert len(asker.engine.prompts) == 30


def test_a_budget_counts_all_engines_of_the_step() -> None:
    asker = Asker(tokens=100)
    asker.job.usage.prompt_tokens = 90
    with pytest.raises(StepError, match="1 of 5 requests"):
        asker.stream(numbered(5))


def test_tools_are_given_for_all_conversations_or_for_each() -> None:
    talks = [conversation(text) for text in "abc"]
    asker = Asker(Toolbox)
    assert texts(asker.cached.generate(talks, tools=[tool("f")])) == ["f", "f", "f"]
    each = [[tool("f"), tool("g")], None, []]
    assert texts(asker.cached.generate(talks, tools=each)) == ["f g", "", ""]
    assert texts(asker.cached.generate(talks, tools=[])) == ["", "", ""]
    assert texts(asker.cached.generate(talks)) == ["", "", ""]
    with pytest.raises(ValueError, match="shorter"):
        asker.cached.generate(talks, tools=[[tool("f")], None])


def test_only_declared_schemas_are_sent_and_only_their_answers_depend_on_what_holds_them() -> None:
    asked = [conversation("hi")]
    declared, undeclared = Asker(), Asker(identity=Identity("parrot", None))
    declared.cached.generate(asked, schema={"type": "object"})
    assert declared.cached.constrains
    undeclared.cached.generate(asked)
    assert not undeclared.cached.constrains
    with pytest.raises(StepError, match="its `cache_key` has no `schemas`"):
        undeclared.cached.generate(asked, schema={"type": "object"})

    sampling, schema = make_sampling(), make_sampling(schema={"type": "object"})
    without, installed = Identity("m", "not installed"), Identity("m", "1.9")
    for drawn, same in ((sampling, True), (schema, False)):
        old, new = (record_key(it, [Request(asked[0])], drawn) for it in (without, installed))
        assert (old == new) is same


def test_records_of_earlier_versions_are_read() -> None:
    """Neither the key of a request nor the form of an answer may change: answers are paid for."""
    asker = Asker()
    plain, sampling = Request(conversation("hi")), make_sampling()
    key = "162393d5b59126d5de7887b7b02730d7299e424463d6547b5e1fb9f6dc79b980"
    assert record_key(Identity("m", "m"), [plain], sampling).hex() == key
    tooled = Request(conversation("hi"), [{"type": "function"}], 1)
    key = "d2e6ba8208c92df8658978680b2a0850dbb4db1412504876f9ad2563659118c6"
    assert (
        record_key(Identity("m", "m"), [tooled], make_sampling(schema={"b": 1, "a": 2})).hex()
        == key
    )
    stored: dict[str, Any] = {
        "text": "ho",
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "completion_tokens": 2,
    }
    asker.job.records.put({record_key(PARROT, [plain], sampling): msgspec.msgpack.encode([stored])})
    assert asker.cached.generate([conversation("hi")]) == [Completion(**stored)]
    assert asker.engine.prompts == []


def test_records_that_cannot_be_written_are_no_bug(tmp_path: Path) -> None:
    path = tmp_path / "gone/finery.db"
    with pytest.raises(StepError, match="an answer can't be stored"):
        SqliteRecords(path).put({b"k": b"v"})
