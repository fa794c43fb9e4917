"""The evaluators, the baselines, prompt.model and review.apply keep the contract of step types."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from embedding import tiny_bert

from finery import Dataset, File, Files, Metrics, Model, Step
from finery.rows import with_id
from finery.rows.report import Report, Score
from finery.testing import StepContract, dataset, run_step, table_model
from finery_baseline.steps import Linear, Majority, Nearest
from finery_encoder.steps import Classify
from finery_eval.steps.classification import Classification
from finery_eval.steps.dialog import Dialog
from finery_eval.steps.exact import Exact
from finery_eval.steps.rules import Rule, Rules
from finery_eval.steps.select import Select
from finery_eval.steps.speed import Machine, Speed
from finery_eval.steps.sql import Sql
from finery_eval.steps.structured import Json
from finery_eval.steps.tools import ToolCalls
from finery_judge.arena import Arena
from finery_judge.rubric import RubricJudge
from finery_onnx.export import Export as OnnxExport
from finery_prompt.model import PromptModel
from finery_retention.retention import Retention
from finery_review.apply import Apply
from finery_serve.standalone import StandaloneBundle
from finery_trl.settings import Lora

ANSWERS = {"Is it late?": "yes", "Is it here?": "no", "Is it red?": "yes", "Is it new?": "no"}
SHARES = {"one": 0.25, "two": 0.75}
ROWS = [{"prompt": prompt, "completion": answer} for prompt, answer in ANSWERS.items()]


def models(folder: Path, **answers: str) -> list[Model]:
    """A model that knows every answer, one of them in capitals, and one that knows `answers`."""
    knows = table_model(folder / "knows", {**ANSWERS, "Is it red?": "YES"})
    return [knows, table_model(folder / "guesses", answers, "yes\nIt is.")]


NEEDED: dict[str, dict[str, Any]] = {
    "require": {"require": {"guesses.accuracy": ">= 0.99"}},
    "slices": {"slices": ["length"]},
}
"""A gate that these models fail, and slices of any rows."""
TIMES = "a time is measured, so the output differs in each run"
NO_CALLS = "models of the kit call no tools; tests/plugins/test_eval_tools.py changes it"


def rows(folder: Path, answers: dict[str, str] = ANSWERS) -> Dataset:
    """Rows that expect these answers."""
    return dataset(folder / "rows", [{"prompt": p, "completion": a} for p, a in answers.items()])


class TestExact(StepContract):
    """eval.exact."""

    situations = NEEDED

    def step(self, folder: Path) -> Step:
        return Exact(models=models(folder), rows=rows(folder))


class TestClassification(StepContract):
    """eval.classification."""

    situations = {**NEEDED, "labels": {"labels": ["yes", "no", "maybe"]}}

    def step(self, folder: Path) -> Step:
        return Classification(models=models(folder), rows=rows(folder))


class TestJson(StepContract):
    """eval.json."""

    others = {"fields": ["late"]}
    situations = {**NEEDED, "require": {"require": {"n.accuracy": ">= 0.99"}}}

    def step(self, folder: Path) -> Step:
        fields = {"n": 3, "tags": ["a", "b"], "word": "Yes"}
        answers = {p: json.dumps({"late": a == "yes", **fields}) for p, a in ANSWERS.items()}
        nearly = {"late": True, "n": 3.2, "tags": ["b", "a"], "word": "yes"}
        asked = [
            table_model(folder / "m", answers),
            table_model(folder / "n", {}, json.dumps(nearly)),
        ]
        return Json(models=asked, rows=rows(folder, answers))


class TestDialog(StepContract):
    """eval.dialog, with eval.exact inside."""

    situations = NEEDED

    def step(self, folder: Path) -> Step:
        turns = [
            {"role": role, "content": text}
            for pair in ANSWERS.items()
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        each = Exact(models=[Model.placeholder("models")], rows=Dataset.placeholder("rows"))
        talks = dataset(folder / "rows", [{"messages": turns}, {"messages": turns[:4]}])
        return Dialog(models=models(folder), rows=talks, each=each)


class TestToolCalls(StepContract):
    """eval.tools, on models that never call a tool."""

    others = {
        "free": ["look.at"],
        "unordered": ["look.at"],
        "execute.factory": "types:SimpleNamespace",
    }
    situations = NEEDED
    without_effect = dict.fromkeys(
        ("free", "coerce", "ignore_case", "strip", "execute.file", "execute.expect",
         "execute.max_steps", "execute.seconds"),
        NO_CALLS,
    )  # fmt: skip

    def step(self, folder: Path) -> Step:
        at = {"type": "object", "properties": {"at": {"type": "string"}}}
        tools = [{"type": "function", "function": {"name": "look", "parameters": at}}]
        rows = [{**row, "tools": tools} for row in ROWS]
        call = {"type": "function", "function": {"name": "look", "arguments": {"at": "x"}}}
        turn = {"role": "assistant", "tool_calls": [call]}
        rows.append({"prompt": "Look.", "completion": [turn], "tools": tools})
        return ToolCalls(models=models(folder), rows=dataset(folder / "rows", rows))


class TestRules(StepContract):
    """eval.rules."""

    others = {"rules.brief.never": "It is"}
    situations = {
        **NEEDED,
        "require": {"require": {"knows.accuracy": ">= 0.99"}},
        "ignore_case": {"rules": {"sure": {"starts_with": "yes"}}},
    }

    def step(self, folder: Path) -> Step:
        rules = {"brief": Rule(max_words=3), "positive": Rule(never="no")}
        return Rules(models=models(folder), rows=rows(folder), rules=rules)


class TestSql(StepContract):
    """eval.sql."""

    others = {"timeout": 6.0}
    situations = {**NEEDED, "require": {"require": {"n.accuracy": ">= 0.99"}}}
    without_effect = {"timeout": "only slow queries reach it: tests/plugins/test_eval_sql.py"}

    def step(self, folder: Path) -> Step:
        folder.mkdir(parents=True, exist_ok=True)
        script = "CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1), (2), (3);"
        (folder / "shop.sql").write_text(script, encoding="utf-8")
        which, down = "SELECT n FROM t ORDER BY n", "SELECT n FROM t ORDER BY n DESC"
        answers = {
            "How many?": "SELECT count(*) FROM t", "Which?": which, "Word?": "SELECT 'Yes'"
        }  # fmt: skip
        others = {"Which?": down, "Word?": "SELECT 'yes'"}
        asked = [table_model(folder / "m", answers), table_model(folder / "n", others, "SELECT 3")]
        return Sql(models=asked, rows=rows(folder, answers), schema=Files(["shop.sql"]))


class TestSpeed(StepContract):
    """eval.speed, whose numbers differ from run to run."""

    others = {"require": None}
    situations = {"require": {"require": {"knows.latency_p50": "<= 0"}}}
    without_effect = {"machine": TIMES, "machine.per_hour": TIMES}

    def step(self, folder: Path) -> Step:
        return Speed(models=models(folder), rows=rows(folder), machine=Machine(per_hour=1.0))

    def _is_same_elsewhere(self) -> bool:
        return self._elsewhere().built.ok


class TestSelect(StepContract):
    """eval.select."""

    others = {"model": "other", "metric": "f1", "repeats": {"both": ["one", "two"]}}
    situations = {"pareto": {"model": None, "pareto": ["accuracy", "-f1"]}}

    def step(self, folder: Path) -> Step:
        return Select(
            candidates=[self.metrics(folder / name, share) for name, share in SHARES.items()],
            model="sft",
            metric="accuracy",
        )

    def metrics(self, folder: Path, share: float) -> Metrics:
        """What an evaluator says of two models by two metrics."""
        folder.mkdir(parents=True)
        one, two = Score(share), Score(1 - share)
        scores = {"sft": {"accuracy": one, "f1": two}, "other": {"accuracy": two, "f1": one}}
        metrics = Metrics.write(folder, Report(rows=4, scores=scores))
        metrics.ref = folder.name
        return metrics


class TestJudge(StepContract):
    """eval.judge, held against decisions on its rows."""

    situations = {**NEEDED, "require": {"require": {"guesses.score": ">= 0.99"}}}
    without_effect = {"budget.dollars": "answers of the kit's models cost nothing"}

    def step(self, folder: Path) -> Step:
        judge = table_model(folder / "judge", {}, '{"reason": "It is.", "score": 4}')
        judged = rows(folder)
        decisions = [
            {"id": row["id"], "do": "reject" if n else "accept"} for n, row in enumerate(judged)
        ]
        lines = "".join(f"{json.dumps(decision)}\n" for decision in decisions)
        (folder / "decisions.jsonl").write_text(lines, encoding="utf-8")
        return RubricJudge(
            models=models(folder), rows=judged, judge=judge, rubric="Is it right?",
            human=Files(["decisions.jsonl"]),
        )  # fmt: skip


class TestArena(StepContract):
    """eval.arena, with a judge that prefers the first answer."""

    situations = {**NEEDED, "require": {"require": {"guesses.win_rate": ">= 0.99"}}}
    without_effect = {"budget.dollars": "answers of the kit's models cost nothing"}

    def step(self, folder: Path) -> Step:
        judge = table_model(folder / "judge", {}, '{"reason": "It is.", "better": "A"}')
        asked = [*models(folder), table_model(folder / "third", {}, "maybe")]
        return Arena(models=asked, rows=rows(folder), judge=judge, rubric="Which is right?")


@pytest.mark.skipif(
    find_spec("reasoning_gym") is None, reason="needs reasoning-gym: the extra `retention`"
)
class TestRetention(StepContract):
    """eval.retention, without a text: these models have no weights."""

    others = {"tasks": ["reversal"]}
    situations = {"require": {"require": {"guesses.solved": ">= 0.99"}}}
    without_effect = {"text_bytes": "these models have no weights: tests/plugins/test_retention.py"}

    def step(self, folder: Path) -> Step:
        return Retention(models=models(folder), tasks=["sums"], items=5, text=File(["none"]))


class TestPromptModel(StepContract):
    """prompt.model."""

    def step(self, folder: Path) -> Step:
        model, _ = models(folder)
        return PromptModel(model=model, examples=rows(folder), system="Say yes or no.", shots=2)


class TestReviewApply(StepContract):
    """review.apply."""

    def step(self, folder: Path) -> Step:
        folder.mkdir(parents=True, exist_ok=True)
        decision = {"id": with_id(ROWS[0])["id"], "do": "reject", "by": "Ann"}
        (folder / "decisions.jsonl").write_text(f"{json.dumps(decision)}\n", encoding="utf-8")
        return Apply(rows=rows(folder), reviews=Files(["decisions.jsonl"]))


class TestMajority(StepContract):
    """baseline.majority."""

    others = {"fields": ["topic"]}

    def step(self, folder: Path) -> Step:
        return Majority(rows=labelled(folder))


@pytest.mark.slow
class TestLinear(StepContract):
    """baseline.linear."""

    others = {"fields": ["topic"]}

    def step(self, folder: Path) -> Step:
        return Linear(rows=labelled(folder))


@pytest.mark.slow
class TestClassify(StepContract):
    """encoder.classify, with SetFit."""

    others = {
        "fields": ["topic"],
        "train": None,
        "c": 2.0,
        "lora": None,
        "learning_rate": 0.1,
        "lora.target_modules": ["query"],
    }
    situations = {
        f"lora.{field}": {
            "train": "full",
            "num_iterations": Classify.__finery_fields__["num_iterations"].default,
        }
        for field in Lora.__finery_fields__
    }

    def step(self, folder: Path) -> Step:
        base = Model(tiny_bert(folder / "bert"), meta={"format": "transformers"})
        return Classify(
            model=base, rows=labelled(folder), train="setfit", num_iterations=1, epochs=1,
            effective_batch_size=2,
        )  # fmt: skip


@pytest.mark.slow
class TestOnnxExport(StepContract):
    """onnx.export."""

    def step(self, folder: Path) -> Step:
        base = Model(tiny_bert(folder / "bert"), meta={"format": "transformers"})
        classifier = run_step(Classify(model=base, rows=labelled(folder)), folder / "classifier")
        return OnnxExport(model=classifier)


class TestStandaloneBundle(StepContract):
    """serve.bundle, of a linear baseline."""

    others = {"name": "subjects"}

    def step(self, folder: Path) -> Step:
        model = run_step(Linear(rows=labelled(folder)), folder / "linear")
        return StandaloneBundle(model=model, name="topics")


class TestNearest(StepContract):
    """baseline.nearest."""

    def step(self, folder: Path) -> Step:
        return Nearest(rows=labelled(folder))


def labelled(folder: Path) -> Dataset:
    """Rows with two fields."""
    labels = {
        "Is it late?": "time",
        "Is it here?": "place",
        "Is it early?": "time",
        "Where?": "place",
        "Is it there?": "place",
    }
    made = [{"prompt": p, "completion": f"topic: {t}\nkind: {t[0]}"} for p, t in labels.items()]
    return dataset(folder / "labelled", made)
