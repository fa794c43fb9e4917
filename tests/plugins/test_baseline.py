"""The cheap baselines: models that evaluators judge like any other."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

from finery import Dataset, Model, Step
from finery.rows.similar import SimilarIndex, text_features
from finery.testing import TestJob, dataset, run_step
from finery_baseline.steps import Linear, Majority, Nearest

TICKETS = {
    "charged twice, refund now": ("billing", "high"),
    "charged for a plan I cancelled": ("billing", "high"),
    "my invoice was charged in the wrong currency": ("billing", "low"),
    "can't log in, password refused": ("account", "high"),
    "password reset mail never came": ("account", "low"),
    "locked out, password forgotten": ("account", "low"),
    "how do I change my password": ("account", "low"),
}


def lines(category: str, priority: str) -> str:
    return f"category: {category}\npriority: {priority}"


def tickets(folder: Path) -> Dataset:
    """Rows with two fields."""
    rows = [{"prompt": text, "completion": lines(*labels)} for text, labels in TICKETS.items()]
    return dataset(folder / "rows", rows)


def ask(model: Model, *texts: str) -> list[str]:
    asked = [[{"role": "user", "content": text}] for text in texts]
    return [answer.text for answer in TestJob().engine(model).generate(asked)]


def test_majority_takes_each_field_by_itself(tmp_path: Path) -> None:
    """No row but four say account and four say low."""
    model = run_step(Majority(rows=tickets(tmp_path)), tmp_path / "out")
    assert ask(model, "anything", "else") == [lines("account", "low")] * 2
    only = Majority(rows=tickets(tmp_path), fields=["priority"])
    assert ask(run_step(only, tmp_path / "only"), "?") == ["priority: low"]


def test_an_answer_has_at_most_max_tokens_words(tmp_path: Path) -> None:
    model = run_step(Majority(rows=tickets(tmp_path)), tmp_path / "out")
    asked = [[{"role": "user", "content": "?"}]]
    texts = []
    for most in (4, 3, 1):
        (answer,) = TestJob().engine(model).generate(asked, max_tokens=most)
        texts.append((answer.text, answer.finish_reason, answer.completion_tokens))
    assert texts == [
        ("category: account\npriority: low", "stop", 4),
        ("category: account\npriority:", "length", 3),
        ("category:", "length", 1),
    ]


def test_linear_learns_words_and_letters_by_field(tmp_path: Path) -> None:
    model = run_step(Linear(rows=tickets(tmp_path)), tmp_path / "out")
    answers = ask(model, "Charged again!", "passwords don't work", "zzz")
    assert answers[0].startswith("category: billing")
    assert answers[1].startswith("category: account")
    assert len(answers) == 3
    assert model.meta["baseline"] == "linear"


def test_linear_agrees_with_scikit_learn(tmp_path: Path) -> None:
    """What is stored and read again, without scikit-learn, predicts as its fitted pipeline does."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import Normalizer

    kinds: tuple[dict[str, Any], ...] = (
        {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
        {"analyzer": "char_wb", "ngram_range": (2, 5)},
    )
    vectorizer = make_union(
        *(TfidfVectorizer(**kind, norm=None, sublinear_tf=True) for kind in kinds)
    )

    pipeline = make_pipeline(vectorizer, Normalizer(), LogisticRegression(C=10, max_iter=2000))
    texts, categories = list(TICKETS), [c for c, _ in TICKETS.values()]
    pipeline.fit(texts, categories)
    rows = [{"prompt": t, "completion": c} for t, c in zip(texts, categories, strict=True)]
    model = run_step(Linear(rows=dataset(tmp_path / "rows", rows)), tmp_path / "out")
    asked = [*texts, "a wrong charge", "log me in", "currency of a password", "", "I – Ω\u2003ÄB"]
    assert ask(model, *asked) == list(pipeline.predict(asked))
    features = json.loads(model.file("features.json").read_text("utf-8"))["features"]
    for made, part in zip(features, vectorizer.transformer_list, strict=True):
        assert made == list(part[1].get_feature_names_out())


def test_linear_gives_the_probabilities_of_scikit_learn(tmp_path: Path) -> None:
    """Of two classes and of three, and for fields their product."""
    from sklearn.linear_model import LogisticRegression

    from finery_baseline.vectors import vectors_of

    texts = [*TICKETS, "where is my parcel", "the parcel is late"]
    labels = {
        "two": [str("password" in text) for text in texts],
        "three": [text.split()[-1][:1] if len(text) > 26 else "x" for text in texts],
    }
    vectors = vectors_of(texts, 50_000)[2]
    best = {}
    for name, of in labels.items():
        best[name] = LogisticRegression(C=10.0, max_iter=2_000).fit(vectors, of)
        best[name] = best[name].predict_proba(vectors).max(axis=1)
        rows = [{"prompt": t, "completion": label} for t, label in zip(texts, of, strict=True)]
        model = run_step(Linear(rows=dataset(tmp_path / name, rows)), tmp_path / f"{name}-model")
        assert probabilities(model, texts) == pytest.approx(best[name], abs=2e-3)
    rows = [
        {"prompt": text, "completion": f"a: {two}\nb: {three}"}
        for text, two, three in zip(texts, *labels.values(), strict=True)
    ]
    model = run_step(Linear(rows=dataset(tmp_path / "both", rows)), tmp_path / "both-model")
    assert probabilities(model, texts) == pytest.approx(best["two"] * best["three"], abs=2e-3)


def probabilities(model: Model, texts: list[str]) -> list[float | None]:
    asked = [[{"role": "user", "content": text}] for text in texts]
    return [answer.probability for answer in TestJob().engine(model).generate(asked)]


def test_nearest_gives_the_answer_of_the_most_similar_row(tmp_path: Path) -> None:
    model = run_step(Nearest(rows=tickets(tmp_path)), tmp_path / "out")
    assert ask(model, "Wrong currency on the invoice", "locked out", "…") == [
        lines("billing", "low"), lines("account", "low"), lines("billing", "high"),
    ]  # fmt: skip


@pytest.mark.parametrize("make", [Linear, Majority, Nearest])
def test_models_are_the_same_bytes_in_every_process(make: type[Step], tmp_path: Path) -> None:
    """With other hash seeds and numbers of threads, and no code among the files."""
    code = (
        "import sys; from pathlib import Path; from finery import Dataset; "
        "from finery.testing import run_step; import importlib; "
        f"m = importlib.import_module('{make.__module__}'); "
        "rows = Dataset(Path(sys.argv[1]), meta={'rows': 7}); "
        f"run_step(m.{make.__name__}(rows=rows), Path(sys.argv[2]))"
    )
    rows = tickets(tmp_path)
    for number in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": number, "OMP_NUM_THREADS": number,
                       "OPENBLAS_NUM_THREADS": number,
                       "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
        folder = tmp_path / number
        subprocess.run(
            [sys.executable, "-c", code, str(rows.path), str(folder)], env=environment, check=True
        )
    first, second = (
        {p.relative_to(f): p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file()}
        for f in (tmp_path / "1", tmp_path / "2")
    )
    assert first == second
    assert {path.suffix for path in first} <= {".json", ".jsonl", ".npy"}


def test_similar_texts_are_found_by_words_and_their_forms() -> None:
    index = SimilarIndex(["the parcel came late", "refund the order", "no parcels at all", "hello"])
    assert [number for number, _ in index.nearest("where is my parcel?", 2)] == [0, 2]
    ((number, cosine),) = index.nearest("hello", 1)
    assert number == 3
    assert cosine == pytest.approx(1)
    assert index.nearest("zzz", 5) == []
    assert text_features("Late late")["late"] == 2


RECIPE = """\
finery: 1
name: t
data:
  train: {use: data.file, path: train.jsonl, format: alpaca}
  test_rows: {use: data.file, path: test.jsonl, format: alpaca}
models:
  majority: {use: baseline.majority, rows: train}
  linear: {use: baseline.linear, rows: train}
  nearest: {use: baseline.nearest, rows: train}
evaluate:
  test:
    use: eval.classification
    models: [nearest, majority, linear]
    rows: test_rows
    fields: [category, priority]
"""


def records(pairs: list[tuple[str, tuple[str, str]]]) -> str:
    return "".join(
        json.dumps({"instruction": text, "output": lines(*labels)}) + "\n" for text, labels in pairs
    )


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A built project that judges all three on more of the same."""
    test = [(f"{text} please {i}", labels) for i in range(5) for text, labels in TICKETS.items()]
    folder = tmp_path_factory.mktemp("baselines")
    files = {"recipe.yaml": RECIPE, "train.jsonl": records(list(TICKETS.items())),
             "test.jsonl": records(test)}  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text)
    t = Project(folder)
    built = t.run("build")
    assert built.code == 0
    assert "linear" in built.out + built.err
    assert "also has:" not in built.out + built.err  # a hint for the tables of others' evaluators
    return t


def test_a_build_judges_them_like_any_model(judged: Project) -> None:
    report = json.loads(judged.run("show", "test", "--json").out)["metrics"]
    assert report["scores"]["linear"]["accuracy"] == 1
    assert report["scores"]["majority"]["category"] == pytest.approx(4 / 7)
    assert report["details"]["baselines"] == ["nearest", "majority", "linear"]
    assert "6 cached" in judged.run("plan").out.splitlines()[-1]


def test_wrong_answers_come_with_the_nearest_training_rows(judged: Project) -> None:
    lines = judged.run("show", "test", "--wrong", "--jsonl", "--model", "majority").out.splitlines()
    wrong = [json.loads(line) for line in lines]
    assert len(wrong) == 5 * 4  # all but three of seven tickets
    first = wrong[0]
    assert first["prompt"] == [{"role": "user", "content": "charged twice, refund now please 0"}]
    assert first["expected"] == {"category": "billing", "priority": "high"}
    assert first["completion"] == "category: billing\npriority: high"
    assert 'category: "account", expected "billing"' in first["wrong"]
    assert first["nearest"][0]["prompt"] == "charged twice, refund now"
    assert first["nearest"][0]["similarity"] > 0.8
    out = judged.run("show", "test", "--wrong", "--model", "majority").out
    assert "charged twice, refund now please 0" in out
    assert "→ category: billing · priority: high" in out
