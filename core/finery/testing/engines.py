"""The tests that every engine must pass, to inherit."""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from finery.artifact.kinds import Model
from finery.errors import FineryError
from finery.inference.budget import Price
from finery.inference.cache import CachedEngine
from finery.inference.engine import Completion, Engine, Request, Sampling
from finery.inference.records import MemoryRecords
from finery.plugin.manager import load_plugins
from finery.rows import Conversation
from finery.testing.checks import problems_of_engine
from finery.testing.imports import (
    HEAVY_FIX,
    REQUIRE_FIX,
    problems_of_loading,
    problems_of_requirements,
)
from finery.testing.job import ENGINES, TestJob, temporary_folder
from finery.testing.variations import LARGE_BYTES, ODD_TEXT

FINISH_REASONS = ("stop", "length", "tool_calls")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "time_of_day",
            "description": "Tells the time.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


def _asks(text: str) -> Conversation:
    return [{"role": "user", "content": text}]


class EngineContract:
    """The tests that every engine must pass. Subclass it and provide a model.

        class TestGguf(EngineContract):
            def model(self, folder):
                return Model(folder, meta={"format": "gguf", "file": …})

    Choose a small model: the tests load it about ten times.

    conversations: the prompts. max_tokens: of an answer. large_bytes: size of the largest prompt.
    secrets: environment variables that the engine needs, name → value. engine: its class, if its
    plugin isn't installed.
    """

    conversations: ClassVar[Sequence[Conversation]] = (
        _asks("Where is my card?"),
        [
            {"role": "system", "content": "Answer in one word."},
            *_asks("What is the capital of Peru?"),
        ],
        _asks("Count to three."),
        [*_asks("Hi."), {"role": "assistant", "content": "Hello."}, *_asks("Who are you?")],
    )
    max_tokens: ClassVar[int] = 8
    large_bytes: ClassVar[int] = LARGE_BYTES
    secrets: ClassVar[dict[str, str]] = {}
    engine: ClassVar[type[Engine] | None] = None
    _models: ClassVar[dict[type, Model]] = {}

    def model(self, folder: Path) -> Model:
        """A model of the engine's format. folder: an empty folder that outlives the tests."""
        raise NotImplementedError

    def test_it_is_described(self) -> None:
        """The engine is a documented subclass of `Engine` that answers."""
        problems = list(problems_of_engine(self._class(), "the engine"))
        assert not problems, problems

    def test_loading_it_imports_nothing_heavy(self) -> None:
        """`finery plan` loads the engine, because its code is in the keys of steps."""
        problems = list(problems_of_loading([self._class().__module__]))
        assert not problems, f"{problems}: {HEAVY_FIX}"

    def test_what_it_imports_is_required(self) -> None:
        """The metadata of the plugin requires what its package imports."""
        problems = problems_of_requirements(self._class().__module__)
        assert not problems, f"{problems}: {REQUIRE_FIX}"

    def test_it_loads_the_model_late(self) -> None:
        """An engine whose answers are all in the cache never loads its model."""
        model = self._model()
        absent = Model(
            Path("/nonexistent"), meta=model.meta, refs=model.refs, runtime=model.runtime
        )
        self._class()(absent, self._job())

    def test_every_conversation_is_answered(self) -> None:
        """One answer each, within `max_tokens`, with its tokens counted."""
        answers = self._answers()
        assert len(answers) == len(self.conversations)
        for answer in answers:
            assert answer.finish_reason in FINISH_REASONS, answer
            assert 0 <= answer.completion_tokens <= self.max_tokens, answer
            assert answer.prompt_tokens > 0, answer

    def test_one_token_is_one_token(self) -> None:
        """An answer doesn't exceed `max_tokens=1`."""
        for answer in self._answers(max_tokens=1):
            assert answer.completion_tokens <= 1, answer
            assert answer.finish_reason in FINISH_REASONS, answer

    def test_the_same_question_has_the_same_answer(self) -> None:
        """At temperature 0, two engines without a common cache give the same answers."""
        assert self._answers() == self._answers()

    def test_a_seed_decides(self) -> None:
        """At temperature 1, the same seed gives the same answers."""
        answers = [self._answers(temperature=1.0, seed=4) for _ in range(2)]
        assert answers[0] == answers[1]

    def test_each_row_is_in_one_batch(self) -> None:
        """Batches contain every conversation exactly once, and don't change between calls."""
        for count in (0, 1, len(self.conversations)):
            requests = [Request(messages) for messages in self.conversations[:count]]
            batches = self._engine().batches(requests)
            assert sorted(i for batch in batches for i in batch) == list(range(count))
            assert self._engine().batches(requests) == batches

    def test_order_changes_no_answer(self) -> None:
        """If each conversation is a batch, its answer doesn't depend on the order."""
        requests = [Request(messages) for messages in self.conversations]
        if all(len(batch) == 1 for batch in self._engine().batches(requests)):
            backwards = self._answers(list(reversed(self.conversations)))
            assert backwards[::-1] == self._answers()

    def test_answers_are_kept(self) -> None:
        """Answers come from the cache the second time, except for empty ones."""
        records = MemoryRecords()
        first, second = (self._job(records) for _ in range(2))
        answers = self._ask(first, self.conversations)
        assert self._ask(second, self.conversations) == answers
        assert second.usage.cached >= sum(not answer.is_empty for answer in answers)

    def test_a_price_is_known_or_none(self) -> None:
        """`price` is a `Price`, or None if it is unknown."""
        price = self._engine().price
        assert price is None or isinstance(price, Price)

    def test_its_speed_can_be_measured(self) -> None:
        """`timed` answers a request, whose first token comes before the answer ends."""
        began = time.perf_counter()
        sampling = Sampling(max_tokens=self.max_tokens)
        answer, first = self._engine().timed(Request(self.conversations[0]), sampling)
        assert 0 <= answer.completion_tokens <= self.max_tokens
        assert first is None or began <= first <= time.perf_counter()

    def test_a_schema_is_followed(self) -> None:
        """If the engine `constrains`, answers match the schema."""
        if self._engine().constrains:
            (answer,) = self._answers([_asks("Is it fine?")], schema=SCHEMA, max_tokens=128)
            assert list(json.loads(answer.text)) == ["ok"], answer

    def test_tools_are_offered_or_refused(self) -> None:
        """A request with tools is answered, or refused with a `FineryError`."""
        engine = self._job().engine(self._model())
        requests = [Request(_asks("What time is it in Lima?"), TOOLS)]
        ((_, answer),) = engine.stream(requests, max_tokens=self.max_tokens)
        assert isinstance(answer, Completion | FineryError)

    def test_hostile_prompts_are_answered_or_refused(self) -> None:
        """The engine answers an empty, an odd and a very long prompt, or raises a `FineryError`."""
        large = "lorem ipsum " * (self.large_bytes // 12)
        for text in ("", ODD_TEXT, large):
            engine = self._job().engine(self._model())
            answers = list(engine.stream([Request(_asks(text))], max_tokens=2))
            assert len(answers) == 1
            assert isinstance(answers[0][1], Completion | FineryError)

    def test_secrets_stay_out(self) -> None:
        """No answer, cache record or report contains a secret."""
        records = MemoryRecords()
        job = self._job(records)
        answers = self._ask(job, self.conversations)
        texts = [repr(answers), repr(job.events), repr(dict(records))]
        assert not [v for v in self.secrets.values() if any(v in text for text in texts)]

    @classmethod
    def teardown_class(cls) -> None:
        """Forget the model: the server that it names may end before this class is tested again."""
        EngineContract._models.pop(cls, None)

    def _class(self) -> type[Engine]:
        model_format = self._model().format
        known = ENGINES.get(model_format)
        return self.engine or known or load_plugins().engine(model_format)

    def _model(self) -> Model:
        """The model, made once."""
        if type(self) not in self._models:
            folder = Path(tempfile.mkdtemp(dir=temporary_folder()))
            self._models[type(self)] = self.model(folder)
        return self._models[type(self)]

    def _job(self, records: MemoryRecords | None = None) -> TestJob:
        engines = {self._model().format: self._class()}
        return TestJob(secrets=self.secrets, records=records, engines=engines)

    def _engine(self) -> Engine:
        return self._job().raw_engine(self._model())

    def _answers(
        self, conversations: Sequence[Conversation] | None = None, **sampling: Any
    ) -> list[Completion]:
        """The answers of a new engine without records."""
        asked = self.conversations if conversations is None else conversations
        return self._ask(self._job(), asked, **sampling)

    def _ask(
        self, job: TestJob, conversations: Sequence[Conversation], **sampling: Any
    ) -> list[Completion]:
        engine: CachedEngine = job.engine(self._model())
        return engine.generate(conversations, **{"max_tokens": self.max_tokens, **sampling})
