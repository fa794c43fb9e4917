"""trl.grpo on a tiny model: what it learns, the same as stock TRL, and rewards that are refused."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject
from datasets import Dataset as Table  # type: ignore[import-untyped]
from safetensors.torch import load_file
from tiny_llama import tiny_llama

from finery import Completion, DataError, Dataset, Model, Step, StepError, UsageError
from finery.advanced import Proof
from finery.fields import File
from finery.plugin.manager import load_plugins
from finery.rows import Row
from finery.testing import TestJob, dataset, examine
from finery_eval.evaluator import Evaluator
from finery_eval.steps.classification import Classification
from finery_eval.steps.exact import Exact
from finery_eval.steps.rules import Rule, Rules
from finery_judge.rubric import RubricJudge
from finery_trl.on_policy import Functions, Grpo
from finery_trl.settings import Lora
from finery_trl.train.checkpoints import history_of, is_stopped, last_whole, measured
from finery_trl.train.rewards import Rewards, check_rewards
from finery_trl.view.curves import verdict

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

GIVEN: Any = {"models": [Model.placeholder("model")], "rows": Dataset.placeholder("rows")}
SEED = 3


def asked(count: int, *, answered: bool = False) -> list[Row]:
    """Prompts of different lengths, with an answer each if `answered`."""
    words = ["late", "wrong", "card_arrival"]
    rows = [{"id": f"r{i}", "prompt": f"{'my card ' * (i % 3)}{i}"} for i in range(count)]
    return [{**r, "completion": words[i % 3]} if answered else r for i, r in enumerate(rows)]


class Word(Evaluator):
    """Whether an answer has an `a`, or with `lacks`, has none."""

    lacks: bool = False

    def metric_names(self) -> list[str]:
        """One metric."""
        return ["word"]

    def judge(self, row: Row, answer: Completion) -> Mapping[str, Any]:
        """Look at nothing but the answer."""
        return {"word": ("a" in answer.text) != self.lacks}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


def grpo(model: Model, rows: Dataset, **settings: Any) -> Grpo:
    small = {
        "num_generations": 4, "effective_batch_size": 8, "max_completion_length": 8,
        "learning_rate": 2e-2, "dtype": "fp32", "lora": None, "reward": Word(**GIVEN),
    }  # fmt: skip
    return Grpo(model=model, rows=[rows], **{**small, **settings})


@pytest.mark.parametrize("algorithm", [pytest.param("grpo", marks=pytest.mark.quick), "rloo"])
def test_the_reward_rises(tiny: Model, tmp_path: Path, algorithm: Any) -> None:
    job = TestJob(tmp_path / "job", seed=SEED)
    step = grpo(tiny, dataset(tmp_path / "rows", asked(8)), algorithm=algorithm, epochs=10)
    step.check()
    meta = step.run(job).meta
    curve = json.loads((job.out / "curve.json").read_text())
    assert (meta["steps"], meta["learned_from"], len(curve)) == (40, "rewards", 40)
    rewards = [point["reward"] for point in curve]
    assert sum(rewards[-10:]) > sum(rewards[:10]) + 2
    assert {"reward_spread", "equal_groups", "cut_off", "answer_length"} <= curve[0].keys()
    samples = [json.loads(line) for line in (job.out / "samples.jsonl").open()]
    assert [s["step"] for s in samples] == [n for n in range(4, 44, 4) for _ in range(8)]
    assert all(s["rewards"]["word"] == ("a" in s["answer"]) for s in samples)
    assert verdict(curve, meta["best_step"]).state == "rewarded"


def test_two_evaluators_reward_a_training(tiny: Model, tmp_path: Path) -> None:
    job = TestJob(tmp_path / "job", seed=SEED)
    reward = [Word(**GIVEN), Rules(**GIVEN, rules={"brief": Rule(max_words=2)})]
    weights = {"word": 1, "brief": 0.5}
    step = grpo(tiny, dataset(tmp_path / "rows", asked(4)), reward=reward, weights=weights)
    step.check()
    step.run(job)
    (point, *_) = json.loads((job.out / "curve.json").read_text())
    assert point["reward"] == pytest.approx(point["reward.word"] + 0.5 * point["reward.brief"])
    samples = [json.loads(line) for line in (job.out / "samples.jsonl").open()]
    assert all(
        s["rewards"] == {"word": "a" in s["answer"], "brief": len(s["answer"].split()) <= 2}
        for s in samples
    )


def test_prompts_are_proven_without_answers(tiny: Model, tmp_path: Path) -> None:
    step = grpo(tiny, dataset(tmp_path / "rows", asked(8, answered=True)), max_length=60)
    with pytest.raises(DataError, match="of other rows"):  # the reward only looks for a letter
        prove(step, TestJob(tmp_path / "job"))
    step.rows = [dataset(tmp_path / "unanswered", asked(8))]
    (proof,) = prove(step, TestJob(tmp_path / "job"))
    assert (proof.rows, proof.loss_tokens) == (8, 0)
    assert proof.facts["end of turn"] == "<|endoftext|> or <|im_end|>, as at inference"
    (piece,) = proof.samples[0].pieces
    assert piece.text.endswith("<|im_start|>assistant\n")
    assert not piece.loss
    step.max_length = 30
    with pytest.raises(DataError, match="are longer than 30 tokens"):
        prove(step, TestJob(tmp_path / "job"))


def test_records_of_files_are_checked_if_they_have_turns(tiny: Model) -> None:
    step = grpo(tiny, Dataset.placeholder("rows"))
    records: list[Row] = [{"prompt": 1}, {"messages": "?"}, {"question": "?"}, {"prompt": "?"}]
    examine(step, rows={"rows": records})
    with pytest.raises(DataError, match="the reward of 9 rows"):
        examine(step, rows={"rows": [*records, *asked(9, answered=True)]})
    step.weights = {"word": -1}
    with pytest.raises(DataError) as caught:
        examine(step, rows={"rows": asked(9, answered=True)})
    assert (caught.value.where, "negative weight" in str(caught.value.fix)) == ("weights", True)


def prove(step: Grpo, job: TestJob) -> list[Proof]:
    return step.prove(job, samples=2)


def test_the_adapter_is_that_of_stock_trl(tiny: Model, tmp_path: Path) -> None:
    """With all prompts in each optimizer step, once the samples are drawn from the same seeds."""
    import torch
    from peft import LoraConfig
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    rows, logs = asked(2), list[dict[str, float]]()
    order = [random.Random(f"{SEED} {epoch}").sample(range(2), 2) for epoch in range(6)]

    class Stock(GRPOTrainer):
        def _prepare_inputs(self, batch: Any) -> Any:
            step = self.state.global_step
            torch.manual_seed(random.Random(f"{SEED} {step}").getrandbits(63))
            return super()._prepare_inputs(
                [batch[4 * place] for place in order[step] for _ in "1234"]
            )

        def log(self, logs_: dict[str, float], *rest: Any) -> None:
            super().log(logs_, *rest)
            logs.append(dict(logs_))

    def word(completions: Any, **_: Any) -> list[float | None]:
        return [float("a" in turns[0]["content"]) for turns in completions]

    trainer = Stock(
        model=str(tiny.path),
        reward_funcs=[word],
        args=GRPOConfig(
            output_dir=str(tmp_path / "stock"), seed=SEED, num_train_epochs=6, learning_rate=2e-2,
            lr_scheduler_type="cosine", warmup_steps=1, per_device_train_batch_size=8, bf16=False,
            num_generations=4, max_completion_length=8, beta=0.1, use_cpu=True, logging_steps=1,
            gradient_checkpointing=False, save_strategy="no", report_to="none", disable_tqdm=True,
            shuffle_dataset=False, model_init_kwargs={"dtype": torch.float32},
            generation_kwargs={"eos_token_id": [0, 2]},
        ),
        train_dataset=Table.from_list(
            [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
        ),
        peft_config=LoraConfig(
            r=8, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )  # fmt: skip
    trainer.eos_token_ids = [0, 2]
    trainer.train()
    trainer.save_model(str(tmp_path / "stock"))

    job = TestJob(tmp_path / "job", seed=SEED)
    table = dataset(tmp_path / "rows", rows)
    grpo(tiny, table, lora=Lora(r=8), epochs=6, warmup_steps=1, beta=0.1).run(job)
    curve = json.loads((job.out / "curve.json").read_text())
    for name in ("loss", "reward", "reward_spread", "kl", "answer_length"):
        logged = [measured(entry)[name] for entry in logs if "loss" in entry]
        assert [point[name] for point in curve] == pytest.approx(logged, abs=1e-5)
    ours = load_file(job.out / "adapter_model.safetensors")
    stock = load_file(tmp_path / "stock" / "adapter_model.safetensors")
    assert ours.keys() == stock.keys()
    assert all(torch.allclose(ours[name], stock[name], atol=1e-5) for name in ours)


def test_a_training_that_exploits_its_reward_stops_with_the_best_weights(
    tiny: Model, tmp_path: Path
) -> None:
    job = TestJob(tmp_path / "job", seed=SEED)
    held_out = dataset(tmp_path / "held", asked(40))
    watch = Word(models=[Model.placeholder("model")], rows=held_out, lacks=True, max_tokens=8)
    step = grpo(tiny, dataset(tmp_path / "rows", asked(8)), watch=watch, epochs=20, eval_steps=4)
    step.check()
    model = step.run(job)
    assert model.meta["steps"] < 80
    assert "exploits the reward" in model.meta["stopped"]
    assert model.meta["best_step"] < model.meta["steps"]
    curve = json.loads((job.out / "curve.json").read_text())
    assert curve[0]["step"] == 0
    assert curve[0]["watch"]["word"] > curve[-1]["watch"]["word"]
    assert verdict(curve, model.meta["best_step"]).is_bad
    last = last_whole(job.scratch / "checkpoints")
    assert last is not None
    assert is_stopped(history_of(last))
    assert step.run(job).meta == model.meta  # continued, it is over


# -- rewards before the training -------------------------------------------------------------------


def rewards(tmp_path: Path, **settings: Any) -> Rewards:
    step = grpo(Model.placeholder("model"), Dataset.placeholder("rows"), **settings)
    return Rewards(step, tmp_path / "rewards")


def said(*texts: str) -> list[Completion]:
    made: Any = {"finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    return [Completion(text=text, **made) for text in texts]


def test_a_reward_that_ignores_the_expected_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected answers to the expected answers of other rows"):
        check_rewards(rewards(tmp_path), asked(9, answered=True))


def test_rules_only_see_the_form_and_must_prefer_expected_answers_to_the_models(
    tmp_path: Path,
) -> None:
    rules = Rules(**GIVEN, rules={"short": Rule(max_words=2), "plain": Rule(never="!")})
    given = rewards(tmp_path, reward=rules, weights={"short": 1, "plain": 2})
    rows = asked(3, answered=True)
    lines = check_rewards(given, rows, said("Oh!", "One two three", "four"))
    assert lines[:3] == [
        "mean reward of expected answers: 3.000",
        "mean reward of expected answers of other rows: 3.000",
        "mean reward of answers of the model: 2.000",
    ]
    assert "depends on the form" in lines[3]
    with pytest.raises(DataError, match="to the answers of the model"):
        check_rewards(given, rows, said("a", "b", "c"))


def several(**settings: Any) -> list[Step]:
    """Two evaluators that both measure `accuracy`."""
    types = [load_plugins().step_type(use) for use in ("eval.exact", "eval.rules")]
    assert types == [Exact, Rules]
    return [Exact(**GIVEN), Rules(**GIVEN, rules={"short": Rule(max_words=1)})]


def test_several_evaluators_reward_by_names_that_are_unique(tmp_path: Path) -> None:
    given = rewards(tmp_path, reward=several(), weights={"eval.exact.accuracy": 1, "short": 0.5})
    values = given.of(asked(2, answered=True), said("late", "wrong answer"))
    assert values == {"eval.exact.accuracy": [1, 0], "short": [1, 0]}
    assert given.totals(values) == [1.5, 0]
    assert not given.may_see_form_only
    by_default = rewards(tmp_path, reward=several()).weights
    assert by_default == {"eval.exact.accuracy": 1, "eval.rules.accuracy": 1}


RECIPE = """\
finery: 1
models:
  base: {use: hub.model, repo: a/b}
data:
  rows: {use: data.file, path: rows.jsonl, format: completion}
train:
  grpo:
    use: trl.grpo
    model: base
    rows: rows
    reward:
      - {use: eval.exact}
      - {use: eval.rules, rules: {short: {max_words: 1}}}
    weights: {accuracy: 1, short: 0.5}
"""


@pytest.mark.parametrize(
    ("old", "new", "wrong", "fix"),
    [
        (
            "", "", "14:14: error: several evaluators of `reward` have a metric named 'accuracy'",
            "one of: eval.exact.accuracy, eval.rules.accuracy, short",
        ),
        (
            "accuracy", "acuracy", "14:14: error: `reward` measures nothing from 0 to 1 named 'acu",
            "one of: eval.exact.accuracy, eval.rules.accuracy, short",
        ),
        (
            "accuracy: 1, short", "short", "12:9: error: no metric of eval.exact has a weight",
            "remove this evaluator",
        ),
    ],
)  # fmt: skip
def test_check_lists_the_names_of_weights(
    project: MakeProject, old: str, new: str, wrong: str, fix: str
) -> None:
    ran = project({"recipe.yaml": RECIPE.replace(old, new)}).here("check")
    assert ran.code == 2
    assert f"recipe.yaml:{wrong}" in ran.err
    assert f"fix: {fix}" in ran.err


def functions(folder: Path, code: str, **weights: float) -> Functions:
    (folder / "mine.py").write_text(code)
    return Functions(file=File(["mine.py"], [folder / "mine.py"]), weights=weights)


def test_functions_reward_answers_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import numpy
def right(row, answer):
    print("rewarding")
    return numpy.float32(answer.text == row.pop("completion"))
def also(row, answer):
    return "completion" in row
def wrong(row, answer):
    return "1"
def leaves(row, answer):
    raise SystemExit(3)
def loops(row, answer):
    while True: pass
"""
    rows = asked(2, answered=True)
    given = rewards(tmp_path, functions=functions(tmp_path, code, right=0.5, also=1))
    values = given.of(rows, said("late", "late a"))
    assert values == {"word": [1, 1], "right": [1, 0], "also": [1, 1]}
    assert given.totals(values) == [2.5, 2]
    assert capfd.readouterr().out == ""
    monkeypatch.setattr("finery_trl.train.rewards.SECONDS", 0.1)
    for name, reason in {
        "wrong": "'wrong' is '1' for row r0",
        "leaves": "'leaves' failed for row r0: SystemExit: 3",
        "loops": "'loops' failed for row r0: it takes more than 0.1 s",
    }.items():
        bad = rewards(tmp_path, functions=functions(tmp_path, code, **{name: 1}))
        with pytest.raises(StepError, match=reason):
            bad.of(rows, said("late", "late"))


@pytest.mark.parametrize(
    ("code", "reason", "fix"),
    [
        ("def f(row, answer:", r"mine.py isn't Python: .*line 1", "correct the file"),
        ("import no_such", "mine.py fails on import: ModuleNotFoundError", "correct the file"),
        ("f = 3", "has no function named 'f'", "write one: def f"),
        ("def ff(row, answer): ...", "has no function named 'f'", "did you mean 'ff'"),
    ],
)
def test_a_file_without_the_functions_is_refused(
    code: str, reason: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        rewards(tmp_path, functions=functions(tmp_path, code, f=1))
    assert fix in str(caught.value.fix)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"reward": None}, "reward"),
        ({"reward": Classification(**GIVEN)}, "reward.labels"),
        (
            {"reward": RubricJudge(**GIVEN, rubric="Kind.", judge=Model.placeholder("judge"))},
            "reward.judge",
        ),
        ({"reward": Classification(**GIVEN, labels=["a"]), "weights": {"macro_f1": 1}}, "weights"),
        ({"weights": {"words": 1}}, "weights"),
        ({"reward": [Word(**GIVEN), Word(**GIVEN, lacks=True)]}, "reward.1"),
        ({"reward": [Word(**GIVEN), Classification(**GIVEN)]}, "reward.1.labels"),
        (
            {"reward": Classification(**GIVEN, labels=["a"], abstain_below=0.5)},
            "reward.abstain_below",
        ),
        ({"reward": [Word(**GIVEN), Rules(**GIVEN, rules={})]}, "reward.1.rules"),
        ({"reward": Word(**GIVEN, max_tokens=8)}, "reward.max_tokens"),
        ({"weights": {"word": 0}}, "weights"),
        ({"effective_batch_size": 10}, "effective_batch_size"),
        ({"validation": Dataset.placeholder("held")}, "validation"),
        ({"beta": 0.1, "lora": None}, "beta"),
        ({"num_iterations": 2, "eval_steps": 3}, "eval_steps"),
        ({"args": {"steps_per_generation": 2}}, "args.steps_per_generation"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], where: str) -> None:
    step = grpo(Model.placeholder("model"), Dataset.placeholder("rows"), **settings)
    with pytest.raises(UsageError) as caught:
        step.check()
    assert caught.value.where == where
    assert caught.value.fix
