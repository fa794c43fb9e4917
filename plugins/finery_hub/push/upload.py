"""One commit with all files, by the hub's library, and what went wrong with it."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from finery import FineryError, Job, StepError
from finery.advanced import size, some_of
from finery_hub.client import TIMEOUT, endpoint, http_error, missing, token_of, watch_responses
from finery_hub.push.files import MARK, File

LARGEST_MARK = 2**20
INITIAL = frozenset({".gitattributes"})
"""Files of a new repository."""


class Pushed(NamedTuple):
    """A commit on the hub."""

    commit: str
    url: str
    private: bool


class State(NamedTuple):
    """A repository before the push. commit: None if it is new. ours: files of the last push."""

    commit: str | None
    ours: frozenset[str] = frozenset()
    private: bool = True


def push(
    repo: str,
    files: Sequence[File],
    job: Job,
    *,
    private: bool,
    owner: tuple[str, str],
    adopt: bool,
) -> Pushed:
    """Push the files as one commit; the current commit if they are already there.

    owner: the names of the recipe and the step. adopt: whether to push into a repository with other
    files. Large files are uploaded first, and those that the hub already has aren't sent again.
    """
    token = token_of(job)
    if token is None:
        from huggingface_hub import get_token

        token = get_token()
    if not token:
        raise StepError(
            "pushing needs a token for the hub, and there is none",
            fix="log in (`hf auth login`), or set HF_TOKEN to a token with write access "
            "(https://huggingface.co/settings/tokens)",
        )
    with explained_push(repo, token):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # in this process, which runs only this step: they fill its log

        api = HfApi(token=token, library_name="finery")
        _check_account(api, repo)
        state = _state(api, repo, job, owner, adopt)
        if state.commit is not None and private and not state.private:
            raise StepError(
                f"{repo} is public, and the recipe says that it is private",
                fix="make it private in its settings on the hub, name another repository, or set "
                "private: false",
            )
        if state.commit is None:
            api.create_repo(repo, private=private, repo_type="model")
            job.log(f"created {repo} ({'private' if private else 'public'})")
            state = state._replace(private=private)
        elif state.private and not private:
            job.log(f"{repo} stays private: change that in its settings on the hub")
        total, done = sum(file.size for file in files), 0
        additions = []
        for file in sorted(files, key=lambda f: f.size):
            job.progress(done, total, f"uploading {file.path} ({size(file.size)})")
            source = file.source if isinstance(file.source, bytes) else str(file.source.resolve())
            addition = CommitOperationAdd(file.path, source)
            api.preupload_lfs_files(repo, [addition], num_threads=1, free_memory=False)
            additions.append(addition)
            done += file.size
        job.progress(done, total, "committing")
        gone = sorted(state.ours - {addition.path_in_repo for addition in additions})
        info = api.create_commit(
            repo,
            [*additions, *(CommitOperationDelete(name, is_folder=False) for name in gone)],
            commit_message=f"Push {owner[1]} of {owner[0]}",
            commit_description="Made with finery.",
            parent_commit=state.commit,
        )
        commit = str(info.oid)
        _check_arrived(api, repo, commit, additions)
        if commit == state.commit:
            job.log(f"{repo} already holds these files, in commit {commit[:12]}")
        else:
            job.log(f"pushed {len(files)} files to {repo}, commit {commit[:12]}")
        return Pushed(commit, f"{api.endpoint}/{repo}", state.private)


def _check_account(api: Any, repo: str) -> None:
    """Raise `StepError` where the token's account can't write to the owner's repositories."""
    account = api.whoami()
    owner = repo.partition("/")[0]
    roles = {
        str(o["name"]).lower(): str(o.get("roleInOrg") or "") for o in account.get("orgs") or ()
    }
    name = str(account["name"])
    if owner.lower() != name.lower() and owner.lower() not in roles:
        mine = ", ".join([name, *sorted(roles)])
        raise StepError(
            f"{owner} isn't an account or organization of the token's user",
            fix=f"push to one of: {mine} (repo: {name}/{repo.partition('/')[2]})",
        )
    if roles.get(owner.lower()) == "read":
        raise StepError(
            f"{name} may only read the repositories of {owner}",
            fix=f"ask an administrator of {owner} for the role 'contributor' or 'write'",
        )
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise StepError(
            f"the token '{token.get('displayName', '')}' may only read",
            fix="create one with write access (https://huggingface.co/settings/tokens), and set "
            "HF_TOKEN to it",
        )


def _state(api: Any, repo: str, job: Job, owner: tuple[str, str], adopt: bool) -> State:
    """The repository before the push. `StepError` if it holds something else."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.repo_info(repo, timeout=TIMEOUT)
    except RepositoryNotFoundError:
        return State(None)
    names = frozenset(sibling.rfilename for sibling in info.siblings or ())
    mark = _mark(api, repo, info.sha, job) if MARK in names else {}
    is_ours = (mark.get("recipe"), mark.get("step")) == owner
    if not (is_ours or adopt or names <= INITIAL):
        whose = some_of(sorted(names - INITIAL), 3)
        if mark:
            whose = f"they are from step '{mark.get('step')}' of the recipe '{mark.get('recipe')}'"
        raise StepError(
            f"{repo} holds files that this step didn't push ({whose})",
            fix="name another repository, or set adopt: true to push into this one",
        )
    listed = mark.get("files")
    ours = frozenset(map(str, listed)) if is_ours and isinstance(listed, list) else frozenset()
    return State(info.sha, ours & names, bool(info.private))


def _mark(api: Any, repo: str, commit: str, job: Job) -> dict[str, Any]:
    """The marker of the last push; empty if it can't be read."""
    folder = job.scratch / "hub"
    path = Path(api.hf_hub_download(repo, MARK, revision=commit, local_dir=str(folder)))
    try:
        with path.open("rb") as content:
            mark = json.loads(content.read(LARGEST_MARK))
    except (ValueError, RecursionError):
        return {}
    return mark if isinstance(mark, dict) else {}


def _check_arrived(api: Any, repo: str, commit: str, additions: Sequence[Any]) -> None:
    """Raise `StepError` unless the commit holds every file with its content."""
    paths = [addition.path_in_repo for addition in additions]
    there = {info.path: info for info in api.get_paths_info(repo, paths, revision=commit)}
    for addition in additions:
        path, info = addition.path_in_repo, there.get(addition.path_in_repo)
        if info is None:
            raise StepError(
                f"the commit {commit[:12]} of {repo} lacks {path}",
                fix="remove a .gitignore of the repository that names it, and build again",
            )
        if not _is_same(addition, info):
            raise StepError(
                f"{path} in the commit {commit[:12]} of {repo} isn't what was pushed",
                fix="build again",
            )


def _is_same(addition: Any, info: Any) -> bool:
    """Whether the hub has the same content, by the SHA-256 of a large file or git's hash."""
    if info.lfs is not None:
        return bool(info.lfs.sha256 == addition.upload_info.sha256.hex())
    with addition.as_file() as file:
        content = file.read()
    return bool(info.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


NOTHING = "nothing was committed; files that were uploaded aren't sent again"
TOKENS = "https://huggingface.co/settings/tokens"
_STORAGE = ("storage limit", "storage quota", "storage patterns", "more storage", "quota exceeded")
"""The hub's message for an account without free space."""


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
    changed = (f"{repo} was changed by someone else during the push", "build again")
    other = (f"the hub refuses the push to {repo}", "see what it says below")
    if status >= 500:
        other = ("the hub has a problem", "build again later")
    what, fix = {
        401: (
            "the hub doesn't accept the token: it is wrong, expired or revoked",
            f"create one with write access ({TOKENS}), and set HF_TOKEN to it, or log in again "
            "(`hf auth login --force`)",
        ),
        403: (
            f"the token may not write to {repo}",
            f"create a token with write access to the repositories of {repo.partition('/')[0]} "
            f"({TOKENS}), and set HF_TOKEN to it",
        ),
        404: (f"the hub has no repository {repo}", "build again, which creates it"),
        409: changed,
        412: changed,
        413: (f"the hub refuses a file for {repo}: it is too large", "push fewer or smaller files"),
        429: (
            "the hub limits the rate of requests of this account", "build again in a few minutes"
        ),
    }.get(status, other)  # fmt: skip
    return StepError(f"{what} ({status})", fix=f"{fix}; {NOTHING}", details=details)


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
