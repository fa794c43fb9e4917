"""Objects by name in a bucket, in a folder or on a web server: where a shared store is kept.

obstore (MIT, one package without dependencies) does this for all but `hf://`. Measured on one
machine with 1,000 look-ups that take 20 ms each and a file of 200 MB: 0.4 s (0.2 s of CPU), 2.0 s
to write, 0.8 s to read, 0.05 s to import. fsspec with s3fs took 4.1 s, 2.5 s and 0.6 s, and needs
a further package for each kind of bucket.
"""

import importlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from finery.errors import RemoteError, UsageError

T = TypeVar("T")

SCHEMES = ("s3", "gs", "az", "hf", "https", "http", "file")
_CLIENT: dict[str, Any] = {
    # Of one request: large objects are read in ranges and written in parts.
    "timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=5), "allow_http": True,
}  # fmt: skip
PART_BYTES = 8 << 20
"""Bytes of a part in which a large file is written."""
_RANGE_ERROR = re.compile("status code: 416|range was invalid")
"""In the message for a range that starts after the end of an object."""
_STATUS = re.compile(r"status code: (\d{3}[\w ]*\w)")
_MESSAGE = re.compile("<Message>([^<]+)</Message>")
"""In obstore's messages for an answer of a server: its status, and what S3 says in its XML."""
_RETRY: dict[str, Any] = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}


class StoredObject(NamedTuple):
    """An object: its name, its bytes, and when it was written, in seconds since the epoch."""

    name: str
    size: int
    written: float


class Objects(Protocol):
    """Objects by name. The methods may be called in any thread. Each raises `RemoteError`.

    is_stopped: set it to end writing soon.
    """

    url: str
    is_stopped: bool

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes | None:
        """The content of an object, or a range of its bytes; None if there is no such object."""

    def has(self, name: str) -> bool:
        """Whether there is such an object."""

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object, completely or not at all. content: its bytes, or a file with them."""

    def list_objects(self, folder: str) -> "Iterator[StoredObject]":
        """All objects of a folder, in any order."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects."""


INVALID_URL = "(an invalid URL)"
"""What messages have in its place, since it may contain a password."""


def open_objects(url: str) -> Objects:
    """The objects below a URL. Asks nothing yet.

    Raises `UsageError` if the URL is wrong, or if a package isn't installed.
    """
    scheme, is_url, location = url.partition("://")
    if scheme not in SCHEMES or not is_url:
        raise UsageError(
            f"the shared store must be a URL, not '{public_url(url)}'",
            where="remote",
            fix=f"start it with one of: {', '.join(f'{name}://' for name in SCHEMES)}",
        )
    if public_url(url) == INVALID_URL:
        raise UsageError("the URL has no valid host", where="remote", fix="correct it after the //")
    if not location.strip("/"):
        example = "file:///mnt/team" if scheme == "file" else f"{scheme}://bucket/prefix"
        raise UsageError(
            f"{scheme}:// names no {'folder' if scheme == 'file' else 'bucket'}",
            where="remote",
            fix=f"write it as in {example}",
        )
    if scheme == "file":
        _check_folder(location)
    try:
        if scheme == "hf":
            files = importlib.import_module("huggingface_hub").HfFileSystem
            return FileSystemObjects(files(use_listings_cache=False), location, url)
        return _Obstore(url)
    except ImportError as error:
        raise UsageError(
            f"the shared store {public_url(url)} needs {error.name}, which isn't installed",
            fix=f"pip install 'finery[{'hub' if scheme == 'hf' else 'remote'}]'",
        ) from error


def _check_folder(path: str) -> None:
    """Refuse a path that may be a mistake, since a store is created where none is."""
    if not path.startswith("/"):
        raise UsageError(
            f"the folder of the shared store must be an absolute path, not '{path}'",
            where="remote",
            fix=f"write file://{os.path.abspath(path)}",
        )
    folder = Path(path)
    if not folder.exists() and not folder.parent.is_dir():
        raise UsageError(
            f"the shared store can't be in {folder}, since {folder.parent} doesn't exist",
            where="remote",
            fix=f"correct the path, mount the file system, or run: mkdir -p {folder.parent}",
        )


def public_url(url: str) -> str:
    """A URL without a user name, a password and a query, for messages."""
    try:
        parts = urlsplit(url)
    except ValueError:  # whose text may contain the password
        return INVALID_URL
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()


class _Obstore:
    """Objects in whatever obstore can open."""

    def __init__(self, url: str) -> None:
        self.url, self.is_stopped = url, False
        self._folder: Path | None = None
        self._open: Callable[[], Any]
        self._library: Any = importlib.import_module("obstore")
        stores: Any = importlib.import_module("obstore.store")
        parts = urlsplit(url)
        try:
            if parts.scheme == "file":
                self._folder = Path(parts.path)
                self._open = lambda: stores.LocalStore(parts.path, mkdir=True)
                return
            options: dict[str, Any] = {"client_options": _CLIENT, "retry_config": _RETRY}
            if parts.scheme == "s3" and "AWS_ACCESS_KEY_ID" not in os.environ:
                options |= _aws_credentials()
            store = stores.from_url(url, **options)
            self._open = lambda: store
        except Exception as error:
            raise UsageError(
                f"can't open the shared store {public_url(url)}: {_failure_reason(error)}",
                where="remote",
                fix="correct the URL, or set what the bucket needs in the environment",
            ) from error

    @cached_property
    def _store(self) -> Any:
        """Opened when it is needed, since that creates a folder."""
        return self._open()

    def _store_without_links(self, *names: str) -> Any:
        """The store, for objects whose folders are no links, which would lead out of it.

        The store's own folder may be one.
        """
        folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
        for folder in sorted(folders - {"."}) if self._folder else ():
            if self._folder and (self._folder / folder).is_symlink():
                raise OSError(f"its folder {folder} is a link, which isn't followed: remove it")
        return self._store

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes | None:
        def action() -> bytes:
            if self._folder and not S_ISREG(os.stat(self._folder / name).st_mode):
                return b""  # a pipe may never end
            store = self._store_without_links(name)
            if end is None:
                return bytes(self._library.get(store, name).bytes())
            try:
                return bytes(self._library.get_range(store, name, start=start, end=end))
            except Exception as error:
                if _RANGE_ERROR.search(str(error)):
                    return b""
                raise

        return _request(action, None)

    def has(self, name: str) -> bool:
        return _request(
            lambda: bool(self._library.head(self._store_without_links(name), name)), False
        )

    def put(self, name: str, content: bytes | Path) -> None:
        body: bytes | Iterator[bytes] | Path = content
        if isinstance(content, Path):
            is_small = content.stat().st_size < PART_BYTES
            body = content.read_bytes() if is_small else self._read_parts(content)
        _write(
            lambda: self._library.put(
                self._store_without_links(name), name, body, max_concurrency=4
            )
        )

    def list_objects(self, folder: str) -> Iterator[StoredObject]:
        if self._folder and not self._folder.is_dir():
            return
        pages = iter(self._library.list(self._store, folder))
        while page := _request(lambda: next(pages, None), None):
            _request(partial(self._store_without_links, *(about["path"] for about in page)), None)
            yield from (
                StoredObject(o["path"], o["size"], o["last_modified"].timestamp()) for o in page
            )

    def remove(self, names: Sequence[str]) -> None:
        _request(lambda: self._library.delete(self._store_without_links(*names), [*names]), None)

    def _read_parts(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            while part := file.read(PART_BYTES):
                if self.is_stopped:
                    raise RemoteError("interrupted")
                yield part


def _aws_credentials() -> dict[str, Any]:
    """A provider of the credentials of AWS profiles, which obstore doesn't read itself."""
    folder = Path("~/.aws").expanduser()
    if not ("AWS_PROFILE" in os.environ or folder.is_dir()):
        return {}
    try:
        boto3 = importlib.import_module("obstore.auth.boto3")
    except ImportError:
        return {}
    return {"credential_provider": boto3.Boto3CredentialProvider()}


class FileSystemObjects:
    """Objects in a file system of fsspec, such as Hugging Face's.

    root: their place in it.
    """

    def __init__(self, files: Any, root: str, url: str) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self.url, self.is_stopped = url, False

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes | None:
        def action() -> bytes:
            return bytes(self._files.cat_file(f"{self._root}/{name}", start=start, end=end))

        return _request(action, None)

    def has(self, name: str) -> bool:
        return bool(_request(lambda: self._files.exists(f"{self._root}/{name}"), False))

    def put(self, name: str, content: bytes | Path) -> None:
        path = f"{self._root}/{name}"
        if isinstance(content, Path):
            _write(lambda: self._files.put_file(str(content), path))
        else:
            _write(lambda: self._files.pipe_file(path, content))

    def list_objects(self, folder: str) -> Iterator[StoredObject]:
        entries: dict[str, Any] = _request(
            lambda: self._files.find(f"{self._root}/{folder}", detail=True), {}
        )
        for path, about in entries.items():
            name = folder + path.rpartition(f"/{folder}")[2]
            written = about.get("last_modified") or about.get("mtime")
            seconds = written if isinstance(written, float) else written.timestamp()
            yield StoredObject(name, about["size"], seconds)

    def remove(self, names: Sequence[str]) -> None:
        _request(lambda: self._files.rm([f"{self._root}/{name}" for name in names]), None)


def _request(action: Callable[[], T], missing: T) -> T:
    """The result of a request. missing: that for an object which doesn't exist."""
    try:
        return action()
    except FileNotFoundError:
        return missing
    except Exception as error:  # whatever the library or a provider of credentials raises
        raise RemoteError(_failure_reason(error)) from error


def _write(action: Callable[[], object]) -> None:
    """Write something."""
    try:
        action()
    except FileNotFoundError as error:
        raise RemoteError("the bucket or folder doesn't exist") from error
    except Exception as error:
        raise RemoteError(_failure_reason(error)) from error


# Class of an error, or what obstore's messages contain → why a request failed.
_FAILURE_REASONS = {
    "PermissionDeniedError": "permission denied",
    "UnauthenticatedError": "the credentials are missing or wrong",
    "NotSupportedError": "it can't be written",
    "403 Forbidden": "permission denied",
    "kind: Connect,": "no connection",
    "kind: Timeout,": "no answer in time",
}


def _failure_reason(error: Exception) -> str:
    """Why a request failed, in a line without the query of its URL."""
    name, text = type(error).__name__, str(error).strip()
    for sign, reason in _FAILURE_REASONS.items():
        if sign == name or sign in text:
            return reason
    if status := _STATUS.search(text):
        message = _MESSAGE.search(text)
        text = f"it answers {status[1]}{f': {message[1]}' if message else ''}".replace("\n", " ")
    line = (text.splitlines() or [name])[0].rpartition(" - ")[2]
    words = (public_url(word) if "://" in word else word for word in line.split())
    return " ".join(words)[:200]
