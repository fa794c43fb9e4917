"""What finery's own steps execute is in the table of definitions: core/finery/builder/code."""

import gc
import importlib
import inspect
import json
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from tools.definitions.sources import TABLE, Sources

from finery import Artifact, Model, Step
from finery.advanced import load_plugins
from finery.plugin.manager import Plugins
from finery.step.inspect import OUTSIDE_KEYS, files_of, inputs_of, nested_steps
from finery.step.look import promises_of
from finery.testing import EngineContract, StepContract, dataset, run_step
from finery_eval.steps.exact import Exact

HOME = Path(__file__).parents[2]
DISCOVERY = [f.__code__ for f in (load_plugins, Plugins.step_type, Plugins.engine, Plugins.server)]


ELSEWHERE = {
    ("test_engine_contracts", "TestApi"), ("test_model_contracts", "TestPush"),
    ("test_trainer_contracts", "TestGrpo"),
}  # fmt: skip
"""Contracts that need a server or a recipe."""


def _contracts() -> Iterator[Any]:
    for file in sorted(Path(__file__).parent.glob("test_*_contracts.py")):
        module = importlib.import_module(file.stem)
        for name, cls in vars(module).items():
            is_contract = isinstance(cls, type) and issubclass(cls, StepContract | EngineContract)
            if is_contract and cls.__module__ == file.stem and (file.stem, name) not in ELSEWHERE:
                marks = [getattr(module, "pytestmark", None), *getattr(cls, "pytestmark", ())]
                yield pytest.param(cls, id=name, marks=[m for m in marks if m is not None])


def _step(contract: StepContract | EngineContract, folder: Path) -> Step:
    """The step of a contract, or one that asks the model of an engine."""
    if isinstance(contract, StepContract):
        return contract.step(folder)
    rows = dataset(folder / "rows", [{"prompt": "Count to three.", "completion": "one"}])
    (folder / "model").mkdir()
    return Exact(models=[contract.model(folder / "model")], rows=rows, max_tokens=4)


@cache
def _table() -> Any:
    return json.loads((HOME / "core" / TABLE).read_text(encoding="utf-8"))


@cache
def _sources() -> Sources:
    return Sources(HOME)


@cache
def _marked() -> set[tuple[str, str]]:
    """(file, definition) of what is marked `outside_key`."""
    modules = [_sources().read(module) for module in _sources().modules]
    pieces = [(m.label, p) for m in modules for unit in m.units.values() for p in unit.pieces]
    return {(label, piece.name) for label, piece in pieces if piece.outside}


@cache
def _definition(code: CodeType) -> tuple[str, str]:
    """(file, definition) of a function; no file if its code never counts."""
    label = _labels().get(code.co_filename, "")
    name = code.co_qualname.partition(".<")[0]
    if label and name.startswith("<"):  # of a variable
        (module,) = (m for m, of in _sources().modules.items() if of == label)
        pieces = (p for unit in _sources().read(module).units.values() for p in unit.pieces)
        before = ((piece.line, piece.name) for piece in pieces if piece.line <= code.co_firstlineno)
        name = max(before, default=(0, ""))[1]
    return label, name


@cache
def _labels() -> dict[str, str]:
    """File → its label, of those whose code counts."""
    return {str(_sources().files[label]): label for label in _sources().modules.values()}


def _executed(call: Callable[[], object]) -> set[tuple[str, str]]:
    """The functions that a call executes, but for what isn't in keys and what that calls."""
    # By their ids, as a hash of code takes longer than most calls.
    codes: dict[int, CodeType] = {}
    outside: dict[int, FrameType] = {}  # thread → where it left what counts

    def is_outside(frame: FrameType) -> bool:
        code = frame.f_code
        if code.co_name in OUTSIDE_KEYS and isinstance(frame.f_locals.get("self"), Step):
            return True
        return id(code) not in codes and (code in DISCOVERY or _definition(code) in _marked())

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            thread = threading.get_ident()
            if thread not in outside:
                if is_outside(frame):
                    outside[thread] = frame
                else:
                    codes[id(frame.f_code)] = frame.f_code
        elif event == "return" and outside:
            thread = threading.get_ident()
            if outside.get(thread) is frame:
                del outside[thread]

    gc.collect()  # else generators of other steps may end in this one
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    functions = {code for code in codes.values() if code.co_flags & inspect.CO_OPTIMIZED}
    return {definition for code in functions if (definition := _definition(code))[0]}


def _name(subject: Any) -> str:
    if isinstance(subject, str):
        return f"module:{subject}"
    return f"{subject.__module__}:{subject.__qualname__}"


def _subjects(step: Step) -> Iterator[str]:
    """The names in the table of all code of a step."""
    for each in (step, *(inner for _, inner, _ in nested_steps(step))):
        named = [code for code in each.cache_key().code if not isinstance(code, Path)]
        yield from map(_name, [type(each), *named])
        kinds = [promise.kind for promise in promises_of(each).values()]
        yield from (_name(writes) for kind in kinds for writes in kind.written_by)
        for field, accepts in inputs_of(type(each)).items():
            yield from map(_name, accepts.kind.read_by)
            value = getattr(each, field)
            for artifact in value if isinstance(value, list) else [value]:
                yield from _engines(artifact)


def _engines(artifact: Artifact | None) -> Iterator[str]:
    if artifact is not None:
        if isinstance(artifact, Model) and artifact.meta.get("format") in load_plugins().engines:
            yield _name(load_plugins().engine(artifact.meta["format"]))
        for ref in artifact.refs.values():
            yield from _engines(ref)


@pytest.mark.parametrize("contract", [*_contracts()])
def test_what_a_step_executes_is_in_the_table(
    contract: type[StepContract] | type[EngineContract], tmp_path: Path
) -> None:
    step = _step(contract(), tmp_path)
    for files in files_of(step).values():
        found = [path for pattern in files.patterns for path in sorted(tmp_path.glob(pattern))]
        files.paths = [f for p in found for f in ([p] if p.is_file() else sorted(p.iterdir()))]
        files.names = [path.relative_to(tmp_path).as_posix() for path in files.paths]
    (tmp_path / "out").mkdir()
    executed = _executed(lambda: run_step(step, tmp_path / "out"))
    table = _table()
    names = [name for name in _subjects(step) if name in table["subjects"]]
    assert _name(type(step)) in names
    keyed = {
        (label, definition)
        for name in names
        for label, digest in table["subjects"][name].items()
        for definition in table["names"].get(digest, ())
    }
    assert executed, "nothing was recorded"
    assert executed - keyed == set()
