"""How often `data.requests` finds that requests differ from training rows.

Training rows and requests are drawn from the queries of CLINC150 (150 intents; S. Larson et al.
2019), without overlap; a share of the requests is replaced by its queries out of scope. `differ`
counts the draws in which a difference is found, which is a note. With the share 0, each is a false
alarm: 5 % are expected. With a larger share, it is the power of the test. `at least` is the mean of
the share that a note names as a lower bound, and `too high` how often it is more than the true one.

    python benchmarks/drift.py clinc150/data_full.json
    python benchmarks/drift.py clinc150/data_full.json --sizes 1000x300 --shares 0.2 --draws 30
"""

import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "core"), str(ROOT / "plugins")]

from common import between, machine, parser_of  # noqa: E402

from finery.rows import Row  # noqa: E402
from finery.testing import TestJob  # noqa: E402
from finery_data.checks.drift import Drift, drift_between  # noqa: E402

COLUMNS = ("rows", "requests", "out of scope", "draws", "differ", "AUC", "at least", "too high")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("data", type=Path, help="CLINC150's data_full.json")
    add("--sizes", default="400x150,1000x300", help="rows x requests (default: 400x150,1000x300)")
    add("--shares", default="0,0.2", help="of requests out of scope (default: 0,0.2)")
    add("--draws", type=between(1, 10_000), default=200, help="of each line (default: 200)")
    options = parser.parse_args(arguments)
    print(" ".join(f"{name}: {value};" for name, value in machine().items()), end="\n\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{' ---: |' * len(COLUMNS)}", flush=True)
    queries = json.loads(options.data.read_text(encoding="utf-8"))
    inside, outside = (
        list(dict.fromkeys(text for part in parts for text, _ in queries[part]))
        for parts in (("train", "val", "test"), ("oos_train", "oos_val", "oos_test"))
    )
    for size in options.sizes.split(","):
        rows, requests = map(int, size.split("x"))
        for share in map(float, options.shares.split(",")):
            drifts = [
                drift_of(inside, outside, rows, requests, share, seed)
                for seed in range(options.draws)
            ]
            named = [drift.share for drift in drifts if drift.differs]
            line = (
                f"{rows:,}", f"{requests:,}", f"{share:.0%}", f"{len(drifts):,}",
                f"{len(named):,}",
                f"{sum(drift.auc for drift in drifts) / len(drifts):.3f}",
                f"{sum(named) / max(1, len(named)):.1%}",
                f"{sum(bound > share for bound in named):,}",
            )  # fmt: skip
            print(f"| {' | '.join(line)} |", flush=True)
    return 0


def drift_of(
    inside: Sequence[str], outside: Sequence[str], rows: int, requests: int, share: float, seed: int
) -> Drift:
    """The result of one draw."""
    draw = random.Random(seed)
    drawn = draw.sample(inside, rows + requests)
    drawn[rows : rows + round(share * requests)] = draw.sample(outside, round(share * requests))
    with tempfile.TemporaryDirectory(prefix="finery-drift-") as folder:
        job = TestJob(Path(folder))
        return drift_between(rows_of(drawn[:rows]), rows_of(drawn[rows:]), job)[0]


def rows_of(texts: Sequence[str]) -> list[Row]:
    """A row of each text."""
    return [{"messages": [{"role": "user", "content": text}]} for text in texts]


if __name__ == "__main__":
    sys.exit(main())
