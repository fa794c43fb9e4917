"""Runs a single step without recipe, store or processes, with models that answer from a table."""

import atexit
import functools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from finery.artifact.kinds import Dataset, Model
from finery.inference.engine import Completion, Engine, Identity, Request, Sampling
from finery.inference.records import Records
from finery.plugin.manager import load_plugins
from finery.recipe.files import find_matches
from finery.rows import Conversation, Row
from finery.step.inspect import files_of, give_files, slots_of, steps_inside
from finery.step.job import Job
from finery.step.look import BuiltLook, Known, Unknown, promises_of
from finery.step.step import Step
from finery.testing import table


class TableEngine(Engine):
    """Answers with what the model's table has for the last message. It never calls a tool."""

    version = "1"
    takes_tools = True
    asked: ClassVar[list[str]] = []
    """What all of them were asked in this process."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Look each answer up."""
        self.asked.extend(f"{request} {sampling}" for request in requests)
        return [self._answer(request.messages, sampling) for request in requests]

    def _answer(self, conversation: Conversation, sampling: Sampling) -> Completion:
        table, default = self.model.meta["answers"], self.model.meta["default"]
        answers = table.get(str(conversation[-1]["content"]), default)
        words = str(answers[sampling.seed % len(answers)]).split(" ")
        prompt = sum(1 + str(message["content"]).count(" ") for message in conversation)
        return Completion(
            text=" ".join(words[: sampling.max_tokens]),
            finish_reason="length" if len(words) > sampling.max_tokens else "stop",
            prompt_tokens=prompt,
            completion_tokens=min(len(words), sampling.max_tokens),
        )


class ShippedTableEngine(TableEngine):
    """The same, for a model that answers without finery, too."""

    standalone: ClassVar[ModuleType | None] = table


ENGINES: dict[str, type[Engine]] = {"table": TableEngine, "shipped-table": ShippedTableEngine}
"""The formats of these models. `TestJob` and the contracts' projects have an engine for each."""


def table_model(
    folder: Path,
    answers: Mapping[str, str | Sequence[str]] | None = None,
    default: str | Sequence[str] = "",
    *,
    bundle: str = "",
) -> Model:
    """A model that answers from a table. A token is a word.

    answers: the last message of a conversation → the answer, or several: the seed picks one.
    default: the answer to everything else. bundle: the step type that ships it, e.g.
    `serve.bundle`; then its engine has `standalone`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    several = {prompt: _several(answer) for prompt, answer in (answers or {}).items()}
    meta: dict[str, Any] = {"answers": several, "default": _several(default)}
    form = {"format": "shipped-table", "bundle": bundle} if bundle else {"format": "table"}
    return Model(folder, meta=form | meta)


def _several(answers: str | Sequence[str]) -> list[str]:
    return [answers] if isinstance(answers, str) else list(answers)


class TestJob(Job):
    """A job that collects what the step reports in `events`.

    folder: where it works. By default a new folder that lasts as long as this process, so that the
    step's output outlives the job. secrets: environment variables for the step, name → value.
    records: the per-record cache, by default a new one. pinned: what the step's floating name is
    pinned to. provenance: see `Step.provenance`. engines: model format → engine, for engines of
    plugins that aren't installed.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(
        self,
        folder: Path | None = None,
        *,
        seed: int | None = 0,
        secrets: dict[str, str] | None = None,
        records: Records | None = None,
        pinned: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        engines: Mapping[str, type[Engine]] | None = None,
    ) -> None:
        root = folder or Path(tempfile.mkdtemp(dir=temporary_folder()))
        for name in ("out", "scratch"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self.events: list[dict[str, Any]] = []
        self._engines: dict[str, type[Engine]] = ENGINES | dict(engines or {})
        super().__init__(
            out=root / "out",
            scratch=root / "scratch",
            seed=seed,
            report=self.events.append,
            records=records,
            find_engine=self._find,
            secrets=secrets,
            pinned=pinned,
            provenance=provenance,
            kept=root / "kept",
        )

    def _find(self, model: Model) -> tuple[type[Engine], Identity]:
        engine = self._engines.get(model.format) or load_plugins().engine(model.format)
        content = f"{model.path} {sorted(model.meta.items())}"
        return engine, Identity(content, content)


@functools.cache
def temporary_folder() -> Path:
    """The folder for jobs without one of their own; removed when this process ends."""
    folder, owner = Path(tempfile.mkdtemp(prefix="finery-")), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not where a child that was forked ends
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def dataset(folder: Path, rows: Iterable[Row]) -> Dataset:
    """Write rows into `folder`, as an input for a step."""
    return Dataset.write(folder, rows)


def run_step(step: Step, folder: Path | None = None, **job: Any) -> Any:
    """Run a step, e.g. `MinLength(rows=rows, characters=5)`, and return its output.

    Outside files without paths are found by their patterns, which are absolute or relative to the
    working directory; a required one that isn't there raises `DataError`. Inputs that the step
    reads the names of are named after their folders. Raises `StepError` for an output that isn't as
    declared or promised. folder, job: as for `TestJob`.
    """
    from finery.execute.worker import check_outputs

    prepare(step, Path.cwd())
    step.check()
    returned = step.run(TestJob(folder, **job))
    check_outputs(returned, promises_of(step), step.use)
    return returned


def prepare(step: Step, folder: Path) -> None:
    """Find the outside files of a step, and name its inputs. folder: of relative paths."""
    for slot in slots_of(step).values():
        if slot.uses_name:
            value, taken = getattr(slot.owner, slot.field), Counter[str]()
            for artifact in value if isinstance(value, list) else [value]:
                if artifact is not None and not artifact.ref:
                    name = artifact.path.name
                    taken[name] += 1
                    artifact.ref = name if taken[name] == 1 else f"{name}-{taken[name]}"
    for within in (step, *(nested for _, nested in steps_inside(step))):
        for name, files in files_of(within).items():
            if not files.paths:
                give_files(within, {name: find_matches(files, folder)})


def examine(
    step: Step,
    folder: Path | None = None,
    *,
    rows: Mapping[str, Sequence[Row]] | None = None,
    **job: Any,
) -> None:
    """Call a step's `examine`, and raise what it raises.

    Inputs that the step has are known, and are read as a whole. rows: forecasts of others, by
    field. folder, job: as for `TestJob`.
    """
    step.examine(_ForecastLook(step, TestJob(folder, **job), rows or {}))


class _ForecastLook(BuiltLook):
    """A look at opened inputs, and at forecasts of others."""

    def __init__(self, step: Step, job: Job, forecasts: Mapping[str, Sequence[Row]]) -> None:
        super().__init__(step, job)
        self._forecasts = forecasts

    def rows(self, name: str, limit: int) -> Known[list[Row]] | Unknown:
        forecast = self._forecasts.get(name)
        return super().rows(name, limit) if forecast is None else Known([*forecast[:limit]], False)

    def columns(self, name: str) -> Known[frozenset[str]] | Unknown:
        forecast = self._forecasts.get(name)
        return (
            super().columns(name)
            if forecast is None
            else Known(frozenset().union(*forecast), False)
        )
