"""Two adapters on one SmolLM2 in a real vLLM: each request is answered by its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from vllm_models import needs_vllm

from finery import File, Model
from finery.rows import Conversation
from finery.testing import TestJob, dataset
from finery_transformers.chat import PromptTemplate
from finery_transformers.loading import load_merged, load_tokenizer
from finery_trl.settings import Lora
from finery_trl.steps import Sft
from finery_vllm.bundle.step import VllmBundle
from finery_vllm.server import Server, start

pytestmark = [pytest.mark.real, needs_vllm]

QUESTIONS = ["Where is my card?", "Hi.", "What is 2 + 2?", "Name a fruit.", "Why?", "Who are you?"]
WORDS = {"alpha": 8, "bravo": 4}
"""What each adapter learns to answer, and its rank."""
REQUESTS = 200
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": ["card", "other"]}},
    "required": ["intent"],
    "additionalProperties": False,
}


def asked(question: str) -> Conversation:
    return [{"role": "user", "content": question}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path) -> Model:
    """SmolLM2 as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("base")
    gguf = Model(smollm2_gguf.parent, meta={"format": "gguf", "file": smollm2_gguf.name})
    model, tokenizer = load_merged(gguf)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return Model(folder, meta={"format": "transformers", "name": "SmolLM2-135M-Instruct"})


@pytest.fixture(scope="module")
def adapters(base: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("adapters")
    trained = {}
    for word, rank in WORDS.items():
        rows = [
            {
                "prompt": asked(q),
                "completion": [{"role": "assistant", "content": f"{word} {i % 3}"}],
            }
            for i, q in enumerate(QUESTIONS)
        ]
        step = Sft(
            model=base,
            rows=[dataset(folder / f"rows-{word}", rows)],
            epochs=12,
            effective_batch_size=2,
            learning_rate=2e-3,
            lora=Lora(r=rank),
        )
        trained[word] = step.run(TestJob(folder / word))
        trained[word].ref = word
    return trained


@pytest.fixture(scope="module")
def bundle(adapters: dict[str, Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    schema = File([], [folder / "schema.json"])
    VllmBundle(models=[*adapters.values()], schema=schema).run(TestJob(folder))
    return folder / "out"


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    with start(
        bundle, slots=16, context=512, options=["--enforce-eager", "--dtype", "float32"]
    ) as running:
        yield running


def answer(server: Server, model: str, question: str) -> str:
    body = {"model": model, "messages": asked(question), "max_tokens": 8}
    said = server.request("/v1/chat/completions", body)["choices"][0]["message"]["content"]
    return str(said)


def test_interleaved_requests_are_answered_by_the_right_adapter(server: Server) -> None:
    names = [*WORDS, "base"]
    pairs = [(names[i % 3], QUESTIONS[i % len(QUESTIONS)]) for i in range(REQUESTS)]
    of_base = {question: answer(server, "base", question) for question in QUESTIONS}
    assert not [said for said in of_base.values() if said.startswith(tuple(WORDS))]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda pair: answer(server, *pair), pairs))
    for (name, question), said in zip(pairs, answers, strict=True):
        if name == "base":
            # Side by side, the last digits differ, and so may an answer between two likely tokens.
            assert said.split()[:3] == of_base[question].split()[:3]
        else:
            assert said == f"{name} {QUESTIONS.index(question) % 3}"


def test_prompts_are_the_trained_ones(server: Server, adapters: dict[str, Model]) -> None:
    tokenizer = load_tokenizer(adapters["alpha"])
    for question in QUESTIONS:
        sent = {"model": "alpha", "messages": asked(question), "add_generation_prompt": True}
        tokens = server.request("/tokenize", sent)["tokens"]
        assert tokens == PromptTemplate(tokenizer).prompt_tokens(asked(question))


def test_the_client_of_the_folder_gets_json_from_each_adapter(server: Server, bundle: Path) -> None:
    pytest.importorskip("openai", reason="needs the package openai")
    ran = subprocess.run(
        [sys.executable, str(bundle / "client.py"), "Where is my card?"],
        env={"BASE_URL": f"{server.address}/v1", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = ran.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [*WORDS]
    for line in lines:
        assert json.loads(line.partition(": ")[2])["intent"] in ("card", "other")


def test_the_engine_answers_as_transformers_does(
    server: Server, adapters: dict[str, Model]
) -> None:
    """Beside the base, and merged."""
    prompts = [asked(question) for question in QUESTIONS]
    for word in WORDS:
        own = TestJob().engine(adapters[word]).generate(prompts, max_tokens=8)
        for merge in (False, True):
            model = Model(
                Path(), meta={
                    "format": "vllm", "merge": merge, "context": 512,
                    "options": {"enforce-eager": True},
                },
                refs={"model": adapters[word]}, runtime={"concurrency": 8},
            )  # fmt: skip
            answers = TestJob().engine(model).generate(prompts, max_tokens=8)
            assert answers == own, (word, merge)
