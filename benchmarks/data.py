"""Seconds that data.split, data.decontaminate and data.dedup take, by the number of rows.

Three kinds of rows: `instruction`, a shared instruction of 600 characters before a question of each
row's own; `equal`, 2,000 equal characters before such a question; `ordinary`, questions of words
drawn from banking77 (its `train.csv` in --words, or else made-up words). The last column is the
CPU time of a row divided by that of a row at the size before: 1.0 is linear.

    python benchmarks/data.py --sizes 1000,10000,100000
"""

import csv
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "core"), str(ROOT / "plugins")]

from common import machine, names, parser_of, say  # noqa: E402

from finery import Dataset, Job  # noqa: E402
from finery.rows import Row, with_id  # noqa: E402
from finery.testing import TestJob  # noqa: E402
from finery_data.steps.copies import Decontaminate, Dedup  # noqa: E402
from finery_data.steps.split import Split  # noqa: E402

KINDS = ("instruction", "equal", "ordinary")
STEPS = ("split", "decontaminate", "dedup")
INSTRUCTION = "Read the customer's question and name the one intent that it has. " * 9


def main() -> None:
    """Print a table of the times."""
    parser = parser_of(__doc__)
    parser.add_argument("--sizes", default="1000,10000,100000", help="Numbers of rows.")
    parser.add_argument("--kinds", type=names(KINDS), default=KINDS)
    parser.add_argument("--steps", type=names(STEPS), default=STEPS)
    parser.add_argument("--words", type=Path, default=Path("banking77/train.csv"))
    given = parser.parse_args()
    words = _words(given.words)
    print(" ".join(f"{name}: {value};" for name, value in machine().items()), end="\n\n")
    print("| step | rows | number | seconds | CPU seconds | CPU ms a row | to the size before |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for step in given.steps:
        for kind in given.kinds:
            before = 0.0
            for size in map(int, given.sizes.split(",")):
                say(f"{step}, {size:,} {kind} rows …")
                seconds, cpu = _measured(step, partial(_rows, kind, size, words))
                each = cpu / size
                ratio = f"{each / before:.2f}" if before else ""
                print(
                    f"| {step} | {kind} | {size:,} | {seconds:.1f} | {cpu:.1f} | "
                    f"{1000 * each:.2f} | {ratio} |",
                    flush=True,
                )
                before = each


def _measured(step: str, rows: Callable[[], Iterator[Row]]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        job = TestJob(Path(folder) / "run")
        made = Dataset.write(Path(folder) / "rows", rows())
        run: Callable[[Job], object]
        if step == "split":
            run = Split(rows=[made]).run
        elif step == "dedup":
            run = Dedup(rows=[made]).run
        else:
            test = Dataset.write(Path(folder) / "test", _fifth(rows()))
            clean = Dataset.write(Path(folder) / "clean", _rest(rows()))
            run = Decontaminate(rows=[clean], against=[test]).run
        start, cpu = time.perf_counter(), time.process_time()
        run(job)
        return time.perf_counter() - start, time.process_time() - cpu


def _fifth(rows: Iterator[Row]) -> Iterator[Row]:
    return (row for number, row in enumerate(rows) if number % 5 == 0)


def _rest(rows: Iterator[Row]) -> Iterator[Row]:
    yield with_id({"prompt": [{"role": "user", "content": "a row that stays"}], "completion": []})
    yield from (row for number, row in enumerate(rows) if number % 5)


def _words(path: Path) -> list[str]:
    if not path.exists():
        chance = random.Random(0)
        return ["".join(chance.choices("abcdefghijklmnoprstuvw", k=6)) for _ in range(3000)]
    with path.open(encoding="utf-8", newline="") as file:
        return [word for row in csv.reader(file) for word in row[0].lower().split()]


def _rows(kind: str, size: int, words: list[str]) -> Iterator[Row]:
    chance = random.Random(1)
    for number in range(size):
        text = " ".join(chance.choices(words, k=chance.randrange(6, 24)))
        if kind == "instruction":
            text = f"{INSTRUCTION}\n{text}"
        elif kind == "equal":
            text = f"{'a' * 2000} {text}"
        turn = {"role": "user", "content": text}
        answer = {"role": "assistant", "content": f"{number} {words[number % len(words)]}"}
        yield with_id({"prompt": [turn], "completion": [answer]})


if __name__ == "__main__":
    main()
