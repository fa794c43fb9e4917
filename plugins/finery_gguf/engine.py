"""Answers prompts with a GGUF, through llama.cpp."""

import weakref
from collections.abc import Iterable, Iterator
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import (
    Completion,
    DataError,
    EngineJob,
    FineryError,
    Key,
    Model,
    Request,
    Sampling,
)
from finery.advanced import cpu_count
from finery.rows import Conversation
from finery_gguf import programs
from finery_gguf.llama import PACKAGE, Gguf, library
from finery_gguf.pace import Pace
from finery_gguf.server import RemoteSlots
from finery_gguf.slots import Raw, Row, Slots, multiple_of
from finery_transformers.answering import constraint
from finery_transformers.answering.concurrent import ConcurrentEngine

if TYPE_CHECKING:
    from finery_gguf.chat import ChatTemplate
    from finery_gguf.prompts import Prompt
    from finery_transformers.answering.answers import AnswerReader

SMALLEST_CONTEXT = 512


class GgufEngine(ConcurrentEngine):
    """llama.cpp on all cores, or on a GPU if its build can use one.

    It answers several rows at a time, each with a separate cache. Everything before the last turn's
    content (system, shots) is evaluated once and reused for rows that begin with the same tokens.
    On a CPU, logits are bit-identical with and without reuse, for any number of cores, and for any
    rows at the same time, so that an answer depends only on its own row.

    With the user's llama.cpp, its server answers. Then the last digits of logits depend on the
    other rows.
    """

    takes_tools = True
    local = True
    packages = (PACKAGE,)
    schema_packages = (constraint.PACKAGE,)

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        self.constrains = constraint.is_installed() or programs.answering_server() is not None
        self._pace = Pace(cpu_count())
        self._idle: list[Slots | RemoteSlots] = []
        self._first_token: float | None = None  # of the last answer

    @classmethod
    def cache_key(cls) -> Key:
        """The server that answers, and how many rows it answers at once; where it might be."""
        server = programs.answering_server()
        facts = {"llama.cpp": f"{server}, {programs.rows_at_once()} slots"} if server else {}
        return super().cache_key() | Key(facts=facts, watched=programs.build_files())

    @classmethod
    def uses_gpu(cls) -> bool:
        """Whether llama.cpp is built for GPUs."""
        return programs.can_use_gpu()

    def timed(self, request: Request, sampling: Sampling) -> tuple[Completion, float | None]:
        """The answer, and when its first token came, by the server's timing if one answers."""
        return self.generate([request], sampling)[0], self._first_token

    def answers(
        self, requests: Iterable[tuple[Request, Sampling]]
    ) -> Iterator[tuple[int, Completion | FineryError]]:
        """Yield (number of the request, its answer or why it has none), as they end."""
        from finery_gguf.prompts import tokenize

        loaded = self._loaded
        flying: dict[int, tuple[Request, Prompt]] = {}

        def rows() -> Iterator[Row | FineryError]:
            for number, (request, sampling) in enumerate(requests):
                try:
                    loaded.reader.check(request.tools)
                    prompt = tokenize(loaded.gguf, loaded.template, request.messages, request.tools)
                    needed = len(prompt.tokens) + sampling.max_tokens
                    size = _size(loaded.gguf, needed, request.messages)
                    schema = loaded.reader.schema_after(prompt.text, sampling)
                    held = None
                    if loaded.server is None:
                        held = self._constraints.begin(schema, strict=sampling.strict)
                except FineryError as error:
                    yield error
                else:
                    flying[number] = request, prompt
                    yield Row(prompt.tokens, prompt.prefix, size, sampling, schema, held)

        slots = self._idle.pop() if self._idle else self._new_slots(loaded)
        try:
            for number, outcome in _raw_answers(slots, rows()):
                if isinstance(outcome, Raw):
                    self._first_token = outcome.first_token
                    yield number, _completion(loaded, *flying.pop(number), outcome)
                else:
                    yield number, outcome
        finally:
            slots.clear()
            self._idle.append(slots)

    def _new_slots(self, loaded: "_Loaded") -> "Slots | RemoteSlots":
        """Separate slots, for a stream that runs while another one does."""
        special = loaded.reader.needs_special_tokens
        most = programs.rows_at_once()
        if loaded.server is None:
            return Slots(loaded.gguf, most, self._multiple, self._pace, special=special)
        slots = RemoteSlots(loaded.gguf, most, loaded.server, special=special)
        weakref.finalize(self, slots.close)
        return slots

    @cached_property
    def _constraints(self) -> constraint.Constraints:
        def vocabulary() -> Any:
            from llguidance import LLTokenizer, TokenizerWrapper

            gguf = self._loaded.gguf
            tokens = range(gguf.n_vocab)
            ends = [token for token in tokens if gguf.ends_generation(token)]
            pieces = [gguf.piece(token) for token in tokens]
            parts = SimpleNamespace(tokens=pieces, eos_token_id=ends[0], bos_token_id=None)
            return LLTokenizer(TokenizerWrapper(parts), eos_token=ends)

        return constraint.Constraints(vocabulary, self.job.log)

    @cached_property
    def _multiple(self) -> int:
        multiple = multiple_of(self._loaded.gguf, self._pace)
        if multiple > 1:
            self.job.log(
                f"llama.cpp: rows are evaluated in multiples of {multiple}, so that answers don't "
                "depend on other rows"
            )
        return multiple

    @cached_property
    def _loaded(self) -> "_Loaded":
        from finery_gguf.prompts import answer_reader, model_template

        server = programs.answering_server()
        gpus = programs.log_device(self.job.log, server, library().gpus)
        on_gpu = bool(gpus) and server is None
        gguf = Gguf.of(self.model, on_gpu=on_gpu, vocab_only=server is not None)
        template = model_template(gguf, self.model)
        return _Loaded(gguf, template, answer_reader(template), server)


class _Loaded(NamedTuple):
    """server: which llama.cpp answers as a server; None: the library in this process."""

    gguf: Gguf
    template: "ChatTemplate"
    reader: "AnswerReader"
    server: str | None


def _raw_answers(
    slots: Slots | RemoteSlots, rows: Iterable[Row | FineryError]
) -> Iterator[tuple[int, Raw | FineryError]]:
    """Answer rows, each as soon as there is room for it; yields (its number, its answer)."""
    source = enumerate(rows)
    waiting = None  # a row that needs more room than there is
    more = True
    while more or slots.active:
        while more and slots.active < slots.most:
            number, row = waiting or next(source, (-1, None))
            waiting, more = None, row is not None
            if isinstance(row, FineryError):
                yield number, row
            elif row is not None and slots.has_room(row.size):
                yield from slots.begin(number, row)
            elif row is not None:
                waiting = number, row
                break
        if slots.active:
            yield from slots.step()


def _completion(loaded: _Loaded, request: Request, prompt: "Prompt", raw: Raw) -> Completion:
    gguf = loaded.gguf
    parsed = loaded.reader.read(
        raw.text, prompt=prompt.text, tools=request.tools,
        special=[gguf.token_text(token) for token in set(raw.tokens) if gguf.is_control(token)],
    )  # fmt: skip
    return Completion(
        **parsed._asdict(),
        finish_reason=parsed.finish_reason(raw.is_finished),
        prompt_tokens=len(prompt.tokens),
        completion_tokens=raw.evaluated,
    )


def _size(gguf: Gguf, needed: int, messages: Conversation) -> int:
    """The size of the context for `needed` tokens. `DataError` if the model's is smaller.

    It depends only on the row, since some models scale their positions by it.
    """
    if needed > gguf.n_context:
        from finery_gguf.prompts import whose

        raise DataError(
            f"prompt and answer need {needed} tokens, but the context has {gguf.n_context}",
            fix="shorten the row, or lower max_tokens",
            details=[whose(messages)],
        )
    size = SMALLEST_CONTEXT
    while size < needed:
        size *= 2
    return min(size, gguf.n_context)
