"""One faulty plugin breaks nobody else, and its errors name it."""

import json
import signal
from collections.abc import Callable

import pytest
from conftest import MakeProject, Project, until
from installing import write_plugin

from finery import Engine, Step
from finery.step.methods import OF_ENGINES, OF_STEPS, OF_VIEWS
from finery.views import View

RECIPE = """
finery: 1
name: t
data:
  a: {use: data.file, path: rows.jsonl}
"""
ROWS = "".join(json.dumps({"prompt": f"p{n}", "completion": "a"}) + "\n" for n in range(4))
STEP = """
from finery import *
from finery import hookimpl

class X(Step):
    "Pass rows on."
    rows: Dataset = takes(help="The rows.")

    def run(self, job) -> Dataset:
        return Dataset.write(job.out, self.rows)

{}

@hookimpl
def finery_steps():
    return {{"shop.x": X}}
"""
USES = f"{RECIPE}  b: {{use: shop.x, rows: a}}\n"
HOOK = "@hookimpl\ndef {}:\n    {}\n"
RAISES = 'raise ValueError("no")'
Run = Callable[..., str]


@pytest.fixture
def t(project: MakeProject) -> Project:
    """A project of one step that is finery's own."""
    return project({"recipe.yaml": RECIPE, "rows.jsonl": ROWS})


def warned(t: Project, command: str, *texts: str) -> None:
    """The command succeeds with one warning, which names the plugin, its distribution and a fix."""
    code, _, err = t.run(command)
    assert code == 0
    assert err.count("warning:") == 1
    for text in ("plugin 'shop' (shop-shop 1.5)", "finery goes on without it", "\n  fix: ", *texts):
        assert text in err


def refused(t: Project, command: str, *texts: str, code: int = 2) -> None:
    """The command ends with an error in words."""
    ran = t.run(*command.split())
    assert (ran.code, "Traceback" in ran.err) == (code, False), ran.err
    for text in texts:
        assert text in ran.err


# -- a recipe that doesn't use the plugin ---------------------------------------------------------


@pytest.mark.parametrize(("hook", "body", "text"), [
    ("finery_checks(graf)", "return []", "'graf'"),
    ("finery_steps()", 'return {"data.file": "x:Y"}', "'data.file' is provided twice"),
    ("finery_steps()", "return 5", "(shop-shop 1.5) must return a mapping"),
    ("finery_steps()", RAISES, "finery_steps of plugin 'shop' (shop-shop 1.5) fails: ValueError"),
    ("finery_commands()", 'return {"build": "x:y"}', "'build' is provided twice"),
])  # fmt: skip
def test_a_plugin_that_cannot_be_used_is_left_out(
    t: Project, hook: str, body: str, text: str
) -> None:
    write_plugin(t, "shop", HOOK.format(hook, body))
    for command in ("check", "build"):
        warned(t, command, text)
    t.edit("recipe.yaml", "name: t\n", "name: t\nplugins: [./other.py]\n")
    t.write({"other.py": STEP.format("")})
    t.edit("recipe.yaml", "rows.jsonl}\n", "rows.jsonl}\n  b: {use: shop.x, rows: a}\n")
    refused(t, "build", text, "shop-shop 1.5")


@pytest.mark.parametrize(("hook", "body", "text"), [
    ("finery_checks(graph)", RAISES, "site/shop_shop.py:4: finery_checks of plugin"),
    ("finery_checks(graph)", "yield 3", "returns 3, which isn't a note"),
    ("finery_checks(graph)", "return 3", "TypeError"),
])  # fmt: skip
def test_notes_of_others_that_fail_are_left_out(
    t: Project, hook: str, body: str, text: str
) -> None:
    write_plugin(t, "shop", HOOK.format(hook, body))
    for command in ("check", "plan"):
        warned(t, command, text)
    assert t.run("build").code == 0


@pytest.mark.parametrize("body", ["return 3", "return {'shop-note': 3}", RAISES])
def test_kinds_of_notes_that_are_wrong_are_left_out(t: Project, body: str) -> None:
    write_plugin(t, "shop", HOOK.format("finery_notes()", body))
    warned(t, "check", "finery_notes of plugin")
    assert t.run("build").code == 0
    write_plugin(t, "shop", STEP.format(HOOK.format("finery_notes()", body)))
    t.write({"recipe.yaml": USES})
    refused(t, "check", "finery_notes of plugin 'shop' (shop-shop 1.5)")


@pytest.mark.parametrize("body", [RAISES, "import sys; sys.exit(3)"])
def test_a_hook_that_observes_a_build_does_not_end_it(t: Project, body: str) -> None:
    write_plugin(t, "shop", HOOK.format("finery_build_event(event)", body))
    warned(t, "build", "site/shop_shop.py:4: finery_build_event of plugin")
    assert t.run("show", "a").code == 0


def test_only_a_step_can_be_wrapped(t: Project) -> None:
    write_plugin(t, "shop", "@hookimpl(wrapper=True)\ndef finery_build_event(event):\n    yield\n")
    warned(t, "build", "finery_build_event of plugin 'shop' (shop-shop 1.5) is a wrapper")


# -- what acts on every step is used by every recipe ----------------------------------------------


@pytest.mark.parametrize("returned", ["5", "{'A': 5}", "1 / 0"])
def test_variables_of_workers_must_be_texts(t: Project, returned: str) -> None:
    hook = HOOK.format("finery_worker_environment(use)", f"return {returned}")
    write_plugin(t, "shop", hook)
    refused(t, "build", "finery_worker_environment of plugin 'shop' (shop-shop 1.5)", "fix: repair")


def test_a_wrapper_that_forgets_to_return_is_named(t: Project) -> None:
    hook = "@hookimpl(wrapper=True)\ndef finery_run_step(step):\n    yield\n"
    write_plugin(t, "shop", hook)
    refused(
        t, "build", "finery_run_step of plugin 'shop' (shop-shop 1.5) returns nothing, though",
        "fix: return what `yield` returns", code=1,
    )  # fmt: skip


def test_a_wrapper_without_yield_is_named(t: Project) -> None:
    write_plugin(t, "shop", "@hookimpl(wrapper=True)\ndef finery_run_step(step):\n    return 3\n")
    refused(t, "check", "a hook of plugin 'shop' (shop-shop 1.5) is wrong", "not a generator")


# -- a recipe that uses the plugin ----------------------------------------------------------------


def test_notes_of_a_used_plugin_that_fail_are_an_error(t: Project) -> None:
    write_plugin(t, "shop", STEP.format(HOOK.format("finery_checks(graph)", RAISES)))
    t.write({"recipe.yaml": USES})
    refused(t, "check", "finery_checks of plugin 'shop' (shop-shop 1.5) fails: ValueError: no")


def test_a_failing_hook_of_a_used_plugin_loses_no_build(t: Project) -> None:
    write_plugin(t, "shop", STEP.format(HOOK.format("finery_build_event(event)", RAISES)))
    t.write({"recipe.yaml": USES})
    refused(t, "build", "2 built", "error: finery_build_event of plugin 'shop'", code=1)
    assert t.run("plan").err == ""
    assert '"cached"' in t.run("plan", "--json").out


METHODS = [
    ("cache_key(self)", "return {'a': 1}", "of shop.x returns {'a': 1}, which isn't a Key"),
    ("cache_key(self)", "return Key(facts=[1])", "a Key with a wrong value: Expected `object`"),
    ("cache_key(self)", "return Key(packages='torch')", "a Key with a wrong value"),
    ("cache_key(self)", RAISES, "`cache_key` of shop.x failed: ValueError: no"),
    ("resources(self)", "return 4", "`resources` of shop.x returns 4, which isn't a Resources"),
    ("outputs(self)", "return {'z': 3}", "`outputs` of shop.x returns {'z': 3}"),
    ("advise(self, inputs)", "yield 3", "`advise` of shop.x returns 3, which isn't a Note"),
    ("check(self)", "len(self.rows)", "`check` reads an input, which may not be built yet"),
    ("check(self)", "[*self.rows]", "`check` reads an input, which may not be built yet"),
    ("check(self)", "self.rows.meta['rows']", "if it reads an input, do that in `examine(look)`"),
    ("check(self)", RAISES, "`check` failed: ValueError: no"),
    ("examine(self, look)", "look.nothing", "`examine` failed: AttributeError"),
    ("__post_init__(self)", "1 / 0", "`__post_init__` of shop.x failed: ZeroDivisionError"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "body", "text"), METHODS)
def test_a_method_of_a_step_fails_in_words(t: Project, method: str, body: str, text: str) -> None:
    code = STEP.replace("    def run", f"    def {method}:\n        {body}\n\n    def run")
    t.write({"recipe.yaml": USES.replace("name: t", "name: t\nplugins: [./shop.py]")})
    t.write({"shop.py": code.replace("\n{}\n", "").replace("{{", "{").replace("}}", "}")})
    placed = "" if "__post" in method else "shop.py:"
    refused(t, "check", text, placed if "`check` reads" not in text else "fix: read inputs")
    t.write({"recipe.yaml": RECIPE})
    assert t.run("build").code == 0


@pytest.mark.parametrize(("methods", "command", "text"), [
    (["floating_name(self): return 3"], "build", "`floating_name` of shop.x returns 3"),
    (["floating_name(self): return 'main'", "pin_name(self, folder): 1 / 0"],
     "build", "`pin_name` of shop.x failed: ZeroDivisionError"),
    (["floating_name(self): return 'main'", "pin_name(self, folder): pass"],
     "build", "`pin_name` of shop.x returns None, which isn't a text"),
    (["provenance(self, name, graph, results): 1 / 0"], "build", "`provenance` of shop.x failed"),
    (["provenance(self, name, graph, results): return {'a': {1}}"], "build", "which isn't JSON"),
])  # fmt: skip
def test_a_method_that_a_build_calls_fails_in_words(
    t: Project, methods: list[str], command: str, text: str
) -> None:
    added = "".join(f"    def {method}\n\n" for method in methods)
    write_plugin(t, "shop", STEP.format("").replace("    def run", f"{added}    def run"))
    t.write({"recipe.yaml": USES})
    refused(t, command, text)
    t.write({"recipe.yaml": RECIPE})
    assert t.run("build").code == 0


def test_places_of_rows_that_fail_are_a_note(t: Project) -> None:
    source = STEP.format("").replace('rows: Dataset = takes(help="The rows.")', "")
    source = source.replace("self.rows)", "[{'id': 'q', 'prompt': 'p'}])")
    t.write({"recipe.yaml": RECIPE.replace("name: t", "name: t\nplugins: [./shop.py]")})
    t.edit("recipe.yaml", "data:\n", "data:\n  b: {use: shop.x}\n")
    for body, text in (("1 / 0", "failed: ZeroDivisionError"), ("return [3]", "returns 3, which")):
        traced = f"    def trace_rows(self, ids, job): {body}\n\n    def run"
        t.write({"shop.py": source.replace("    def run", traced)})
        assert t.run("build").code == 0
        code, out, err = t.run("show", "b", "--row", "q")
        assert (code, err) == (0, "")
        assert "note: b can't find where rows were read: " in out
        assert f"`trace_rows` of shop.x {text}" in out


@pytest.mark.parametrize(("returned", "text"), [
    ("Dataset(job.out)", "returned a Dataset with None as 'rows' of its meta, which must be a num"),
    ("Dataset.write(job.out, self.rows, meta={'a': {1}})", "a Dataset whose meta isn't JSON: Obj"),
    ("Dataset.write(job.out, self.rows, meta={'run': 3})", "with 3 as 'run' of its meta, which mu"),
])  # fmt: skip
def test_facts_that_finery_could_not_read_are_refused(t: Project, returned: str, text: str) -> None:
    code = STEP.format("").replace("Dataset.write(job.out, self.rows)", returned)
    t.write({"recipe.yaml": USES.replace("name: t", "name: t\nplugins: [./shop.py]")})
    t.write({"shop.py": code})
    refused(t, "build", "step type 'shop.x' ", text, code=1)


# -- engines and views -----------------------------------------------------------------------------

ENGINE = """
class M(Step):
    "A model."

    def run(self, job) -> Model:
        return Model(job.out, meta={"format": "shop"})

class Ask(Step, engines=True):
    "Ask it."
    model: Model = takes(help="The model.")

    def run(self, job) -> Dataset:
        (answer,) = job.engine(self.model).generate([Request([{"role": "user", "content": "q"}])])
        return Dataset.write(job.out, [{"prompt": "q", "completion": answer.text}])

class Shop(Engine):
    "Echo."

    def generate(self, requests, sampling):
        return [Completion(text="a", finish_reason="stop", prompt_tokens=1, completion_tokens=1)]

CHANGED
@hookimpl
def finery_steps():
    return {"shop.m": M, "shop.ask": Ask}

@hookimpl
def finery_engines():
    return {"shop": Shop}
"""
ASKS = RECIPE.replace("data:", "models:\n  m: {use: shop.m}\ndata:\n  b: {use: shop.ask, model: m}")


@pytest.mark.parametrize(("code", "text"), [
    ("", ""),
    ("Shop.cache_key = classmethod(lambda cls: 3)", "`cache_key` of Shop returns 3, which isn't a"),
    ("Shop.uses_gpu = classmethod(lambda cls: 1 / 0)", "`uses_gpu` of Shop failed: ZeroDivisionE"),
    ("Shop = 3", "engine 'shop' of plugin 'shop' (shop-shop 1.5) is not an Engine: 3"),
    ("Shop.generate = lambda self, *of: [Completion(text=None, finish_reason='stop', "
     "prompt_tokens=1, completion_tokens=1)]", "a Completion with a wrong value: Expected `str`"),
])  # fmt: skip
def test_an_engine_fails_in_words(t: Project, code: str, text: str) -> None:
    own = ENGINE.replace("CHANGED", f"def changed(): pass\n{code}")
    write_plugin(t, "shop", f"from finery import *\n{own}")
    t.write({"recipe.yaml": ASKS})
    if text:
        refused(t, "build", text)
        t.write({"recipe.yaml": RECIPE})
    ran = t.run("build")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(("method", "arguments", "text"), [
    ("data(self, output, detail): 1 / 0", ["--json"], "`data` of Shown failed: ZeroDivisionError"),
    ("data(self, output, detail): return [3]", ["--json"], "`data` of Shown returns [3], which"),
    ("describe(self, outputs, context): return [3]", [], "(shop.py): TypeError: 3 is neither a se"),
])  # fmt: skip
def test_a_view_fails_in_words(t: Project, method: str, arguments: list[str], text: str) -> None:
    view = f"from finery.views import View\n\nclass Shown(View):\n    def {method}\n"
    hook = HOOK.format("finery_views()", 'return {"Dataset/shop": Shown}')
    meta = STEP.replace("self.rows)", 'self.rows, meta={{"format": "shop"}})')
    t.write({"shop.py": f"from finery import hookimpl\n{view}{meta.format(hook)}"})
    t.write({"recipe.yaml": USES.replace("name: t", "name: t\nplugins: [./shop.py]")})
    assert t.run("build").code == 0
    code, out, err = t.run("show", "b", *arguments)
    assert (code, "Traceback" in err) == (2 if arguments else 0, False)
    assert text in (err if arguments else out)


@pytest.mark.parametrize(("body", "text"), [
    ("return [1]", "step type 'shop.x' returned a list, [1], but declares Dataset"),
    ("pass", "step type 'shop.x' returned None, but declares Dataset"),
    ('job.metric("loss", None, 1)', "job.metric('loss', None, 1) reports what isn't a number"),
])  # fmt: skip
def test_what_a_step_returns_and_reports_is_checked(t: Project, body: str, text: str) -> None:
    code = STEP.replace("return Dataset.write(job.out, self.rows)", body).format("")
    t.write({"recipe.yaml": USES.replace("name: t", "name: t\nplugins: [./shop.py]")})
    t.write({"shop.py": code})
    refused(t, "build", text, code=1)


# -- the version of the API -----------------------------------------------------------------------


def test_a_plugin_for_another_api_is_left_out(t: Project) -> None:
    write_plugin(t, "shop", STEP.format(""))
    points = "site/shop_shop-1.5.dist-info/entry_points.txt"
    t.edit(points, "shop_shop", "shop_shop [api-1,api-2]")
    assert "shop  shop-shop 1.5, API 1, 2\n" in t.run("plugins").out
    t.edit(points, "api-1,", "")
    warned_text = "warning: plugin 'shop' of shop-shop 1.5 is for API 2 of finery, and finery 0."
    assert warned_text in t.run("check").err
    t.write({"recipe.yaml": USES})
    refused(
        t, "check", "error: plugin 'shop' of shop-shop 1.5 is for API 2 of finery", "fix: install"
    )


def test_a_plugin_should_state_its_api(t: Project) -> None:
    write_plugin(t, "shop", '"""A shop."""\n' + STEP.format(""))
    ran = t.run("plugins", "shop", "--check")
    assert ran.code == 1
    assert 'fix: write shop = "shop_shop [api-1]"' in ran.out


def test_a_name_that_moved_is_found_for_a_year(t: Project) -> None:
    t.write({"shop.py": f"from finery import Graph\n{STEP.format('')}"})
    t.write({"recipe.yaml": USES.replace("name: t", "name: t\nplugins: [./shop.py]")})
    t.env["PYTHONWARNINGS"] = "default"
    ran = t.run("check")
    assert ran.code == 0
    assert "shop.py:1: DeprecationWarning: finery_file_shop_" in ran.err
    assert " uses finery.Graph: from finery 0.2 (" in ran.err
    assert ran.err.count("DeprecationWarning") == 1


def test_each_method_that_is_checked_exists() -> None:
    for base, checks in ((Step, OF_STEPS), (Engine, OF_ENGINES), (View, OF_VIEWS)):
        assert checks.keys() <= {*dir(base)}


# -- executors ------------------------------------------------------------------------------------

EXECUTOR = """
from finery.execute.executor import Died, Done, Failed
from finery.execute.local import LocalExecutor

class Cloud(LocalExecutor):
    def left(self): return []
    def how_to_cancel(self): return ""
    def cancel(self): pass

{}

@hookimpl
def finery_executors():
    return {{"cloud": Cloud}}
"""
POLL = """
    def poll(self, timeout):
        for task, event in super().poll(timeout):
            {}
"""
IN_CLOUD = "executor 'cloud' of plugin 'shop' (shop-shop 1.5)"


@pytest.mark.parametrize(("method", "text"), [
    ("def __init__(self, jobs): " + RAISES, f"{IN_CLOUD} fails: ValueError"),
    ("class Options: pass", "has `Options` that aren't a msgspec.Struct"),
    ("def has_room(self, need): " + RAISES, f"`has_room` of {IN_CLOUD} failed: ValueError: no"),
    ("def has_room(self, need): pass", f"`has_room` of {IN_CLOUD} returns None"),
    ("def start(self, task): " + RAISES, f"`start` of {IN_CLOUD} failed: ValueError: no"),
    ("def poll(self, timeout): " + RAISES, f"`poll` of {IN_CLOUD} failed: ValueError: no"),
    ("def poll(self, timeout): pass", f"`poll` of {IN_CLOUD} returns None"),
    ("def poll(self, timeout): return [5]", f"`poll` of {IN_CLOUD} returns 5, which isn't a task"),
    (POLL.format("yield task, {}"), "isn't a task with one of its events: KeyError: 'event'"),
    (POLL.format('yield task, {"event": "over"}'), "one of its events: KeyError: 'over'"),
    (POLL.format('yield task, {"event": "died"}'), "missing required field `code`"),
    (POLL.format('yield task, Failed(event="failed", error={})'), "its events: KeyError: 'error'"),
    (POLL.format('yield task, Done(event="done", outputs={"": 5}, seconds=1)'), "`object`"),
    (POLL.format("yield task, event; yield task, event"), "an event of step 'a', which doesn't"),
    ("def close(self): " + RAISES, f"`close` of {IN_CLOUD} failed: ValueError: no"),
])  # fmt: skip
def test_executors_fail_in_words(t: Project, method: str, text: str) -> None:
    write_plugin(t, "shop", EXECUTOR.format(f"    {method}"))
    refused(t, "build --executor cloud", text)
    assert t.run("build").code == 0


@pytest.mark.parametrize(("body", "text"), [
    ("def submit(self, tasks, calls): " + RAISES, f"`submit` of {IN_CLOUD} failed: ValueError: no"),
    ("def submit(self, tasks, calls): return [5]", f"`submit` of {IN_CLOUD} returns [5], which"),
    ("def submit(self, tasks, calls): return []", "`submit` of executor 'cloud' returns []"),
])  # fmt: skip
def test_jobs_that_cannot_be_submitted_fail_their_step(t: Project, body: str, text: str) -> None:
    write_plugin(t, "shop", DETACHED.format(body))
    refused(t, "build --executor cloud", text, "0 of 1 steps are built")
    assert not [*(t.folder / ".finery/work").iterdir()]


def test_a_job_is_kept_if_its_executor_fails(t: Project) -> None:
    """It may run, also if the engine's answer can't be understood or nothing can cancel it."""
    submits = 'def submit(self, tasks, calls): return ["7"]'
    write_plugin(t, "shop", DETACHED.format(f"{submits}\n    def close(self): {RAISES}"))
    process = t.start("build", "--executor", "cloud")
    jobs = t.folder / ".finery/work"
    until(lambda: any('"id":"7"' in file.read_text() for file in jobs.glob("*.job/job.json")))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert f"`close` of {IN_CLOUD} failed: ValueError: no" in err
    assert "Traceback" not in err
    for states, text in (
        (RAISES, "failed: ValueError: no"),
        ("return 5", "returns 5, which isn't"),
    ):
        body = f"{submits}\n    def states(self, ids): {states}"
        write_plugin(t, "shop", DETACHED.format(body))
        refused(t, "build --executor cloud", f"`states` of {IN_CLOUD} {text}", "may still run")
        assert [*jobs.glob("*.job")]


DETACHED = """
from finery.advanced import JOB_RUNS, DetachedExecutor

class Cloud(DetachedExecutor):
    name, title = "cloud", "Cloud"
    def states(self, ids): return dict.fromkeys(ids, JOB_RUNS)
    def end(self, ids): pass
    def cancel_words(self, ids): return "kill"
    {}

@hookimpl
def finery_executors():
    return {{"cloud": Cloud}}
"""


# -- what steps and hooks name ---------------------------------------------------------------------


@pytest.mark.parametrize("body", ['use = "other"', "def use(self): return 1"])
def test_a_step_type_cannot_override_its_name(t: Project, body: str) -> None:
    write_plugin(t, "shop", STEP.format("").replace("    rows:", f"    {body}\n    rows:"))
    t.write({"recipe.yaml": USES})
    refused(
        t, "check", "recipe.yaml:6:", "step type 'shop.x': shop_shop.X overrides `use`, the name"
    )


@pytest.mark.parametrize(
    "refs",
    ["{1: self.rows}", '{"a/b": self.rows}', '{"": self.rows}', '{"base": 5}', '{"b": None}'],
)
def test_wrong_refs_fail_the_step(t: Project, refs: str) -> None:
    made = (
        f"made = Dataset.write(job.out, self.rows)\n        made.refs = {refs}\n        return made"
    )
    write_plugin(
        t, "shop", STEP.format("").replace("return Dataset.write(job.out, self.rows)", made)
    )
    t.write({"recipe.yaml": USES})
    refused(t, "build", "step type 'shop.x' returned a Dataset with ", " in its refs", code=1)
    assert "1 of 2 steps are built" in t.run("build").err


COPIES = """
def complete(title, artifact, folder, refs):
    {}

@hookimpl
def finery_copies():
    return {{"shop": complete}}
"""


@pytest.mark.parametrize(("body", "code", "text"), [
    ('(folder / "HOW").write_text(f"{title} {artifact.meta} {refs}"); yield "read"', 0, "read"),
    (RAISES, 2, "copies of 'shop' of plugin 'shop' (shop-shop 1.5) fails: ValueError: no"),
    ("return 5", 2, "copies of 'shop' of plugin 'shop' (shop-shop 1.5) fails: TypeError"),
])  # fmt: skip
def test_copies_are_completed_by_a_plugin(t: Project, body: str, code: int, text: str) -> None:
    """By the hook `finery_copies`, for the formats that it names."""
    step = STEP.format("").replace("-> Dataset", "-> Model").replace(
        "return Dataset.write(job.out, self.rows)",
        '(job.out / "w").touch()\n        return Model(job.out, meta={"format": "shop"})',
    )  # fmt: skip
    write_plugin(t, "shop", step + COPIES.format(body))
    t.write({"recipe.yaml": f"{RECIPE}models:\n  b: {{use: shop.x, rows: a}}\n"})
    assert t.run("build").code == 0
    ran = t.run("export", "b", "copy")
    assert (ran.code, text in ran.out + ran.err) == (code, True), ran
    assert "Traceback" not in ran.err
    how = t.folder / "copy" / "HOW"
    assert (how.read_text() if how.exists() else "") == (
        "b {'format': 'shop'} {}" if code == 0 else ""
    )
    assert (t.folder / "copy").exists() == (code == 0)
