"""A matrix of three learning rates, two ranks and two data sets, from `plan` to the winner."""

import html
import json
import os
import re
import signal
from collections import Counter

import pytest
from conftest import MakeProject, Project, Ran, running, until
from matrix_project import RECIPE, project_in, ran
from needs import need


@pytest.fixture(scope="module")
def first_plan() -> dict[str, Ran]:
    """What `plan` prints before anything is built."""
    return {}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, first_plan: dict[str, Ran]) -> Project:
    """The matrix, killed in the middle by SIGKILL and built again."""
    t = project_in(tmp_path_factory.mktemp("project"))
    t.env["MARK"] = f"matrix-{os.urandom(6).hex()}"
    first_plan["text"], first_plan["json"] = t.run("plan"), t.run("plan", "--json")
    process = t.start("build", "--jobs", "2")
    until(lambda: sum(n for name, n in ran(t).items() if name.startswith("train")) >= 4)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not running(t.env["MARK"]))
    first_plan["killed"] = t.run("plan", "--json")
    first_plan["build"] = t.run("build")
    return t


def test_plan_counts_what_is_to_be_built(built: Project, first_plan: dict[str, Ran]) -> None:
    text = first_plan["text"].out
    assert "12 variants: 3 rate × 2 r × 2 rows" in text
    steps = [json.loads(line) for line in first_plan["json"].out.splitlines()]
    names = Counter(s["step"].partition("@")[0] for s in steps if "@" in s["step"])
    assert names == {"lines": 2, "split": 2, "sft": 12, "test": 12}
    assert "sft (12 variants)" in text
    assert f"{sum(names.values())} steps of variants, {sum(names.values())} to build" in text


def test_a_variant_that_is_not_there_is_explained(built: Project) -> None:
    unknown = built.run("show", "sft@rate=0_5")
    assert unknown.code == 2
    assert "step 'sft' has no variant 'sft@rate=0_5'" in unknown.err
    without = built.run("show", "matrix", "--matrix", "off")
    assert without.code == 2
    assert "has no matrix" in without.err
    assert "give the --matrix options of the build again" in without.err


LIGHT = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {use: steps.source, path: rows.txt}
  b: {use: steps.copy, rows: a}
"""
AXIS = ("--matrix", "data.b.tag=1,2")


def test_a_variant_of_the_command_line_can_be_used_as_one_of_the_file(
    project: MakeProject,
) -> None:
    need("huggingface_hub")  # for `card`
    t = project({"recipe.yaml": LIGHT, "rows.txt": "one\n"})
    assert t.ran(*AXIS) == ["a", "b@tag=1", "b@tag=2"]
    without = t.run("export", "b@tag=2", "copy")
    assert "give the --matrix options of the build again" in without.err
    exported = t.run("export", *AXIS, "b@tag=2", "copy")
    assert exported.code == 0, exported.err
    assert json.loads((t.folder / "copy/rows-00000.jsonl").read_text())["tag"] == 2
    reviewed = t.run("review", *AXIS, "b@tag=2", "--status", "--json")
    assert json.loads(reviewed.out)["rows"] == 1, reviewed.err
    for command in ("serve", "chat", "card"):
        refused = t.run(command, *AXIS, "b@tag=2")
        assert refused.err.startswith("error: 'b@tag=2' "), refused.err
        assert "model" in refused.err


def test_a_killed_matrix_goes_on_and_trains_each_variant_once(
    built: Project, first_plan: dict[str, Ran]
) -> None:
    assert first_plan["build"].code == 0, first_plan["build"].err
    kept = [json.loads(line) for line in first_plan["killed"].out.splitlines()]
    assert sum(s.get("state") == "cached" for s in kept) >= 4
    counts = ran(built)
    trainings = {name: n for name, n in counts.items() if name.startswith("train")}
    assert len(trainings) == 12
    # What two workers were running when they were killed ran again. Each training takes longer
    # than the steps that are recorded in groups.
    assert sum(trainings.values()) <= 14
    assert counts["lines"] == 3
    assert counts["split"] == 3
    assert counts["ship"] == 1


def test_the_winner_is_chosen_on_validation_and_judged_once_on_test(built: Project) -> None:
    counts = ran(built)
    assert counts["judge sft on held 2"] == 1  # the first of the test rows
    assert counts["judge sft on held 1"] >= 6  # of the validation rows; equal models share one
    shown = json.loads(built.run("show", "winner", "--json").out)
    assert shown["meta"]["chosen"] == "rate=4e-4,r=16,rows=all"
    assert shown["meta"]["by"] == "sft.accuracy"
    assert shown["meta"]["margin"]["over"].endswith("rows=all")
    low, high = shown["meta"]["margin"]["interval"]
    assert -1 <= low <= shown["meta"]["margin"]["difference"] <= high <= 1
    trained = (built.folder / "build/t/sft/model.txt").read_text()
    assert trained == (built.folder / "build/t/sft@rate=4e-4,r=16,rows=all/model.txt").read_text()
    assert trained in (built.folder / "build/t/ship/model").read_text()


def test_the_table_has_the_best_first(built: Project) -> None:
    lines = built.run("show", "matrix").out.splitlines()
    assert lines[0] == "12 variants: 3 rate × 2 r × 2 rows"
    rows = [line.split() for line in lines if "%" in line and "CI" not in line]
    assert rows[0][:4] == ["✓", "4e-4", "16", "all"]
    assert len(rows) == 12
    shares = [float(row[-5]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    data = [json.loads(line) for line in built.run("show", "matrix", "--json").out.splitlines()]
    assert [row["chosen"] for row in data] == [True] + [False] * 11
    assert data[0]["axes"] == {"rate": "4e-4", "r": "16", "rows": "all"}


def test_one_variant_more_builds_one(built: Project) -> None:
    axis = ["--matrix", "train.sft.rate=1e-4,2e-4,4e-4,8e-4"]
    plans = [json.loads(line) for line in built.run("plan", "--json", *axis).out.splitlines()]
    new = [s["step"] for s in plans if s["state"] == "run" and s["step"].startswith("sft@")]
    assert len(new) == 4
    assert all("rate=8e-4" in name for name in new)


def test_explain_and_logs_take_variants(built: Project) -> None:
    explained = built.run("explain", "sft@rate=1e-4,r=8,rows=few")
    assert explained.code == 0
    assert "is up to date" in explained.out
    asked = built.run("explain", "sft@rate=1e-4,r=8,rows=fex")
    assert asked.code == 2
    assert "rows=few" in asked.err


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Ran]:
    """A matrix in which two of four variants fail, so that nothing is shipped."""
    recipe = RECIPE.replace("[1e-4, 2e-4, 4e-4]", "[2e-4, 0.5]").replace(", least: 0.1", "")
    recipe = recipe.replace("    all: {data.lines.path: [few.txt, more.txt]}\n", "")
    t = project_in(tmp_path_factory.mktemp("failing"), recipe)
    made = t.run("build")
    assert not (t.folder / "build/t/ship").exists()
    return t, made


def test_a_variant_that_fails_stops_no_other(failing: tuple[Project, Ran]) -> None:
    t, made = failing
    assert made.code == 1
    assert ran(t)["train 0.0002 8 10 " + seed_digit(t)] == 1
    assert ran(t)["train 0.0002 16 10 " + seed_digit(t)] == 1
    assert "failed: sft@rate=0_5,r=" in made.err
    assert made.err.count("diverged") >= 1
    assert "no variant was chosen" in made.err
    assert "exclude" in made.err
    assert "failed" in made.out


def seed_digit(t: Project) -> str:
    """The last digit of the seed that all trainings share."""
    (digit,) = {name.split()[-1] for name in ran(t) if name.startswith("train")}
    return digit


def test_without_the_failing_ones_the_winner_is_chosen(failing: tuple[Project, Ran]) -> None:
    t, _ = failing
    t.edit("recipe.yaml", "  select:", "  exclude: [{rate: 0.5}]\n  select:")
    before = sum(ran(t).values())
    assert t.run("build").code == 0
    assert sum(ran(t).values()) - before == 2  # the winner on the test rows, and what is shipped
    assert "selected-on-test" not in t.run("check").out
    t.edit("recipe.yaml", ", on: validation", "")
    checked = t.run("check").out
    assert "selected-on-test" in checked
    assert "different-rows" not in checked
    t.edit("recipe.yaml", "rows: parts.test", "rows: split.test")
    t.edit(
        "recipe.yaml",
        "    few: {data.lines.path: few.txt}",
        """\
    few: {data.lines.path: few.txt}
    more: {data.lines.path: more.txt}""",
    )
    assert "different-rows" in t.run("check").out


def words(page: str) -> str:
    """The text of a page, without styles and scripts."""
    text = re.sub(r"<(script|style).*?</\1>", " ", page.replace("<wbr>", ""), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_the_report_ranks_the_variants_and_folds_their_steps(built: Project) -> None:
    done = built.run("report", "--html", "page.html")
    assert done.code == 0, done.err
    page = (built.folder / "page.html").read_text("utf-8")
    text = words(page)
    assert "Which variant is best? (open) rate=4e-4,r=16,rows=all: test.sft.accuracy 20.0 %" in text
    assert "Too close to call: +5.0 points against rate=2e-4,r=16,rows=all (95 % CI" in text
    assert "On the test rows, which it wasn't chosen by: 20.0 %" in text
    table = words(page[page.index("<caption>12 variants") :].partition("</table>")[0])
    values = [float(value) for value in re.findall(r"(\d+\.\d) % \d", table)]
    assert len(values) == 12
    assert values == sorted(values, reverse=True)
    assert table.index("✓ 4e-4 16 all") < table.index("1e-4")
    assert "sft (12 variants) t.train built" in text
    scores = text[text.index("Scores and answers") :]
    assert "@" not in scores.partition(" Steps ")[0]  # only the winner's


# -- differences between variants ------------------------------------------------------------------


def test_two_variants_are_compared_with_their_settings_and_answers(built: Project) -> None:
    words = ("train.sft@rate=1e-4,r=8,rows=all", "rate=4e-4,r=16,rows=all")
    done = built.run("diff", *words, "--json")
    assert done.code == 0, done.err
    sides, *steps = (json.loads(line) for line in done.out.splitlines())
    assert set(sides["same"]) == {"held", "parts", "lines", "split"}
    by_name = {step["step"]: step for step in steps}
    assert by_name.keys() == {"sft", "test"}
    changes = {c["part"]: (c["old"], c["new"]) for c in by_name["sft"]["changes"]}
    assert changes["setting rate"] == (1e-4, 4e-4)
    (output,) = by_name["test"]["outputs"]
    model = output["difference"]["models"]["sft"]
    assert model["metrics"]["accuracy"]["values"] == [0.05, 0.2]
    assert len(model["gained"]) == 3
    assert model["lost"] == []
    assert "validation" in sides["sides"][0]["notes"][0]  # the rows that the winner is chosen by


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["r=8", "winner"], "'r=8' names 6 variants"),
        (["rate=9,r=8,rows=few", "winner"], "neither a run of this recipe, nor a variant"),
        (["winner", "now"], "'now' has variants itself"),
    ],
)
def test_what_cannot_be_compared_with_a_variant_is_refused(
    built: Project, words: list[str], text: str
) -> None:
    done = built.run("diff", *words)
    assert done.code == 2
    assert text in done.err
    assert "rate=1e-4,r=8,rows=few" in done.err  # the fix names a variant
