"""The chat template of a model: its own or a replacement, its arguments, and how it gets tools."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

import msgspec
from blake3 import blake3

from finery import DataError, File, Key, Look, Model, Step, StepError, UsageError, setting
from finery.advanced import did_you_mean

TEMPLATE_FILE = "chat_template.jinja"
OTHER_TEMPLATES = ("chat_template.json", "additional_chat_templates/")
"""Further places of templates in a folder, after `TEMPLATE_FILE` and the tokenizer's settings."""
LARGEST = 2**20
"""Bytes of a chat template; the largest known has some 20,000."""
RESERVED = frozenset(
    {"conversation", "messages", "tools", "tokenize", "return_tensors", "return_dict", "padding",
     "truncation", "max_length", "chat_template", "add_generation_prompt",
     "continue_final_message", "return_assistant_tokens_mask", "tokenizer_kwargs"}
)  # fmt: skip
"""Arguments of `apply_chat_template` that hold the conversation or change what it returns."""


class TemplateStep(Step):
    """Base of step types that take a model as it is: the settings of its chat template."""

    chat_template: File | None = setting(
        None,
        may_be="name",
        help="Another chat template than the model's own: a file beside the recipe, e.g. "
        "`./chat.jinja`, or the name of one in the trl package, e.g. `llama3_1`.",
    )
    chat_template_kwargs: dict[str, Any] = setting(
        {},
        help="Arguments passed to the chat template in training and inference, e.g. "
        "`{enable_thinking: false}` for Qwen3. `gguf.export` writes them into the template.",
    )
    tools_as: Literal["template", "text", "signatures"] = setting(
        "template",
        help="How the model gets the tools of a row. `template`: as its chat template writes them. "
        "`text`: listed in the system message, with calls as JSON in the text, for a template that "
        "knows no tools. `signatures`: like `text`, but a tool is a line such as `move(number: "
        "string, days?: integer): Move a parcel.`, with about half the tokens of its JSON. The "
        "template is wrapped, so trainings, engines and exports do the same.",
    )

    def check(self) -> None:
        """Raise `UsageError` for chat template arguments that can't be set."""
        for name in self.chat_template_kwargs:
            where = f"chat_template_kwargs.{name}"
            if name in RESERVED:
                raise UsageError(
                    f"chat_template_kwargs: finery sets '{name}' itself",
                    where=where, fix="remove it",
                )  # fmt: skip
            if not name.isidentifier():
                raise UsageError(
                    f"chat_template_kwargs: '{name}' can't be the name of an argument",
                    where=where, fix="write letters, digits and _ only",
                )  # fmt: skip

    def examine(self, look: Look) -> None:
        """Raise `UsageError` for the name of a chat template that the trl package doesn't have.

        Nothing is known where the package isn't installed.
        """
        self._check_name()

    def _check_name(self) -> None:
        given = self.chat_template
        templates = _templates() if given is not None and given.name else None
        if given is not None and templates is not None and given.name not in templates:
            raise UsageError(
                f"the trl package has no chat template '{given.name}', and there is no such file",
                where="chat_template",
                fix=did_you_mean(given.name, templates)
                or f"name a file, or one of: "
                f"{', '.join(t for t in templates if 'training' not in t)}",
            )

    def cache_key(self) -> Key:
        """Also the package that a template named in the recipe comes from."""
        named = self.chat_template is not None and self.chat_template.name
        return super().cache_key() | Key(packages=("trl",) if named else ())

    def about(self) -> dict[str, Any]:
        """What `Model.meta` says about the settings; nothing about defaults."""
        tools_as = self.tools_as if self.tools_as != "template" else ""
        facts = {"chat_template_kwargs": dict(self.chat_template_kwargs), "tools_as": tools_as}
        return {name: fact for name, fact in facts.items() if fact}

    def with_template(self, model: Model) -> Model:
        """The model with the given chat template instead of its own; without one, as it is.

        The template is a file of the model's folder, which transformers and the engine for GGUFs
        read.
        """
        given = self.chat_template
        if given is None:
            return model
        self._check_name()
        text = _named(given.name) if given.name else _read(given.path)
        file = model.path / TEMPLATE_FILE
        file.unlink(missing_ok=True)  # the preflight links the model's own
        file.write_text(text, encoding="utf-8")
        meta = {**model.meta, "chat_template": True, "chat_template_digest": digest_of(text)}
        if "files" in meta:
            meta["files"] = {n: file for n, file in meta["files"].items() if not _hidden(n)}
        external = {name: path for name, path in model.external.items() if not _hidden(name)}
        return Model(
            model.path, meta=meta, refs=model.refs, external=external, runtime=model.runtime
        )


def digest_of(template: Any) -> str:
    """The digest of a chat template: of its text, or of the JSON of several with names."""
    text = template if isinstance(template, str) else msgspec.json.encode(template).decode()
    return blake3(text.encode()).hexdigest()


def _hidden(name: str) -> bool:
    return name == TEMPLATE_FILE or name.startswith(OTHER_TEMPLATES)


def _read(path: Path) -> str:
    """The text of a template's file. `DataError` if it can't be one."""
    content = path.read_bytes()
    if len(content) > LARGEST:
        raise DataError(
            f"a chat template has at most {LARGEST:,} bytes, but this file {len(content):,}",
            where=str(path), fix="name a file with a Jinja template",
        )  # fmt: skip
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the chat template is not UTF-8 text: {error}", where=str(path),
            fix="name a file with a Jinja template",
        ) from error  # fmt: skip
    if not text.strip():
        raise DataError(
            "the chat template is empty", where=str(path), fix="name a file with a Jinja template"
        )
    return text


def _named(name: str) -> str:
    """The text of a template in the trl package."""
    templates = _templates()
    if templates is None:
        raise StepError(
            f"chat_template: {name} is a template of the trl package, which isn't installed",
            fix="pip install 'finery[train]', or name a file",
        )
    return _read(templates[name])


def _templates() -> dict[str, Path] | None:
    """The templates in the trl package by name; None if it isn't installed."""
    spec = importlib.util.find_spec("trl")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "chat_templates"
    return {path.stem: path for path in sorted(folder.glob("*.jinja"))}
