"""A step in a rehearsal: few rows, other settings, and few requests to models.

Input: a step with opened inputs, in its worker. Output: what runs in place of its `run`.
"""

import functools
import hashlib
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from pathlib import Path
from tempfile import mkdtemp
from threading import Event
from typing import Any

import msgspec

from finery.artifact.kinds import Dataset, Model
from finery.errors import RefusedError, UsageError
from finery.execute.executor import NOT_REHEARSED, WRITTEN, Noted, Task
from finery.inference.engine import Answer, Batch, Completion, Engine, Request, Sampling
from finery.rows.parts import row_texts
from finery.rows.row import Row, answer_text
from finery.step.inspect import slots_of, steps_inside
from finery.step.job import Job
from finery.step.look import promises_of
from finery.step.resources import Rehearsal
from finery.step.step import Step, examine_opened, is_overridden, temporary_job

FEW, EXAMINED = 12, 4_000
"""Rows of an input, besides some of each class and shape: of steps that take long, and what they
examine before."""
MOST_CLASSES, LONGEST_CLASS, MOST_SHAPES = 512, 80, 24
MEASURED_SECONDS = 0.05
TEXTS = frozenset({".json", ".jsonl", ".txt", ".jinja", ".md", ".model", ".yaml"})
"""Files that are as large in a small model."""
ASKED = "asked"
"""The folder in the store of a rehearsal with a file for each model that was asked."""


def rehearsed(
    step: Step, value: Rehearsal, whole: Step, task: Task, send: Callable[[Any], None]
) -> Callable[[Job], Any]:
    """Check a step on many rows and make it small; what runs in place of its `run`.

    whole: the same step, opened once more. send: takes a note on each setting that isn't rehearsed.
    """
    spec, outputs = type(step).__spec__, promises_of(step).values()
    makes_rows = any(promise.kind is Dataset for promise in outputs)
    is_heavy = spec.learns or spec.isolated or spec.engines or not makes_rows
    if (value.rows or ("few" if is_heavy else "all")) == "few":
        folder = Path(mkdtemp(dir=task.store, prefix="rows-"))
        if _cut(whole, EXAMINED, folder, whole):
            _replace_settings(whole, whole.rehearsal())
        examine_opened(whole, task.seed, opens=True)
        if is_overridden(type(step), "prove"):
            with temporary_job(task.seed) as job:
                whole.prove(job, 0)
        _cut(step, FEW, folder, whole)
    for path, within in [("", step), *((f"{path}.", inner) for path, inner in steps_inside(step))]:
        before = copy(within)
        omitted = _replace_settings(within, within.rehearsal())
        try:
            step.check()
        except UsageError:
            if within is step:
                raise
            for name in within.rehearsal().settings:  # this step doesn't use them
                setattr(within, name, getattr(before, name))
            continue
        for name in omitted:
            text = f"not rehearsed: {path}{name}"
            send(Noted(event="note", name=NOT_REHEARSED, text=text, fix=""))
    is_small = task.rehearsal and not task.rehearsal.weights and value.small
    run = is_small or value.run or step.run

    def run_measured(job: Job) -> Any:
        """Also send the most bytes that were in the step's folders at a time."""
        folders, sizes, ended = (job.out, Path(task.scratch)), [0], Event()

        def measure() -> None:
            while not ended.is_set():
                sizes.append(sum(map(_weight_bytes, folders)))
                ended.wait(MEASURED_SECONDS)

        with ThreadPoolExecutor(1) as pool:
            measured = pool.submit(measure)
            try:
                return run(job)
            finally:
                ended.set()
                measured.result()
                send(Noted(event="note", name=WRITTEN, text=str(max(sizes)), fix=""))

    return run_measured


def _weight_bytes(folder: Path) -> int:
    """The bytes of all files in a folder but texts, which aren't larger in larger models."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # it is being removed
            total += 0 if path.suffix in TEXTS or not path.is_file() else path.lstat().st_size
    return total


def _replace_settings(step: Step, value: Rehearsal) -> list[str]:
    """Replace settings; the names of those that matter, which numbers don't."""
    omitted = []
    for name, setting in value.settings.items():
        before = getattr(step, name)
        if before is None:
            continue
        if isinstance(before, int | float) and not isinstance(before, bool):
            setting = setting and min(before, setting)
        elif before != setting:
            omitted.append(name)
        setattr(step, name, setting)
    return omitted


# -- rows -----------------------------------------------------------------------------------------


def _cut(step: Step, count: int, folder: Path, whole: Step) -> bool:
    """Give a step, and steps inside it, few rows of each input of `whole`. False if all."""
    is_cut, inputs = False, slots_of(whole)
    for path, slot in slots_of(step).items():
        given = getattr(inputs[path].owner, slot.field)
        artifacts, each = given if slot.accepts.many else [given], 2 if slot.role == "train" else 1
        few = [_few_rows(artifact, count, each, folder) for artifact in artifacts]
        is_cut |= any(map(operator.is_not, few, artifacts))
        setattr(slot.owner, slot.field, few if slot.accepts.many else few[0])
    return is_cut


def _few_rows(rows: Any, count: int, each: int, folder: Path) -> Any:
    """A data set with few of the rows, always the same ones; what isn't a data set, as it is."""
    if not isinstance(rows, Dataset) or not rows.path.is_dir() or len(rows) <= count:
        return rows
    chosen = choose_rows(rows, count, each)
    few = (row for number, row in enumerate(rows) if number in chosen)
    dataset = Dataset.write(Path(mkdtemp(dir=folder)), few)
    dataset.meta = rows.meta | {"rows": len(chosen)}
    dataset.runtime, dataset.refs, dataset.ref = rows.runtime, rows.refs, rows.ref
    return dataset


def choose_rows(rows: Iterable[Row], count: int, each: int) -> set[int]:
    """The numbers of about `count` rows: of each class and shape, the longest, and from all parts.

    each: how many of a class. A class is a label, or an answer that is short if answers repeat.
    """
    shapes, classes, longest, total = dict[Any, int](), dict[str, list[int]](), (0, 0), 0
    for total, row in enumerate(rows, 1):
        shapes.setdefault(_shape(row), total - 1)
        label = row.get("label")
        name = answer_text(row) if label is None else json.dumps(label, sort_keys=True)
        if len(name) <= LONGEST_CLASS:
            classes.setdefault(name, []).append(total - 1)
        longest = max(longest, (sum(map(len, row_texts(row).values())), total - 1))
    chosen = {*list(shapes.values())[:MOST_SHAPES], longest[1]}
    if len(classes) <= min(MOST_CLASSES, total // 2):
        chosen |= {number for numbers in classes.values() for number in numbers[:each]}
    return chosen | {number * total // count for number in range(count)}


def _shape(value: Any) -> Any:
    """The names and types in a value; equal for rows that differ only in texts and numbers."""
    if isinstance(value, dict):
        return frozenset((name, _shape(part)) for name, part in value.items())
    if isinstance(value, list):
        return ("list", frozenset(map(_shape, value)))
    return value if value is None or isinstance(value, bool) else type(value).__name__


# -- requests -------------------------------------------------------------------------------------


def limit_requests(find: Callable[..., Any], value: Rehearsal, task: Task) -> Callable[..., Any]:
    """Let a paid model answer one request in the whole rehearsal, and others as the step needs."""

    def find_limited(model: Model) -> Any:
        engine, identity = find(model)
        if "price" in model.runtime or value.answers is not None:
            engine = _limited(engine, value, task)
        return engine, identity

    return find_limited


def _limited(cls: Any, value: Rehearsal, task: Task) -> type[Engine]:
    """A class of engines that asks the model at most once, and then answers by itself."""
    asked, is_offline = Path(task.store) / ASKED, bool(task.rehearsal and task.rehearsal.offline)

    class Limited(cls):  # type: ignore[misc]
        def stream(self, batches: Iterable[Batch], sampling: Any) -> Iterator[tuple[int, Answer]]:
            """As of any engine, but an error other than a refusal ends the step."""
            for number, batch in enumerate(batches):
                try:
                    yield number, self.generate(batch, sampling.of_attempt(batch[0].attempt))
                except RefusedError as refusal:
                    yield number, refusal

        def timed(self, request: Request, sampling: Sampling) -> tuple[Completion, float | None]:
            """An answer, without the time of its first token."""
            return self.generate([request], sampling)[0], None

        def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
            """The model's answer to the first request of all, and others to the rest."""
            answers = [_possible_answer(request, sampling, value) for request in requests]
            is_paid, record = "price" in self.model.runtime, asked / self.model.digest
            if not (is_offline and is_paid) and not record.exists():
                asked.mkdir(exist_ok=True)
                record.touch()
                (first,) = cls(self.model, self.job).generate(requests[:1], sampling)
                if is_paid:
                    answers[0] = first
                    tokens = first.prompt_tokens, first.completion_tokens
                    dollars = None if self.price is None else self.price.of(*tokens)
                    name = self.model.meta.get("name", self.model.format)
                    facts = {"model": name, "tokens": sum(tokens), "dollars": dollars}
                    record.write_text(json.dumps(facts))
            return answers

    return Limited


def _possible_answer(request: Request, sampling: Sampling, value: Rehearsal) -> Completion:
    digest = hashlib.sha256(msgspec.json.encode(request)).digest()
    syllables = [f"{'bdfgklmnprstvz'[byte % 14]}{'aeiou'[byte % 5]}" for byte in digest]
    words = " ".join("".join(syllables[start : start + 3]) for start in range(0, 30, 3))
    text = value.answers(request) if value.answers is not None else None
    if text is None:
        schema = sampling.schema
        text = json.dumps(instance_of(schema, words, schema)) if schema else words
    return Completion(text=text, finish_reason="stop", prompt_tokens=0, completion_tokens=0)


def instance_of(schema: Any, text: str, root: Any) -> Any:
    """A value that follows a part of the JSON Schema `root`, of the usual kind, with this text."""
    if "$ref" in schema:
        schema = functools.reduce(operator.getitem, schema["$ref"].split("/")[1:], root)
    if first := [*schema.get("anyOf", ()), *schema.get("oneOf", ())][:1]:
        return instance_of(first[0], text, root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if "enum" in schema or "const" in schema:
        return [schema.get("const"), *schema.get("enum", ())][-1]
    if kind == "object":
        parts = schema.get("properties", {}).items()
        return {name: instance_of(part, text, root) for name, part in parts}
    if kind == "array":
        return [instance_of(schema.get("items", {}), text, root)] * schema.get("minItems", 1)
    if kind in ("integer", "number"):  # perhaps a judge's score: some are the best, some the worst
        return schema.get(("minimum", "maximum")[sum(text.encode()) % 2], 1)
    return {"boolean": True, "null": None}.get(kind, text[: schema.get("maxLength")])
