"""Records of answered requests that are shared through a shared store, with `share_answers`.

Only those of models behind an API are, which cost money. A worker asks the store itself: it gets
the store's URL, whose signatures count, and the variables of the environment that give access to
it. Steps don't see these.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import RemoteError
from finery.inference.records import Records, SqliteRecords

if TYPE_CHECKING:
    from concurrent.futures import Future

    from finery.store.remote import Remote

SEND_THREADS = 8
"""How many answers are sent at the same time."""
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")


def open_records(database: Path, answers: Mapping[str, Any]) -> Records:
    """The records of a project, shared if `answers` of its task names a shared store."""
    local = SqliteRecords(database)
    if not answers:
        return local
    from finery.store.remote import Remote
    from finery.store.signing import Signer, Trust

    saved_environment = dict(os.environ)
    os.environ.update(answers["environment"])
    try:
        remote = Remote(
            answers["url"],
            Signer(answers["signing_key"]) if answers["signing_key"] else None,
            Trust(answers["trust"]) if answers["trust"] else None,
        )
    finally:
        for name in answers["environment"]:
            os.environ.pop(name)
        os.environ.update(saved_environment)
    return SharedRecords(local, remote, pushes=answers["push"])


def answer_secrets(answers: Mapping[str, Any]) -> dict[str, str]:
    """The secrets in `answers` of a task, by name."""
    variables: dict[str, str] = answers.get("environment", {})
    return {name: value for name, value in variables.items() if _SECRET.search(name)}


class SharedRecords:
    """The project's own records, and those of a shared store."""

    def __init__(self, local: Records, remote: "Remote", *, pushes: bool) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self.local = local
        self._remote = remote
        self._pushes = pushes
        self._looked_up: set[bytes] = set()
        self._threads = ThreadPoolExecutor(SEND_THREADS)
        self._uploads: list[Future[None]] = []

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The existing records, by key. Each key is looked up once in the shared store."""
        existing = self.local.get(keys)
        missing = [key for key in keys if key not in existing and key not in self._looked_up]
        self._looked_up.update(missing)
        shared = self._remote.values("answers", missing)
        if shared:
            self.local.put(shared)
        return existing | shared

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Store records here, and send them in the background."""
        self.local.put(records)
        if self._pushes:
            self._uploads += [
                self._threads.submit(self._send, *record) for record in records.items()
            ]

    def _send(self, key: bytes, value: bytes) -> None:
        if self._pushes and not self._remote.down:
            try:
                self._remote.put_value("answers", key, value)
            except RemoteError as error:
                self._pushes = False
                self._remote.warn("can't be written", error.what)

    def claim(self, key: bytes) -> bool:
        """Claim the right to make a record; False while another process here has it."""
        return self.local.claim(key)

    def release(self, key: bytes) -> None:
        """Release a claim."""
        self.local.release(key)

    def close(self) -> None:
        """Wait until all records are sent."""
        self._threads.shutdown()
