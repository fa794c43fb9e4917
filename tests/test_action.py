"""The GitHub action and the workflows: they are well-formed, and their shell steps work here."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import FINERY, Project
from judged import RECIPE, commit, files

ROOT = Path(__file__).parent.parent
ACTION: Mapping[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}


def _jobs(path: Path) -> Mapping[str, Any]:
    """The jobs of a workflow. PyYAML reads the key `on` as true."""
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert workflow[True]
    assert "permissions" in workflow  # GitHub's default may write to the repository
    jobs: Mapping[str, Any] = workflow["jobs"]
    return jobs


def test_what_they_use_has_a_version_and_what_they_name_is_there() -> None:
    jobs = [job for path in WORKFLOWS for job in _jobs(path).values()]
    every = [*STEPS.values(), *(step for job in jobs for step in job["steps"])]
    for step in every:
        assert "run" in step or re.fullmatch(r"[\w-]+/[\w/-]+@[\w/]*v\d+", step["uses"]), step
    text = (ROOT / "action.yml").read_text("utf-8")
    assert {*re.findall(r"inputs\.(\w+)", text)} == ACTION["inputs"].keys()
    written = re.findall(r'echo "(\w+)=.*>> "\$GITHUB_OUTPUT"', STEPS["Build and report"]["run"])
    assert {*re.findall(r"steps\.build\.outputs\.(\w+)", text)} == {*written}
    for run in (step["run"] for step in every if "run" in step):
        assert "${{" not in run, "an expression in a script is an injection: pass it by env"


def test_the_workflow_of_the_guide_uses_inputs_and_outputs_that_exist() -> None:
    page = (ROOT / "docs" / "howto" / "ci.md").read_text("utf-8")
    workflow = yaml.safe_load(re.findall(r"```yaml\n(name: .*?)```", page, re.DOTALL)[0])
    steps = workflow["jobs"]["model"]["steps"]
    (used,) = [step for step in steps if "/finery@" in step.get("uses", "")]
    assert used["with"].keys() <= ACTION["inputs"].keys()
    named = re.findall(r"steps\.model\.outputs\.(\w+)", str(steps))
    assert named
    assert {*named} <= ACTION["outputs"].keys()


@pytest.fixture
def t(tmp_path: Path) -> Project:
    """A clone of a project, as a runner has it: one commit of a branch, with a changed recipe."""
    origin = Project(tmp_path / "origin")
    origin.folder.mkdir()
    origin.write(files(12, RECIPE))
    commit(origin.folder)
    made = Project(tmp_path / "work")
    subprocess.run(["git", "clone", "-q", origin.folder, made.folder], check=True)
    return made


def _run(t: Project, step: str, **variables: str) -> tuple[int, str, Mapping[str, str]]:
    """Run a step's script as GitHub does: exit code, what it printed, outputs."""
    temp = t.folder.parent
    output, summary = temp / "output", temp / "summary.md"
    output.write_text("")
    t.env |= {
        "RUNNER_TEMP": str(temp), "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_PATH": str(temp / "path"), "PATH": f"{FINERY.parent}:{os.environ['PATH']}",
        "RECIPE": ".", "SET": "", "ARGUMENTS": "", "AGAINST": "", **variables,
    }  # fmt: skip
    ran = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[step]["run"]],
        cwd=t.folder, env=t.environment(), capture_output=True, text=True,
    )  # fmt: skip
    lines = output.read_text("utf-8").splitlines()
    return ran.returncode, ran.stdout + ran.stderr, dict(line.split("=", 1) for line in lines)


def test_it_builds_reports_what_changed_and_fails_with_the_build(t: Project) -> None:
    assert _run(t, "Install finery", SOURCE="nowhere", EXTRAS="")[0] == 0  # it is installed
    code, said, outputs = _run(t, "Build and report")
    assert (code, outputs["built"]) == (0, "true"), said
    base = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=t.folder, capture_output=True, text=True, check=True
    ).stdout.strip()
    again = _run(t, "Build and report", AGAINST=base)[2]
    assert "built" not in again, "nothing new is worth a place in the cache"

    t.edit("recipe.yaml", "rows: rows}\n", "rows: rows, require: {sft.accuracy: '>= 1'}}\n")
    overrides = "train.sft.share=0.9\n\ndata.rows.path=rows.jsonl\n"
    code, said, outputs = _run(t, "Build and report", AGAINST=base, SET=overrides)
    assert (code, outputs["built"]) == (1, "true"), said
    summary = (t.folder.parent / "summary.md").read_text("utf-8")
    assert summary.endswith(report := Path(outputs["markdown"]).read_text("utf-8"))
    assert f"### What changed since {base}" in report
    assert "| sft | setting share | 0.5 → 0.9 |" in report
    assert "<failure" in Path(outputs["junit"]).read_text("utf-8")


@pytest.mark.slow
def test_a_wrong_recipe_and_a_base_without_one_are_no_riddle(t: Project) -> None:
    code, said, outputs = _run(t, "Build and report", SET="train.sft.sahre=0.9")
    assert (code, dict(outputs)) == (2, {})
    assert "did you mean" in said
    code, said, outputs = _run(t, "Build and report", AGAINST="f" * 40)
    assert code == 0, said
    assert "What changed" not in Path(outputs["markdown"]).read_text("utf-8")
