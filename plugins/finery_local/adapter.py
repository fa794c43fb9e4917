"""Checks that an adapter fits its base model.

No weights are loaded: names come from `adapter_config.json`, shapes from the headers of the files.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from finery import DataError, Model
from finery.advanced import shown
from finery.rows.templates.limits import LimitExceeded, apply_limits
from finery_local.facts import ADAPTER_CONFIG, ModelFiles
from finery_local.files import AdapterConfig
from finery_local.safetensors_file import shapes, tensors_of

_COPIES = re.compile(r"(-unsloth)?(-bnb-4bit)?$")
"""Suffixes of the names of 4-bit copies of a model."""
_BLOCK = re.compile(r".*?\.\d+\.")
_MATRIX = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")

Shapes = Mapping[str, list[int]]


def check_names(trained_on: str | None, base: Model, where: Path) -> None:
    """`DataError` where an adapter names a repository other than its base's.

    A copy of the model under another owner's name counts as the same model. trained_on: from the
    adapter's configuration. A path in it is ignored, since it belongs to another machine.
    """
    repo = ModelFiles(base).root.meta.get("repo")
    if repo is None or re.fullmatch(r"[\w.-]+/[\w.-]+", trained_on or "") is None:
        return
    if _model_name(str(trained_on)) != _model_name(str(repo)):
        raise _another_base(f"'{trained_on}'", f"'{repo}'", where)


def check_shapes(adapter: Path, trained_on: str | None, base: Model) -> None:
    """`DataError` where an adapter's matrices don't fit the layers of its base model.

    Checks only Hugging Face folders whose weights aren't quantised: the shapes of other models are
    unknown or packed.
    """
    under = ModelFiles(base).root
    if under.format != "transformers" or under.meta.get("quantization"):
        return
    if misfit := _misfit(shapes(adapter), tensors_of(under)):
        trained = f"'{trained_on}'" if trained_on else "another model"
        named = under.meta.get("repo") or shown(under.file("config.json").parent)
        raise _another_base(trained, f"'{named}'", adapter.parent, misfit)


def check_ranks(adapter: Path, config: AdapterConfig) -> None:
    """`DataError` where PEFT would allocate larger matrices than the adapter's file holds."""
    largest = max((size for shape in shapes(adapter).values() for size in shape), default=0)
    ranks = [config.r or 0, *(config.rank_pattern or {}).values()]
    if max(ranks) > largest:
        raise DataError(
            f"{adapter.parent.name}/adapter_config.json sets the rank {max(ranks):,}, but no "
            f"matrix of the adapter is larger than {largest:,}",
            where=str(adapter.parent / ADAPTER_CONFIG),
            fix="copy or download the adapter again",
        )


def check_patterns(adapter: Path, config: AdapterConfig, base: Model) -> None:
    """`DataError` for a regular expression with which PEFT would search for hours.

    It is tried on the names of the adapter's layers, and on those of the base if it has a header.
    """
    layers = {m[1] for name in shapes(adapter) if (m := _MATRIX.fullmatch(name))}
    names = layers | {name.rpartition(".")[0] for name in tensors_of(ModelFiles(base).root)}
    where = str(adapter.parent / ADAPTER_CONFIG)
    for text in config.patterns():
        try:
            with apply_limits():
                pattern = re.compile(rf"(.*\.)?({text})")
                for name in names:
                    pattern.fullmatch(name)
        except (re.error, RecursionError, OverflowError) as error:
            what = f"adapter_config.json: {text!r:.80} isn't a regular expression: {error}"
            raise DataError(what, where=where, fix="correct it, or list layers' names") from error
        except LimitExceeded as error:
            what = f"adapter_config.json: the regular expression {text!r:.80} {error}"
            raise DataError(what, where=where, fix="list layers' names instead") from error


def _misfit(adapter: Shapes, layers: Shapes) -> str:
    """The mismatches; empty if there are none, or if the layers have different names."""
    blocks = {block[0] for name in layers if (block := _BLOCK.match(name))}
    matrices = {m: s for n, s in adapter.items() if (m := _MATRIX.fullmatch(n)) and len(s) == 2}
    if not any(f"{matrix[1]}.weight" in layers for matrix in matrices):
        return ""
    for matrix, shape in matrices.items():
        layer = layers.get(f"{matrix[1]}.weight")
        size, ways = (shape[1], "in") if matrix[2] == "A" else (shape[0], "out")
        # GPT-2 stores its matrices transposed.
        if layer is not None and size not in layer:
            return f"{matrix[1]} has the shape {layer}, but the adapter has {size} features {ways}"
        block = _BLOCK.match(matrix[1])
        if block is not None and block[0] not in blocks:
            return f"the adapter is for {matrix[1]}, but the model has fewer layers"
    return ""


def _another_base(trained: str, named: str, where: Path, misfit: str = "") -> DataError:
    return DataError(
        f"the adapter was trained on {trained}, but base is another model: {named}",
        where=str(where),
        details=[misfit] if misfit else [],
        fix="set base to a step with the model that the adapter was trained on",
    )


def _model_name(repo: str) -> str:
    return _COPIES.sub("", repo.rpartition("/")[2].lower())
