"""A Hugging Face folder or a PEFT adapter's folder as a `Model`.

Only this module decides which files of a folder make up the model, what is refused and what `meta`
says, whether the folder is on a disk or in the hub's cache.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from finery import DataError, Job, Model, Promise, Rehearsal, setting, takes
from finery_local.adapter import check_names, check_patterns, check_ranks, check_shapes
from finery_local.facts import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finery_local.files import (
    AdapterConfig,
    Config,
    check_links,
    identities,
    read_as,
    read_index,
    read_object,
    walk,
)
from finery_local.gguf_file import LONGEST_LICENSE
from finery_local.safetensors_file import elements_by_dtype, shapes
from finery_local.small import small_model
from finery_local.template import TEMPLATE_FILE, TemplateStep, digest_of

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHT_FILES = frozenset({WEIGHTS, INDEX, ADAPTER_WEIGHTS})
README = "README.md"
LONGEST_CARD = 2**20
"""Bytes of a model card that are read, for its front matter."""
# The files that transformers and peft load. Not `*.safetensors`: besides the sharded weights, many
# repositories hold a second copy for other programs (consolidated.safetensors, onnx/, original/).
LOADED = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    INDEX,
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "sentencepiece*.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "preprocessor_config.json",
    "processor_config.json",
)
CODE = ("*.py",)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
"""Files that can run code when loaded; never part of a model here."""

HEAVY = (*PICKLED, "*.safetensors", "*.gguf", "*.onnx", "*.h5", "*.msgpack")
"""Weights of any program, which `Folder.sketch` leaves out."""

CONFIGURATION = frozenset(
    {"config.json", "generation_config.json", "tokenizer_config.json", "preprocessor_config.json",
     "processor_config.json", "image_processor_config.json", "video_preprocessor_config.json",
     "feature_extractor_config.json", ADAPTER_CONFIG, "chat_template.json"}
)  # fmt: skip
"""Files in which transformers looks for the names of classes to load."""

T = TypeVar("T")


class Folder(msgspec.Struct, frozen=True):
    """Files that may be a model: `names`, relative to `root`; errors call it `title`."""

    root: Path
    names: frozenset[str]
    title: str

    def json(self, name: str) -> dict[str, Any]:
        """The JSON object in file `name`; empty if the file doesn't exist."""
        return read_object(self.root / name) if name in self.names else {}

    def read(self, name: str, kind: type[T]) -> T:
        """The content of the JSON file `name` that finery uses; defaults if it doesn't exist."""
        return read_as(self.root / name, kind) if name in self.names else kind()

    def matching(self, wanted: Iterable[str]) -> list[str]:
        """The names that match a pattern, in order; `*` spans `/`, as in the hub's library."""
        return sorted(n for n in self.names if any(fnmatchcase(n, pattern) for pattern in wanted))

    @property
    def is_adapter(self) -> bool:
        """Whether these are the files of a PEFT adapter."""
        return ADAPTER_CONFIG in self.names

    @property
    def is_model(self) -> bool:
        """Whether these are the files of a model or an adapter, with or without weights."""
        return self.is_adapter or "config.json" in self.names

    def chat_template(self) -> Any:
        """The folder's own chat template, or the list of its templates; None if it has none."""
        if TEMPLATE_FILE in self.names:
            return (self.root / TEMPLATE_FILE).read_text(encoding="utf-8", errors="replace")
        for name in ("chat_template.json", "tokenizer_config.json"):
            if template := self.json(name).get("chat_template"):
                return template
        return None

    def model(
        self,
        job: Job,
        *,
        base: Model | None = None,
        trust_remote_code: bool = False,
        wanted: Sequence[str] = LOADED,
        about: Mapping[str, Any] = {},
        follow_links: bool = False,
    ) -> Model:
        """The `Model` in the folder; its files stay in place and `meta["files"]` identifies them.

        wanted: patterns of the model's files. about: more facts for `meta`. follow_links: also take
        files outside the folder, through links. Raises `DataError` when the folder holds no model,
        an incomplete one, only pickled weights, or untrusted code, when an adapter has no `base`,
        and when a whole model has one.
        """
        wanted = [*wanted, README, *WEIGHT_FILES]
        check_links(self.root, self.matching(wanted), follow=follow_links)
        weights = _weights(self)
        check_links(self.root, weights, follow=follow_links)
        if not self.is_model:
            raise _no_model(self)
        _check_code(self, trust_remote_code)
        _check_base(self, base)
        names = _belonging(self, weights, wanted, job)
        files = {name: (self.root / name).absolute() for name in names}
        facts = _facts(self, weights, base, job)
        meta = {**about, **facts, "trust_remote_code": trust_remote_code}
        meta["files"] = identities(files, job)
        return Model(job.out, meta=meta, refs={"base": base} if base else {}, external=files)

    def sketch(
        self, out: Path, *, base: Model | None, trust_remote_code: bool, about: Mapping[str, Any]
    ) -> Model:
        """The `Model` in the folder without its weights, which may be missing.

        Enough for its tokenizer, chat template and configuration. out: an empty folder for links.
        Refuses what `model` refuses, except for weights.
        """
        light = self.light(base, trust_remote_code=trust_remote_code)
        files = {name: (self.root / name).absolute() for name in sorted(light.names)}
        for name, path in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).symlink_to(path)
        known = "adapter" if self.is_adapter else "transformers"
        meta = {**about, "format": known, "trust_remote_code": trust_remote_code}
        return Model(out, meta=meta, refs={"base": base} if base else {}, external=files)

    def light(
        self, base: Model | None, *, trust_remote_code: bool, follow: bool = False
    ) -> "Folder":
        """The files besides weights, which may be missing. Refuses what `model` refuses of them."""
        if not self.is_model:
            raise _no_model(self)
        light = Folder(self.root, self.names.difference(self.matching(HEAVY)), self.title)
        check_links(self.root, light.names, follow=follow)
        _check_code(light, trust_remote_code)
        _check_base(light, base)
        return light

    def no_weights(self) -> DataError:
        """The error for a folder without weights that finery loads."""
        pickled = [n for n in self.matching(PICKLED) if "training_args" not in n]
        expected = ADAPTER_WEIGHTS if self.is_adapter else f"{WEIGHTS} or {INDEX}"
        what, fix = f"{self.title} has no {expected}", None
        if pickled:
            what = (
                f"{self.title} has only pickled weights ({_some(pickled)}), and loading a pickle "
                "can run any code in it"
            )
            fix = (
                "if you trust their source, convert them to safetensors once: call "
                "from_pretrained(…).save_pretrained(folder) for model and tokenizer, and name "
                "that folder"
            )
        elif gguf := sorted(n for n in self.names if n.endswith(".gguf")):
            fix = f"name one of its GGUF files: {_some(gguf, 8)}"
        elif others := sorted(n for n in self.names if n.endswith(".safetensors")):
            what += f"; it has {_some(others)}"
        return DataError(what, where=str(self.root), fix=fix)


class FolderStep(TemplateStep):
    """Base of step types that take a model, or an adapter, from a folder."""

    base: Model | None = takes(None, help="The base model, if this is an adapter.")
    trust_remote_code: bool = setting(
        False, help="Also take the model's own Python code, which runs when the model is loaded."
    )

    def outputs(self) -> dict[str, Promise]:
        """The model, with the format `adapter` if it has a base."""
        return {"": Promise(Model, {} if self.base is None else {"format": "adapter"})}

    def light_files(self, job: Job) -> Folder | Path:
        """The files of the model without its weights, or a GGUF file, for `rehearsal`."""
        raise NotImplementedError

    def rehearsal(self) -> Rehearsal:
        """A small model of the same kind, whose weights may be missing."""
        return Rehearsal(small=partial(small_model, self))

    def patterns(self) -> Sequence[str]:
        """Patterns of the files that make up a model; its own code only if that is trusted."""
        return LOADED + CODE if self.trust_remote_code else LOADED


def _weights(folder: Folder) -> list[str]:
    """The weight files that transformers and peft would load."""
    if folder.is_adapter or WEIGHTS in folder.names:
        name = ADAPTER_WEIGHTS if folder.is_adapter else WEIGHTS
        if name not in folder.names:
            raise folder.no_weights()
        return [name]
    if INDEX not in folder.names:
        if "config.json" not in folder.names:
            raise _no_model(folder)
        raise folder.no_weights()
    places = read_index(folder.root / INDEX).weight_map
    shards = sorted(set(places.values()))
    if strange := [shard for shard in shards if not _is_inside(shard)]:
        raise DataError(
            f"{INDEX} names files that can't be weights of this model: {_some(strange)}",
            where=str(folder.root / INDEX),
            fix="copy or download the folder again: weights are .safetensors files inside it",
        )
    missing = [shard for shard in shards if shard not in folder.names]
    if missing or not shards:
        raise DataError(
            f"{folder.title} is incomplete: {INDEX} names {len(shards)} files, "
            f"and {len(missing)} of them are missing ({_some(missing)})",
            where=str(folder.root),
            fix="copy or download the folder again",
        )
    _check_tensors(folder, places)
    return shards


def _is_inside(shard: str) -> bool:
    path = PurePosixPath(shard)
    return path.suffix == ".safetensors" and not path.is_absolute() and ".." not in path.parts


def _check_tensors(folder: Folder, places: Mapping[str, str]) -> None:
    """Raise `DataError` for a tensor that isn't in its file: it would be random when loaded."""
    held = {shard: shapes(folder.root / shard).keys() for shard in set(places.values())}
    if missing := sorted(name for name, shard in places.items() if name not in held[shard]):
        raise DataError(
            f"{INDEX} names {len(missing):,} tensors that aren't in their files: {_some(missing)}",
            where=str(folder.root / INDEX),
            fix="copy or download the folder again",
        )


def _no_model(folder: Folder) -> DataError:
    below = sorted(n for n in folder.names if n.endswith(("/config.json", "/" + ADAPTER_CONFIG)))
    below += sorted(n for n in folder.names if n.endswith(".gguf"))
    near = [n if n.endswith(".gguf") else n.rpartition("/")[0] for n in below]
    fix = f"did you mean {_some([str(folder.root / n) for n in near])}?" if near else None
    return DataError(
        f"{folder.title} is not a model folder: it has neither config.json nor {ADAPTER_CONFIG}",
        where=str(folder.root),
        fix=fix or "name a Hugging Face folder, or a .gguf file",
    )


def _check_code(folder: Folder, trusted: bool) -> None:
    """Refuse a model with its own code, unless that is trusted and in the folder."""
    for name in sorted(folder.names & CONFIGURATION):
        objects = (part for part in walk(folder.json(name)) if isinstance(part, dict))
        own_code = [part["auto_map"] for part in objects if "auto_map" in part]
        classes = [text for code in own_code for text in _texts(code)]
        if classes and not trusted:
            raise DataError(
                f"{folder.title} brings its own code ({_some(classes)}), which would run with your "
                "permissions when the model is loaded",
                where=str(folder.root / name),
                fix="read the code; if you trust it, set trust_remote_code: true",
            )
        if elsewhere := [c for c in classes if "--" in c]:
            raise DataError(
                f"{folder.title} loads code from another repository ({_some(elsewhere)}), which "
                "isn't pinned",
                where=str(folder.root / name),
                fix=f"copy that code into the folder and name it without 'repository--' in {name}",
            )


def _texts(value: Any) -> list[str]:
    """All texts in a nest of lists and objects, in order."""
    return [part for part in walk(value) if isinstance(part, str)]


def _check_base(folder: Folder, base: Model | None) -> None:
    if not folder.is_adapter:
        if base is not None:
            raise DataError(
                f"{folder.title} is a complete model, so it takes no base", fix="remove base"
            )
        return
    config = folder.read(ADAPTER_CONFIG, AdapterConfig)
    trained_on = config.base_model_name_or_path
    if base is None:
        raise DataError(
            f"{folder.title} is an adapter, so it needs its base model",
            where=str(folder.root),
            fix=f"set base to a step with the model it was trained on: {trained_on or 'not named'}",
        )
    if base.format in ("api", "prompted"):
        raise DataError(
            f"an adapter's base needs weights, but a model of format '{base.format}' has none",
            fix=f"set base to the model it was trained on: {trained_on or 'not named'}",
        )
    check_names(trained_on, base, folder.root)
    if ADAPTER_WEIGHTS in folder.names:
        check_shapes(folder.root / ADAPTER_WEIGHTS, trained_on, base)
        check_ranks(folder.root / ADAPTER_WEIGHTS, config)
        check_patterns(folder.root / ADAPTER_WEIGHTS, config, base)


def _belonging(folder: Folder, weights: list[str], wanted: Sequence[str], job: Job) -> list[str]:
    """Names of the model's files: the weights that are loaded, and the other wanted files."""
    rest = [n for n in folder.matching(wanted) if not n.endswith(".safetensors")]
    if weights == [WEIGHTS]:  # an index next to it describes shards that aren't loaded
        rest = [n for n in rest if n != INDEX]
    names = {*weights, *rest} - {*folder.matching(PICKLED), README}
    if left := sorted(folder.names - names - {README}):
        job.log(f"not part of the model: {_some(left, 12)}")
    return sorted(names)


def _facts(folder: Folder, weights: list[str], base: Model | None, job: Job) -> dict[str, Any]:
    """What `Model.meta` says about a folder; unknown facts are left out."""
    config = folder.read("config.json", Config)
    counts: Counter[str] = Counter()
    for name in weights:
        counts.update(elements_by_dtype(folder.root / name))
    under = base.meta if base else {}
    architecture = config.architectures[0] if config.architectures else config.model_type
    template = folder.chat_template()
    quantization = config.quantization_config and config.quantization_config.quant_method
    facts = {
        "format": "adapter" if folder.is_adapter else "transformers",
        "architecture": under.get("architecture") if folder.is_adapter else architecture,
        "peft": folder.read(ADAPTER_CONFIG, AdapterConfig).peft_type,
        "quantization": quantization,
        # Quantised weights are packed, several to an element, so elements don't count them.
        "parameters": None if quantization else counts.total(),
        "dtype": max(counts, key=lambda dtype: counts[dtype]) if counts else None,
        "chat_template": template is not None or bool(under.get("chat_template")),
        "chat_template_digest": None if template is None else digest_of(template),
        "license": _license(folder, job),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _license(folder: Folder, job: Job) -> str | None:
    """The licence that the model card's front matter names (https://hf.co/docs/hub/model-cards)."""
    if README not in folder.names:
        return None
    with (folder.root / README).open("rb") as file:
        lines = file.read(LONGEST_CARD).decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in lines[1:]:
        return None
    import yaml

    text = "\n".join(lines[1 : lines.index("---", 1)])
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it has aliases")  # nine of nine of nine … take all memory
        front = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        job.log(f"{README}: the front matter can't be read, so the licence is unknown: {error}")
        return None
    card = front if isinstance(front, dict) else {}
    named = card.get("license_name") if card.get("license") == "other" else card.get("license")
    return " ".join(", ".join(_texts(named)).split())[:LONGEST_LICENSE] or None


def _some(names: Sequence[str], most: int = 4) -> str:
    """The first few of `names`, and how many more there are."""
    rest = len(names) - most
    first = [name if len(name) <= 100 else f"{name[:97]}…" for name in names[:most]]
    return ", ".join(first) + (f" and {rest:,} more" if rest > 0 else "")
