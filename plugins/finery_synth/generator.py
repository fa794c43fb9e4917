"""What all generators share: a step whose rows a model writes, request by request.

Public: other plugins may subclass `Generator` and use what `__all__` names. A step type says what
to ask and how to read an answer; asking, checking, asking again, counting and writing are here and
in `finery_synth.flow`:

    class Shout(Generator):
        '''Say each row's message louder.'''

        USE = "synth.shout"
        DEFAULT_PROMPT = "Write this louder: {{ user }}"

        def tasks(self, prompt: Prompt) -> Iterator[Task]:
            for number, row in enumerate(self.seeds()):
                yield Task(number=number, messages=prompt.messages(scope(row), row), seeds=[row])

        def read(self, task: Task, answer: Completion) -> list[Row]:
            return [{"messages": [*task.messages, {"role": "assistant", "content": answer.text}]}]

- `tasks` yields the same tasks each time: it is called once for each attempt. Whatever a task's
  messages hold is in the key of its record, so what shall be cached across builds must not depend
  on how many rows or variants there are. Two tasks with the same messages differ by `variant`.
- `read` makes rows of an answer, at most `task.wanted`, or raises `Rejected`. Refusals, errors,
  empty answers, tool calls that no tool takes and (unless it `reads_cut`) answers that are cut off
  never reach it.
- A row that fails a check, and an answer that can't be read, is asked for again as the task's next
  attempt, up to `retries` times; what then is still missing is in `dropped.jsonl`, so that the rows
  and the drops are together what was wanted.
- `siblings` and `COPIES` say which rows must not say the same.

Rows, drops and `generated.jsonl` (`finery.rows.generated`) are in the order of the tasks, whatever
came first.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finery import (
    Budget,
    Completion,
    DataError,
    Dataset,
    Job,
    Model,
    OneFile,
    Step,
    UsageError,
    setting,
    takes,
)
from finery.rows import Row
from finery.rows.badrow import BadRow
from finery.rows.parts import is_conversation, named, texts
from finery_synth.ask.prompts import Prompt
from finery_synth.ask.task import MOST_VARIANTS, Task
from finery_synth.checks.functions import functions_of
from finery_synth.checks.settings import Checks
from finery_synth.checks.usable import Rejected
from finery_synth.judge.scores import SCORE_PROMPT

if TYPE_CHECKING:
    from finery_synth.flow.generation import Candidate

__all__ = ["Checks", "Generator", "Prompt", "Rejected", "Task"]

MOST_RETRIES = 99
SERIES_SEEDS = (MOST_RETRIES + 1) * MOST_VARIANTS
"""Seeds of a series: as many as one request can have attempts."""
MOST_SERIES = 2**31 // SERIES_SEEDS - 1
PACKAGES = ("jinja2", "jsonschema", "rensa")


class Generator(
    Step,
    engines=True,
    sections=("generate",),
    seeded=False,
    packages=PACKAGES,
    version="1",
    forecast="finery_synth.estimate.forecast:AskingForecast",
):
    """Rows that a model writes."""

    USE: ClassVar[str] = ""
    """The step type's name."""
    DEFAULT_PROMPT: ClassVar[str] = ""
    COPIES: ClassVar[Literal["", "siblings", "all"]] = ""
    """Which rows must not have the same prompt: none, those of the same seed, or all."""
    COMPARED: ClassVar[Literal["prompt", "answer"]] = "prompt"
    """What of rows the check of their similarity compares, unless the recipe says it."""

    model: Model = takes(help="The teacher: any model that answers prompts.")
    rows: list[Dataset] = takes(help="Rows to start from, in this order.")
    judge: Model | None = takes(None, help="The model that scores rows for `checks: judge`.")
    max_tokens: int = setting(
        512, ge=1, help="Longest answer, in tokens. An answer that is cut off there is rejected."
    )
    temperature: float = setting(
        1.0, ge=0.0, help="Sampling temperature; 0 always takes the likeliest token."
    )
    top_p: float = setting(
        1.0, gt=0.0, le=1.0, help="Only the likeliest tokens with this probability together."
    )
    prompt: OneFile | None = setting(
        None,
        help="A Jinja file with the prompt. `finery synth prompt TYPE` prints ours, to edit.",
    )
    checks: Checks = setting(Checks(), help="What every row must pass.")
    retries: int = setting(
        2, ge=0, le=MOST_RETRIES, help="How often a row is asked for again that fails a check."
    )
    series: int = setting(
        0, ge=0, le=MOST_SERIES, help="Another number asks for other answers, all of them anew."
    )
    budget: Budget | None = setting(
        None,
        affects_output=False,
        help="What one build may use; what was answered by then is kept.",
    )

    # -- what a step type says ----------------------------------------------------------------

    def tasks(self, prompt: Prompt) -> Iterator[Task]:
        """All requests, in order; the same ones each time."""
        raise NotImplementedError

    def read(self, task: Task, answer: Completion) -> list[Row]:
        """The rows in an answer, each without an id. Raises `Rejected`."""
        raise NotImplementedError

    def requests(self, rows: int) -> int:
        """How many tasks there are for so many rows; for progress and estimates."""
        return rows

    def needs_rows(self) -> bool:
        """Whether `requests` can only be told from the rows themselves."""
        return False

    def answer_schema(self) -> dict[str, Any] | None:
        """A JSON Schema that answers follow, where the engine has that."""
        return None

    def finished(
        self, job: Job, accepted: "Iterable[tuple[int, Candidate]]"
    ) -> "Iterator[Candidate]":
        """What is written of the rows that passed: (number of its task, row), in their order."""
        return (candidate for _, candidate in accepted)

    def siblings(self, number: int) -> range:
        """Numbers of the tasks for the same seed as task `number`, itself among them."""
        return range(number, number + 1)

    def facts(self, job: Job, rows: Dataset) -> dict[str, Any]:
        """More for the dataset's `meta`, once its rows are written."""
        return {}

    def default_prompt(self) -> str:
        """The template where the recipe names none."""
        return self.DEFAULT_PROMPT

    def reads_cut(self) -> bool:
        """Whether `read` can use what there is of an answer that is cut off."""
        return False

    def check_seed(self, row: Row) -> None:
        """Raise `BadRow` for a row that can't be started from; by default one without user turn."""
        if not is_conversation(row) or not texts(row).get("user", "").strip():
            raise BadRow("the row has no user turn", "drop it, or make one with data.map: user: …")

    def more(self, task: Task) -> dict[str, Any]:
        """More for a row's line in `generated.jsonl`."""
        return {}

    # -- what all of them do ------------------------------------------------------------------

    def check(self) -> None:
        """Raise `UsageError` for settings that don't fit together."""
        self.checks.check()
        if self.checks.judge is not None and self.judge is None:
            raise UsageError(
                "nobody is named who gives the score",
                where="checks.judge",
                fix="name the model: judge: MODEL, beside `checks`",
            )
        if self.judge is not None and self.checks.judge is None:
            raise UsageError(
                "a judge is named, and nothing to judge by",
                where="judge",
                fix="checks: {judge: {rubric: …}}",
            )

    def check_files(self) -> None:
        """Raise `UsageError` for a template or a schema that is empty or broken."""
        self.checks.answer_schema()
        Prompt.of(self.prompt, self.default_prompt())
        if self.checks.judge is not None:
            Prompt.of(self.checks.judge.prompt, SCORE_PROMPT)

    def key_code(self) -> list[Any]:
        """The functions that look at rows: those of packages, or the file that they are in."""
        python = self.checks.python
        if python is None:
            return []
        if python.file is not None:
            return [*python.file.paths]
        modules = [name.rpartition(":")[0] for name in python.functions]
        return [*functions_of(python).values(), *modules]

    def run(self, job: Job) -> Dataset:
        """Ask, check, ask again, and write what passes."""
        from finery_synth.flow.generation import Generation

        self.check()
        return Generation(self, job).run()

    def seeds(self) -> Iterator[Row]:
        """The rows to start from; `DataError` for one that can't be, see `check_seed`."""
        for number, row in enumerate(chain.from_iterable(self.rows), 1):
            try:
                self.check_seed(row)
            except BadRow as error:
                raise DataError(error.what, where=named(number, row), fix=error.fix) from error
            yield row

    def seed_count(self) -> int:
        """How many rows there are to start from."""
        return sum(len(dataset) for dataset in self.rows)

    def sampling(self) -> dict[str, Any]:
        """How the teacher answers.

        The recipe's seed isn't in it: it differs with a step's name, and a step that is renamed, or
        that another recipe has too, must not ask anew.
        """
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.series * SERIES_SEEDS,
            "schema": self.answer_schema(),
        }
