"""The per-record cache: one answered request is one record, shared by all recipes of a project.

Records outlive steps: when a step is interrupted or its rows change, requests that were answered
before aren't sent again. A process claims the record of a request before it sends the request, and
other processes with the same request wait for it.
"""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple, cast

import msgspec

from finery.errors import FineryError, PluginError, RefusedError, StepError
from finery.inference.budget import Budget, Spending, Ticker, Usage
from finery.inference.engine import (
    Answer,
    Batch,
    Completion,
    Engine,
    Identity,
    Request,
    Sampling,
    Tools,
)
from finery.inference.records import Records, make_sampling, record_key
from finery.rows import Conversation
from finery.util.text import counted

LOOKUP_WINDOW = 512
"""Requests that are taken from a stream and looked up together."""
MAX_WAITING_ANSWERS = 8192
"""Maximum number of cached answers that wait while the engine is busy."""
SOLE_ENGINE = Identity("", "")
RECHECK_SECONDS = 0.1
"""How often to look for another process's answers when there is nothing else to do."""


class CachedEngine:
    """An engine with the record cache. Steps answer prompts only through it.

    identity: of the model in keys of records; not needed if it alone has the records.
    usage: usage of this engine. budget: limits all engines of the job together, see `Job.usage`
    and `Spending`.
    """

    def __init__(
        self,
        engine: Engine,
        records: Records,
        identity: Identity = SOLE_ENGINE,
        budget: Budget | None = None,
    ) -> None:
        if budget is not None:
            budget.check(engine.price)
        self._engine = engine
        self._records = records
        self._identity = identity
        self._budget = budget
        self.usage = Usage()

    @property
    def constrains(self) -> bool:
        """Whether answers follow a `schema`. If not, the prompt must ask for the format."""
        return self._engine.constrains and self._identity.held is not None

    def generate(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
        strict: bool = False,
        tools: Tools | Sequence[Tools | None] | None = None,
        attempt: int = 0,
        refusals: bool = False,
        progress: str = "",
    ) -> list[Completion]:
        """Answer each conversation, in order. `progress` names the work in the progress bar.

        Batches that were answered before by the same model, engine and sampling come from the
        cache, and identical requests are sent once. Raises the first error after the other requests
        in flight are answered and stored.
        strict: whether an engine that can't hold answers to the `schema` is an error.
        tools: what the model may call: one list for all conversations, or one (or None) for each.
        refusals: whether a refusal is an answer (with that `finish_reason`) instead of an error.
        """
        if strict and not self._engine.constrains:
            raise StepError(
                f"answers of a model of the format '{self._engine.model.format}' can't be held to "
                "a JSON Schema",
                fix="for transformers and llama.cpp, pip install 'finery[schema]'; for any model, "
                "let it answer freely",
            )
        sampling = make_sampling(
            max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop,
            schema=schema, strict=strict,
        )  # fmt: skip
        requests = [
            Request(conversation, offered, attempt)
            for conversation, offered in zip(
                conversations, _tools_for_each(tools, len(conversations)), strict=True
            )
        ]
        flow = _Flow(self, requests, sampling, window=max(len(requests), 1))
        answers: list[Completion | None] = [None] * len(requests)
        failed: FineryError | None = None
        for index, answer in self._with_progress(flow, len(requests), progress):
            if refusals and isinstance(answer, RefusedError):
                answer = Completion(
                    text=answer.text, finish_reason="refusal", prompt_tokens=0, completion_tokens=0
                )
            if isinstance(answer, FineryError):
                failed = failed or answer
                flow.stopped = True
            else:
                answers[index] = answer
        if failed is not None:
            raise failed
        return [a for a in answers if a is not None]

    def stream(
        self,
        requests: Iterable[Request],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
        progress: str = "",
        total: int | None = None,
    ) -> Iterator[tuple[int, Completion | FineryError]]:
        """Yield (index of the request, its answer or error), in any order, each once.

        Requests are taken as there is room for them, so that memory stays flat, and each answer is
        stored as soon as it arrives. Raises `StepError` when the budget is reached, and errors that
        end all requests (e.g. a wrong API key), each after the requests in flight are answered,
        yielded and stored.
        progress: names the work in the progress bar. total: the number of requests, if it isn't
            their `len`; without both, no progress is reported.
        """
        sampling = make_sampling(
            max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop,
            schema=schema,
        )  # fmt: skip
        if total is None:
            total = len(requests) if isinstance(requests, Sequence) else 0
        yield from self._with_progress(
            _Flow(self, requests, sampling, window=LOOKUP_WINDOW), total, progress
        )

    def _with_progress(
        self, flow: "_Flow", total: int, progress: str
    ) -> Iterator[tuple[int, Completion | FineryError]]:
        """The flow's answers. Reports progress, and raises an error when the budget is reached."""
        ticker, done = Ticker(), 0
        if total:  # loading a model may take a while
            self._engine.job.progress(0, total, self._progress_text(progress))
        for answer in flow.answers():
            done += 1
            if total and ticker.is_due(done, total):
                self._engine.job.progress(done, total, self._progress_text(progress))
            yield answer
        if flow.is_out_of_budget:
            answered = f"{done:,} of {total:,}" if total else f"{done:,}"
            raise StepError(
                f"budget reached ({self._budget}): {answered} requests are answered and stored, "
                f"{self._engine.job.usage} used",
                fix="raise budget and build again: only the remaining requests are sent",
            )

    def _spending(self, sampling: Sampling) -> Spending | None:
        """The limit on what a stream of requests may use; None: no limit."""
        if self._budget is None:
            return None
        return Spending(
            self._budget, self._engine.job.usage, self.usage, self._engine.price,
            sampling.max_tokens,
        )  # fmt: skip

    def _progress_text(self, progress: str) -> str:
        """Text of the progress bar, with the usage if answers cost something."""
        costs = self._engine.price is None or self._engine.price.of(1, 1) > 0
        if not costs or not self.usage.calls:
            return progress
        return f"{progress}: {self.usage}" if progress else str(self.usage)


def _tools_for_each(tools: Tools | Sequence[Tools | None] | None, count: int) -> list[Tools | None]:
    """The tools of each of `count` conversations; an empty list offers none."""
    if not tools:
        return [None] * count
    if all(isinstance(tool, dict) for tool in tools):
        return [cast(Tools, tools)] * count
    return [offered or None for offered in cast(Sequence[Tools | None], tools)]


class _PendingBatch(NamedTuple):
    """A batch that isn't cached: its rows' indices in the stream, and its key."""

    indices: list[int]
    batch: Batch
    key: bytes


class _Flow:
    """One pass through the cache: cached requests are answered from it, others by the engine."""

    def __init__(
        self, owner: CachedEngine, requests: Iterable[Request], sampling: Sampling, *, window: int
    ) -> None:
        self._engine = owner._engine
        self._records = owner._records
        self._identity = owner._identity
        self._usage = owner.usage
        self._spending = owner._spending(sampling)
        self._sampling = sampling
        self._source = enumerate(requests)
        self._window = window
        self._cached_answers: deque[tuple[int, Completion]] = deque()
        self._to_send: deque[_PendingBatch] = deque()
        self._in_flight: dict[int, _PendingBatch] = {}
        self._claimed_elsewhere: list[_PendingBatch] = []  # which other processes are sending
        self._has_logged_wait = False
        # Key of a waiting or sent batch → indices of other batches with the same requests.
        self._twins: dict[bytes, list[list[int]]] = {}
        self._exhausted = False
        self.stopped = False  # set by the reader: send nothing more
        self.is_out_of_budget = False

    def answers(self) -> Iterator[tuple[int, Completion | FineryError]]:
        """All answers. Ends early if `stopped` or out of budget, when nothing is in flight."""
        try:
            while not self.stopped and (
                self._to_send or self._claimed_elsewhere or not self._exhausted
            ):
                for number, answer in self._engine.stream(self._batches_to_send(), self._sampling):
                    yield from self._accept_outcome(number, answer)
                    yield from self._drain()
                # Others send all that is left.
                if self._claimed_elsewhere and not self._recheck_claimed():
                    if not self._has_logged_wait:
                        self._has_logged_wait = True
                        self._engine.job.log(
                            "waiting for another process, which is sending the same requests"
                        )
                    time.sleep(RECHECK_SECONDS)
                yield from self._drain()
                if self._to_send and not self._can_send():
                    self.is_out_of_budget = True
                    return
        finally:
            for pending in self._in_flight.values():
                self._records.release(pending.key)

    def _batches_to_send(self) -> Iterator[Batch]:
        """The batches to send, as the engine takes them. Ends when sending must pause or stop."""
        number = 0
        while not self.stopped and len(self._cached_answers) < MAX_WAITING_ANSWERS:
            if self._to_send:
                if not self._can_send():
                    return
                pending = self._to_send.popleft()
                if self._claim(pending):
                    self._in_flight[number] = pending
                    if self._spending is not None:
                        self._spending.begin(number, pending.batch)
                    yield pending.batch
                    number += 1
            elif not self._look_up():
                return

    def _can_send(self) -> bool:
        """Whether the budget allows the next batch."""
        return self._spending is None or self._spending.affords(self._to_send[0].batch)

    def _claim(self, pending: _PendingBatch) -> bool:
        """Whether to send a batch: no other process is sending it or has already done so."""
        if not self._records.claim(pending.key):
            self._claimed_elsewhere.append(pending)
            return False
        cached = self._read_records([pending])
        if cached:
            self._records.release(pending.key)
            self._accept_cached(pending, cached[pending.key])
        return not cached

    def _recheck_claimed(self) -> bool:
        """Look for what other processes were asking; whether some of it is there."""
        waiting, self._claimed_elsewhere = self._claimed_elsewhere, []
        cached = self._read_records(waiting)
        for pending in waiting:
            if pending.key in cached:
                self._accept_cached(pending, cached[pending.key])
            else:
                self._to_send.append(pending)
        return bool(cached)

    def _look_up(self) -> bool:
        """Take the next requests and look them up; False when none are left."""
        window = list(islice(self._source, self._window))
        if window:
            self._recheck_claimed()
        self._exhausted = len(window) < self._window
        groups: dict[int, list[tuple[int, Request]]] = {}
        for index, request in window:
            groups.setdefault(request.attempt, []).append((index, request))
        pending = []
        for group in groups.values():
            for places in self._engine.batches([request for _, request in group]):
                batch = [group[i][1] for i in places]
                key = record_key(self._identity, batch, self._sampling)
                pending.append(_PendingBatch([group[i][0] for i in places], batch, key))
        cached = self._read_records(pending)
        for item in pending:
            if item.key in cached:
                self._accept_cached(item, cached[item.key])
            elif item.key in self._twins:
                self._twins[item.key].append(item.indices)
            else:
                self._twins[item.key] = []
                self._to_send.append(item)
        return bool(window)

    def _read_records(self, pending: Sequence[_PendingBatch]) -> dict[bytes, list[Completion]]:
        """Cached answers by key. A damaged record counts as missing."""
        records = self._records.get([item.key for item in pending])
        answers_by_key = {}
        for item in pending:
            with suppress(KeyError, msgspec.DecodeError, UnicodeError):
                answers = msgspec.msgpack.decode(records[item.key], type=list[Completion])
                if len(answers) == len(item.batch):
                    answers_by_key[item.key] = answers
        return answers_by_key

    def _accept_cached(self, pending: _PendingBatch, completions: list[Completion]) -> None:
        """Yield cached answers for all their requests."""
        for usage in (self._usage, self._engine.job.usage):
            usage.add_worth(completions, self._engine.price)
        for indices in (pending.indices, *self._twins.pop(pending.key, ())):
            self._usage.cached += len(completions)
            self._engine.job.usage.cached += len(completions)
            self._cached_answers.extend(zip(indices, completions, strict=True))

    def _accept_outcome(
        self, number: int, outcome: Answer
    ) -> Iterator[tuple[int, Completion | FineryError]]:
        """Store an outcome, and yield it for all its requests."""
        pending = self._in_flight.pop(number)
        if self._spending is not None:
            self._spending.end(number)
        if problem := _problem_of_answers(outcome, len(pending.batch)):
            engine = type(self._engine)
            raise PluginError(
                f"{engine.__qualname__}, the engine of the format '{self._engine.model.format}', "
                f"returns {problem}",
                fix="return a list with one finery.Completion for each request, in their order",
                details=[str(sys.modules[engine.__module__].__file__)],
            )
        self._store_record(pending, outcome)
        twins = self._twins.pop(pending.key)
        if isinstance(outcome, FineryError):
            yield from (
                (index, outcome) for indices in (pending.indices, *twins) for index in indices
            )
            return
        for answer in outcome:
            self._usage.add(answer, self._engine.price)
            self._engine.job.usage.add(answer, self._engine.price)
        self._usage.cached += len(twins) * len(outcome)
        self._engine.job.usage.cached += len(twins) * len(outcome)
        for indices in (pending.indices, *twins):
            yield from zip(indices, outcome, strict=True)

    def _store_record(self, pending: _PendingBatch, outcome: Answer) -> None:
        """Store a record, unless it is an error or empty, and release the claim.

        An answer that was cut off while the model was thinking isn't empty.
        """
        try:
            if not isinstance(outcome, FineryError) and any(
                a.reasoning or not a.is_empty for a in outcome
            ):
                self._records.put({pending.key: msgspec.msgpack.encode(outcome)})
        finally:
            self._records.release(pending.key)

    def _drain(self) -> Iterator[tuple[int, Completion]]:
        while self._cached_answers:
            yield self._cached_answers.popleft()


def _problem_of_answers(outcome: Any, count: int) -> str:
    """What is wrong with the outcome of a batch of `count` requests; empty if nothing is."""
    if isinstance(outcome, FineryError):
        return ""
    if not isinstance(outcome, list | tuple):
        return f"{outcome!r:.60} for a batch"
    for answer in outcome:
        if not isinstance(answer, Completion):
            return f"{answer!r:.60} as an answer"
        try:
            facts = {**msgspec.structs.asdict(answer), "tool_calls": None}  # steps judge these
            msgspec.convert(facts, Completion)
        except msgspec.ValidationError as error:
            return f"a Completion with a wrong value: {error}"
    return (
        ""
        if len(outcome) == count
        else f"{counted(len(outcome), 'answer')} for {counted(count, 'request')}"
    )
