"""`eval.tools` with `execute`: calls are executed, and what they do is judged."""

import os
from pathlib import Path
from typing import Any

import pytest
from callers import Answer, call, caller, calls, job

from finery import DataError, Dataset, File, Look, Model, StepError, UsageError
from finery.testing import TestJob, dataset
from finery_eval.functions import Execute
from finery_eval.steps.tools import ToolCalls
from finery_eval.view.answers import reasons

SHOP = '''
import os
import time


class Shop:
    """Orders that can be cancelled."""

    def __init__(self, row):
        self.orders = dict(row.get("orders", {"A1": "open", "B2": "open"}))
        self._looked = 0

    def look_up(self, order):
        self._looked += 1
        return {"state": self.orders[order], "looked": self._looked}

    def cancel(self, order, reason=""):
        print("cancelling", order)
        if self.orders[order] == "sent":
            raise ValueError("it is on its way")
        self.orders[order] = "cancelled"
        return "done"

    def wait(self, seconds):
        self.orders["slow"] = "yes"
        time.sleep(seconds)

    def leave(self):
        os._exit(3)
'''


def tool(name: str, **properties: str) -> dict[str, Any]:
    """A tool of the shop; properties: argument → type."""
    members = {key: {"type": kind} for key, kind in properties.items()}
    schema = {"type": "object", "properties": members, "required": [*properties][:1]}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [
    tool("look-up", order="string"),
    tool("cancel", order="string", reason="string"),
    tool("wait", seconds="number"),
    tool("leave"),
]
LOOK, CANCEL = call("look-up", order="A1"), call("cancel", order="A1")


def task(ask: str, *turns: Any, **more: Any) -> dict[str, Any]:
    """A row: the calls of each turn, then its answer."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": ask}]
    for turn in turns:
        if isinstance(turn, str):
            messages.append({"role": "assistant", "content": turn})
        else:
            messages += [
                {"role": "assistant", "content": "", "tool_calls": [turn]},
                {"role": "tool", "content": "…", "tool_call_id": turn["id"]},
            ]
    return {"messages": messages, "tools": TOOLS, **more}


def script(*turns: Any) -> Answer:
    """A model that makes these turns, one after the other."""
    replies = [calls(turn) if isinstance(turn, dict) else turn for turn in turns]

    def answer(messages: Any, tools: Any) -> Any:
        return replies[sum(message["role"] == "assistant" for message in messages)]

    return answer


def evaluator(folder: Path, rows: list[dict[str, Any]], *models: Model, **settings: Any) -> Any:
    """The step; settings: of `execute`, those of the step with an underscore."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shop.py").write_text(settings.pop("code", SHOP))
    own = {name[1:]: settings.pop(name) for name in [*settings] if name.startswith("_")}
    file = File(["shop.py"], [folder / "shop.py"])
    execute = Execute(**{"file": file, "factory": "Shop", **settings})
    return ToolCalls(
        models=list(models), rows=dataset(folder / "rows", rows), execute=execute, **own
    )


def report(folder: Path, rows: list[dict[str, Any]], *models: Model, **settings: Any) -> Any:
    """(report, predictions) of an evaluation."""
    metrics = evaluator(folder, rows, *models, **settings).run(job(folder / "job"))
    return metrics.report().data(), list(metrics.predictions())


def test_slices_that_no_row_has_are_refused_before_a_model_is_asked(tmp_path: Path) -> None:
    def answer(messages: Any, tools: Any) -> Any:
        pytest.fail("the model is asked")

    rows = [task("Cancel A1.", CANCEL, "Done.")]
    with pytest.raises(DataError, match="no row has the column or field 'shop'"):
        report(tmp_path, rows, caller("model", answer), _slices=["shop"])


def test_what_the_calls_do_is_judged(tmp_path: Path) -> None:
    row = task("Cancel A1.", LOOK, CANCEL, "It is cancelled.")
    direct = caller("direct", script(CANCEL, "Done!"))
    idle = caller("idle", script("It is cancelled."))
    found, predictions = report(tmp_path, [row], direct, idle)
    assert found["scores"] == {
        "direct": {"accuracy": 1, "state": 1, "finished": 1, "valid": 1},
        "idle": {"accuracy": 0, "state": 0, "finished": 1},
    }
    assert predictions[0]["prediction"] == 'cancel(order="A1")\nDone!'
    assert predictions[0]["steps"] == 2
    assert predictions[0]["prompt"] == "Cancel A1."
    assert list(reasons(predictions[1])) == ['state.orders.A1: "open", expected "cancelled"']
    (steps,) = [t["rows"] for t in found["details"]["tables"] if t["title"] == "Steps"]
    assert steps == [["direct", 2.0, 1.0, 0, 0], ["idle", 1.0, 0.0, 0, 0]]


def test_the_results_reach_the_model(tmp_path: Path) -> None:
    seen: list[Any] = []

    def answer(messages: Any, tools: Any) -> Any:
        seen.append(messages)
        return ["x", calls(LOOK, CANCEL), "done"][len(seen)]

    report(tmp_path, [task("Cancel A1.", CANCEL, "ok")], caller("m", answer))
    turn, first, second = seen[-1][-3:]
    assert [c["id"] for c in turn["tool_calls"]] == ["call_look-up", "call_cancel"]
    assert (first["role"], first["name"], first["tool_call_id"]) == (
        "tool", "look-up", "call_look-up"
    )  # fmt: skip
    assert first["content"] == '{"looked":1,"state":"open"}'
    assert second["content"] == "done"


def test_each_row_and_model_has_a_state_of_its_own(tmp_path: Path) -> None:
    rows = [task(f"{i}", CANCEL, "ok", orders={"A1": "open", "n": str(i)}) for i in range(3)]
    twice = caller("twice", script(CANCEL, "ok"))
    found, _ = report(tmp_path, rows, twice, caller("again", script(CANCEL, "ok")))
    assert found["scores"]["twice"]["accuracy"] == found["scores"]["again"]["accuracy"] == 1


def test_calls_before_the_last_user_turn_are_executed_first(tmp_path: Path) -> None:
    row = task("Cancel B2.", call("cancel", order="B2"), "ok")
    row["messages"] += task("And A1.", CANCEL, "ok")["messages"]
    found, predictions = report(tmp_path, [row], caller("m", lambda m, t: reply(m)))
    assert found["scores"]["m"]["accuracy"] == 1, predictions


def reply(messages: Any) -> Any:
    """Cancel A1, then end."""
    return "ok" if messages[-1]["role"] == "tool" else calls(CANCEL)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (call("cancel", order="Z9"), '{"error":"KeyError: \'Z9\'"}'),
        (call("cancel"), '{"error":"cancel: \'order\' is a required property"}'),
        (call("refund"), '{"error":"calls refund, which isn\'t offered"}'),
        (call("wait", seconds=600), '{"error":"wait takes longer than 3 s"}'),
        (call("leave"), '{"error":"leave ended the process"}'),
    ],
)
def test_a_failed_call_is_told_to_the_model(bad: dict[str, Any], told: str, tmp_path: Path) -> None:
    contents: list[str] = []

    def answer(messages: Any, tools: Any) -> Any:
        contents.append(messages[-1]["content"])
        return [calls(CANCEL), calls(bad), "ok"][len(contents) - 1]

    rows = [task("Cancel A1.", CANCEL, "ok")]
    found, _ = report(tmp_path, rows, caller("m", answer), seconds=3)
    assert contents[1:] == ["done", told]
    assert found["scores"]["m"]["accuracy"] == 1  # what came before is kept, the call left nothing
    (steps,) = [t["rows"] for t in found["details"]["tables"] if t["title"] == "Steps"]
    assert steps[0][3] == 1


UNREADABLE = calls(text="<tool_call>{", finish_reason="stop", call_error="isn't JSON")


def test_what_can_not_be_read_as_a_call_is_told_to_the_model(tmp_path: Path) -> None:
    asked: list[Any] = []

    def answer(messages: Any, tools: Any) -> Any:
        asked.append(messages[-2:])
        return [calls(CANCEL), UNREADABLE, "ok"][len(asked) - 1]

    found, (prediction,) = report(tmp_path, [task("Cancel A1.", CANCEL, "ok")], caller("m", answer))
    turn, told = asked[-1]
    assert turn == {"role": "assistant", "content": "<tool_call>{"}
    assert told["role"] == "user"
    assert told["content"].startswith(
        '{"error":"can\'t be read as a call: isn\'t JSON: <tool_call>{'
    )
    assert found["scores"]["m"] == {"accuracy": 1, "state": 1, "finished": 1, "valid": 0}
    assert prediction["steps"] == 3


def test_a_state_that_was_reached_before_is_not_enough(tmp_path: Path) -> None:
    row = task("Cancel A1.", CANCEL, "ok")
    stuck = caller("stuck", script(CANCEL, UNREADABLE, UNREADABLE))
    cut = caller("cut", script(CANCEL, calls(finish_reason="length", reasoning="Hm")))
    found, predictions = report(tmp_path, [row], stuck, cut, max_steps=3)
    assert found["scores"]["stuck"] == {"accuracy": 0, "state": 1, "finished": 0, "valid": 0}
    assert found["scores"]["cut"] == {"accuracy": 0, "state": 1, "finished": 0, "valid": 1}
    assert [p["error"] for p in predictions] == [
        "didn't end within 3 turns", "the last answer was cut off at max_tokens"
    ]  # fmt: skip
    (steps,) = [t["rows"] for t in found["details"]["tables"] if t["title"] == "Steps"]
    assert [line[1:] for line in steps] == [[3.0, 3.0, 2, 1], [2.0, 1.0, 0, 1]]


SHARED = """
import random

CALLS = []


class Shop:
    orders = {"n": 0}

    def __init__(self, row):
        BEGIN

    def cancel(self, order):
        CALLS.append(order)
        self.orders[order] = VALUE
        return "done"

    def snapshot(self):
        return self.orders
"""


@pytest.mark.parametrize(
    ("begin", "value"),
    [
        ("pass", "'cancelled'"),  # the same state for all rows
        ("self.orders = {}", "len(CALLS)"),
        ("self.orders = {'id': random.random()}", "'cancelled'"),
    ],
)
def test_a_state_that_does_not_belong_to_its_row_is_refused(
    begin: str, value: str, tmp_path: Path
) -> None:
    code = SHARED.replace("BEGIN", begin).replace("VALUE", value)
    row = {**task("Cancel A1.", CANCEL, "ok", id="r1"), "tools": [TOOLS[1]]}
    with pytest.raises(StepError, match="row r1: its calls lead to another state") as caught:
        report(tmp_path, [row], caller("m", script(CANCEL, "ok")), code=code)
    assert caught.value.where == "execute.factory"
    assert [line.partition(":")[0] for line in caught.value.details] == ["first", "then"]
    assert caught.value.fix is not None
    assert caught.value.fix.startswith("keep the state in attributes of the object")


ODD = SHOP.replace("import os", "import os\n\nimport msgspec").replace(
    "time.sleep(seconds)", "return ODD"
)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ("object()", "the result of wait can't be written as JSON: TypeError"),
        ("'\\ud800'", "the result of wait can't be written as JSON: UnicodeEncodeError"),
    ],
)
def test_a_result_that_is_no_json_is_an_error(result: str, told: str, tmp_path: Path) -> None:
    wait, code = call("wait", seconds=1), ODD.replace("ODD", result)
    contents: list[str] = []

    def answer(messages: Any, tools: Any) -> Any:
        contents.append(messages[-1]["content"])
        return [calls(wait), "ok"][len(contents) - 1]

    row = task("Cancel A1.", CANCEL, "ok")
    found, _ = report(tmp_path / "1", [row], caller("m", answer), code=code)
    assert contents[-1].startswith(f'{{"error":"{told}')
    assert found["scores"]["m"] == {"accuracy": 0, "state": 0, "finished": 1, "valid": 1}
    with pytest.raises(StepError, match=f"the functions can't be used: {told}"):
        report(tmp_path / "2", [task("x", wait, "ok")], caller("m", answer), code=code)


@pytest.mark.parametrize(
    "result",
    ["str(os.fork() >= 0)", "str(setattr(msgspec.json, 'encode', lambda *_, **__: b'{\"x\": 1}'))"],
)
def test_a_function_can_not_disturb_the_answers(result: str, tmp_path: Path) -> None:
    wait, code = call("wait", seconds=1), ODD.replace("ODD", result)
    rows = [task("Wait.", wait, "ok", n=i) for i in range(2)]
    found, _ = report(tmp_path, rows, caller("m", script(wait, "ok")), code=code)
    assert found["scores"]["m"] == {"accuracy": 1, "state": 1, "finished": 1, "valid": 1}


def test_a_function_that_writes_into_the_answers_ends_its_process(tmp_path: Path) -> None:
    write = "[os.write(fd, b'x\\n') for fd in range(3, 9) if os.path.exists(f'/proc/self/fd/{fd}')]"
    contents: list[str] = []

    def answer(messages: Any, tools: Any) -> Any:
        contents.append(messages[-1]["content"])
        return [calls(call("wait", seconds=1)), calls(CANCEL), "ok"][len(contents) - 1]

    row = task("Cancel A1.", CANCEL, "ok")
    found, _ = report(tmp_path, [row], caller("m", answer), code=ODD.replace("ODD", write))
    assert contents[1] == '{"error":"wait writes into the answers of its process"}'
    assert found["scores"]["m"]["accuracy"] == 1


def test_a_model_that_never_ends_is_stopped(tmp_path: Path) -> None:
    row = task("Cancel A1.", CANCEL, "ok")
    endless = caller("m", lambda messages, tools: calls(CANCEL))
    found, (prediction,) = report(tmp_path, [row], endless, max_steps=3)
    assert found["scores"]["m"] == {"accuracy": 0, "state": 1, "finished": 0, "valid": 1}
    assert prediction["error"] == "didn't end within 3 turns"


def test_answers_can_be_expected(tmp_path: Path) -> None:
    rows = [task("State of A1?", LOOK, "It is open."), task("Hello?", "It is fine.")]
    model = caller("m", lambda messages, tools: "So it is OPEN")
    found, predictions = report(
        tmp_path, rows, model, expect=["answer"], _extract=r"(?i)is (\w+)", _ignore_case=True
    )
    assert found["scores"]["m"] == {
        "accuracy": 0.5, "answer": 0.5, "finished": 1, "no_call": 1
    }  # fmt: skip
    assert list(reasons(predictions[1])) == ['answer: "So it is OPEN", expected "It is fine."']


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"factory": "Store"}, "has no function or class 'Store'"),
        ({"code": "import nothing_like_it"}, "can't be imported: ModuleNotFoundError"),
        ({"code": SHOP.replace("def wait", "def pause")}, "has no method 'wait' for the tool wait"),
    ],
)
def test_functions_that_can_not_be_used(
    settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    step = evaluator(tmp_path, [task("x", CANCEL, "ok")], caller("m", script("ok")), **settings)
    with pytest.raises(StepError) as caught:
        step.prepare(job(tmp_path / "job"))
    assert reason in caught.value.what
    assert caught.value.where == "execute.factory"


@pytest.mark.parametrize(
    ("execute", "settings", "what"),
    [
        (Execute(factory="Shop"), {}, "'Shop' isn't the name of a factory"),
        (Execute(factory="a.b:Shop"), {"free": ["cancel.order"]}, "`free` can't be used with"),
    ],
)
def test_settings_that_can_not_work(execute: Execute, settings: dict[str, Any], what: str) -> None:
    step = ToolCalls(
        models=[Model.placeholder("m")], rows=Dataset.placeholder("r"), execute=execute, **settings
    )
    with pytest.raises(UsageError) as caught:
        step.check()
    assert what in caught.value.what


@pytest.mark.parametrize(
    ("code", "factory", "fix"),
    [
        (SHOP, "Shopp", "did you mean 'Shop'?"),
        ("", "Shop", "write one in shop.py"),
        (SHOP, "Shop", None),
        ("from elsewhere import *", "Shop", None),
    ],
)
def test_a_factory_is_looked_for_before_the_step_runs(
    code: str, factory: str, fix: str | None, tmp_path: Path
) -> None:
    step = evaluator(tmp_path, [], code=code, factory=factory)
    if fix is None:
        step.examine(Look(TestJob()))
        return
    with pytest.raises(UsageError, match=f"shop.py has no function or class '{factory}'") as caught:
        step.examine(Look(TestJob()))
    assert (caught.value.where, caught.value.fix) == ("execute.factory", fix)


def test_no_process_is_left(tmp_path: Path) -> None:
    from finery_eval.functions import Functions

    step = evaluator(tmp_path, [task("x", CANCEL, "ok")], caller("m", script("ok")))
    functions = Functions(step.execute)
    functions.session({}, ["cancel"]).state()
    assert functions.process is not None
    number = functions.process.pid
    functions.close()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
