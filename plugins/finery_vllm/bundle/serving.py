"""Serves a folder of `vllm.bundle`, for `finery serve` and `serve.check`."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finery import Artifact, StepError, UsageError
from finery_serve.servers import Fault, Prompt, Serving, bundles_only, sampling_faults
from finery_vllm.server import (
    DESCRIPTION_FILE,
    SERVER_MODULE,
    Description,
    Refused,
    Server,
    argument,
    description_of,
    start,
)
from finery_vllm.sessions import prove

SHOW_PROMPTS_OPTION = "--enable-scale-out"
"""Enables vLLM's endpoint RENDER, which shows the prompt of a request without answering it."""
RENDER = "/v1/chat/completions/render"
NEUTRAL_SAMPLING = {
    "temperature": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip
"""Settings of vLLM by which it answers greedily."""
TEMPERATURE = 1.0
"""vLLM's defaults. It doesn't report settings that have them."""
REBUILD_FIX = "build the bundle again, and don't edit its files"


class BundleServer:
    """A running vLLM with a bundle. names: its base, then its adapters; or its one model."""

    def __init__(self, server: Server, folder: Path, description: Description) -> None:
        self.address, self.pid, self.build = server.address, server.pid, server.build
        self.names = server.names
        self._server = server
        self._folder = folder
        self._described = description

    def chat_template(self) -> str | None:
        """The file that `--chat-template` names."""
        name = argument(self._described.arguments, "--chat-template")
        file = self._folder / name if name else None
        return file.read_text(encoding="utf-8") if file is not None and file.is_file() else None

    def prompt(self, request: Mapping[str, Any]) -> Prompt:
        """The prompt for a request. `StepError` with vLLM's words if it refuses that."""
        tokens = self._render_request(request)["token_ids"]
        body = {"model": request["model"], "tokens": tokens}
        return Prompt(self._server.request("/detokenize", body)["prompt"], tokens)

    def faults(self) -> list[Fault]:
        """Faults: it samples, or `run.sh` has other options than the server that was started."""
        request = {"model": self.names[0], "messages": [{"role": "user", "content": "Hello."}]}
        return [
            *vllm_sampling_faults(self._render_request(request)["sampling_params"]),
            *_script_faults(self._folder / "run.sh", self._described.arguments),
        ]

    def adapter_fault(self, name: str, prompts: Sequence[list[int]]) -> Fault | None:
        """A fault if an adapter doesn't change log-probabilities. vLLM doesn't report that."""
        if name not in self._described.adapters:
            return None
        try:
            prove(self._server, prompts, base=self.names[0], adapter=name)
        except StepError as error:
            return Fault("adapter", error.what, error.details, str(error.fix))
        return None

    def _render_request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._server.request(RENDER, request)
        except Refused as error:
            raise StepError(f"vLLM refuses the request: {error.words}") from error
        return answer


@bundles_only
@contextmanager
def serve_bundle(bundle: Artifact, serving: Serving) -> Iterator[BundleServer]:
    """Serve a bundle: its base and adapters under the names that its `run.sh` gives them.

    Raises `StepError` if there is no vLLM or it can't start, and `UsageError` for a `vllm.model`.
    """
    if bundle.kind != "Bundle":
        raise UsageError(
            "a model that vLLM answers for in a build isn't a folder to serve",
            fix="export it with vllm.bundle, and serve the bundle",
        )
    description = description_of(bundle.path)
    if description is None:
        raise StepError(f"the bundle has no {DESCRIPTION_FILE}", fix=REBUILD_FIX)
    with start(
        bundle.path,
        host=serving.host,
        port=serving.port,
        slots=serving.slots,
        context=serving.context,
        api_key=serving.key,
        log=serving.log,
        options=[SHOW_PROMPTS_OPTION] if serving.checked else (),
    ) as server:
        yield BundleServer(server, bundle.path, description)


def vllm_sampling_faults(defaults: Mapping[str, Any]) -> list[Fault]:
    """Whether requests that set nothing are answered at random, or with penalties.

    defaults: the sampling of such a request, as vLLM names it.
    """
    return sampling_faults(
        "the server",
        {"temperature": TEMPERATURE, **defaults},
        NEUTRAL_SAMPLING,
        [],
        "start it with a `--generation-config` and `--override-generation-config` that set "
        f"temperature 0 and no penalties, as vllm.bundle does; {REBUILD_FIX}",
    )


def _script_faults(script: Path, arguments: Sequence[str]) -> list[Fault]:
    """Whether `run.sh` starts a different server than `serve.json`, which was checked."""
    lines = script.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    command = next((line for line in lines if line.startswith("exec ")), "")
    words = shlex.split(command)
    words = words[words.index(SERVER_MODULE) + 1 :] if SERVER_MODULE in words else []
    script_arguments = words[: words.index("--host")] if "--host" in words else words
    if script_arguments == list(arguments):
        return []
    return [Fault(
        "options",
        f"run.sh has other options than {DESCRIPTION_FILE}, with which the server was checked",
        [f"run.sh: {shlex.join(script_arguments)}",
         f"{DESCRIPTION_FILE}: {json.dumps(list(arguments))}"],
        REBUILD_FIX,
    )]  # fmt: skip
