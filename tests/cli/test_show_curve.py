"""`finery show` on a trained model: the plot, the verdict, and the page in a real browser."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, chromium
from conftest import MakeProject, Project

BEFORE = "</script><script>document.title = 'broken'</script><b>"
CODE = f"""
import json
points = [
    {{"step": i + 1, "epoch": (i + 1) / 20, "loss": 4 * 0.95**i, "learning_rate": 1e-4}}
    for i in range(60)
]
for at, loss, accuracy in ((19, 0.5, 0.5), (39, 0.4, 0.7), (59, 0.6, 0.8)):
    points[at] |= {{"eval_loss": loss, "watch": {{"accuracy": accuracy}}}}
(job.out / "curve.json").write_text(json.dumps(points))
meta = {{"format": "light", "best_step": 40, "base": {BEFORE!r}}}
"""
RECIPE = f"""\
finery: 1
name: t
plugins: [./steps.py, ./trains.py]
data:
  a: {{use: steps.source, path: rows.txt}}
train:
  sft: {{use: trains.train, code: {json.dumps(CODE)}}}
"""
TRAINS = """\
from finery import Job, Model, Step, hookimpl, setting


class Train(Step, seeded=False, sections=("train",), family="language-model"):
    '''Run some Python that leaves a curve.'''

    code: str = setting("", help="Python, with `job`, that makes `meta`.")

    def run(self, job: Job) -> Model:
        names = {"job": job}
        exec(self.code, names)
        return Model(job.out, meta=names["meta"])


@hookimpl
def finery_steps():
    return {"trains.train": Train}
"""
FILES = {"recipe.yaml": RECIPE, "trains.py": TRAINS, "rows.txt": "one\n"}
SENTENCE = "Overfitting since step 40: validation loss rose from 0.4 to 0.6 while training loss"


@pytest.fixture
def trained(built: Any) -> Project:
    made: Project = built(FILES)
    return made


def test_the_build_ends_with_the_verdict(project: MakeProject) -> None:
    err = project(FILES).run("build").err
    assert f"sft: {SENTENCE}" in err
    assert "Advice: epochs: 2 is enough" in err


def test_show_plots_the_curve_and_says_what_it_means(trained: Project) -> None:
    out = trained.run("show", "sft").out
    assert "● validation loss" in out
    assert "★ kept, step 40" in out
    assert "▲ accuracy (right axis)" in out
    assert SENTENCE in " ".join(out.split())


def test_a_page_goes_beside_the_outputs_or_where_it_is_told_to(trained: Project) -> None:
    out = trained.run("show", "sft", "--html").out
    assert out.splitlines()[-1] == "page: build/t/sft-curve.html"
    assert trained.run("show", "sft", "--html", "new/page.html").code == 0
    one, other = trained.folder / "build/t/sft-curve.html", trained.folder / "new/page.html"
    assert one.read_bytes() == other.read_bytes()
    made = json.loads(trained.run("show", "sft", "--json", "--html", ".").out)
    assert made["html"] == "sft-curve.html"
    assert trained.run("build", "--keep-going").code == 0
    assert one.exists(), "a build leaves the page"


@pytest.mark.parametrize(("args", "says"), [
    (["rows-of-none", "--html"], "recipe.yaml has no step"),
    (["--html", "sft"], "fix: finery show sft --html"),
    (["sft", "--html", "build/t/sft/page.html"], "read-only"),
    (["sft", "--html", "rows.txt/page.html"], "can't write rows.txt/page.html"),
])  # fmt: skip
def test_a_page_that_cannot_be_made_is_an_error_with_a_fix(
    trained: Project, args: list[str], says: str
) -> None:
    code, _, err = trained.run("show", *args)
    assert code == 2
    assert says in err
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(trained: Project) -> Path:
    assert trained.run("show", "sft", "--html").code == 0
    return trained.folder / "build/t/sft-curve.html"


def test_the_page_has_the_curves_and_loads_nothing(page: Path, browser: Browser) -> None:
    browser.open(page)
    points = (
        "[...document.querySelectorAll('.drawing.log polyline')]"
        ".map(e => e.getAttribute('points').split(' ').length)"
    )
    assert browser.run(f"return {points}") == [60, 60, 3, 3, 60]
    names = "return [...document.querySelectorAll('.legend span:not(.key)')].map(e => e.innerText)"
    assert browser.run(names) == [
        "training loss", "training loss, smoothed", "validation loss", "accuracy", "learning rate",
        "★ kept, step 40",
    ]  # fmt: skip
    marked = "document.querySelectorAll('.drawing.log .field:not(.low) .star').length"
    assert browser.run(f"return {marked}") == 1
    verdict = browser.run("return document.querySelector('.findings .bad').textContent")
    assert SENTENCE in verdict
    assert "epochs: 2 is enough" in verdict
    assert browser.errors() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert len(page.read_bytes()) < 100_000


def test_a_step_is_told_where_it_is_pointed_at(page: Path, browser: Browser) -> None:
    browser.open(page)
    titles = "[...document.querySelectorAll('.drawing.log .fields title')].map(e => e.textContent)"
    found = browser.run(f"return {titles}")
    assert len(found) == 60
    assert found[39].splitlines() == [
        "optimizer step 40", "training loss: 0.5411", "training loss, smoothed: 0.544",
        "validation loss: 0.4", "accuracy: 0.7", "learning rate: 0.0001",
    ]  # fmt: skip
    at = "document.elementFromPoint(r.left + r.width * 0.66, r.top + 40)"
    box = "const r = document.querySelector('.drawing.log .field').getBoundingClientRect();"
    assert browser.run(f"{box} return {at}.textContent").startswith("optimizer step 40\n")


def test_the_page_escapes_texts_has_scales_and_zooms_without_scripts_and_fits(
    page: Path, browser: Browser
) -> None:
    browser.open(page)
    assert browser.run("return document.title") == "t: sft"
    assert BEFORE in browser.run("return document.querySelector('dl').textContent")
    assert browser.run("return document.querySelectorAll('script').length") == 0
    scales = "[...document.querySelectorAll('.drawing')].filter(e => e.checkVisibility())"
    assert browser.run(f"return {scales}.map(e => e.className)") == ["drawing log"]
    browser.run("document.querySelector('input[value=linear]').click()")
    assert browser.run(f"return {scales}.map(e => e.className)") == ["drawing linear"]
    root = "document.documentElement"
    fits = f"return {root}.scrollWidth <= {root}.clientWidth"
    assert browser.run(fits)
    ticks = "document.querySelectorAll('.drawing.linear .ticks')"
    assert browser.run(f"return {ticks}.length") == 1, "60 steps need no zoom"
    assert browser.errors() == []
    with chromium(width=500) as narrow:
        narrow.open(page)
        assert narrow.run(fits)
