"""Time the asking of a model behind an API, in finery and distilabel, and weigh its memory.

    python benchmarks/generate.py --distilabel /tmp/distilabel   # a minute or two
    python benchmarks/generate.py --rows 2000,20000,200000       # half an hour

`--distilabel` names an environment with `pip install "distilabel[openai]" requests`.

finery runs a recipe with `synth.answer`, distilabel a pipeline with `TextGeneration`.

A server on loopback (`generate_server.py`) takes the same time for every answer, in a fixed number
of slots: slots / seconds is its limit, which no client can beat. Both tools run as whole processes
and write what they got; the server tells the seconds from the first request to the last answer,
and that it gave each answer once. Throughput is of those seconds; `wall` also holds the start of
the process, the reading and the writing. With `--rows` the server answers at once, and what is
told is the largest resident set of any process of the command.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
FINERY = Path(sys.executable).with_name("finery")

RECIPE = """\
finery: 1
name: bench
models:
  teacher:
    {use: openai.model, model: m, base_url: "%(url)s", api_key: null, concurrency: %(concurrency)d}
data:
  rows: {use: data.file, path: rows.jsonl}
generate:
  made: {use: synth.answer, model: teacher, rows: rows, max_tokens: 256, temperature: 1.0}
"""

DISTILABEL = """\
import json, sys
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

url, batch, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rows = [{"instruction": json.loads(line)["prompt"]} for line in open("rows.jsonl")]
if __name__ == "__main__":
    with Pipeline(cache_dir="cache") as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=batch)
        llm = OpenAILLM(model="m", base_url=url, api_key="none",
                        generation_kwargs={"max_new_tokens": 256, "temperature": 1.0})
        load >> TextGeneration(llm=llm, input_batch_size=batch)
    made = pipeline.run(use_cache=False)["default"]["train"]
    with open(out, "w") as file:
        for row in made:
            print(json.dumps({"prompt": row["instruction"], "completion": row["generation"]}),
                  file=file)
"""


Command = Callable[[Path, str, int], list[str]]
"""(folder, base_url, requests at once) → a command line; what it needs is written to the folder."""


class Run(NamedTuple):
    """A run of a tool: seconds as the server saw them, seconds of the process, MiB."""

    served: float
    wall: float
    mib: float


@contextmanager
def serving(slots: int, seconds: float) -> Iterator[str]:
    """A server; its `base_url`."""
    command = [sys.executable, str(HERE / "generate_server.py"), str(slots), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.wait()


def told(url: str) -> dict[str, Any]:
    """What the server did since it was last asked."""
    with urllib.request.urlopen(url.removesuffix("v1")) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def write_rows(folder: Path, count: int) -> None:
    """Prompts of some 40 words."""
    with (folder / "rows.jsonl").open("w") as out:
        for i in range(count):
            prompt = f"Ticket {i}: {'my card has not come ' * 8}".strip()
            print(json.dumps({"prompt": prompt, "completion": "?"}), file=out)


def finery(folder: Path, url: str, concurrency: int) -> list[str]:
    """The command of a build; its recipe is written."""
    (folder / ".git").mkdir()
    (folder / "recipe.yaml").write_text(RECIPE % {"url": url, "concurrency": concurrency})
    return [str(FINERY), "build"]


def distilabel(venv: Path) -> Command:
    """The same by distilabel, which asks batches of rows, one after the other."""

    def command(folder: Path, url: str, batch: int) -> list[str]:
        (folder / "run.py").write_text(DISTILABEL)
        return [str(venv / "bin" / "python"), "run.py", url, str(batch), "made.jsonl"]

    return command


def timed(command: Callable[[Path, str, int], list[str]], url: str, rows: int, at_once: int) -> Run:
    """Run a tool in an empty folder, and check that each row was asked once and answered."""
    folder = Path(tempfile.mkdtemp(prefix="finery-bench-"))
    try:
        write_rows(folder, rows)
        arguments = command(folder, url, at_once)
        told(url)
        started = time.perf_counter()
        mib = _ran(arguments, folder)
        wall = time.perf_counter() - started
        server = told(url)
        assert server["count"] == rows, f"{server['count']} calls for {rows} rows"
        _check(folder, rows)
        return Run(server["seconds"], wall, mib)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


WEIGH = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(code)
"""


def _ran(arguments: list[str], folder: Path) -> float:
    """Run a command; the MiB of its largest process."""
    env = {**os.environ, "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "HOME": str(folder)}
    ran = subprocess.run(
        [sys.executable, "-c", WEIGH, *arguments], cwd=folder, capture_output=True, text=True,
        env=env, check=False,
    )  # fmt: skip
    if ran.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{ran.stderr[-3000:]}")
    return float(ran.stdout.split()[-1])


def _check(folder: Path, rows: int) -> None:
    shards = sorted(folder.glob("build/bench/made/rows-*.jsonl")) or [folder / "made.jsonl"]
    found = set()
    for shard in shards:
        with shard.open() as lines:
            for line in lines:
                prompt, answer = _turns(json.loads(line))
                assert answer == f"An answer to: {prompt}", line
                found.add(prompt)
    assert len(found) == rows, f"{len(found)} of {rows} rows"


def _turns(row: dict[str, Any]) -> tuple[str, str]:
    """What was asked and answered: in a row of `synth.answer`, or in one of the other tool's."""
    if "messages" not in row:
        return row["prompt"], row["completion"]
    prompt, answer = (turn["content"] for turn in row["messages"])
    return prompt, answer


def throughput(options: argparse.Namespace) -> None:
    """Both tools against the server's limit, in turns."""
    limit = options.slots / options.seconds
    settings: list[tuple[str, Command, int]] = [("finery", finery, n) for n in options.concurrency]
    if options.distilabel:
        settings += [("distilabel", distilabel(options.distilabel), n) for n in options.batch]
    runs: dict[tuple[str, int], list[Run]] = {}
    with serving(options.slots, options.seconds) as url:
        for _ in range(options.repeat):
            for name, command, at_once in settings:
                run = timed(command, url, options.requests, at_once)
                runs.setdefault((name, at_once), []).append(run)
    print(
        f"{options.requests} requests, {options.slots} slots of {options.seconds} s: "
        f"at most {limit:.0f} a second; median of {options.repeat}\n"
    )
    print(f"{'tool':<11} {'at once':>7} {'served s':>9} {'a second':>9} {'of limit':>9} "
          f"{'wall s':>7} {'MiB':>5}")  # fmt: skip
    for (name, at_once), found in runs.items():
        served, wall, mib = (statistics.median(column) for column in zip(*found, strict=True))
        rate = options.requests / served
        print(
            f"{name:<11} {at_once:>7} {served:>9.2f} {rate:>9.1f} {rate / limit:>9.1%} "
            f"{wall:>7.1f} {mib:>5.0f}"
        )


def memory(options: argparse.Namespace) -> None:
    """Memory as rows grow."""
    print(f"{'tool':<11} {'rows':>7} {'MiB':>5} {'wall s':>7} {'a second':>9}")
    for rows in options.rows:
        with serving(1000, 0.0) as url:
            run = timed(finery, url, rows, options.concurrency[0])
        print(
            f"{'finery':<11} {rows:>7} {run.mib:>5.0f} {run.wall:>7.1f} {rows / run.served:>9.1f}",
            flush=True,
        )


def numbers(text: str) -> list[int]:
    """`1,2` → [1, 2]."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--slots", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--concurrency", type=numbers, default=[64], help="of finery")
    parser.add_argument("--batch", type=numbers, default=[50, 500], help="rows, of distilabel")
    parser.add_argument("--distilabel", type=Path, help="its environment")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rows", type=numbers, help="weigh the memory of so many rows instead")
    options = parser.parse_args()
    memory(options) if options.rows else throughput(options)


if __name__ == "__main__":
    main()
