"""The kit for plugin authors: jobs for single steps, and what the contracts find."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import MakeProject
from installing import write_plugin

from finery import (
    Completion,
    DataError,
    Dataset,
    Engine,
    File,
    Files,
    Job,
    Model,
    Request,
    Sampling,
    Step,
    StepError,
    setting,
    takes,
)
from finery.testing import EngineContract, StepContract, TestJob, dataset, run_step, table_model
from finery.testing.checks import problems_of_executor
from finery.testing.trial import Trial

LEAVE = "from finery.testing import TestJob; jobs = [TestJob(), TestJob()]"
ROWS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(4)]


def test_jobs_without_a_folder_leave_none_behind(tmp_path: Path) -> None:
    code = f"{LEAVE}; (jobs[0].out / 'file').touch(); print(jobs[0].out)"
    env = {"TMPDIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ran.stdout.startswith(str(tmp_path)), ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_leaves_its_parents_folder_alone(tmp_path: Path) -> None:
    code = (
        f"import os, sys; {LEAVE}\nif os.fork() == 0: sys.exit()\n"
        "os.wait(); print(jobs[0].out.is_dir())"
    )
    env = {"TMPDIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ran.stdout == "True\n", ran.stderr


def test_each_job_has_a_folder_that_outlives_it() -> None:
    one, other = TestJob(), TestJob()
    assert one.out != other.out
    out = one.out
    del one
    assert out.is_dir()


def test_a_folder_that_is_given_stays(tmp_path: Path) -> None:
    assert TestJob(tmp_path / "job").out == tmp_path / "job" / "out"


class Roster(Step, seeded=False):
    """Lists its models, which are named."""

    models: list[Model] = takes(uses_name=True, help="Models.")
    best: Model | None = takes(None, uses_name=True, help="The best one.")

    def run(self, job: Job) -> Dataset:
        names = [each.name for each in [*self.models, *([self.best] if self.best else [])]]
        return Dataset.write(job.out, [{"prompt": name, "completion": name} for name in names])


def test_run_step_names_inputs_after_their_folders(tmp_path: Path) -> None:
    models = [table_model(tmp_path / name) for name in ("a/good", "bad", "b/good")]
    for best in (None, table_model(tmp_path / "best")):
        named = [row["prompt"] for row in run_step(Roster(models=models, best=best))]
        assert named == ["good", "bad", "good-2", *(["best"] if best else [])]


class Lines(Step, seeded=False):
    """Counts the lines of files."""

    path: Files = setting(help="The files.")

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, ({"prompt": p.read_text()} for p in self.path.paths))


def test_run_step_finds_files_and_refuses_a_pattern_without_any(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    rows = run_step(Lines(path=Files([str(tmp_path / "*.txt")])))
    assert [row["prompt"] for row in rows] == ["hello"]
    with pytest.raises(DataError, match="no file matches"):
        run_step(Lines(path=Files([str(tmp_path / "*.csv")])))


def test_a_table_model_answers_by_prompt_and_seed(tmp_path: Path) -> None:
    model = table_model(tmp_path, {"hi": ["hello", "good day"]}, default="one two three")
    engine = TestJob().engine(model)
    ask: Callable[..., list[Completion]] = engine.generate
    asked = [[{"role": "user", "content": text}] for text in ("hi", "what?")]
    assert [a.text for a in ask(asked)] == ["hello", "one two three"]
    assert [a.text for a in ask(asked, seed=1)] == ["good day", "one two three"]
    (cut,) = ask(asked[1:], max_tokens=2)
    assert (cut.text, cut.finish_reason, cut.completion_tokens) == ("one two", "length", 2)


# -- what the contract of steps finds ------------------------------------------------------------

STEPS = '''
import json
import os
import sys
from pathlib import Path
from finery import Dataset, File, Job, Settings, Step, hookimpl, setting
{imports}

class Group(Settings):
    """Settings."""

    inside: int = setting(1{help})

class Subject({base}, seeded=False{keywords}):
    """A step that is to be judged."""

    rows: Dataset
    tag: int = setting(0, help="Put into each row.")
    quiet: bool = setting(False, help="Log less.", affects_output=False)
    path: str = setting("", help="A file, that isn't declared as one.")
    group: Group = setting(Group(), help="More settings.")
    {code}

    def run(self, job: Job) -> Dataset:
        """Tag the rows."""
        return Dataset.write(job.out, self.tagged(job))

    def tagged(self, job: Job):
        for row in self.rows:
            extra = None
{body}
            yield {{**row, "id": "", "tag": self.tag, "extra": extra}}

@hookimpl
def finery_steps():
    return {{"judged.subject": Subject}}
'''


HELP = ', help="A number."'
UNUSED = dict.fromkeys(("quiet", "path", "group.inside"), "the code of a test may use it")
WORDS = 'words: File | None = setting(None, help="Words.")'


def _module(path: Path) -> ModuleType:
    """A plugin file, imported as a test would."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def contract(tmp_path: Path) -> Callable[..., StepContract]:
    """Make the contract's tests for a step with a certain fault."""

    def make(
        body: str = "", *, imports: str = "", keywords: str = "", help: str = HELP,
        base: str = "Step", code: str = "",
    ) -> StepContract:  # fmt: skip
        indented = "".join(f"            {line}\n" for line in body.splitlines())
        file = tmp_path / "judged.py"
        parts = {"imports": imports, "keywords": keywords, "help": help, "base": base, "code": code}
        file.write_text(STEPS.format(body=indented, **parts))
        subject = _module(file).Subject

        class Tests(StepContract):
            without_effect = UNUSED

            def step(self, folder: Path) -> Step:
                rows = dataset(folder / "rows", ROWS)
                (folder / "words.txt").write_text("some words")
                step: Step = subject(rows=rows, path=str(folder / "words.txt"))
                return step

        return Tests()

    return make


def names_of_tests(contract: type) -> list[str]:
    """The names of a contract's tests."""
    return [name for name in vars(contract) if name.startswith("test_")]


def failing(contract: Any, names: Sequence[str]) -> dict[str, str]:
    """Those of a contract's tests that fail, with what they say."""
    failed = {}
    for name in names:
        try:
            getattr(contract, name)()
        except AssertionError as error:
            failed[name] = str(error)
    return failed


def test_a_step_that_keeps_the_contract_passes(
    contract: Callable[..., StepContract], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`path` differs from project to project here, and is in the key, but not in the output.

    The developer's own store plays no part.
    """
    monkeypatch.setenv("FINERY_STORE", str(tmp_path / "own"))
    assert failing(contract(), names_of_tests(StepContract)) == {}


@pytest.mark.parametrize(("body", "test", "says"), [
    ("extra = os.urandom(4).hex()", "test_same_inputs_give_the_same_bytes", "rows-00000.jsonl"),
    ("extra = os.environ.get('USER')", "test_it_reads_only_what_it_declares", "someone-else"),
    ("extra = os.getcwd()[-4:]", "test_it_reads_only_what_it_declares", "surroundings"),
    ("(job.scratch.parents[2] / 'recipe.yaml').open().close()",
     "test_it_reads_only_what_it_declares", "read recipe.yaml"),
    ("extra = Path(self.path).read_text()", "test_it_reads_only_what_it_declares", "changed"),
    ("extra = self.quiet", "test_settings_outside_the_key_change_no_output", "'quiet': True"),
    ("with (job.scratch / 'seen').open('a+') as seen:\n    seen.write('x')\n"
     "extra = len((job.scratch / 'seen').read_text())",
     "test_a_killed_build_goes_on", "differs after a kill"),
    ("extra = row['prompt'].encode('ascii').decode()",
     "test_hostile_rows_are_taken_or_refused", "rows 'odd': StepError: the step raised"),
    ("assert len(row['prompt']) < 1000",
     "test_hostile_rows_are_taken_or_refused", "AssertionError"),
    ("extra = job.secret('FINERY_TRIAL_SECRET_KEY')", "test_secrets_stay_out", "objects"),
])  # fmt: skip
def test_a_fault_is_found(
    contract: Callable[..., StepContract], body: str, test: str, says: str
) -> None:
    assert says in failing(contract(body), [test]).get(test, "passed")


EFFECT = "test_each_setting_has_an_effect"


@pytest.mark.parametrize(("body", "unused", "says"), [
    ("", {}, "settings of Subject that change nothing here: quiet: tried True "),
    ("", {}, "or declare in Tests: others = {\"quiet\": VALUE}"),
    ("extra = self.quiet", {}, "group.inside: tried 2, 0"),
    ("extra = os.urandom(4).hex()", {}, "quiet: tried True "),
    ("", {**UNUSED, "tag": "stale"}, "and what they change: {'tag': '"),
    ("", {**UNUSED, "gone": "renamed"}, "and what they change: {'gone': 'there is"),
])  # fmt: skip
def test_a_setting_without_effect_is_found(
    contract: Callable[..., StepContract], body: str, unused: dict[str, str], says: str
) -> None:
    made = contract(body)
    made.without_effect = unused  # type: ignore[misc]
    assert says in " ".join(failing(made, [EFFECT]).get(EFFECT, "passed").split())


@pytest.mark.parametrize("body", [
    "job.log(f'{self.quiet} {self.path} {self.group.inside}')",
    "extra = [self.quiet, self.path, self.group.inside]",
    "assert_ = self.quiet or self.path[-1] == 'x' or self.group.inside != 1\n"
    "if assert_: raise FineryError('refused')",
])  # fmt: skip
def test_a_setting_that_changes_a_report_the_output_or_a_refusal_has_an_effect(
    contract: Callable[..., StepContract], body: str
) -> None:
    made = contract(body, imports="from finery import FineryError")
    made.without_effect = {}  # type: ignore[misc]
    assert failing(made, [EFFECT]) == {}


def test_a_value_that_breaks_the_step_is_named(contract: Callable[..., StepContract]) -> None:
    made = contract("extra = 1 / (not self.quiet)")
    with pytest.raises(ZeroDivisionError) as caught:
        made.test_each_setting_has_an_effect()
    assert caught.value.__notes__ == ["with quiet: True"]


def test_a_setting_that_must_not_change_stays(contract: Callable[..., StepContract]) -> None:
    made = contract("extra = 1 / (not self.quiet)")
    made.others = {"quiet": None}  # type: ignore[misc]
    assert failing(made, [EFFECT]) == {}


def test_a_step_that_fails_shows_no_effects(contract: Callable[..., StepContract]) -> None:
    made = contract("raise FineryError('no rows')", imports="from finery import FineryError")
    assert (
        "the step ended with an error: {'failed': 'error: no rows"
        in failing(made, [EFFECT])[EFFECT]
    )


def test_a_setting_may_need_another_one(contract: Callable[..., StepContract]) -> None:
    made = contract("extra = self.path if self.quiet else self.group.inside")
    made.without_effect = {}  # type: ignore[misc]
    assert "path: " in failing(made, [EFFECT])[EFFECT]
    made.situations = {"path": {"quiet": True}}  # type: ignore[misc]
    assert failing(made, [EFFECT]) == {}


@pytest.mark.parametrize(("options", "test", "says"), [
    ({"imports": "import numpy"}, "test_loading_it_imports_nothing_heavy", "imports numpy"),
    ({"help": ""}, "test_it_is_described", "'group.inside' has no help"),
    ({"keywords": ', metrics="nowhere:PLACES"'}, "test_it_is_described", "nowhere:PLACES"),
    ({"keywords": ', metrics="json:JSONDecoder"'}, "test_it_is_described", "isn't a mapping"),
])  # fmt: skip
def test_a_fault_of_the_class_is_found(
    contract: Callable[..., StepContract], options: dict[str, str], test: str, says: str
) -> None:
    assert says in failing(contract(**options), [test]).get(test, "passed")


ABSTRACT = """
class Tagging(Step):
    '''The base of steps that tag rows.'''

    def tag_of(self, row):
        raise NotImplementedError

    def tags(self):
        return [self.tag_of(row) for row in self.rows]
"""


@pytest.mark.parametrize(("code", "base", "says"), [
    ("", "Tagging", "Subject has no method `tag_of`"),
    ("floating_name = lambda self: 'latest'", "Step", "Subject has no method `pin_name`"),
])  # fmt: skip
def test_a_missing_method_is_found(
    contract: Callable[..., StepContract], code: str, base: str, says: str
) -> None:
    tests = contract(imports=ABSTRACT, base=base, code=code)
    assert says in failing(tests, ["test_it_is_described"])["test_it_is_described"]


def test_an_executor_with_some_methods_of_detached_ones_is_found() -> None:
    class Half:
        """An executor whose jobs nobody can cancel."""

        def left(self) -> list[str]:
            return []

        has_room = start = poll = close = left

    missing = [what for _, what, _ in problems_of_executor(Half, "the executor")]
    assert [text.rpartition(" ")[2] for text in missing] == ["`how_to_cancel`", "`cancel`"]


PROMISED = "def outputs(self): return {'': Promise(Dataset, {'columns': ['no']})}"


def test_an_output_that_breaks_its_promise_is_found(
    contract: Callable[..., StepContract], tmp_path: Path
) -> None:
    tests = contract(imports="from finery import Promise", code=PROMISED)
    name = "test_same_inputs_give_the_same_bytes"
    says = "judged.subject' promises columns: ['no'] of its output, but the output's `meta` has ["
    assert says in failing(tests, [name])[name]
    with pytest.raises(StepError, match="promises columns: "):
        run_step(tests.step(tmp_path))


@pytest.mark.parametrize("pattern", ["words.txt", "*.txt", "."])
def test_files_are_found_by_absolute_paths(
    contract: Callable[..., StepContract], tmp_path: Path, pattern: str
) -> None:
    class Tests(type(contract("extra = self.words.path.read_text()", code=WORDS))):  # type: ignore[misc]
        def step(self, folder: Path) -> Step:
            step: Step = super().step(folder)
            (folder / "words").mkdir()
            (folder / "words.txt").rename(folder / "words" / "words.txt")
            step.words = File([str(folder / "words" / pattern)])  # type: ignore[attr-defined]
            return step

    assert failing(Tests(), ["test_it_reads_only_what_it_declares"]) == {}
    assert {row["extra"] for row in run_step(Tests().step(tmp_path))} == {"some words"}


UNDECLARED = """
import msgspec
from typing import TYPE_CHECKING
from finery import Dataset, Job, Step
if TYPE_CHECKING:
    import xdist
try:
    import selenium
except ImportError:
    pass

class Say(Step, seeded=False{keywords}):
    "A row."

    def run(self, job: Job) -> Dataset:
        from hypothesis import given
        return Dataset.write(job.out, [])

@hookimpl
def finery_steps():
    return {{"a.say": Say}}
"""
CONTRACT = """
from finery.testing import StepContract
from shop_a import Say
class TestSay(StepContract):
    def step(self, folder):
        return Say()
"""


@pytest.mark.parametrize(("required", "keywords", "says"), [
    ("finery>=0.1", "", ["hypothesis, which shop-a doesn't require (shop_a.py:17)"]),
    ("hypothesis", "", ["finery, which shop-a doesn't require (shop_a.py:1)", "msgspec, which "]),
    ("finery>=0.1", ", installs={'hypothesis': 'shop-a[props]'}", []),
])  # fmt: skip
def test_imports_that_the_metadata_does_not_require_are_found(
    project: MakeProject, required: str, keywords: str, says: list[str]
) -> None:
    """But not those for type checkers, optional ones, and what a required package brings along."""
    made = project({"test_say.py": CONTRACT})
    write_plugin(made, "a", UNDECLARED.format(keywords=keywords))
    metadata = made.folder / "site" / "shop_a-1.5.dist-info" / "METADATA"
    metadata.write_text(f"Name: shop-a\nVersion: 1.5\nRequires-Dist: {required}\n", "utf-8")
    checked = made.run("plugins", "a", "--check")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "required", "-p", "no:cacheprovider"],
        cwd=made.folder, env={**os.environ, **made.env}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == bool(says), ran.stdout
    for out in (checked.out, ran.stdout):
        assert all(f"imports {text}" in out for text in says), out
        assert says or "doesn't require" not in out


DATA = "extra = Path(sysconfig.get_path('purelib'), '_pytest', 'py.typed').read_text()"


@pytest.mark.parametrize(("imports", "is_found"), [
    ("import sysconfig", True), ("import _pytest, sysconfig", False)
])  # fmt: skip
def test_data_of_a_package_that_does_not_count_is_found(
    contract: Callable[..., StepContract], imports: str, is_found: bool
) -> None:
    name = "test_it_reads_only_what_it_declares"
    says = failing(contract(DATA, imports=imports), [name]).get(name, "")
    assert (re.search("package data .*/_pytest/py.typed", says) is not None) == is_found, says


READER = """
from pathlib import Path
from finery import Dataset, Job, Step

class Say(Step, seeded=False):
    "A row."

    def run(self, job: Job) -> Dataset:
        text = (Path(__file__).parents[1] / "words.txt").read_text()
        return Dataset.write(job.out, [{"prompt": text}])

@hookimpl
def finery_steps():
    return {"a.say": Say}
"""


@pytest.mark.slow
def test_data_beside_the_package_of_a_plugin_is_found(project: MakeProject) -> None:
    """It would be missing where the plugin is installed from PyPI."""
    made = project({"test_say.py": CONTRACT, "words.txt": "some words", "pyproject.toml": ""})
    write_plugin(made, "a", READER)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "declares", "-p", "no:cacheprovider"],
        cwd=made.folder, env={**os.environ, **made.env}, capture_output=True, text=True,
    )  # fmt: skip
    assert f"package data {made.folder / 'words.txt'}" in ran.stdout


# -- what the contract of engines finds ------------------------------------------------------------


class Faulty(Engine):
    """An engine with the fault that its model names."""

    count = 0

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer with a number."""
        fault = self.model.meta["fault"]
        Faulty.count += 1
        text = f"answer {Faulty.count if fault == 'changes' else 1}"
        tokens = 99 if fault == "long" else min(2, sampling.max_tokens)
        if fault == "raises" and not requests[0].messages[-1]["content"]:
            raise KeyError("content")
        answer = Completion(
            text=text, finish_reason="stop", prompt_tokens=3, completion_tokens=tokens
        )
        return [answer] * (0 if fault == "silent" else len(requests))

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """All together, the first of them twice where that is the fault."""
        together = list(range(len(requests)))
        return [together, together[:1]] if self.model.meta["fault"] == "twice" else [together]


@pytest.mark.parametrize(("fault", "test"), [
    ("changes", "test_the_same_question_has_the_same_answer"),
    ("long", "test_every_conversation_is_answered"),
    ("twice", "test_each_row_is_in_one_batch"),
])  # fmt: skip
def test_a_fault_of_an_engine_is_found(fault: str, test: str) -> None:
    class Tests(EngineContract):
        engine = Faulty

        def model(self, folder: Path) -> Model:
            return Model(folder, meta={"format": "faulty", "fault": fault})

    assert test in failing(Tests(), [test])


def test_a_model_is_made_anew_after_the_tests_of_its_engine(tmp_path: Path) -> None:
    made = []

    class Tests(EngineContract):
        engine = Faulty

        def model(self, folder: Path) -> Model:
            made.append(folder)
            return Model(folder, meta={"format": "faulty", "fault": ""})

    for _ in range(2):
        Tests().test_every_conversation_is_answered()
        Tests().test_one_token_is_one_token()
        Tests.teardown_class()
    assert len(made) == 2


def test_rows_are_what_run_step_returns(tmp_path: Path) -> None:
    file = tmp_path / "judged.py"
    parts = {"body": "", "imports": "", "keywords": "", "help": HELP, "base": "Step", "code": ""}
    file.write_text(STEPS.format(**parts))
    step = _module(file).Subject(rows=dataset(tmp_path / "rows", ROWS), tag=3)
    rows = list(run_step(step, tmp_path / "job"))
    assert [row["tag"] for row in rows] == [3] * 4
    assert (
        json.loads((tmp_path / "job/out/rows-00000.jsonl").read_text().splitlines()[0]) == rows[0]
    )


SCHEDULES = '''
from finery import Dataset, Job, Settings, Step, hookimpl, setting

class Linear(Settings, tag="linear"):
    """A straight line."""

    steps: int = setting(1, help="How long it is.")

class Cosine(Settings, tag="cosine"):
    """A curve."""

    steps: int = setting(1, help="How long it is.")

class Subject(Step, seeded=False):
    """A row with its schedule."""

    schedule: Linear | Cosine = setting(Linear(), help="A line or a curve.")

    def run(self, job: Job) -> Dataset:
        """Write the schedule."""
        return Dataset.write(job.out, [dict(prompt=repr(self.schedule))])

@hookimpl
def finery_steps():
    return dict([("own.scheduled", Subject)])
'''


def test_a_step_runs_with_settings_of_either_type(tmp_path: Path) -> None:
    file = tmp_path / "schedules.py"
    file.write_text(SCHEDULES)
    own = _module(file)
    trial = Trial(tmp_path / "trial")
    schedules = {"linear": own.Linear(), "cosine": own.Cosine(), "longer": own.Cosine(steps=2)}
    for name, schedule in schedules.items():
        trial.add(own.Subject(schedule=schedule), name)
    built = trial.build()
    assert built.ok, built.explained()
    for name, schedule in schedules.items():
        assert any(built.of("step_finished", name)), "it takes the output of another step"
        rows = (tmp_path / f"trial/build/trial/{name}/rows-00000.jsonl").read_text()
        assert json.loads(rows)["prompt"] == repr(schedule)
