"""Engines that answer many requests at a time: their order, and the seed of each attempt."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from finery import Completion, DataError, FineryError, Model, Request, Sampling
from finery.testing import TestJob
from finery_transformers.answering.concurrent import ConcurrentEngine


class Seeds(ConcurrentEngine):
    """Answers with the seed, the last request first; an empty conversation is an error."""

    def answers(
        self, requests: Iterable[tuple[Request, Sampling]]
    ) -> Iterator[tuple[int, Completion | FineryError]]:
        for number, (request, sampling) in reversed([*enumerate(requests)]):
            seed = str(sampling.seed)
            yield number, answered(seed) if request.messages else DataError("no message")


def answered(text: str) -> Completion:
    return Completion(text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1)


def ask(text: str, attempt: int = 0) -> Request:
    return Request([{"role": "user", "content": text}], attempt=attempt)


def test_an_attempt_changes_the_seed_once(tmp_path: Path) -> None:
    """A batch's sampling is that of its attempt already, so `generate` leaves it as it is."""
    engine = Seeds(Model.placeholder("m"), TestJob(tmp_path))
    batches = [[ask("a")], [ask("b", attempt=2)]]
    streamed = dict(engine.stream(batches, Sampling(seed=5)))
    assert [streamed[i][0].text for i in (0, 1)] == ["5", "7"]  # type: ignore[index]
    answers = engine.generate([ask("b", attempt=2), ask("c")], Sampling(seed=7))
    assert [answer.text for answer in answers] == ["7", "7"]


def test_requests_that_begin_alike_follow_one_another(tmp_path: Path) -> None:
    engine = Seeds(Model.placeholder("m"), TestJob(tmp_path))
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    requests = [ask("a"), Request(ask("b").messages, tools), ask("c")]
    assert engine.batches(requests) == [[0], [2], [1]]


def test_an_error_ends_a_batch_and_not_a_stream(tmp_path: Path) -> None:
    engine = Seeds(Model.placeholder("m"), TestJob(tmp_path))
    with pytest.raises(DataError, match="no message"):
        engine.generate([Request([])], Sampling())
    streamed = dict(engine.stream([[Request([])], [ask("a")]], Sampling(seed=1)))
    assert isinstance(streamed[0], DataError)
    assert [answer.text for answer in streamed[1]] == ["1"]  # type: ignore[union-attr]
