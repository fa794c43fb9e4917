"""The basis of estimates: the sizes of a model and the memory of a machine, without torch."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from finery import DataError, Model, UsageError
from finery.advanced import named_gpus
from finery_local.facts import ModelFiles
from finery_local.gguf_file import Array, read_header
from finery_transformers.precision import Unused, auto_dtype, unused_gpu, usable_gpus
from finery_trl.estimate.memory import Architecture

REQUEST_SECONDS = 1.0
"""Timeout for connections to the hub and for its answers while planning."""
LARGEST = 2**24
"""Of any size of a model: layers, heads, features, tokens of the vocabulary."""
TIED = frozenset(
    {
        "cohere", "cohere2", "ernie4_5", "gemma", "gemma2", "gemma3_text", "gemma3n_text",
        "gemma4_text", "lfm2", "minicpm3", "smollm3", "starcoder2", "vaultgemma",
    }
)  # fmt: skip
"""Model types whose output matrix is the embedding unless config.json says otherwise."""


class UnknownSize(Exception):
    """The sizes of a model are unknown. The message is the reason, as the end of a sentence."""


def of_artifact(model: Model) -> Architecture:
    """The sizes of a built model. Raises `UnknownSize`."""
    under = model.refs.get({"adapter": "base", "prompted": "model"}.get(model.format, ""))
    if isinstance(under, Model):
        return of_artifact(under)
    if model.format == "gguf":
        return of_gguf(model.file(str(model.meta["file"])))
    config = ModelFiles(model).text_config
    if not config:
        raise UnknownSize("its model has no config.json")
    return of_config(config, model.meta.get("parameters"))


def of_hub(repo: str, revision: str) -> Architecture:
    """The sizes of a model on the hub, by one request for its config.json.

    Raises `UnknownSize` if the hub can't be reached or the model has no config.json.
    """
    config = _hub_config(repo, revision)
    if isinstance(config, str):
        raise UnknownSize(config)
    if not isinstance(config, dict):
        raise UnknownSize(f"the config.json of {repo} is not an object")
    return of_config(config)


@lru_cache(maxsize=64)
def _hub_config(repo: str, revision: str) -> Any:
    """The config.json of a model on the hub, or as text the reason why it can't be read.

    Cached, since the trainings of a plan often share their base.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        return "the package huggingface-hub isn't installed"
    cached = hub.try_to_load_from_cache(repo, "config.json", revision=revision)
    if isinstance(cached, str):
        return json.loads(Path(cached).read_bytes())
    if hub.constants.HF_HUB_OFFLINE:
        return f"the config.json of {repo} isn't in the hub's cache, and HF_HUB_OFFLINE is set"
    # Not `hf_hub_download`, which tries for half a minute if there is no network.
    url = hub.hf_hub_url(repo, "config.json", revision=revision)
    token = hub.get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = hub.get_session().get(
            url, headers=headers, timeout=REQUEST_SECONDS, follow_redirects=True
        )
        answer.raise_for_status()
        return answer.json()
    except Exception as error:  # a plan needs no network, so every error is reported as the reason
        return f"the config.json of {repo} can't be read from the hub ({_first(error)})"


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:80] or type(error).__name__


def of_config(config: Mapping[str, Any], parameters: float | None = None) -> Architecture:
    """The sizes in a config.json. Raises `UnknownSize` for anything but a decoder with gated MLPs.

    parameters: of the whole model, if known; decides whether the output matrix is tied.
    """
    config = config.get("text_config") or config
    if not isinstance(config, Mapping):
        raise UnknownSize("the text_config of its model is not an object")
    if any(config.get(name) for name in ("num_local_experts", "num_experts", "n_routed_experts")):
        raise UnknownSize("its model is a mixture of experts")

    def size(name: str, default: int | None = None) -> int:
        value = config.get(name)
        if value is None and default is None:
            raise UnknownSize(f"the config.json of its model has no {name!r}")
        return _checked(default if value is None else value, f"{name} in its config.json")

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    sizes = Architecture(
        layers=size("num_hidden_layers"),
        hidden=hidden,
        intermediate=size("intermediate_size"),
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_size=size("head_dim", max(1, hidden // heads)),
        vocabulary=size("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", str(config.get("model_type")) in TIED)),
    )
    if parameters is None:
        return sizes
    forms = [sizes._replace(tied=tied) for tied in (True, False)]
    return min(forms, key=lambda form: abs(form.parameters() - parameters))


def _checked(value: Any, name: str) -> int:
    """A size from an untrusted file. Raises `UnknownSize` unless it is a plausible integer."""
    if isinstance(value, int) and 0 < value <= LARGEST:
        return value
    raise UnknownSize(f"{name} is not a whole number from 1 to {LARGEST:,}")


def of_gguf(path: Path) -> Architecture:
    """The sizes in a GGUF's header. Raises `UnknownSize`."""
    try:
        header = read_header(path)
    except (OSError, DataError) as error:
        raise UnknownSize(f"the header of {path.name} can't be read ({_first(error)})") from None
    values = header.values
    name = values.get("general.architecture")
    if values.get(f"{name}.expert_count"):
        raise UnknownSize("its model is a mixture of experts")

    def size(key: str, default: int | None = None) -> int:
        value = values.get(f"{name}.{key}", default)
        if isinstance(value, Array):
            raise UnknownSize(f"its model's layers differ ({name}.{key})")
        if value is None:
            raise UnknownSize(f"the header of {path.name} has no {name}.{key}")
        return _checked(value, f"{name}.{key} in the header of {path.name}")

    heads, hidden = size("attention.head_count"), size("embedding_length")
    return Architecture(
        layers=size("block_count"),
        hidden=hidden,
        intermediate=size("feed_forward_length"),
        heads=heads,
        kv_heads=size("attention.head_count_kv", heads),
        head_size=size("attention.key_length", max(1, hidden // heads)),
        vocabulary=values.get("tokenizer.ggml.tokens", Array(0)).length,
        tied="output.weight" not in header.tensors,
    )


class Machine(NamedTuple):
    """The hardware of a training.

    device: `cuda` or `cpu`. memory: its bytes. dtype: of `dtype: auto`. name: of the GPU. used:
    bytes that other programs use. unused: why torch can't use the machine's GPU. share: bytes that
    the step states as its `gpu_memory`.
    """

    device: str
    memory: float
    dtype: str
    name: str = ""
    used: float = 0
    unused: Unused | None = None
    share: float = math.inf

    @property
    def where(self) -> str:
        """The owner of the memory, for messages."""
        return "GPU" if self.device == "cuda" else "machine"

    @property
    def free(self) -> float:
        """Bytes that a training can use."""
        return min(self.memory - self.used, self.share)


def machine(gpus: int = 1, names: Sequence[int | str] = (), share: int = 0) -> Machine:
    """The hardware of a training that uses so many GPUs; the CPU if torch can't use any.

    If GPUs differ, a training gets those with the most free memory, and the last of them decides
    whether it fits. names: its setting `gpus`. share: bytes of its `gpu_memory`, 0 without one.
    """
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    ram = min(float(pages * page), _allowed_bytes())
    usable = usable_gpus()
    if names and usable:
        with suppress(UsageError):  # a note on it says that it doesn't exist
            usable = named_gpus(names)
    most_free = sorted(usable, key=lambda gpu: -gpu.free)[:gpus]
    if not most_free:
        return Machine("cpu", ram, auto_dtype(), unused=unused_gpu())
    gpu = most_free[-1]
    return Machine(
        "cuda", gpu.memory or ram, auto_dtype(), gpu.name, gpu.used, share=share or math.inf
    )


def _allowed_bytes() -> float:
    """The memory limit of the container, infinite without one."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return float(Path("/sys/fs/cgroup", name).read_text())
        except (OSError, ValueError):
            continue
    return float("inf")
