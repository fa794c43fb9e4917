"""`serve.bundle`: a folder that serves a model without finery, and how finery serves it."""

import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finery import (
    Artifact,
    Bundle,
    Job,
    Model,
    Promise,
    Step,
    StepError,
    UsageError,
    setting,
    takes,
)
from finery_serve.client import Client
from finery_serve.guide import json_text, readme, request_for, write_client, write_texts
from finery_serve.processes import Address, ServerProgram, log_file
from finery_serve.servers import STANDALONE, Kind, Serving
from finery_transformers.formats import way_out
from finery_transformers.frozen.template import client_facts

ADDRESS = "http://127.0.0.1:8080/v1"
ABOUT = """\
A model of the kind `{kind}`{rows}, with its server. It isn't a language model: it reads the text
of a conversation without its system message, and always answers in the form that it was trained on.
It needs Python 3.11 or later.
"""
RUN = """\
```sh
{install}sh run.sh
```

`SERVE_PORT=9000 sh run.sh` uses another port. The server can be reached only from this machine. To
open it to others, also in a container, give it a key: `SERVE_HOST=0.0.0.0 SERVE_KEY=… sh run.sh`.
Without a key, it answers only requests whose Host is `localhost`, `127.0.0.1` or `::1`, and none of
other web pages. A reverse proxy that passes on another Host needs a key, too.
"""
PROBABILITY = (
    "`choices[0].probability` is the probability that the complete answer is right. Leave answers "
    "below a threshold to people."
)
ABSTAINED = "`choices[0].abstained` says whether that probability is below {threshold:g}."
SHOW_PROBABILITY = """\
    print(f"probability {choice.probability:.3f}", file=sys.stderr)
"""
SHOW_ABSTAINED = """\
    if choice.abstained:
        print("abstained: leave it to a person", file=sys.stderr)
"""
NOTES = (
    "Settings such as `temperature`, `max_tokens`, `tools` and `response_format` have no effect.",
    "Tokens in `usage` are words.",
)
SERVER = Path(__file__).with_name("standalone_server.py")
RUN_SCRIPT = """\
#!/bin/sh
# Serves the model. SERVE_HOST, SERVE_PORT and SERVE_KEY say where and for whom, PYTHON names the
# interpreter.
set -eu
cd "$(dirname "$0")"
exec "${PYTHON:-python3}" server.py "$@"
"""


class StandaloneBundle(Step, engines=True, seeded=False, sections=("export",)):
    """Write a folder that serves a model which isn't a language model, e.g. of `baseline.linear`.

    It has the model, the code that answered in the evaluation, a server with an OpenAI-compatible
    API by Python's standard library, `run.sh`, `requirements.txt` with the evaluated versions, a
    client and a README. finery isn't needed to run it. `serve.check` with `bundle:` starts it and
    verifies that it gives the evaluated answers.
    """

    model: Model = takes(help="The model to serve, e.g. of `baseline.linear`.")
    name: str = setting(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$",
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
        "eval.classification. For models that give probabilities, as those of encoder.classify.",
    )

    def check(self) -> None:
        """Raise `UsageError` for a model that another step type ships, or none."""
        found = self.model.meta.get("format")
        if found is not None and self.model.meta.get("bundle") != "serve.bundle":
            name = self.model.ref or "MODEL"
            raise UsageError(
                f"serve.bundle expects a model that answers without finery, such as one of "
                f"baseline.linear, but '{name}' has the format '{found}'",
                where="model",
                fix=way_out(self.model, name),
            )

    def outputs(self) -> dict[str, Promise]:
        """The bundle, with its format for the checks of steps that take it."""
        return {"": Promise(Bundle, {"format": STANDALONE})}

    def run(self, job: Job) -> Bundle:
        """Write the files."""
        engine = job.raw_engine(self.model)
        module = engine.standalone
        if module is None or module.__file__ is None:
            raise StepError(
                f"the engine of the format '{self.model.format}' needs finery to answer",
                fix="set `standalone` in its class",
            )
        gives_probability = hasattr(module.Answers, "answered")
        if self.abstain_below is not None and not gives_probability:
            raise UsageError(
                f"a model of the format '{self.model.format}' gives no probability",
                where="abstain_below",
                fix="remove it; models of encoder.classify and onnx.export give one",
            )
        about: dict[str, Any] = {
            "name": self.name,
            "module": Path(module.__file__).stem,
            "meta": self.model.meta,
        }
        notes = [PROBABILITY, *NOTES] if gives_probability else [*NOTES]
        after = SHOW_PROBABILITY if gives_probability else ""
        if self.abstain_below is not None:
            about["abstain_below"] = self.abstain_below
            after += SHOW_ABSTAINED
            notes.insert(1, ABSTAINED.format(threshold=self.abstain_below))
        meta, clients = self.model.meta, client_facts(self.model)
        request = request_for(self.name, clients, prompt=self.prompt)
        write_client(job.out, request, ADDRESS, "SERVE_KEY", after=after)
        # The index has no builds with a local version, such as torch 2.13.0+cpu.
        versions = {package: version(package).partition("+")[0] for package in engine.packages}
        packages = [f"{package}=={number}\n" for package, number in versions.items()]
        described = ABOUT.format(
            kind=meta.get("baseline", self.model.format),
            rows=f", trained on {meta['rows']} rows" if "rows" in meta else "",
        )
        run = RUN.format(install="pip install -r requirements.txt\n" if packages else "")
        texts = {
            "model.json": json_text(about),
            "requirements.txt": "".join(packages),
            "run.sh": RUN_SCRIPT,
            "README.md": readme(self.name, described, run, request, ADDRESS, notes),
        }
        write_texts(job.out, texts)
        job.copy(SERVER, "server.py")
        job.copy(Path(module.__file__), Path(module.__file__).name)
        if self.model.manifest is not None:
            own = [*self.model.manifest.files]
        else:  # not in a store
            paths = (path for path in self.model.path.rglob("*") if path.is_file())
            own = [path.relative_to(self.model.path).as_posix() for path in paths]
        for name in sorted({*own, *self.model.external}):
            job.copy(self.model.file(name), f"model/{name}")
        facts = {"format": STANDALONE, "name": self.name, "run": "sh run.sh", **clients}
        return Bundle(job.out, meta=facts)


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
