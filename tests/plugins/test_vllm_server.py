"""Answers of a running vLLM: the trained prompts, the right adapter, or an error."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import TOOLED, TOOLS
from vllm_models import needs_vllm, tiny_adapter, tiny_base

from finery import DataError, Model, Request, StepError
from finery.advanced import cpu_count
from finery.testing import TestJob
from finery_serve.command import introduction
from finery_serve.guide import request_for
from finery_serve.processes import end_with_this_process, stop
from finery_serve.servers import Serving, names_of
from finery_transformers.chat import PromptTemplate
from finery_transformers.frozen.template import ClientFacts
from finery_transformers.loading import load_tokenizer
from finery_vllm import sessions
from finery_vllm.bundle.serving import BundleServer
from finery_vllm.server import (
    Refused,
    Server,
    cpu_options,
    description_for,
    description_of,
    start,
)

TALKS = [[{"role": "user", "content": text}] for text in ("where is my card", "late", "wrong rate")]
SCALE = 0.2
EAGER = {"enforce-eager": True}
"""Saves the minute in which vLLM compiles."""


def served(model: Model, **meta: Any) -> Model:
    facts = {"format": "vllm", "options": EAGER, **meta}
    return Model(Path(), meta=facts, refs={"model": model}, runtime={"concurrency": 4})


def texts(model: Model, job: TestJob | None = None, **sampling: Any) -> list[str]:
    engine = (job or TestJob()).engine(model)
    return [answer.text for answer in engine.generate(TALKS, **{"max_tokens": 8, **sampling})]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    yield tiny_base(tmp_path_factory.mktemp("base"))
    sessions.close_all()


@pytest.mark.slow
@needs_vllm
class TestAnswers:
    """With the models of a few KB."""

    def test_an_adapter_answers_as_in_transformers(self, base: Model, tmp_path: Path) -> None:
        adapter = tiny_adapter(tmp_path / "a", base, scale=SCALE)
        own = TestJob().engine(adapter).generate(TALKS, max_tokens=8)
        job = TestJob()
        answers = job.engine(served(adapter)).generate(TALKS, max_tokens=8)
        assert answers == own
        logged = [event["message"] for event in job.events if event.get("event") == "log"]
        assert any(text.startswith("vLLM 0.") for text in logged), job.events
        assert any("the adapter changes log-probabilities" in text for text in logged)
        merged = TestJob().engine(served(adapter, merge=True)).generate(TALKS, max_tokens=8)
        assert merged == own

    def test_adapters_share_a_server(self, base: Model, tmp_path: Path) -> None:
        adapters = [
            tiny_adapter(tmp_path / n, base, seed=i, scale=SCALE) for i, n in enumerate("ab")
        ]
        first, second = (texts(served(adapter)) for adapter in adapters)
        assert len(sessions._running) == 1
        assert first != second
        assert texts(served(adapters[0])) == first
        assert texts(served(base)) not in (first, second)

    def test_an_adapter_that_changes_nothing_is_an_error(self, base: Model, tmp_path: Path) -> None:
        """As vLLM serves one whose layers it doesn't find."""
        idle = tiny_adapter(tmp_path / "idle", base, scale=0.0)
        with pytest.raises(StepError, match=r"answers with the adapter '.*' as it does without it"):
            texts(served(idle))

    def test_an_adapter_that_does_not_fit_is_refused_before_vllm_starts(
        self, base: Model, tmp_path: Path
    ) -> None:
        wrapped = tiny_adapter(tmp_path / "w", base, prefix="base_model.model.model.text.layers")
        with pytest.raises(StepError, match=r"its base has no layer model\.text\.layers"):
            texts(served(wrapped))

    def test_calls_are_read_as_finery_reads_them(self, tmp_path: Path) -> None:
        from tiny_llama import tiny_llama

        model = tiny_llama(tmp_path / "tooled", TOOLED, width=256)
        engine = TestJob().raw_engine(served(model))
        (answer,) = engine.generate([Request(TALKS[0], TOOLS)], sampling(max_tokens=8))
        (own,) = (
            TestJob().raw_engine(model).generate([Request(TALKS[0], TOOLS)], sampling(max_tokens=8))
        )
        assert answer == own

    def test_a_schema_that_vllm_cannot_follow_is_the_rows_error(self, base: Model) -> None:
        engine = TestJob().engine(served(base))
        with pytest.raises(DataError, match="vLLM can't follow the schema"):
            engine.generate(TALKS[:1], max_tokens=8, schema={"type": "objekt"})


def sampling(**settings: Any) -> Any:
    from finery.inference.records import make_sampling

    return make_sampling(**settings)


def chat(server: Server, name: str) -> str:
    body = {"model": name, "messages": TALKS[0], "max_tokens": 8}
    return str(server.request("/v1/chat/completions", body)["choices"][0]["message"]["content"])


@pytest.mark.slow
@needs_vllm
class TestServer:
    """`start`, with the bundle of two adapters."""

    @pytest.fixture(scope="class")
    def bundle(self, base: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
        from finery_vllm.bundle.step import VllmBundle

        folder = tmp_path_factory.mktemp("bundle")
        fixed = {"chat_template_kwargs": {"enable_thinking": False}}
        adapters = []
        for seed, name in enumerate(("a", "b")):
            adapter = tiny_adapter(folder / name, base, seed=seed, scale=SCALE, meta=fixed)
            adapter.ref = name
            adapters.append(adapter)
        VllmBundle(models=adapters).run(TestJob(folder))
        return folder / "out"

    @pytest.fixture(scope="class")
    def running(self, bundle: Path) -> Iterator[Server]:
        with start(
            bundle, slots=8, api_key="sk-secret",
            options=["--enforce-eager"],
        ) as server:  # fmt: skip
            yield server

    def test_it_says_what_it_serves(self, running: Server) -> None:
        assert running.names == ("base", "a", "b")
        listed = {model["id"] for model in running.request("/v1/models")["data"]}
        assert listed == {"base", "a", "b"}
        assert running.build.startswith("vLLM 0.")

    def test_the_name_in_a_request_selects_the_adapter(self, running: Server) -> None:
        alone = {name: chat(running, name) for name in running.names}
        assert len(set(alone.values())) == 3
        mixed = [*running.names] * 20
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda name: chat(running, name), mixed))
        assert answers == [alone[name] for name in mixed]

    def test_prompts_are_the_trained_ones(self, running: Server, base: Model) -> None:
        tokenizer = load_tokenizer(base)
        for talk in TALKS:
            asked = {"model": "a", "messages": talk, "add_generation_prompt": True}
            assert running.request("/tokenize", asked)["tokens"] == PromptTemplate(
                tokenizer
            ).prompt_tokens(talk)

    def test_finery_names_its_models(self, running: Server, bundle: Path) -> None:
        """As `finery serve` shows it; test_vllm_check.py starts one by `serve_bundle`."""
        description = description_of(bundle)
        assert description is not None
        served, serving = BundleServer(running, bundle, description), Serving(name="serve")
        assert names_of(served, serving) == ("base", "a", "b")
        text = introduction(served, serving, request_for("b", ClientFacts()), bundle, ClientFacts())
        assert text.count('"model": "b"') == 1

    def test_a_request_without_the_key_is_refused(self, running: Server) -> None:
        with pytest.raises(Refused) as error:
            running._replace(api_key=None).request("/v1/models")
        assert error.value.status == 401
        assert "sk-secret" not in Path(f"/proc/{running.pid}/cmdline").read_text()

    def test_a_folder_that_vllm_cannot_serve_is_an_error_with_its_reason(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
        ended = pytest.raises(
            StepError, match="ended while it was starting: it ended with exit code"
        )
        with ended as error, start(tmp_path):
            pass
        assert any("unheard_of" in line for line in error.value.details)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither a Hugging Face folder nor one of vllm\.bundle"):
        description_for(tmp_path)


def test_a_server_without_a_gpu_uses_the_cores_of_this_process() -> None:
    assert cpu_options()["OMP_NUM_THREADS"] == str(cpu_count())


SLEEP = "import time; time.sleep(600)"
TREE = (
    f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); print(p.pid)"
)


def test_all_processes_of_a_server_end() -> None:
    """Also those that the server started, which outlive a killed one."""
    tree = f"{TREE}; sys.stdout.flush(); {SLEEP}"
    process = subprocess.Popen([sys.executable, "-c", tree], stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    stop(process)
    assert _gone(child)


@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_a_server_ends_with_a_killed_process(kill: Callable[[int, int], None]) -> None:
    """Also with its process group, in which a build kills a step and its children."""
    script = (
        "import subprocess, sys, time\n"
        "from finery_serve.processes import end_with_this_process\n"
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)\n"
        "with end_with_this_process(p):\n"
        "    print(p.pid, flush=True); time.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, process_group=0
    )
    assert owner.stdout is not None
    server = int(owner.stdout.readline())
    kill(owner.pid, signal.SIGKILL)
    owner.wait()
    try:
        assert _gone(server)
    finally:
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_a_watch_does_not_end_a_server_that_is_done() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        with end_with_this_process(process):
            pass
        time.sleep(0.3)
        assert process.poll() is None
        stop(process)
