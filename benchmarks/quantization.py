"""Quantise trained models with and without an importance matrix, and judge the files.

    python benchmarks/quantization.py                            # both tasks
    python benchmarks/quantization.py --tasks tickets --rows 50  # a shorter run
    python benchmarks/quantization.py --folder DIR               # keeps the trainings

    tickets     recipes/ticket-triage: its training rows; its test and validation rows, 357
    banking77   nine intents of Banking77: 270 rows to train on, 360 to test

SmolLM2-135M-Instruct is trained and exported in bf16. The matrix is computed from the
training rows. Each file is written from the bf16 file and judged on the test rows: the perplexity
of the expected answers, and the share of them that are the greedy answer. Differences are paired,
with 95 % intervals: log-perplexities by a normal approximation over rows, accuracies as in
finery's evaluators (Newcombe 1998, method 10). tokens/s: one row at a time, after a prompt.
"""

import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from common import between, cores, machine, names, parser_of, say
from train import DATA, WHEEL, rows_of

HERE = Path(__file__).resolve().parent
TICKETS = HERE.parent / "recipes" / "ticket-triage"
TASKS = ("tickets", "banking77")
FILES = ("q8_0", "f16", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs")
LONGEST = 2048  # tokens of a test row
DRAWN = 64  # tokens that are drawn to measure the speed


class Judged(NamedTuple):
    """A file on the test rows. losses: (negative log-likelihood, tokens) of each answer."""

    size: int
    losses: list[tuple[float, int]]
    right: list[bool]
    speed: float

    @property
    def loss(self) -> float:
        """The mean negative log-likelihood of a token, in nats."""
        return sum(loss for loss, _ in self.losses) / sum(count for _, count in self.losses)


def main() -> None:
    """Build, quantise, judge, and print a table for each task."""
    parser = parser_of(__doc__)
    parser.add_argument("--tasks", type=names(TASKS), default=TASKS, help=",".join(TASKS))
    parser.add_argument("--files", type=names(FILES), default=FILES, help=",".join(FILES))
    parser.add_argument("--rows", type=between(10, 360), default=360, help="at most, to test")
    parser.add_argument("--tokens", type=between(512, 10**6), default=10_000, help="of the matrix")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of Banking77")
    parser.add_argument("--folder", type=Path, help="keeps what is built; default: none")
    parser.add_argument("--json", type=Path, help="a file for the results")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    with folder_of(given.folder) as folder:
        for task in given.tasks:
            if task == "banking77" and not given.data.is_dir():
                say(f"banking77 is left out: there is no {given.data}")
                continue
            write_recipe(folder / task, task, given.data)
            results[task] = measured(folder / task, given)
            print_table(task, results[task])
    if given.json:
        plain = {t: {n: j._asdict() for n, j in of.items()} for t, of in results.items()}
        given.json.write_text(json.dumps({"machine": machine(), "runs": plain}))


@contextmanager
def folder_of(given: Path | None) -> Iterator[Path]:
    """The folder to work in."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# -- what is trained -------------------------------------------------------------------------------


def write_recipe(folder: Path, task: str, data: Path) -> None:
    """Write the recipe of a task, and its rows."""
    folder.mkdir(exist_ok=True)
    (folder / ".git").mkdir(exist_ok=True)  # so that the store is in this folder
    export = {"gguf": {"use": "gguf.export", "model": "sft", "quantization": ["bf16"]}}
    recipe = of_tickets(folder) if task == "tickets" else of_banking77(folder, data)
    recipe |= {"name": task, "export": export}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


def of_tickets(folder: Path) -> dict[str, Any]:
    """The data and the training of recipes/ticket-triage."""
    shutil.copytree(TICKETS / "data", folder / "data", dirs_exist_ok=True)
    # PyYAML reads 1e-3 as text.
    text = re.sub(r"(\d)e-", r"\1.0e-", (TICKETS / "recipe.yaml").read_text("utf-8"))
    recipe: dict[str, Any] = yaml.safe_load(text)
    recipe["models"] = {"base": recipe["models"]["base"]}
    del recipe["evaluate"]
    return recipe


def of_banking77(folder: Path, data: Path) -> dict[str, Any]:
    """Rows of nine intents, and a training on them."""
    for name, count in (("train", 270), ("test", 360)):
        lines = [json.dumps(row) + "\n" for row in rows_of(data / f"{name}.csv", 0, count)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    files = {f"{name}_rows": {"use": "data.file", "path": f"{name}.jsonl"}
             for name in ("train", "test")}  # fmt: skip
    train = {
        "use": "trl.sft", "model": "base", "rows": "train_rows", "epochs": 2,
        "learning_rate": 1e-3, "effective_batch_size": 8,
    }  # fmt: skip
    base = {"use": "local.wheel", **WHEEL}
    return {
        "finery": 1, "seed": 17, "models": {"base": base}, "data": files, "train": {"sft": train},
    }  # fmt: skip


def build(folder: Path) -> tuple[Path, Path, list[Any], list[Any]]:
    """Build the recipe: the adapter, the bf16 file, the training rows and the test rows."""
    say(f"building {folder.name}")
    subprocess.run([sys.executable, "-m", "finery", "build"], cwd=folder, check=True)
    built = folder / "build" / folder.name
    file = built / "gguf" / "bf16" / "model-bf16.gguf"
    if (built / "split").is_dir():
        # The validation rows chose among the weights of one training, not among files.
        train, validation = (rows_in(built / "split" / name) for name in ("train", "validation"))
        return built / "sft", file, train, [*rows_in(built / "unseen"), *validation]
    return built / "sft", file, rows_in(built / "train_rows"), rows_in(built / "test_rows")


def rows_in(folder: Path) -> list[Any]:
    """The rows of a built data set."""
    from finery import Dataset

    return list(iter(Dataset(folder)))


# -- how it is judged ------------------------------------------------------------------------------


def measured(folder: Path, given: Any) -> dict[str, Judged]:
    """File → how it does. Those with a matrix are called e.g. `q4_k_m imatrix`."""
    from finery_gguf.importance import calibration, importance_of
    from finery_gguf.llama import Gguf
    from finery_gguf.pace import Pace
    from finery_gguf.quantise import TYPES_USING_IMATRIX, quantise
    from finery_transformers.frozen.template import FrozenTemplate

    adapter, source, train, test = build(folder)
    tokenizer = tokenizer_of(adapter)
    frozen = FrozenTemplate(str(tokenizer.chat_template), tokenizer, {})
    context = Gguf(source, vocab_only=True).n_context
    chosen = calibration(train, frozen, tokens=given.tokens, context=context)
    began = time.perf_counter()
    smaller = folder / "smaller.gguf"  # as in gguf.export
    quantise(source, smaller, "q8_0")
    matrix = importance_of(smaller, chosen.texts, pace=Pace(cores()), progress=lambda *_: None)
    took = time.perf_counter() - began
    say(f"matrix: {matrix.tokens} tokens in {matrix.rows} rows, {took:.1f} s")
    test = list(islice(test, given.rows))
    results: dict[str, Judged] = {}
    for name in given.files:
        for importance in (None, matrix) if name in TYPES_USING_IMATRIX else (None,):
            title = name if importance is None else f"{name} imatrix"
            path = folder / f"{title.replace(' ', '-')}.gguf"
            quantise(source, path, name, importance=importance)
            results[title] = judged(path, test, frozen)
            say(f"{title}: {results[title].loss:.4f}, {sum(results[title].right)} right")
            path.unlink()
    return results


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer that an adapter was trained with."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def judged(path: Path, rows: Sequence[Any], frozen: Any) -> Judged:
    """A file on the test rows."""
    from finery.rows import split_turns
    from finery_gguf.llama import Gguf
    from finery_transformers.chat import PromptTemplate

    ends = PromptTemplate(frozen.tokenizer, {}).ends_of_turn()
    reader = Reader(Gguf(path))
    losses, right = [], []
    for row in rows:
        asked, whole = PromptTemplate(frozen.tokenizer).row_tokens(*split_turns(row), ends)
        loss, greedy = reader.read(whole, len(asked))
        losses.append((loss, len(whole) - len(asked)))
        right.append(greedy)
    return Judged(path.stat().st_size, losses, right, reader.speed())


class Reader:
    """A model in llama.cpp that gives the likelihood of texts."""

    def __init__(self, model: Any) -> None:
        from finery_gguf.llama import library

        self.model = model
        self._known: list[int] = []
        self._library = library()
        c = self._library.c
        options = c.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = LONGEST
        options.flash_attn_type = 0
        self._context = self._library.ffi.gc(
            c.llama_init_from_model(model.pointer, options),
            lambda pointer, _=model.pointer: c.llama_free(pointer),
        )
        self._batch = self._library.ffi.gc(c.llama_batch_init(LONGEST, 0, 1), c.llama_batch_free)
        c.llama_set_n_threads(self._context, cores(), cores())

    def read(self, tokens: Sequence[int], start: int) -> tuple[float, bool]:
        """The negative log-likelihood of the tokens from `start` on, and whether each is likeliest.

        Then they are the greedy answer to the prompt before them.
        """
        import numpy as np

        known = self._keep_beginning(tokens[: start - 1])
        self._decode(tokens[known:], known, start - 1 - known)
        self._known = list(tokens)
        total, greedy = 0.0, True
        for place in range(start - 1, len(tokens) - 1):
            logits = self._logits(place - known).astype(np.float64)
            top = logits.max()
            total += top + math.log(np.exp(logits - top).sum()) - logits[tokens[place + 1]]
            greedy &= int(logits.argmax()) == tokens[place + 1]
        return float(total), greedy

    def speed(self) -> float:
        """Tokens a second that are drawn, the median of three."""
        prompt = self.model.encode("Where is my card? It should have arrived last week. " * 4)
        return statistics.median(DRAWN / self._drawn(prompt) for _ in range(3))

    def _drawn(self, prompt: Sequence[int]) -> float:
        """Seconds to draw tokens after a prompt, greedily."""
        self._keep_beginning([])
        self._known = []
        self._decode(prompt, 0, len(prompt) - 1)
        began, place = time.perf_counter(), len(prompt) - 1
        for i in range(DRAWN):
            token = int(self._logits(place).argmax())
            self._decode([token], len(prompt) + i, 0)
            place = 0
        return time.perf_counter() - began

    def _keep_beginning(self, tokens: Sequence[int]) -> int:
        """Forget what the context holds but the tokens that these begin with; their number."""
        pairs = enumerate(zip(self._known, tokens, strict=False))
        most = min(len(self._known), len(tokens))
        known = next((i for i, (one, other) in pairs if one != other), most)
        c = self._library.c
        c.llama_memory_seq_rm(c.llama_get_memory(self._context), 0, known, -1)
        return known

    def _decode(self, tokens: Sequence[int], first: int, wanted: int) -> None:
        """Evaluate tokens; logits are wanted from the place `wanted` on."""
        batch = self._batch
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, first + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i >= wanted
        batch.n_tokens = len(tokens)
        if self._library.c.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama.cpp failed to evaluate a row")

    def _logits(self, place: int) -> Any:
        import numpy as np

        pointer = self._library.c.llama_get_logits_ith(self._context, place)
        view = self._library.ffi.buffer(pointer, self.model.n_vocab * 4)
        return np.frombuffer(view, dtype=np.float32)


# -- the table -------------------------------------------------------------------------------------


def loss_difference(one: Judged, other: Judged) -> tuple[float, float]:
    """How much larger the mean loss of a token is, and half of its 95 % interval, by rows."""
    pairs = list(zip(one.losses, other.losses, strict=True))
    tokens = sum(count for _, count in other.losses)
    mean = sum(a - b for (a, _), (b, _) in pairs) / tokens
    squares = sum((a - b - mean * count) ** 2 for (a, count), (b, _) in pairs)
    rows = len(pairs)
    return mean, 1.96 * math.sqrt(squares * rows / (rows - 1)) / tokens


def accuracy_difference(one: Judged, other: Judged) -> tuple[float, tuple[float, float]]:
    """How much larger the accuracy is, with finery's paired interval."""
    from finery_eval.measure import Measure

    between = Measure({"other": other.right, "one": one.right}).difference("other", "one")
    assert between is not None
    return between.value, between.interval


def print_table(task: str, results: Mapping[str, Judged]) -> None:
    """A line for each file, compared with the first, and those with a matrix with those without."""
    first = next(iter(results.values()))
    print(f"\n{task}: {len(first.right)} test rows, {sum(c for _, c in first.losses)} tokens\n")
    print(f"{'file':<16} {'MB':>5} {'tokens/s':>8} {'perplexity':>10} {'accuracy':>8}  "
          f"{'log-ppl to first':<20} {'points to first':<22}")  # fmt: skip
    for name, of in results.items():
        line = f"{name:<16} {of.size / 1e6:>5.0f} {of.speed:>8.0f} {math.exp(of.loss):>10.4f} "
        line += f"{sum(of.right) / len(of.right):>8.1%}  "
        print(line + ("" if of is first else " ".join(differences(of, first))))
    for name, of in results.items():
        without = results.get(name.removesuffix(" imatrix"))
        if name.endswith(" imatrix") and without is not None:
            print(f"{name} against none: {', '.join(differences(of, without))}")


def differences(one: Judged, other: Judged) -> tuple[str, str]:
    """Both differences with their intervals."""
    loss, half = loss_difference(one, other)
    points, (low, high) = accuracy_difference(one, other)
    return (
        f"{f'{loss:+.4f} ± {half:.4f}':<20}",
        f"{100 * points:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
    )


if __name__ == "__main__":
    say(f"{cores()} cores")
    main()
