"""Completes the copies of adapters that `finery export` makes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from finery import Model
from finery_transformers.card import Base, card

ADAPTER_CONFIG = "adapter_config.json"


def complete(title: str, adapter: Model, folder: Path, refs: Mapping[str, Path]) -> Iterator[str]:
    """Name the base of an adapter in its copy in `folder`; yield what the user should know.

    The output in the store holds nothing of the machine that it was trained on. A copy that someone
    loads with PEFT must name the base: its repository with the commit, or its folder.

    refs: role → the copy of an artifact that the adapter refers to, if that was copied, too.
    """
    base = adapter.refs.get("base")
    path = folder / ADAPTER_CONFIG
    if not isinstance(base, Model) or not path.is_file():
        return
    under = _base(base, refs.get("base"))
    config = json.loads(path.read_text(encoding="utf-8"))
    if under.source:
        config["base_model_name_or_path"] = under.source
        config["revision"] = under.revision or None
        path.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if "best_step" in adapter.meta:  # trained here, so the card is finery's
        text = card(title, adapter.meta, config, under)
        (folder / "README.md").write_text(text, encoding="utf-8")
    yield _advice(under)


def _base(base: Model, copied: Path | None) -> Base:
    under = Base.stated_in(base.meta)
    if copied is not None:
        return Base(source=str(copied.absolute()), file=under.file)
    if under.on_hub:
        return under._replace(revision=str(base.runtime.get("revision", "")))
    if base.external:  # a folder of the user's, or a file in one
        name = under.file or "config.json"
        return Base(source=str(base.file(name).absolute().parent), file=under.file)
    return under


def _advice(under: Base) -> str:
    if under.on_hub:
        at = f" at {under.revision[:12]}" if under.revision else ""
        return f"base: {under.source}{at}, from the Hub"
    if under.source:
        return (
            f"base: {under.source}, a folder of this machine. On another one, pass the base's "
            "folder to PEFT (see README.md)"
        )
    needed = f"the file {under.file}" if under.file else "the base"
    return f"the adapter works with {needed} only: add --with-base to copy it along"
