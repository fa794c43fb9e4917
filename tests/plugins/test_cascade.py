"""`cascade.model`: its bound, who answers, what is said of it, and its bundle."""

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from hostile_server import Body, Reply, failure, said, serving
from hypothesis import given
from hypothesis import strategies as st
from needs import need
from serving import served

from finery import Completion, DataError, Dataset, Engine, Model, Request, Sampling, UsageError
from finery.builder.checks import notes_on
from finery.builder.project import open_graph
from finery.rows import Row
from finery.testing import TestJob, dataset, run_step, table_model
from finery_baseline.steps import Linear, Majority
from finery_cascade.engine import StagePrices
from finery_cascade.model import CascadeModel
from finery_cascade.stages import Upstream
from finery_cascade.thresholds import (
    Certificate,
    binomial_tail,
    certify,
    choose,
    levels_of,
    rows_needed,
    upper_limit,
)
from finery_eval.evaluator import Evaluator
from finery_eval.stages import shares_differ
from finery_eval.steps.exact import Exact

need("sklearn")

# -- the bound ------------------------------------------------------------------------------------


def test_the_tail_and_the_limit_are_those_of_scipy() -> None:
    from scipy.stats import beta, binom

    for hits, n, share in ((0, 59, 0.05), (3, 153, 0.05), (120, 3_000, 0.05), (7, 100_000, 2e-4)):
        assert binomial_tail(hits, n, share) == pytest.approx(binom.cdf(hits, n, share), rel=1e-7)
        exact = beta.ppf(0.95, hits + 1, n - hits)
        assert upper_limit(hits, n, 0.05) == pytest.approx(exact, rel=1e-9)
    assert upper_limit(5, 5, 0.05) == 1.0
    assert binomial_tail(5, 5, 0.5) == 1.0


def test_the_fewest_rows_are_those_that_suffice_without_an_error() -> None:
    for risk in (0.01, 0.05, 0.3):
        for level in (0.05, 0.025 / 22):
            n = rows_needed(risk, level)
            assert binomial_tail(0, n, risk) <= level < binomial_tail(0, n - 1, risk)
            none, enough = ([False] * rows for rows in (n - 1, n))
            assert choose([0.5] * (n - 1), none, risk, level).threshold is None
            assert choose([0.5] * n, enough, risk, level).threshold == -1.0


scored = st.lists(st.tuples(st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]), st.booleans()), max_size=80)


@given(rows=scored, risk=st.sampled_from([0.1, 0.3, 0.6]), level=st.sampled_from([0.05, 0.4]))
def test_a_certificate_says_what_lies_above_its_threshold(
    rows: list[tuple[float, bool]], risk: float, level: float
) -> None:
    found = choose([score for score, _ in rows], [wrong for _, wrong in rows], risk, level)
    above = [wrong for score, wrong in rows if score > (found.threshold or 0.0)]
    if found.threshold is None:
        assert found == Certificate(None, len(rows), 0, 0, level)
        assert found.bound is None
    else:
        above = [wrong for score, wrong in rows if score > found.threshold]
        assert (found.answered, found.errors) == (len(above), sum(above))
        assert (found.bound or 1.0) <= risk + 1e-9


Error = Callable[[float], float]
"""The probability that an answer with this confidence, uniform from 0 to 1, is wrong."""


def broken(errors: Sequence[Error], rows: int, risk: float, draws: int, seed: int) -> int:
    """Of the draws, those in which the error of any stage exceeds the risk.

    The stages' confidences are independent of each other, so each stage's error is that above its
    threshold, which is the mean of `Error` there.
    """
    numbers, count = random.Random(seed), 0
    grid = 2_000
    above = []
    for error in errors:
        total, means = 0.0, [0.0] * (grid + 1)
        for step in range(grid - 1, -1, -1):
            total += error((step + 0.5) / grid)
            means[step] = total / (grid - step)
        above.append(means)
    for _ in range(draws):
        scores = [[numbers.random() for _ in range(rows)] for _ in errors]
        wrong = [
            [numbers.random() < error(score) for score in of]
            for error, of in zip(errors, scores, strict=True)
        ]
        found = certify(scores, wrong, risk, 0.9)
        limits = [certificate.threshold for certificate in found]
        count += any(
            limit is not None and means[int(max(limit, 0.0) * grid)] > risk * 1.000001
            for limit, means in zip(limits, above, strict=True)
        )
    return count


RISK = 0.1
WORST: dict[str, Error] = {
    "always just above the risk": lambda score: RISK * 1.001,
    "at the risk, and above it below the middle": lambda score: RISK if score > 0.5 else 1.0,
    "above it in a narrow band only": lambda score: RISK if score > 0.5 or score < 0.45 else 1.0,
    "rising": lambda score: 0.25 * (1 - score),
}


@pytest.mark.parametrize("name", WORST)
@pytest.mark.parametrize("stages", [1, 2])
def test_the_bound_is_broken_no_more_often_than_promised(name: str, stages: int) -> None:
    """Confidence 90 %: broken in at most 10 % of draws, up to the noise of their number."""
    draws = 400
    count = broken([WORST[name]] * stages, 250, RISK, draws, seed=stages)
    assert binomial_tail(count - 1, draws, 0.1) < 0.999, f"{count} of {draws}"


def test_a_test_without_correction_would_break_it() -> None:
    """The simulation notices it: with the best of all thresholds, the bound is broken often."""
    numbers, count = random.Random(3), 0
    for _ in range(200):
        wrong = [numbers.random() < RISK * 1.001 for _ in range(250)]
        count += any(binomial_tail(sum(wrong[:n]), n, RISK) <= 0.1 for n in range(25, 250, 5))
    assert binomial_tail(count - 1, 200, 0.1) > 0.9999


def test_levels_allow_for_all_outcomes_of_earlier_stages() -> None:
    assert levels_of(1, 0.95) == pytest.approx([0.05])
    assert levels_of(2, 0.95) == pytest.approx([0.025, 0.025 / 22])


def test_a_good_model_gets_through_and_a_bad_one_does_not() -> None:
    numbers = random.Random(1)
    scores = [numbers.random() for _ in range(1_000)]
    good = choose(scores, [numbers.random() < 0.3 * (1 - s) ** 2 for s in scores], 0.05, 0.05)
    assert 0.2 < good.answered / 1_000 < 0.6
    assert choose(scores, [numbers.random() < 0.2 for _ in scores], 0.05, 0.05).threshold is None


# -- the step -------------------------------------------------------------------------------------

WORDS = {"card": ("money", "pay"), "door": ("house", "open"), "rain": ("weather", "wet")}


def rows_of(count: int, seed: int = 0, strange: float = 0.0) -> list[Row]:
    """Questions with a word of a class; a share of them has a word that no model knows."""
    numbers, rows = random.Random(seed), list[Row]()
    for number in range(count):
        label, words = numbers.choice([*WORDS.items()])
        word = numbers.choice(words)
        if numbers.random() < strange:
            word = f"xyzzy{number}"
        rows.append({"prompt": f"{word} {numbers.randrange(10**6)}", "completion": label})
    return rows


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("linear")
    model: Model = run_step(Linear(rows=dataset(folder / "rows", rows_of(60))), folder / "model")
    model.ref = "linear"
    return model


@pytest.fixture
def large(tmp_path: Path) -> Model:
    model = table_model(tmp_path / "large", default="no idea")
    model.ref = "large"
    return model


def rows_in(folder: Path, count: int, **more: Any) -> Dataset:
    return dataset(folder, rows_of(count, seed=1, **more))


def cascade(models: list[Model], rows: Dataset, folder: Path, **settings: Any) -> Model:
    model: Model = run_step(CascadeModel(models=models, calibrate=rows, **settings), folder)
    return model


def test_too_few_rows_are_refused_with_their_number(
    linear: Model, large: Model, tmp_path: Path
) -> None:
    rows = rows_in(tmp_path / "rows", 58)
    with pytest.raises(DataError, match=r"58 independent rows can't show .* 59 rows are needed"):
        cascade([linear, large], rows, tmp_path / "out")
    assert cascade([linear, large], rows, tmp_path / "laxer", risk=0.1).meta["stages"]


def test_related_rows_count_once(linear: Model, large: Model, tmp_path: Path) -> None:
    related = [{**row, "parents": [f"p{n // 2}"]} for n, row in enumerate(rows_of(100))]
    with pytest.raises(DataError, match="50 independent rows"):
        cascade([linear, large], dataset(tmp_path / "rows", related), tmp_path / "out")


def test_a_model_that_is_sure_answers_and_the_rest_goes_on(
    linear: Model, large: Model, tmp_path: Path
) -> None:
    rows = rows_in(tmp_path / "rows", 400, strange=0.5)
    model = cascade([linear, large], rows, tmp_path / "out", judge=exact())
    stage, last = model.meta["stages"]
    assert last == {"model": "large"}
    assert 150 <= stage["answered"] <= 260
    assert stage["bound"] <= 0.05
    answers = ask(model, "pay 7", "????")
    assert answers == [("card", "linear"), ("no idea", "large")]


def test_a_model_that_errs_too_often_answers_nothing(
    linear: Model, large: Model, tmp_path: Path
) -> None:
    wrong = [{**row, "completion": "other"} for row in rows_of(200)]
    model = cascade([linear, large], dataset(tmp_path / "rows", wrong), tmp_path / "out")
    stage = model.meta["stages"][0]
    assert stage["threshold"] is None
    assert stage["note"] == "none of its thresholds shows an error of at most 5 %"
    assert [stage for _, stage in ask(model, "pay 7", "pay 8")] == ["large", "large"]


def test_models_that_answer_in_other_forms_are_refused(linear: Model, tmp_path: Path) -> None:
    fields = [{**row, "completion": f"class: {row['completion']}\nyes: 1"} for row in rows_of(60)]
    other = run_step(Linear(rows=dataset(tmp_path / "fields", fields)), tmp_path / "other")
    other.ref = "other"
    with pytest.raises(
        UsageError, match=r"in different forms: linear: one text.*; other: class, y"
    ):
        cascade([linear, other], rows_in(tmp_path / "rows", 100), tmp_path / "out")


def test_models_without_confidence_are_refused_before_they_answer(
    linear: Model, large: Model, tmp_path: Path
) -> None:
    rows = rows_in(tmp_path / "rows", 100)
    api = Model(tmp_path, meta={"format": "api"})
    api.ref = "api"
    majority = run_step(Majority(rows=rows), tmp_path / "majority")
    majority.ref = "majority"
    for model in (api, majority):
        with pytest.raises(UsageError, match=f"'{model.ref}' doesn't say how sure it is"):
            CascadeModel(models=[model, linear], calibrate=rows).check()
    with pytest.raises(UsageError, match="'large' doesn't say how sure it is"):
        cascade([large, linear], rows, tmp_path / "out")
    nested = Model(tmp_path, meta={"format": "cascade"})
    nested.ref = "nested"
    for models in ([linear], [linear, nested]):
        with pytest.raises(UsageError, match="at least two different models, none of which is a"):
            CascadeModel(models=models, calibrate=rows).check()


class Half(Evaluator):
    """Finds each answer half right."""

    def judge(self, row: Row, answer: Completion) -> dict[str, float]:
        return {"accuracy": 0.5}


def test_a_metric_that_is_not_yes_or_no_is_refused(
    linear: Model, large: Model, tmp_path: Path
) -> None:
    judge = Half(models=[Model.placeholder("models")], rows=Dataset.placeholder("rows"))
    rows = rows_in(tmp_path / "rows", 100, strange=0.5)
    with pytest.raises(UsageError, match="isn't yes or no"):
        cascade([linear, large], rows, tmp_path / "out", judge=judge)


def exact() -> Exact:
    return Exact(models=[Model.placeholder("models")], rows=Dataset.placeholder("rows"))


def ask(model: Model, *texts: str) -> list[tuple[str, str | None]]:
    prompts = [[{"role": "user", "content": text}] for text in texts]
    return [(a.text, a.stage) for a in TestJob().engine(model).generate(prompts)]


# -- the engine -----------------------------------------------------------------------------------


def over_api(linear: Model, url: str, threshold: float | None, **runtime: Any) -> Model:
    """A cascade of a linear model and one behind an API."""
    meta = {"format": "api", "name": "m", "server": url}
    facts = {"api_key": None, "retries": 0, "timeout": 20.0, **runtime}
    api = Model(Path(), meta=meta, runtime=facts)
    stages = [{"model": "linear", "threshold": threshold}, {"model": "api"}]
    refs = {"stage1": linear, "stage2": api}
    return Model(Path(), meta={"format": "cascade", "stages": stages}, refs=refs)


def engine_of(model: Model) -> Engine:
    return TestJob().raw_engine(model)


def test_prices_count_each_model_that_was_asked(linear: Model) -> None:
    with serving(lambda body: Reply("yes", "stop", usage=(100, 10))) as server:
        model = over_api(linear, server.url, 0.6, price={"input": 1.0, "output": 10.0})
        engine = engine_of(model)
        asked = [Request([{"role": "user", "content": text}]) for text in ("pay 7", "unheard of")]
        sure, unsure = engine.generate(asked, Sampling())
    assert (sure.stage, unsure.stage) == ("linear", "api")
    assert unsure.stage_tokens == {"linear": (2, 1), "api": (100, 10)}
    assert isinstance(engine.price, StagePrices)
    assert engine.price.of_answer(sure) == 0
    assert engine.price.of_answer(unsure) == pytest.approx(200e-6)
    assert len(server.calls) == 1


def test_a_refusal_is_an_answer_and_an_error_is_that_of_its_row_alone(linear: Model) -> None:
    def answer(body: Body) -> Reply:
        if "refuse" in said(body):
            return Reply("", "stop", refusal="no")
        return failure(400, "bad") if "fail" in said(body) else Reply("fine")

    with serving(answer) as server:
        engine = engine_of(over_api(linear, server.url, None))
        texts = ("refuse", "fail", "ask")
        batches = [[Request([{"role": "user", "content": text}])] for text in texts]
        found = dict(engine.stream(batches, Sampling()))
    refused, failed, fine = (found[number] for number in range(3))
    assert isinstance(refused, list)
    assert refused[0].finish_reason == "refusal"
    assert "bad" in str(failed)
    assert isinstance(fine, list)
    assert fine[0].text == "fine"


def test_many_requests_are_in_flight_at_a_time(linear: Model) -> None:
    with serving(lambda body: Reply("yes", delay=0.2)) as server:
        engine = TestJob().engine(over_api(linear, server.url, None, concurrency=8))
        engine.generate([[{"role": "user", "content": f"ask {n}"}] for n in range(16)])
    assert server.most_flying > 1


# -- what is said of it ---------------------------------------------------------------------------

RECIPE = """\
finery: 1
name: t
data:
  train: {use: data.file, path: train.jsonl}
  calibration: {use: data.file, path: calibration.jsonl}
  test: {use: data.file, path: test.jsonl}
  strange: {use: data.file, path: strange.jsonl}
models:
  linear: {use: baseline.linear, rows: train}
  large: {use: openai.model, model: m, base_url: URL, api_key: null, price: {input: 1, output: 2}}
  cascade: {use: cascade.model, models: [linear, large], calibrate: calibration, max_tokens: 8}
export:
  ship: {use: serve.bundle, model: cascade, name: intents}
evaluate:
  alike: &judge
    use: eval.classification
    models: [large, cascade]
    rows: test
    max_tokens: 8
    require: {cascade.accuracy: not worse than large by 0.2}
  other: {<<: *judge, rows: strange}
  speed: {use: eval.speed, models: [large, cascade], rows: test, answers: 20, max_tokens: 8}
  served:
    use: serve.check
    models: cascade
    bundle: ship
    rows: test
    judge: {use: eval.classification, max_tokens: 8}
    require: {cascade.answers: ">= 1"}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A built project, and the server of its large model, which knows all answers."""
    folder = tmp_path_factory.mktemp("cascade")
    (folder / ".git").mkdir()
    sets = {
        "train": rows_of(60),
        "calibration": rows_of(300, seed=1, strange=0.3),
        "test": rows_of(150, seed=2, strange=0.3),
        "strange": rows_of(150, seed=3, strange=0.9),
    }
    known = {row["prompt"]: row["completion"] for of in sets.values() for row in of}
    made = Project(folder)
    with serving(lambda body: Reply(known[said(body)], usage=(50, 2))) as server:
        files = {
            f"{name}.jsonl": "".join(f"{json.dumps(row)}\n" for row in of)
            for name, of in sets.items()
        }
        made.write({"recipe.yaml": RECIPE.replace("URL", server.url), **files})
        ran = made.run("build")
        assert ran.code == 0, ran.err
        yield made, server


def shown(project: Project, step: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(project.here("show", step, "--json").out)["metrics"]
    return found


def test_the_report_has_share_and_error_by_stage(project: Any) -> None:
    made, _ = project
    details = shown(made, "alike")["details"]
    (table,) = (t for t in details["tables"] if t["title"] == "cascade by stage")
    assert table["columns"][:5] == ["stage", "rows", "share", "wrong", "error"]
    (linear, large) = table["rows"]
    assert (linear[0], large[0]) == ("linear", "large")
    assert linear[1] + large[1] == 150
    assert 0.5 < linear[2] < 0.9
    assert not [r for r in details["remarks"] if "linear" in r["text"]]
    assert large[3:5] == [0, 0.0]
    lines = (made.folder / "build/t/alike/predictions.jsonl").read_text().splitlines()
    stages = [json.loads(line).get("stage") for line in lines]
    assert stages.count("linear") == linear[1]


def test_another_kind_of_rows_brings_a_warning(project: Any) -> None:
    made, _ = project
    (remark,) = (r for r in shown(made, "other")["details"]["remarks"] if "linear" in r["text"])
    assert remark["severity"] == "warning"
    assert re.search(
        r"cascade: linear answers \d[\d.]* % of the rows that reach it", remark["text"]
    )
    assert "nothing bounds its error here" in made.here("show", "other").out.replace("\n", " ")


def test_the_price_is_that_of_the_rows_that_go_on(project: Any) -> None:
    made, _ = project
    report = shown(made, "speed")
    prices = {name: of["price_per_1000"] for name, of in report["scores"].items()}
    (table,) = (t for t in report["details"]["tables"] if t["title"] == "cascade by stage")
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
    assert prices["large"] == pytest.approx(0.054)
    assert rows["linear"]["price_per_1000"] == 0
    assert prices["cascade"] == pytest.approx(0.054 * rows["large"]["share"])


def test_the_view_shows_the_evidence(project: Any) -> None:
    made, _ = project
    printed = made.here("show", "cascade").out
    assert re.search(r"model +answers above +share that it answers +wrong +error at most", printed)
    assert re.search(r"large +the rest", printed)


def test_the_bundle_asks_the_large_model_for_the_rest(project: Any) -> None:
    made, server = project
    before = len(server.calls)
    question = next(row["prompt"] for row in rows_of(150, seed=2, strange=0.3)
                    if "xyzzy" in row["prompt"])  # fmt: skip
    with served(made, "ship", "--port", "0") as (client, _, _):
        choices = [
            client.post("/v1/chat/completions", {"messages": [
                {"role": "system", "content": "Name the topic."}, {"role": "user", "content": text},
            ], "max_tokens": 5})["choices"][0]
            for text in ("pay 7", question)
        ]  # fmt: skip
    assert [choice["stage"] for choice in choices] == ["linear", "large"]
    assert "probability" in choices[0]
    (call,) = server.calls[before:]
    assert call["messages"][0]["content"] == "Name the topic."
    assert (call["max_tokens"], call["temperature"], call["model"]) == (5, 0, "m")


def test_the_end_of_a_build_says_which_model_never_answers(project: Any) -> None:
    made, _ = project
    ran = made.run("build", "cascade", "--set", "models.cascade.risk=0.01")
    assert ran.code == 0, ran.err
    assert "cascade: linear never answers: " in ran.err.replace("\n", " ")


def test_the_key_goes_to_no_other_server(monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"server": "", "name": "m", "api_key": "CASCADE_KEY", "extra": {}}
    with pytest.raises(RuntimeError, match="set CASCADE_KEY"):
        Upstream(part)
    monkeypatch.setenv("CASCADE_KEY", "secret")
    with serving() as other, serving() as server:
        moved = Reply("", status=302, headers={"Location": f"{other.url}/chat/completions"})
        server.script.append(moved)
        asking = Upstream({**part, "server": server.url})
        with pytest.raises(RuntimeError, match="refuses it: HTTP Error 302"):
            asking.answer([{"role": "user", "content": "hi"}], {})
        assert asking.answer([{"role": "user", "content": "hi"}], {}) == "re: hi"
        assert server.keys == ["Bearer secret"] * 2
        assert not other.keys


def test_shares_differ_strongly_and_surely() -> None:
    assert shares_differ(50, 100, 900, 1_000)
    assert not shares_differ(96, 100, 980, 1_000)  # no strong difference
    assert not shares_differ(2, 4, 900, 1_000)  # no sure one
    assert not shares_differ(0, 0, 900, 1_000)


NOTED = """\
finery: 1
data:
  rows: {{use: data.file, path: rows.jsonl}}
  split: {{use: data.split, rows: rows}}
models:
  linear: {{use: baseline.linear, rows: split.train}}
  large: {{use: openai.model, model: m, base_url: "http://127.0.0.1:9/v1", api_key: null}}
  cascade: {{use: cascade.model, models: [linear, large], calibrate: {calibrate}}}
evaluate:
  test: {{use: eval.exact, models: cascade, rows: split.test}}
"""


@pytest.mark.parametrize(
    ("calibrate", "name"),
    [("split.train", "seen-calibration"), ("split.test", "calibration-rows"),
     ("split.validation", None)],
)  # fmt: skip
def test_rows_that_a_model_has_seen_are_noted(
    calibrate: str, name: str | None, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x", "completion": "y"}\n')
    (tmp_path / "recipe.yaml").write_text(NOTED.format(calibrate=calibrate))
    names = {note.name: note for note in notes_on(open_graph(tmp_path / "recipe.yaml"))}
    found = [n for n in ("seen-calibration", "calibration-rows") if n in names]
    assert found == ([name] if name else [])
    assert all("no model has seen" in names[n].fix for n in found)
