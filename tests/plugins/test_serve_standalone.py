"""`serve.bundle`: a baseline served without finery, checked, and what can't be exported."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, Ran
from serving import served

from finery import StepError, UsageError
from finery.rows.similar import question_text
from finery.testing import run_step, table_model
from finery_serve.check.answers import answer_fault, answers_of, completion_of
from finery_serve.client import Client
from finery_serve.opening import open_built
from finery_serve.servers import Serving
from finery_serve.standalone import StandaloneBundle, serve_bundle
from finery_serve.standalone_server import prompt_text

RECIPE = """\
finery: 1
name: t
data:
  rows: {use: data.file, path: rows.jsonl}
models:
  linear: {use: baseline.linear, rows: rows}
  majority: {use: baseline.majority, rows: rows}
  remote: {use: openai.model, model: m, base_url: "http://127.0.0.1:9/v1"}
  prompted: {use: prompt.model, model: remote, system: Be brief.}
"""
SHIPPED = """\
export:
  ship: {use: serve.bundle, model: linear, name: tickets}
  push:
    use: hub.push
    models: linear
    bundles: ship
    repo: me/tickets
    dry_run: true
    needs: [served]
evaluate:
  served:
    use: serve.check
    models: linear
    bundle: ship
    rows: rows
    judge: {use: eval.classification, fields: [topic, urgent], max_tokens: 16}
    require: {linear.answers: ">= 1", linear.lost: "<= 0"}
"""
TEXTS = {
    "It was charged twice": ("money", "yes"),
    "My invoice is wrong": ("money", "no"),
    "I can't log in": ("account", "yes"),
    "How do I log in?": ("account", "no"),
}


def flat(ran: Ran) -> str:
    """Its errors in one line."""
    return flat_text(ran.err)


def flat_text(text: str) -> str:
    return " ".join(text.split())


def answer(topic: str, urgent: str) -> str:
    return f"topic: {topic}\nurgent: {urgent}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A built project with a bundle of the linear baseline, whose server was checked."""
    folder = tmp_path_factory.mktemp("standalone")
    (folder / ".git").mkdir()
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": answer(*labels)},
            ]
        }
        for text, labels in TEXTS.items()
    ]
    rows.append({
        "messages": [
            {"role": "system", "content": "Name the topic."},
            {"role": "user", "content": "My invoice"},
            {"role": "assistant", "content": "What about it?"},
            {"role": "user", "content": "is wrong – 5 µ"},
            {"role": "assistant", "content": answer("money", "no")},
        ]
    })  # fmt: skip
    project = Project(folder)
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    project.write({"recipe.yaml": RECIPE + SHIPPED, "rows.jsonl": lines})
    ran = project.run("build")
    assert ran.code == 0, ran.err
    return project


def test_the_model_of_the_test_kit_answers_without_finery(tmp_path: Path) -> None:
    model = table_model(tmp_path / "m", {"My invoice": "money"}, "other", bundle="serve.bundle")
    bundle = run_step(StandaloneBundle(model=model, name="t"), tmp_path / "job")
    ask = (
        "import json, pathlib, sys; sys.path.insert(0, '.')\n"
        "about = json.loads(pathlib.Path('model.json').read_text())\n"
        "answers = __import__(about['module']).Answers(pathlib.Path('model'), about['meta'])\n"
        "print(answers(['My invoice', 'Hello']), 'finery' in sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", ask]
    ran = subprocess.run(command, cwd=bundle.path, capture_output=True, text=True, check=True)
    assert ran.stdout == "['money', 'other'] False\n"


def test_the_check_says_what_it_compares(project: Project) -> None:
    report = json.loads(project.here("show", "served", "--json").out)["metrics"]
    assert report["details"]["headline"] == ["accuracy", "answers"]
    assert report["scores"]["linear"]["answers"] == 1.0
    assert "prompts" not in report["scores"]["linear"]
    tables = {table["title"]: table["rows"] for table in report["details"]["tables"]}
    assert [row[0] for row in tables["Not checked"]] == ["prompts"]


def test_tables_say_which_step_evaluated_and_what_is_compared(project: Project) -> None:
    printed = project.run("build", "--set", "evaluate.served.slots=2").out
    assert re.search(r"model +evaluation +accuracy +95 % CI +answers", printed), printed
    assert "linear in finery" in printed
    assert "answers: the share that is the same as in finery, without the server" in printed


def test_a_bundle_of_another_model_is_an_error_of_the_recipe(tmp_path: Path) -> None:
    other = Project(tmp_path)
    shipped = SHIPPED.replace("models: linear", "models: majority").replace("linear.", "majority.")
    other.write({"recipe.yaml": RECIPE + shipped, "rows.jsonl": ""})
    for command in ("check", "plan"):
        ran = other.here(command)
        assert ran.code == 2
        assert "the bundle is made of linear, which isn't in `models`" in flat(ran)
        assert "recipe.yaml:22:13" in ran.err


def test_the_card_says_how_it_is_run_and_what_it_learned_from(project: Project) -> None:
    card = project.here("card", "push").out
    for words in (
        "pipeline_tag: text-classification", "a linear baseline, not a language model, at the root",
        "cd ship && pip install -r requirements.txt && sh run.sh", "`python client.py",
        "learns from 5 rows of `rows`", "| answers | 100.0 %", "the recipe states none",
    ):  # fmt: skip
        assert words in card.replace("\N{NO-BREAK SPACE}", " ")
    for words in ("on top of", "text-generation", "its base", "AutoModel"):
        assert words not in card
    alone = project.here("card", "linear").out
    assert "has a server with an OpenAI-compatible API" in alone


def test_a_push_that_publishes_a_row_is_noted(project: Project) -> None:
    noted = project.here("check").out
    assert "row-published" in noted
    assert "publishes a question of the training rows, as the example in ship" in flat_text(noted)
    assert "row-published" not in project.here("check", "--set", "export.ship.prompt=Hi").out


def test_a_threshold_needs_probabilities(tmp_path: Path) -> None:
    model = table_model(tmp_path / "m", default="other", bundle="serve.bundle")
    step = StandaloneBundle(model=model, name="t", abstain_below=0.5)
    with pytest.raises(UsageError, match="'shipped-table' gives no probability") as caught:
        run_step(step, tmp_path / "job")
    assert caught.value.where == "abstain_below"


def test_the_server_of_an_exported_bundle_needs_no_finery(project: Project) -> None:
    folder = project.folder / "copy"
    assert project.here("export", "ship", str(folder)).code == 0
    assert (folder / "requirements.txt").read_text().startswith("numpy==")
    files = sorted(path.name for path in folder.iterdir())
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('finery', 'finery_baseline', 'sklearn', 'scipy')))\n"
        "import server\n"
        "choice = server.Server('127.0.0.1', 0, '', '').choice\n"
        "print(choice('It was charged twice', {})['message']['content'])"
    )
    ran = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stdout.strip() == answer("money", "yes"), ran.stderr
    assert sorted(path.name for path in folder.iterdir()) == files
    open_to_all = {**os.environ, "SERVE_HOST": "0.0.0.0", "PYTHON": sys.executable}
    ran = subprocess.run(
        ["sh", str(folder / "run.sh")], env=open_to_all, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert "set SERVE_KEY" in ran.stderr


def test_the_server_answers_clients(project: Project) -> None:
    pytest.importorskip("openai")
    with served(project, "ship", "--port", "0", "--host", "127.0.0.2") as (client, facts, _):
        assert facts["model"] == client.get("/v1/models")["data"][0]["id"] == "tickets"
        body = {"messages": [{"role": "user", "content": "I can't log in"}]}
        made = client.post("/v1/chat/completions", body)["choices"][0]
        assert made["message"]["content"] == answer("account", "yes")
        (event,) = client.stream("/v1/chat/completions", body)
        assert event["choices"][0]["delta"]["content"] == answer("account", "yes")
        refused: list[dict[str, Any]] = [{}, {"messages": []}, {"messages": "Hello"}]
        for wrong in refused:
            with pytest.raises(Exception, match="`messages` must be a list"):
                client.post("/v1/chat/completions", wrong)
        with pytest.raises(Exception, match="half of a surrogate pair"):
            client.post("/v1/chat/completions", {"messages": [{"content": "\ud800"}]})
        with pytest.raises(Exception, match="invalid API key"):
            type(client)(client.address).post("/v1/chat/completions", body)
        script = project.folder / "build/t/ship/client.py"
        environment = {**os.environ, "BASE_URL": facts["api"], "SERVE_KEY": facts["key"]}
        ran = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert ran.stdout.strip() == answer("money", "yes"), ran.stderr


ASK = json.dumps({"messages": [{"role": "user", "content": "I can't log in"}]})


@pytest.fixture(scope="module")
def port(project: Project) -> Iterator[int]:
    """That of the bundle's own server, without a key."""
    bundle = open_built("ship", project.folder / "recipe.yaml", []).artifact
    with serve_bundle(bundle, Serving(name="tickets")) as running:
        yield int(running.address.rpartition(":")[2].partition("/")[0])


def asked(port: int, body: str, *lines: str, length: str | None = None) -> tuple[int, str]:
    """(status, body) of the answer to a request with these headers."""
    sent = body.encode()
    length = str(len(sent)) if length is None else length
    head = ["POST /v1/chat/completions HTTP/1.1", "Connection: close", f"Content-Length: {length}"]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall("\r\n".join([*head, *lines, "", ""]).encode("latin-1") + sent)
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 "), "no answer"
    return int(answer.split()[1]), answer


@pytest.mark.parametrize(("body", "length", "status"), [
    ('{"messages": 5}', None, 400), ('{"messages": {"a": 1}}', None, 400),
    ("[" * 200_000, None, 400), ('{"messages": ' + "[" * 100_000, None, 400),
    ('{"messages": [{"content": ' + '[' * 900 + ']' * 900 + "}]}", None, 200),
    (ASK, "\u00b2", 413), (ASK, "9" * 5000, 413), (ASK, "-1", 413), (ASK, "+1", 413),
])  # fmt: skip
def test_each_wrong_request_is_answered(
    port: int, body: str, length: str | None, status: int
) -> None:
    assert asked(port, body, "Host: localhost", length=length)[0] == status


def test_deep_content_is_answered(port: int) -> None:
    for depth in range(900, 1001, 5):
        content = "[" * depth + "]" * depth
        body = f'{{"messages": [{{"role": "user", "content": {content}}}]}}'
        assert asked(port, body, "Host: localhost")[0] in (200, 400), depth


@pytest.mark.parametrize(("lines", "status"), [
    (["Host: 127.0.0.1:1"], 200), (["Host: [::1]:9"], 200), (["Host: LOCALHOST"], 200), ([], 200),
    (["Host: evil.example"], 403), (["Host: localhost.evil.example:80"], 403),
    (["Host: 127.0.0.1.nip.io"], 403), (["Host: [::2]"], 403),
    (["Host: localhost:1", "Origin: http://localhost:1"], 200),
    (["Host: localhost:1", "Origin: http://localhost:2"], 403),
    (["Host: localhost:1", "Origin: null"], 403),
    (["Host: localhost:1", "Origin: https://evil.example"], 403),
])  # fmt: skip
def test_other_pages_and_names_are_refused(port: int, lines: list[str], status: int) -> None:
    """DNS rebinding: a page's own name may resolve to 127.0.0.1."""
    assert asked(port, ASK, *lines)[0] == status


def test_a_key_opens_the_server_to_all_names(project: Project) -> None:
    bundle = open_built("ship", project.folder / "recipe.yaml", []).artifact
    with serve_bundle(bundle, Serving(name="tickets", host="0.0.0.0", key="k" * 9)) as running:
        port = int(running.address.rpartition(":")[2].partition("/")[0])
        lines = ["Host: models.example", "Origin: https://models.example"]
        assert asked(port, ASK, *lines, f"Authorization: Bearer {'k' * 9}")[0] == 200
        assert asked(port, ASK, *lines)[0] == 401


def test_finery_chat_talks_to_the_bundle(project: Project) -> None:
    process = project.start("chat", "ship", stdin=subprocess.PIPE)
    out, err = process.communicate("I can't log in\n", timeout=120)
    assert answer("account", "yes") in out, err
    assert "each question is a new conversation with ship" in err


@pytest.mark.parametrize("messages", [
    [{"role": "user", "content": "a"}],
    [{"role": "system", "content": "s"}],
    [{"role": "system", "content": "s"}, {"role": "user", "content": [{"text": "ü\n"}]}],
    [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}],
])  # fmt: skip
def test_the_server_reads_the_text_that_the_engine_reads(messages: list[dict[str, Any]]) -> None:
    assert prompt_text(messages) == question_text(messages)


def test_a_model_that_can_be_shipped_names_the_line_for_the_recipe(project: Project) -> None:
    project.edit("recipe.yaml", SHIPPED, "")
    ran = project.here("serve", "linear")
    project.edit("recipe.yaml", RECIPE, RECIPE + SHIPPED)
    assert ran.code == 2
    assert "linear-server: {use: serve.bundle, model: linear, name: linear}" in flat(ran)
    assert "serve its export: finery serve ship" in flat(project.here("serve", "linear"))


@pytest.mark.parametrize(("step", "words"), [
    ("gguf.export, model: linear", "remove this step, and ship it with serve.bundle"),
    ("gguf.export, model: prompted", "name the model that it prompts"),
    ("llama.bundle, gguf: linear, name: x", "or an adapter of a GGUF, but 'linear'"),
    ("ollama.modelfile, gguf: remote, name: x", "a server already answers for it"),
    ("vllm.bundle, models: [majority]", "`finery chat majority` talks to it"),
    ("serve.bundle, model: majority, name: x", "such as one of baseline.linear"),
    ("hub.push, models: [remote], repo: a/b", "'remote' has no files to push"),
    ("hub.push, models: [linear], repo: a/b, merge: true", "`merge` needs an adapter"),
])  # fmt: skip
def test_exports_that_cannot_work_are_refused_before_a_build(
    tmp_path: Path, step: str, words: str
) -> None:
    project = Project(tmp_path)
    project.write({"recipe.yaml": f"{RECIPE}export:\n  x: {{use: {step}}}\n", "rows.jsonl": ""})
    for command in ("check", "plan"):
        ran = project.here(command)
        assert ran.code == 2
        assert words in flat(ran)
        assert ran.err.startswith("recipe.yaml:11:")


class Limited(Client):
    """A client whose server fails after some requests. left: how many."""

    left = 2

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        if not self.left:
            raise StepError("the server doesn't answer")
        self.left -= 1
        return super().post(path, body)


def test_answers_survive_an_interruption(project: Project, tmp_path: Path) -> None:
    bundle = open_built("ship", project.folder / "recipe.yaml", []).artifact
    bodies = {text: {"messages": [{"role": "user", "content": text}]} for text in TEXTS}
    file = tmp_path / "served.jsonl"
    with serve_bundle(bundle, Serving(name="tickets")) as running:
        client = Limited(running.address)

        def ask(**settings: Any) -> list[str]:
            requests = [(name, body | settings) for name, body in bodies.items()]
            answers = answers_of(client, requests, 1, lambda done: None, file)
            return [completion_of(answer).text for answer in answers]

        with pytest.raises(StepError, match="has no answer"):
            ask()
        with file.open("ab") as lines:
            lines.write(b'\n["cut o')  # as by a kill
        client.left = len(TEXTS) - 2
        assert ask() == [answer(*labels) for labels in TEXTS.values()]
        assert client.left == 0
        with pytest.raises(StepError, match="has no answer"):
            ask(max_tokens=1)  # another request


def test_a_served_answer_that_differs_is_a_fault() -> None:
    assert answer_fault(["a", "b"], ["a", "b"]) is None
    fault = answer_fault(["a", "x", "y"], ["a", "b", "c"])
    assert fault is not None
    assert (fault.kind, fault.what[:6]) == ("answers", "2 of 3")
