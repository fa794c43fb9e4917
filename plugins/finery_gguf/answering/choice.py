"""What answers, the library or a server, and how many rows at once.

Loaded by name: the server's build is in the key as a fact, and the library's answers don't depend
on the number of rows.
"""

import os
import re

from finery import UsageError, outside_key
from finery_gguf.programs import SERVER, server_build, user_program

ENGINE = "FINERY_GGUF_ENGINE"
"""`library` or `server`. The default is the server if the user has installed llama.cpp."""
SLOTS = "FINERY_GGUF_SLOTS"
"""Number of rows that are answered at once."""
LIBRARY, REMOTE = "library", "server"
MOST_SLOTS, DEFAULT_SLOTS = 64, 16


@outside_key
def server() -> str | None:
    """The server's build, e.g. `llama-server 6123 (0ce8cd1)`; None if the library answers."""
    chosen = os.environ.get(ENGINE, "")
    if chosen not in ("", LIBRARY, REMOTE):
        raise UsageError(
            f"{ENGINE} must be `{LIBRARY}` or `{REMOTE}`, but is {chosen!r}",
            fix=f"unset it to use {SERVER} if it is installed, and else the library",
        )
    if chosen == REMOTE or (not chosen and user_program(SERVER) is not None):
        return server_build()
    return None


@outside_key
def rows_at_once() -> int:
    """The maximum number of rows at once; the memory for their caches may allow fewer."""
    chosen = os.environ.get(SLOTS, "")
    if not chosen:
        return DEFAULT_SLOTS
    if not re.fullmatch(r"\d{1,3}", chosen) or not 1 <= int(chosen) <= MOST_SLOTS:
        raise UsageError(
            f"{SLOTS} must be a number from 1 to {MOST_SLOTS}, but is {chosen!r}",
            fix=f"unset it to answer {DEFAULT_SLOTS} rows at once",
        )
    return int(chosen)
