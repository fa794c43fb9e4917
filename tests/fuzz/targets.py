"""What is attacked: for each kind of input a small project, how it is changed, and what is run."""

import csv
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mutations as m

Commands = Sequence[Sequence[list[str]]]
Mutation = Callable[[random.Random, bytes], bytes]
QUESTIONS = [
    {"prompt": f"Where is card number {n}?", "completion": "card_arrival", "label": "card"}
    for n in range(12)
]


@dataclass(frozen=True)
class Target:
    """A kind of input.

    make: writes the project into a folder, url: of a server for it. mutations: pattern of files →
    how one of them is changed. runs: lists of commands, one of which is taken for each case.
    before: commands that prepare the project. imports: modules that are loaded beforehand.
    own_workers: share of the runs with worker processes as usual; in the rest steps run in place.
    """

    make: Callable[[Path, str], None]
    mutations: dict[str, Mutation]
    runs: Commands
    before: Sequence[list[str]] = ()
    imports: Sequence[str] = field(default=("yaml", "jsonschema", "rich.console", "rich.table"))
    own_workers: float = 0.02

    def change(self, rng: random.Random, folder: Path) -> str:
        """Change a file of the folder; its path."""
        pattern = rng.choice(list(self.mutations))
        files = sorted(p for p in folder.glob(pattern) if p.is_file())
        path = rng.choice(files)
        data = self.mutations[pattern](rng, path.read_bytes())
        path.unlink()  # it may be a link into the store
        path.write_bytes(data)
        return str(path.relative_to(folder))

    def commands(self, rng: random.Random) -> Sequence[list[str]]:
        """What to run."""
        return rng.choice(self.runs)


def project(folder: Path, steps: str, **files: str | bytes) -> None:
    """Write a recipe with these lines below its head, and more files (`rows_jsonl`)."""
    recipe = f"finery: 1\nname: fuzz\nseed: 7\n{steps}"
    (folder / "recipe.yaml").write_text(recipe, "utf-8")
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _lines(rows: Sequence[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


RECIPE = """\
plugins: [./steps.py]
silence: [few-rows]
models:
  base: {use: local.model, path: model}
data:
  rows: {use: data.file, path: rows.jsonl}
  clean: {use: data.validate, rows: rows, min_characters: {user: 3}, actions: {length: drop}}
  split: {use: data.split, rows: clean, validation: 0.1, test: 0.2, stratify: label}
train:
  sft:
    use: trl.sft
    model: base
    rows: [split.train]
    validation: split.validation
    epochs: 2
    learning_rate: 1e-3
    lora: {r: 8, lora_alpha: 16, target_modules: [q_proj, v_proj]}
evaluate:
  test:
    use: eval.classification
    models: [base, sft]
    rows: split.test
    labels: [card, cash]
    require: {sft.accuracy: ">= base.accuracy + 0.1"}
export:
  gguf: {use: gguf.export, model: sft, quantization: [q8_0], needs: test}
  ollama: {use: ollama.modelfile, gguf: gguf.q8_0, name: fuzz}
"""
PLUGIN = """\
from finery import Dataset, Job, Step, hookimpl, setting

class Keep(Step, seeded=False):
    "Keep rows."
    rows: Dataset
    most: int = setting(3, ge=1, help="Rows.")

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, list(self.rows)[: self.most])

@hookimpl
def finery_steps():
    return {"fuzz.keep": Keep}
"""


def _model(folder: Path) -> None:
    """Write a tiny model, in a process of its own: forks of one with torch are slow."""
    code = "import sys; from pathlib import Path; from tiny_llama import tiny_llama"
    code += "; tiny_llama(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, stderr=subprocess.DEVNULL)


def _recipe(folder: Path, url: str) -> None:
    _model(folder / "model")
    project(folder, RECIPE, steps_py=PLUGIN, rows_jsonl=_lines(QUESTIONS))


DATA = """\
data:
  lines: {use: data.file, path: rows.jsonl}
  table: {use: data.file, path: table.csv, columns: {user: "{{question}}", assistant: "{{answer}}"}}
  whole: {use: data.file, path: whole.json}
  chats: {use: data.file, path: chats.jsonl}
  all: {use: data.mix, rows: [lines, table, whole, chats], weights: [12, 9, 1, 2]}
  clean: {use: data.validate, rows: all, min_characters: {user: 3}, actions: {length: drop}}
  mapped: {use: data.map, rows: clean, user: "{{ user | trim }}?"}
  once: {use: data.dedup, rows: mapped}
  split: {use: data.split, rows: once, validation: 0, test: 0.3}
"""


def _data(folder: Path, url: str) -> None:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerows([["question", "answer"], *((f'why, "{n}"?', f"so\n{n}") for n in range(9))])
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    chat = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look it up."}]},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            {"role": "assistant", "content": "It is 3."},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    }
    share = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}
    project(
        folder, DATA, rows_jsonl=_lines(QUESTIONS), table_csv=table.getvalue(),
        whole_json=json.dumps([{"instruction": "a", "input": "b", "output": "c"}, share][:1]),
        chats_jsonl=_lines([chat, chat | {"id": "x"}]),
    )  # fmt: skip


DOCS = """\
data:
  docs: {use: docs.files, path: "docs/*", chunk: 400}
"""


def _docs(folder: Path, url: str) -> None:
    from pdf_files import pdf

    page = (
        "<html><body><!-- a --><h1>One</h1><p>Two &amp; <b>three</b></p><pre>4</pre></body></html>"
    )
    text = "# Head\n\nSome text.\n\n- a\n- b\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n```\n"
    project(
        folder, DOCS, docs__a_md=text * 3, docs__b_html=page, docs__c_txt="Plain.\n\nText.\n" * 5
    )
    (folder / "docs/d.pdf").write_bytes(pdf(["A page.", "Another."]))


def _gguf(folder: Path, url: str) -> None:
    from tiny_gguf import write_tiny_gguf

    project(folder, "models:\n  base: {use: local.model, path: tiny.gguf}\n")
    write_tiny_gguf(folder / "tiny.gguf")


def _folder(folder: Path, url: str) -> None:
    project(folder, "models:\n  base: {use: local.model, path: model}\n")
    _model(folder / "model")
    whole = (folder / "model/model.safetensors").read_bytes()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model.safetensors"}}
    (folder / "more").mkdir()
    (folder / "more/model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "more/config.json").write_bytes((folder / "model/config.json").read_bytes())
    (folder / "more/model.safetensors").write_bytes(whole)


API = """\
models:
  base: {use: openai.model, model: m, base_url: "URL", api_key: FUZZ_KEY}
data:
  rows: {use: data.file, path: rows.jsonl}
evaluate:
  test: {use: eval.exact, models: [base], rows: rows}
"""


def _api(folder: Path, url: str) -> None:
    project(folder, API.replace("URL", url), rows_jsonl=_lines(QUESTIONS[:4]))


LOOK = [["show"], ["show", "split.train", "--json"]]
TARGETS: dict[str, Target] = {
    "recipe": Target(
        _recipe, {"recipe.yaml": m.of_yaml},
        [[["check"]], [["plan"]], [["check", "--json"]], [["explain", "sft"]], [["schema"]]],
    ),
    "rows": Target(
        _data,
        {
            "rows.jsonl": m.of_json_lines, "chats.jsonl": m.of_json_lines, "whole.json": m.of_json,
            "table.csv": m.of_bytes,
        },
        [[["build"]], [["check"]], [["build", "--json"], ["show", "clean", "--dropped"]]],
        imports=("finery_data", "finery.rows", "rensa", "jinja2.sandbox", "rich.table"),
    ),
    "docs": Target(
        _docs, {"docs/*": m.of_bytes}, [[["build"], ["show", "docs"]]],
        imports=("finery_docs", "bs4", "markdown_it", "pypdf", "rich.table"),
    ),
    "store": Target(
        _data,
        {
            ".finery/*.db": m.of_bytes, ".finery/**/*": m.of_bytes, ".finery/*.db*": m.of_numbers,
            ".finery/objects/**/*": m.of_bytes,
        },
        [[["plan"]], [["show"], ["show", "split.train"]], [["build"]], [["explain", "split"]]],
        before=[["build"]],
        imports=("finery_data", "sqlite3", "rich.table"),
    ),
    "gguf": Target(
        _gguf, {"tiny.gguf": m.of_numbers, "*.gguf": m.of_bytes},
        [[["build"], ["show", "base"]], [["plan"]], [["build"], ["show", "base", "--json"]]],
        imports=("finery_local", "rich.table"),
    ),
    "folder": Target(
        _folder,
        {
            "model/*.json": m.of_json, "model/model.safetensors": m.of_safetensors,
            "more/*.json": m.of_json, "model/*": m.of_bytes,
        },
        [
            [["build"], ["show", "base"]], [["plan"]],
            [["build", "--set", "models.base.path=more"], ["show", "base"]],
        ],
        imports=("finery_local", "rich.table"),
    ),
    "api": Target(
        _api, {"rows.jsonl": lambda rng, data: data}, [[["build"]]],
        imports=("finery_openai", "openai", "openai.types.chat", "finery_eval", "rich.table"),
    ),
}  # fmt: skip
