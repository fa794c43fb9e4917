"""Which output of the last build `finery serve` and `finery chat` open."""

from pathlib import Path

import pytest
from conftest import MakeProject
from in_process import build
from installing import write_plugin

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


SERVER = """
from contextlib import contextmanager
from finery import Job, Model, Step

class Shop(Step):
    "A model."
    def run(self, job: Job) -> Model:
        (job.out / "weights").touch()
        return Model(job.out, meta={"format": "shop"})

class Server:
    address, pid, build = "http://127.0.0.1:9", 1, "shop 1"

@hookimpl
def finery_steps():
    return {"shop.model": Shop}

@hookimpl
def finery_servers():
    return {"shop": serve}

"""
RAISES = 'raise ValueError("no")'


@pytest.mark.parametrize(("body", "text"), [
    (f"def serve(*facts): {RAISES}", "fails: ValueError: no"),
    ("def serve(*facts): pass", "returns None, which isn't a context manager"),
    ("serve = 5", "fails: TypeError: 'int' object is not callable"),
    (f"@contextmanager\ndef serve(*facts): {RAISES}; yield", "fails: ValueError: no"),
    ("@contextmanager\ndef serve(*facts): yield 5", "gives 5, whose `address` isn't a text"),
    (f"@contextmanager\ndef serve(*facts):\n  yield Server()\n  {RAISES}", "ended unexpectedly"),
    (f"@contextmanager\ndef serve(*facts):\n  try: yield Server()\n  finally: {RAISES}",
     "fails: ValueError: no"),
])  # fmt: skip
def test_a_server_of_a_plugin_fails_in_words(project: MakeProject, body: str, text: str) -> None:
    t = project({"recipe.yaml": "finery: 1\nname: t\nmodels:\n  m: {use: shop.model}\n"})
    write_plugin(t, "shop", f"{SERVER}{body}\n")
    assert t.run("build").code == 0
    ran = t.run("serve", "m", "--port", "0")
    assert ran.code in (1, 2)
    assert text in ran.err
    assert "Traceback" not in ran.err
    assert "server 'shop' of plugin 'shop' (shop-shop 1.5)" in ran.err or "ended" in text
