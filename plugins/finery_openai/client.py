"""Sends requests to a server through the openai library, with retries and within limits."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finery import Completion, EngineJob, FineryError, Model, Request, Sampling, StepError
from finery.advanced import RefusedError, did_you_mean, nearest
from finery_openai import faults, wire
from finery_openai.faults import Fault
from finery_openai.limits import Bucket, Hold, backoff

TROUBLE_LIMIT = 50
"""Consecutive refused requests after which finery gives up."""
HEAVY_TROUBLE_LIMIT = TROUBLE_LIMIT // 5
"""How many refused requests a request counts for if it failed after all its retries."""
MOST_DENIALS = 3
"""Denied requests before the first answer, after which finery gives up."""
MOST_LOGGED = 10
"""Different reasons for retries that are logged."""
DROPPED_FIELD_MESSAGES = {
    "response_format": "the server can't constrain answers to a JSON Schema; sending none",
    "max_tokens": "the server expects max_completion_tokens, not max_tokens; using that name",
    "seed": "the server doesn't accept a seed; sending none",
}
"""Parameters that finery can do without → what is logged."""


class Client:
    """The state that all requests to one model on one server share, within one event loop.

    ended: the error after which no further request is sent.
    """

    def __init__(self, model: Model, job: EngineJob, key: str | None) -> None:
        from openai import AsyncOpenAI

        from finery_openai.transport import CautiousClient

        hints = model.runtime
        self.meta: dict[str, Any] = model.meta
        self.ended: FineryError | None = None
        self.without: frozenset[str] = frozenset()
        self._job = job
        self._variable = hints.get("api_key")
        self._retries = int(hints.get("retries", 6))
        self._slots = asyncio.Semaphore(int(hints.get("concurrency", 16)))
        self._requests = Bucket(hints.get("requests_per_minute"), burst_seconds=1)
        self._tokens = Bucket(hints.get("tokens_per_minute"), burst_seconds=10)
        self._hold = Hold()
        self._answered = self._trouble = self._denials = 0
        self._logged: set[str] = set()
        self._resting: set[asyncio.Task[Any]] = set()
        self._timeout = float(hints.get("timeout", 300.0))
        # Without a key the library would look for one in the environment.
        self._openai = AsyncOpenAI(
            base_url=self.meta["server"],
            api_key=key or "none",
            http_client=CautiousClient(self._timeout),
            max_retries=0,
        )

    @property
    def constrains(self) -> bool:
        """Whether the server accepts a JSON Schema; True until it is known."""
        return "response_format" not in self.without

    async def close(self) -> None:
        """Close its connections."""
        await self._openai.close()

    async def ask(
        self, request: Request, sampling: Sampling, tokens: list[float] | None = None
    ) -> Completion:
        """The answer to a request; raises its error. Sends nothing once `ended` is set.

        tokens: gets the time of the answer's first token, and lets the server stream the answer.
        """
        async with self._slots:
            try:
                answer = await self._patiently(request, sampling, tokens)
            except Fault as fault:
                raise await self._given_up(fault, request) from None
        self._was_answered()
        return answer

    def _was_answered(self) -> None:
        self._answered += 1
        self._trouble = 0

    async def _patiently(
        self, request: Request, sampling: Sampling, tokens: list[float] | None
    ) -> Completion:
        """Send a request, and retry after a fault that may pass.

        A server that reports to be busy uses up no retry as long as it answers other requests.
        """
        failures, answered = 0, self._answered
        while True:
            await self._turn(request, sampling)
            try:
                return await self._once(request, sampling, tokens)
            except Fault as fault:
                if fault.wait is None or self._answered == answered:
                    failures += 1
                answered = self._answered
                if not fault.again or failures > self._retries:
                    raise
                await self._pause(fault, failures)

    async def _turn(self, request: Request, sampling: Sampling) -> None:
        """Wait until this request may be sent."""
        with self._at_rest():
            await self._hold.passed()
            await self._requests.take(1)
            await self._tokens.take(request.estimated_tokens() + sampling.max_tokens)

    async def _pause(self, fault: Fault, failures: int) -> None:
        if len(self._logged) < MOST_LOGGED and fault.error.what not in self._logged:
            self._logged.add(fault.error.what)
            self._job.log(f"{self.meta['name']}: {fault.error.what}; retrying")
        if fault.wait is not None:
            self._hold.extend(fault.wait)
            return
        with self._at_rest():
            await asyncio.sleep(backoff(max(failures, 1)))

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """Mark a request as waiting, so that it is cancelled when all requests end."""
        if self.ended is not None:
            raise Fault(self.ended, ends=True)
        task = asyncio.current_task()
        assert task is not None
        self._resting.add(task)
        try:
            yield
        finally:
            self._resting.discard(task)

    async def _once(
        self, request: Request, sampling: Sampling, tokens: list[float] | None
    ) -> Completion:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        sent = wire.body(request, sampling, self.meta.get("extra", {}), without=self.without)
        sent |= {} if tokens is None else wire.STREAMING
        try:
            content = await self._send(request, sent, tokens)
            answer = wire.completion(content, request, self._job.redact)
        except APIStatusError as error:
            message = faults.message(error, self._job.redact)
            if (parameter := faults.unknown_parameter(error, message, sent)) is not None:
                if parameter == "response_format" and sampling.strict:
                    raise Fault(
                        StepError(
                            "the server can't hold answers to a JSON Schema",
                            where=self.meta["server"],
                            details=[message],
                            fix="name a model that can, or let models answer freely",
                        ),
                        ends=True,
                    ) from None
                if parameter not in self.without:
                    self.without |= {parameter}
                    self._job.log(f"{self.meta['name']}: {DROPPED_FIELD_MESSAGES[parameter]}")
                return await self._once(request, sampling, tokens)
            raise faults.from_status(error, message, self.meta, self._variable) from None
        except (TimeoutError, APITimeoutError, APIConnectionError) as error:
            raise self._disconnected(error) from None
        except wire.Unreadable as error:
            raise self._retryable_fault(
                f"sent a response that isn't a chat completion ({error})"
            ) from None
        except FineryError as error:
            raise Fault(error) from None
        taken = request.estimated_tokens() + sampling.max_tokens
        self._tokens.settle(answer.prompt_tokens + answer.completion_tokens - taken)
        return answer

    async def _send(
        self, request: Request, sent: dict[str, Any], tokens: list[float] | None
    ) -> bytes:
        """The body of the response. Raises `TimeoutError` if it isn't complete in time."""
        create: Any = self._openai.chat.completions.with_raw_response.create
        async with asyncio.timeout(self._timeout):
            response = await create(
                model=self.meta["name"], messages=wire.messages(request), extra_body=sent
            )
        content: bytes = response.content
        if tokens is None:
            return content
        from finery_openai.transport import ARRIVALS

        completion_json, first_token_bytes = wire.join_events(content)
        arrivals = response.http_response.extensions[ARRIVALS]
        tokens += [
            time
            for time, size in arrivals
            if first_token_bytes is not None and size >= first_token_bytes
        ][:1]
        return completion_json

    def _disconnected(self, error: Exception) -> Fault:
        """The fault of a request without a response."""
        from finery_openai.transport import has_answered, is_unreachable

        cause = error.__cause__
        if isinstance(cause, Fault):  # some versions of the library wrap what its client raises
            return cause
        server = self.meta["server"]
        if is_unreachable(cause) and not has_answered(server):
            return Fault(faults.unreachable(server, error, self._job.redact), ends=True)
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            return self._retryable_fault(f"didn't answer within {self._timeout:g} s")
        reason = self._job.redact(faults.cause(error))
        fix = "check that the server is running and that base_url is correct"
        return self._retryable_fault(f"broke off or can't be reached ({reason})", fix)

    def _retryable_fault(self, problem: str, fix: str | None = None) -> Fault:
        return Fault(StepError(f"{self.meta['server']} {problem}", fix=fix), again=True)

    async def _given_up(self, fault: Fault, request: Request) -> FineryError:
        """The error to raise for a request that isn't answered."""
        if fault.denial is not None and not self._answered:
            self._denials += 1
            fault = Fault(
                fault.denial,
                ends=self._denials >= MOST_DENIALS,
                unknown_model=fault.unknown_model,
            )
            await self._suggest(fault)
        if fault.ends:
            if self.ended is None:
                self._end(fault.error)
                await self._suggest(fault)
            assert self.ended is not None
            return self.ended
        if self.ended is not None:
            return faults.with_prompt(fault.error, request)
        return self._row_failed(fault, request)

    def _end(self, error: FineryError) -> None:
        """Send no further request. Answers to requests in flight are still accepted."""
        self.ended = error
        for task in self._resting:
            task.cancel()

    def _row_failed(self, fault: Fault, request: Request) -> FineryError:
        if fault.again and self._retries:
            fault.error.what += f" ({self._retries + 1} times)"
        error = faults.with_prompt(fault.error, request)
        if isinstance(error, RefusedError):  # counts as an answer
            self._was_answered()
            return error
        self._trouble += HEAVY_TROUBLE_LIMIT if fault.again else 1
        if self._trouble < TROUBLE_LIMIT:
            return error
        ended = StepError(
            f"too many requests failed in a row; the last error: {error.what}",
            details=error.details,
            fix=error.fix or "check the server and the rows, then build again: answers are kept",
        )
        self._end(ended)
        return ended

    async def _suggest(self, fault: Fault) -> None:
        """Suggest the model on the server with the name closest to a mistyped one."""
        if not fault.unknown_model:
            return
        try:
            async with asyncio.timeout(10):
                models = await self._openai.models.list()
            names = [self._job.redact(model.id) for model in models.data]
        except Exception:  # only a suggestion is lost
            return
        if self.meta["name"] in names:
            return
        close = nearest(self.meta["name"], names)
        if suggestion := did_you_mean(self.meta["name"], [close] if close else names[:20]):
            fault.error.fix = suggestion
