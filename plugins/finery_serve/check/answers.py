"""Answers to rows through a server's HTTP API, and what they show about the served model."""

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from finery import Artifact, Completion, DataError, FineryError, Job, Model, StepError
from finery.advanced import load_plugins
from finery.rows import Row, split_turns
from finery_serve.check.prompts import (
    NAMED,
    ComparedPrompt,
    PromptDifference,
    TrainedPrompts,
    compare_prompts,
    prompt_cases,
    prompt_faults,
    request,
)
from finery_serve.client import Client
from finery_serve.guide import request_to
from finery_serve.servers import Checkable, Fault, Kind, Running, Serving, find_server, names_of

REPLACEMENT_CHARACTER = "\ufffd"
"""The replacement for bytes that aren't a character."""


def answers_of(
    client: Client, requests: Sequence[tuple[str, Mapping[str, Any]]], slots: int,
    progress: Callable[[int], None], file: Path | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """The server's answers as JSON, `slots` at once.

    requests: each with its name. file: keeps each answer as a JSON line. Requests that have one in
    it aren't sent again, so it must belong to this server alone. Raises `StepError` naming the
    request that has no answer.
    """
    stored = dict[str, dict[str, Any]]()
    for line in file.read_bytes().splitlines() if file and file.exists() else ():
        with suppress(msgspec.DecodeError, UnicodeError):  # a line that a kill cut off
            digest, answer = msgspec.json.decode(line, type=tuple[str, dict[str, Any]])
            stored[digest] = answer
    writing = Lock()

    def post(named: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
        name, body = named
        digest = blake3(msgspec.json.encode(body)).hexdigest()
        if digest in stored:
            return stored[digest]
        try:
            answer: dict[str, Any] = client.post("/v1/chat/completions", body)
        except FineryError as error:
            raise StepError(f"{name} has no answer: {error.what}", fix=error.fix) from error
        if file is not None:
            with writing, file.open("ab") as lines:
                lines.write(b"\n" + msgspec.json.encode((digest, answer)))
        return answer

    answers = []
    with ThreadPoolExecutor(slots) as pool:
        for number, answer in enumerate(pool.map(post, requests)):
            answers.append(answer)
            progress(number)
    return answers


def completion_of(answer: dict[str, Any]) -> Completion:
    """An answer of the OpenAI Chat Completions API."""
    (choice, *_) = answer["choices"]
    message, usage = choice["message"], answer.get("usage", {})
    calls = message.get("tool_calls")
    return Completion(
        text=message.get("content") or "",
        finish_reason=str(choice.get("finish_reason") or "stop"),
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        completion_tokens=int(usage.get("completion_tokens", 0)),
        tool_calls=calls or None,
        reasoning=message.get("reasoning_content") or message.get("reasoning") or None,
    )


def answer_content(completion: Completion) -> str:
    """An answer's text and calls, by which two answers are compared.

    Ignores an incomplete character at the end of a truncated answer, which servers hold back.
    """
    calls = [call.get("function") for call in completion.tool_calls or ()]
    return f"{completion.text.rstrip(REPLACEMENT_CHARACTER).strip()}{calls or ''}"


def answer_contents(completions: Sequence[Completion]) -> list[str]:
    """What is said in each answer."""
    return [*map(answer_content, completions)]


def adapter_fault(
    served: Sequence[str], base: Sequence[str], trained: Sequence[str] | None
) -> Fault | None:
    """Whether the served model answers like the one before its training.

    All are answers to the same prompts. Without `trained`, all must equal the base's. Otherwise,
    only prompts count for which the answers of base and trained model differ, because a quantised
    model rarely differs from the one that it was made from.
    """
    if trained is None:
        is_base = list(served) == list(base)
        finding = f"all {len(served)} answers are those of the base"
    else:
        differ, as_base, as_trained = _count_matches(served, base, trained)
        is_base = as_base > as_trained
        finding = (
            f"of {differ} rows that the base and the trained model answer differently, the server "
            f"answers {as_base} as the base and {as_trained} as the trained model"
        )
    fix = "export the trained model again, and check which file the server loads"
    return (
        Fault("adapter", f"the trained model isn't served: {finding}", [], fix) if is_base else None
    )


def swap_fault(
    served: Sequence[str], own_answers: Sequence[str], other_answers: Mapping[str, Sequence[str]]
) -> Fault | None:
    """Whether the server answers with another model than the requested one.

    own_answers: the model's answers by finery's engine. other_answers: those of other models, by
    name. Short answers of different models can be equal in some rows, so most rows must match.
    """
    for name, answers in other_answers.items():
        differ, as_other, as_own = _count_matches(served, answers, own_answers)
        if as_other > max(as_own, differ / 2):
            return Fault(
                "adapter",
                f"the server answers as '{name}': of {differ} rows that both answer differently, "
                f"{as_other} as '{name}' and {as_own} as this model",
                [],
                "check which adapter the server loads under which name, and export them again",
            )
    return None


def answer_fault(served: Sequence[str], evaluated: Sequence[str]) -> Fault | None:
    """Whether a server answers otherwise than the engine, whose very answers it must give."""
    wrong = [pair for pair in zip(evaluated, served, strict=True) if pair[0] != pair[1]]
    if not wrong:
        return None
    return Fault(
        "answers",
        f"{len(wrong)} of {len(served)} rows are answered otherwise than in the evaluation",
        [f"evaluated: {wrong[0][0]!r}", f"served: {wrong[0][1]!r}"],
        "build the bundle again, and don't edit its files",
    )


def stop_fault(
    stops: Sequence[str], rows: Sequence[Row], engine_answers: list[Completion]
) -> Fault | None:
    """Whether a server would end right answers early.

    stops: the texts at which it ends answers. engine_answers: of the engine, which has no stops.
    """
    cut = dict[str, str]()
    for row, answer in zip(rows, engine_answers, strict=True):
        texts = [answer.text, *(str(turn.get("content") or "") for turn in split_turns(row)[1])]
        stops_found = [stop for stop in stops if any(stop in text.strip() for text in texts)]
        cut |= {f"row {row['id']}": stop for stop in stops_found}
    if not cut:
        return None
    return Fault(
        "answers",
        f"the answers of {len(cut)} of {len(rows)} rows contain a text at which the server stops",
        [f"{name} contains the stop {stop!r}" for name, stop in [*cut.items()][:NAMED]],
        "remove these texts from `stop` where the bundle's parameters are set",
    )


def _count_matches(
    served: Sequence[str], first: Sequence[str], second: Sequence[str]
) -> tuple[int, int, int]:
    """(rows that both answer differently, those served as the one, those served as the other)."""
    differ = [i for i in range(len(served)) if first[i] != second[i]]
    return (
        len(differ),
        sum(served[i] == first[i] for i in differ),
        sum(served[i] == second[i] for i in differ),
    )


def unchecked_faults(
    *, trained: bool, base: bool, hidden: Iterable[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
    """(fault that can't be found, what isn't known and how to check it).

    hidden: what the servers don't show.
    """
    missing = list(dict.fromkeys(hidden))
    if not trained:
        why = "whether the GGUF has the chat template of the training: its own is taken for that"
        missing.append(("template", f"{why}. Add `trained:`"))
    if not base:
        missing.append(("adapter", "whether the training is in what is served. Add `base:`"))
    return missing


MAX_PROBES = 8
"""Rows that show whether a server answers with an adapter."""


class ServerQuestions(NamedTuple):
    """The requests to a server.

    settings: further parts of each request. slots: requests at once. trained: the expected prompts
    of a model. step: the step type that asks. edge_cases: whether to compare prompts of these, too.
    """

    rows: Sequence[ComparedPrompt]
    settings: Mapping[str, Any]
    slots: int
    trained: Callable[[Model], TrainedPrompts]
    job: Job
    step: str = "serve.check"
    edge_cases: bool = True

    def ask(self, artifact: Artifact, models: Sequence[Model]) -> dict[str, "ServedModel"]:
        """Start the server of a bundle or a model, and ask it everything for each of `models`.

        `StepError` if there is none, it can't start, can't be checked, or lacks a model.
        """
        is_bundle = artifact.kind != Model.kind
        name, job = models[0].name, self.job
        artifact_format = str(artifact.meta.get("format", ""))
        serve = find_server(load_plugins(), artifact_format)
        if serve is None:
            subject = "the bundle" if is_bundle else f"'{name}'"
            raise StepError(
                f"{subject} has the format '{artifact_format}', which no server takes",
                fix="export it with gguf.export, and name the GGUF in `models`; or with "
                "vllm.bundle, and name that in `bundle`",
            )
        slots = None if is_bundle else self.slots  # a bundle has its own
        serving = Serving(name=name, slots=slots, key=secrets.token_urlsafe(24), checked=True)
        job.progress(0, 1, f"{name}: starting the server")
        with serve(artifact, serving) as running:
            step = getattr(running, "checked_by", self.step)
            shows_prompts = isinstance(running, Checkable) or getattr(running, "exact", False)
            if step != self.step or not shows_prompts:
                raise StepError(
                    f"{running.build} can't be checked by this step, since it doesn't show its "
                    "prompts",
                    fix=f"use: {step}"
                    if step != self.step
                    else "use a plugin whose server gives a `finery_serve.servers.Checkable`",
                )
            names = names_of(running, serving)
            job.log(f"{running.build} serves {', '.join(names)}")
            bundle_name = str(artifact.meta.get("name", "")) if len(models) == 1 else ""
            server_names = {
                model.name: _name_on_server(model.name, names, bundle_name) for model in models
            }
            client = Client(running.address, serving.key)
            client_request = request_to(artifact, name)
            served = {
                m.name: _ask_model(m, server_names[m.name], running, client, self, client_request)
                for m in models
            }
            return {
                n: result._replace(beside_base=server_names[n] in names[1:])
                for n, result in served.items()
            }


class ServedModel(NamedTuple):
    """The results of a server for the rows.

    replies: the answers as the server sent them. prompts: (compared, equal), including edge cases.
    alike: whether a row's prompt is equal. beside_base: whether the server also has the base, and
    was compared with it. exact: whether it must give the very answers of finery's engine, and has
    no prompts. unseen: what the server doesn't expose, its `unchecked`. stops: the texts at which
    it ends answers.
    """

    replies: list[dict[str, Any]]
    prompts: tuple[int, int]
    alike: list[bool]
    faults: list[Fault]
    build: str
    beside_base: bool
    exact: bool
    unseen: tuple[tuple[Kind, str], ...]
    stops: tuple[str, ...]

    @property
    def answers(self) -> list[Completion]:
        """The answers, without what only this server adds to them."""
        return [*map(completion_of, self.replies)]


def _name_on_server(name: str, names: Sequence[str], bundle_name: str) -> str:
    """The server's name for a model. bundle_name: its name in the bundle; empty if it has none."""
    for candidate in (name, name.replace(".", "-"), bundle_name):
        if candidate in names:
            return candidate
    raise StepError(
        f"the server doesn't have '{name}': it serves {', '.join(names)}",
        fix="list in `models` what the bundle was made of",
    )


def _ask_model(
    model: Model,
    served_as: str,
    running: Running,
    client: Client,
    asking: ServerQuestions,
    client_request: Mapping[str, Any],
) -> ServedModel:
    """served_as: the model's name on the server. client_request: of a bundle's client."""
    job, compared = asking.job, 0
    differences: list[PromptDifference] = []
    faults: list[Fault] = []
    if isinstance(running, Checkable):
        trained = asking.trained(model)
        all_cases = [*asking.rows]
        if asking.edge_cases:
            system = getattr(running, "system", "")
            all_cases = [*prompt_cases(trained, asking.rows, client_request, system)]
        compared, differences = compare_prompts(
            running, served_as, trained, all_cases,
            lambda done: job.progress(done, len(all_cases), f"{model.name}: prompts"),
        )  # fmt: skip
        if not compared:
            raise DataError("the chat template refuses all rows", fix="use rows that it takes")
        renderer = getattr(running, "renderer", None)
        faults += prompt_faults(trained, running.chat_template(), compared, differences, renderer)
        faults += running.faults()
        if fault := running.adapter_fault(served_as, _probes(trained, asking.rows)):
            faults.append(fault)
    settings = {"model": served_as, **asking.settings}
    answers = answers_of(
        client,
        [(row.name, request(row.messages, row.tools) | settings) for row in asking.rows],
        asking.slots,
        lambda done: job.progress(done, len(asking.rows), f"{model.name}: served answers"),
        # The job keeps its folder for this very server: what it consists of is in the step's key.
        job.scratch / f"served-{re.sub(r'[^A-Za-z0-9.@=-]', '_', model.name)}.jsonl",
    )
    different_ids = {id(difference.prompt) for difference in differences}
    alike = [id(row) not in different_ids for row in asking.rows]
    prompts = compared, compared - len(differences)
    return ServedModel(
        answers, prompts, alike, faults, running.build, beside_base=False,
        exact=getattr(running, "exact", False), unseen=tuple(getattr(running, "unchecked", ())),
        stops=tuple(getattr(running, "stops", ())),
    )  # fmt: skip


def _probes(trained: TrainedPrompts, rows: Sequence[ComparedPrompt]) -> list[list[int]]:
    """The first prompts, as the training made them."""
    prompts = []
    for row in rows[:MAX_PROBES]:
        with suppress(DataError):
            prompts.append(trained.tokens(trained.render(row.messages, row.tools, {})))
    return prompts
