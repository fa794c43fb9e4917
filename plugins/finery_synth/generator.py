"""The base class of steps that have a model write rows, request by request.

Public: other plugins may subclass `Generator` and use the names in `__all__`. A step type defines
the prompt and how to read an answer. Sending, checking, judging, retrying, counting and writing are
in `finery_synth.generation`:

    class Shout(Generator):
        '''Say each row's message louder.'''

        DEFAULT_PROMPT = "Write this louder: {{ user }}"

        def read(self, task: Task, answer: Completion) -> list[Row]:
            return [{"messages": [*task.messages, {"role": "assistant", "content": answer.text}]}]

- `read` turns an answer into at most `task.wanted` rows, or raises `Rejected`. It never gets
  refusals, errors, empty answers, invalid tool calls and (unless `reads_cut`) truncated answers.
  Another error, or something that isn't a row, ends the step with an error that names the row.
- By default, each seed row is one request, or `variants` requests with different `names` for the
  template. A generator with other requests overrides `tasks` and `requests`. `tasks` is called once
  for each attempt and must yield the same tasks each time. The messages of a task are part of the
  key of its record, so to be cached across builds they must not depend on the number of rows or
  variants. Two tasks with the same messages differ in `variant`.
- If a row fails a check, or an answer can't be read, the request is repeated as the task's next
  attempt, up to `retries` times. Rows that are still missing then are in `dropped.jsonl`, so rows
  and drops together are the rows wanted.
- `COPIES` defines which rows must differ.
- With `SELECTS`, checks and the judge grade rows instead of rejecting them, only unusable answers
  are requested again, and `finished` selects from all rows of all tasks.

Rows, drops and `generated.jsonl` (`finery.rows.generated`) are in the order of the tasks.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, ClassVar, Literal

from finery import (
    Completion,
    Count,
    DataError,
    Dataset,
    Estimate,
    File,
    Forecast,
    Inputs,
    Job,
    Key,
    Look,
    Model,
    Rehearsal,
    Request,
    Requests,
    Step,
    UsageError,
    setting,
    takes,
)
from finery.advanced import Budget, NotRehearsed
from finery.rows import Row, answer_text
from finery.rows.badrow import BadRow
from finery.rows.dropped import NOTHING_LEFT, Drops
from finery.rows.parts import is_conversation, row_label, row_texts, template_variables
from finery_synth.asking import MOST_VARIANTS, Candidate, Rejected, Task
from finery_synth.checks import Checks
from finery_synth.judges import SCORE_PROMPT
from finery_synth.prompts import Prompt

__all__ = ["Candidate", "Checks", "Generator", "Prompt", "Rejected", "Task"]

MOST_RETRIES = 99
SERIES_SEEDS = (MOST_RETRIES + 1) * MOST_VARIANTS
"""Seeds of a series: the maximum number of attempts of one request."""
MOST_SERIES = 2**31 // SERIES_SEEDS - 1
PACKAGES = ("jinja2", "jsonschema", "rensa")


class Prompting(Step, engines=True, sections=("generate",), seeded=False, version="1"):
    """A step that has a model answer prompts made of rows: what its estimate needs to know."""

    model: Model = takes(help="The model that answers prompts.")
    rows: list[Dataset] = takes(help="Rows, in this order.")
    prompt: File | None = setting(
        None, help="A Jinja file with the prompt. `finery synth prompt TYPE` prints the default."
    )
    budget: Budget | None = setting(
        None, affects_output=False, help="Limit of one build; answers so far are kept."
    )

    def default_prompt(self) -> str:
        """The default template."""
        raise NotImplementedError

    def sampling(self) -> dict[str, Any]:
        """How the model answers first requests."""
        raise NotImplementedError

    def tasks(self, prompt: Prompt) -> Iterator[Task]:
        """All requests in order, the same each time."""
        raise NotImplementedError

    def requests(self, rows: int) -> int:
        """The number of tasks for a number of rows, for progress and estimates."""
        raise NotImplementedError

    def needs_rows(self) -> bool:
        """Whether `requests` depends on the content of the rows."""
        return False

    def repeats(self) -> int:
        """How often a request is repeated whose answer can't be used."""
        raise NotImplementedError

    def seed_count(self) -> int:
        """The number of rows."""
        return sum(len(dataset) for dataset in self.rows)

    def examine(self, look: Look) -> None:
        """Raise `UsageError` for an empty or invalid template."""
        Prompt.of(self.prompt, self.default_prompt())

    def forecast(self, inputs: Inputs) -> Forecast:
        """The requests of the first attempt."""
        return Forecast(requests=lambda: self.first_requests(inputs))

    def rehearsal(self) -> Rehearsal:
        """Answers that can be read, whatever the model has learned."""
        return Rehearsal(answers=lambda request: None)

    def first_requests(self, inputs: Inputs) -> Requests:
        """The first attempt's requests if the rows are built, else their number by the counts."""
        requests = Requests("model", None, (), self.sampling(), self.repeats(), self.budget)
        if inputs.are_built:
            tasks = self.tasks(Prompt.of(self.prompt, self.default_prompt()))
            return requests._replace(
                total=self.requests(self.seed_count()),
                requests=((task.request(0), task.wanted) for task in tasks),
            )
        seeds = inputs.count("rows") if inputs.sources("rows") else Count(0)
        if seeds is None or self.needs_rows():
            return requests
        return requests._replace(total=self.requests(seeds.rows))

    def estimate(self, inputs: Inputs) -> Estimate | None:
        """Calls, tokens and cost."""
        from finery_synth.estimate import estimate_requests

        return estimate_requests(inputs)


class Generator(Prompting, schemas=False, packages=PACKAGES):
    """Rows that a model writes."""

    DEFAULT_PROMPT: ClassVar[str] = ""
    COPIES: ClassVar[Literal["", "siblings", "all"]] = ""
    """Which rows must have different prompts: none, those of the same seed, or all."""
    COMPARED: ClassVar[Literal["prompt", "answer"]] = "prompt"
    """What the similarity check compares by default."""
    SELECTS: ClassVar[bool] = False
    """Whether checks grade rows instead of rejecting them, and `finished` selects."""
    NOTHING_LEFT: ClassVar[str] = (
        "check the checks, the prompt and max_tokens, or use a stronger teacher"
    )
    """What to do if no row is left."""

    model: Model = takes(help="The teacher: any model that answers prompts.")
    rows: list[Dataset] = takes(help="Seed rows, in this order.")
    judge: Model | None = takes(None, help="The model that scores rows for `checks: judge`.")
    max_tokens: int = setting(
        512, ge=1, help="Maximum tokens of an answer. Truncated answers are rejected."
    )
    temperature: float = setting(
        1.0, ge=0.0, help="Sampling temperature; 0 always picks the likeliest token."
    )
    top_p: float = setting(
        1.0, gt=0.0, le=1.0, help="Sample from the likeliest tokens with this total probability."
    )
    checks: Checks = setting(Checks(), help="What every row must pass.")
    retries: int = setting(
        2, ge=0, le=MOST_RETRIES, help="How often a request is repeated if a row fails a check."
    )
    series: int = setting(
        0, ge=0, le=MOST_SERIES, help="Changing this number requests new answers for all rows."
    )

    # -- what step types override ---------------------------------------------------------------

    def read(self, task: Task, answer: Completion) -> list[Row]:
        """The rows in an answer. Their ids don't count. Raises `Rejected`."""
        raise NotImplementedError

    def variants(self) -> int:
        """The number of requests for each seed row; its tasks follow each other."""
        return 1

    def names(self, row: Row, variant: int) -> dict[str, Any]:
        """What the template sees in a request for a seed row. variant: from 0."""
        return template_variables(row)

    def tasks(self, prompt: Prompt) -> Iterator[Task]:
        """All requests in order, the same each time."""
        for row in self.seeds():
            for variant in range(self.variants()):
                messages = prompt.messages(self.names(row, variant), row)
                yield Task(messages=messages, seeds=[row], variant=variant)

    def requests(self, rows: int) -> int:
        """The number of tasks for a number of seed rows, for progress and estimates."""
        return rows * self.variants()

    def cache_key(self) -> Key:
        """Also the functions that check rows, or the file with them.

        Schemas, if a subclass has an `answer_schema`, or a judge scores rows.
        """
        is_overridden = type(self).answer_schema is not Generator.answer_schema
        schemas = Key(schemas=is_overridden or self.checks.judge is not None)
        key, python = super().cache_key() | schemas, self.checks.python
        if python is None:
            return key
        if python.file is not None:
            return key | Key(code=python.file.paths)
        from finery_synth.checks import functions_of

        modules = [name.rpartition(":")[0] for name in python.functions]
        return key | Key(code=[*functions_of(python).values(), *modules])

    def answer_schema(self) -> dict[str, Any] | None:
        """A JSON Schema for answers, used by engines that can constrain them."""
        return None

    def is_judged(self, candidate: Candidate) -> bool:
        """Whether the judge scores a row."""
        return candidate.passes

    def finished(self, job: Job, accepted: Iterable[tuple[int, Candidate]]) -> Iterator[Candidate]:
        """The rows to write; those with a `reason` are dropped.

        accepted: (number of its task, row) of rows that passed, in order. With `SELECTS`, of all.
        """
        return (candidate for _, candidate in accepted)

    def summary(self, rows: int, drops: Drops) -> str:
        """A line for the log. rows: the number that was written."""
        return drops.summary(rows)

    def facts(self, job: Job, rows: Dataset) -> dict[str, Any]:
        """Additional facts for the dataset's `meta`, after its rows are written."""
        return {}

    def default_prompt(self) -> str:
        """The default template."""
        return self.DEFAULT_PROMPT

    def reads_cut(self) -> bool:
        """Whether `read` can use truncated answers."""
        return False

    def check_seed(self, row: Row) -> None:
        """Raise `BadRow` for a row that can't be a seed; by default, one without a user turn."""
        if not is_conversation(row) or not row_texts(row).get("user", "").strip():
            raise BadRow("the row has no user turn", "remove it, or add one with data.map: user: …")

    # -- what all of them share -----------------------------------------------------------------

    def check(self) -> None:
        """Raise `UsageError` for settings that don't fit together."""
        self.checks.check()
        if self.checks.judge is not None and self.judge is None:
            raise UsageError(
                "`judge` is missing: the model that gives the score",
                where="checks.judge",
                fix="set judge: MODEL, next to `checks`",
            )
        if self.judge is not None and self.checks.judge is None:
            raise UsageError(
                "`judge` is set, but the check `judge` is missing",
                where="judge",
                fix="checks: {judge: {rubric: …}}",
            )

    def examine(self, look: Look) -> None:
        """Raise `UsageError` for an empty or invalid template or schema."""
        self.checks.answer_schema()
        super().examine(look)
        if self.checks.judge is not None:
            Prompt.of(self.checks.judge.prompt, SCORE_PROMPT)

    def run(self, job: Job) -> Dataset:
        """Send requests, check the answers, retry, and write the rows that pass."""
        from finery_synth.generation import Generation

        return Generation(self, job).run()

    def rehearsal(self) -> Rehearsal:
        """Few requests, each once; without checks if no row passes them."""
        fewer = {"retries": 0, **({"n": 2} if hasattr(self, "n") else {})}
        return Rehearsal(settings=fewer, run=self.rehearse, answers=self.possible_answer)

    def possible_answer(self, request: Request) -> str | None:
        """What a model could answer in a rehearsal: to every other request, the seed's answer."""
        prompt = Prompt.of(self.prompt, self.default_prompt())
        tasks = (task for task in self.tasks(prompt) if task.messages == request.messages)
        seed = next((task.seeds[0] for task in tasks), {})
        answers = self.SELECTS or self.COMPARED == "answer"
        is_own = answers and is_conversation(seed) and request.attempt % 2 == 0
        return answer_text(seed) or None if is_own else None

    def rehearse(self, job: Job) -> Dataset:
        """Run with answers of no model. Raises `NotRehearsed` if no row can be made of them."""
        for checks in (self.checks, Checks()):
            self.checks, self.judge = checks, self.judge if checks.judge is not None else None
            try:
                return self.run(job)
            except DataError as error:
                if not error.what.startswith(NOTHING_LEFT):
                    raise
                reason = error.what
                for file in job.out.iterdir():
                    file.unlink()
        raise NotRehearsed(f"no row can be made without a real model's answers: {reason}")

    def seeds(self) -> Iterator[Row]:
        """The seed rows; `DataError` for one that can't be a seed, see `check_seed`."""
        for number, row in enumerate(chain.from_iterable(self.rows), 1):
            try:
                self.check_seed(row)
            except BadRow as error:
                raise DataError(error.what, where=row_label(number, row), fix=error.fix) from error
            yield row

    def sampling(self) -> dict[str, Any]:
        """How the teacher answers.

        It doesn't contain the recipe's seed, so that the same step in another recipe needs no new
        answers.
        """
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.series * SERIES_SEEDS,
            "schema": self.answer_schema(),
        }

    def repeats(self) -> int:
        """How often a request is repeated."""
        return self.retries
