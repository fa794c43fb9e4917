"""`eval.arena`: pairs in both orders, ties, win rates, and judges that prefer a position."""

import json
from pathlib import Path
from typing import Any

import pytest
from judging import Critic, Judge, critic

from finery import Engine, Metrics, Model, RequirementError
from finery.testing import TestJob, dataset, table_model
from finery_eval.stats import wilson
from finery_judge.arena import Arena

PROMPTS = [f"question {i}" for i in range(20)]


def better(side: str) -> str:
    return json.dumps({"reason": "so", "better": side})


def longer(text: str) -> str:
    """The longer answer."""
    fence = next(line for line in text.splitlines() if line.startswith("=== "))
    *_, a, _, b, _ = (part.strip() for part in text.split(fence))
    return better("tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B")


class Setup:
    """Models that answer every question with their own number of words."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = dataset(folder / "rows", [{"prompt": p, "completion": "x"} for p in PROMPTS])
        self.critic = Model(folder, meta={"format": "critic"})
        self.base, self.sft = self.model("base", "no"), self.model("sft", "a longer one")
        self.log = ""

    def model(self, name: str, default: str, **answers: str) -> Model:
        made = table_model(self.folder / name, answers, default)
        made.ref = name
        return made

    def step(self, **settings: Any) -> Arena:
        given: dict[str, Any] = {
            "models": [self.base, self.sft], "rows": self.rows, "judge": self.critic,
            "rubric": "Which is longer?",
        }  # fmt: skip
        return Arena(**given | settings)

    def run(self, engine: type[Engine], name: str = "job", **settings: Any) -> Metrics:
        job = TestJob(self.folder / name, engines={"critic": engine})
        metrics = self.step(**settings).run(job)
        self.log = "\n".join(e["message"] for e in job.events if e["event"] == "log")
        return metrics

    def games(self, judge: Judge, **settings: Any) -> dict[str, Any]:
        report = self.run(critic(judge), **settings).report().data()
        (table,) = (t for t in report["details"]["tables"] if t["title"] == "Games")
        (row,) = table["rows"]
        return dict(zip(table["columns"], row, strict=True))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_both_orders_are_asked_and_the_better_model_wins(setup: Setup) -> None:
    own: type[Critic] = critic(longer)
    metrics = setup.run(own)
    report = metrics.report().data()
    assert len(own.prompts) == 40
    assert report["scores"] == {"base": {"win_rate": 0.0}, "sft": {"win_rate": 1.0}}
    low, high = report["intervals"]["sft"]["win_rate"]
    assert 0.8 < low < high == 1
    assert report["details"]["remarks"] == []
    judge = report["details"]["more"]["judge"]
    assert (judge["consistency"]["value"], judge["position_bias"]["value"]) == (1, 0)
    gate = {"sft.win_rate": "> 0.5", "judge.position_bias": "<= 0.2"}
    setup.step(require=gate).verify({"": metrics})
    lines = [p for p in metrics.predictions() if "result" in p]
    assert {(p["model"], p["against"], p["result"]) for p in lines} == {("sft", "base", "win")}


def test_paraphrases_are_one_game(setup: Setup) -> None:
    """Twenty rows of two parents: a model that wins them all wins two games."""
    content = [{"prompt": p, "completion": "x", "parents": [f"ticket {i // 10}"]}
            for i, p in enumerate(PROMPTS)]  # fmt: skip
    rows = dataset(setup.folder / "grouped", content)
    metrics = setup.run(critic(longer), rows=rows)
    report = metrics.report().data()
    assert report["details"]["groups"] == 2
    assert report["scores"]["sft"] == {"win_rate": 1}
    assert report["intervals"]["sft"]["win_rate"] == pytest.approx(wilson(2, 2))
    judge = report["details"]["more"]["judge"]
    assert judge["consistency"]["interval"] == pytest.approx(wilson(2, 2))
    games = setup.games(longer, rows=rows, name="again")
    assert (games["wins"], games["p (sign test)"]) == (20, 0.5)
    assert games["95 % CI low"] == pytest.approx(wilson(2, 2)[0])
    assert all("group" in line for line in metrics.predictions() if "answer" in line)
    report = setup.run(critic(lambda text: better("A")), rows=rows, name="torn").report().data()
    (remark,) = report["details"]["remarks"]  # two groups show no preference of a position
    assert remark["text"].startswith("the judge contradicts itself")


@pytest.mark.parametrize(("side", "position"), [("A", "first"), ("B", "second")])
def test_a_judge_that_prefers_a_position_is_caught(setup: Setup, side: str, position: str) -> None:
    metrics = setup.run(critic(lambda text: better(side)))
    report = metrics.report().data()
    assert report["scores"]["sft"]["win_rate"] == 0.5  # it wins nothing by its position
    (remark,) = report["details"]["remarks"]
    assert remark["text"].startswith(
        f"the judge prefers the {position} answer: it chose it in both orders in 20 of 20 games"
    )
    assert remark["severity"] == "warning"
    assert remark["text"] in setup.log
    with pytest.raises(RequirementError) as error:
        setup.step(require={"judge.position_bias": "<= 0.2"}).verify({"": metrics})
    assert "judge.position_bias is 1" in str(error.value)


def test_a_slight_preference_is_found_among_honest_verdicts(setup: Setup) -> None:
    """In 8 of 20 games the first answer is chosen whatever it is: p = 0.008."""

    def judge(text: str) -> str:
        torn = any(f"question {i}\n" in text for i in range(8))
        return better("A") if torn else longer(text)

    report = setup.run(critic(judge)).report().data()
    assert report["scores"]["sft"]["win_rate"] == (12 + 8 / 2) / 20
    (remark,) = report["details"]["remarks"]
    assert "in 8 of 20 games, the second in 0 (p = 0.008)" in remark["text"]


def test_ties_and_equal_answers(setup: Setup) -> None:
    own = critic(longer)
    twin = setup.model("twin", "no")
    assert (
        setup.run(own, models=[setup.base, twin]).report().data()["scores"]["twin"]["win_rate"]
        == 0.5
    )
    assert own.prompts == []  # equal answers are a tie
    games = setup.games(lambda text: better("tie"))
    assert (games["ties"], games["orders disagree"], games["win rate"]) == (20, 0, 0.5)
