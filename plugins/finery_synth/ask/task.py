"""One request of a generator, and the rows that should come of it."""

from typing import Any

import msgspec

from finery import Request
from finery.rows import Conversation, Row

MOST_VARIANTS = 100_000
"""Most requests with the same messages. Each further attempt's numbers start this much higher."""


class Task(msgspec.Struct, kw_only=True):
    """One request.

    number: its place among all tasks, from 0 and without gaps. seeds: the rows it is made from;
    their ids become the parents. wanted: rows that its answer should hold. variant: which of the
    requests with these messages it is, below `MOST_VARIANTS`. more: what the step needs to read
    the answer.
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

        The numbers of attempts depend neither on how many variants there are nor on how many
        retries are allowed: raising either asks only for what is new.
        """
        return Request(self.messages, self.tools, attempt * MOST_VARIANTS + self.variant)
