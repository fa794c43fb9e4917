"""peft is imported without torch's compiler, which its functions get when they are called."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_llama import tiny_llama

from finery_transformers.imports import _later
from finery_transformers.loading import load_model

LOADED = """
import sys, torch
from pathlib import Path
from finery import Model
before = torch.compile
from finery_transformers.loading import load_model
base = Model(Path(sys.argv[1]), meta={"format": "transformers"})
load_model(Model(Path(sys.argv[2]), meta={"format": "adapter"}, refs={"base": base}))
assert torch.compile is before
names = ("peft", "bitsandbytes", "torch._inductor.compile_fx")
print(*(name in sys.modules for name in names))
"""


@pytest.mark.slow
def test_loading_an_adapter_does_not_import_the_compiler(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    from peft import LoraConfig, get_peft_model

    base = tiny_llama(tmp_path / "base")
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(load_model(base), config).save_pretrained(str(tmp_path / "adapter"))
    command = [sys.executable, "-c", LOADED, str(base.path), str(tmp_path / "adapter")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.split()) == (0, ["True", "True", "False"]), ran.stderr


def test_a_function_is_compiled_once_by_its_first_call() -> None:
    compiled = []

    def double(x: int) -> int:
        return 2 * x

    def compile_it() -> object:
        compiled.append(double)
        return double

    later = _later(double, compile_it)
    assert (later.__name__, compiled) == ("double", [])
    assert (later(2), later(3), compiled) == (4, 6, [double])
