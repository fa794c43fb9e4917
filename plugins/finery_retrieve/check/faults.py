"""What differs between the app of a bundle and the model of the recipe.

In go what the build retrieved and prompted, and what the app did. Out come faults, each with a name
and an example.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from finery import Model
from finery_gguf.difference import text_difference
from finery_gguf.llama import Gguf
from finery_gguf.prompts import model_template, tokenize
from finery_retrieve.check.serving import Served
from finery_retrieve.evaluate.grounded.contexts import Asked
from finery_retrieve.serve.settings import gguf_file
from finery_serve.servers import Prompt

Kind = Literal["sources", "prompts", "sampling"]
AGAIN = "build the bundle again, of the model in `models`"


class Fault(NamedTuple):
    """A difference between the app and the build."""

    kind: str
    what: str
    details: list[str]
    fix: str


class Compared(NamedTuple):
    """Whether the app did the same for each question."""

    sources: list[bool]
    prompts: list[bool]
    faults: list[Fault]


def compared(asked: Sequence[Asked], served: Sequence[Served], under: Model) -> Compared:
    """Compare sources and prompts. under: the GGUF that answers.

    A prompt is the same if its tokens are, and if the server counted as many when it answered.
    """
    gguf = Gguf(gguf_file(under), vocab_only=True)
    template = model_template(gguf, under)
    expected = [Prompt(*tokenize(gguf, template, one.messages)[:2]) for one in asked]
    sources = [
        [hit.id for hit in one.hits] == of.sources for one, of in zip(asked, served, strict=True)
    ]
    prompts = [
        _is_same(prompt, one, of) for prompt, one, of in zip(expected, asked, served, strict=True)
    ]
    faults = [
        *_source_faults(asked, served, sources), *_prompt_faults(asked, expected, served, prompts)
    ]  # fmt: skip
    return Compared(sources, prompts, faults)


def _is_same(expected: Prompt, asked: Asked, served: Served) -> bool:
    counted = served.answer.prompt_tokens or len(expected.tokens)  # not all servers count
    return (
        served.messages == asked.messages
        and served.prompt.tokens == expected.tokens
        and counted == len(expected.tokens)
    )


def _source_faults(
    asked: Sequence[Asked], served: Sequence[Served], same: Sequence[bool]
) -> list[Fault]:
    if all(same):
        return []
    first = same.index(False)
    hits = [hit.id for hit in asked[first].hits]
    details = [
        f"for example {asked[first].question.text!r}:", f"built: {', '.join(hits) or 'none'}",
        f"app:   {', '.join(served[first].sources) or 'none'}",
    ]  # fmt: skip
    what = f"{same.count(False)} of {len(same)} questions have other sources than in the build"
    return [Fault("sources", what, details, AGAIN)]


def _prompt_faults(
    asked: Sequence[Asked],
    expected: Sequence[Prompt],
    served: Sequence[Served],
    same: Sequence[bool],
) -> list[Fault]:
    if all(same):
        return []
    first = same.index(False)
    own, other = expected[first], served[first].prompt
    if own.text != other.text:
        details = text_difference(("built:", "app:"), own.text, other.text)
    else:
        counted = served[first].answer.prompt_tokens
        details = [f"built: {len(own.tokens)} tokens, app: {len(other.tokens)}, sent: {counted}"]
    what = f"{same.count(False)} of {len(same)} prompts differ from those of the build"
    head = f"for example {asked[first].question.text!r}:"
    return [Fault("prompts", what, [head, *details], AGAIN)]
