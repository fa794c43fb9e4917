"""Does a cascade keep its bound? Thresholds on CLINC150, for 200 draws of the calibration rows.

Two linear models answer before a stand-in for a large one: `ten` has learned 10 queries of each of
CLINC150's 150 intents, `thirty` 30. The stand-in gives the right answer to all queries but 4 %, for
the price of an API. The 7,500 validation and test queries are the pool. `drawn` takes calibration
rows from the pool with replacement, so that the pool is the population, and the error at the chosen
thresholds is known exactly: `broken` is the share of draws in which that of any stage exceeds the
risk, with its 95 % interval (Clopper and Pearson). `split` divides the pool at random into
calibration and test rows, and measures the error on those, with its noise. `shifted` has queries
out of scope instead of 30 % of the test rows: `warned` is the share in which a report warns that a
model answers another share of the rows than of the calibration. `small`: of the rows, those that
the large model doesn't answer. `error`: of these answers. `right`: of all answers. `price`: dollars
for 1,000 answers; `alone`: of the large model alone. The scores are computed once, in a minute;
with `--scores`, they are kept in a file.

    python benchmarks/cascade.py
    python benchmarks/cascade.py --scores scores.json --draws 1000
"""

import json
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "core"), str(ROOT / "plugins")]

from common import between, machine, parser_of, say  # noqa: E402

from finery import Model  # noqa: E402
from finery.testing import TestJob, dataset, run_step  # noqa: E402
from finery_baseline.steps import Linear  # noqa: E402
from finery_cascade.confidence import confidence_of  # noqa: E402
from finery_cascade.thresholds import certify, upper_limit  # noqa: E402
from finery_eval.stages import shares_differ  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "clinc150" / "data_full.json"
EACH = {"ten": 10, "thirty": 30}
CALIBRATION, TEST, OUT_OF_SCOPE, LARGE_ERROR = 3_000, 4_500, 0.3, 0.04
PROMPT_TOKENS, ANSWER_TOKENS, INPUT, OUTPUT = 600, 4, 2.5, 10.0
"""Tokens of a prompt that lists 150 intents and of an answer; dollars for a million of them."""
PRICE = (PROMPT_TOKENS * INPUT + ANSWER_TOKENS * OUTPUT) / 1_000
CASCADES = {"ten": ["ten"], "thirty": ["thirty"], "ten, thirty": ["ten", "thirty"]}
COLUMNS = (
    "models", "rows", "risk", "broken", "95 %", "small", "error", "right", "price", "alone",
    "warned",
)  # fmt: skip
Scores = dict[str, list[tuple[float, bool]]]
"""Model → (confidence, whether it is wrong) of each query; those out of scope come last."""


class Outcome(NamedTuple):
    """A cascade on some rows. stages: of each small one, (reached, answered, wrong)."""

    stages: list[tuple[int, int, int]]
    right: float

    @property
    def answered(self) -> int:
        return sum(answered for _, answered, _ in self.stages)

    @property
    def wrong(self) -> int:
        return sum(wrong for _, _, wrong in self.stages)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--draws", type=between(10, 100_000), default=200, help="of each line (default: 200)")
    add("--risks", default="0.05,0.02", help="default: 0.05,0.02")
    add("--data", type=Path, default=DATA, help="data_full.json of CLINC150")
    add("--scores", type=Path, help="keep the scores in this file")
    options = parser.parse_args(arguments)
    print(" ".join(f"{name}: {value};" for name, value in machine().items()), end="\n\n")
    if options.scores and options.scores.exists():
        scores = json.loads(options.scores.read_text())
    else:
        scores = scores_of(options.data)
        if options.scores:
            options.scores.write_text(json.dumps(scores))
    pool = CALIBRATION + TEST
    for name, of in scores.items():
        say(f"{name}: {1 - fmean(wrong for _, wrong in of[:pool]):.1%} of the pool right")
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    for title, small in CASCADES.items():
        for risk in map(float, options.risks.split(",")):
            for line in measured(scores, small, risk, options.draws):
                print(f"| {title} | {' | '.join(line)} |", flush=True)
    return 0


def measured(scores: Scores, small: list[str], risk: float, draws: int) -> list[list[str]]:
    """The lines of a cascade."""
    shuffled = random.Random(7)
    pool, everything = range(CALIBRATION + TEST), range(len(scores["large"]))
    kinds: dict[str, list[tuple[Outcome, bool]]] = defaultdict(list)
    for _ in range(draws):
        rows = shuffled.choices(pool, k=CALIBRATION)
        limits, _ = calibrated(scores, small, rows, risk)
        kinds["drawn"].append((outcome(scores, small, limits, pool), False))
        mixed = shuffled.sample(pool, len(pool))
        limits, before = calibrated(scores, small, mixed[:CALIBRATION], risk)
        foreign = shuffled.sample(everything[len(pool) :], 1_000)
        kept = mixed[CALIBRATION:][: round(len(foreign) / OUT_OF_SCOPE) - len(foreign)]
        for kind, test in (("split", mixed[CALIBRATION:]), ("shifted", [*kept, *foreign])):
            after = outcome(scores, small, limits, test)
            pairs = zip(before, after.stages, strict=True)
            warned = any(
                shares_differ(answered, reached, was_answered, was_reached)
                for (was_reached, was_answered), (reached, answered, _) in pairs
                if was_answered
            )
            kinds[kind].append((after, warned))
    return [line_of(kind, of, risk) for kind, of in kinds.items()]


def line_of(kind: str, of: list[tuple[Outcome, bool]], risk: float) -> list[str]:
    """A line of the table."""
    rows = [outcome.stages[0][0] for outcome, _ in of]
    broken = sum(any(wrong > risk * n for _, n, wrong in outcome.stages) for outcome, _ in of)
    small = fmean(outcome.answered / n for (outcome, _), n in zip(of, rows, strict=True))
    ends = 1 - upper_limit(len(of) - broken, len(of), 0.025), upper_limit(broken, len(of), 0.025)
    errors = [outcome.wrong / outcome.answered for outcome, _ in of if outcome.answered]
    return [
        kind, f"{risk:g}", f"{broken / len(of):.1%}", f"{ends[0]:.1%} – {ends[1]:.1%}",
        f"{small:.1%}", f"{fmean(errors):.2%}" if errors else "",
        f"{fmean(outcome.right for outcome, _ in of):.1%}", f"{PRICE * (1 - small):.2f}",
        f"{PRICE:.2f}", "" if kind == "drawn" else f"{fmean(warned for _, warned in of):.1%}",
    ]  # fmt: skip


def calibrated(
    scores: Scores, small: list[str], rows: Sequence[int], risk: float
) -> tuple[list[float | None], list[tuple[int, int]]]:
    """The thresholds, and how many rows reached each stage and were answered there."""
    found = certify(
        [[scores[name][i][0] for i in rows] for name in small],
        [[scores[name][i][1] for i in rows] for name in small],
        risk, 0.95,
    )  # fmt: skip
    return [one.threshold for one in found], [(one.rows, one.answered) for one in found]


def outcome(
    scores: Scores, small: list[str], limits: list[float | None], rows: Sequence[int]
) -> Outcome:
    """What a cascade answers."""
    stages, right = [], 0
    left = list(rows)
    for name, limit in zip(small, limits, strict=True):
        of = scores[name]
        taken = [] if limit is None else [i for i in left if of[i][0] > limit]
        wrong = sum(of[i][1] for i in taken)
        stages.append((len(left), len(taken), wrong))
        right += len(taken) - wrong
        left = left if limit is None else [i for i in left if of[i][0] <= limit]
    right += sum(not scores["large"][i][1] for i in left)
    return Outcome(stages, right / len(rows))


def scores_of(data: Path) -> Scores:
    """Have all models answer the pool, and what is out of scope."""
    parts = json.loads(data.read_text())
    few: dict[str, list[str]] = defaultdict(list)
    for text, label in parts["train"]:
        few[label].append(text)
    asked = [*parts["val"], *parts["test"], *parts["oos_val"], *parts["oos_test"]]
    numbers = random.Random(7)
    scores: Scores = {"large": [(1.0, numbers.random() < LARGE_ERROR) for _ in asked]}
    with tempfile.TemporaryDirectory(prefix="finery-cascade-") as folder:
        for name, each in EACH.items():
            learned = [(text, label) for label, texts in few.items() for text in texts[:each]]
            scores[name] = answers(Path(folder) / name, learned, asked)
    return scores


def answers(
    folder: Path, learned: Sequence[tuple[str, str]], asked: Sequence[Sequence[str]]
) -> list[tuple[float, bool]]:
    """The confidence of a linear model in its answers, and whether they are wrong."""
    rows = dataset(folder / "rows", [{"prompt": t, "completion": label} for t, label in learned])
    model: Model = run_step(Linear(rows=rows), folder / "model")
    say(f"{folder.name} is trained")
    given = TestJob().engine(model).generate([[{"role": "user", "content": t}] for t, _ in asked])
    return [
        (confidence_of(answer, folder.name), answer.text != label)
        for answer, (_, label) in zip(given, asked, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
