"""Requests to the hub (the commit of a name, the files at a commit), their errors and limits.

The hub's library waits forever for a server that sends a byte now and then, and reads an answer of
any size. Here, answers must keep arriving, and facts about repositories must be small.
"""

import errno
import importlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from finery import DataError, FineryError, Job, StepError
from finery.advanced import did_you_mean, nearest

TIMEOUT = 30.0  # seconds, for one small request
COMMIT = re.compile("[0-9a-f]{40}")
Kind = Literal["model", "dataset"]
NAMES: dict[Kind, str] = {"model": "model", "dataset": "data set"}
MOST_NAMES = 1000
"""Maximum number of repository names that a mistyped one is compared with."""


def token_of(job: Job) -> str | None:
    """The token that the recipe passes; None lets the hub's library look for its own login."""
    try:
        return job.secret("HF_TOKEN")
    except StepError:
        return None


def resolve(repo: str, revision: str, kind: Kind = "model") -> str:
    """The commit that a branch or tag currently names, as 40 hex digits."""
    with explained(repo, revision, kind, resolving=True):
        from huggingface_hub import HfApi

        sha = HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=TIMEOUT).sha
    if not sha:
        raise StepError(f"{endpoint()} returned no commit for {repo}@{revision}")
    return sha


def download(
    repo: str,
    commit: str,
    job: Job,
    *,
    wanted: Sequence[str],
    unwanted: Sequence[str] = (),
    token: str | None,
    kind: Kind = "model",
) -> Path:
    """The folder, in the hub's own cache, with the files of `repo` that match `wanted`.

    Files in the cache aren't requested again, so a complete snapshot works offline.
    token: None lets the hub's library look for its own login.
    """
    with explained(repo, commit, kind):
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            repo,
            repo_type=kind,
            revision=commit,
            allow_patterns=list(wanted),
            ignore_patterns=list(unwanted),
            token=token,
            tqdm_class=_progress(job, repo),
        )
    return Path(folder)


def names_at(repo: str, commit: str, token: str | None) -> list[str]:
    """The names of all files of `repo` at `commit`, fetched or not."""
    with explained(repo, commit):
        from huggingface_hub import HfApi

        return list(HfApi(token=token).list_repo_files(repo, revision=commit))


@contextmanager
def explained(
    repo: str, revision: str, kind: Kind = "model", *, resolving: bool = False
) -> Iterator[None]:
    """Turn errors of the hub's library into errors that say what to do."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise missing(f"hub.{kind}", "huggingface-hub") from error
    watch_responses()
    try:
        yield
    except (http_error(), errors.HFValidationError, OSError, RuntimeError) as error:
        raise explain(error, repo, revision, kind, resolving=resolving) from error


def missing(step_type: str, package: str) -> StepError:
    """The error for a library that isn't installed."""
    return StepError(
        f"{step_type} needs the package {package}, which isn't installed",
        fix="pip install 'finery[hub]'",
    )


def explain(
    error: Exception, repo: str, revision: str, kind: Kind = "model", *, resolving: bool = False
) -> FineryError:
    """The error to show for one of the hub's library."""
    from huggingface_hub import errors

    inner = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(
        inner, errors.HfHubHTTPError
    ):
        error = inner
    if isinstance(error, errors.HFValidationError):
        return DataError(f"'{repo}' is not the name of a hub repository", fix="write owner/name")
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error, repo, revision, kind)
    offline = (errors.LocalEntryNotFoundError, http_error(), ConnectionError)
    if isinstance(error, offline):
        details = [str(error).splitlines()[0]] if str(error) else []
        if os.environ.get("HF_HUB_OFFLINE"):
            details.append("HF_HUB_OFFLINE is set")
        if not resolving:
            return StepError(
                f"{endpoint()} can't be reached, and the cache on this machine doesn't hold "
                f"all of {repo} at {revision[:12]}",
                fix="build once with network access; files that were fetched are kept",
                details=details,
            )
        commit = _cached_commit(repo, revision, kind)
        known = f"; the cache on this machine has revision: {commit}" if commit else ""
        return StepError(
            f"{endpoint()} can't be reached to look up the commit of '{revision}' of {repo}",
            fix=f"build once with network access, or name a commit in the recipe{known}",
            details=details,
        )
    from huggingface_hub import constants

    cache = constants.HF_HUB_CACHE
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT):
        return StepError(
            f"no disk space left for {repo}",
            where=str(cache),
            fix="free some space (`hf cache prune`), or set HF_HOME to move the hub's cache",
        )
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StepError(
            f"finery can't write to the hub's cache: {error}",
            where=str(cache),
            fix="change its permissions, or set HF_HOME to move it",
        )
    return StepError(
        f"fetching {repo} failed: {error}", fix="build again; files that were fetched are kept"
    )


def _refused(error: Any, repo: str, revision: str, kind: Kind) -> FineryError:
    """The error for a request that the hub refused."""
    from huggingface_hub import HfApi, errors

    status = error.response.status_code
    page = f"{endpoint()}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    details = [error.server_message] if error.server_message else []
    if isinstance(error, errors.GatedRepoError):
        return StepError(
            f"{repo} is gated: only accounts that accepted its licence have access ({status})",
            fix=f"accept the licence at {page}, then log in (`hf auth login`), or set HF_TOKEN to "
            "a token of that account and pass it to the step: env: [HF_TOKEN]",
            details=details,
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        owner = repo.partition("/")[0]
        ask: Any = HfApi().list_datasets if kind == "dataset" else HfApi().list_models
        others = _names_of(lambda: (r.id for r in ask(author=owner, limit=MOST_NAMES)))
        guess = nearest(repo, {*others} - {repo})
        typo = f"did you mean '{guess}'?" if guess else "check the spelling;"
        return DataError(
            f"the hub has no {NAMES[kind]} '{repo}', or it is private ({status})",
            fix=f"{typo} for a private {NAMES[kind]}, log in (`hf auth login`), or set HF_TOKEN "
            "and pass it to the step: env: [HF_TOKEN]",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        refs = HfApi().list_repo_refs
        names = _names_of(
            lambda: (
                ref.name
                for listed in [refs(repo, repo_type=kind)]
                for ref in (*listed.branches, *listed.tags)
            )
        )
        return DataError(
            f"{repo} has no revision '{revision}'",
            fix=did_you_mean(revision, names) or f"see its branches and tags at {page}/tree/main",
        )
    if status in (401, 403):
        return StepError(
            f"the hub refuses the token for {repo} ({status})",
            fix="create a token with read access (https://huggingface.co/settings/tokens), and "
            "set HF_TOKEN to it",
            details=details,
        )
    return StepError(
        f"the hub answered {status} for {repo}", fix="build again later", details=details
    )


def _names_of(ask: Callable[[], Iterable[str]]) -> list[str]:
    """Names to compare a mistyped one with; none if the hub fails, since it is only a guess."""
    try:
        return list(ask())
    except (http_error(), OSError):
        return []


def _cached_commit(repo: str, revision: str, kind: Kind) -> str | None:
    """The commit that `revision` named when it was last fetched."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        cached = [r for r in scan_cache_dir().repos if (r.repo_id, r.repo_type) == (repo, kind)]
    except CacheNotFound:
        return None
    refs = cached[0].refs if cached else {}
    return refs[revision].commit_hash if revision in refs else None


def http_error() -> type[Exception]:
    """The base class of errors of the HTTP client that the hub library uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def endpoint() -> str:
    """The address of the hub, without a slash at the end."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def _progress(job: Job, repo: str) -> type[Any]:
    """A progress bar for the hub's library that reports to the job and draws nothing."""
    from huggingface_hub.utils.tqdm import tqdm

    lock = Lock()  # several threads fetch files, and a job's events share one pipe

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.get("name") == "huggingface_hub.snapshot_download"
            self._done = 0.0
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            with lock:
                self._done += n or 0
                if not (self._counts and self.total):
                    return
                if self._done > self.total:
                    raise StepError(
                        f"the hub sends more of {repo} than the {self.total:,} B announced"
                    )
                job.progress(self._done, self.total, f"downloading {repo}")

    return Bar


SECONDS = 60.0
LEAST_BYTES = 64 * 1024
"""So much has to come every `SECONDS`, as long as a response isn't complete."""
MOST_FACTS = 64 * 2**20
"""Size limit in bytes of a response that isn't a file."""


def watch_responses() -> None:
    """Make the hub's library apply the limits to every response of this process."""
    from huggingface_hub import get_session

    client: Any = get_session()
    hooks = client.event_hooks
    if _limit not in hooks["response"]:
        client.event_hooks = {**hooks, "response": [*hooks["response"], _limit]}


def _limit(response: Any) -> None:
    library = type(response).__module__.partition(".")[0]
    response.stream = _limited(library)(response.stream, response.request.url)


@cache
def _limited(library: str) -> Any:
    """A stream of bytes with limits, for the HTTP library of that name."""

    class Limited(importlib.import_module(library).SyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any, url: Any) -> None:
            self._stream = stream
            self._host = url.host
            self._most = MOST_FACTS if url.path.startswith("/api/") else None

        def __iter__(self) -> Iterator[bytes]:
            count, window, since = 0, 0, time.monotonic()
            for chunk in self._stream:
                count, window = count + len(chunk), window + len(chunk)
                if self._most is not None and count > self._most:
                    raise StepError(f"{self._host} sent an answer of more than {self._most:,} B")
                if window >= LEAST_BYTES:
                    window, since = 0, time.monotonic()
                elif time.monotonic() - since > SECONDS:
                    raise StepError(
                        f"{self._host} sent less than {LEAST_BYTES:,} B in {SECONDS:g} s",
                        fix="build again later; what was fetched is kept",
                    )
                yield chunk

        def close(self) -> None:
            self._stream.close()

    return Limited
