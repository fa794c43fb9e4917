"""`eval.rules`: what a rule measures, and models judged by rules."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tables import model

from finery import DataError, Dataset, Metrics, Model, RequirementError, UsageError
from finery.builder.project import open_graph
from finery.rows.templates import limits
from finery.testing import TestJob, dataset, run_step
from finery_eval.stats import wilson
from finery_eval.steps.dialog import Dialog
from finery_eval.steps.rules import Rule, Rules, sentences

pytestmark = pytest.mark.usefixtures("tables_answer")

RULES = {
    "brief": Rule(max_words=7),
    "calm": Rule(never="!"),
    "next_step": Rule(matches=r"\nNext: .+\Z"),
}
GOOD = "You get a new lid.\nNext: wait."
LONG = "You get a new lid for free.\nNext: wait for it!"


def prompts(folder: Path, names: str) -> Dataset:
    """Rows of a prompt alone, one a letter."""
    return dataset(folder / "rows", [{"prompt": name} for name in names])


def report(folder: Path, models: list[Model], rows: Dataset, **settings: Any) -> Any:
    """The report of a run with `RULES`, or others."""
    step = Rules(models=models, rows=rows, **{"rules": RULES, **settings})
    metrics: Metrics = run_step(step, folder)
    return metrics.report().data()


@pytest.mark.parametrize(
    ("rule", "kept", "broken"),
    [
        (Rule(matches="a+b"), "xaab", "ba"),
        (Rule(matches="(?m)^Next: "), "Then\nNext: x", "So Next: x"),
        (Rule(never="!"), "Fine.", "Fine!"),
        (Rule(starts_with="Hi."), "Hi. You", "Hi, you"),
        (Rule(ends_with="(ok)"), "so (ok)", "(ok) so"),
        (Rule(min_words=3), "one two  three", "one two"),
        (Rule(max_sentences=1), "One of 2.5 kg.", "One. Two"),
        (Rule(starts_with="a", ends_with="b", max_words=1), "ab", "a b"),
    ],
)
def test_what_a_rule_measures(rule: Rule, kept: str, broken: str) -> None:
    assert rule.keeps(kept)
    assert not rule.keeps(broken)


def test_rules_are_tested_over_groups(tmp_path: Path) -> None:
    """Twelve paraphrases of two tickets, as rows and as turns of two conversations."""
    names = [f"q{i}" for i in range(12)]
    bad, good = model("bad", **dict.fromkeys(names, "No!")), model("good")
    content = [{"prompt": q, "completion": "x!", "parents": [f"ticket {i // 6}"]}
            for i, q in enumerate(names)]  # fmt: skip
    table = dataset(tmp_path / "rows", content)
    calm = {"calm": RULES["calm"]}
    rows = report(tmp_path / "a", [bad, good], table, rules=calm)["details"]["tables"]
    talks = [{"messages": [{"role": role, "content": text} for q in names[6 * i : 6 * i + 6]
                           for role, text in (("user", q), ("assistant", "x!"))]}
             for i in range(2)]  # fmt: skip
    each = Rules(models=[], rows=table, rules=calm)
    talk = Dialog(models=[bad, good], rows=dataset(tmp_path / "talks", talks), each=each)
    for tables in (rows, run_step(talk, tmp_path / "b").report().data()["details"]["tables"]):
        ((*_, first), (_, _, share, *interval, p_value), (*_, low, high, _)) = next(
            t["rows"] for t in tables if t["title"] == "Rules"
        )
        assert (first, share, p_value) == (None, 1, 0.5)  # sign flips of two groups
        assert interval == pytest.approx(wilson(2, 2))
        assert (low, high) == pytest.approx(wilson(0, 2))  # of the rows' own answers


@pytest.mark.parametrize("rule", [Rule(matches="(a+)+$"), Rule(never="(a+)+$")])
def test_a_pattern_without_end_is_stopped(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    with pytest.raises(DataError, match=r"(matches|never): .* takes more than 0\.2 s") as caught:
        rule.keeps("a" * 40 + "b")
    assert "the answer begins: 'aaa" in caught.value.details[0]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One. Two! Three? Four…", 4),
        ('He said "go." Then he left.', 2),
        ("It costs 2.50 at coffee.example today.", 1),
        ("One\n\nNext: two.\n", 2),
    ],
)
def test_sentences_are_counted(text: str, count: int) -> None:
    assert sentences(text) == count


def test_models_are_judged_by_each_rule_and_by_all(tmp_path: Path) -> None:
    sft = model("sft", a=GOOD, b=LONG, c="Wait.", d=f"  {GOOD}\n")
    found = report(tmp_path, [sft], prompts(tmp_path, "abcd"))
    assert found["scores"]["sft"] == {
        "accuracy": 0.5,
        "brief": 0.75,
        "calm": 0.75,
        "next_step": 0.75,
    }
    assert found["details"]["headline"] == ["accuracy", "brief", "calm", "next_step"]
    for metric, value in found["scores"]["sft"].items():
        low, high = found["intervals"]["sft"][metric]
        assert 0 <= low < value < high <= 1


def test_predictions_name_the_broken_rules(tmp_path: Path) -> None:
    step = Rules(models=[model("m", a=LONG)], rows=prompts(tmp_path, "a"), rules=RULES)
    (found,) = run_step(step, tmp_path).predictions()
    assert found["broken"] == ["brief", "calm"]
    assert (found["answer"], found["correct"], found["finish_reason"]) == (LONG, False, "stop")


def test_the_answers_of_preferences_only_show_what_the_data_keeps(tmp_path: Path) -> None:
    pairs = [
        {"prompt": "a", "chosen": GOOD, "rejected": LONG},
        {"prompt": "b", "chosen": LONG, "rejected": GOOD},
    ]
    job = TestJob(tmp_path)
    step = Rules(
        models=[model("m", a=GOOD, b=GOOD)],
        rows=dataset(tmp_path / "rows", pairs),
        rules=RULES,
        require={"m.calm": "< 0.9"},
    )
    metrics = step.run(job)
    found = metrics.report().data()
    assert found["scores"]["m"]["accuracy"] == 1
    table = next(t for t in found["details"]["tables"] if t["title"] == "Rules")
    own = {row[0]: row[2] for row in table["rows"] if row[1] == "(the rows' own answers)"}
    assert own == {"brief": 0.5, "calm": 0.5, "next_step": 1}
    logged = [e["message"] for e in job.events if e["event"] == "log"]
    broken = "the answers of 1 of 2 rows break a rule: brief 1, calm 1"
    assert broken in logged
    with pytest.raises(RequirementError) as failed:
        step.verify({"": metrics})
    assert failed.value.details[1:] == [broken]


@pytest.mark.parametrize(
    ("rules", "where", "what"),
    [
        ({}, "rules", "`rules` is empty"),
        ({"calm": Rule()}, "rules.calm", "has no condition"),
        ({"calm": Rule(never="(!")}, "rules.calm.never", "not a regular expression"),
        ({"a.b": Rule(never="!")}, "rules.a.b", "can't name a rule"),
    ],
)
def test_rules_that_can_not_work(rules: dict[str, Rule], where: str, what: str) -> None:
    step = Rules(models=[Model.placeholder("m")], rows=Dataset.placeholder("r"), rules=rules)
    with pytest.raises(UsageError) as caught:
        step.check()
    assert what in caught.value.what
    assert caught.value.where == where
    assert caught.value.fix


def test_the_pairs_of_the_recipe_differ_by_its_rules() -> None:
    """Every better reply keeps all rules, every worse one breaks one."""
    folder = Path(__file__).parents[2] / "recipes" / "house-style"
    step = open_graph(folder / "recipe.yaml", ()).nodes["style"].step
    assert isinstance(step, Rules)
    pairs = [msgspec.json.decode(line) for line in (folder / "data/pairs.jsonl").open("rb")]
    assert [p["chosen"] for p in pairs if not all(step.kept(p["chosen"]).values())] == []
    assert [p["rejected"] for p in pairs if all(step.kept(p["rejected"]).values())] == []
    archive = {msgspec.json.decode(ln)["prompt"] for ln in (folder / "data/replies.jsonl").open()}
    assert not archive & {p["prompt"] for p in pairs}
