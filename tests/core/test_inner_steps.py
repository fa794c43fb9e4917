"""A step inside a step: its inputs, settings, files and code are those of the step around it."""

import pytest
from conftest import MakeProject, Project

STEPS = '''
from finery import Dataset, Job, Look, Metrics, Model, File, Step, hookimpl
from finery.rows.report import Report, Score
from finery import nested_step, setting, takes


class Learn(Step, seeded=False):
    """Learn the rows, and ask an evaluator how it goes."""

    rows: Dataset
    watch: Step | list[Step] | None = nested_step(
        "evaluate", given={"models": "me"}, help="How it goes."
    )

    def run(self, job: Job) -> Model:
        job.log("learning")
        said = ""
        for judge in filter(None, self.watch if isinstance(self.watch, list) else [self.watch]):
            model = Model(job.out, meta={"format": "light"})
            model.ref = judge.models[0].ref
            judge.models = [model]
            scores = judge.run(job).report().scores.items()
            said += str({m: {n: int(of.value) for n, of in by.items()} for m, by in scores})
        (job.out / "weights").write_text(said)
        return Model(job.out, meta={"format": "light", "said": said})


class Twice(Step, seeded=False):
    """Judge, and judge again."""

    models: list[Model] = takes(uses_name=True, help="The models.")
    again: Step | None = nested_step("evaluate", given={"models": "them"}, help="The judge.")

    def run(self, job: Job) -> Metrics:
        self.again.models = self.models
        return self.again.run(job)


class Judge(Step, seeded=False):
    """Count rows, with what a file says."""

    models: list[Model] = takes(uses_name=True, help="The models.")
    rows: Dataset
    by: File = setting(help="A file with a number.")
    scale: int = setting(1, ge=1, help="Factor.")

    def check(self) -> None:
        from finery import UsageError

        if self.scale == 13:
            raise UsageError("13 is no scale", where="scale", fix="take another")

    def examine(self, look: Look) -> None:
        from finery import UsageError

        if not self.by.path.read_text():
            raise UsageError("the number is missing", where="by", fix="write it")

    def run(self, job: Job) -> Metrics:
        score = len(self.rows) * self.scale * int(self.by.path.read_text())
        scores = {m.name: {"accuracy": Score(score)} for m in self.models}
        return Metrics.write(job.out / f"watch-{self.scale}", Report(rows=1, scores=scores))


@hookimpl
def finery_steps():
    return {"inside.learn": Learn, "inside.judge": Judge, "inside.twice": Twice}
'''
RECIPE = """
finery: 1
name: t
plugins: [./steps.py, ./inside.py]
data:
  a: {use: steps.source, path: rows.txt}
  b: {use: steps.limit, rows: a, most: 2}
train:
  sft:
    use: inside.learn
    rows: a
    watch: {use: inside.judge, rows: b, by: number.txt, scale: 2}
"""
FILES = {
    "recipe.yaml": RECIPE,
    "rows.txt": "1\n2\n3\n",
    "number.txt": "5",
    "empty.txt": "",
    "inside.py": STEPS,
}


@pytest.fixture(name="built")
def _built(built: MakeProject) -> Project:
    return built(FILES)


def said(project: Project) -> str:
    return (project.folder / "build/t/sft/weights").read_text()


def test_it_runs_with_its_inputs_files_and_the_name_it_is_given(built: Project) -> None:
    assert said(built) == "{'me': {'accuracy': 20}}"
    assert built.ran() == []


@pytest.mark.parametrize(
    ("file", "old", "new", "answer"),
    [
        ("recipe.yaml", "scale: 2", "scale: 3", 30),
        ("recipe.yaml", "most: 2", "most: 1", 10),
        ("number.txt", "5", "7", 28),
        ("inside.py", "score = len", "score = 100 + len", 120),
    ],
)
def test_whatever_changes_inside_runs_the_step_around_it(
    built: Project, file: str, old: str, new: str, answer: int
) -> None:
    built.edit(file, old, new)
    assert "sft" in built.ran()
    assert said(built) == f"{{'me': {{'accuracy': {answer}}}}}"


def test_it_can_be_taken_out(built: Project) -> None:
    built.edit("recipe.yaml", "    watch:", "    # watch:")
    assert built.ran() == ["sft"]
    assert said(built) == ""


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("scale: 2", "scael: 2", "recipe.yaml:12:57: error: unknown setting 'scael'"),
        ("scale: 2", "scale: 13", "recipe.yaml:12:57: error: 13 is no scale"),
        ("rows: b", "rows: c", "recipe.yaml:12:38: error: there is no step 'c'"),
        ("number.txt", "numbre.txt", "recipe.yaml:12:45: error: there is no file numbre.txt"),
        ("number.txt", "empty.txt", "recipe.yaml:12:45: error: the number is missing"),
        (
            "inside.judge",
            "steps.limit",
            "recipe.yaml:12:18: error: 'steps.limit' is not a step type",
        ),
    ],
)
def test_what_is_wrong_inside_is_found_at_its_place(
    built: Project, old: str, new: str, wrong: str
) -> None:
    built.edit("recipe.yaml", old, new)
    ran = built.run("check")
    assert ran.code == 2
    assert wrong in ran.err


INNER = "{use: inside.judge, rows: b, by: number.txt, scale: 2}"


@pytest.fixture(name="deeper")
def _deeper(built: Project) -> Project:
    built.edit("recipe.yaml", INNER, "{use: inside.twice, again: " + INNER + "}")
    return built


def test_a_step_inside_may_have_one_inside(deeper: Project) -> None:
    assert deeper.ran() == ["sft"]
    assert said(deeper) == "{'me': {'accuracy': 20}}"
    for file, old, new, answer in (
        ("recipe.yaml", "scale: 2", "scale: 3", 30),
        ("number.txt", "5", "7", 42),
        ("inside.py", "score = len", "score = 100 + len", 142),
    ):
        deeper.edit(file, old, new)
        assert deeper.ran() == ["sft"]
        assert said(deeper) == f"{{'me': {{'accuracy': {answer}}}}}"


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("scale: 2", "scael: 2", "recipe.yaml:12:84: error: unknown setting 'scael'"),
        ("rows: b", "rows: c", "recipe.yaml:12:65: error: there is no step 'c'"),
        ("number.txt", "empty.txt", "recipe.yaml:12:72: error: the number is missing"),
    ],
)
def test_what_is_wrong_deeper_inside_is_found_at_its_place(
    deeper: Project, old: str, new: str, wrong: str
) -> None:
    deeper.edit("recipe.yaml", old, new)
    ran = deeper.run("check")
    assert ran.code == 2
    assert wrong in ran.err


LIST = """
      - {use: inside.judge, rows: b, by: number.txt, scale: 2}
      - use: inside.twice
        again: {use: inside.judge, rows: b, by: number.txt, scale: 3}"""


@pytest.fixture(name="listed")
def _listed(built: Project) -> Project:
    built.edit("recipe.yaml", " " + INNER, LIST)
    return built


def test_a_list_of_them_runs_in_its_order(listed: Project) -> None:
    assert listed.ran() == ["sft"]
    assert said(listed) == "{'me': {'accuracy': 20}}{'me': {'accuracy': 30}}"
    assert listed.ran() == []
    for old, new, setting, answers in (
        ("scale: 3", "scale: 4", "watch.1.again.scale", (20, 40)),
        ("scale: 2", "scale: 5", "watch.0.scale", (50, 40)),
    ):
        listed.edit("recipe.yaml", old, new)
        assert setting in listed.run("explain", "sft").out
        assert listed.ran() == ["sft"]
        assert said(listed) == "".join(f"{{'me': {{'accuracy': {a}}}}}" for a in answers)


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("scale: 3", "scael: 3", "recipe.yaml:15:61: error: unknown setting 'scael'"),
        ("scale: 2", "scale: 13", "recipe.yaml:13:54: error: 13 is no scale"),
        ("b, by: number.txt, scale: 3", "c, by: number.txt, scale: 3", "recipe.yaml:15:42: error"),
        ("number.txt, scale: 3", "empty.txt, scale: 3", "recipe.yaml:15:49: error: the number is"),
        ("inside.twice", "steps.limit", "recipe.yaml:14:14: error: 'steps.limit' is not a step"),
        ("use: inside.twice\n        again", "again", "recipe.yaml:14:9: error: 'watch[1]' of"),
        (LIST, " []", "recipe.yaml:12:12: error: 'watch' can't be an empty list"),
        (LIST, " eval.exact", "fix: write {use: eval.exact}"),
    ],
)
def test_what_is_wrong_in_a_list_is_found_at_its_place(
    listed: Project, old: str, new: str, wrong: str
) -> None:
    listed.edit("recipe.yaml", old, new)
    ran = listed.run("check")
    assert ran.code == 2
    assert wrong in ran.err


def test_a_cycle_through_it_is_found(built: Project) -> None:
    built.edit("recipe.yaml", "b: {use: steps.limit, rows: a", "b: {use: steps.limit, rows: c")
    built.edit("recipe.yaml", "train:", "  c: {use: steps.of_model, model: sft}\ntrain:")
    built.edit(
        "inside.py",
        'return {"inside.learn"',
        'return {"steps.of_model": OfModel, "inside.learn"',
    )
    built.edit(
        "inside.py",
        "class Judge",
        'class OfModel(Step, sections=("data",)):\n    """Rows."""\n\n    model: Model\n\n'
        "    def run(self, job: Job) -> Dataset: ...\n\n\nclass Judge",
    )
    assert "waits for itself: " in built.run("check").err
