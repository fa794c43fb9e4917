"""What a failed call means: ask again, give up this row, or give up."""

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from finery import FineryError, Request, StepError, UsageError
from finery_openai.limits import retry_after
from finery_openai.wire import refused

if TYPE_CHECKING:
    from openai import APIStatusError

PASSING = frozenset({408, 409, 425, 429})
"""Statuses, beside all from 500 on, after which the same request may be answered."""
LONGEST_HOLD = 600.0
"""Seconds that a server may ask to wait; for more it is better to build again later."""
_UNKNOWN_SEED = re.compile(r"\bseed\b.*\b(un|not )|\b(un|not |extra ).*\bseed\b")
SCHEMA_WORDS = ("response_format", "json_schema", "schema", "grammar", "guided")


class Fault(Exception):
    """A call that failed.

    error: what to say where it isn't answered in the end. again: whether to ask again; wait: after
    how many seconds, where the server says. ends: whether every other request would fail too.
    denial: where the server may mean us and not the request, what to say until it answers one.
    unknown_model: whether the server may not know the model's name.
    """

    def __init__(
        self,
        error: FineryError,
        *,
        again: bool = False,
        wait: float | None = None,
        ends: bool = False,
        denial: FineryError | None = None,
        unknown_model: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.wait = wait
        self.ends = ends
        self.denial = denial
        self.unknown_model = unknown_model


def from_status(
    error: "APIStatusError", message: str, meta: dict[str, Any], key: str | None
) -> Fault:
    """The fault of a response with an error status.

    message: the server's message. meta: the model's. key: its variable.
    """
    status = error.status_code
    server, name = meta["server"], meta["name"]
    if error.code in ("content_filter", "content_policy_violation"):
        return Fault(refused("the provider's content filter refuses the prompt", message))
    refusal = StepError(f"{server} refuses the request ({status}: {message})")
    if status in (401, 403):
        fix = f"check what {key} holds" if key else "name its variable: api_key: NAME"
        shut = UsageError(f"{server} doesn't let us in ({status}: {message})", fix=fix)
        return Fault(shut, ends=True) if status == 401 else Fault(refusal, denial=shut)
    names_it = status == 400 and re.search(f"['\"`]{re.escape(name)}['\"`]", message)
    is_missing = status == 404 or error.code == "model_not_found"
    if is_missing or names_it:
        what = f"{server} has no model '{name}', or no API there ({status}: {message})"
        fix = "check `model`, and `base_url`, which mostly ends in /v1"
        unknown = UsageError(what, fix=fix)
        if is_missing:
            return Fault(unknown, ends=True, unknown_model=True)
        return Fault(refusal, denial=unknown, unknown_model=True)
    if status == 402 or error.code == "insufficient_quota":
        what = f"the account at {server} has no credit left ({status}: {message})"
        fix = "top it up and build again: what was answered is kept"
        return Fault(StepError(what, fix=fix), ends=True)
    if status in PASSING or status >= 500:
        return _passing(error, f"{server} answered {status}: {message}")
    return Fault(refusal)


def _passing(error: "APIStatusError", what: str) -> Fault:
    wait = retry_after(error.response.headers)
    if wait is not None and wait > LONGEST_HOLD:
        fix = "build again then: what was answered is kept"
        what = f"{what}; and it asks to wait {wait:,.0f} s"
        return Fault(StepError(what, fix=fix), ends=True)
    return Fault(StepError(what), again=True, wait=wait)


def message(error: "APIStatusError", redact: Callable[[str], str]) -> str:
    """What the server says, in a line. redact: takes secrets out, before the text is cut."""
    body: Any = error.body
    while isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body.get("error") or str(body)
    text = str(body or error.response.text or error.response.reason_phrase)
    readable = text.encode("utf-8", errors="replace").decode()  # JSON may hold half characters
    line = " ".join(redact(readable).split())
    return line if len(line) <= 300 else f"{line[:299]}…"


def unreachable(server: str, error: Exception, redact: Callable[[str], str]) -> FineryError:
    """The error for a server to which no connection came about, and that never answered before."""
    causes = list(_causes(error))
    if any(isinstance(c, socket.gaierror) for c in causes):
        fix = "check the name of the server in base_url, and the network"
    elif any(isinstance(c, ssl.SSLError) for c in causes):
        fix = "check that base_url should be https, and that this machine trusts its certificate"
    elif any(type(c).__name__ == "ProxyError" for c in causes):
        fix = "check HTTPS_PROXY; a proxy that needs a password is passed with FINERY_PASS_ENV"
    else:
        fix = f"is the server running at {server}? Start it, or correct base_url"
    return StepError(f"{server} can't be reached ({redact(cause(error))})", fix=fix)


def cause(error: Exception) -> str:
    """Why a connection failed, as far as the library knows."""
    texts = [str(one) for one in _causes(error) if isinstance(one, OSError) and str(one)]
    inner = error.__cause__ or error
    return texts[-1] if texts else str(inner) or type(inner).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it, the first cause last."""
    seen: list[BaseException] = [error]
    for one in seen:
        yield one
        if isinstance(one, BaseExceptionGroup):
            seen += one.exceptions
        if (inner := one.__cause__ or one.__context__) is not None and inner not in seen:
            seen.append(inner)


def unknown_parameter(error: "APIStatusError", message: str, sent: dict[str, Any]) -> str | None:
    """The parameter among those that can be spared which the server doesn't take, if it says so."""
    if error.status_code not in (400, 422):
        return None
    message = f"{error.param or ''} {message}".lower()
    if "response_format" in sent and any(word in message for word in SCHEMA_WORDS):
        return "response_format"
    if "max_tokens" in sent and "max_completion_tokens" in message:
        return "max_tokens"
    unknown = error.param == "seed" or _UNKNOWN_SEED.search(message)
    return "seed" if "seed" in sent and unknown else None


def of_row(error: FineryError, request: Request) -> FineryError:
    """The error, saying which request it is about."""
    last = str(request.messages[-1].get("content")) if request.messages else ""
    error.details.append(f"asked: {' '.join(last[:400].split())[:100]}")
    return error
