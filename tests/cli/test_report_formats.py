"""`finery report --format`: Markdown for pull requests, JUnit XML for test reports."""

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import Project
from judged import RECIPE, commit, files

MENTION = "@everyone <b>x</b> | ``` #1"
"""A row that would reach people and break tables if it were shown."""
GATE = "rows: rows, require: {sft.accuracy: '>= base.accuracy + 0.95'}}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A built and committed project, then a build after a change that misses a requirement."""
    t = Project(tmp_path_factory.mktemp("formats"))
    t.write(files(30, RECIPE.replace("export:", "  bad: {use: t.explode, model: base}\nexport:")))
    t.edit("rows.jsonl", 'answer 3"', f'answer 3 {MENTION}"')
    commit(t.folder)
    assert t.run("build", "--keep-going").code == 1  # `bad` always fails
    t.edit("recipe.yaml", "share: 0.5", "share: 0.9")
    t.edit("recipe.yaml", "rows: rows}\n", f"{GATE}\n")
    assert t.run("build", "--keep-going").code == 1
    return t


def test_markdown_has_verdict_scores_requirements_and_changes(project: Project) -> None:
    ran = project.run("report", "--format", "markdown", "--against", "HEAD")
    assert (ran.code, ran.out) == (0, "report: build/t/report.md\n"), ran.err
    text = (project.folder / "build/t/report.md").read_text("utf-8")
    for shown in (
        "| ✗ | Is the build complete? | No. Failed: bad",
        "| ? | Was fine-tuning needed? | Not known: sft was only compared with the bare base.",
        "| sft | test | 90.0 % | 74.4 – 96.5 |",
        r"| ✗ | test | sft.accuracy \>= base.accuracy + 0.95 | sft.accuracy is 0.9 (95 % CI",
        "### What changed since HEAD",
        "| sft | setting share | 0.5 → 0.9 |",
        "| sft | accuracy | 50.0 % | 90.0 % | +40.0 | +19.7 to +56.7 |",
        "| bad | t.explode | failed |",
    ):
        assert shown in text
    assert "no room <script>" not in text.replace("\\<", "")  # the error of `bad`, escaped
    assert MENTION not in text


def test_a_report_goes_to_stdout(project: Project) -> None:
    ran = project.run("report", "--format", "markdown", "-o", "-")
    assert ran.out.startswith("<!-- finery report -->")
    assert not (project.folder / "-").exists()
    refused = project.run("report", "-o", "-", "--watch")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("--output -: error: the report itself goes to stdout")


def test_every_line_of_a_table_has_the_cells_of_its_head(project: Project) -> None:
    project.run("report", "--format", "markdown", "-o", "report.md")
    lines = (project.folder / "report.md").read_text("utf-8").replace("\\|", "").splitlines()
    for above, line in pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            assert above.count("|") == line.count("|"), line


def test_junit_has_a_case_for_each_step_and_each_requirement(project: Project) -> None:
    ran = project.run("report", "--format", "junit", "-o", "junit.xml", "--json")
    assert '"junit":' in ran.out
    suites = ElementTree.parse(project.folder / "junit.xml").getroot()
    states = {
        case.attrib["name"]: next((child.tag for child in case), "passed")
        for case in suites.iter("testcase")
    }
    assert states == {
        "base": "passed", "rows": "passed", "sft": "passed", "bad": "failure",
        "shipped": "passed", "test": "passed",
        "test: sft.accuracy >= base.accuracy + 0.95": "failure",
    }  # fmt: skip
    for suite in suites:
        kinds = [case[0].tag for case in suite if len(case)]
        assert suite.attrib["tests"] == str(len(suite))
        assert suite.attrib["failures"] == str(kinds.count("failure"))


def test_a_requirement_of_a_step_that_is_not_built_is_skipped(tmp_path: Path) -> None:
    t = Project(tmp_path)
    t.write(files(4, RECIPE.replace("rows: rows}\n", f"{GATE}\n")))
    assert t.run("report", "--format", "junit").code == 0
    suites = ElementTree.parse(t.folder / "build/t/report.xml").getroot()
    assert [case[0].tag for case in suites.iter("testcase")] == ["skipped"] * 6


def test_only_markdown_compares_builds_and_no_recipe_is_overwritten(project: Project) -> None:
    ran = project.run("report", "--against", "HEAD")
    assert (ran.code, "fix: --format markdown" in ran.err) == (2, True)
    ran = project.run("report", "--format", "markdown", "-o", "recipe.yaml")
    assert (ran.code, "--output: error: recipe.yaml is not a page" in ran.err) == (2, True)
