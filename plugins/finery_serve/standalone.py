"""`serve.bundle`: a folder that serves a model without finery, and how finery serves it."""

import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from finery import Artifact, Bundle, Engine, Job, Model, Promise, Step, UsageError, setting, takes
from finery.advanced import load_plugins
from finery_serve.client import Client
from finery_serve.guide import (
    NAME,
    files_of,
    json_text,
    read_template,
    request_for,
    requirement,
    write_bundle,
)
from finery_serve.processes import Address, ServerProgram, log_file
from finery_serve.servers import STANDALONE, Kind, Serving
from finery_transformers.formats import way_out
from finery_transformers.frozen.template import ClientFacts

ADDRESS = "http://127.0.0.1:8080/v1"
SERVER = Path(__file__).with_name("standalone_server.py")


class StandaloneBundle(Step, engines=True, seeded=False, sections=("export",)):
    """Write a folder that serves a model which isn't a language model, e.g. of `baseline.linear`.

    It has the model, the code that answered in the evaluation, a server with an OpenAI-compatible
    API by Python's standard library, `run.sh`, `requirements.txt` with the evaluated versions, a
    client and a README. finery isn't needed to run it. `serve.check` with `bundle:` starts it and
    verifies that it gives the evaluated answers.
    """

    model: Model = takes(help="The model to serve, e.g. of `baseline.linear`.")
    name: str = setting(
        pattern=NAME,
        help="The model's name in the API, which clients send as `model`.",
    )
    prompt: str = setting(
        "",
        help="The question that the client and the README ask. [default: that of a training row]",
    )
    abstain_below: float | None = setting(
        None,
        gt=0,
        le=1,
        help="A probability. Less probable answers have `abstained: true` beside them, as in "
        "eval.classification. For models that give probabilities, as those of encoder.classify and "
        "baseline.linear.",
    )

    def check(self) -> None:
        """Raise `UsageError` for a model that can't be shipped like this, as far as is known."""
        found = self.model.meta.get("format")
        if found is not None and self.model.meta.get("bundle") != "serve.bundle":
            name = self.model.ref or "MODEL"
            raise UsageError(
                f"serve.bundle expects a model that answers without finery, such as one of "
                f"baseline.linear, but '{name}' has the format '{found}'",
                where="model",
                fix=way_out(self.model, name),
            )
        plugins = load_plugins()
        if found in plugins.engines:  # a recipe's own plugin files aren't known here
            self._answers(plugins.engine(str(found)))

    def _answers(self, engine: type[Engine] | Engine) -> ModuleType:
        """The engine's module that answers without finery. `UsageError` if it doesn't suffice."""
        found, module = self.model.meta["format"], engine.standalone
        if module is None or module.__file__ is None:
            raise UsageError(
                f"the engine of the format '{found}' needs finery to answer",
                where="model",
                fix="set `standalone` in its class",
            )
        if self.abstain_below is not None and not hasattr(module.Answers, "answered"):
            raise UsageError(
                f"a model of the format '{found}' gives no probability",
                where="abstain_below",
                fix="remove it; models of encoder.classify and onnx.export give one",
            )
        return module

    def outputs(self) -> dict[str, Promise]:
        """The bundle, with its format for the checks of steps that take it."""
        return {"": Promise(Bundle, {"format": STANDALONE})}

    def run(self, job: Job) -> Bundle:
        """Write the files."""
        engine = job.raw_engine(self.model)
        module = self._answers(engine)
        file, gives_probability = Path(str(module.__file__)), hasattr(module.Answers, "answered")
        about: dict[str, Any] = {
            "name": self.name,
            "module": file.stem,
            "meta": self.model.meta,
        }
        if self.abstain_below is not None:
            about["abstain_below"] = self.abstain_below
        meta = self.model.meta
        clients = ClientFacts.of(meta)
        packages = [*map(requirement, engine.packages)]
        parts = {r: part for r, part in self.model.refs.items() if isinstance(part, Model)}
        engines = {role: job.raw_engine(part) for role, part in parts.items()}  # of a cascade
        if engines:
            about["meta"] = {**meta, "parts": {r: _facts_of(e) for r, e in engines.items()}}
            packages = sorted({requirement(p) for e in engines.values() for p in e.packages})
        remote = [part for part in about["meta"].get("parts", {}).values() if "server" in part]
        texts = {
            "model.json": json_text(about),
            "requirements.txt": "".join(f"{package}\n" for package in packages),
            "run.sh": read_template("finery_serve/standalone.sh"),
            "request_log.py": read_template("finery_serve/request_log.py"),
            "personal.py": read_template("finery_data.checks/personal.py"),
        }
        write_bundle(
            job.out, texts, request_for(self.name, clients, prompt=self.prompt),
            readme="finery_serve/standalone.md.jinja", title=self.name, address=ADDRESS,
            key="SERVE_KEY", gives_probability=gives_probability, abstain_below=self.abstain_below,
            kind=meta.get("baseline", self.model.format), rows=meta.get("rows"), packages=packages,
            remote=remote,
        )  # fmt: skip
        job.copy(SERVER, "server.py")
        job.copy(file, file.name)
        for role, part in {"": self.model, **parts}.items():
            for name, path in files_of(part).items():
                job.copy(path, f"model/{role and f'{role}/'}{name}")
        for module in {e.standalone for e in engines.values() if e.standalone is not None}:
            job.copy(Path(str(module.__file__)), Path(str(module.__file__)).name)
        facts = {"format": STANDALONE, "name": self.name, "run": "sh run.sh", **clients.meta()}
        return Bundle(job.out, meta=facts)


def _facts_of(engine: Engine) -> dict[str, Any]:
    """What the server needs to know of a model of a cascade: its module, or where it answers."""
    meta, module = engine.model.meta, engine.standalone
    if module is not None:
        return {"module": Path(str(module.__file__)).stem, "meta": meta}
    api = {"server": meta["server"], "name": meta["name"], "extra": meta.get("extra", {})}
    return {**api, "api_key": engine.model.runtime["api_key"]}  # `check` allows no others


class StandaloneServer:
    """A running server of a `serve.bundle`.

    exact: whether it must give the very answers that finery's engine gives. unchecked: what
    `serve.check` can't compare.
    """

    exact = True
    unchecked: tuple[tuple[Kind, str], ...] = (
        ("prompts", "tokens of prompts: the model reads texts. Its answers are compared instead"),
    )

    def __init__(self, address: str, pid: int, abstain_below: float | None) -> None:
        self.address, self.pid = address, pid
        self.abstain_below = abstain_below
        self.build = f"server.py, Python {platform.python_version()}"


@contextmanager
def serve_bundle(bundle: Artifact, serving: Serving) -> Iterator[StandaloneServer]:
    """Serve a bundle with finery's own Python.

    Raises `StepError` if the server can't start, and `UsageError` for a port that is in use, or for
    a context.
    """
    if serving.context is not None:
        raise UsageError(
            "this model has no context: it reads texts of any length", where="--context",
            fix="remove it",
        )  # fmt: skip
    at = Address(serving.host, serving.port or 0).free()
    command = [sys.executable, str(bundle.file("server.py")), "--name", serving.name]
    program = ServerProgram(
        "the bundle's server",
        [*command, "--host", at.host, "--port", str(at.port)],
        {**os.environ, "SERVE_KEY": serving.key or ""},
        120.0,
        re.compile(r"Error\b|error:"),
        lambda status, log: "install what its requirements.txt lists, and build the bundle again",
    )
    probe = Client(at.url, serving.key, seconds=5.0)
    with (
        log_file(serving.log) as log,
        program.running(log, lambda: probe.is_up("/health") or None) as (process, _),
    ):
        about = json.loads(bundle.file("model.json").read_text("utf-8"))
        yield StandaloneServer(at.url, process.pid, about.get("abstain_below"))
