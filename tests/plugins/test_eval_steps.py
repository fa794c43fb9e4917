"""The evaluators as steps, run on models that answer from a table."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from in_process import InProcess
from tables import model, rows

from finery import DataError, Dataset, Metrics, Model, RequirementError, UsageError
from finery.builder.examine import Examiner
from finery.builder.project import open_graph, open_store
from finery.builder.scheduler import Build
from finery.inference.records import MemoryRecords
from finery.step.step import Step
from finery.testing import TestJob, dataset, examine, run_step
from finery_eval.steps.classification import Classification
from finery_eval.steps.exact import Exact
from finery_eval.steps.structured import Json

pytestmark = pytest.mark.usefixtures("tables_answer")


def fields(category: str, priority: str) -> str:
    """An answer with two fields."""
    return f"category: {category}\npriority: {priority}"


def verify(step: Step, metrics: Metrics) -> None:
    """Judge as the main process does: inputs are placeholders."""
    taken = {f: getattr(step, f) for f in step.__struct_fields__}
    taken["models"] = [Model.placeholder(m.name) for m in taken["models"]]
    taken["rows"] = Dataset.placeholder("rows")
    type(step)(**taken).verify({"": metrics})


def logged(job: TestJob) -> str:
    """The step's log."""
    return "\n".join(e["message"] for e in job.events if e["event"] == "log")


def test_exact_match(tmp_path: Path) -> None:
    base, sft = model("base", a="one", b="Two", c="x"), model("sft", a=" one\n", b="two", c="y")
    step = Exact(models=[base, sft], rows=rows(tmp_path, a="one", b="two", c="three"))
    metrics: Metrics = run_step(step, tmp_path)
    scores = metrics.report().data()["scores"]
    assert scores == {"base": {"accuracy": 1 / 3}, "sft": {"accuracy": 2 / 3}}
    low, high = metrics.report().data()["intervals"]["sft"]["accuracy"]
    assert 0.2 < low < 2 / 3 < high < 1
    assert metrics.report().data()["details"]["headline"] == ["accuracy"]


def test_exact_match_with_extract_and_case(tmp_path: Path) -> None:
    given = model("sft", a="So the answer is: FOUR", b="five")
    table = rows(tmp_path, a="2 + 2. Answer is: four", b="Five")
    step = Exact(models=[given], rows=table, extract=r"(?i)answer is: (\w+)", ignore_case=True)
    assert run_step(step, tmp_path).report().data()["scores"]["sft"]["accuracy"] == 1


def test_predictions_are_by_row_and_model(tmp_path: Path) -> None:
    given = [model("base", a="x…"), model("sft", a="one")]
    table = rows(tmp_path, a="one")
    found = list(run_step(Exact(models=given, rows=table), tmp_path).predictions())
    row_id = next(iter(table))["id"]
    assert found == [
        {"id": row_id, "model": "base", "prompt": "a", "answer": "x", "expected": "one",
         "prediction": "x", "correct": False, "values": {"accuracy": False},
         "finish_reason": "length"},
        {"id": row_id, "model": "sft", "prompt": "a", "answer": "one", "expected": "one",
         "prediction": "one", "correct": True, "values": {"accuracy": True},
         "finish_reason": "stop"},
    ]  # fmt: skip


def test_answers_that_are_cut_off_are_told(tmp_path: Path) -> None:
    job = TestJob(tmp_path)
    metrics = Exact(
        models=[model("base", a="on…", b="two")], rows=rows(tmp_path, a="one", b="two")
    ).run(job)
    assert "base: 1 of 2 answers were cut off at max_tokens: 64" in logged(job)
    assert metrics.report().data()["details"]["truncated"] == {"base": 1}
    strict = Exact(
        models=[model("base")], rows=rows(tmp_path, a="one"), require={"base.accuracy": ">= 1"}
    )
    with pytest.raises(RequirementError) as caught:
        strict.verify({"": metrics})
    assert caught.value.fix is not None
    assert caught.value.fix.startswith(
        "raise `max_tokens`: 1 of 2 answers of base were cut off; or "
    )


def test_one_class(tmp_path: Path) -> None:
    table = rows(tmp_path, a="card", b="card", c="cash", d="cash")
    step = Classification(models=[model("m", a="card", b="cash", c="cash", d="Cash!")], rows=table)
    report = run_step(step, tmp_path).report().data()
    scores = report["scores"]["m"]
    assert list(scores) == ["accuracy", "macro_f1", "valid"] == report["details"]["headline"]
    assert scores["accuracy"] == 0.5
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores["valid"] == 0.75
    assert report["details"]["confusion"]["m"]["label"] == {
        "labels": ["card", "cash", "(invalid)"],
        "matrix": [[1, 1, 0], [0, 1, 1], [0, 0, 0]],
    }


def test_fields(tmp_path: Path) -> None:
    table = rows(tmp_path, a=fields("bug", "low"), b=fields("bug", "high"), c=fields("bill", "low"))
    answers = {"a": fields("bug", "low"), "b": "Hi!\n" + fields("bug", "low"), "c": "bill, low"}
    step = Classification(
        models=[model("m", **answers)], rows=table, fields=["category", "priority"]
    )
    report = run_step(step, tmp_path).report().data()
    scores = report["scores"]["m"]
    assert list(scores) == step.metric_names()
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert (scores["category"], scores["priority"]) == pytest.approx((2 / 3, 1 / 3))
    both = (scores["category_macro_f1"] + scores["priority_macro_f1"]) / 2
    assert scores["macro_f1"] == pytest.approx(both)
    assert scores["valid"] == pytest.approx(1 / 3)
    assert report["details"]["headline"] == [
        "accuracy",
        "macro_f1",
        "category",
        "priority",
        "valid",
    ]
    assert list(report["details"]["confusion"]["m"]) == ["category", "priority"]


def test_greedy_answers_are_shared_whatever_the_seed(tmp_path: Path) -> None:
    table, records = rows(tmp_path, a="card"), MemoryRecords()
    for seed in (1, 2):
        step = Exact(models=[model("m", a="card")], rows=table)
        run_step(step, tmp_path, seed=seed, records=records)
    assert len(records) == 1
    step = Exact(models=[model("m", a="card")], rows=table, temperature=1.0)
    run_step(step, tmp_path, seed=3, records=records)
    assert len(records) == 2


def test_a_bad_requirement_stops_the_step_before_any_model(tmp_path: Path) -> None:
    step = Exact(models=[model("m")], rows=rows(tmp_path, a="x"), require={"m.recall": ">= 0.8"})
    with pytest.raises(UsageError, match="no metric 'recall'"):
        step.check()
    with pytest.raises(UsageError, match="no metric 'recall'"):
        verify(step, Metrics(tmp_path))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"fields": ["a.b"]}, "can't be the name of a field"),
        ({"fields": ["a", "a"]}, "listed twice"),
        ({"fields": ["a"], "labels": ["x"]}, "must map each field to a list"),
        ({"fields": ["a"], "labels": {"b": ["x"]}}, "'b', which isn't one of the fields"),
        ({"fields": ["a"], "match": "contains"}, "can't be used with `fields`"),
        ({"extract": "(a"}, "not a regular expression"),
        ({"extract": "a"}, "must have one group, but has 0"),
        ({"models": []}, "`models` is empty"),
    ],
)
def test_settings_that_can_not_work(settings: dict[str, Any], what: str) -> None:
    taken = {"models": [Model.placeholder("m")], "rows": Dataset.placeholder("r"), **settings}
    with pytest.raises(UsageError) as caught:
        Classification(**taken).check()
    assert what in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize("evaluator", [Exact, Classification])
@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"id": "r1", "prompt": "?"}, "expected answer"),
        ({"id": "r1", "prompt": "?", "completion": " "}, "expected answer"),
        ({"id": "r1", "completion": "x"}, "no prompt"),
    ],
)
def test_rows_that_can_not_be_judged_are_named(
    evaluator: type[Exact], row: dict[str, Any], what: str, tmp_path: Path
) -> None:
    table = dataset(tmp_path / "rows", [{"prompt": "!", "completion": "y"}, row])
    with pytest.raises(DataError, match=what) as caught:
        run_step(evaluator(models=[model("m")], rows=table), tmp_path)
    assert [line for line in caught.value.details if line.startswith("row r1")]


def test_a_completion_that_contradicts_its_label(tmp_path: Path) -> None:
    """A perfect model would be judged wrong."""
    row = {"id": "r1", "prompt": "?", "completion": "The intent is card.", "label": "card"}
    table = dataset(tmp_path / "rows", [row])
    with pytest.raises(DataError, match="aren't read as their labels") as caught:
        run_step(Classification(models=[model("m")], rows=table), tmp_path)
    assert "extract" in (caught.value.fix or "")
    step = Classification(models=[model("m")], rows=table, match="contains")
    assert run_step(step, tmp_path).report().data()["scores"]["m"]["accuracy"] == 0


def test_rows_with_one_parent_count_together(tmp_path: Path) -> None:
    """Eight paraphrases of two tickets are evidence from two tickets, not from eight."""
    questions = [(f"{i}", f"ticket {i // 4}") for i in range(8)]
    made = [{"prompt": q, "completion": "x", "parents": [parent]} for q, parent in questions]
    table = dataset(tmp_path / "rows", made)
    good = model("good", **{q: "x" for q, _ in questions})
    report = run_step(Exact(models=[model("base"), good], rows=table), tmp_path).report().data()
    details = report["details"]
    assert details["groups"] == 2
    assert details["comparisons"][0]["p_value"] == 0.5  # sign flips of two groups
    assert report["intervals"]["good"]["accuracy"][0] < 0.4  # Wilson's of 2 of 2
    assert "p (sign flips, exact)" in details["tables"][0]["columns"]


def sliced(folder: Path, **settings: Any) -> dict[str, Any]:
    """The report of six rows with a column `source`, of which the model gets those of a right."""
    made = [
        {"prompt": f"{'long ' * i}{i}", "completion": fields("bug", "low"), "source": "aab"[i % 3]}
        for i in range(6)
    ]
    answers = {row["prompt"]: fields("bug", "low") for row in made if row["source"] == "a"}
    step = Classification(
        models=[model("base"), model("m", **answers)],
        rows=dataset(folder / "rows", made),
        fields=["category", "priority"],
        **settings,
    )
    report: dict[str, Any] = run_step(step, folder).report().data()
    return report


def test_scores_are_broken_down_by_columns_fields_and_length(tmp_path: Path) -> None:
    report = sliced(tmp_path, slices=["source", "priority", "length"])
    slices = report["details"]["slices"]
    assert slices["source"]["a"]["rows"] == 4
    assert slices["source"]["a"]["scores"]["m"]["accuracy"] == 1
    assert slices["source"]["b"]["scores"]["m"]["accuracy"] == 0
    assert slices["source"]["b"]["intervals"]["m"]["accuracy"] == [
        0,
        pytest.approx(0.658, abs=1e-3),
    ]
    assert list(slices["priority"]) == ["low"]
    assert [of["rows"] for of in slices["length"].values()] == [2, 2, 2]
    titles = [table["title"] for table in report["details"]["tables"]]
    assert "accuracy by source" in titles
    table = next(t for t in report["details"]["tables"] if t["title"] == "accuracy by source")
    assert table["columns"][:2] == ["source", "rows"]
    assert table["columns"][2::3] == ["base", "m"]  # each with the ends of its interval
    assert [row[:2] for row in table["rows"]] == [["a", 4], ["b", 2]]
    assert [row[5] for row in table["rows"]] == [1, 0]


def test_a_slice_that_no_row_has_is_an_error_before_any_answer(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        sliced(tmp_path, slices=["sorce"])
    assert "no row has the column or field 'sorce'" in caught.value.what
    assert caught.value.fix == "did you mean 'source'?"


TRAINING = """
from finery import Dataset, Job, Model, Step, hookimpl, takes


class Train(Step, learns="answers", sections=("train",)):
    \"\"\"A training that must not start.\"\"\"

    rows: Dataset = takes(role="train", help="Rows.")

    def run(self, job: Job) -> Model:
        raise AssertionError("it started")


@hookimpl
def finery_steps():
    return {"t.train": Train}
"""
SLICED = """\
finery: 1
plugins: [training.py]
data:
  all: {use: data.file, path: rows.jsonl, keep: [channel]}
  some: {use: data.map, rows: all, remove: [channel]}
  split: {use: data.split, rows: ROWS, validation: 0, test: 0.3}
train:
  sft: {use: t.train, rows: split.train}
evaluate:
  test:
    use: eval.exact
    models: [sft]
    rows: split.test
    slices: [NAME]
"""


def sliced_recipe(folder: Path, rows: str, name: str) -> Path:
    """A recipe that breaks scores down by a name. rows: what it splits."""
    table = [
        {"prompt": f"question {i} {'xyz'[i % 3] * i}", "completion": str(i), "channel": "web",
         "source": "a"}
        for i in range(9)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(table))
    (folder / "training.py").write_text(TRAINING, encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(SLICED.replace("ROWS", rows).replace("NAME", name), encoding="utf-8")
    return recipe


@pytest.mark.parametrize("name", ["channel", "length", "label"])
def test_slices_that_rows_can_have_pass_the_check(tmp_path: Path, name: str) -> None:
    assert not Examiner(open_graph(sliced_recipe(tmp_path, "all", name))).errors()


def test_a_slice_that_the_rows_of_a_file_do_not_keep_fails_the_check(tmp_path: Path) -> None:
    (error,) = Examiner(open_graph(sliced_recipe(tmp_path, "all", "source"))).errors()
    assert error.what == "no row has the column or field 'source'"
    assert str(error.where).endswith("recipe.yaml:14:13")
    assert "keep: [source]" in str(error.fix)
    (error,) = Examiner(open_graph(sliced_recipe(tmp_path, "all", "chanel"))).errors()
    assert error.fix == "did you mean 'channel'?"


ASKED = {"role": "user", "content": "q"}


@pytest.mark.parametrize(("row", "is_known"), [
    ({"id": "1", "prompt": "q", "completion": fields("bug", "low")}, False),
    ({"id": "1", "prompt": "q", "completion": "a", "label": {"category": "bug"}}, False),
    ({"messages": [ASKED, {"role": "assistant", "content": fields("bug", "low")}]}, False),
    ({"id": "1", "prompt": "q", "completion": fields("bug", "low"), "label": {"catgory": 1}}, True),
    ({"id": "1", "category": "bug", "priority": "low"}, True),  # not yet a row
    ({"messages": "bug"}, True),
])  # fmt: skip
def test_a_field_that_no_row_has_is_found_in_the_first_rows(
    row: dict[str, Any], is_known: bool
) -> None:
    step = Classification(models=[], rows=Dataset.placeholder("rows"), fields=["catgory"])
    if is_known:
        examine(step, rows={"rows": [row]})
        return
    with pytest.raises(DataError, match="no expected answer of the rows has the field") as caught:
        examine(step, rows={"rows": [row]})
    assert (caught.value.where, caught.value.fix) == ("fields", "did you mean 'category'?")


def test_keys_of_expected_objects_are_slices(tmp_path: Path) -> None:
    """They are known once the rows are read."""
    recipe = sliced_recipe(tmp_path, "all", "kind")
    recipe.write_text(recipe.read_text().replace("eval.exact", "eval.json"), encoding="utf-8")
    assert not Examiner(open_graph(recipe)).errors()
    answers = {f"q{i}": f'{{"kind": "{"ab"[i % 2]}", "n": {i}}}' for i in range(6)}
    step = Json(models=[model("m", **answers)], rows=rows(tmp_path, **answers), slices=["kind"])
    report = run_step(step, tmp_path).report().data()
    assert {k: of["rows"] for k, of in report["details"]["slices"]["kind"].items()} == {
        "a": 3,
        "b": 3,
    }
    step.slices = ["knid"]
    with pytest.raises(DataError) as caught:
        run_step(step, tmp_path)
    assert caught.value.fix == "did you mean 'kind'?"


def test_a_slice_of_rows_that_are_built_first_fails_before_the_training(tmp_path: Path) -> None:
    recipe = sliced_recipe(tmp_path, "some", "source")
    assert not Examiner(open_graph(recipe)).errors()
    store = open_store(recipe)
    outcome = Build(open_graph(recipe, (), store), store, InProcess(), keep_going=False).run()
    assert list(outcome.errors) == ["test"]
    assert outcome.errors["test"].what == "no row has the column or field 'source'"
    assert str(outcome.errors["test"].where).endswith("recipe.yaml:14:13")
    assert "sft" not in outcome.results
