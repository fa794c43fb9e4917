"""Classifiers on encoders: their losses and heads are those of the libraries by hand."""

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from embedding import DIMENSIONS, tiny_bert
from warm import TORCH

from finery import DataError, Dataset, Model, StepError, UsageError
from finery.testing import TestJob, dataset, run_step
from finery_data.checks.audits import read_audit
from finery_data.steps.audit import Audit
from finery_encoder.embedding import embed
from finery_encoder.head import calibrated, mistakes
from finery_encoder.network import Answers, Classifier, Field
from finery_encoder.steps import Classify
from finery_eval.steps.classification import Classification
from finery_gguf.export import Export

IMPORTS = TORCH
FAST: dict[str, Any] = {"epochs": 2, "learning_rate": 1e-3, "effective_batch_size": 4}
TEXTS = [
    " ".join(words)
    for words in product(("where is", "q :"), ("my", "card", "is my"), ("q", "card"))
]


def bert(folder: Path, **meta: Any) -> Model:
    path = tiny_bert(folder) if not folder.exists() else folder
    embedding = {"pooling": "mean", "longest": 12, "question_prefix": "", "lower": False}
    return Model(path, meta={"format": "embedder", "embedding": embedding, **meta})


def rows(folder: Path, answer: Any = lambda text: "ask" if "where" in text else "tell") -> Dataset:
    return dataset(folder, [{"prompt": text, "completion": answer(text)} for text in TEXTS])


def classify(folder: Path, **settings: Any) -> Classify:
    settings.setdefault("model", bert(folder / "bert"))
    if "rows" not in settings:
        settings["rows"] = rows(folder / "rows")
    return Classify(**settings)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_head_is_that_of_scikit_learn_on_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    model = run_step(classify(tmp_path, c=3.0), tmp_path / "out")
    labels = ["ask" if "where" in text else "tell" for text in TEXTS]
    body = SentenceTransformer(str(tmp_path / "bert"))
    by_hand = LogisticRegression(C=3.0, max_iter=2_000).fit(body.encode(TEXTS), labels)
    for text, likely in zip(TEXTS, by_hand.predict_proba(body.encode(TEXTS)), strict=True):
        ((answer, probability),) = Answers(model.path).answered([text])
        assert answer == by_hand.classes_[likely.argmax()]
        assert probability == pytest.approx(likely.max(), abs=1e-4)


def test_used_settings_are_recorded(tmp_path: Path) -> None:
    used = run_step(classify(tmp_path), tmp_path / "out").runtime["settings"]
    because = "what the model's folder says, else mean"
    assert used == {"c": (10.0, ""), "max_length": (12, ""), "pooling": ("mean", because)}
    step = classify(tmp_path, train="full", pooling="cls", **FAST | {"learning_rate": None})
    used = run_step(step, tmp_path / "full").runtime["settings"]
    assert (used["learning_rate"], used["epochs"]) == ((5e-5, ""), (2, ""))
    assert used["pooling"] == ("cls", "")


def test_names_of_classes_are_rows_of_the_head(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    labels = ["my_card" if "card" in text else "q2" for text in TEXTS]  # `q2` has no word
    table = rows(tmp_path / "rows", lambda text: "my_card" if "card" in text else "q2")
    model = run_step(classify(tmp_path, rows=table, class_names=True), tmp_path / "out")
    body = SentenceTransformer(str(tmp_path / "bert"))
    by_hand = LogisticRegression(C=10.0, max_iter=2_000).fit(
        body.encode([*TEXTS, "my card"]), [*labels, "my_card"]
    )
    for text, likely in zip(TEXTS, by_hand.predict_proba(body.encode(TEXTS)), strict=True):
        ((answer, probability),) = Answers(model.path).answered([text])
        assert answer == by_hand.classes_[likely.argmax()]
        assert probability == pytest.approx(likely.max(), abs=1e-4)
    assert model.meta["rows"] == len(TEXTS)


@pytest.mark.parametrize(
    ("answer", "fields"),
    [("1", []), ('{"a": "card", "b": "card"}', []), ('{"a": "card", "tags": ["card"]}', ["tags"])],
)
def test_names_of_classes_that_can_not_be_rows(
    answer: str, fields: list[str], tmp_path: Path
) -> None:
    other = answer.replace("card", "my").replace("1", "2")
    table = rows(tmp_path / "rows", lambda text: answer if "card" in text else other)
    step = classify(tmp_path, rows=table, class_names=True, fields=fields)
    with pytest.raises(UsageError, match=r"class_names|no class has a word") as caught:
        run_step(step, tmp_path / "out")
    assert caught.value.where == "class_names"


def test_full_is_the_trainer_of_transformers_after_a_logistic_regression(tmp_path: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModel, AutoTokenizer, Trainer, TrainingArguments, set_seed

    step = classify(tmp_path, train="full", c=1.0, **FAST)
    model = run_step(step, tmp_path / "out", seed=5)
    vectors = SentenceTransformer(str(tmp_path / "bert")).encode(TEXTS)
    start = LogisticRegression(max_iter=2_000).fit(vectors, ["where" not in t for t in TEXTS])

    class ByHand(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(tmp_path / "bert", dtype=torch.float32)
            self.head = torch.nn.Linear(DIMENSIONS, 2)
            half = torch.tensor([*start.coef_[0], start.intercept_[0]], dtype=torch.float32) / 2
            both = torch.stack([-half, half])
            self.head.load_state_dict({"weight": both[:, :-1], "bias": both[:, -1]})

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> Any:
            states = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1)
            mean = (states * mask).sum(1) / mask.sum(1)
            logits = self.head(torch.nn.functional.normalize(mean))
            return {"loss": torch.nn.functional.cross_entropy(logits, labels)}

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bert")
    set_seed(5)
    trainer = Trainer(
        model=ByHand(),
        args=TrainingArguments(
            output_dir=str(tmp_path / "by_hand"), seed=5, num_train_epochs=2, learning_rate=1e-3,
            warmup_steps=0.1, weight_decay=0.01, per_device_train_batch_size=4, logging_steps=1,
            save_strategy="no", report_to="none", use_cpu=True,
        ),
        train_dataset=[{"text": text, "labels": int("where" not in text)} for text in TEXTS],
        data_collator=lambda batch: {
            **tokenizer([one["text"] for one in batch], padding=True, return_tensors="pt"),
            "labels": torch.tensor([one["labels"] for one in batch]),
        },
    )  # fmt: skip
    trainer.args.remove_unused_columns = False
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    curve = json.loads((model.path / "curve.json").read_text())
    assert [point["loss"] for point in curve] == pytest.approx(losses, abs=1e-6)
    assert len(curve) == 6


def test_setfit_is_the_library_by_hand(tmp_path: Path) -> None:
    import setfit
    from datasets import Dataset as Table  # type: ignore[import-untyped]
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    settings = {"num_iterations": 2, "c": 1.0, **FAST, "epochs": 1}
    model = run_step(classify(tmp_path, train="setfit", **settings), tmp_path / "out", seed=5)
    by_hand = setfit.SetFitModel(
        model_body=SentenceTransformer(str(tmp_path / "bert")),
        model_head=LogisticRegression(max_iter=2_000),
        normalize_embeddings=True,
    )
    trainer = setfit.Trainer(
        model=by_hand,
        args=setfit.TrainingArguments(
            output_dir=str(tmp_path / "by_hand"), seed=5, num_iterations=2, num_epochs=1,
            batch_size=4, body_learning_rate=1e-3, save_strategy="no", report_to="none",
        ),
        train_dataset=Table.from_dict(
            {"text": TEXTS, "label": [int("where" not in text) for text in TEXTS]}
        ),
    )  # fmt: skip
    trainer.train()
    answered = Answers(model.path).answered(TEXTS)
    likely = by_hand.predict_proba(TEXTS, as_numpy=True)
    assert [p for _, p in answered] == pytest.approx(likely.max(axis=1).tolist(), abs=1e-3)
    assert [a == "tell" for a, _ in answered] == likely.argmax(axis=1).astype(bool).tolist()
    assert len(json.loads((model.path / "curve.json").read_text())) == 12


@pytest.mark.parametrize(
    "settings",
    [
        {"train": "full", "lora": {"r": 2}, "class_weight": "balanced"},
        pytest.param({"train": "setfit", "num_iterations": 2}, marks=pytest.mark.slow),
    ],
    ids=["full", "setfit"],
)
def test_a_killed_training_ends_with_the_same_bytes(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    from finery_trl.settings import Lora

    class Killed(BaseException):
        pass

    class Limited(TestJob):
        limit = math.inf

        def progress(self, done: float, total: float, text: str = "") -> None:
            if done >= self.limit and text != "embedding rows":
                raise Killed

    if "lora" in settings:
        settings["lora"] = Lora(r=2)
    step = classify(tmp_path, **{**FAST, **settings})
    whole = step.run(TestJob(tmp_path / "whole", seed=1))
    job = Limited(tmp_path / "again", seed=1)
    for limit in (5 if step.train == "full" else 14, 0.5):
        job.limit = limit
        with pytest.raises(Killed):
            step.run(job)
    assert any((tmp_path / "again").rglob("checkpoint-*"))
    job.limit = math.inf
    again = step.run(job)
    assert bytes_of(again.path) == bytes_of(whole.path)


def test_fields_lists_windows_and_calibration(tmp_path: Path) -> None:
    """A list has any number of its items; validation rows may have classes that are unknown."""

    def answer(text: str) -> str:
        tags = [tag for tag in ("card", "my") if tag in text]
        return json.dumps({"kind": "ask" if "where" in text else "tell", "tags": tags})

    learned = rows(tmp_path / "rows", answer)
    unknown = {"prompt": "q", "completion": json.dumps({"kind": "new", "tags": ["card", "new"]})}
    held_out = dataset(
        tmp_path / "held", [unknown, {"prompt": TEXTS[0], "completion": answer("q")}]
    )
    for train, more in (("head", {}), ("full", {"class_weight": "balanced", **FAST})):
        step = classify(
            tmp_path,
            rows=learned,
            validation=held_out,
            train=train,
            windows=3,
            max_length=8,
            **more,
        )
        job = TestJob(tmp_path / train, seed=1)
        model = step.run(job)
        assert "which can't be predicted: 1 of 2" in str(job.events)
        classifier = Classifier.read(model.path)
        assert [f.classes for f in classifier.fields] == [['"ask"', '"tell"'], ['"card"', '"my"']]
        assert [f.several for f in classifier.fields] == [False, True]
        assert all(field.temperature != 1.0 for field in classifier.fields)
        ((text, probability),) = Answers(model.path).answered(["where is my card " * 8])
        assert json.loads(text).keys() == {"kind", "tags"}
        assert 0 < probability < 1
    tokenizer = Answers(model.path)._tokenizer
    (windows,) = classifier.encode(tokenizer, ["where is my card " * 8])
    assert [len(window) for window in windows] == [8, 8, 8]


def test_few_right_rows_make_no_certainty() -> None:
    """Without doubt about labels, the temperature falls to its limit, and all is certain."""
    one = [Field("a", ["x", "y", "z"]), Field("b", ["1", "2"], several=True)]
    classifier = Classifier("lines", one, "mean", False, 8)
    logits, targets = [[2.0, 0.0, 0.0, 1.0, -1.0]] * 30, [[1.0, 0.0, 0.0, 1.0, 0.0]] * 30
    kind, tags = calibrated(classifier, logits, targets).fields
    sure = math.exp(2 / kind.temperature)
    assert sure / (sure + 2) == pytest.approx(31 / 32, abs=1e-3)
    assert 1 / (1 + math.exp(-1 / tags.temperature)) == pytest.approx(31 / 32, abs=1e-3)
    assert mistakes(classifier, logits, targets) == 0
    assert mistakes(classifier, [[0.0, 2.0, 0.0, 1.0, 1.0]] * 2, targets[:2]) == 2


def test_the_probability_is_that_of_the_complete_answer() -> None:
    fields = [Field("a", ["x", "y"], temperature=2.0), Field("b", ["1", "2"], several=True)]
    classifier = Classifier("lines", fields, "mean", False, 8)
    text, probability = classifier.answer([2.0, 0.0, 1.0, -3.0])
    assert text == "a: x\nb: [1]"
    sure = [1 / (1 + math.exp(-logit)) for logit in (1.0, 1.0, 3.0)]
    assert probability == pytest.approx(math.prod(sure))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ModernBert", "DebertaV2", "Roberta", "DistilBert"])
def test_other_architectures(kind: str, tmp_path: Path) -> None:
    import transformers

    sizes = {"vocab_size": 11, "hidden_size": DIMENSIONS, "num_hidden_layers": 2,
             "num_attention_heads": 2, "intermediate_size": 32, "pad_token_id": 0}  # fmt: skip
    if kind == "DistilBert":
        sizes |= {"dim": DIMENSIONS, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    if kind == "ModernBert":
        sizes |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    base = tiny_bert(tmp_path / "bert")
    config = getattr(transformers, f"{kind}Config")(**sizes)
    auto: Any = transformers.AutoModel  # untyped
    auto.from_config(config).save_pretrained(base)
    model = Model(base, meta={"format": "transformers"})
    step = classify(tmp_path, model=model, train="full", pooling="cls", **FAST)
    answers = Answers(run_step(step, tmp_path / "out", seed=1).path)(TEXTS[:2])
    assert set(answers) <= {"ask", "tell"}


@pytest.mark.parametrize("train", ["full", "setfit"])
def test_a_training_that_ends_without_finite_logits_diverged(train: str, tmp_path: Path) -> None:
    """Two optimizer steps: the first warms up, and the second's loss is from before that step."""
    settings = {**FAST, "epochs": 1, "learning_rate": 1e30, "num_iterations": 1}
    settings["effective_batch_size"] = len(TEXTS) // (2 if train == "full" else 1)
    with pytest.raises(StepError, match="diverged: the model's logits"):
        run_step(classify(tmp_path, train=train, **settings), tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"epochs": 2}, "epochs"),
        ({"max_length": 64}, "max_length"),
        ({"model": Model(Path(), meta={"format": "gguf"})}, "model"),
    ],
)
def test_settings_that_can_not_work(settings: dict[str, Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run_step(classify(tmp_path, **settings), tmp_path / "out")
    assert caught.value.where == where
    assert caught.value.fix


def test_free_text_is_refused_and_so_are_exports_of_the_model(tmp_path: Path) -> None:
    texts = [{"prompt": f"q {n}", "completion": f"text {n}"} for n in range(40)]
    with pytest.raises(DataError, match="free text"):
        run_step(classify(tmp_path, rows=dataset(tmp_path / "free", texts)), tmp_path / "out")
    one = rows(tmp_path / "one", lambda text: "ask")
    for train in ("head", "setfit", "full"):
        with pytest.raises(DataError, match="all 12 rows have the answer 'ask'"):
            run_step(classify(tmp_path, rows=one, train=train), tmp_path / "out")
    placeholder = Model.placeholder("intents")
    promise = classify(tmp_path, rows=rows(tmp_path / "more")).outputs()[""]
    placeholder.meta = dict(promise.meta)
    with pytest.raises(UsageError, match="has the format 'encoder'") as caught:
        Export(model=placeholder).check()
    assert "intents-server: {use: serve.bundle, model: intents" in str(caught.value.fix)


def test_answers_below_a_probability_are_abstentions(tmp_path: Path) -> None:
    model = run_step(classify(tmp_path), tmp_path / "out")
    table = rows(tmp_path / "test", lambda text: "ask" if "my" in text else "tell")
    sure = sorted(p for _, p in Answers(model.path).answered(TEXTS))[6]
    model.ref = "head"
    step = Classification(models=[model], rows=table, abstain_below=sure)
    report = run_step(step, tmp_path / "scores").report().data()
    scores, lines = report["scores"]["head"], report["details"]["tables"]
    assert scores["coverage"] == 0.5
    assert report["details"]["abstain_below"] == sure
    by_coverage = next(t for t in lines if t["title"] == "head: accuracy by coverage")
    whole, half = by_coverage["rows"][0], by_coverage["rows"][-1]
    assert whole[:1] + whole[2:3] == [1.0, scores["accuracy"]]
    assert half[1:3] == [pytest.approx(sure), scores["selective_accuracy"]]
    linear = Model(Path(), meta={"format": "baseline-majority", "answer": "ask"})
    linear.ref = "linear"
    with pytest.raises(UsageError, match="'linear' doesn't give") as caught:
        Classification(models=[linear], rows=table, abstain_below=0.5).check()
    assert caught.value.where == "abstain_below"


def test_an_audit_takes_the_embeddings_of_an_encoder(tmp_path: Path) -> None:
    """They are those that a classifier on the encoder has."""
    audited = rows(tmp_path / "rows")
    made = run_step(Audit(rows=[audited], model=bert(tmp_path / "bert")), tmp_path / "out")
    assert len(list(read_audit(made))) == len(TEXTS)
    vectors = embed(bert(tmp_path / "bert"), TEXTS, TestJob(tmp_path / "job"))
    assert vectors.shape == (len(TEXTS), DIMENSIONS)
    assert (vectors**2).sum(axis=1) == pytest.approx(1, abs=1e-5)
    again = embed(bert(tmp_path / "bert"), TEXTS[::-1], TestJob(tmp_path / "again"))
    assert (vectors == again[::-1]).all()
