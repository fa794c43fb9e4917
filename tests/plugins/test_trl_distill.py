"""trl.distill on a tiny model: what it learns, the same as stock TRL, and teachers that can't."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset as Table  # type: ignore[import-untyped]
from safetensors.torch import load_file
from tiny_llama import CHATML, tiny_llama, tiny_tokenizer

from finery import DataError, Dataset, Model, UsageError
from finery.rows import Row
from finery.testing import TestJob, dataset
from finery_prompt.model import PromptModel
from finery_trl.on_policy import Distill
from finery_trl.rows.tokens import Tokens
from finery_trl.settings import Lora
from finery_trl.train import sharing
from finery_trl.train.checkpoints import measured
from finery_trl.train.teacher import Teacher
from finery_trl.view.curves import verdict

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SEED = 3
SYSTEM = "my card is late"


def asked(count: int) -> list[Row]:
    """Prompts of different lengths."""
    return [{"id": f"r{i}", "prompt": f"{'my card ' * (i % 3)}{i}"} for i in range(count)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model with other weights and a clear opinion."""
    from transformers import AutoModelForCausalLM

    model = tiny_llama(tmp_path_factory.mktemp("larger"), width=48)
    auto: Any = AutoModelForCausalLM
    weights = auto.from_pretrained(str(model.path))
    weights.model.norm.weight.data *= 40
    weights.save_pretrained(str(model.path))
    return model


def prompted(model: Model, folder: Path, system: str = SYSTEM) -> Model:
    return PromptModel(model=model, system=system).run(TestJob(folder))


def distill(model: Model, teacher: Model, rows: Dataset, **settings: Any) -> Distill:
    small = {
        "effective_batch_size": 4, "max_completion_length": 8, "learning_rate": 2e-2,
        "dtype": "fp32", "lora": None,
    }  # fmt: skip
    return Distill(model=model, teacher=teacher, rows=[rows], **{**small, **settings})


@pytest.mark.parametrize("beta", [1.0, pytest.param(0.5, marks=pytest.mark.quick)])
def test_the_model_comes_to_agree_with_a_prompted_teacher(
    tiny: Model, larger: Model, tmp_path: Path, beta: float
) -> None:
    job = TestJob(tmp_path / "job", seed=SEED)
    rows = dataset(tmp_path / "rows", asked(8))
    teacher = prompted(larger, tmp_path / "teacher")
    step = distill(tiny, teacher, rows, epochs=15, beta=beta)
    step.check()
    meta = step.run(job).meta
    curve = json.loads((job.out / "curve.json").read_text())
    assert (meta["steps"], meta["learned_from"], len(curve)) == (30, "teacher", 30)
    assert {"loss", "agreement", "cut_off", "answer_length"} <= curve[0].keys()
    first, last = curve[:5], curve[-5:]
    assert sum(p["loss"] for p in last) < 0.5 * sum(p["loss"] for p in first)
    assert sum(p["agreement"] for p in last) > sum(p["agreement"] for p in first)
    assert verdict(curve, meta["best_step"]).state == "distilled"


@pytest.mark.parametrize("shared", [True, False])
def test_the_teacher_scores_the_answers_after_its_own_prompts(
    larger: Model, tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its states are those of each sequence alone, without padding and without shared tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    from finery_trl.train.on_policy import DistillTrainer

    monkeypatch.setattr(sharing, "fits", lambda *_: shared)
    seen: list[tuple[Any, Any]] = []

    def watched(self: DistillTrainer, teacher: Any) -> torch.Tensor:
        states = states_of(self, teacher)
        seen.append((self._batch, states))
        return states

    states_of = DistillTrainer._states_of_teacher
    monkeypatch.setattr(DistillTrainer, "_states_of_teacher", watched)
    rows = asked(4)
    teacher = prompted(larger, tmp_path / "teacher")
    step = distill(larger, teacher, dataset(tmp_path / "rows", rows), per_device_train_batch_size=2)
    step.run(TestJob(tmp_path / "job", seed=SEED))

    prompts = Teacher(step, Tokens.of_model(larger)).prompts(rows)
    text = tiny_tokenizer().decode(prompts[1])
    assert text.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nmy card 1")
    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(str(larger.path)).model
    assert len(seen) == 2
    for batch, states in seen:
        for i, number in enumerate(batch["numbers"].tolist()):
            own = batch["completion_mask"][i].bool()
            answer = batch["completion_ids"][i][own].tolist()
            with torch.no_grad():
                whole = model(input_ids=torch.tensor([prompts[number] + answer]))
            alone = whole.last_hidden_state[0, -len(answer) - 1 : -1]
            assert torch.allclose(states[i][own], alone, atol=2e-4)


def test_the_adapter_is_that_of_stock_trl(tiny: Model, larger: Model, tmp_path: Path) -> None:
    """With all prompts in each optimizer step, once the samples are drawn from the same seeds."""
    import torch
    from peft import LoraConfig
    from trl.trainer.distillation_config import DistillationConfig
    from trl.trainer.distillation_trainer import DistillationTrainer

    rows, logs = asked(4), list[dict[str, float]]()
    order = [random.Random(f"{SEED} {epoch}").sample(range(4), 4) for epoch in range(6)]

    class Stock(DistillationTrainer):
        def _prepare_inputs(self, batch: Any) -> Any:
            step = self.state.global_step
            torch.manual_seed(random.Random(f"{SEED} {step}").getrandbits(63))
            return super()._prepare_inputs([batch[place] for place in order[step]])

        def log(self, logs_: dict[str, float], *rest: Any) -> None:
            super().log(logs_, *rest)
            logs.append(dict(logs_))

    trainer = Stock(
        model=str(tiny.path),
        teacher_model=str(larger.path),
        args=DistillationConfig(
            output_dir=str(tmp_path / "stock"), seed=SEED, num_train_epochs=6, learning_rate=2e-2,
            lr_scheduler_type="cosine", warmup_steps=1, per_device_train_batch_size=2, bf16=False,
            gradient_accumulation_steps=2, max_completion_length=8, beta=0.3, use_cpu=True,
            gradient_checkpointing=False, save_strategy="no", report_to="none", disable_tqdm=True,
            shuffle_dataset=False, logging_steps=1, model_init_kwargs={"dtype": torch.float32},
            temperature=0.8, generation_kwargs={"eos_token_id": [0, 2]},
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
    more = {"warmup_steps": 1, "beta": 0.3, "temperature": 0.8, "per_device_train_batch_size": 2}
    distill(tiny, larger, table, lora=Lora(r=8), epochs=6, **more).run(job)
    curve = json.loads((job.out / "curve.json").read_text())
    for name in ("loss", "answer_length", "cut_off"):
        logged = [measured(entry)[name] for entry in logs if "loss" in entry]
        assert [point[name] for point in curve] == pytest.approx(logged, abs=1e-5)
    ours = load_file(job.out / "adapter_model.safetensors")
    stock = load_file(tmp_path / "stock" / "adapter_model.safetensors")
    assert ours.keys() == stock.keys()
    assert all(torch.allclose(ours[name], stock[name], atol=1e-5) for name in ours)


# -- teachers --------------------------------------------------------------------------------------


def test_the_teachers_prompts_are_proven(tiny: Model, tmp_path: Path) -> None:
    def prove(system: str) -> list[str]:
        rows = dataset(tmp_path / f"rows {len(system)}", asked(8))
        step = distill(tiny, prompted(tiny, tmp_path / "teacher", system), rows)
        (proof,) = step.prove(TestJob(tmp_path / "job"), samples=1)
        return list(proof.notes)

    assert "the teacher's prompts have up to 38 tokens" in prove(SYSTEM)
    with pytest.raises(DataError, match="more than the teacher's context of 256") as caught:
        prove("word " * 80)
    assert caught.value.where == "teacher"


def test_teachers_that_do_not_fit_are_refused(tiny: Model, tmp_path: Path) -> None:
    student = Tokens.of_model(tiny)

    def refused(teacher: Model, match: str) -> None:
        with pytest.raises(DataError, match=match) as caught:
            Teacher(distill(tiny, teacher, Dataset.placeholder("rows")), student)
        assert caught.value.where == "teacher"
        assert caught.value.fix

    refused(Model(tmp_path, meta={"format": "api"}), "of the format api can't teach")
    ends = tiny_llama(tmp_path / "ends", CHATML.replace("<|im_end|>", "<|endoftext|>"))
    refused(ends, r"ends its answers with <\|endoftext\|> or <\|im_end\|>, and the teacher with")
    other = tiny_llama(tmp_path / "other")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zebra", "quagga"])
    tokenizer.save_pretrained(str(other.path))
    refused(prompted(other, tmp_path / "prompted"), "another vocabulary .* of which 2 differ")


def test_a_teacher_with_an_output_layer_of_another_size_is_refused(
    tiny: Model, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    teacher = tiny_llama(tmp_path / "padded")
    auto: Any = AutoModelForCausalLM
    weights = auto.from_pretrained(str(teacher.path))
    weights.resize_token_embeddings(512)
    weights.save_pretrained(str(teacher.path))
    step = distill(tiny, teacher, dataset(tmp_path / "rows", asked(4)))
    with pytest.raises(DataError, match=r"output layers differ in size: .* and 512 of the"):
        step.run(TestJob(tmp_path / "job"))


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"teacher": Model.placeholder("model")}, "teacher"),
        ({"lora": Lora(target_modules=["q_proj", "lm_head"])}, "lora.target_modules"),
        ({"validation": Dataset.placeholder("held")}, "validation"),
        ({"args": {"teacher_model_revision": "main"}}, "args.teacher_model_revision"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], where: str) -> None:
    given = {"teacher": Model.placeholder("teacher"), **settings}
    step = distill(Model.placeholder("model"), rows=Dataset.placeholder("rows"), **given)
    with pytest.raises(UsageError) as caught:
        step.check()
    assert caught.value.where == where
    assert caught.value.fix
