"""What went wrong with a push, in words and with the fix."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finery import FineryError, StepError
from finery_hub.client import endpoint, http_error, missing
from finery_hub.steady import watch_responses

NOTHING = "nothing was committed; files that were uploaded aren't sent again"
TOKENS = "https://huggingface.co/settings/tokens"
_STORAGE = ("storage limit", "storage quota", "storage patterns", "more storage", "quota exceeded")
"""What the hub says where an account has no space left."""


@contextmanager
def explained_push(repo: str, token: str) -> Iterator[None]:
    """Turn errors of the hub's library into errors that say what to do, without the token."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise missing("hub.push", "huggingface-hub") from error
    watch_responses()
    try:
        yield
    except FineryError:
        raise
    except (http_error(), errors.HFValidationError, OSError, RuntimeError, ValueError) as error:
        raised = explain_push(error, repo)
        raised.what = raised.what.replace(token, "***")
        raised.details = [line.replace(token, "***") for line in raised.details]
        raise raised from None  # the library's error may quote a request


def explain_push(error: BaseException, repo: str) -> FineryError:
    """The error to show for one of the hub's library."""
    from huggingface_hub import errors

    inner, text = error.__cause__, str(error)
    if "Invalid metadata" in text:
        return StepError(
            "the hub refuses the metadata of the model card",
            fix=f"correct license, base_model or licenses in the recipe; {NOTHING}",
            details=text.splitlines()[1:],
        )
    if isinstance(error, RuntimeError | ValueError) and isinstance(inner, errors.HfHubHTTPError):
        return _refused(inner, repo, str(error))
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error, repo, "")
    if isinstance(error, RuntimeError) and isinstance(inner, http_error() | OSError):
        return _unreachable(inner, repo)
    if _is_about_storage(text):
        return _full(repo, text)
    if isinstance(error, http_error() | ConnectionError | TimeoutError):
        return _unreachable(error, repo)
    return StepError(f"pushing to {repo} failed: {text}", fix=f"build again; {NOTHING}")


def _refused(error: Any, repo: str, context: str) -> FineryError:
    """The error for a request that the hub refused."""
    status = error.response.status_code
    said = str(error.server_message or "")
    details = [line for line in (*context.splitlines(), *said.splitlines()) if line]
    if _is_about_storage(f"{said} {context}"):
        return _full(repo, said or context)
    what, fix = _words(status, repo, said)
    return StepError(f"{what} ({status})", fix=f"{fix}; {NOTHING}", details=details)


def _words(status: int, repo: str, said: str) -> tuple[str, str]:
    owner = repo.partition("/")[0]
    if status == 401:
        return (
            "the hub doesn't accept the token: it is wrong, expired or revoked",
            f"create one with write access ({TOKENS}), and set HF_TOKEN to it, or log in again "
            "(`hf auth login --force`)",
        )
    if status == 403:
        return (
            f"the token may not write to {repo}",
            f"create a token with write access to the repositories of {owner} ({TOKENS}), and set "
            "HF_TOKEN to it",
        )
    if status == 404:
        return f"the hub has no repository {repo}", "build again, which creates it"
    if status in (409, 412):
        return f"{repo} was changed by someone else during the push", "build again"
    if status == 413:
        return f"the hub refuses a file for {repo}: it is too large", "push fewer or smaller files"
    if status == 429:
        return "the hub limits the rate of requests of this account", "build again in a few minutes"
    if status >= 500:
        return "the hub has a problem", "build again later"
    return f"the hub refuses the push to {repo}", "see what it says below"


def _is_about_storage(text: str) -> bool:
    return any(phrase in text.lower() for phrase in _STORAGE)


def _full(repo: str, said: str) -> StepError:
    return StepError(
        f"the account of {repo} has no storage left on the hub",
        fix="delete files there that you no longer need, get more storage "
        f"(https://huggingface.co/settings/billing), or push fewer files; {NOTHING}",
        details=[line for line in said.splitlines() if line],
    )


def _unreachable(error: BaseException, repo: str) -> StepError:
    details = str(error).splitlines()[:1]
    if os.environ.get("HF_HUB_OFFLINE"):
        details.append("HF_HUB_OFFLINE is set")
    return StepError(
        f"{endpoint()} can't be reached to push {repo}",
        fix=f"build again with network access; {NOTHING}",
        details=details,
    )
