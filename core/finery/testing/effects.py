"""What other values of a step's settings change: its outputs, its reports, what it keeps in its
scratch folder, what it needs, or whether it refuses.

Steps run in this process, next to each other. Input: a step with opened inputs. Output: facts of
each run, and for each setting the first fact that differs.
"""

import copy
import hashlib
import json
import re
import typing
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finery.artifact.kinds import Artifact
from finery.errors import FineryError
from finery.recipe.validate import decode_field
from finery.step.inspect import files_of
from finery.step.look import promises_of
from finery.step.step import Step, examine_opened
from finery.testing.job import TableEngine, TestJob, prepare
from finery.testing.trial import SEED, files_in, set_at, settings_of
from finery.testing.variations import EMPTY, Variation

FactsOfRun = dict[str, str]
"""What can be observed of a run, e.g. `output rows.jsonl` → a digest."""
REFUSED, FAILED = "refused", "failed"
"""The only fact of a step that ended with a `FineryError`, before `run` or in it: its text."""


class Effect(NamedTuple):
    """What another value of a setting changes.

    fact: the first fact that differs, `refused` if all values that change anything are refused, or
    empty. value: the value that changes it. tried: all values that were compared.
    """

    setting: str
    fact: str = ""
    value: Any = None
    tried: Sequence[Any] = ()


class Effects:
    """Runs of a step with other settings, compared with the step as it is.

    folder: what the paths in settings are relative to. The runs have folders in it. job: makes the
    job of a run in a folder.
    """

    def __init__(self, step: Step, folder: Path, job: Callable[[Path], TestJob]) -> None:
        self._folder = folder
        self._job = job
        self._runs = 0
        self._references: dict[str, FactsOfRun] = {}
        self.step = step
        (folder / EMPTY).mkdir()
        self.unstable: set[str] = set()
        facts = self.reference({})
        assert not {REFUSED, FAILED} & facts.keys(), f"the step ended with an error: {facts}"

    def of(self, variation: Variation, situation: Mapping[str, Any]) -> Effect:
        """The effect of a setting. situation: further settings of both runs, by path.

        The first value that changes more than a refusal is the last that is tried. A group that the
        step doesn't have is in both runs, since its presence alone may change something.
        """
        group = variation.path.rpartition(".")[0]
        if group and _is_absent(self.step, group):
            try:
                with_settings(self.step, {group: {}, **situation})
                situation = {group: {}, **situation}
            except msgspec.ValidationError:  # it has settings without a default
                pass
        before, tried = self.reference(situation), list[Any]()
        effect = Effect(variation.path)
        for value in variation.values:
            try:
                other = with_settings(self.step, {**situation, variation.path: value})
            except msgspec.ValidationError:
                continue
            try:
                after = self._observed(other)
            except Exception as error:
                error.add_note(f"with {variation.path}: {value!r}")
                raise
            tried.append(value)
            names = [REFUSED] if REFUSED in after else sorted(before.keys() | after.keys())
            changed = (n for n in names if before.get(n) != after.get(n) and n not in self.unstable)
            fact = next(changed, "")
            if fact and (not effect.fact or fact != REFUSED):
                effect = effect._replace(fact=fact, value=value)
            if fact not in ("", REFUSED):
                break
        return effect._replace(tried=tried)

    def reference(self, situation: Mapping[str, Any]) -> FactsOfRun:
        """The facts of the step in a situation. Those that differ in a second run are unstable."""
        key = repr(sorted(situation.items()))
        if key not in self._references:
            step = with_settings(self.step, situation)
            once, again = self._observed(step), self._observed(step)
            self.unstable |= {n for n in once.keys() | again if once.get(n) != again.get(n)}
            self._references[key] = once
        return self._references[key]

    def _observed(self, step: Step | None) -> FactsOfRun:
        if step is None:
            return {REFUSED: "when it was made"}
        self._runs += 1
        for files in files_of(step).values():
            for pattern in files.patterns:
                if re.fullmatch(rf"{EMPTY}\.\w+", pattern):
                    (self._folder / pattern).touch()
        folder = self._folder / "runs" / str(self._runs)
        facts = facts_of_run(step, self._folder, self._job(folder))
        return {name: value.replace(str(folder), "<run>") for name, value in facts.items()}


def facts_of_run(step: Step, root: Path, job: TestJob) -> FactsOfRun:
    """Run a step, and observe it. root: of the paths in its settings."""
    from finery.execute.worker import check_outputs

    facts = {"resources": repr(step.resources())}
    TableEngine.asked.clear()
    with chdir(root):
        try:
            prepare(step, root)
            step.check()
            examine_opened(step, SEED, opens=True)
        except FineryError as error:
            return {REFUSED: str(error)}
        try:
            returned = step.run(job)
        except FineryError as error:
            return {FAILED: str(error)}
        outputs = check_outputs(returned, promises_of(step), step.use)
        try:
            step.verify(outputs)
        except FineryError as error:
            facts["gate"] = str(error)
    facts["requests"] = repr(sorted(TableEngine.asked))
    for name, artifact in outputs.items():
        facts |= dict(_facts_of_artifact(f"output {name}".strip(), artifact))
    facts |= _digests("scratch file", job.scratch, filter(Path.is_file, job.scratch.rglob("*")))
    return facts | _facts_of_reports(job.events)


def with_settings(step: Step, settings: Mapping[str, Any]) -> Step | None:
    """A copy of a step with other settings, by path, as a recipe has them.

    None if its `__post_init__` refuses them. Raises `msgspec.ValidationError` for a value that the
    setting's type or limits exclude.
    """
    hints = typing.get_type_hints(type(step), include_extras=True)
    entry: dict[str, Any] = {}
    for path, value in copy.deepcopy(dict(settings)).items():
        name, inner, _ = path.partition(".")
        if inner and name not in entry:  # a group: as the step has it
            entry[name] = settings_of(step, "").get(name, {})
        set_at(entry, path, value)
    fields = {
        name: msgspec.convert(value, hints[name], dec_hook=decode_field)
        for name, value in entry.items()
    }
    try:
        return msgspec.structs.replace(step, **fields)
    except (ValueError, TypeError):
        return None


def _is_absent(step: Step, group: str) -> bool:
    """Whether a group of settings is null."""
    value: Any = step
    for name in group.split("."):
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    return value is None


def _facts_of_artifact(name: str, artifact: Artifact) -> Iterator[tuple[str, str]]:
    yield from _digests(f"{name} file", artifact.path, files_in(artifact)).items()
    used = {path: value for path, (value, _) in artifact.runtime.get("settings", {}).items()}
    runtime = {**artifact.runtime, "settings": used}  # without reasons, which may name the setting
    for kind, facts in (("meta", artifact.meta), ("runtime", runtime)):
        for fact, value in _leaves(facts):
            yield f"{name} {kind} {fact}", value
    for label, path in artifact.external.items():
        yield f"{name} external {label}", str(path)
    for role, ref in artifact.refs.items():
        yield from _facts_of_artifact(f"{name} {role}", ref)


def _digests(name: str, folder: Path, files: Iterable[Path]) -> FactsOfRun:
    """The digest of each file in a folder."""
    return {
        f"{name} {path.relative_to(folder)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, JSON) of the values in plain data."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}")
    else:
        yield path.strip("."), json.dumps(value, default=repr)


def _facts_of_reports(events: Iterable[Mapping[str, Any]]) -> FactsOfRun:
    """The reports of a run. Lines that differ only in numbers are one fact.

    Numbers may be times. A fact that differs between two equal runs is compared in no other.
    """
    facts: defaultdict[str, list[str]] = defaultdict(list)
    for event in events:
        if event["event"] == "metric":
            facts[f"report of {event['name']} at {event['at']}"].append(repr(event["value"]))
        else:
            text = str(event.get("message", event.get("text")))
            facts["report " + re.sub(r"\d[\d.,]*", "#", text)].append(text)
    return {name: json.dumps(texts) for name, texts in facts.items()}
