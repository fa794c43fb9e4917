"""The requirements on adapters on one server: the same base, tokenizer and chat template."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from finery import Model, StepError
from finery_vllm.folder import ends_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finery_transformers.frozen.template import Kept

APART = "export one bundle for each, and serve them on two ports"


class Chat(NamedTuple):
    """How a server turns messages into prompts.

    template: frozen, see `finery_transformers.frozen`. tools: whether it writes tools. ends: token
    ids that end an answer. system: what begins a conversation without a system message; None if
    clients must send the right one.
    """

    tokenizer: "PreTrainedTokenizerBase"
    template: str
    arguments: dict[str, Any]
    tools: bool
    ends: list[int]
    system: str | None


def chat_of(model: Model, keep: Collection["Kept"] = (), *, system: bool = True) -> Chat:
    """The tokenizer and chat template that a model was trained with. Arguments: as for exports."""
    from finery_transformers.frozen.template import frozen_template

    frozen = frozen_template(model, keep=keep, system=system)
    tokenizer = frozen.for_serving()
    ends = ends_of(model, tokenizer)
    default = frozen.system if system else None
    return Chat(tokenizer, frozen.source, frozen.arguments, frozen.tools, ends, default)


def chats_of(models: Mapping[str, Model]) -> dict[str, Chat]:
    """That of each model. If one was trained with tools, those of all write tools.

    A server has one template. Without tools in a request, it writes the prompts of each training.
    It begins conversations with the system message of the training only if all have the same.
    """
    chats = {name: chat_of(model) for name, model in models.items()}
    tools, systems = ({getattr(c, name) for c in chats.values()} for name in ("tools", "system"))
    if len(tools) == len(systems) == 1:
        return chats
    keep: tuple[Kept, ...] = ("tools",) if len(tools) > 1 else ()
    same = len(systems) == 1
    return {name: chat_of(model, keep, system=same) for name, model in models.items()}


def check_bases(models: Mapping[str, Model]) -> Model:
    """The base of all adapters. `StepError` if they have several, also of two revisions."""
    bases = {name: _base(name, model) for name, model in models.items()}
    (first, base), *others = bases.items()
    for name, other in others:
        if _identity(other) != _identity(base):
            raise StepError(
                f"the adapters '{first}' and '{name}' have different base models",
                details=[f"{n}: on {_called(b)}" for n, b in ((first, base), (name, other))],
                fix=f"train both on the same step; or {APART}",
            )
    return base


def check_chats(chats: Mapping[str, Chat]) -> Chat:
    """What all adapters share of them. `StepError` where they differ, since the server has one."""
    from finery.rows.difference import text_difference

    (first, chat), *others = chats.items()
    for name, other in others:
        both = f"the adapters '{first}' and '{name}'"
        if other.arguments != chat.arguments:
            raise StepError(
                f"{both} were trained with different arguments of the chat template",
                details=[f"{n}: {_listed(c)}" for n, c in ((first, chat), (name, other))],
                fix=f"a server has one chat template: train both with the same, or {APART}",
            )
        if other.template != chat.template:
            raise StepError(
                f"{both} were trained with different chat templates",
                details=text_difference((first, name), chat.template, other.template),
                fix=f"a server has one chat template: train both with the same, or {APART}",
            )
        if _vocabulary(other.tokenizer) != _vocabulary(chat.tokenizer):
            raise StepError(
                f"{both} have different tokenizers",
                fix=f"train both with the tokenizer of their base, or {APART}",
            )
    return chat._replace(ends=sorted({end for each in chats.values() for end in each.ends}))


def check_vocabulary(chat: Chat, base: Model, name: str) -> None:
    """`StepError` if a tokenizer has tokens for which the base has no embeddings."""
    from finery_vllm.folder import root_of
    from finery_vllm.server.command import read_json

    file = root_of(base).file("config.json")
    config = read_json(file) if file.is_file() else {}
    size = (config.get("text_config") or config).get("vocab_size")
    most = max(chat.tokenizer.get_vocab().values(), default=0)
    if isinstance(size, int) and most >= size:
        raise StepError(
            f"the tokenizer of the adapter '{name}' has token {most}, but its base has only "
            f"{size} embeddings",
            fix="train it without additional tokens, or merge it: `merge: true`",
        )


def _base(name: str, model: Model) -> Model:
    base = model.refs.get("base")
    if model.format != "adapter" or not isinstance(base, Model):
        raise StepError(
            f"'{name}' is a whole model, not an adapter",
            fix="list only adapters: their base is served too; or list this model alone",
        )
    return base


def _identity(model: Model) -> bytes:
    """The content of a model: the digest of one in the store, else what identifies its files."""
    own = model.digest or [model.meta.get("files") or str(model.path.resolve()), model.meta]
    return msgspec.json.encode(own, order="deterministic")


def _called(model: Model) -> str:
    """A model as people know it: its repository and revision, else its digest."""
    repo = model.meta.get("repo")
    if repo:
        return f"{repo} at revision {model.runtime.get('revision', 'unknown')}"
    name = (
        model.meta.get("base") or model.meta.get("name") or model.meta.get("file") or model.format
    )
    return f"{name}, {model.digest[:12] or model.path}"


def _listed(chat: Chat) -> str:
    return ", ".join(f"{k}: {v!r}" for k, v in chat.arguments.items()) or "none"


def _vocabulary(tokenizer: "PreTrainedTokenizerBase") -> Sequence[Any]:
    return sorted(tokenizer.get_vocab().items())
