"""Step types for tests of pushes: models of a few bytes. Copied beside a recipe as `steps.py`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finery import Artifact, Bundle, Dataset, Job, Metrics, Model, Step, hookimpl, setting, takes
from finery.rows.report import Report, Score

LARGE = (2 << 20) + 17
"""Bytes of the weights: three parts of an upload."""


class Base(Step, seeded=False, sections=("models",)):
    """A base model as `hub.model` makes one, without files."""

    repo: str = setting("org/base", help="Its repository; empty: it has none.")
    license: str = setting("apache-2.0", help="Its licence; empty: unknown.")

    def run(self, job: Job) -> Model:
        facts = {"repo": self.repo, "license": self.license, "file": "" if self.repo else "b.gguf"}
        meta = {name: fact for name, fact in facts.items() if fact}
        runtime = {"revision": "1" * 40} if self.repo else {}
        return Model(job.out, meta={"format": "transformers", **meta}, runtime=runtime)


class Train(Step, learns="answers", sections=("train",)):
    """An adapter."""

    model: Model = takes(role="base")
    rows: Dataset = takes(role="train")
    value: int = setting(1, help="What the weights consist of.")

    def run(self, job: Job) -> Model:
        (job.out / "adapter_model.safetensors").write_bytes(bytes([self.value]) * LARGE)
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "base_model_name_or_path": None,
            "revision": None,
        }
        config |= {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
        (job.out / "adapter_config.json").write_text(json.dumps(config))
        (job.out / "README.md").write_text("# of the training\n")
        (job.out / "tokenizer.json").write_text("{}")
        meta = {"format": "adapter", "epochs": 2.0, "steps": 12, "rows": len(self.rows)}
        example = {"messages": [], "tools": [{"function": {"name": "f"}}]}
        meta["prompts"] = {"system": "Label it.", "training_example": json.dumps(example)}
        return Model(job.out, meta=meta, refs={"base": self.model})


class Quantise(Step, seeded=False, sections=("export",)):
    """Two GGUF files."""

    model: Model

    def outputs(self) -> dict[str, type[Artifact]]:
        return {"": Model, "q8_0": Model, "q4_k_m": Model}

    def run(self, job: Job) -> dict[str, Model]:
        made = {}
        for name in ("q8_0", "q4_k_m"):
            folder = job.out / name
            folder.mkdir()
            (folder / f"model-{name}.gguf").write_bytes(name.encode() * 1000)
            meta = {"format": "gguf", "file": f"model-{name}.gguf", "quantization": name}
            made[name] = Model(folder, meta=meta)
        return {"": made["q8_0"], **made}


class Ollama(Step, seeded=False, sections=("export",)):
    """What `ollama.modelfile` makes."""

    gguf: Model

    def run(self, job: Job) -> Bundle:
        name = self.gguf.meta["file"]
        (job.out / name).write_bytes(self.gguf.file(name).read_bytes())
        text = f"# run\nFROM ./{name}\nPARAMETER temperature 0\n"
        (job.out / "Modelfile").write_text(text)
        run = "ollama create triage -f Modelfile && ollama run triage"
        return Bundle(job.out, meta={"format": "ollama", "name": "triage", "run": run})


class Evaluate(Step, seeded=False, sections=("evaluate",)):
    """Scores from the settings."""

    rows: Dataset
    models: list[Model] = takes(uses_name=True)
    scores: dict[str, float] = setting({}, help="Model → accuracy.")
    require: dict[str, str] = setting({}, affects_output=False, help="As for evaluators.")

    def run(self, job: Job) -> Metrics:
        values = {m.name: {"accuracy": self.scores.get(m.name, 0.5)} for m in self.models}
        scores = {
            name: {
                metric: Score(v, (v - 0.1, v + 0.1) if metric == "accuracy" else None)
                for metric, v in of.items()
            }
            for name, of in values.items()
        }
        return Metrics.write(job.out, Report(rows=len(self.rows), scores=scores))

    def verify(self, outputs: Mapping[str, Artifact]) -> None:
        from finery import RequirementError

        (metrics,) = outputs.values()
        assert isinstance(metrics, Metrics)
        if "never" in self.require:
            raise RequirementError("the scores are too low")


@hookimpl
def finery_steps() -> dict[str, Any]:
    return {
        "steps.base": Base, "steps.train": Train, "steps.quantise": Quantise,
        "steps.ollama": Ollama, "steps.evaluate": Evaluate,
    }  # fmt: skip


HERE = Path(__file__)
