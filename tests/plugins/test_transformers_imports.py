"""peft is imported without torch's compiler, which its functions get when they are called."""

import subprocess
import sys

import pytest

from finery_transformers.imports import _later

IMPORTED = """
import sys, torch
before = torch.compile
from finery_transformers.imports import import_peft
import_peft()
assert torch.compile is before
names = ("peft", "bitsandbytes", "torch._inductor.compile_fx")
print(*(name in sys.modules for name in names))
"""


@pytest.mark.slow
def test_the_compiler_is_not_imported() -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    ran = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True)
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
