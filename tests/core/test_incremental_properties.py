"""However a recipe is edited, an incremental build gives what a clean build gives."""

import copy
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import LIGHT_STEPS, Project, in_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import build, digests

LIGHT = LIGHT_STEPS.read_text(encoding="utf-8")
CODE = {
    "as it is": LIGHT,
    "with a comment": LIGHT.replace("count(", "count(  # counts\n"),
    "other code, same output": LIGHT.replace("len(rows) // 2", "int(len(rows) / 2)"),
    "other output": LIGHT.replace('"tag": self.tag}', '"tag": self.tag + 100}'),
}
WORDS = ["a\nb\nc\n", "a\nb\nc\nd\n", "c\nb\na\n", "x\n"]


@dataclass
class State:
    """A recipe, its file and its code."""

    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    seed: int = 0
    words: str = WORDS[0]
    code: str = "as it is"

    def write(self, folder: Path, plugins: Path) -> Path:
        """Write it all; the recipe's path."""
        folder.mkdir(exist_ok=True)
        (folder / ".git").mkdir(exist_ok=True)
        (folder / "rows.txt").write_text(self.words)
        data = {
            "finery": 1, "name": "t", "seed": self.seed, "data": self.steps,
            "plugins": [str(plugins / self.code / "steps.py")],
        }  # fmt: skip
        (folder / "recipe.yaml").write_text(json.dumps(data))
        return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def plugins() -> Iterator[Path]:
    """A folder with the light steps in several versions."""
    folder = Path(tempfile.mkdtemp(prefix="finery-test-"))
    for name, text in CODE.items():
        (folder / name).mkdir()
        (folder / name / "steps.py").write_text(text)
    yield folder
    shutil.rmtree(folder)


@st.composite
def recipes(draw: st.DrawFn) -> State:
    """A graph of up to seven steps, each taking from those before it."""
    state = State(seed=draw(st.integers(0, 2)))
    refs: list[str] = []
    for n in range(draw(st.integers(2, 7))):
        name = f"s{n}"
        use = draw(st.sampled_from(["copy", "limit", "shuffle", "halve"])) if refs else "source"
        step: dict[str, Any] = {"use": f"steps.{use}"}
        if use == "source":
            step["path"] = "rows.txt"
        elif use == "copy":
            step |= {
                "rows": draw(st.lists(st.sampled_from(refs), min_size=1, max_size=3, unique=True)),
                "tag": n,
            }
        else:
            step["rows"] = draw(st.sampled_from(refs))
        state.steps[name] = step
        refs += [f"{name}.first", f"{name}.second"] if use == "halve" else [name]
    return state


@st.composite
def edits(draw: st.DrawFn, state: State) -> State:
    """The state after one edit."""
    new = copy.deepcopy(state)
    kind = draw(st.sampled_from(["words", "code", "seed", "step", "step", "step", "drop"]))
    name = draw(st.sampled_from(list(new.steps)))
    step = new.steps[name]
    if kind == "words":
        new.words = draw(st.sampled_from(WORDS))
    elif kind == "code":
        new.code = draw(st.sampled_from(list(CODE)))
    elif kind == "seed":
        new.seed = draw(st.integers(0, 2))
    elif kind == "drop" and len(new.steps) > 2:
        new.steps.popitem()
    elif step["use"] == "steps.copy":
        step["tag"] = draw(st.integers(0, 3))
        step["rows"] = draw(st.permutations(step["rows"]))
    elif step["use"] == "steps.limit":
        step["most"] = draw(st.sampled_from([0, 1, 2, 50, 100]))
    else:
        step["seed"] = draw(st.integers(0, 3))
    return new


@given(st.data())
def test_incremental_builds_equal_clean_ones(plugins: Path, data: st.DataObject) -> None:
    with in_memory() as root:
        state, finished = data.draw(recipes()), set[str]()
        for turn in range(data.draw(st.integers(2, 5))):
            incremental = build(state.write(root / "kept", plugins))
            clean = build(state.write(root / f"clean{turn}", plugins))
            assert digests(incremental) == digests(clean)
            results = incremental.outcome.results
            ran = {results[name].key for name in incremental.outcome.ran}
            assert not ran & finished, "a key was built twice"
            assert len(ran) == len(incremental.outcome.ran), "two steps with one key both ran"
            finished |= {r.key for r in results.values()}
            assert build(root / "kept/recipe.yaml").outcome.ran == []
            shown = {p.name for p in (root / "kept/build/t").iterdir()}
            assert shown == set(state.steps)
            incremental.store.close()
            clean.store.close()
            state = data.draw(edits(state))


@settings(max_examples=2, derandomize=True)
@given(st.data())
def test_so_it_is_through_the_command(plugins: Path, data: st.DataObject) -> None:
    with in_memory() as root:
        state = data.draw(recipes())
        for turn in range(2):
            kept, clean = Project(root / "kept"), Project(root / f"clean{turn}")
            for t in (kept, clean):
                state.write(t.folder, plugins)
                t.ran()
            for name, step in state.steps.items():
                for output in ("/first", "/second") if step["use"] == "steps.halve" else ("",):
                    assert kept.rows(name + output) == clean.rows(name + output)
            state = data.draw(edits(state))
