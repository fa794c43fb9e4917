"""`finery show --effective`: the settings that were asked for and used, and why they differ."""

import json
from typing import Any

import pytest
from conftest import Project

TRAINS = """\
from finery import Job, Model, Settings, Step, hookimpl, setting


class Lora(Settings):
    '''An adapter.'''

    r: int = setting(16, help="Rank.")


class Train(Step, seeded=False, sections=("train",)):
    '''Says what it used.'''

    epochs: float = setting(3, help="Passes.")
    dtype: str = setting("auto", help="Precision.")
    lora: Lora | None = setting(Lora(), help="The adapter.")
    token: str = setting("", help="A secret.")
    args: dict[str, float] = setting({}, help="Arguments of a library.")
    logs: int = setting(1, affects_output=False, help="Reports.")
    says: bool = setting(True, help="Whether to record.")

    def run(self, job: Job) -> Model:
        used = {"epochs": (2.5, "stopped early"), "dtype": ("fp32", "what this CPU multiplies"),
                "lora.r": (self.lora.r, ""), "args.weight_decay": (0.0, "the library's default")}
        return Model(job.out, meta={"format": "t"}, runtime={"settings": used} if self.says else {})


@hookimpl
def finery_steps():
    return {"trains.train": Train}
"""
RECIPE = """\
finery: 1
name: t
plugins: [./trains.py]
train:
  sft: {use: trains.train, epochs: 4, lora: {r: 8}, args: {weight_decay: 0.1}}
  silent: {use: trains.train, says: false, epochs: 4}
"""


@pytest.fixture
def trained(built: Any) -> Project:
    made: Project = built({"recipe.yaml": RECIPE, "trains.py": TRAINS})
    return made


def _lines(project: Project, *args: str) -> dict[str, dict[str, Any]]:
    ran = project.here("show", *args, "--effective", "--json")
    assert ran.code == 0, ran.err
    return {line["setting"]: line for line in map(json.loads, ran.out.splitlines())}


def test_used_values_stand_beside_those_of_the_recipe(trained: Project) -> None:
    lines = _lines(trained, "sft")
    assert lines["epochs"] == {
        "setting": "epochs", "asked": 4.0, "is_default": False, "used": 2.5,
        "reason": "stopped early",
    }  # fmt: skip
    assert lines["dtype"]["is_default"]
    assert lines["lora.r"] == {
        "setting": "lora.r", "asked": 8, "is_default": False, "used": 8, "reason": "",
    }  # fmt: skip
    assert lines["args.weight_decay"] == {
        "setting": "args.weight_decay", "asked": 0.1, "is_default": False, "used": 0.0,
        "reason": "the library's default",
    }  # fmt: skip
    assert "used" not in lines["logs"]
    assert "args" not in lines
    text = trained.here("show", "sft", "--effective").out
    assert [line.split() for line in text.splitlines() if "epochs" in line] == [
        ["epochs", "4.0", "2.5", "(stopped", "early)"]
    ]
    assert "not recorded" in text


def test_a_step_that_records_nothing_says_so(trained: Project) -> None:
    assert not any("used" in line for line in _lines(trained, "silent").values())
    text = trained.here("show", "silent", "--effective").out
    assert "Used values weren't recorded" in text
    assert "epochs" in text


def test_an_older_result_is_shown_as_it_was_asked_for(trained: Project) -> None:
    trained.write({"recipe.yaml": RECIPE.replace("epochs: 4, lora", "epochs: 9, lora")})
    ran = trained.here("show", "sft", "--effective", "--json")
    assert "not up to date" in ran.err
    assert json.loads(ran.out.splitlines()[0])["asked"] == 4.0


def test_the_record_is_no_part_of_the_identity(trained: Project) -> None:
    trained.write({"trains.py": TRAINS.replace("stopped early", "ended")})
    before = json.loads(trained.here("show", "sft", "--json").out)["digest"]
    assert trained.run("build").code == 0
    assert json.loads(trained.here("show", "sft", "--json").out)["digest"] == before
    assert _lines(trained, "sft")["epochs"]["reason"] == "ended"


def test_effective_needs_a_step(trained: Project) -> None:
    ran = trained.here("show", "--effective")
    assert ran.code == 2
    assert "finery show STEP --effective" in ran.err
