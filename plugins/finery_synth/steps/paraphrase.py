"""`synth.paraphrase`: rewordings of user turns, with the same answers."""

from typing import Any

from finery import Completion, setting
from finery.rows import Row, Turns, with_turns
from finery.rows.parts import template_variables
from finery_synth.asking import MOST_VARIANTS, Task, bare
from finery_synth.generator import Generator

TEMPLATE = """\
{# system #}
You reword messages. You keep what is said: every fact, name, number and request stays, and nothing
is added. You write in the language of the message. You answer with the reworded message alone,
without quotes around it and without a word about it.
{# user #}
Reword the message between the lines, {{ style }}.

-----
{{ user }}
-----
"""
"""The default prompt."""
STYLES = [
    "in other words, about as long",
    "shorter and more direct",
    "longer, the way people ramble",
    "informally, as in a quick chat message",
    "politely and formally",
    "with another sentence structure and another beginning",
]


class Paraphrase(Generator):
    """Reword the last user turn of each row, `n` times.

    The answer, label, tools, other columns and earlier turns stay unchanged. A rewording that
    repeats the row or another of its rewordings is rejected. Each rewording is a request of its own
    with the next of `styles`, so raising `n` sends only the additional requests.
    """

    DEFAULT_PROMPT = TEMPLATE
    COPIES = "siblings"

    n: int = setting(3, ge=1, le=MOST_VARIANTS, help="Number of rewordings of each row.")
    styles: list[str] = setting(
        STYLES,
        min_length=1,
        help="How to reword, used in turn for the rewordings of a row. The template sees it as "
        "`style`.",
    )

    def variants(self) -> int:
        """One request for each rewording."""
        return self.n

    def names(self, row: Row, variant: int) -> dict[str, Any]:
        """The row, and how to reword it."""
        style = self.styles[variant % len(self.styles)]
        return {**template_variables(row), "style": style, "number": variant + 1}

    def read(self, task: Task, answer: Completion) -> list[Row]:
        """The row with the new user turn."""
        return [reworded(task.seeds[0], bare(answer.text))]


def reworded(row: Row, text: str) -> Row:
    """The row with another last user turn."""
    turns = Turns.of(row)
    last = max(i for i, turn in enumerate(turns.prompt) if turn["role"] == "user")
    prompt = [{**t, "content": text} if i == last else t for i, t in enumerate(turns.prompt)]
    return with_turns(row, turns._replace(prompt=prompt))
