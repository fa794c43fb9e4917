"""The report's page, its Markdown, the end of a build and `finery show` begin with one sentence."""

import html
import json
import re
from pathlib import Path

import pytest
from conftest import Project
from judged import RECIPE, files

SPLIT = RECIPE.replace("train:", "  seen: {use: data.file, path: rows.jsonl}\ntrain:").replace(
    "model: base, rows: rows", "model: base, rows: seen"
)
"""The rows that judge come from another step than those of the training."""
MISSED = "rows: rows, require: {sft.accuracy: '>= 0.9'}}"
DATA = "  rows: {use: data.file, path: rows.jsonl}\n"
MATRIX = """\
matrix:
  train.sft.share: [0.4, 0.5]
"""


def sentence(t: Project, code: int = 0) -> str:
    """The sentence of a build, which is the same in all places."""
    built = t.run("build", "--keep-going")
    assert built.code == code, built.err
    text = built.out.splitlines()[0]
    assert t.run("show").out.count(f"{text}\n") == 1
    assert t.run("report").code == 0
    page = (t.folder / "build/t/report.html").read_text("utf-8")
    (shown,) = re.findall(r'<p class="verdict ship \w+">(.*?)</p>', page)
    assert html.unescape(re.sub(r"<[^>]*>", "", shown)) == text.replace("`", "")
    lines = t.run("report", "--format", "markdown", "-o", "-").out.splitlines()
    assert [line for line in lines if line.startswith("**")] == [
        f"**{re.sub(r'([`<>_])', lambda m: chr(92) + m[0], text)}**"
    ]
    return text


def verdict_as_json(t: Project, *args: str) -> dict[str, str | None]:
    """What `build --json` and `report --json` say."""
    lines = t.run("build", *args, "--json").out.splitlines()
    *_, verdict, last = map(json.loads, lines)
    assert (verdict.pop("event"), last["event"]) == ("verdict", "build_finished")
    assert verdict.pop("time")
    reported: dict[str, str | None] = json.loads(t.run("report", "--json").out)["verdict"]
    assert verdict == reported
    return reported


@pytest.mark.slow
@pytest.mark.quick
def test_all_places_begin_with_the_same_sentence(tmp_path_factory: pytest.TempPathFactory) -> None:
    t = Project(tmp_path_factory.mktemp("shipping"))
    t.write(files(60, SPLIT))
    assert sentence(t) == (
        "ship shipped: 48.3 % accuracy, better than base: +46.7 points (95 % CI +32.6 to +59.1), "
        "9.8 KiB"
    )
    # As JSON, too: of a build that runs, after one without JSON, and with nothing to do.
    for args in (["--force", "test"], [], []):
        assert verdict_as_json(t, *args)["ship"] == "shipped"
    t.edit("recipe.yaml", "rows: rows}\n", f"{MISSED}\n")
    refused = verdict_as_json(t)
    assert (refused["ship"], refused["tone"]) == (None, "bad")
    assert sentence(t, 1) == (
        "don't ship yet: a requirement isn't met: sft.accuracy is 0.5 (95 % CI 0.377 to 0.623, 60 "
        "rows); required >= 0.9"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new", "code", "text"), [
    ("train:", "train:\n  bad: {use: t.explode, model: base}", 1, "bad isn't built"),
    ("matrix: none", MATRIX, 0, "the recipe chooses none of its 2 variants (add `select` to the "
     "matrix), and the best of several scores is partly luck"),
    ("matrix: none", MATRIX + "  select: {by: test.sft.accuracy}", 0, "ship shipped: "),
    (SPLIT.partition("evaluate:")[2], "\n", 0, "no evaluator judged a model"),
    ("[base, sft, shipped]", "[base]", 0, "only base, from which training begins, was judged"),
    ("[base, sft, shipped]", "[sft]", 0, "nothing says whether 50.0 % of sft is good enough"),
    ("rows: seen", "rows: rows", 0, "shipped has learned from the rows that test judges it by"),
    ("shipped], rows: rows}", "shipped], rows: rows, require: {sft.accuracy: '> 0.9'}}\n"
     "  later: {use: eval.exact, models: [base], rows: rows, needs: test}", 1,
     "a requirement isn't met: sft.accuracy is 0.5"),
])  # fmt: skip
def test_why_nothing_is_shipped(
    tmp_path_factory: pytest.TempPathFactory, old: str, new: str, code: int, text: str
) -> None:
    t = Project(tmp_path_factory.mktemp("shipping"))
    recipe = f"{SPLIT}# matrix: none\n".replace(f"# {old}" if "none" in old else old, new)
    t.write(files(60, recipe))
    found = sentence(t, code)
    assert found.startswith(text if text.startswith("ship ") else f"don't ship yet: {text}")


@pytest.mark.slow
def test_a_build_of_some_steps_or_without_models_says_nothing(tmp_path: Path) -> None:
    t = Project(tmp_path)
    t.write(files(60, SPLIT))
    assert "ship yet" not in t.run("build", "--step", "sft").out
    t.write(files(60, f"{RECIPE.partition('models:')[0]}data:\n{DATA}"))
    assert "ship yet" not in t.run("build").out
    assert "ship yet" not in t.run("report", "--format", "markdown", "-o", "-").out


@pytest.mark.slow
def test_labels_that_a_review_does_not_compare_are_named_too(tmp_path: Path) -> None:
    """`review.apply` compares answers, `data.validate` another column."""
    lines = [
        json.dumps({"prompt": f"{noun} {n} is late", "completion": noun, "kind": noun})
        for n in range(12)
        for noun in ("parcel", "invoice")
    ]
    wrong = json.dumps({"prompt": "parcel 3 is late", "completion": "parcel", "kind": "invoice"})
    recipe = SPLIT.replace(
        "path: rows.jsonl}\ntrain",
        "path: seen.jsonl, keep: [kind]}\n"
        "  checked: {use: data.validate, rows: seen, label: kind}\n"
        "  reviewed: {use: review.apply, rows: checked, reviews: none.jsonl}\ntrain",
    ).replace("rows: seen, share", "rows: reviewed, share")
    t = Project(tmp_path)
    t.write(files(60, recipe.replace("eval.exact", "eval.classification")))
    t.write({"seen.jsonl": "\n".join([*lines, wrong]), "rows.jsonl": "\n".join(lines)})
    assert "1 row of checked contradicts" in t.run("build").out.splitlines()[0]


@pytest.mark.slow
def test_wrong_rows_are_named_before_a_longer_training(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Contradictory labels of the training, and a class that only the test rows have."""
    lines = [
        json.dumps({"prompt": f"{noun} number {n} is late", "completion": f"{label}"})
        for n in range(12)
        for noun, label in (("parcel", "shipping"), ("invoice", "billing"))
    ]
    wrong = json.dumps({"prompt": "parcel number 3 is late", "completion": "billing"})
    checked = SPLIT.replace("path: rows.jsonl}\ntrain", "path: seen.jsonl}\n  checked: {use: "
                            "data.validate, rows: seen, label: output}\ntrain")  # fmt: skip
    recipe = checked.replace("rows: seen, share", "rows: checked, share")
    t = Project(tmp_path_factory.mktemp("wrong"))
    t.write(files(60, recipe.replace("eval.exact", "eval.classification")))
    t.write({"seen.jsonl": "\n".join([*lines, wrong]), "rows.jsonl": "\n".join(lines)})
    built = t.run("build")
    problem = "1 row of checked contradicts"
    assert problem in built.out.splitlines()[0]
    (found,) = (t.folder / "build/t/checked").rglob("findings.jsonl")
    decision = {"id": json.loads(found.read_text("utf-8"))["id"], "do": "reject"}
    t.write({"checked.jsonl": f"{json.dumps(decision)}\n"})
    t.edit("recipe.yaml", "rows: checked, share", "rows: reviewed, share")
    t.edit("recipe.yaml", "\ntrain:", "\n  reviewed: {use: review.apply, rows: checked, "
           "reviews: checked.jsonl}\ntrain:")  # fmt: skip
    assert "contradict" not in t.run("build").out.splitlines()[0]
    t.edit("recipe.yaml", "rows: reviewed, share", "rows: checked, share")
    t.edit("rows.jsonl", "billing", "refund")
    built = t.run("build")
    problem = "test expects 'refund' in 12 rows, but no row that sft learned from has it"
    assert problem in built.out.splitlines()[0], built.out
    assert "Add training rows of the classes that have none" in built.err
    assert "rain longer" not in built.err
    assert "Confused classes" in (shown := t.run("show", "test").out)
    assert "\n\n\n" not in shown
    assert (
        "Do labels of the training contradict each other? | Yes. 1 row of checked"
        in t.run("report", "--format", "markdown", "-o", "-").out
    )
