"""The tests that every step type must pass, to inherit."""

import json
import os
import reprlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from finery.artifact.kinds import Dataset
from finery.plugin.manager import load_plugins
from finery.recipe.files import find_matches
from finery.step.inspect import files_of, slots_of, steps_inside
from finery.step.step import Step
from finery.testing import given
from finery.testing.checks import problems_of_step
from finery.testing.effects import Effects
from finery.testing.imports import (
    HEAVY_FIX,
    REQUIRE_FIX,
    problems_of_loading,
    problems_of_requirements,
)
from finery.testing.job import TestJob, dataset, temporary_folder
from finery.testing.trial import (
    SEED,
    SUBJECT,
    Built,
    Trial,
    artifacts_of,
    differences,
    files_in,
    provided_as,
)
from finery.testing.variations import (
    HOSTILE,
    Change,
    Variation,
    is_of_files,
    large_rows,
    variations_of,
)
from finery.util.installed import finery_packages

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
"""Environment variables of a build in different surroundings. `open` without an encoding reads
ASCII there."""

REPORT = "FINERY_CONTRACT_REPORT"
"""Environment variable with a file to which contracts add what a step executed."""

WITHOUT_EFFECT = """settings of {cls} that change nothing here:
  {dead}
Have the step use them, choose rows for which they matter, or declare in {contract}:
  others = {{"{name}": VALUE}}  # a value that changes what the step does
  situations = {{"{name}": {{"setting": VALUE}}}}  # what it needs to change anything
  without_effect = {{"{name}": "why"}}  # if a test can't see what it changes"""


class Reference(NamedTuple):
    """The build that all others are compared with."""

    step: Step
    trial: Trial
    built: Built

    @property
    def moments(self) -> int:
        """Number of files that the step opened for writing plus number of reports that it sent."""
        logs = [event["message"] for event in self.built.of("step_log")]
        counts = [text.removeprefix(given.MOMENTS) for text in logs if given.MOMENTS in text]
        return int(counts[0]) if counts else 0


class Elsewhere(NamedTuple):
    """A build in different surroundings, killed in the middle of the step, and the next one."""

    trial: Trial
    killed: Built
    built: Built


class StepContract:
    """The tests that every step type must pass. Subclass it and create the step.

        class TestShort(StepContract):
            def step(self, folder):
                return Short(rows=dataset(folder / "rows", ROWS), characters=5)

    The tests build the step with the `finery` command in temporary projects. Choose few rows: the
    step runs several times.

    others: other values of settings, e.g. `{"lora.r": 8}`, for the tests that change one. By
        default they follow from examples, types and limits. None excludes a setting, but from the
        test that each has an effect only if it is in `without_effect`, too.
    situations: settings whose effect needs others, with these: `{"lora.bias": {"lora.r": 8}}`. A
        value for the setting itself replaces that of `others`.
    without_effect: settings whose effect can't be observed here, with the reason.
    """

    others: ClassVar[Mapping[str, Any]] = {}
    situations: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    without_effect: ClassVar[Mapping[str, str]] = {}
    _projects: ClassVar[dict[tuple[type, str], Any]] = {}

    def step(self, folder: Path) -> Step:
        """The step with its inputs and settings.

        folder: the folder of the recipe, a different one in each call. Write input artifacts and
        outside files into it.
        """
        raise NotImplementedError

    def step_with_rows(self, folder: Path, change: Change) -> Step | None:
        """The step with different rows: `change` takes a list of its rows and returns another.

        By default, all input data sets are changed. Override it for a step that reads rows from
        files. Return None for a step that reads no rows.
        """
        step = self.step(folder)
        slots = slots_of(step)
        for path, slot in slots.items():
            value = getattr(slot.owner, slot.field)
            values = value if isinstance(value, list) else [value]
            changed = [_changed(v, folder / f"{path}-{i}", change) for i, v in enumerate(values)]
            setattr(slot.owner, slot.field, changed if isinstance(value, list) else changed[0])
        return step if any(slot.accepts.kind is Dataset for slot in slots.values()) else None

    def job(self, folder: Path) -> TestJob:
        """The job of a run in this process, for a step that needs secrets or `provenance`."""
        return TestJob(folder, seed=SEED)

    def test_it_is_described(self) -> None:
        """Step type and settings have descriptions, and declared interfaces can be loaded."""
        problems = list(problems_of_step(self._step_type(), "the step type"))
        assert not problems, problems

    def test_loading_it_imports_nothing_heavy(self) -> None:
        """Most commands load the step types of a recipe without running a step."""
        cls = self._step_type()
        file = provided_as(cls)[1]
        problems = list(problems_of_loading([cls.__module__ if file is None else str(file)]))
        assert not problems, f"{problems}: {HEAVY_FIX}"

    def test_what_it_imports_is_required(self) -> None:
        """The metadata of the plugin requires what its package imports."""
        problems = problems_of_requirements(self._step_type().__module__)
        assert not problems, f"{problems}: {REQUIRE_FIX}"

    def test_same_inputs_give_the_same_bytes(self) -> None:
        """The output doesn't depend on chance or the time."""
        if not self._is_same_elsewhere():
            self._compare("a second build differs")

    def test_it_reads_only_what_it_declares(self) -> None:
        """The output doesn't depend on undeclared files or the environment.

        The second build has a different working directory, home, language, time zone and hash seed,
        and changed contents in all files that neither a setting nor an input names.
        """
        if not self._is_same_elsewhere():
            self._compare("the output depends on its surroundings", elsewhere=True)
        reference, elsewhere = self._reference(), self._elsewhere()
        undeclared = reference.trial.undeclared(reference.built)
        undeclared += elsewhere.trial.undeclared(elsewhere.built)
        undeclared += reference.trial.data_outside_key(reference.built)
        assert not undeclared, undeclared

    def test_code_that_runs_is_in_the_key(self) -> None:
        """Every function of plugins, of `finery.rows` and of the project that `run` executes.

        With the rows of `step`, without rows, and with odd ones.
        """
        executed = self._reference().trial.executed()
        if report := os.environ.get(REPORT):
            with open(report, "a", encoding="utf-8") as file:
                file.write(f"{json.dumps([type(self).__name__, executed])}\n")
        assert not executed.missing, f"executed, but not in the key: {executed.missing}"

    def test_a_killed_build_goes_on(self) -> None:
        """After `kill -9` in the middle of the step, the next build gives the same output."""
        killed = self._elsewhere().killed
        assert killed.ran.code < 0, f"the build wasn't killed: {killed.explained()}"
        if not self._is_same_elsewhere():
            self._compare("the output differs after a kill", kill=True)

    def test_settings_change_the_key(self) -> None:
        """Another value of a setting gives another key, unless it has `affects_output=False`."""
        step, trial, _ = self._reference()
        varied = {}
        for number, variation in enumerate(self._variations(step)):
            if _vary(trial, step, variation, f"other{number}"):
                varied[f"other{number}"] = variation
        states = trial.states()
        assert states[SUBJECT] == "cached", "the step isn't cached after its build"
        wrong = [
            variation.path
            for name, variation in varied.items()
            if states[name] != ("run" if variation.affects_output else "cached")
        ]
        assert not wrong, f"whether they are in the key isn't as declared: {', '.join(wrong)}"

    def test_each_setting_has_an_effect(self) -> None:
        """Another value of a setting changes the output or a report, or is refused.

        What the step asks a `table_model`, what it keeps in `job.scratch`, what it needs of a
        machine (`resources`) and whether `verify` fails count, too. Settings that the step type
        inherits from another package may have no effect. The steps run in this process, at least
        one for each setting.
        """
        with _project() as folder:
            compared = self.comparison(folder)
            made = [compared.of(*change) for change in self.changes(compared.step)]
        effects = {effect.setting: effect for effect in made}
        cls = type(compared.step)
        own = cls.__module__.partition(".")[0]
        dead = {
            name: ", ".join(dict.fromkeys(map(reprlib.repr, e.tried)))
            for name, e in effects.items()
            if not e.fact and name not in self.without_effect
            and own in (*finery_packages(), package_of(cls, name))
        }  # fmt: skip
        assert not dead, WITHOUT_EFFECT.format(
            cls=cls.__name__, contract=type(self).__name__, name=next(iter(dead)),
            dead="\n  ".join(
                f"{name}: " + (f"tried {tried}" if tried else "its type gives no other value")
                for name, tried in dead.items()
            ),
        )  # fmt: skip
        stale = {
            name: effects[name].fact if name in effects else "there is no such setting"
            for name in self.without_effect
            if name not in effects or effects[name].fact
        }
        assert not stale, f"settings of `without_effect`, and what they change: {stale}"

    def comparison(self, folder: Path) -> Effects:
        """Compares runs of the step with other settings. folder: an empty one."""
        step = self.step(folder)
        for _, within in steps_inside(step):
            name, file = provided_as(type(within))
            if file is None:
                load_plugins().step_type(name)  # gives its metrics the names of a recipe
        return Effects(step, folder, self.job)

    def changes(self, step: Step) -> Iterator[tuple[Variation, Mapping[str, Any]]]:
        """Each setting with its other values, and the situation in which they are compared."""
        for variation in variations_of(step):
            situation = dict(self.situations.get(variation.path, {}))
            path, values = variation.path, variation.values
            if path in situation:
                values = [situation.pop(path)]
            elif self.others.get(path) is not None:
                values = [self.others[path]]
            elif path in self.others and path in self.without_effect:
                values = []
            yield variation._replace(values=values), situation

    def test_settings_outside_the_key_change_no_output(self) -> None:
        """Settings with `affects_output=False` don't change the output."""
        with _project() as folder:
            trial, step = Trial(folder), self.step(folder)
            outside = [v for v in self._variations(step) if not v.affects_output]
            varied = {v.path: v.values[0] for v in outside if _vary(trial, step, v, SUBJECT)}
            if varied:
                trial.add(step, settings=varied)
                trial.build().check(SUBJECT)
                _assert_same(self._reference().trial, trial, f"the output differs with {varied}")

    def test_hostile_rows_are_taken_or_refused(self) -> None:
        """The step takes no rows, odd Unicode and 10 MB of text, or raises a `FineryError`."""
        _, trial, built = self._reference()
        for name in HOSTILE:
            if trial.has(name):
                known = any(event.get("step") == name for event in built.events)
                build = built if known else trial.build("--step", name)
                problem = build.problem(name)
                assert not problem, f"rows '{name}': {problem}"

    def test_secrets_stay_out(self) -> None:
        """No file of the project contains a secret from `env:`, and no command prints it."""
        reference = self._reference()
        leaks = reference.trial.leaks(reference.built)
        assert not leaks, f"the secret is in: {', '.join(leaks)}"

    @classmethod
    def teardown_class(cls) -> None:
        """Remove the projects that the tests share."""
        for key in [key for key in StepContract._projects if key[0] is cls]:
            shutil.rmtree(StepContract._projects.pop(key).trial.folder, ignore_errors=True)

    def _step_type(self) -> type[Step]:
        with _project() as folder:
            return type(self.step(folder))

    def _reference(self) -> Reference:
        """The step in a first build, next to the same step with hostile rows."""
        key = type(self), "reference"
        if key not in self._projects:
            folder = _new_folder()
            trial, step = Trial(folder), self.step(folder)
            trial.env[given.EXECUTED] = str(folder / ".git" / "executed")
            trial.add(step, env=[given.EXECUTED])
            for name, change in HOSTILE.items():
                (folder / name).mkdir()
                with_rows = self.step_with_rows(folder / name, change)
                if with_rows is not None:
                    recorded = [] if change is large_rows else [given.EXECUTED]
                    trial.add(with_rows, name, folder=folder / name, env=recorded)
            built = trial.build("--keep-going")
            if not built.events:  # files with hostile rows were refused before the build
                built = trial.build("--step", SUBJECT)
            self._projects[key] = Reference(step, trial, built)
        reference: Reference = self._projects[key]
        reference.built.check(SUBJECT)
        return reference

    def _elsewhere(self) -> Elsewhere:
        """The step in other surroundings, killed in its middle and built again."""
        key = type(self), "elsewhere"
        if key not in self._projects:
            moments = self._reference().moments
            trial, home = self._trial(_new_folder(), elsewhere=True)
            trial.env[given.KILL] = str(_middle(moments))
            killed = trial.build(cwd=home)
            trial.env[given.KILL] = None
            self._projects[key] = Elsewhere(trial, killed, trial.build(cwd=home))
        project: Elsewhere = self._projects[key]
        return project

    def _is_same_elsewhere(self) -> bool:
        reference, elsewhere = self._reference(), self._elsewhere()
        return elsewhere.built.ok and not differences(reference.trial, elsewhere.trial)

    def _compare(self, what: str, *, elsewhere: bool = False, kill: bool = False) -> None:
        """Build the step again under different circumstances. Raises if its output differs."""
        reference = self._reference()
        with _project() as folder:
            trial, cwd = self._trial(folder, elsewhere=elsewhere)
            if kill:
                trial.env[given.KILL] = str(_middle(reference.moments))
                trial.build(cwd=cwd)
                trial.env[given.KILL] = None
            trial.build(cwd=cwd).check(SUBJECT)
            _assert_same(reference.trial, trial, what)

    def _trial(self, root: Path, *, elsewhere: bool) -> tuple[Trial, Path]:
        """A project with the step, and the working directory for its builds."""
        if not elsewhere:
            trial = Trial(root)
            trial.add(self.step(root))
            return trial, root
        folder, home = root / "ein anderer Ort", root / "home"
        folder.mkdir()
        home.mkdir()
        step = self.step(folder)
        _change_undeclared(step, folder)
        trial = Trial(folder)
        trial.add(step)
        trial.env |= ELSEWHERE | {"HOME": str(home), "TMPDIR": str(home)}
        return trial, home

    def _variations(self, step: Step) -> Iterator[Variation]:
        for variation in variations_of(step):
            other = self.others.get(variation.path, variation.values or None)
            if other is not None and not is_of_files(variation):
                is_own = variation.path in self.others
                yield variation._replace(values=[other]) if is_own else variation


def package_of(cls: type[Step], path: str) -> str:
    """The top-level package of the class that declares a setting."""
    name = path.partition(".")[0]
    declares = (base for base in cls.__mro__ if name in vars(base).get("__annotations__", {}))
    return next(declares).__module__.partition(".")[0]


def _changed(value: Any, folder: Path, change: Change) -> Any:
    return dataset(folder, change(list(value))) if isinstance(value, Dataset) else value


def _middle(moments: int) -> int:
    return moments // 2 + 1


def _vary(trial: Trial, step: Step, variation: Variation, name: str) -> bool:
    """Add the step with another value of a setting. False if no value is accepted."""
    for value in variation.values:
        trial.add(step, name, settings={variation.path: value})
        if trial.is_fine():
            return True
    trial.remove(step, name)
    return False


def _change_undeclared(step: Step, folder: Path) -> None:
    """Change every file in a folder that the step doesn't name as a setting or an input."""
    declared = {path for artifact in artifacts_of(step) for path in files_in(artifact)}
    for within in (step, *(within for _, within in steps_inside(step))):
        for files in files_of(within).values():
            declared |= {path for _, path in find_matches(files, folder)}
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
