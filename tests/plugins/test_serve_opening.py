"""Which output of the last build `finery serve` and `finery chat` open."""

from pathlib import Path

import pytest
from in_process import build

from finery import UsageError
from finery_serve.opening import open_built

STEPS = """
from finery import Job, Model, Step, hookimpl, setting


class Types(Step, seeded=False, sections=("export",)):
    \"\"\"A model in several types.\"\"\"

    names: list[str] = setting(help="The types.")

    def outputs(self):
        return {"": Model, **dict.fromkeys(self.names, Model)}

    def run(self, job: Job) -> dict[str, Model]:
        models = {}
        for name in self.names:
            (job.out / name).mkdir()
            models[name] = Model(job.out / name, meta={"format": "gguf", "quantization": name})
        return {"": models[self.names[0]], **models}


@hookimpl
def finery_steps():
    return {"own.types": Types}
"""
RECIPE = """
finery: 1
name: t
plugins: [./steps.py]
export:
  gguf: {use: own.types, names: [q8_0]}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with an output that was added after its build."""
    monkeypatch.delenv("FINERY_STORE", raising=False)
    (tmp_path / ".git").mkdir()
    (tmp_path / "steps.py").write_text(STEPS, encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    build(path)
    path.write_text(RECIPE.replace("[q8_0]", "[q8_0, q4_k_m]"), encoding="utf-8")
    return path


@pytest.mark.parametrize("step", ["gguf", "gguf.q8_0"])
def test_an_output_of_the_last_build_is_opened(
    step: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_built(step, recipe, [])
    assert (opened.name, opened.artifact.meta["quantization"]) == ("gguf.q8_0", "q8_0")
    assert f"{step} is not up to date: this is the last build" in capsys.readouterr().err


def test_an_output_that_is_not_built_is_not_replaced_by_another(recipe: Path) -> None:
    with pytest.raises(UsageError, match="has no output 'q4_k_m'") as raised:
        open_built("gguf.q4_k_m", recipe, [])
    assert "the last build of 'gguf'" in raised.value.what
    assert str(raised.value.fix).startswith("finery build ")
    assert str(raised.value.fix).endswith("--step gguf")
    build(recipe)
    assert open_built("gguf.q4_k_m", recipe, []).artifact.meta["quantization"] == "q4_k_m"
