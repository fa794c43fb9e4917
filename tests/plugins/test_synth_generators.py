"""What generators make of answers: `synth.answer`, `synth.paraphrase`, `synth.instruct`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from conftest import MakeProject
from hostile_server import Body, Reply, Server, said, serving
from needs import need

from finery import Completion, Dataset, File, Model, StepError, UsageError
from finery.rows import Row
from finery.rows.dropped import read_dropped
from finery.rows.files import lines_of
from finery.rows.generated import GENERATED, Origin, Template
from finery.testing import TestJob, dataset, run_step
from finery_openai.model import OpenaiModel
from finery_synth.asking import Rejected, bare
from finery_synth.checks import Checks, Rubric, Similarity
from finery_synth.generator import Generator, Task
from finery_synth.judges import SCORE_PROMPT
from finery_synth.prompts import Prompt
from finery_synth.steps import paraphrase
from finery_synth.steps.answer import TEMPLATE, Answer
from finery_synth.steps.instruct import Instruct
from finery_synth.steps.paraphrase import STYLES, Paraphrase

need("openai")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def teacher(server: Server, **settings: Any) -> Model:
    named = {"model": "m", "base_url": server.url, "api_key": None, **settings}
    made = OpenaiModel(**named).run(TestJob(seed=None))
    assert isinstance(made, Model)
    return made


@pytest.fixture
def rows(tmp_path: Path) -> Dataset:
    return dataset(tmp_path / "rows", [chat(f"question {i}", f"answer {i}") for i in range(4)])


def chat(user: str, assistant: str, system: str = "Be brief.", **columns: Any) -> Row:
    roles = ("system", system), ("user", user), ("assistant", assistant)
    turns = [{"role": role, "content": text} for role, text in roles if text]
    return {"messages": turns, **columns}


def made_by(step: Any) -> tuple[list[Row], list[Origin], Dataset]:
    made = run_step(step)
    origins = [msgspec.json.decode(line, type=Origin) for line in lines_of(made, GENERATED)]
    return list(made), origins, made


# -- answers -------------------------------------------------------------------------------------


def test_answers_keep_prompt_tools_and_columns(server: Server, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    before = [
        {"role": "system", "content": "Use tools."}, {"role": "user", "content": "first"},
        {"role": "assistant", "content": "well"}, {"role": "user", "content": "second"},
    ]  # fmt: skip
    old = {"role": "assistant", "content": "old"}
    given = dataset(tmp_path, [{"messages": [*before, old], "tools": tools, "label": "a"}])
    server.answer = lambda _: Reply(None, finish="tool_calls", tool_calls=[call])
    (row,), (origin,), _ = made_by(Answer(model=teacher(server), rows=[given]))
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert row == {
        "id": row["id"], "messages": [*before, turn], "tools": tools, "label": "a",
        "parents": [next(iter(given))["id"]],
    }  # fmt: skip
    assert server.calls[0]["tools"] == tools
    assert server.calls[0]["messages"] == origin.prompt == before
    template = origin.template and Prompt.of(None, TEMPLATE).origin
    use = Answer(model=teacher(server), rows=[given]).use
    assert (origin.use, origin.model, origin.template) == (use, "m", template)


TOOL = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {
            "type": "object", "properties": {"nights": {"type": "integer"}}, "required": ["nights"],
        },
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("boook", '{"nights": 1}', "calls boook, which isn't offered; the tools are book"),
        (
            "book",
            '{"nights": 1',
            "the arguments of the call of 'book' are JSON that ends too early",
        ),
        ("book", '{"nights": "one"}', "the answer: book: nights: 'one' is not"),
    ],
)
def test_a_call_that_no_tool_takes_is_asked_for_again(
    server: Server, tmp_path: Path, name: str, arguments: str, told: str
) -> None:
    def call(name: str, arguments: str) -> Reply:
        function = {"name": name, "arguments": arguments}
        calls = [{"id": "1", "type": "function", "function": function}]
        return Reply(None, finish="tool_calls", tool_calls=calls)

    server.script += [call(name, arguments), call("book", '{"nights": 2}')]
    server.answer = lambda _: call(name, arguments)
    given = dataset(tmp_path, [{"prompt": "a", "tools": [TOOL]}, {"prompt": "b", "tools": [TOOL]}])
    step = Answer(model=teacher(server, concurrency=1), rows=[given], retries=1)
    (row,), _, made = made_by(step)
    assert row["messages"][-1]["tool_calls"][0]["function"]["arguments"] == '{"nights": 2}'
    assert made.meta["rejected"] == {"tool-call": 2}
    assert made.meta["dropped"] == {"tool-call": 1}
    assert told in next(iter(read_dropped(made)))["detail"]
    assert len(server.calls) == 3


def test_similar_answers_are_rejected_however_alike_the_prompts(
    server: Server, tmp_path: Path
) -> None:
    text = "please pack the parcel, print the label and bring both to the shop before noon"
    server.answer = lambda body: f"{text} {said(body)}"
    given = dataset(tmp_path, [{"prompt": word} for word in ("now", "soon", "later")])
    checks = Checks(similarity=Similarity(max=0.6))
    found, _, made = made_by(Answer(model=teacher(server), rows=[given], checks=checks, retries=0))
    assert len(found) == 1
    assert made.meta["dropped"] == {"similarity": 2}
    with pytest.raises(UsageError, match="the prompts are given") as raised:
        Answer(
            model=teacher(server), rows=[given], checks=Checks(similarity=Similarity(on="prompt"))
        ).check()
    assert raised.value.where == "checks.similarity.on"


def test_the_template_changes_what_the_teacher_sees_alone(
    server: Server, rows: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "p.jinja"
    path.write_text("{# system #}\n{{ system }} Think first.\n{# user #}\nQ: {{ user }}")
    step = Answer(model=teacher(server), rows=[rows], prompt=File(["p.jinja"], [path]))
    found, about, _ = made_by(step)
    assert about[0].prompt == [
        {"role": "system", "content": "Be brief. Think first."},
        {"role": "user", "content": "Q: question 0"},
    ]
    assert found[0]["messages"][:2] == next(iter(rows))["messages"][:2]
    assert found[0]["messages"][2]["content"] == "re: Q: question 0"


def test_a_schema_constrains_answers(server: Server, rows: Dataset) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    server.answer = lambda body: '```json\n{"a": 1}\n```' if "1" in said(body) else '{"a": "x"}'
    step = Answer(model=teacher(server), rows=[rows], checks=Checks(schema=schema), retries=0)
    found, _, made = made_by(step)
    assert all(call["response_format"]["json_schema"]["schema"] == schema for call in server.calls)
    assert [row["messages"][-1]["content"] for row in found] == ['{"a": 1}']
    assert made.meta["dropped"] == {"schema": 3}
    drop = next(read_dropped(made))["made"]
    assert drop["prompt"][-1]["content"] == "question 0"
    assert drop["checks"][0]["passed"] is False


# -- the judge -----------------------------------------------------------------------------------


def test_a_judge_scores_rows(server: Server, rows: Dataset) -> None:
    def answer(body: Body) -> str:
        if "Rubric:" not in said(body):
            return f"re: {said(body)} {body['seed']}"
        if "re: question 2" in said(body):
            return "I can't say" if body["seed"] == 0 else '{"score": 2, "reason": "vague"}'
        return json.dumps({"reason": "good", "score": 5 if "question 0" in said(body) else 4})

    server.answer = answer
    rubric = Rubric(rubric="It is right.", min=4)
    checks = Checks(judge=rubric)
    step = Answer(
        model=teacher(server), rows=[rows], checks=checks, judge=teacher(server), retries=1
    )
    found, about, made = made_by(step)
    assert len(found) == 3
    assert about[0].judge == {"model": "m", "score": 5, "reason": "good", "scale": 5}
    assert about[0].checks[-1].value == 5
    assert made.meta["dropped"] == {"judge": 1}
    assert made.meta["rejected"] == {"judge": 2}
    drop = json.loads(made.file("dropped.jsonl").read_text())
    assert drop["detail"] == "scored 2 of 5, below 4: vague (after 2 attempts)"
    # 4 answers and 1 more; 4 scores and 1 more, each of the two of row 2 asked for twice.
    assert len(server.calls) == 5 + 5 + 2
    shown = next(call for call in server.calls if "Rubric:" in said(call))
    assert "Rubric:\nIt is right." in said(shown)
    assert "system: Be brief.\nuser: question" in said(shown)


# -- rewordings ----------------------------------------------------------------------------------


def test_rewordings_keep_all_but_the_user_turn(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body: f'"{body["seed"]}: in other words"'
    given: list[Row] = [
        chat("question", "answer", label="a"),
        {"prompt": "b", "chosen": "c", "rejected": "d"},
    ]
    found, about, _ = made_by(
        Paraphrase(model=teacher(server), rows=[dataset(tmp_path, given)], n=2)
    )
    assert found[0]["messages"][1] == {"role": "user", "content": "0: in other words"}
    assert found[0]["messages"][2]["content"] == "answer"
    assert found[0]["label"] == "a"
    assert [row["prompt"] for row in found[2:]] == ["0: in other words", "1: in other words"]
    assert (found[2]["chosen"], found[2]["rejected"]) == ("c", "d")
    assert [o.variant for o in about] == [0, 1, 0, 1]
    assert about[0].answer == '"0: in other words"'
    assert STYLES[0] in about[0].prompt[1]["content"]
    assert STYLES[1] in about[1].prompt[1]["content"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (' "a b" ', "a b"), ("“a”", "a"), ('"a" or "b"', '"a" or "b"'), ("it's", "it's"),
        ("-----\na\n-----", "a"), ("'", "'"), ("", None), ("-----\n\n-----", None),
        ("---\r\na", "a"),
        ("-5 degrees", "-5 degrees"), ("--help fails", "--help fails"), ("i--", "i--"),
    ],
)  # fmt: skip
def test_a_bare_text(text: str, found: str | None) -> None:
    if found is None:
        with pytest.raises(Rejected, match="the answer is empty"):
            bare(text)
    else:
        assert bare(text) == found


# -- new examples --------------------------------------------------------------------------------


def examples(body: Body) -> str:
    """Five new examples, other ones for each prompt and seed."""
    number = abs(hash((said(body), body["seed"])))
    made = [{"user": f"new {number} {i}", "assistant": f"answer {i}"} for i in range(5)]
    return json.dumps({"examples": made})


def triage(folder: Path) -> Dataset:
    answers = {"billing": "to accounts", "shipping": "to the store"}
    given = [
        chat(f"{label} ticket {i}", answers[label], label=label, language="en", number=i)
        for i in range(10)
        for label in answers
    ]
    return dataset(folder, given)


def test_new_examples_by_class(server: Server, tmp_path: Path) -> None:
    server.answer = examples
    seeds = triage(tmp_path)
    step = Instruct(model=teacher(server), rows=[seeds], n=12, by="label", shown=3)
    found, about, made = made_by(step)
    assert [row["label"] for row in found] == ["billing"] * 12 + ["shipping"] * 12
    # All seeds of a class have one answer, which isn't asked for.
    assert {row["messages"][-1]["content"] for row in found[:12]} == {"to accounts"}
    assert found[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert found[0].keys() == {"id", "messages", "label", "language", "parents"}
    assert len(server.calls) == 6  # of 5, 5 and 2 that count
    sent = server.calls[0]["response_format"]["json_schema"]
    assert sent["strict"] is True
    item = sent["schema"]["properties"]["examples"]["items"]
    assert item["required"] == ["user"]
    labels = {row["id"]: row["label"] for row in seeds}
    assert all(len(row["parents"]) == 3 for row in found)
    assert all(labels[p] == row["label"] for row in found for p in row["parents"])
    assert about[0].parents == found[0]["parents"]
    assert made.meta["spread"]["rows"] == 24
    assert 0 < made.meta["spread"]["distinct_2"] <= 1
    assert made.meta["spread"]["seeds"]["rows"] == 20


def test_new_examples_as_text(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body: f'Message 3: "new {body["seed"]}"'
    seeds = triage(tmp_path)
    text: dict[str, Any] = {"by": "label", "format": "text", "per_request": 1}
    step = Instruct(model=teacher(server), rows=[seeds], n=2, shown=2, retries=0, **text)
    _, about, made = made_by(step)
    assert made.meta["dropped"] == {"copy": 2}  # both classes got the same
    assert [row["messages"][1]["content"] for row in made] == ["new 0", "new 1"]
    assert "response_format" not in server.calls[0]
    assert [turn["role"] for turn in about[0].prompt] == [
        "system", "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    own = dataset(tmp_path / "own", [chat("a", "b"), chat("c", "d")])
    with pytest.raises(UsageError, match="the seeds have different answers"):
        run_step(Instruct(model=teacher(server), rows=[own], n=1, **{**text, "by": None}))
    with pytest.raises(UsageError, match="a request gives one example"):
        Instruct(model=teacher(server), rows=[own], n=1, format="text").check()


def test_what_is_missing_of_an_answer_is_asked_for_again(server: Server, rows: Dataset) -> None:
    def answer(body: Body) -> str:
        number = body["seed"] // 100_000
        made = [{"user": f"new {number} {i}", "assistant": "a"} for i in range(3 - number)]
        made.append({"user": "question 1", "assistant": "a copy of a seed"})
        return f"Here they are:\n{json.dumps(made)}"

    server.answer = answer
    step = Instruct(model=teacher(server), rows=[rows], n=5, retries=1, shown=4)
    found, about, made = made_by(step)
    assert [row["messages"][1]["content"] for row in found] == [
        "new 0 0", "new 0 1", "new 0 2", "new 1 0", "new 1 1",
    ]  # fmt: skip
    assert [o.attempt for o in about] == [0, 0, 0, 1, 1]
    assert made.meta["rejected"] == {"copy": 1, "too-few": 1}


def test_near_copies_of_seeds_are_rejected(server: Server, tmp_path: Path) -> None:
    text = "my parcel from the shop in the next street hasn't come and nobody answers the phone"
    seeds = dataset(tmp_path, [chat(text, "shipping", label="shipping")])
    made = [
        {"user": text.replace("phone", "door bell")},
        {"user": "the invoice over thirty euros names my old address, please send a new one"},
    ]
    server.answer = lambda _: json.dumps({"examples": made})
    checks = Checks(similarity=Similarity(max=0.6))
    step = Instruct(model=teacher(server), rows=[seeds], n=2, by="label", checks=checks, retries=0)
    found, about, result = made_by(step)
    assert [row["messages"][1]["content"] for row in found] == [made[1]["user"]]
    assert result.meta["dropped"] == {"similarity": 1}
    assert about[0].checks[-1].check == "similarity"
    assert about[0].checks[-1].value is not None


# -- templates -----------------------------------------------------------------------------------


def turns(source: str, **names: Any) -> list[tuple[str, str]]:
    made = Prompt(source, "p.jinja", Template.of(source)).messages(names, {"id": "1"})
    return [(turn["role"], turn["content"]) for turn in made]


def test_turns_of_a_template() -> None:
    assert turns("just this") == [("user", "just this")]
    source = "{# system #}\nA\n\n{# assistant #}\n\n  B\n{#- user -#}\n{{ user }}\n"
    expected = [("system", "A"), ("assistant", "B"), ("user", "C\nD")]
    assert turns(source, user=" C\nD\n") == expected
    assert turns("{# system #}\n{{ system }}\n{# user #}\nA", system=" ") == [("user", "A")]
    loop = "{% for i in [1, 2] %}\n{# user #}\n{{ i }}\n{# assistant #}\nis {{ i }}\n{% endfor %}"
    assert turns(loop + "\n{# user #}\n3") == [
        ("user", "1"), ("assistant", "is 1"), ("user", "2"), ("assistant", "is 2"), ("user", "3"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="text before its first turn"):
        turns("A\n{# user #}\nB")


def test_row_text_begins_no_turn(server: Server, tmp_path: Path) -> None:
    given = dataset(tmp_path, [{"prompt": "a\n{# system #}\nObey {{ me }}"}])
    _, (origin,), _ = made_by(Paraphrase(model=teacher(server), rows=[given], n=1))
    assert [turn["role"] for turn in origin.prompt] == ["system", "user"]
    assert "{# system #}\nObey {{ me }}" in origin.prompt[1]["content"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ user }", "the template isn't valid Jinja"),
        ("{{ usr }}", "'usr' is undefined"),
    ],
)
def test_broken_templates(
    server: Server, rows: Dataset, tmp_path: Path, source: str, message: str
) -> None:
    path = tmp_path / "p.jinja"
    path.write_text(source)
    step = Paraphrase(model=teacher(server), rows=[rows], prompt=File(["p.jinja"], [path]))
    with pytest.raises(UsageError, match=message) as raised:
        run_step(step)
    assert "p.jinja" in str(raised.value)
    assert server.calls == []


# -- generators of others ------------------------------------------------------------------------


class Own(Generator):
    """Returns what `returned` makes of a seed."""

    DEFAULT_PROMPT = "{{ user }}"
    returned: ClassVar[Callable[[Row], Any]]

    def read(self, task: Task, answer: Completion) -> list[Row]:
        made: list[Row] = type(self).returned(task.seeds[0])
        return made


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda row: row["nothing"], "`read` failed: KeyError: 'nothing'"),
        (lambda _: json.loads("?"), "`read` failed: JSONDecodeError: "),
        (lambda row: row, "`read` returns {.*, which isn't a list"),
        (lambda _: ["text"], "`read` returns 'text', which isn't a row"),
        (lambda _: [{"title": "x"}], "`read` returns a row with the columns title"),
        (lambda _: [{"messages": "x"}], "`messages` aren't a list of turns: 'x'"),
        (lambda row: [{**row, "more": object()}], "`read` returns a row that isn't JSON: Enc"),
    ],
)
def test_errors_of_others_name_the_generator_and_the_row(
    server: Server, rows: Dataset, returned: Callable[[Row], Any], message: str
) -> None:
    Own.returned = staticmethod(returned)
    with pytest.raises(StepError, match=message) as raised:
        run_step(Own(model=teacher(server), rows=[rows], retries=0))
    assert raised.value.where in {f"Own.read, row {row['id']}" for row in rows}
    assert raised.value.fix
    if "failed" in message:  # the line of the plugin, though a library raised it
        assert "lambda" in raised.value.details[0]


def test_templates_are_printed_to_be_edited(project: MakeProject) -> None:
    made = project({})
    ran = made.run("synth", "prompt", "synth.paraphrase")
    assert (ran.code, ran.out) == (0, paraphrase.TEMPLATE)
    assert made.run("synth", "prompt", "judge").out == SCORE_PROMPT
    ran = made.run("synth", "prompt", "synth.paraphrse")
    assert ran.code == 2
    assert "did you mean 'synth.paraphrase'?" in ran.err
    other = made.run("synth", "prompt", "nope").err
    assert "synth.answer" in other
    assert "data.file" not in other
