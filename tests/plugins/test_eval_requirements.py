"""`require:` of the evaluators."""

from typing import Any

import pytest

from finery import UsageError
from finery_eval.requirements import parse, unmet

MODELS = ["base", "sft", "gguf.q8_0"]
METRICS = ["accuracy", "macro_f1", "priority"]


def report(**accuracy: float) -> dict[str, Any]:
    """A report with these accuracies of 100 rows."""
    return {
        "rows": 100,
        "scores": {model: {"accuracy": value} for model, value in accuracy.items()},
        "intervals": {m: {"accuracy": [v - 0.05, v + 0.05]} for m, v in accuracy.items()},
    }


def lines(require: dict[str, str], **accuracy: float) -> list[str]:
    """What of `require` isn't met."""
    return unmet(parse(require, MODELS, METRICS), report(**accuracy))


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        (">= 0.9", True), (">=.9", True), ("> 0.9", False), ("<= 0.9", True), ("< 0.9", False),
        (">= base.accuracy + 0.3", True), (">=base.accuracy+0.3", True),
        (">= base.accuracy + 0.31", False), ("> base.accuracy", True),
        ("<= base.accuracy - 0.1", False), ("< 1", True), (">= 1", False),
    ],
)  # fmt: skip
def test_comparisons(text: str, ok: bool) -> None:
    """0.6 + 0.3 is 0.8999… in floating point, and still reached by 0.9."""
    assert (not lines({"sft.accuracy": text}, base=0.6, sft=0.9)) == ok


def test_rounding_does_not_fail_a_requirement() -> None:
    assert 0.1 + 0.2 > 0.3
    assert not lines({"sft.accuracy": ">= base.accuracy + 0.2"}, base=0.1, sft=0.3)
    assert lines({"sft.accuracy": "> base.accuracy + 0.2"}, base=0.1, sft=0.3)


def test_a_models_name_may_hold_dots() -> None:
    found = parse({"gguf.q8_0.accuracy": ">= gguf.q8_0.priority - 0.1"}, MODELS, METRICS)[0]
    assert found.subject == ("gguf.q8_0", "accuracy")
    assert (found.of, found.number) == (("gguf.q8_0", "priority"), -0.1)


def test_a_models_name_may_hold_hyphens() -> None:
    found = parse({"a-b.accuracy": "> a-b.accuracy - 0.1"}, ["a-b"], METRICS)[0]
    assert (found.of, found.number) == (("a-b", "accuracy"), -0.1)


def test_what_is_unmet_is_told_with_figure_interval_and_bound() -> None:
    require = {"sft.accuracy": ">= base.accuracy + 0.3", "base.accuracy": ">= 0.1"}
    assert lines(require, base=0.5, sft=0.75) == [
        "sft.accuracy is 0.75 (95 % CI 0.700 to 0.800, 100 rows); required >= base.accuracy + 0.3 "
        "= 0.8 (base.accuracy is 0.5 (95 % CI 0.450 to 0.550, 100 rows))"
    ]


@pytest.mark.parametrize(
    ("key", "text", "what", "fix"),
    [
        ("sft.acuracy", ">= 0.8", "no metric 'acuracy'", "did you mean 'accuracy'?"),
        ("stf.accuracy", ">= 0.8", "'stf' is not one of", "did you mean 'sft'?"),
        ("accuracy", ">= 0.8", "must name a model and its metric", "base.accuracy"),
        ("sft.accuracy", ">= bse.accuracy", "'bse' is not one of", "did you mean 'base'?"),
        ("sft.accuracy", ">= base", "must name a model and its metric", "base.accuracy"),
        ("sft.accuracy", ">= 85", "85 can't be reached", "write 0.85"),
        ("sft.accuracy", ">= base.accuracy + 30", "30 can't be reached", "write 0.3"),
        ("sft.accuracy", "0.8", "must be a comparison", '">= 0.8"'),
        ("sft.accuracy", "== 0.8", "must be a comparison", '">= 0.8"'),
        ("sft.accuracy", "=> 0.8", "must be a comparison", '">= 0.8"'),
        ("sft.accuracy", ">= 85%", "must be a comparison", '">= 0.85"'),
        ("sft.accuracy", ">= -0.1", "must be a comparison", '">= 0.85"'),
        ("sft.accuracy", "", "must be a comparison", '">= 0.85"'),
    ],
)
def test_mistakes_are_explained(key: str, text: str, what: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse({key: text}, MODELS, METRICS)
    assert what in caught.value.what
    assert fix in (caught.value.fix or "")
    assert caught.value.where == f"require: {key}: {text!r}"
