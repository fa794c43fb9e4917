"""Classifies failed requests: retry, give up this row, or end the step."""

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from finery import FineryError, Request, StepError, UsageError
from finery_openai.limits import retry_after
from finery_openai.wire import refusal_error

if TYPE_CHECKING:
    from openai import APIStatusError

TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which a retry may succeed."""
MAX_WAIT_SECONDS = 600.0
"""Longest wait in seconds that a server can demand. After a longer one the step ends."""
_UNKNOWN_SEED = re.compile(r"\bseed\b.*\b(un|not )|\b(un|not |extra ).*\bseed\b")
SCHEMA_WORDS = ("response_format", "json_schema", "schema", "grammar", "guided")


@dataclass(eq=False)
class Fault(Exception):
    """A request that failed.

    error: what to report if no retry succeeds. again: whether to retry. wait: the seconds to wait
    first, if the server gives them. ends: whether every other request would fail too. denial: the
    error to report until the server answers a request, where it may reject the user rather than the
    request. unknown_model: whether the server may not know the model's name.
    """

    error: FineryError
    _: KW_ONLY
    again: bool = False
    wait: float | None = None
    ends: bool = False
    denial: FineryError | None = None
    unknown_model: bool = False


def from_status(
    error: "APIStatusError", message: str, meta: dict[str, Any], key: str | None
) -> Fault:
    """The fault of a response with an error status.

    message: the server's message. meta: the model's. key: its variable.
    """
    status = error.status_code
    server, name = meta["server"], meta["name"]
    if error.code in ("content_filter", "content_policy_violation"):
        return Fault(refusal_error("the provider's content filter rejected the prompt", message))
    refusal = StepError(f"{server} rejected the request ({status}: {message})")
    if status in (401, 403):
        fix = f"check the key in {key}" if key else "name the variable with the key: api_key: NAME"
        shut = UsageError(f"{server} denied access ({status}: {message})", fix=fix)
        return Fault(shut, ends=True) if status == 401 else Fault(refusal, denial=shut)
    names_it = status == 400 and re.search(f"['\"`]{re.escape(name)}['\"`]", message)
    is_missing = status == 404 or error.code == "model_not_found"
    if is_missing or names_it:
        problem = f"{server} has no model '{name}', or is not an API ({status}: {message})"
        fix = "check `model` and `base_url`, which usually ends in /v1"
        unknown = UsageError(problem, fix=fix)
        if is_missing:
            return Fault(unknown, ends=True, unknown_model=True)
        return Fault(refusal, denial=unknown, unknown_model=True)
    if status == 402 or error.code == "insufficient_quota":
        problem = f"the account at {server} is out of credit ({status}: {message})"
        fix = "add credit and build again: answers so far are kept"
        return Fault(StepError(problem, fix=fix), ends=True)
    if status in TRANSIENT_STATUSES or status >= 500:
        return _transient_fault(error, f"{server} answered {status}: {message}")
    return Fault(refusal)


def _transient_fault(error: "APIStatusError", problem: str) -> Fault:
    wait = retry_after(error.response.headers)
    if wait is not None and wait > MAX_WAIT_SECONDS:
        fix = "build again later: answers so far are kept"
        problem = f"{problem}; it demands a wait of {wait:,.0f} s"
        return Fault(StepError(problem, fix=fix), ends=True)
    return Fault(StepError(problem), again=True, wait=wait)


def message(error: "APIStatusError", redact: Callable[[str], str]) -> str:
    """The server's message on one line. redact: removes secrets, before the text is shortened."""
    body: Any = error.body
    while isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body.get("error") or str(body)
    text = str(body or error.response.text or error.response.reason_phrase)
    readable = text.encode("utf-8", errors="replace").decode()  # JSON may hold half characters
    line = " ".join(redact(readable).split())
    return line if len(line) <= 300 else f"{line[:299]}…"


def unreachable(server: str, error: Exception, redact: Callable[[str], str]) -> FineryError:
    """The error for a server that can't be reached and has never answered."""
    causes = list(_causes(error))
    if any(isinstance(c, socket.gaierror) for c in causes):
        fix = "check the host name in base_url and the network"
    elif any(isinstance(c, ssl.SSLError) for c in causes):
        fix = "check whether base_url should start with https, and trust the server's certificate"
    elif any(type(c).__name__ == "ProxyError" for c in causes):
        fix = "check HTTPS_PROXY; if it has a password, set FINERY_PASS_ENV=HTTPS_PROXY"
    else:
        fix = f"is the server running at {server}? Start it, or correct base_url"
    return StepError(f"{server} can't be reached ({redact(cause(error))})", fix=fix)


def cause(error: Exception) -> str:
    """Why a connection failed."""
    texts = [
        str(error_in_chain)
        for error_in_chain in _causes(error)
        if isinstance(error_in_chain, OSError) and str(error_in_chain)
    ]
    inner = error.__cause__ or error
    return texts[-1] if texts else str(inner) or type(inner).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, the root cause last."""
    chain: list[BaseException] = [error]
    for current in chain:
        yield current
        if isinstance(current, BaseExceptionGroup):
            chain += current.exceptions
        if (inner := current.__cause__ or current.__context__) is not None and inner not in chain:
            chain.append(inner)


def unknown_parameter(error: "APIStatusError", message: str, sent: dict[str, Any]) -> str | None:
    """The optional parameter that the server reports as unknown, if it does."""
    if error.status_code not in (400, 422):
        return None
    message = f"{error.param or ''} {message}".lower()
    if "response_format" in sent and any(word in message for word in SCHEMA_WORDS):
        return "response_format"
    if "max_tokens" in sent and "max_completion_tokens" in message:
        return "max_tokens"
    unknown = error.param == "seed" or _UNKNOWN_SEED.search(message)
    return "seed" if "seed" in sent and unknown else None


def with_prompt(error: FineryError, request: Request) -> FineryError:
    """The error with the prompt of the request that it is about."""
    last_message = str(request.messages[-1].get("content")) if request.messages else ""
    error.details.append(f"prompt: {' '.join(last_message[:400].split())[:100]}")
    return error
