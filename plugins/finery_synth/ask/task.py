"""One request of a generator, and the number of rows expected from it."""

from typing import Any

import msgspec

from finery import Request
from finery.rows import Conversation, Row

MOST_VARIANTS = 100_000
"""Maximum number of requests with the same messages, and the distance between attempts."""


class Task(msgspec.Struct, kw_only=True):
    """One request.

    number: its index among all tasks, from 0 and without gaps. seeds: the rows it is made from;
    their ids become the parents. wanted: the number of rows that its answer should contain.
    variant: its number among the requests with these messages, below `MOST_VARIANTS`. more: data
    that the step needs to read the answer.
    """

    number: int
    messages: Conversation
    seeds: list[Row]
    wanted: int = 1
    variant: int = 0
    tools: list[dict[str, Any]] | None = None
    more: dict[str, Any] = {}

    def request(self, attempt: int) -> Request:
        """The request of an attempt, from 0.

        The numbers of attempts don't depend on the number of variants or retries, so raising either
        sends only new requests.
        """
        return Request(self.messages, self.tools, attempt * MOST_VARIANTS + self.variant)
