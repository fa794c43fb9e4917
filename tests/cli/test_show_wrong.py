"""Wrong answers in `finery show TEST`: why each is wrong, in few words."""

from pathlib import Path
from typing import Any

import pytest
import tables

from finery import Metrics
from finery.cli.verdicts import answer_of, reasons
from finery.testing import TestJob
from finery_eval.classification import Classification
from finery_eval.rules import Rule, Rules
from finery_eval.sql import Sql
from finery_eval.structured import Json

pytestmark = pytest.mark.usefixtures("tables_answer")


def wrong(evaluator: type[Any], folder: Path, expected: str, answer: str, **settings: Any) -> Any:
    """What the evaluator keeps of a wrong answer."""
    asked = {"models": [tables.model("m", q=answer)], "rows": tables.rows(folder, q=expected)}
    metrics = evaluator(**asked, **settings).run(TestJob(folder / "job"))
    assert isinstance(metrics, Metrics)
    (prediction,) = metrics.predictions()
    assert prediction["correct"] is False
    return prediction


def test_of_json_the_fields_that_differ_are_told(tmp_path: Path) -> None:
    found = wrong(Json, tmp_path, '{"a": {"b": 1}, "c": "x"}', '{\n  "a": {"b": 2}\n}')
    assert list(reasons(found)) == ["a.b: 2, expected 1", 'c: nothing, expected "x"']
    assert answer_of(found) == '{"a": {"b": 2}}'


def test_of_what_is_no_json_the_problem_alone_is_told(tmp_path: Path) -> None:
    found = wrong(Json, tmp_path, '{"a": 1}', "a is 1")
    assert list(reasons(found)) == [found["problem"]]
    assert answer_of(found) == "a is 1"


def test_of_rules_the_broken_ones_are_named(tmp_path: Path) -> None:
    rules = {"brief": Rule(max_words=1), "calm": Rule(never="!"), "late": Rule(matches="late")}
    found = wrong(Rules, tmp_path, "", "too late!", rules=rules)
    assert list(reasons(found)) == ["breaks brief, calm"]


def test_of_sql_the_difference_is_told(tmp_path: Path) -> None:
    from finery import Files

    script = tmp_path / "s.sql"
    script.write_text("CREATE TABLE t (n); INSERT INTO t VALUES (1), (2);")
    schema = Files(["s.sql"], [script])
    found = wrong(Sql, tmp_path, "SELECT n FROM t", "SELECT max(n) FROM t", schema=schema)
    assert list(reasons(found)) == ["1 rows, expected 2"]


def test_of_classes_by_field_the_wrong_fields_are_told(tmp_path: Path) -> None:
    answers = ("team: ops\nlevel: high", "team: ops\nlevel: low")
    found = wrong(
        Classification, tmp_path, *answers,
        fields=["team", "level"], labels={"level": ["low", "high"]},
    )  # fmt: skip
    assert list(reasons(found)) == ['level: "low", expected "high"']


def test_of_a_preference_both_log_probabilities_are_told() -> None:
    found = {"correct": False, "chosen_logprob": -12.345, "rejected_logprob": -9.0}
    assert list(reasons(found)) == [
        "log-probability of the chosen answer -12.35, of the rejected -9.00"
    ]
