"""A copy of a trained model, completed for use on another machine.

The output in the store holds nothing of the machine that it was trained on. A copy that someone
loads with PEFT must name the base: its repository with the commit, or its folder.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finery import Model
from finery.views import Output
from finery_trl.train.saving.card import README, Base, base_in, card

ADAPTER_CONFIG = "adapter_config.json"


def complete(output: Output, folder: Path, refs: Mapping[str, Path]) -> Iterator[str]:
    """Name the base of an adapter in its copy in `folder`; yield what the user should know.

    refs: role → the copy of an artifact that the adapter refers to, if that was copied, too.
    """
    base = output.artifact.refs.get("base")
    path = folder / ADAPTER_CONFIG
    if not isinstance(base, Model) or not path.is_file():
        return
    known = _base(base, refs.get("base"))
    config = json.loads(path.read_text(encoding="utf-8"))
    if known.source:
        config["base_model_name_or_path"] = known.source
        config["revision"] = known.revision or None
        path.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    meta: Mapping[str, Any] = output.manifest.meta
    if "best_step" in meta:  # trained here, so the card is finery's
        text = card(output.title, meta, config, known)
        (folder / README).write_text(text, encoding="utf-8")
    yield _advice(known, base, config)


def _base(base: Model, copied: Path | None) -> Base:
    known = base_in(base.meta)
    if copied is not None:
        return Base(source=str(copied.absolute()), file=known.file)
    if known.on_hub:
        return known._replace(revision=str(base.runtime.get("revision", "")))
    if base.external:  # a folder of the user's, or a file in one
        name = known.file or "config.json"
        return Base(source=str(base.file(name).absolute().parent), file=known.file)
    return known


def _advice(known: Base, base: Model, config: Mapping[str, Any]) -> str:
    if known.on_hub:
        at = f" at {known.revision[:12]}" if known.revision else ""
        return f"base: {known.source}{at}, from the Hub"
    if known.source:
        return (
            f"base: {known.source}, a folder of this machine. On another one, pass the base's "
            "folder to PEFT (see README.md)"
        )
    what = f"the file {known.file}" if known.file else "the base"
    return f"the adapter works with {what} only: add --with-base to copy it along"
