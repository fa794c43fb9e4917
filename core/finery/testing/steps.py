"""What every step type must keep, as tests to inherit."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from finery.artifact.kinds import Dataset
from finery.step.inspect import files_of, nested_steps, slots_of
from finery.step.step import Step
from finery.testing import given
from finery.testing.checks import problems_of_step
from finery.testing.hostile import HOSTILE, Change
from finery.testing.imports import HEAVY_FIX, problems_of_loading
from finery.testing.job import dataset, temporary_folder
from finery.testing.trial import (
    SUBJECT,
    Built,
    Trial,
    artifacts_of,
    differences,
    files_in,
    provided_as,
)
from finery.testing.variations import Variation, variations_of

ELSEWHERE = {
    "COLUMNS": "40",
    "LANG": "C",
    "LC_ALL": "C",
    "LOGNAME": "someone-else",
    "PYTHONHASHSEED": "4711",
    "PYTHONUTF8": "0",
    "TZ": "Asia/Kathmandu",
    "USER": "someone-else",
    "VERBOSE": "1",
}
"""Environment variables of a build in other surroundings. In this language, `open` without an
encoding reads ASCII."""


class Reference(NamedTuple):
    """A build that several tests look at: the step, its project, and what the build said."""

    step: Step
    trial: Trial
    built: Built

    @property
    def moments(self) -> int:
        """Files that the step opened for writing, and reports to its job."""
        logs = [event["message"] for event in self.built.of("step_log")]
        counts = [text.removeprefix(given.MOMENTS) for text in logs if given.MOMENTS in text]
        return int(counts[0]) if counts else 0


class StepContract:
    """What every step type must keep. Subclass it, and say how to make the step.

        class TestShort(StepContract):
            def step(self, folder):
                return Short(rows=dataset(folder / "rows", ROWS), characters=5)

    The tests build the step with the `finery` command, most of them in a project of their own.
    Choose few rows: the step runs about ten times.

    others: values for the tests that change settings, e.g. `{"lora.r": 8}`. By default they follow
        from types and limits. None leaves a setting as it is.
    """

    others: ClassVar[Mapping[str, Any]] = {}
    _references: ClassVar[dict[tuple[type, str], Reference]] = {}

    def step(self, folder: Path) -> Step:
        """The step with its inputs and settings.

        folder: the recipe's folder, another one in each test. Write the files and artifacts that
        the step takes into it.
        """
        raise NotImplementedError

    def step_with_rows(self, folder: Path, change: Change) -> Step | None:
        """The step with other rows: what `change` makes of a list of its rows.

        By default all its inputs that are data sets are changed. Override it for a step that reads
        rows from files. None: the step reads no rows.
        """
        step = self.step(folder)
        slots = slots_of(step)
        for path, slot in slots.items():
            value = getattr(slot.owner, slot.field)
            values = value if isinstance(value, list) else [value]
            changed = [_changed(v, folder / f"{path}-{i}", change) for i, v in enumerate(values)]
            setattr(slot.owner, slot.field, changed if isinstance(value, list) else changed[0])
        return step if any(slot.accepts.kind is Dataset for slot in slots.values()) else None

    def test_it_is_described(self) -> None:
        """Step type and settings have texts for people; the interfaces that it declares load."""
        problems = list(problems_of_step(self._step_type(), "the step type"))
        assert not problems, problems

    def test_loading_it_imports_nothing_heavy(self) -> None:
        """Every command that reads a recipe loads its step types, and most run none."""
        cls = self._step_type()
        file = provided_as(cls)[1]
        problems = list(problems_of_loading([cls.__module__ if file is None else str(file)]))
        assert not problems, f"{problems}: {HEAVY_FIX}"

    def test_same_inputs_give_the_same_bytes(self) -> None:
        """The output depends on nothing that differs between two builds, such as the time."""
        if differences(self._reference().trial, self._elsewhere().trial):
            with _project() as folder:
                again = Trial(folder)
                again.add(self.step(folder))
                again.build().check()
                _assert_same(self._reference().trial, again, "a second build differs")

    def test_it_reads_only_what_it_declares(self) -> None:
        """Other files, environment variables and working directories don't change the output.

        The step runs a second time with another working directory, home, language, time zone and
        hash seed, with other variables, and with every file changed that neither a setting nor an
        input names.
        """
        reference, elsewhere = self._reference(), self._elsewhere()
        _assert_same(reference.trial, elsewhere.trial, "the output depends on its surroundings")
        notes = [
            event for build in (reference.built, elsewhere.built) for event in build.of("step_note")
        ]
        assert not notes, notes

    def test_settings_change_the_key(self) -> None:
        """Another value of a setting gives another key, unless it has `affects_output=False`."""
        step, trial, _ = self._reference()
        states = {}
        for number, variation in enumerate(self._variations(step)):
            if _vary(trial, step, variation, f"other{number}"):
                states[f"other{number}"] = variation
        ran = trial.run("plan", "--json")
        assert ran.code == 0, ran.err
        plans = map(json.loads, filter(None, ran.out.split("\n")))
        planned = {plan["step"]: plan["state"] for plan in plans}
        assert planned[SUBJECT] == "cached", "the step isn't cached after its build"
        wrong = [
            variation.path
            for name, variation in states.items()
            if planned[name] != ("run" if variation.affects_output else "cached")
        ]
        assert not wrong, f"whether they are in the key isn't as declared: {', '.join(wrong)}"

    def test_settings_outside_the_key_change_no_output(self) -> None:
        """What is declared with `affects_output=False` doesn't affect the output."""
        with _project() as folder:
            trial, step = Trial(folder), self.step(folder)
            outside = [v for v in self._variations(step) if not v.affects_output]
            varied = {v.path: v.values[0] for v in outside if _vary(trial, step, v, SUBJECT)}
            if varied:
                trial.add(step, settings=varied)
                trial.build().check()
                _assert_same(self._reference().trial, trial, f"the output differs with {varied}")

    def test_a_killed_build_goes_on(self) -> None:
        """After `kill -9` in the middle of the step, a second build gives the same output."""
        middle = self._reference().moments // 2 + 1
        with _project() as folder:
            trial = Trial(folder)
            trial.add(self.step(folder))
            trial.env[given.KILL] = str(middle)
            killed = trial.build()
            assert killed.ran.code < 0, f"not killed at moment {middle}: {killed.explained()}"
            trial.env[given.KILL] = None
            trial.build().check()
            _assert_same(self._reference().trial, trial, "the output differs after a kill")

    def test_hostile_rows_are_taken_or_refused(self) -> None:
        """No rows, odd Unicode, 10 MB of text: the step takes them, or raises a `FineryError`."""
        with _project() as folder:
            trial = Trial(folder)
            for name, change in HOSTILE.items():
                step = self.step_with_rows(folder / name, change)
                if step is None:
                    return
                trial.add(step, name, folder=folder / name)
            built = trial.build("--keep-going")
            for name in HOSTILE:
                build = built if built.events else trial.build("--step", name)
                problem = build.problem(name)
                assert not problem, f"rows '{name}': {problem}"

    def test_secrets_stay_out(self) -> None:
        """A secret that the step gets by `env:` is in no file of the project, and isn't printed."""
        reference = self._reference()
        leaks = reference.trial.leaks(reference.built)
        assert not leaks, f"the secret is in: {', '.join(leaks)}"

    def _step_type(self) -> type[Step]:
        with _project() as folder:
            return type(self.step(folder))

    def _reference(self) -> Reference:
        """The first build, which the other ones are compared with."""
        key = type(self), "reference"
        if key not in self._references:
            folder = _new_folder()
            trial, step = Trial(folder), self.step(folder)
            trial.add(step)
            self._references[key] = Reference(step, trial, trial.build())
        self._references[key].built.check()
        return self._references[key]

    def _elsewhere(self) -> Reference:
        """A build in other surroundings."""
        key = type(self), "elsewhere"
        if key not in self._references:
            root = _new_folder()
            folder, home = root / "ein anderer Ort", root / "home"
            home.mkdir()
            folder.mkdir()
            step = self.step(folder)
            _change_undeclared(step, folder)
            trial = Trial(folder)
            trial.add(step)
            trial.env |= ELSEWHERE | {"HOME": str(home), "TMPDIR": str(home)}
            self._references[key] = Reference(step, trial, trial.build(cwd=home))
        self._references[key].built.check()
        return self._references[key]

    def _variations(self, step: Step) -> Iterator[Variation]:
        for variation in variations_of(step):
            other = self.others.get(variation.path, variation.values)
            if other is not None:
                is_own = variation.path in self.others
                yield variation._replace(values=[other]) if is_own else variation


def _changed(value: Any, folder: Path, change: Change) -> Any:
    return dataset(folder, change(list(value))) if isinstance(value, Dataset) else value


def _vary(trial: Trial, step: Step, variation: Variation, name: str) -> bool:
    """Add the step with another value of a setting; False where none of the values is taken."""
    for value in variation.values:
        trial.add(step, name, settings={variation.path: value})
        if trial.is_fine():
            return True
    trial.remove(step, name)
    return False


def _change_undeclared(step: Step, folder: Path) -> None:
    """Change every file in a folder that the step doesn't name as a setting or an input."""
    declared = {path for artifact in artifacts_of(step) for path in files_in(artifact)}
    for within in (step, *nested_steps(step).values()):
        for files in files_of(within).values():
            for pattern in files.patterns:
                declared |= set(folder.glob(pattern)) | set((folder / pattern).rglob("*"))
    for path in folder.rglob("*"):
        if path.is_file() and path not in declared and ".git" not in path.parts:
            path.write_bytes(path.read_bytes() + b"\nchanged\n")


def _assert_same(one: Trial, other: Trial, what: str) -> None:
    problems = differences(one, other)
    assert not problems, "\n  ".join([f"{what}:", *problems])


def _new_folder() -> Path:
    """A folder that lasts as long as this process."""
    return Path(tempfile.mkdtemp(dir=temporary_folder()))


@contextmanager
def _project() -> Iterator[Path]:
    """A folder that is removed."""
    folder = _new_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
