"""`eval.json`: JSON answers, judged whole, by field and by a schema."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st

from finery import (
    DataError,
    Dataset,
    File,
    Metrics,
    Model,
    RequirementError,
    StepError,
    UsageError,
)
from finery.rows.answers.jsonvalues import MISSING, Comparison, NotJson, parse
from finery.testing import run_step
from finery_eval.steps.structured import Json

pytestmark = pytest.mark.usefixtures("tables_answer")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": ["string", "null"]},
        "total": {"type": "number"},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}},
    },
    "required": ["name", "total", "tags"],
    "additionalProperties": False,
}


def model(name: str, *answers: Any) -> Model:
    """A model with an answer to each row: a text, or a value as JSON."""
    texts = {str(i): a if isinstance(a, str) else json.dumps(a) for i, a in enumerate(answers)}
    return tables.model(name, **texts)


def rows(folder: Path, *expected: Any) -> Dataset:
    """Rows with these completions, each a text, or a value as JSON."""
    texts = {str(i): a if isinstance(a, str) else json.dumps(a) for i, a in enumerate(expected)}
    return tables.rows(folder, **texts)


def schema(folder: Path, content: Any = SCHEMA) -> File:
    """A schema file, as a running step sees it."""
    path = folder / "schema.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return File(["schema.json"], [path])


def order(name: str | None = "Ada", total: float = 1.5, tags: tuple[str, ...] = ("a", "b")) -> Any:
    """An object that fits the schema."""
    return {"name": name, "total": total, "tags": list(tags)}


def judged(folder: Path, expected: Sequence[Any], answers: Sequence[Any], **settings: Any) -> Any:
    """(scores, predictions) of one model."""
    step = Json(models=[model("m", *answers)], rows=rows(folder, *expected), **settings)
    metrics: Metrics = run_step(step, folder)
    return metrics.report().data()["scores"]["m"], list(metrics.predictions())


def test_scores(tmp_path: Path) -> None:
    expected = [order(), order(None, 2, ()), order("Bo", 3, ("c",)), order("Cy")]
    answers = [
        '{"tags": ["b", "a"],\n "total": 1.50, "name": "Ada"}',
        order("None", 2, ("a",)),
        order("Bo", 3, ("c", "a")),
        "Sorry",
    ]
    scores, _ = judged(tmp_path, expected, answers, schema=schema(tmp_path))
    assert scores == pytest.approx(
        {
            "accuracy": 1 / 4,
            "field_score": (2 / 4 + 3 / 4 + 6 / 11) / 3,
            "name": 2 / 4,
            "total": 3 / 4,
            "tags": 2 * 3 / (5 + 5 + 1),  # hits a, b, c; "Sorry" counts as one element
            "valid_json": 3 / 4,
            "valid": 3 / 4,
        }
    )
    assert list(scores) == [
        "accuracy", "field_score", "name", "total", "tags", "valid_json", "valid"
    ]  # fmt: skip


def test_predictions_say_what_differs(tmp_path: Path) -> None:
    answers = [{"name": "Eva", "tags": ["a", "b"], "vip": True}, '{"name": "Ada"']
    _, (first, second) = judged(tmp_path, [order(), order()], answers, schema=schema(tmp_path))
    assert first["prediction"] == answers[0]
    assert first["differs"] == {
        "name": {"expected": "Ada", "answered": "Eva"},
        "total": {"expected": 1.5},
        "vip": {"answered": True},
    }
    values = first["values"], second["values"]
    assert [of["valid_json"] for of in values] == [True, False]
    assert not any(of["valid"] or of["accuracy"] for of in values)
    assert second["prediction"] is None
    assert second["problem"].startswith("JSON that ends too early")


def test_more_than_expected_is_wrong_unless_fields_are_named(tmp_path: Path) -> None:
    more = order() | {"vip": True}
    assert judged(tmp_path, [order()], [more])[0]["accuracy"] == 0
    scores, (found,) = judged(tmp_path, [order()], [more], fields=["name", "tags"])
    assert scores["accuracy"] == scores["field_score"] == 1
    assert "total" not in scores
    assert found["differs"] == {}


@pytest.mark.parametrize(
    ("answer", "settings", "accuracy"),
    [
        ("```json\n{}\n```", {}, 1),
        ("``` {} ```", {}, 1),
        ("Here it is: {}", {}, 0),
        ("Here it is:\n```json\n{}\n```", {}, 0),
        ("Here it is: {} Bye!", {"extract": r"(?s)(\{.*\})"}, 1),
    ],
)
def test_text_around_the_json(
    answer: str, settings: dict[str, Any], accuracy: float, tmp_path: Path
) -> None:
    given_answer = answer.replace("{}", json.dumps(order()))
    scores, _ = judged(tmp_path, [order()], [given_answer], **settings)
    assert (scores["accuracy"], scores["valid_json"]) == (accuracy, accuracy)


@pytest.mark.parametrize(
    ("a", "b", "settings", "same"),
    [
        (3, 3.0, {}, True),
        (1, True, {}, False),
        (12.2, 12.3, {"tolerance": 0.1}, True),
        (12.2, 12.4, {"tolerance": 0.1}, False),
        ("High", "high", {"ignore_case": True}, True),
        (None, "", {}, False),
        (MISSING, MISSING, {}, True),
        ([1, 2, 2], [2, 1, 2], {}, True),
        ([1, 2], [2, 1], {"ordered": True}, False),
        ([{"a": [1, 2]}, None], [None, {"a": [2, 1]}], {}, True),
    ],
)
def test_equality(a: Any, b: Any, settings: dict[str, Any], same: bool) -> None:
    compared = Comparison(**settings)
    assert compared.equal(a, b) is same
    assert compared.equal(b, a) is same


def test_order_costs_only_where_it_counts(tmp_path: Path) -> None:
    swapped = order(tags=("b", "a", "c"))
    expected = order(tags=("a", "b", "c"))
    assert judged(tmp_path, [expected], [swapped])[0]["tags"] == 1
    assert judged(tmp_path, [expected], [swapped], lists="ordered")[0]["tags"] == pytest.approx(
        2 / 3
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Sorry", "not JSON"),
        ('{"a": 1', "JSON that ends too early"),
        ('{"a": 1} {"a": 1}', "text after the JSON"),
        ('{"a": 1, "a": 1}', "JSON with a key given twice: a"),
        ('{"a": NaN}', "JSON with NaN or Infinity"),
        ("1e999", "JSON with a number too large"),
        (r'"\ud800"', "JSON with half of a surrogate pair"),
        ("[" * 65 + "]" * 65, "JSON nested too deeply"),
    ],
)
def test_what_is_no_json(text: str, kind: str) -> None:
    with pytest.raises(NotJson) as caught:
        parse(text)
    assert str(caught.value).startswith(kind)


@given(st.text() | st.text('{}[]":,0e-tn\\ \n`'))
def test_no_text_crashes_it(text: str) -> None:
    try:
        value = parse(text)
    except NotJson:
        return
    assert Comparison().equal(value, value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xy", max_size=1), inner),
    max_leaves=8,
)


@given(json_values, json_values, st.booleans())
def test_overlap_is_symmetric_and_bounded(a: Any, b: Any, ordered: bool) -> None:
    same = Comparison(ordered=ordered)
    assert same.equal(a, json.loads(json.dumps(a)))
    assert same.equal(a, b) == same.equal(b, a)
    if isinstance(a, list) and isinstance(b, list):
        assert same.overlap(a, b) == same.overlap(b, a) <= min(len(a), len(b))


def test_nested_fields_and_their_names(tmp_path: Path) -> None:
    expected = {"customer": {"city": "Ulm"}, "valid": True}
    answer = {"customer": {"city": "Ulm"}, "valid": False}
    scores, _ = judged(tmp_path, [expected], [answer])
    assert scores["customer.city"] == 1
    assert scores["field.valid"] == 0
    assert "valid" not in scores
    step = Json(
        models=[model("gguf.q8_0", answer)],
        rows=rows(tmp_path, expected),
        fields=["customer.city", "valid"],
        require={"gguf.q8_0.customer.city": ">= 1", "gguf.q8_0.field.valid": ">= 0.5"},
    )
    metrics = run_step(step, tmp_path)
    with pytest.raises(RequirementError) as caught:
        step.verify({"": metrics})
    assert [line[:27] for line in caught.value.details] == ["gguf.q8_0.field.valid is 0 "]


@pytest.mark.parametrize(
    ("bad", "with_schema", "detail"),
    [
        ("one", False, "not JSON"),
        ("[1]", True, "is not of type 'object'"),
        (order(total="x"), True, "total: 'x' is not of type 'number'"),  # type: ignore[arg-type]
    ],
)
def test_rows_that_can_not_be_judged_are_named(
    bad: Any, with_schema: bool, detail: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"schema": schema(tmp_path)} if with_schema else {}
    table = rows(tmp_path, order(), bad)
    with pytest.raises(DataError, match="expected answer") as caught:
        run_step(Json(models=[model("m")], rows=table, **settings), tmp_path)
    (line,) = caught.value.details
    assert line.startswith(f"row {list(table)[1]['id']}: ")
    assert detail in line


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "not a JSON Schema: JSON that ends too early"),
        ({"type": "nubmer"}, "type: 'nubmer' is not valid"),
        ({"$ref": "https://example.com/x.json"}, "refers to https://example"),
        ({"$ref": "#"}, "refers to itself without end"),
    ],
)
def test_a_bad_schema_names_its_file(content: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=what) as caught:
        judged(tmp_path, [order()], [order()], schema=schema(tmp_path, content))
    assert (caught.value.where or "").endswith("schema.json")


def test_answers_can_only_be_held_to_a_schema_by_engines_that_can(tmp_path: Path) -> None:
    given: Any = {"constrain": True, "schema": schema(tmp_path)}
    with pytest.raises(StepError, match="can't be held to a JSON Schema"):
        judged(tmp_path, [order()], [order()], **given)
    with pytest.raises(UsageError, match="constrain: true needs a JSON Schema"):
        Json(models=[model("m")], rows=rows(tmp_path, order()), constrain=True).check()
