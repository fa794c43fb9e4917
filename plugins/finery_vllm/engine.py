"""Answers prompts with vLLM, which runs as a server of this process."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any

from finery import (
    Completion,
    DataError,
    EngineJob,
    FineryError,
    Key,
    Model,
    Request,
    Sampling,
    StepError,
)
from finery_local.facts import ModelFiles
from finery_serve.client import Refused
from finery_transformers.answering.answers import TokenReader, seed_of
from finery_transformers.answering.concurrent import ConcurrentEngine
from finery_transformers.loading import load_template
from finery_transformers.precision import auto_dtype
from finery_vllm.folder import ends_of
from finery_vllm.installation import build_files, versions
from finery_vllm.sessions import Session, session


class Prompts:
    """The tokenizer of a model: what is sent for a request, and what an answer says.

    max_context: tokens of prompt and answer together; default: the model's context.
    """

    def __init__(self, model: Model, max_context: int | None) -> None:
        template = load_template(model)
        self.ends = ends_of(model, template)
        self._answers = TokenReader(template)
        limits = (max_context, ModelFiles(model).context)
        self._context = min((n for n in limits if n is not None), default=None)

    def tokens(self, request: Request, max_tokens: int) -> list[int]:
        """The prompt. `DataError` if the template refuses it, or it leaves no room to answer."""
        self._answers.reader.check(request.tools)
        return self._answers.prompt(request, max_tokens, self._context)

    def body(self, prompt: list[int], sampling: Sampling) -> dict[str, Any]:
        """The request to /v1/completions, without the model's name.

        Greedy at temperature 0. It sets everything that vLLM would otherwise take from the model's
        files: the tokens that end an answer, and the sampling.
        """
        body: dict[str, Any] = {
            "prompt": prompt, "max_tokens": sampling.max_tokens, "top_p": sampling.top_p,
            "temperature": sampling.temperature, "seed": seed_of(sampling.seed, prompt),
            "stop_token_ids": self.ends, "ignore_eos": True, "return_token_ids": True,
            "add_special_tokens": False,
            "skip_special_tokens": not self._answers.reader.needs_special_tokens,
            "spaces_between_special_tokens": False,
        }  # fmt: skip
        if sampling.stop:
            body |= {"stop": list(sampling.stop), "include_stop_str_in_output": True}
        schema = self._answers.reader.schema_after(self._answers.end_of(prompt), sampling)
        if schema is not None:
            body["structured_outputs"] = {"json": schema}
        return body

    def completion(
        self, prompt: list[int], request: Request, answer: Sequence[int], stop: Sequence[str]
    ) -> Completion:
        """Parse an answer in the same way as the other engines of these models.

        answer: token ids, up to one that ends it, a stop text, or the limit.
        """
        return self._answers.completion(
            answer, self.ends, prompt=prompt, request=request, stop=stop
        )


class VllmEngine(ConcurrentEngine):
    """Sends many prompts at a time to vLLM, as token ids.

    It answers those that arrive together side by side, which can change the last digits of a
    logit: of two tokens that are equally likely, it may take either. The cache keeps the answer.
    """

    takes_tools = True
    local = True
    constrains = True
    packages = ("torch", "transformers", "peft", "tokenizers")

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        under = model.refs["model"]
        assert isinstance(under, Model)
        self._under = under
        self._slots = int(model.runtime.get("concurrency", 64))

    @classmethod
    def cache_key(cls) -> Key:
        """Also the dtype, the versions of vLLM and of what it computes with, and where they are."""
        facts = {"dtype": auto_dtype(), **(versions() or {"vllm": "none"})}
        return super().cache_key() | Key(facts=facts, watched=build_files())

    def answers(
        self, requests: Iterable[tuple[Request, Sampling]]
    ) -> Iterator[tuple[int, Completion | FineryError]]:
        """Yield answers as they arrive.

        Tokenizes here, since tokenizers aren't safe in threads. Only requests wait in threads.
        """
        source, more = enumerate(requests), True
        flying: dict[Future[list[int]], tuple[int, Request, Sampling, list[int]]] = {}
        pool = ThreadPoolExecutor(self._slots, thread_name_prefix="vllm")
        try:
            while more or flying:
                while more and len(flying) < self._slots:
                    number, pair = next(source, (-1, None))
                    more = pair is not None
                    if pair is None:
                        break
                    request, sampling = pair
                    try:
                        prompt = self._prompts.tokens(request, sampling.max_tokens)
                    except FineryError as error:
                        yield number, error
                        continue
                    body = self._prompts.body(prompt, sampling)
                    future = pool.submit(self._ask, self._session, body)
                    flying[future] = number, request, sampling, prompt
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    number, request, sampling, prompt = flying.pop(future)
                    read = self._prompts.completion
                    try:
                        yield number, read(prompt, request, future.result(), sampling.stop)
                    except DataError as error:
                        yield number, error
        finally:
            pool.shutdown(cancel_futures=True)

    @staticmethod
    def _ask(session: Session, body: Mapping[str, Any]) -> list[int]:
        """The token ids of the answer."""
        with session.running.in_use() as server:
            try:
                answer = server.request("/v1/completions", {**body, "model": session.name})
            except Refused as error:
                raise _refused(error.status, error.words, body) from error
        return list(answer["choices"][0]["token_ids"])

    @cached_property
    def _prompts(self) -> Prompts:
        return Prompts(self._under, self.model.meta.get("context"))

    @property
    def _session(self) -> Session:
        """The server with this model, which another engine of the process may have replaced."""
        return session(self.model, self._under, self._prompts, self.job)


def _refused(status: int, message: str, body: Mapping[str, Any]) -> FineryError:
    if status >= 500:
        return StepError(f"vLLM failed to answer: {message}", fix="build again")
    what = "can't follow the schema" if "structured_outputs" in body else "refuses the request"
    return DataError(f"vLLM {what}: {message}")
