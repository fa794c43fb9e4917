"""Which classifier: models of five kinds on queries of Banking77, in one recipe and one table.

Writes the recipe and its rows into a folder, and builds it: a linear model, three classifiers on
all-MiniLM-L6-v2 (22 million parameters), SmolLM2-135M fine-tuned, and what is exported of two of
them. finery prints the accuracy on the test queries with intervals, paired tests, and the time of
an answer; afterwards, this prints how long each model was made and how large it is. By default, 25
queries of each of nine intents are learned, and 40 others of each are judged. Takes a quarter of an
hour on two cores, which should have nothing else to do.

    python benchmarks/classifiers.py
    python benchmarks/classifiers.py --intents 77 --each 20
"""

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "core"), str(ROOT / "plugins")]

from common import between, machine, parser_of  # noqa: E402
from quality import work_folder  # noqa: E402
from retrieval import MINILM  # noqa: E402
from train import DATA, INTENTS, WHEEL, queries_of  # noqa: E402

from finery.builder.project import Project  # noqa: E402
from finery.util.text import duration, size  # noqa: E402

VALIDATION, TEST = 8, 40
"""Queries of each intent."""
MODELS = ("linear", "head", "setfit", "full", "sft", "router", "gguf")
RECIPE = f"""\
finery: 1
name: classifiers
seed: 7
silence: [no-baseline]
models:
  base: {{use: local.wheel, {", ".join(f"{k}: {v}" for k, v in WHEEL.items())}}}
  minilm: {{use: retrieve.wheel, {", ".join(f"{k}: {v}" for k, v in MINILM.items())}}}
  linear: {{use: baseline.linear, rows: rows}}
data:
  rows: {{use: data.file, path: train.csv, columns: &columns {{user: "{{{{ text }}}}", assistant: "{{{{ category }}}}"}}}}
  held: {{use: data.file, path: validation.csv, columns: *columns}}
  unseen: {{use: data.file, path: test.csv, columns: *columns}}
train:
  head: &encoder {{use: encoder.classify, model: minilm, rows: rows, validation: held}}
  setfit: {{<<: *encoder, train: setfit}}
  full: {{<<: *encoder, train: full}}
  sft: {{use: trl.sft, model: base, rows: rows, validation: held, epochs: 4, learning_rate: 1e-3}}
evaluate:
  test:
    use: eval.classification
    models: [linear, head, setfit, full, sft, router, gguf.q8_0]
    rows: unseen
    max_tokens: 24
  fast:
    use: eval.speed
    models: [linear, head, setfit, full, sft, router, gguf.q8_0]
    rows: unseen
    max_tokens: 24
export:
  router: {{use: onnx.export, model: head, quantization: int8}}
  gguf: {{use: gguf.export, model: sft, quantization: [q8_0]}}
"""  # noqa: E501


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, and print a table."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--intents", type=between(2, 77), default=len(INTENTS), help="default: nine of them")
    add("--each", type=between(2, 200), default=25, help="training queries of each (default: 25)")
    add("--data", type=Path, default=DATA, help="folder of Banking77's train.csv and test.csv")
    add("--folder", type=Path, help="work here, and keep what is built")
    options = parser.parse_args(arguments)
    print(" ".join(f"{name}: {value};" for name, value in machine().items()), end="\n\n")
    with work_folder(options.folder) as folder:
        write(folder, options.data, options.intents, options.each)
        build = [sys.executable, "-m", "finery", "build", str(folder)]
        if code := subprocess.run(build, check=False).returncode:
            return code
        project = Project(folder / "recipe.yaml")
        print(f"\n{'model':<10} {'made in':>12} {'size':>10}")
        for model in MODELS:
            result, _ = project.result(model)
            made = {output.digest: output.size() for output in result.outputs.values()}
            print(f"{model:<10} {duration(result.seconds):>12} {size(sum(made.values())):>10}")
    return 0


def write(folder: Path, data: Path, intents: int, each: int) -> None:
    """The recipe, and the first queries of each intent."""
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    learned, judged = (queries_of(data / name) for name in ("train.csv", "test.csv"))
    names = INTENTS if intents == len(INTENTS) else tuple(learned)[:intents]
    end = each + VALIDATION
    parts = {
        "train": [(text, name) for name in names for text in learned[name][:each]],
        "validation": [(text, name) for name in names for text in learned[name][each:end]],
        "test": [(text, name) for name in names for text in judged[name][:TEST]],
    }
    for part, rows in parts.items():
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "category"), *rows])


if __name__ == "__main__":
    sys.exit(main())
