"""Starts a server, and asks it for the prompts and answers of each of its models."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from finery import Artifact, Completion, DataError, Job, Model, StepError, load_plugins
from finery_serve.check.answers import answers_of
from finery_serve.check.prompts import Asked, Trained, cases, compare, prompt_faults
from finery_serve.client import Client
from finery_serve.servers import (
    Checkable,
    Fault,
    Kind,
    Serving,
    checked_by,
    names_of,
    renderer_of,
    system_of,
    unchecked_of,
)

PROBES = 8
"""Rows that show whether a server answers with an adapter."""


class Asking(NamedTuple):
    """The requests to a server.

    slots: requests at once. trained: the expected prompts of a model.
    """

    rows: Sequence[Asked]
    max_tokens: int
    temperature: float
    slots: int
    trained: Callable[[Model], Trained]
    job: Job


class Served(NamedTuple):
    """The results of a server for the rows.

    prompts: (compared, equal), including edge cases. alike: whether a row's prompt is equal.
    beside_base: whether the server also has the base, and was compared with it. unseen: what the
    server doesn't expose, from `unchecked_of`.
    """

    answers: list[Completion]
    prompts: tuple[int, int]
    alike: list[bool]
    faults: list[Fault]
    build: str
    beside_base: bool
    unseen: tuple[tuple[Kind, str], ...]


def ask_server(artifact: Artifact, models: Sequence[Model], asking: Asking) -> dict[str, Served]:
    """Start the server of a bundle or a model, and ask it everything for each of `models`.

    `StepError` if there is none, it can't start, can't be checked, or lacks a model.
    """
    is_bundle = artifact.kind != Model.kind
    name, job = models[0].name, asking.job
    serve = _server_of(artifact, "the bundle" if is_bundle else f"'{name}'")
    slots = None if is_bundle else asking.slots  # a bundle has its own
    serving = Serving(name=name, slots=slots, key=secrets.token_urlsafe(24), checked=True)
    job.progress(0, 1, f"{name}: starting the server")
    with serve(artifact, serving) as running:
        if not isinstance(running, Checkable):
            other = checked_by(running)
            raise StepError(
                f"{running.build} can't be checked by this step, since it doesn't show its prompts",
                fix=f"use: {other}"
                if other
                else "use a plugin whose server gives a `finery_serve.servers.Checkable`",
            )
        names = names_of(running, serving)
        job.log(f"{running.build} serves {', '.join(names)}")
        called = str(artifact.meta.get("name", "")) if len(models) == 1 else ""
        known = {model.name: _name_on_server(model.name, names, called) for model in models}
        client = Client(running.address, serving.key)
        served = {m.name: _of_model(m, known[m.name], running, client, asking) for m in models}
        return {n: of._replace(beside_base=known[n] in names[1:]) for n, of in served.items()}


def _server_of(artifact: Artifact, what: str) -> Any:
    """The function that serves a model or bundle. what: the artifact, for people."""
    artifact_format = str(artifact.meta.get("format", ""))
    server = load_plugins().server(artifact_format)
    if server is None:
        raise StepError(
            f"{what} has the format '{artifact_format}', which no server takes",
            fix="export it with gguf.export, and name the GGUF in `models`; or with vllm.bundle, "
            "and name that in `bundle`",
        )
    return server


def _name_on_server(name: str, names: Sequence[str], called: str) -> str:
    """The server's name for a model. called: its name in the bundle; empty if it has none."""
    for known in (name, name.replace(".", "-"), called):
        if known in names:
            return known
    raise StepError(
        f"the server doesn't have '{name}': it serves {', '.join(names)}",
        fix="list in `models` what the bundle was made of",
    )


def _of_model(
    model: Model, served_as: str, running: Checkable, client: Client, asking: Asking
) -> Served:
    """served_as: the model's name on the server."""
    trained, job = asking.trained(model), asking.job
    every = list(cases(trained, asking.rows, system_of(running)))
    compared, different = compare(
        running, served_as, trained, every,
        lambda done: job.progress(done, len(every), f"{model.name}: prompts"),
    )  # fmt: skip
    if not compared:
        raise DataError("the chat template refuses all rows", fix="use rows that it takes")
    faults = prompt_faults(
        trained, running.chat_template(), compared, different, renderer_of(running)
    )
    faults += running.faults()
    if fault := running.adapter_fault(served_as, _probes(trained, asking.rows)):
        faults.append(fault)
    answers = answers_of(
        client,
        asking.rows,
        {"model": served_as, "max_tokens": asking.max_tokens, "temperature": asking.temperature},
        asking.slots,
        lambda done: job.progress(done, len(asking.rows), f"{model.name}: served answers"),
    )
    others = {id(difference.asked) for difference in different}
    alike = [id(row) not in others for row in asking.rows]
    prompts = compared, compared - len(different)
    return Served(
        answers, prompts, alike, faults, running.build, beside_base=False,
        unseen=unchecked_of(running),
    )  # fmt: skip


def _probes(trained: Trained, rows: Sequence[Asked]) -> list[list[int]]:
    """The first prompts, as the training made them."""
    prompts = []
    for row in rows[:PROBES]:
        with suppress(DataError):
            prompts.append(trained.tokens(trained.render(row.messages, row.tools, {})))
    return prompts
