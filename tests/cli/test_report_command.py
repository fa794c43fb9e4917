"""`finery report`: one page about a build, of real projects, and in Chromium."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, chromium
from conftest import LIGHT_STEPS, Project, until
from judged import RECIPE, commit, files

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=document.title='taken'>"
)
OTHER = """\
  again: {use: eval.exact, models: [shipped], rows: other}
"""
BARE = RECIPE.partition("evaluate:")[0].replace("name: t", "name: bare")
FAILING = """\
finery: 1
name: failing
plugins: [./steps.py]
models:
  base: {use: t.answers, path: known.json}
  bad: {use: t.explode, model: base}
data:
  rows: {use: data.file, path: rows.jsonl}
evaluate:
  test: {use: eval.exact, models: [base, bad], rows: rows}
"""


class Elements(HTMLParser):
    """The elements of a page: (name, attributes), and the text of scripts by type."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = kind, text + data


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A built project with a hostile row, two evaluators, and recipes that lack something."""
    t = Project(tmp_path_factory.mktemp("report"))
    recipe = RECIPE.replace(
        "train:", '  other: {use: data.file, path: other.jsonl}\ntrain:'
    ) + OTHER  # fmt: skip
    t.write(files(30, recipe))
    hostile = {"prompt": f"question {HOSTILE}", "completion": f"answer {HOSTILE}"}
    t.write({
        "rows.jsonl": json.dumps(hostile) + "\n" + (t.folder / "rows.jsonl").read_text("utf-8"),
        "other.jsonl": json.dumps({"prompt": "elsewhere", "completion": "there"}) + "\n",
        "bare.yaml": BARE, "failing.yaml": FAILING,
    })  # fmt: skip
    commit(t.folder)
    t.ran()
    t.ran("bare.yaml")
    assert t.run("build", "failing.yaml").code == 1
    return t


def report(project: Project, *args: str) -> tuple[str, dict[str, Any]]:
    """(the page, what `--json` says)."""
    done = project.run("report", "--json", *args)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    return Path(project.folder, told["html"]).read_text("utf-8"), told


def words(page: str) -> str:
    """The text of a page, without data and scripts."""
    text = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_the_page_begins_with_answers_and_says_what_was_not_measured(project: Project) -> None:
    text = words(report(project)[0])
    assert (
        "Was fine-tuning needed? (open) Not known: sft was only compared with the bare base. "
        "On 31 answers, accuracy: base 3.2 %, sft 51.6 %" in text
    )
    assert "No loss is shown, but one of up to" in text  # shipped forgets one of 31
    assert "Did the model forget what it could do before? (open) Not measured" in text
    assert (
        "Yes: 31 of 31 rows of rows copy or nearly copy a prompt of rows" in text
    )  # trained on it
    assert text.index("Was fine-tuning needed?") < text.index("Steps")


def test_the_page_loads_nothing_and_runs_only_the_script_that_its_policy_names(
    project: Project,
) -> None:
    page = report(project)[0]
    elements = Elements(page)
    policy = next(a["content"] for _, a in elements.all if "http-equiv" in a) or ""
    scripts = [text for kind, text in elements.scripts if kind == ""]
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "innerHTML" not in scripts[0]
    assert "insertAdjacentHTML" not in scripts[0]
    for name in ("src", "href", "action"):
        values = [
            a[name] for tag, a in elements.all if name in a and (tag, name) != ("link", "href")
        ]
        assert values == []
    assert not [a for _, a in elements.all if any(name.startswith("on") for name in a)]
    assert "<img src=x" not in page
    (group, _) = [json.loads(t) for kind, t in elements.scripts if kind == "application/json"]
    texts = {label: text for label, text, *_ in group["records"][0]["fields"]}
    assert texts["prompt"] == f"question {HOSTILE}"  # as data, whole


def test_steps_costs_and_origin_are_told(project: Project) -> None:
    page, told = report(project)
    text = words(page)
    assert set(told["steps"].values()) == {"built"}
    assert re.search(r"git checkout [0-9a-f]{40} finery build recipe.yaml", text)
    assert "time of all steps" in text
    assert "use: t.learn, model: base" in text  # the recipe itself


def test_the_verdict_comes_first_and_the_scores_second(project: Project) -> None:
    _, told = report(project, "--html", "order.html")
    page = (project.folder / told["html"]).read_text("utf-8")
    heads = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert heads[:2] == ["In short", "Scores and answers"]
    (verdict,) = re.findall(r'<p class="verdict ship bad">(.*?)</p>', page)
    assert verdict == "don&#39;t ship yet: shipped has learned from the rows that test judges it by"
    assert re.findall(r'</p>\n<p class="soft">(.*?)</p>', page) == [
        "1 problem. Are test rows among the training rows? Yes: 31 of 31 rows of rows copy or "
        "nearly copy a prompt of rows."
    ]


def test_a_class_that_no_training_row_has_is_in_the_verdict_and_a_note(tmp_path: Path) -> None:
    rows = "rows: {use: data.file, path: rows.jsonl}"
    recipe = RECIPE.replace(rows, f"{rows}\n  more: {{use: data.file, path: more.jsonl}}")
    recipe = recipe.replace("use: eval.exact", "use: eval.classification")
    recipe = recipe.replace("shipped], rows: rows", "shipped], rows: more")
    t = Project(tmp_path)
    lines = [{"prompt": f"question {n}", "completion": "refund"} for n in range(9)]
    other = [{"prompt": f"what {n}", "completion": "chargeback"} for n in range(3)]
    t.write(files(recipe=recipe))
    t.write({
        "rows.jsonl": "".join(json.dumps(row) + "\n" for row in lines),
        "more.jsonl": "".join(json.dumps(row) + "\n" for row in [*lines[:4], *other]),
    })  # fmt: skip
    t.ran()
    text = "test expects 'chargeback' in 3 rows, but no row that sft learned from has it"
    assert f"{text}." in t.run("report", "--format", "markdown", "-o", "-").out
    assert f"note: {text}" in " ".join(t.run("check").out.split())


def test_a_gate_that_hardly_any_model_misses_is_said_to_prove_little(tmp_path: Path) -> None:
    t = Project(tmp_path)
    gate = 'rows: rows, require: {sft.accuracy: "> base.accuracy"}}'
    t.write(files(recipe=RECIPE.replace("rows: rows}\n", f"{gate}\n")))
    (t.folder / "known.json").write_text("{}")
    t.ran()
    text = "sft.accuracy &gt; base.accuracy proves little: the bound is 0.0 %, so one row is enough"
    assert t.run("report").code == 0
    assert text in (t.folder / "build/t/report.html").read_text("utf-8")
    out = t.run("report", "--format", "markdown", "-o", "-").out
    assert re.search(r"^\| \? \| test \| .*proves little", out, re.MULTILINE)
    t.edit("recipe.yaml", "> base.accuracy", "> 0.1")
    met = "| ? | Does it meet its requirements? | Met, but this proves little: those of test. sft"
    assert met in out
    assert "proves little" not in t.run("report", "--format", "markdown", "-o", "-").out


def test_a_failed_step_is_named_first_and_what_waits_for_it_is_blocked(project: Project) -> None:
    page, told = report(project, "failing.yaml")
    assert told["steps"] == {"base": "built", "rows": "built", "bad": "failed", "test": "blocked"}
    text = words(page)
    assert text.index("Is the build complete? (no) No. Failed: bad") < text.index("Steps")
    assert "<script>alert(1)" not in page


def test_what_a_failed_gate_blocks_is_not_built_though_another_recipe_built_it(
    project: Project,
) -> None:
    gate = """
evaluate:
  first: {use: eval.exact, models: [base], rows: rows}
  second: {use: eval.exact, models: [base], rows: rows, needs: first}
"""
    recipe = FAILING.replace("name: failing", "name: gate").partition("evaluate:")[0] + gate
    recipe = recipe.replace("  bad: {use: t.explode, model: base}\n", "")
    required = recipe.replace(
        "rows: rows}\n  second", "rows: rows, require: {base.accuracy: '>= 1'}}\n  second"
    )
    project.write({"open.yaml": recipe.replace("gate", "open"), "gate.yaml": required})
    project.ran("open.yaml")
    assert project.run("build", "gate.yaml").code == 1
    page, told = report(project, "gate.yaml")
    assert told["steps"] == {
        "base": "built",
        "rows": "built",
        "first": "failed",
        "second": "blocked",
    }
    assert "waits for first, which failed" in words(page)


def test_an_evaluator_has_a_page_by_the_same_code(project: Project) -> None:
    done = project.run("show", "test", "--html", "test.html")
    assert done.code == 0, done.err
    page = (project.folder / "test.html").read_text("utf-8")
    assert "On the same rows" in words(page)
    assert "<img src=x" not in page


def test_a_running_build_is_followed_until_it_ends(project: Project) -> None:
    mark, page = project.folder / "go.on", project.folder / "live.html"
    wait = f"while not Path({str(mark)!r}).exists(): __import__('time').sleep(0.05)"
    steps = {"first": "pass", "second": f"job.progress(1, 3, 'halfway')\n{wait}"}
    data = {
        name: {"use": "steps.script", "code": code} | ({"rows": "first"} if name != "first" else {})
        for name, code in steps.items()
    }
    recipe = {"finery": 1, "name": "live", "plugins": ["./light.py"], "data": data}
    project.write({"live.yaml": json.dumps(recipe), "light.py": LIGHT_STEPS.read_text("utf-8")})
    build = project.start("build", "live.yaml")
    until(lambda: "still running" in project.run("runs", "live.yaml").out)
    watch = project.start("report", "live.yaml", "--watch", "--html", str(page))
    until(lambda: page.exists() and "second" in page.read_text("utf-8"))
    assert '<meta http-equiv="refresh" content="5">' in page.read_text("utf-8")
    mark.touch()
    build.communicate(timeout=120)
    _, err = watch.communicate(timeout=120)  # ends by itself
    assert (watch.returncode, build.returncode) == (0, 0), err
    assert "1 built, 1 running; second" in err
    assert 'http-equiv="refresh"' not in page.read_text("utf-8")
    assert "2 steps: 2 built" in words(page.read_text("utf-8"))


# -- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(390, 844) as opened:
        yield opened


SHOWN = "return document.querySelector('.answers [role=status]').textContent"


def choose(browser: Browser, label: str, value: str) -> str:
    """Set a filter of the first list as a person does; what its count says then."""
    browser.run(f"""
        const form = document.querySelector('.answers form');
        const labels = [...form.querySelectorAll('label')];
        const label = labels.find((l) => l.firstChild.textContent === {label!r});
        const field = label.querySelector('select, input');
        field.value = {value!r};
        field.dispatchEvent(new Event('input', {{bubbles: true}}));
    """)
    return str(browser.run(SHOWN))


@pytest.mark.slow
def test_hostile_text_stays_text_and_filters_work_in_chromium(
    project: Project, browser: Browser
) -> None:
    _, told = report(project, "--html", "browser.html")
    page = project.folder / told["html"]
    browser.open(page)
    assert browser.run("return document.title") == "t: report of a build"
    assert browser.errors() == []
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [page.resolve().as_uri()]
    assert browser.run(SHOWN) == "15 of 31"  # base wrong, sft right
    assert choose(browser, "Show", "all") == "31 of 31"
    assert choose(browser, "Text or id", "ONERROR") == "1 of 31"
    text = browser.run("return document.querySelector('.answers li .text').textContent")
    assert text == f"question {HOSTILE}"
    assert browser.run("return document.images.length") == 0
    assert choose(browser, "Text or id", "") == "31 of 31"
    assert choose(browser, "First model", "1") == "31 of 31"
    assert choose(browser, "Second model", "2") == "31 of 31"
    assert choose(browser, "Show", "lost") == "1 of 31"  # what shipped forgets
    assert browser.errors() == []


@pytest.mark.slow
def test_the_page_fits_a_phone_and_is_used_by_keyboard(project: Project, browser: Browser) -> None:
    _, told = report(project, "--html", "phone.html")
    browser.open(project.folder / told["html"])
    width = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    # A table that scrolls has a shadow at its edge, hidden by a cover where it ends.
    layers = browser.run("""
        const style = getComputedStyle(document.querySelector('.scroll'));
        return [style.backgroundAttachment, style.overflowX]""")
    assert layers == ["local, local, scroll, scroll", "auto"]
    assert not browser.run("return document.querySelector('.answers').open")  # folded
    browser.run("document.querySelector('.answers').open = true")
    choose(browser, "Show", "all")
    more = "const button = document.querySelector('.answers > button');"
    for shown in (10, 20, 30):
        count = "return document.querySelectorAll('.answers ol')[0].children.length"
        assert browser.run(count) == shown
        browser.run(f"{more} button.focus(); button.click()")
    assert browser.run(count) == 31
    assert browser.run("return document.activeElement.tagName") == "LI"  # the first new answer
    assert browser.run(f"{more} return button.hidden")
    unreachable = browser.run("""
        return [...document.querySelectorAll('select, input, button, summary, [tabindex="0"]')]
            .filter((e) => e.tabIndex < 0 && !e.hidden).length""")
    assert unreachable == 0
    assert browser.errors() == []
